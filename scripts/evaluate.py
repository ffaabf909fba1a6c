"""Judges a pretrained backbone by the protocols of the papers, beside a random network.

    python scripts/evaluate.py --weights=runs/x
    python scripts/evaluate.py --task=knn --weights=FILE.weights.h5 --data_dir=train --eval_dir=test
    python scripts/evaluate.py --task=lowshot,finetune --weights=runs/x --per_class=5,20,100
    python scripts/evaluate.py --suite=cifar10 --runs=runs/x,runs/y
    python scripts/evaluate.py --suite=voc --runs=runs/x,runs/y --voc_dir=VOCdevkit/VOC2007

Prints a table, accuracies and precisions in percent, and writes the same with each protocol's
settings as JSON: to --output, or evaluation.json in the run folder. Figures, caches and finished
parts lie beside it, in evaluation_files; the same command again takes up an interrupted
evaluation. README.md has the list of tasks.

A suite judges several runs by the same tasks and writes one comparison: comparison.md, .csv, .png
and .json in the folder --output, or suites/NAME.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import evaluate_flags
from absl import flags
from common import run

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(evaluate_flags)


def tasks() -> list:
    from rfd_tf.errors import unknown
    from rfd_tf.evaluation import TASKS

    names = list(dict.fromkeys(FLAGS.task))
    for name in names or [""]:
        if name not in TASKS:
            raise unknown("task", name, TASKS)
    if FLAGS.voc_tfds:
        unpack_voc()
    return [TASKS[name](**evaluate_flags.options(name)) for name in names]


def unpack_voc() -> None:
    """Writes the TFDS dataset that --voc_tfds names into --voc_dir, unless it is there."""
    from rfd_tf.data import voc_tfds
    from rfd_tf.errors import UserError

    if not FLAGS.voc_dir:
        raise UserError("--voc_tfds needs --voc_dir, the folder to write the pictures to")
    counts = voc_tfds.unpack(FLAGS.voc_tfds, FLAGS.voc_dir, FLAGS.tfds_dir, FLAGS.tfds_download)
    found = ", ".join(f"{split} ({count})" for split, count in sorted(counts.items()))
    print(f"{FLAGS.voc_tfds} in {FLAGS.voc_dir}; splits: {found}")


def place() -> tuple[Path | None, dict]:
    """The run folder that --weights names, if any, and the data it was trained on."""
    from rfd_tf.errors import UserError

    if not FLAGS.weights:
        raise UserError("give --weights a run folder, a .weights.h5 file or a shipped name")
    folder = Path(FLAGS.weights).expanduser()
    if not folder.is_dir():
        return None, {}
    try:
        flags = json.loads((folder / "run.json").read_bytes())["flags"]
        if not isinstance(flags, dict):
            raise ValueError("its flags have no names")
        return folder, flags
    except FileNotFoundError:
        return folder, {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"'{folder / 'run.json'}' cannot be read: {error!r}") from None


def sources(recorded: dict) -> tuple:
    """Train and test source; the test source is None where a part of train is to be held out."""
    from rfd_tf.data.sources import image_list, load
    from rfd_tf.errors import UserError

    if FLAGS.train_list:
        for name in ("dataset", "data_dir", "eval_dir"):
            if FLAGS[name].value:
                raise UserError(f"--train_list goes with --eval_list, not with --{name}")
        lists = [FLAGS.train_list, FLAGS.eval_list]
        return tuple(
            image_list(path, FLAGS.list_root, FLAGS.max_skipped) if path else None for path in lists
        )
    if FLAGS.eval_list:
        raise UserError("--eval_list goes with --train_list")
    given = {name: getattr(FLAGS, name) for name in ("dataset", "data_dir", "eval_dir", "tfds_dir")}
    if not (given["dataset"] or given["data_dir"]):
        # The run's data, of which --eval_dir and --tfds_dir may replace their part.
        given = {name: value or recorded.get(name) for name, value in given.items()}
        if given["data_dir"]:
            given["dataset"] = None
        if not (given["dataset"] or given["data_dir"]):
            raise UserError(
                "evaluation needs labelled images: give --dataset (digits, or a TFDS name), "
                "--data_dir and --eval_dir, or --train_list and --eval_list"
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


def describe(report: dict) -> str:
    """What the table below it holds."""
    lines = ["Accuracies and precisions in percent."]
    data = report["data"]
    if "train" in data:
        lines.append(
            f"{data['num_test']} test images ({data['test']}), learnt from {data['num_train']} "
            f"({data['train']})."
        )
        lines.append(f"Rotated: {data['rotated']}.")
    if any(row["when"] == "best epoch" for row in report["results"]):
        lines.append("Best epoch: the best of all on the test images themselves, so flattering.")
    return "\n".join(lines)


def compare() -> None:
    """Several runs in one table."""
    from rfd_tf.applications import read_record
    from rfd_tf.errors import UserError
    from rfd_tf.evaluation import TASKS, suite, suite_table

    if FLAGS.weights:
        raise UserError("--suite judges --runs, one or several; leave --weights out")
    suite.find(FLAGS.suite)
    if not FLAGS.runs:
        raise UserError("give --runs, one run folder or more, separated by commas")
    for run_folder in FLAGS.runs:
        read_record(run_folder)
    output = Path(FLAGS.output or f"suites/{FLAGS.suite}").expanduser()
    train = test = None
    if suite.find(FLAGS.suite).needs_images:
        train, test = sources(suite.recorded_data(FLAGS.suite, FLAGS.runs))
        for source in (train, test):
            if source is not None:
                print(source.summary())
    elif FLAGS.voc_tfds:
        unpack_voc()
    comparison = suite.run_suite(
        FLAGS.suite,
        FLAGS.runs,
        train,
        test,
        output=output,
        only=FLAGS.task if FLAGS["task"].present else None,
        options={task: evaluate_flags.options(task) for task in TASKS},
        endpoints=FLAGS.endpoints or None,
        batch_size=FLAGS.batch_size,
        max_train_images=FLAGS.max_train_images,
        seed=FLAGS.seed,
        progress=True,
        cache_features=FLAGS.cache_features,
        say=print,
    )
    written = output / "comparison.md"
    print(f"\n{suite_table.markdown(comparison)}\nwritten: {written}, .csv, .png and .json")


def main() -> None:
    from rfd_tf.errors import UserError
    from rfd_tf.evaluation.files import write_json
    from rfd_tf.evaluation.runner import evaluate, table, with_earlier

    if FLAGS.suite:
        compare()
        return
    if FLAGS.runs:
        raise UserError("--runs goes with --suite; one run is judged by --weights")
    chosen = tasks()
    folder, recorded = place()
    output = Path(FLAGS.output).expanduser() if FLAGS.output else None
    if output is None and folder is not None:
        output = folder / "evaluation.json"
    earlier = None
    if output is not None:
        writable(output)
        # The figures of other tasks on the same images stay in the file.
        with contextlib.suppress(OSError, ValueError):
            earlier = json.loads(output.read_bytes())
    # A wrong name of weights is told before the images are read.
    from rfd_tf.applications import read_record

    read_record(FLAGS.weights)
    train = test = None
    if any(task.needs_labels for task in chosen):
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
        output=None if output is None else output.with_name(f"{output.stem}_files"),
        cache_features=FLAGS.cache_features,
        say=print,
    )
    print(f"\n{describe(report)}\n\n{table(report)}\n")
    if output is not None:
        report = with_earlier(report, earlier)
        write_json(output, report)
        print(f"written: {output}")


if __name__ == "__main__":
    run(main)
