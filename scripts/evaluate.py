"""Judges a pretrained backbone by its frozen features: nearest neighbours and linear probes.

    python scripts/evaluate.py --weights=runs/x
    python scripts/evaluate.py --task=knn --weights=FILE.weights.h5 --data_dir=train --eval_dir=test

Prints accuracies in percent for every endpoint and for the decoupled feature f and its parts f1
and f2, on upright and on randomly rotated test images, beside a random network's. Writes the same
with its protocol as JSON: to --output, or evaluation.json in the run folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from absl import flags
from common import run

FLAGS = flags.FLAGS
flags.DEFINE_list("task", ["knn", "linear"], "What to run: knn, linear.")
flags.DEFINE_string("weights", None, "Run folder, .weights.h5 file, or name of shipped weights.")
flags.DEFINE_string(
    "dataset", None, "Labelled dataset: digits, or a TFDS name. Default: the run folder's."
)
flags.DEFINE_string(
    "data_dir", None, "Folder with one sub-folder a class, to learn from. Default: the run's."
)
flags.DEFINE_string(
    "eval_dir", None, "Folder with the same classes, to judge. Without: a held-out fifth."
)
flags.DEFINE_string("train_split", "train", "Split of --dataset to learn from.")
flags.DEFINE_string("eval_split", "test", "Split of --dataset to judge.")
flags.DEFINE_string("tfds_dir", None, "Where TFDS datasets lie.")
flags.DEFINE_boolean("tfds_download", False, "Let TFDS download the dataset.")
flags.DEFINE_float("max_skipped", 0.01, "Largest fraction of undecodable images.", 0.0, 1.0)
flags.DEFINE_list("endpoints", None, "Endpoints to judge. Default: all of the backbone's.")
flags.DEFINE_integer("k", None, "Neighbours. Default: 200, or a tenth of a smaller train set.", 1)
flags.DEFINE_float("temperature", 0.07, "Of the neighbours' vote: exp(similarity / temperature).")
flags.DEFINE_integer("probe_size", 4, "Side that maps are max-pooled to for linear probes.", 1)
flags.DEFINE_integer("probe_epochs", None, "Epochs of the linear probes. Default: by size.", 1)
flags.DEFINE_integer("batch_size", 256, "Images a step while features are taken.", 1)
flags.DEFINE_integer("max_train_images", None, "Learn from at most so many images.", 1)
flags.DEFINE_integer("seed", 0, "Of the random network, the turns and the probes.", 0)
flags.DEFINE_string("output", None, "JSON file. Default: evaluation.json in the run folder.")


def tasks() -> list:
    from rfd_tf.errors import unknown
    from rfd_tf.evaluation import TASKS

    settings = {
        "knn": {"k": FLAGS.k, "temperature": FLAGS.temperature},
        "linear": {
            "probe_size": FLAGS.probe_size,
            "epochs": FLAGS.probe_epochs,
            "seed": FLAGS.seed,
            "progress": True,
        },
    }
    names = list(dict.fromkeys(FLAGS.task))
    for name in names or [""]:
        if name not in TASKS:
            raise unknown("task", name, TASKS)
    return [TASKS[name](**settings.get(name, {})) for name in names]


def place() -> tuple[Path | None, dict]:
    """The run folder that --weights names, if any, and the data it was trained on."""
    from rfd_tf.errors import UserError

    if not FLAGS.weights:
        raise UserError("give --weights a run folder, a .weights.h5 file or a shipped name")
    folder = Path(FLAGS.weights).expanduser()
    if not folder.is_dir():
        return None, {}
    try:
        return folder, json.loads((folder / "run.json").read_text())["flags"]
    except FileNotFoundError:
        return folder, {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{folder / 'run.json'}' cannot be read: {error!r}") from None


def sources(recorded: dict) -> tuple:
    """Train and test source; the test source is None where a part of train is to be held out."""
    from rfd_tf.data.sources import load
    from rfd_tf.errors import UserError

    given = {name: getattr(FLAGS, name) for name in ("dataset", "data_dir", "eval_dir", "tfds_dir")}
    if not (given["dataset"] or given["data_dir"]):
        # The run's data, of which --eval_dir and --tfds_dir may replace their part.
        given = {name: value or recorded.get(name) for name, value in given.items()}
        if given["data_dir"]:
            given["dataset"] = None
        if not (given["dataset"] or given["data_dir"]):
            raise UserError(
                "evaluation needs labelled images: give --dataset (digits, or a TFDS name) or "
                "--data_dir and --eval_dir"
            )
    if given["dataset"] and given["eval_dir"] and not given["data_dir"]:
        raise UserError("--eval_dir goes with --data_dir; a --dataset is judged on --eval_split")
    common = {
        "tfds_dir": given["tfds_dir"],
        "download": FLAGS.tfds_download,
        "max_skipped": FLAGS.max_skipped,
    }
    dataset = given["dataset"]
    train = load(dataset, given["data_dir"], split=FLAGS.train_split, **common)
    if dataset:
        return train, load(dataset, split=FLAGS.eval_split, **common)
    return train, load(data_dir=given["eval_dir"], **common) if given["eval_dir"] else None


def writable(path: Path) -> None:
    """Finds out now, not after the work, whether the report can be written."""
    from rfd_tf.errors import UserError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        with open(path, "a"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write '{path}': {error.strerror}; choose another --output"
        ) from None


def main() -> None:
    from rfd_tf.evaluation.runner import evaluate, table

    chosen = tasks()
    folder, recorded = place()
    output = Path(FLAGS.output).expanduser() if FLAGS.output else None
    if output is None and folder is not None:
        output = folder / "evaluation.json"
    if output is not None:
        writable(output)
    # A wrong name of weights is told before the images are read.
    from rfd_tf.applications import read_record

    read_record(FLAGS.weights)
    train, test = sources(recorded)
    report = evaluate(
        FLAGS.weights,
        chosen,
        train,
        test,
        endpoints=FLAGS.endpoints or None,
        batch_size=FLAGS.batch_size,
        max_train_images=FLAGS.max_train_images,
        seed=FLAGS.seed,
        progress=True,
    )
    data = report["data"]
    print(f"\nAccuracy in percent on {data['num_test']} test images ({data['test']}), learnt from")
    print(f"{data['num_train']} ({data['train']}). Rotated: {data['rotated']}.")
    if "linear" in report["protocol"]:
        print(f"Linear: after the last of {report['protocol']['linear']['epochs']} epochs.")
    print(f"\n{table(report)}\n")
    if output is not None:
        partial = output.with_name(f".{output.name}.{os.getpid()}")
        partial.write_text(json.dumps(report, indent=2) + "\n")
        os.replace(partial, output)
        print(f"written: {output}")


if __name__ == "__main__":
    run(main)
