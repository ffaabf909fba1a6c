"""The flags of rfd-tf evaluate, and which option of which task each sets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from absl import flags

from rfd_tf.cli import data_flags, limit_flags, path_flags

FLAGS = flags.FLAGS

flags.DEFINE_list("task", ["knn", "linear"], "What to run, see README: knn, linear, ...")
path_flags.DEFINE_path("weights", None, "Run folder, .weights.h5 file, or name of shipped weights.")
flags.DEFINE_string(
    "suite",
    None,
    "Evaluate several --runs by the same tasks and write one table: cifar10, imagenet, few_labels, "
    "retrained, features, voc.",
)
path_flags.DEFINE_path_list(
    "runs", [], "Of --suite: run folders, .weights.h5 files or shipped names."
)

# Images.
data_flags.DEFINE_data(
    "data",
    None,
    "Labelled images to learn from: a folder with one sub-folder a class, digits, or a TFDS name. "
    "Stands for --data_dir or --dataset. Default: the run's.",
)
data_flags.DEFINE_data(
    "val_data",
    None,
    "Images to judge: a folder with the same classes, or the dataset of --data, for its test "
    "images. Stands for --eval_dir.",
)
flags.DEFINE_string(
    "dataset", None, "Labelled dataset: digits, or a TFDS name. Default: the run folder's."
)
path_flags.DEFINE_path(
    "data_dir", None, "Folder with one sub-folder a class, to learn from. Default: the run's."
)
path_flags.DEFINE_path(
    "eval_dir", None, "Folder with the same classes, to judge. Without: a held-out fifth."
)
path_flags.DEFINE_path("train_list", None, "Text file to learn from, a path and a label a line.")
path_flags.DEFINE_path("eval_list", None, "Text file to judge. Without: a held-out fifth.")
path_flags.DEFINE_path(
    "list_root", None, "Folder that the lists' paths are relative to. Default: the list's own."
)
flags.DEFINE_string(
    "train_split", None, "Split of --dataset to learn from. Default: the run's, train."
)
flags.DEFINE_string(
    "eval_split", None, "Split of --dataset to judge. Default: the run's, test, validation."
)
flags.DEFINE_list(
    "tfds_classes",
    [],
    "Only the images of a TFDS --dataset that show one of these classes. Default: the run's.",
)
path_flags.DEFINE_path("tfds_dir", None, "Where TFDS datasets lie. Default: the run's.")
flags.DEFINE_boolean("tfds_download", False, "Let TFDS download the dataset.")
limit_flags.DEFINE_max_skipped()
limit_flags.DEFINE_max_megapixels()
flags.DEFINE_integer("max_train_images", None, "Learn from at most so many images.", 1)

# All tasks.
flags.DEFINE_list("endpoints", None, "Endpoints to judge. Default: all of the backbone's.")
flags.DEFINE_integer("batch_size", 256, "Images a step while features are taken.", 1)
flags.DEFINE_integer("seed", 0, "Of the random network, the turns, the probes and the draws.", 0)
path_flags.DEFINE_path(
    "output",
    None,
    "JSON file; default: evaluation.json in the run folder. Of --suite: a folder; default: "
    "suites/NAME.",
)
flags.DEFINE_boolean(
    "cache_features",
    False,
    "Keep frozen features on disk, beside the JSON file, and read them from there.",
)

# knn.
flags.DEFINE_integer(
    "k",
    None,
    "Neighbours. Default: 200, or a tenth of a smaller train set; 1 by Euclidean distance.",
    1,
)
flags.DEFINE_float("temperature", 0.07, "Of the neighbours' vote: exp(similarity / temperature).")
flags.DEFINE_integer("knn_memory", 512, "MiB that the search may take beyond the features.", 1)
flags.DEFINE_boolean("raw_pixels", False, "Of knn: evaluate the images' own pixels too.")
flags.DEFINE_list(
    "knn_distances",
    ["cosine"],
    "Of knn: cosine, euclidean (one vote a neighbour, raw pixels beside it), or both.",
)

# linear, nonlinear.
flags.DEFINE_string(
    "protocol",
    "cached",
    "Of linear. cached: probes on features taken once; or as published: rfd_imagenet, "
    "rotnet_imagenet, goyal_imagenet, goyal_places205, goyal_inaturalist2018, rotnet_cifar10.",
)
flags.DEFINE_string(
    "nonlinear_protocol",
    "rotnet_cifar10_conv",
    "rfd_imagenet, rotnet_cifar10_hidden, rotnet_cifar10_conv, aet_cifar10_linear, "
    "aet_cifar10_hidden, aet_cifar10_two_hidden or aet_cifar10_conv.",
)
flags.DEFINE_integer(
    "probe_size",
    None,
    "Side that maps are max-pooled to: linear (cached), lowshot, rotated. Default: 4.",
    1,
)
flags.DEFINE_integer(
    "probe_epochs",
    None,
    "Epochs of linear, nonlinear, semi_supervised. Default: the protocol's.",
    1,
)
flags.DEFINE_enum(
    "probe_pooling", None, ["max", "average"], "Of a published linear protocol. Default: its own."
)
flags.DEFINE_boolean("ten_crops", False, "Of a published linear protocol: judge ten crops too.")
flags.DEFINE_integer("hidden", None, "Units of nonlinear's dense layers. Default: as published.", 1)

# lowshot.
flags.DEFINE_list("per_class", ["1", "5", "20", "100", "400", "1000"], "Images of each class.")
flags.DEFINE_integer("draws", 5, "Random sets of each size.", 1)
flags.DEFINE_list("lowshot_modes", ["frozen", "fine-tuned"], "frozen, fine-tuned, or both.")
flags.DEFINE_integer("lowshot_steps", 500, "Optimizer steps of each training.", 1)

# semi_supervised; it takes --probe_epochs too.
flags.DEFINE_list(
    "first_per_class", ["20", "100", "400", "1000", "5000"], "The first so many of each class."
)
flags.DEFINE_string("semi_endpoint", "block2", "Layer under the convolutional classifier.")
flags.DEFINE_integer(
    "epoch_images",
    None,
    "Images that an epoch counts, whatever the set. Default: all there are.",
    1,
)

# finetune; lowshot, retrain and rotated take rate and batch size too.
flags.DEFINE_integer("finetune_epochs", 30, "Epochs of finetune.", 1)
flags.DEFINE_integer("retrain_epochs", 30, "Epochs of retrain, for each endpoint.", 1)
flags.DEFINE_integer("rotated_epochs", 20, "Epochs of fc6-8 in rotated.", 1)
flags.DEFINE_float(
    "finetune_learning_rate",
    None,
    "Highest rate, where layers of the backbone are trained. Default: finetune and lowshot choose "
    "it on a fifth of the training labels; 0.01 for the others.",
)
flags.DEFINE_integer("finetune_batch_size", 128, "Images a step, likewise.", 1)
flags.DEFINE_float("finetune_weight_decay", 5e-4, "Coupled weight decay of finetune, retrain.", 0.0)
path_flags.DEFINE_path(
    "finetune_save_dir", None, "Folder for the weights that finetune trained. Default: not kept."
)
flags.DEFINE_string("finetune_endpoint", None, "Layer under the classifier. Default: the last.")

# rotation.
flags.DEFINE_enum(
    "rotation_head",
    "trained",
    ["trained", "fitted"],
    "Of rotation: the head trained with the backbone (heads.npz), or linear ones fitted to the "
    "frozen features.",
)
flags.DEFINE_integer("fit_images", 5000, "A head is fitted to at most so many train images.", 2)

# invariance.
flags.DEFINE_list(
    "transformations", ["rotation", "jigsaw", "affine"], "What invariance is measured against."
)
path_flags.DEFINE_path(
    "reference_weights", None, "Of invariance: another network beside, such as a rotation-only one."
)
flags.DEFINE_string("reference_title", "reference", "What tables and figures call it.")
flags.DEFINE_integer("invariance_images", 2000, "Judge at most so many test images.", 2)
flags.DEFINE_integer("histogram_bins", 50, "Of invariance's histograms.", 1)
flags.DEFINE_integer("jigsaw_grid", 3, "Tiles a side of invariance's jigsaw puzzle.", 2)

# retrieval.
flags.DEFINE_list("precision_at", ["1", "5", "10"], "Numbers of neighbours, of precision@k.")
flags.DEFINE_integer("sheet_queries", 10, "Rows of the picture sheet of neighbours.", 1)
flags.DEFINE_integer("sheet_neighbours", 8, "Columns of the picture sheet.", 1)
flags.DEFINE_list(
    "sheet_features", None, "Features with a picture sheet. Default: f, f1, f2, or the last."
)

# voc_classification, rotated_voc, detection.
path_flags.DEFINE_path(
    "voc_dir", None, "Folder with pictures and annotations in PASCAL VOC's layout."
)
flags.DEFINE_string(
    "voc_tfds", None, "TFDS dataset with boxes, such as voc/2007, to be written out into --voc_dir."
)
flags.DEFINE_string("voc_train_split", None, "List in ImageSets. Default: split by name.")
flags.DEFINE_string("voc_test_split", None, "List in ImageSets. Default: split by name.")
path_flags.DEFINE_path("voc_test_dir", None, "Folder of the test pictures, where it is another.")
flags.DEFINE_list(
    "voc_protocols", None, "Of voc_classification: svm, fc8, fc6-8, all layers. Default: all."
)
flags.DEFINE_list("rotated_voc_protocols", None, "Of rotated_voc: fc8, fc6-8. Default: both.")
flags.DEFINE_integer("voc_epochs", 30, "Epochs of fc8, fc6-8 and all layers.", 1)
flags.DEFINE_float("voc_learning_rate", 0.01, "Highest learning rate of these.", 0.0)
flags.DEFINE_integer("voc_batch_size", 32, "Pictures a step of these.", 1)
flags.DEFINE_float("voc_weight_decay", 5e-4, "Coupled weight decay of these.", 0.0)
flags.DEFINE_integer("voc_test_crops", 10, "Random crops averaged for a test picture.", 1)
flags.DEFINE_integer(
    "voc_evaluate_every", 5, "Epochs between two judgements of these; the last is always judged.", 1
)
flags.DEFINE_boolean(
    "voc_rescale", False, "Rescale the weights by the data before these train (magic init)."
)
flags.DEFINE_list(
    "svm_costs", ["0.001", "0.01", "0.1", "1", "10"], "Costs to choose from by cross-validation."
)

# detection.
flags.DEFINE_integer("detection_size", 256, "Side of the detector's images, a multiple of 32.", 64)
flags.DEFINE_integer("detection_epochs", 30, "Epochs of the detector.", 1)
flags.DEFINE_float("detection_learning_rate", 1e-4, "Highest learning rate of the detector.", 0.0)
flags.DEFINE_integer("detection_batch_size", 8, "Pictures a step of the detector.", 1)
flags.DEFINE_integer("detection_max_boxes", 100, "Boxes of a picture learnt from, or judged.", 1)
flags.DEFINE_integer(
    "detection_evaluate_every",
    5,
    "Epochs between two judgements of the detector; the last is always judged.",
    1,
)

# segmentation; it takes --voc_dir too.
flags.DEFINE_string(
    "segmentation_train_split",
    "train",
    "List in ImageSets/Segmentation. Both splits empty: split by name.",
)
flags.DEFINE_string("segmentation_test_split", "val", "List in ImageSets/Segmentation, likewise.")
flags.DEFINE_integer("segmentation_size", 256, "Side that pictures and masks are resized to.", 1)
flags.DEFINE_integer("segmentation_epochs", 50, "Epochs of segmentation.", 1)
flags.DEFINE_integer("segmentation_batch_size", 16, "Pictures a step of segmentation.", 1)
flags.DEFINE_float("segmentation_learning_rate", 0.01, "Highest rate of segmentation.", 0.0)
flags.DEFINE_integer("segmentation_skips", 1, "Earlier endpoints that are scored too.", 0, 2)

_VOC = {
    "voc_dir": "voc_dir",
    "train_split": "voc_train_split",
    "test_split": "voc_test_split",
    "test_dir": "voc_test_dir",
}
_VOC_TRAINING = {
    "epochs": "voc_epochs",
    "learning_rate": "voc_learning_rate",
    "batch_size": "voc_batch_size",
    "weight_decay": "voc_weight_decay",
    "test_crops": "voc_test_crops",
    "evaluate_every": "voc_evaluate_every",
    "rescale": "voc_rescale",
}
_RATE = {"learning_rate": "finetune_learning_rate", "batch_size": "finetune_batch_size"}

#: Task -> option of its constructor -> the flag that sets it.
OPTIONS: dict[str, dict[str, str]] = {
    "knn": {
        "k": "k",
        "temperature": "temperature",
        "memory": "knn_memory",
        "raw_pixels": "raw_pixels",
        "distances": "knn_distances",
    },
    "linear": {
        "protocol": "protocol",
        "probe_size": "probe_size",
        "epochs": "probe_epochs",
        "pooling": "probe_pooling",
        "ten_crops": "ten_crops",
        "seed": "seed",
    },
    "nonlinear": {
        "protocol": "nonlinear_protocol",
        "epochs": "probe_epochs",
        "hidden": "hidden",
        "endpoints": "endpoints",
    },
    "lowshot": {
        "per_class": "per_class",
        "draws": "draws",
        "modes": "lowshot_modes",
        "steps": "lowshot_steps",
        "probe_size": "probe_size",
        **_RATE,
    },
    "semi_supervised": {
        "per_class": "first_per_class",
        "endpoint": "semi_endpoint",
        "epochs": "probe_epochs",
        "epoch_images": "epoch_images",
    },
    "finetune": {
        "epochs": "finetune_epochs",
        "weight_decay": "finetune_weight_decay",
        "endpoint": "finetune_endpoint",
        "save_dir": "finetune_save_dir",
        **_RATE,
    },
    "retrain": {
        "epochs": "retrain_epochs",
        "weight_decay": "finetune_weight_decay",
        **_RATE,
    },
    "rotated": {
        "probe_size": "probe_size",
        "probe_epochs": "probe_epochs",
        "epochs": "rotated_epochs",
        "seed": "seed",
        **_RATE,
    },
    "rotation": {"head": "rotation_head", "fit_images": "fit_images"},
    "invariance": {
        "transformations": "transformations",
        "reference_weights": "reference_weights",
        "reference_title": "reference_title",
        "max_images": "invariance_images",
        "bins": "histogram_bins",
        "jigsaw_grid": "jigsaw_grid",
        "seed": "seed",
    },
    "retrieval": {
        "k": "precision_at",
        "queries": "sheet_queries",
        "neighbours": "sheet_neighbours",
        "sheets": "sheet_features",
    },
    "voc_classification": {
        **_VOC,
        **_VOC_TRAINING,
        "protocols": "voc_protocols",
        "costs": "svm_costs",
    },
    "rotated_voc": {**_VOC, **_VOC_TRAINING, "protocols": "rotated_voc_protocols"},
    "detection": {
        **_VOC,
        "image_size": "detection_size",
        "epochs": "detection_epochs",
        "batch_size": "detection_batch_size",
        "learning_rate": "detection_learning_rate",
        "max_boxes": "detection_max_boxes",
        "evaluate_every": "detection_evaluate_every",
    },
    "segmentation": {
        "voc_dir": "voc_dir",
        "train_split": "segmentation_train_split",
        "test_split": "segmentation_test_split",
        "image_size": "segmentation_size",
        "epochs": "segmentation_epochs",
        "batch_size": "segmentation_batch_size",
        "learning_rate": "segmentation_learning_rate",
        "skips": "segmentation_skips",
    },
}

# Options of tasks that are told of the progress bar apart from the evaluation.
_SHOW_PROGRESS = ("linear", "rotated")
# Flags of all tasks, which options of some tasks repeat.
_SHARED = ("seed", "endpoints")
_LISTS_OF_NUMBERS = {
    "per_class": int,
    "first_per_class": int,
    "precision_at": int,
    "svm_costs": float,
}


def check_used(names: Iterable[str]) -> None:
    """Raises `UserError` for a flag given for tasks that none of the chosen ones is."""
    from rfd_tf.errors import UserError

    tasks: dict[str, list[str]] = {}
    for task, chosen in OPTIONS.items():
        for flag in chosen.values():
            tasks.setdefault(flag, []).append(task)
    names = list(names)
    for flag, taken_by in tasks.items():
        if FLAGS[flag].present and flag not in _SHARED and not set(names) & set(taken_by):
            raise UserError(
                f"--{flag} has no effect on {', '.join(names)}; leave it out, or add "
                f"{' or '.join(taken_by)} to --task"
            )


def options(task: str, names: Iterable[str] = ()) -> dict[str, Any]:
    """The options of a task, as the flags say; `names` are all tasks that are run."""
    chosen = {option: _value(flag) for option, flag in OPTIONS.get(task, {}).items()}
    # (None: the default of each task. A published protocol has a size of its own.)
    others = {"lowshot", "rotated"} & set(names)
    published = task == "linear" and FLAGS.protocol != "cached"
    if "probe_size" in chosen and (chosen["probe_size"] is None or (published and others)):
        del chosen["probe_size"]
    if chosen.get("learning_rate", 0) is None:
        del chosen["learning_rate"]
    if task in _SHOW_PROGRESS:
        chosen["progress"] = True
    return chosen


def images() -> dict[str, Any]:
    """What `rfd_tf.data.run_images.RunImages.replaced` takes of the flags."""
    names = ("dataset", "data_dir", "eval_dir", "train_split", "eval_split", "tfds_dir")
    given = {name: FLAGS[name].value for name in (*names, "tfds_classes")}
    return given | limit_flags.given()


def _value(flag: str) -> Any:
    value = FLAGS[flag].value
    if flag == "knn_memory":
        return value << 20
    return _numbers(flag, value) if flag in _LISTS_OF_NUMBERS else value


def _numbers(flag: str, texts: list[str]) -> list[float]:
    from rfd_tf.errors import UserError

    kind = _LISTS_OF_NUMBERS[flag]
    try:
        return [kind(text) for text in texts]
    except ValueError:
        what = "whole numbers such as 1,5,20" if kind is int else "numbers such as 0.1,1,10"
        raise UserError(f"--{flag} needs {what}; got {','.join(texts)}") from None
