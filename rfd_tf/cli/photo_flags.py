"""Flags of the scripts that can take crops of photographs as their images."""

from __future__ import annotations

import os
from pathlib import Path

from absl import flags

from rfd_tf.cli import path_flags

FLAGS = flags.FLAGS

path_flags.DEFINE_path_list(
    "source_images",
    None,
    "One or a few photographs: the images are crops of them. Files, or sklearn:china.jpg and "
    "sklearn:flower.jpg, which come with scikit-learn.",
)
flags.DEFINE_integer(
    "source_crops", 50_000, "Crops of --source_images, an epoch (published: 1281167)."
)
flags.DEFINE_integer(
    "source_size",
    None,
    "Side of the crops, pixels (published: 256); if not given, --image_size, and from 96 on 256 "
    "for each 224 of it.",
)
flags.DEFINE_integer("source_seed", 0, "Of the crops. Runs with other --seed have the same crops.")
flags.DEFINE_float(
    "source_region",
    0.5,
    "Crops are cut from a square region at a random place of a photograph: its side, a share of "
    "the shorter side; 0 for the whole photograph.",
)
flags.DEFINE_bool(
    "source_scale",
    True,
    "Cut windows of random area from the region; off, windows of as many pixels as they become.",
)
flags.DEFINE_float("source_area_min", 1 / 500, "Smallest share of the region in a window.")
flags.DEFINE_float("source_aspect", 4 / 3, "Largest width / height of a window; 1 for squares.")
flags.DEFINE_float("source_rotation", 30.0, "Largest angle by which crops are turned, degrees.")
flags.DEFINE_float("source_shear", 30.0, "Largest shear of crops, degrees.")
flags.DEFINE_bool("source_vertical_flip", False, "Turn half of the crops upside down.")
flags.DEFINE_bool("source_horizontal_flip", False, "Mirror half of the crops.")
flags.DEFINE_float(
    "source_color_jitter", 0.4, "Strength of brightness, contrast, saturation changes of crops."
)
flags.DEFINE_float("source_hue", 0.1, "Largest turn of the colours of crops, a share up to 0.5.")
flags.DEFINE_float("source_color_probability", 0.5, "Share of the crops whose colours are changed.")
flags.DEFINE_float(
    "source_noise", 0.0, "Standard deviation of Gaussian noise on crops, a share of 0 to 255."
)


def load_arguments(image_size: int) -> dict:
    """What data.load takes from these flags."""
    from rfd_tf.data.run_images import photo_options
    from rfd_tf.errors import UserError

    if not FLAGS.source_images:
        for flag in FLAGS.get_key_flags_for_module(__name__):
            if flag.present and flag.name != "source_images":
                raise UserError(f"--{flag.name} goes with --source_images")
        return {}
    given = {flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(__name__)}
    return {
        "photos": FLAGS.source_images,
        "photo_options": photo_options(given, image_size),
    }


def resolved(image_size: int) -> dict:
    """These flags with the values in use, None where the images are no crops of photographs.

    The photographs have their full paths: a reader may stand in another folder.
    """
    from rfd_tf.data.photos import SAMPLE

    values = {flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(__name__)}
    if not FLAGS.source_images:
        return dict.fromkeys(values)
    values["source_size"] = load_arguments(image_size)["photo_options"]["size"]
    values["source_images"] = [
        one if one.startswith(SAMPLE) else os.path.abspath(one) for one in FLAGS.source_images
    ]
    return values


def draw(source, image_size: int, folder: Path) -> None:
    """Draws the first crops, to be looked at: source_crops.png in the folder."""
    from PIL import Image

    from rfd_tf.data.photos import sheet

    folder.mkdir(exist_ok=True)
    Image.fromarray(sheet(source, image_size)).save(folder / "source_crops.png")
