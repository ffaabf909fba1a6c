"""The flags of rfd-tf evaluate, generated from the constructors of the tasks."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import flags

import rfd_tf
from rfd_tf.cli import config_flags, data_flags, path_flags
from rfd_tf.settings import Setting, signature_settings

FLAGS = flags.FLAGS

_VOC = {
    "voc_dir": "voc_dir", "train_split": "voc_train_split", "test_split": "voc_test_split",
    "test_dir": "voc_test_dir",
}  # fmt: skip
_VOC_TRAINING = {
    name: f"voc_{name}"
    for name in (
        "epochs", "learning_rate", "batch_size", "weight_decay", "test_crops", "evaluate_every",
        "rescale",
    )
}  # fmt: skip
_RATE = {"learning_rate": "finetune_learning_rate", "batch_size": "finetune_batch_size"}
#: Task -> option -> flag, if it is not TASK_OPTION. Options of one flag have the same meaning.
_SHORT: dict[str, dict[str, str]] = {
    "knn": {"k": "k", "temperature": "temperature", "raw_pixels": "raw_pixels"},
    "linear": {
        "protocol": "protocol", "probe_size": "probe_size", "epochs": "probe_epochs",
        "pooling": "probe_pooling", "ten_crops": "ten_crops", "seed": "seed",
    },
    "nonlinear": {"epochs": "probe_epochs", "hidden": "hidden", "endpoints": "endpoints"},
    "lowshot": {"per_class": "per_class", "draws": "draws", "probe_size": "probe_size", **_RATE},
    "semi_supervised": {
        "per_class": "first_per_class", "endpoint": "semi_endpoint", "epochs": "probe_epochs",
        "epoch_images": "epoch_images",
    },
    "retrain": {"weight_decay": "finetune_weight_decay", **_RATE},
    "rotated": {
        "probe_size": "probe_size", "probe_epochs": "probe_epochs", "seed": "seed", **_RATE,
    },
    "rotation": {"fit_images": "fit_images"},
    "invariance": {
        "transformations": "transformations", "reference_weights": "reference_weights",
        "reference_title": "reference_title", "max_images": "invariance_images",
        "bins": "histogram_bins", "jigsaw_grid": "jigsaw_grid", "seed": "seed",
    },
    "retrieval": {
        "k": "precision_at", "queries": "sheet_queries", "neighbours": "sheet_neighbours",
        "sheets": "sheet_features",
    },
    "voc_classification": {
        **_VOC, **_VOC_TRAINING, "protocols": "voc_protocols", "costs": "svm_costs",
    },
    "rotated_voc": {**_VOC, **_VOC_TRAINING},
    "detection": {**_VOC, "image_size": "detection_size"},
    "segmentation": {"voc_dir": "voc_dir", "image_size": "segmentation_size"},
}  # fmt: skip
# Bounds other than at least 1, or 0 for fractions.
_BOUNDS = {
    "fit_images": (2, None),
    "invariance_images": (2, None),
    "jigsaw_grid": (2, None),
    "detection_size": (64, None),
    "segmentation_skips": (0, 2),
}
# Options of the evaluation itself, which some tasks have too.
_SHARED = ("endpoints", "batch_size", "max_train_images", "seed", "cache_features")
_MEMORY = "knn_memory"  # in MiB


@functools.cache
def tasks() -> dict[str, dict[str, Setting]]:
    """Returns the options of each task of `rfd_tf.evaluation.TASKS`, by name of their flag.

    The `name` of a setting is the constructor's argument.
    """
    package = ast.parse((Path(rfd_tf.__file__).parent / "evaluation" / "__init__.py").read_text())
    homes, table = {}, {}
    for node in package.body:
        if isinstance(node, ast.ImportFrom):
            homes.update({alias.name: node.module for alias in node.names})
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "TASKS":
            table = {key.value: ast.unparse(value) for key, value in
                     zip(node.value.keys, node.value.values, strict=True)}  # fmt: skip
    found = {}
    for task, owner in table.items():
        settings = signature_settings(homes[owner].removeprefix("rfd_tf."), owner)
        found[task] = {
            _SHORT.get(task, {}).get(name, f"{task}_{name}"): setting
            for name, setting in settings.items()
            if name != "progress"
        }
    return found


def _define_tasks() -> None:
    takers: dict[str, list[tuple[str, Setting]]] = {}
    for task, options in tasks().items():
        for flag, setting in options.items():
            takers.setdefault(flag, []).append((task, setting))
    for flag, taken in takers.items():
        if flag in _SHARED:
            continue
        setting = taken[0][1]
        alike = all(other.default == setting.default for _, other in taken)
        text, default = setting.help, setting.default if alike else None
        if flag == _MEMORY:
            text, default = text.replace("bytes", "MiB"), default >> 20
        least = {int: 1, float: 0.0}.get(setting.kind)
        config_flags.DEFINE(
            setting,
            flag,
            help=f"for {', '.join(task for task, _ in taken)}: {text}",
            default=default,
            bounds=_BOUNDS.get(flag, (least, None)),
        )


flags.DEFINE_list(
    "task",
    ["knn", "linear"],
    f"Tasks to run, of {', '.join(tasks())}; docs/guides/evaluate.md describes them.",
)
path_flags.DEFINE_path("weights", None, "Run folder, .weights.h5 file, or name of shipped weights.")
flags.DEFINE_string(
    "suite",
    None,
    "Evaluate several --runs with the same tasks and write one table: cifar10, imagenet, "
    "few_labels, retrained, features, voc.",
)
path_flags.DEFINE_path_list(
    "runs", [], "For --suite: run folders, .weights.h5 files or shipped names."
)

# Images.
data_flags.DEFINE_data(
    "data",
    None,
    f"Labelled images to train probes on: {data_flags.FORMS}; sub-folders are classes. Stands for "
    "--data_dir or --dataset. Default: the run's.",
)
data_flags.DEFINE_data(
    "val_data",
    None,
    "Images to evaluate on: a folder, several or a list with the same classes, or the dataset of "
    "--data, for its test images. Stands for --eval_dir.",
)
config_flags.DEFINE_images(
    *("dataset", "data_dir", "data_root", "eval_dir", "train_split", "eval_split"),
    *("tfds_classes", "tfds_dir", "tfds_download"),
    *("max_skipped", *config_flags.READING, "cache_dir", "cache_gb"),
    data_dir="folder with one sub-folder a class, to train probes on.",
    eval_dir="folder with the same classes, to evaluate on; without, a fifth is held out.",
)
path_flags.DEFINE_path(
    "train_list", None, "List to train on, whatever its name ends in; --data takes lists, too."
)
path_flags.DEFINE_path("eval_list", None, "List to evaluate on. Without: a held-out fifth.")
path_flags.DEFINE_path("list_root", None, "Of --train_list and --eval_list, as --data_root.")
flags.DEFINE_string(
    "voc_tfds", None, "TFDS dataset with boxes, such as voc/2007, to write to --voc_dir."
)

# The evaluation, and its tasks.
path_flags.DEFINE_path(
    "output",
    None,
    "JSON file; default: evaluation.json in the run folder. For --suite: a folder; default: "
    "suites/NAME.",
)
for _name, _setting in signature_settings("evaluation.runner", "evaluate").items():
    if _name in _SHARED:
        config_flags.DEFINE(_setting, bounds=(0 if _name == "seed" else 1, None))
_define_tasks()


def check_used(names: Iterable[str]) -> None:
    """Raises `UserError` for a flag that none of the chosen tasks has.

    Flags given by a flag file only are ignored.
    """
    from rfd_tf.errors import UserError

    takers: dict[str, list[str]] = {}
    for task, options in tasks().items():
        for flag in options:
            takers.setdefault(flag, []).append(task)
    names = list(names)
    for flag, taken_by in takers.items():
        given = FLAGS[flag].present and flag not in config_flags.configured
        if given and flag not in _SHARED and not set(names) & set(taken_by):
            raise UserError(
                f"--{flag} has no effect on {', '.join(names)}; leave it out, or add "
                f"{' or '.join(taken_by)} to --task"
            )


def options(task: str, names: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the options of a task given by flags; `names` are all tasks that are run."""
    chosen = {
        setting.name: _value(flag, setting)
        for flag, setting in tasks().get(task, {}).items()
        if FLAGS[flag].present
    }
    # A published protocol has its own size; the flag is for the other tasks.
    if {"lowshot", "rotated"} & set(names) and FLAGS.protocol != "cached" and task == "linear":
        chosen.pop("probe_size", None)
    if task in ("linear", "rotated"):  # they show a progress bar of their own
        chosen["progress"] = True
    return chosen


def _value(flag: str, setting: Setting) -> Any:
    from rfd_tf.errors import UserError

    value = FLAGS[flag].value
    if flag == _MEMORY:
        return value << 20
    if setting.kind is not list or setting.item is str or value is None:
        return value
    try:
        return [setting.item(text) for text in value]
    except ValueError:
        whole = setting.item is int
        what = "whole numbers such as 1,5,20" if whole else "numbers such as 0.1,1,10"
        raise UserError(f"--{flag} needs {what}; got {','.join(value)}") from None
