"""Estimates PU weights: the probability that each rotated view of an image looks upright.

    rfd-tf estimate-pu --config=digits --output=pu.npz
    rfd-tf pretrain --config=digits --pu_weights=pu.npz ...
    rfd-tf estimate-pu --data=photos --backbone=resnet18 --output=photos_pu.npz

For each fold of the images, a rotation network is trained on the other folds and predicts the
rotations of this one. Finished folds are kept next to the output until all are done: after an
interruption, run the same command again.

With --input no network is trained: the file is converted to --output's format, or only drawn. It
must have been made for the images, which are needed too.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from rfd_tf import estimation
from rfd_tf.cli import common, config_flags, data_flags, image_flags, path_flags
from rfd_tf.config import IMAGE_SETTINGS, PretrainConfig
from rfd_tf.estimation import TRAINING
from rfd_tf.settings import settings_of

FLAGS = flags.FLAGS

flags.adopt_module_key_flags(image_flags)

flags.DEFINE_alias("split", "train_split")
path_flags.DEFINE_path(
    "config",
    None,
    "Flag file of pretrain, name of an installed one (quickstart), or run folder, whose images, "
    "augmentation, network and batch size are used unless flags give others.",
)

# Files.
path_flags.DEFINE_path(
    "output",
    None,
    "PU weights to write: .npz, or .dat for the text format of the original program.",
)
path_flags.DEFINE_path("input", None, "PU weights to convert or draw, instead of training.")
path_flags.DEFINE_path("grid", None, "PNG with the rotated views that look most and least upright.")
flags.DEFINE_bool("overwrite", False, "Replace existing files.")

# Classifier, seed, and training of each fold's network.
_ESTIMATION = config_flags.DEFINE_arguments(
    "training.pu_estimation",
    "Estimation",
    ("classifier", "num_folds", "positive_prior", "seed"),
    {"num_folds": "folds"},
)
_TRAINED = ("classifier", "folds", "positive_prior", "seed")
for _name, _default in TRAINING.items():
    config_flags.DEFINE(settings_of(PretrainConfig)[_name], default=_default)


def check_used() -> None:
    """Refuses options of the training next to --input."""
    from rfd_tf.errors import UserError

    for name in (*_TRAINED, *TRAINING):
        if FLAGS.input and FLAGS[name].present:
            raise UserError(f"--{name} has no effect with --input, which trains no network")


def check_files() -> None:
    """Refuses wrong places for the results before any work."""
    from rfd_tf.data import given, pu_weights
    from rfd_tf.errors import UserError

    if not FLAGS.output and not (FLAGS.input and FLAGS.grid):
        raise UserError("give --output, the .npz or .dat file to write")
    if FLAGS.output:
        estimation.check_output(FLAGS.output, FLAGS.overwrite)
    if FLAGS.grid:
        from rfd_tf.data import pu_grid

        pu_grid.check_packages()
        if Path(FLAGS.grid).suffix.lower() != ".png":
            raise UserError(f"--grid '{FLAGS.grid}' must end in .png")
        for images in given.parts(FLAGS.data_dir) if FLAGS.data_dir else ():
            if Path(images).resolve() in Path(FLAGS.grid).resolve().parents:
                raise UserError(
                    f"--grid '{FLAGS.grid}' is inside --data_dir '{images}', where it would be one "
                    "of the images; give it another folder"
                )
        pu_weights.check_output(FLAGS.grid, FLAGS.overwrite, flag="--grid")


def config() -> PretrainConfig:
    """Returns the settings of images, network and training."""
    given = config_flags.given([*IMAGE_SETTINGS, *TRAINING])
    return PretrainConfig.create({**TRAINING, **given}, configured=config_flags.configured)


def draw(source, probability, image_size: int, without=None) -> None:
    from rfd_tf.data import pu_grid

    if FLAGS.grid:
        pu_grid.draw(FLAGS.grid, source, probability, image_size=image_size, without=without)
        print(f"picture of the extremes: {FLAGS.grid}")


def convert() -> None:
    """Converts or draws the weights of --input."""
    from rfd_tf.data import pu_weights

    source = estimation.load(config())
    probability = pu_weights.read(FLAGS.input, source)
    if FLAGS.output:
        about = {"classifier": "unknown", "settings": {"converted_from": Path(FLAGS.input).name}}
        if FLAGS.input.lower().endswith(".npz"):
            found = pu_weights.read_description(FLAGS.input)
            about = {name: found[name] for name in about}
        pu_weights.write(FLAGS.output, probability, source, overwrite=FLAGS.overwrite, **about)
        print(f"PU weights: {FLAGS.output}")
    draw(source, probability, config().side())


def train() -> None:
    """Estimates the weights, fold by fold."""
    settings = config()
    source = estimation.load(settings)
    how = estimation.estimation(settings, source.num_images, **config_flags.values(_ESTIMATION))
    result = estimation.run(source, how, FLAGS.output, FLAGS.overwrite, progress=True)
    draw(source, result.upright_probability, how.image_size, result.unread)


def main() -> None:
    data_flags.resolve()
    check_used()
    if FLAGS.config:
        image_flags.adopt_config(FLAGS.config)
    check_files()
    if FLAGS.input:
        convert()
    else:
        train()


if __name__ == "__main__":
    common.run(main)
