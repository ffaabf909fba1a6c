"""Evaluates a pretrained backbone with published protocols, next to a random network.

    rfd-tf evaluate --weights=runs/x
    rfd-tf evaluate --task=knn --weights=FILE.weights.h5 --data=train --val_data=test
    rfd-tf evaluate --task=lowshot,finetune --weights=runs/x --per_class=5,20,100
    rfd-tf evaluate --suite=cifar10 --runs=runs/x,runs/y
    rfd-tf evaluate --suite=voc --runs=runs/x,runs/y --voc_dir=VOCdevkit/VOC2007

Prints a table, accuracies and precisions in percent, and writes the scores with each protocol's
settings as JSON to --output, or to evaluation.json in the run folder. Figures, caches and finished
parts are in evaluation_files next to it; run an interrupted command again to resume it.
docs/guides/evaluate.md describes the tasks.

A suite evaluates several runs with the same tasks and writes one comparison: comparison.md, .csv,
.png and .json in the folder --output, or suites/NAME.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from absl import flags

from rfd_tf.cli import config_flags, data_flags, evaluate_flags
from rfd_tf.cli.common import run

FLAGS = flags.FLAGS
_LIMITS = ("max_skipped", *config_flags.READING, "cache_dir", "cache_gb")
flags.adopt_module_key_flags(evaluate_flags)


def tasks() -> list:
    from rfd_tf.errors import unknown
    from rfd_tf.evaluation import TASKS

    names = list(dict.fromkeys(FLAGS.task))
    for name in names or [""]:
        if name not in TASKS:
            raise unknown("task", name, TASKS)
    evaluate_flags.check_used(names)
    if FLAGS.voc_tfds:
        unpack_voc()
    return [TASKS[name](**evaluate_flags.options(name, names)) for name in names]


def unpack_voc() -> None:
    """Writes the TFDS dataset of --voc_tfds to --voc_dir, unless it exists."""
    from rfd_tf.data import voc_tfds
    from rfd_tf.errors import UserError

    if not FLAGS.voc_dir:
        raise UserError("--voc_tfds needs --voc_dir, the folder to write the pictures to")
    counts = voc_tfds.unpack(FLAGS.voc_tfds, FLAGS.voc_dir, FLAGS.tfds_dir, FLAGS.tfds_download)
    found = ", ".join(f"{split} ({count})" for split, count in sorted(counts.items()))
    print(f"{FLAGS.voc_tfds} in {FLAGS.voc_dir}; splits: {found}")


def place() -> Path | None:
    """Returns the run folder of --weights, or None."""
    from rfd_tf.errors import UserError

    if not FLAGS.weights:
        raise UserError("give --weights a run folder, a .weights.h5 file or a shipped name")
    folder = Path(FLAGS.weights)
    return folder if folder.is_dir() else None


def sources(recorded) -> tuple:
    """Returns the train and test source; the test source is None to hold out a part of train.

    Args:
        recorded: the `RunImages` of the run; flags replace parts of them.
    """
    from rfd_tf.data.sources import image_list
    from rfd_tf.errors import UserError

    if FLAGS.train_list:
        for name in ("dataset", "data_dir", "eval_dir"):
            if FLAGS[name].value:
                raise UserError(f"--train_list goes with --eval_list, not with --{name}")
        lists = [FLAGS.train_list, FLAGS.eval_list]
        images = recorded.replaced(**{name: FLAGS[name].value for name in _LIMITS})
        limits = {name: getattr(images, name) for name in _LIMITS}
        return tuple(
            image_list(path, FLAGS.list_root or FLAGS.data_root, **limits) if path else None
            for path in lists
        )
    if FLAGS.eval_list:
        raise UserError("--eval_list goes with --train_list")
    images = recorded.replaced(**config_flags.images())
    if not (images.dataset or images.data_dir or images.eval_dir):
        raise UserError(
            "evaluation needs labelled images: give --data a folder, a list of files, clothing, "
            "digits or a TFDS name"
        )
    return images.evaluation(FLAGS.tfds_download)


def writable(path: Path) -> None:
    """Checks before the work that the report can be written."""
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
    """Returns the text above the table."""
    lines = ["Accuracies and precisions in percent."]
    data = report["data"]
    if "train" in data:
        lines.append(
            f"{data['num_test']} test images ({data['test']}), trained on {data['num_train']} "
            f"({data['train']})."
        )
        lines.append(f"Rotated: {data['rotated']}.")
        if data.get("trained_on"):
            lines.append(f"Trained on, without labels: {data['trained_on']} of the test images.")
        if data.get("test_in_train"):
            lines.append(
                f"Probes and kNN train on {data['test_in_train']} of the test images, with labels: "
                "their scores are too high."
            )
    if any(row["when"] == "best epoch" for row in report["results"]):
        lines.append("Best epoch: chosen on the test images, so its score is too high.")
    return "\n".join(lines)


def compare() -> None:
    """Evaluates several runs with a suite."""
    from rfd_tf.applications import read_record
    from rfd_tf.errors import UserError
    from rfd_tf.evaluation import TASKS, suite, suite_table

    if FLAGS.weights:
        raise UserError("--suite evaluates --runs, one or several; leave --weights out")
    evaluate_flags.check_used(entry.task for entry in suite.find(FLAGS.suite).entries)
    if not FLAGS.runs:
        raise UserError("give --runs, one run folder or more, separated by commas")
    for run_folder in FLAGS.runs:
        read_record(run_folder)
    places = [Path(run).resolve() for run in FLAGS.runs]
    for place, run_folder in zip(places, FLAGS.runs, strict=True):
        if places.count(place) > 1:
            raise UserError(f"--runs has '{run_folder}' twice; give every run once")
    output = Path(FLAGS.output or f"suites/{FLAGS.suite}")
    train = test = None
    if suite.find(FLAGS.suite).needs_images:
        train, test = sources(suite.recorded_images(FLAGS.suite, FLAGS.runs))
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
    from rfd_tf.evaluation.runner import output_locked

    data_flags.resolve()
    if FLAGS.suite:
        compare()
        return
    if FLAGS.runs:
        raise UserError("--runs goes with --suite; give one run as --weights")
    chosen = tasks()
    folder = place()
    output = Path(FLAGS.output) if FLAGS.output else None
    if output is None and folder is not None:
        output = folder / "evaluation.json"
    if output is not None:
        writable(output)
    with contextlib.nullcontext() if output is None else output_locked(output):
        evaluate_one(chosen, output)


def evaluate_one(chosen: list, output: Path | None) -> None:
    """Evaluates one network with the chosen tasks; writes the report if there is an output."""
    from rfd_tf.applications import read_record
    from rfd_tf.data.run_images import RunImages
    from rfd_tf.evaluation.runner import evaluate, save_report, table

    # A wrong name of weights is reported before the images are read.
    read_record(FLAGS.weights)
    train = test = None
    if any(task.needs_labels for task in chosen):
        train, test = sources(RunImages.of_run(FLAGS.weights))
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
        save_report(report, output, print)
        print(f"written: {output}")


if __name__ == "__main__":
    run(main)
