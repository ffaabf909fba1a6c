"""Flags of images, augmentation, network and batch, which a run and its PU weights share.

Scripts that train or estimate on the images of a run adopt these flags. `settings` reads them from
the run's command, its flag file or its folder.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import path_flags
import photo_flags
from absl import flags

FLAGS = flags.FLAGS

flags.adopt_module_key_flags(photo_flags)

# Images.
flags.DEFINE_string("dataset", None, "Embedded dataset (digits) or TFDS image dataset by name.")
path_flags.DEFINE_path("data_dir", None, "Folder of training images, flat or nested.")
flags.DEFINE_string(
    "train_split", "train", "Split of --dataset to train on, such as train or train[:60%]."
)
flags.DEFINE_list(
    "tfds_classes",
    [],
    "Only the images of a TFDS --dataset that show an object of one of these classes, such as "
    "cat,dog of coco/2017.",
)
path_flags.DEFINE_path("tfds_dir", None, "Where TFDS datasets lie.")
flags.DEFINE_bool("tfds_download", False, "Let TFDS download and prepare the dataset.")
flags.DEFINE_float("max_skipped", 0.01, "Largest share of undecodable images to go on with.")
flags.DEFINE_float(
    "max_megapixels", 300.0, "Larger images are left out, before they are decoded.", 0.001
)
flags.DEFINE_integer(
    "image_size", None, "Side of the training images, pixels; the backbone's own size if not given."
)
flags.DEFINE_enum(
    "crop",
    "pad",
    ["pad", "resized", "window", "stretch", "none"],
    "pad: zero border, random crop. resized: random resized crop. window: a square at a random "
    "place, its side 7/8 of the image's. stretch: the whole image, its sides made equal.",
)
flags.DEFINE_float("crop_area_min", 0.08, "Smallest share of an image that a resized crop keeps.")
flags.DEFINE_integer("padding", None, "Border of --crop=pad, pixels; image_size / 8 if not given.")
flags.DEFINE_bool("horizontal_flip", True, "Mirror half of the images.")
flags.DEFINE_float("color_jitter", 0.0, "Strength of brightness, contrast, saturation changes.")
flags.DEFINE_float("hue", 0.0, "Largest turn of the colours, a share of the circle up to 0.5.")
flags.DEFINE_float("grayscale", 0.0, "Share of images made grey.")
flags.DEFINE_integer(
    "crops",
    1,
    "Crops of an image a step. rfd, rotation: 1 for all rotations, or one each. "
    "pirl: 2, and the transformed version has its own.",
)
flags.DEFINE_list("mean", None, "Channel means of pixels / 255; ImageNet's if not given.")
flags.DEFINE_list("std", None, "Channel deviations of pixels / 255; ImageNet's if not given.")

# Network.
flags.DEFINE_string(
    "backbone",
    "network_in_network",
    "six_layer, network_in_network, alexnet, resnet18, or a keras.applications "
    "name such as mobilenet_v2.",
)
flags.DEFINE_multi_string(
    "backbone_option",
    [],
    "Constructor option as name=value, such as width=0.5; may be repeated. weights=PLACE starts "
    "from a .weights.h5 file, a run folder or shipped weights.",
)
flags.DEFINE_float(
    "batch_norm_momentum",
    None,
    "Share that batch normalisation's moving statistics keep at a step; the network's own if not "
    "given. Some networks of Keras have 0.999, which takes thousands of steps to settle.",
    lower_bound=0.0,
    upper_bound=1.0,
)
flags.DEFINE_integer(
    "batch_size", 128, "Original images in a batch; the views are four times as many."
)
flags.DEFINE_enum(
    "mixed_precision",
    "auto",
    ["auto", "float32", "bfloat16"],
    "auto: bfloat16 where the hardware has it.",
)


def channel_values(name: str, default: Sequence[float]) -> tuple[float, ...]:
    """Returns the three numbers of --mean or --std."""
    from rfd_tf.errors import UserError

    given = FLAGS[name].value
    if given is None:
        return tuple(default)
    try:
        values = tuple(float(value) for value in given)
    except ValueError:
        values = ()
    if (
        len(values) != 3
        or not all(map(math.isfinite, values))
        or (name == "std" and min(values) <= 0)
    ):
        raise UserError(f"--{name} needs three numbers such as 0.5,0.5,0.5; got {','.join(given)}")
    return values


def normalization() -> dict[str, tuple[float, ...]]:
    """Returns the arguments `mean` and `std` of a method."""
    from rfd_tf import applications

    return {
        "mean": channel_values("mean", applications.IMAGENET_MEAN),
        "std": channel_values("std", applications.IMAGENET_STD),
    }


def image_size() -> int:
    """Returns the side of the training images in pixels."""
    from rfd_tf import applications

    return FLAGS.image_size or applications.default_image_size(FLAGS.backbone)


def load_source():
    """Loads the training images."""
    from rfd_tf import data

    return data.load(
        FLAGS.dataset,
        FLAGS.data_dir,
        split=FLAGS.train_split,
        tfds_dir=FLAGS.tfds_dir,
        download=FLAGS.tfds_download,
        max_skipped=FLAGS.max_skipped,
        max_megapixels=FLAGS.max_megapixels,
        **photo_flags.load_arguments(image_size()),
        classes=FLAGS.tfds_classes,
    )


def augmentation():
    """Returns the `rfd_tf.training.pretraining.Augmentation` of the flags."""
    from rfd_tf.training import pretraining

    names = {field.name for field in dataclasses.fields(pretraining.Augmentation)}
    return pretraining.Augmentation(
        crop_area=(FLAGS.crop_area_min, 1.0),
        **{name: FLAGS[name].value for name in names - {"crop_area"}},
    )


def expanded(arguments: Sequence[str]) -> list[str]:
    """Returns arguments with those of flag files in the place of `--flagfile=FILE`.

    Raises:
        UserError: a flag file that cannot be read.
    """
    from rfd_tf.errors import UserError

    try:
        return FLAGS.read_flags_from_files(list(arguments))
    except (flags.Error, OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"the flag file cannot be read: {error}") from None


def settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads these flags from the arguments of another script, such as scripts/pretrain.py.

    Args:
        arguments: its command line or a part of it, `--flagfile=FILE` included. Flags of the
            other script that are not shared are ignored, except `--fidelity`, which implies values.

    Returns:
        The value of every shared flag that is given, by name.

    Raises:
        UserError: a value that a flag does not take, or a flag file that cannot be read.
    """
    from rfd_tf.errors import UserError
    from rfd_tf.training import fidelity

    values = flags.FlagValues()
    shared = [flag.name for flag in FLAGS.get_key_flags_for_module(sys.modules[__name__])]
    for name in shared:
        values[name] = copy.deepcopy(FLAGS[name])
        values[name].unparse()
    flags.DEFINE_bool("fidelity", False, "", flag_values=values)
    try:
        values(["", *expanded(arguments)], known_only=True)
    except flags.Error as error:
        raise UserError(str(error)) from None
    found = {name: values[name].value for name in shared if values[name].present}
    if values["fidelity"].value:
        implied = fidelity.flag_values()
        found = {**{name: implied[name] for name in shared if name in implied}, **found}
    return found


def settings_of(run: str) -> dict[str, Any]:
    """Reads these flags from a flag file of scripts/pretrain.py or from a run folder.

    Raises:
        UserError: there is no such file, or a folder without a run.
    """
    from rfd_tf.errors import UserError

    path = Path(run)
    if path.is_file():
        return settings([f"--flagfile={path}"])
    try:
        recorded = json.loads((path / "run.json").read_bytes())["flags"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"'{run}' is neither a flag file of scripts/pretrain.py nor the folder of a run"
        ) from None
    shared = [flag.name for flag in FLAGS.get_key_flags_for_module(sys.modules[__name__])]
    # Flags of crops say nothing where there are no photographs, and are refused there.
    photographs = bool(recorded.get("source_images"))
    return {
        name: recorded[name]
        for name in shared
        if recorded.get(name) is not None and (photographs or not name.startswith("source_"))
    }


def arguments(values: Mapping[str, Any]) -> list[str]:
    """Returns command-line arguments that give the flags these values."""
    found = []
    for name, value in values.items():
        if isinstance(value, bool):
            found.append(f"--{name}={str(value).lower()}")
        elif isinstance(FLAGS[name], flags.MultiFlag):
            found += [f"--{name}={item}" for item in value]
        elif value is not None:
            found.append(f"--{name}={','.join(value) if isinstance(value, list) else value}")
    return found


def adopt(values: Mapping[str, Any]) -> None:
    """Gives the flags these values."""
    for name, value in values.items():
        FLAGS[name].value = value
        FLAGS[name].present += 1


def given() -> dict[str, Any]:
    """Returns the flags that are not left to their defaults, by name."""
    shared = FLAGS.get_key_flags_for_module(sys.modules[__name__])
    return {flag.name: flag.value for flag in shared if flag.present}
