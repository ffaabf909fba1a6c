"""Estimates PU weights: how probable it is that each rotated view of an image looks upright.

    rfd-tf estimate-pu --config=quickstart --output=pu.npz
    rfd-tf pretrain --config=quickstart --pu_weights=pu.npz ...
    rfd-tf estimate-pu --data_dir=photos --backbone=resnet18 --output=photos_pu.npz

A rotation network is trained on all folds of the images but one and predicts the rotations of the
one left out, for each fold in turn. Finished folds are kept beside the output until all are done:
after an interruption, run the same command again.

With --input no network is trained: the file is converted to --output's format, or only drawn.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from absl import flags

from rfd_tf.cli import common, data_flags, image_flags, path_flags

FLAGS = flags.FLAGS

flags.adopt_module_key_flags(image_flags)

flags.DEFINE_alias("split", "train_split")
path_flags.DEFINE_path(
    "config",
    None,
    "Flag file of pretrain, the name of an installed one (quickstart), or the folder of a run: its "
    "images, augmentation, network and batch are used, except where flags give others.",
)

# Files.
path_flags.DEFINE_path(
    "output", None, "PU weights to write: .npz, or .dat for the original's text."
)
path_flags.DEFINE_path("input", None, "PU weights to convert or draw, instead of training.")
path_flags.DEFINE_path("grid", None, "PNG of the most and the least upright-looking rotated views.")
flags.DEFINE_bool("overwrite", False, "Replace existing files.")

# Classifier.
flags.DEFINE_string(
    "classifier",
    "softmax",
    "softmax: 4-way rotation network. binary: upright against rotated. non_negative_pu: upright "
    "as positive, rotated as unlabelled.",
)
flags.DEFINE_integer("folds", 5, "Networks to train, each judging the images of one fold.")
flags.DEFINE_float(
    "positive_prior",
    0.1,
    "For non_negative_pu: share of rotated views that look upright. A well-trained rotation "
    "network errs on about a tenth of the views.",
)

# Optimization of each fold's network.
flags.DEFINE_integer("epochs", 30, "Passes over the other folds' images.")
flags.DEFINE_integer("steps_per_epoch", None, "Steps an epoch; all full batches if not given.")
flags.DEFINE_float("learning_rate", 0.05, "Highest learning rate; it follows a cosine.")
flags.DEFINE_float("warmup_epochs", 0.0, "Epochs of linear warm-up.")
flags.DEFINE_float("weight_decay", 5e-4, "Coupled weight decay, on every weight.")
flags.DEFINE_integer("seed", 0, "Of weights, order, augmentation; not of the folds.")


def say(text: str) -> None:
    print(text, flush=True)


def check_files() -> None:
    """Refuses wrong places for the results before any work."""
    from rfd_tf.data import pu_weights
    from rfd_tf.errors import UserError

    if not FLAGS.output and not (FLAGS.input and FLAGS.grid):
        raise UserError("give --output, the .npz or .dat file to write")
    if FLAGS.output:
        if Path(FLAGS.output).suffix.lower() not in pu_weights.EXTENSIONS:
            raise UserError(f"--output '{FLAGS.output}' must end in .npz or .dat")
        pu_weights.check_output(FLAGS.output, FLAGS.overwrite)
    if FLAGS.grid:
        from rfd_tf.data import pu_grid

        pu_grid.check_packages()
        if Path(FLAGS.grid).suffix.lower() != ".png":
            raise UserError(f"--grid '{FLAGS.grid}' must end in .png")
        images = FLAGS.data_dir and Path(FLAGS.data_dir).resolve()
        if images and images in Path(FLAGS.grid).resolve().parents:
            raise UserError(
                f"--grid '{FLAGS.grid}' lies in --data_dir '{FLAGS.data_dir}', where it would be "
                "one of the images; give it another folder"
            )
        pu_weights.check_output(FLAGS.grid, FLAGS.overwrite, flag="--grid")


def estimation():
    """How to estimate, as the flags say."""
    from rfd_tf.training import pretraining, pu_estimation
    from rfd_tf.training import strategy as strategies

    options = {field.name for field in dataclasses.fields(pretraining.Optimization)}
    return pu_estimation.Estimation(
        backbone=FLAGS.backbone,
        backbone_options=common.backbone_options(),
        image_size=image_flags.config().side(),
        **image_flags.config().normalization(),
        batch_norm_momentum=FLAGS.batch_norm_momentum,
        classifier=FLAGS.classifier,
        num_folds=FLAGS.folds,
        positive_prior=FLAGS.positive_prior,
        optimization=pretraining.Optimization(
            **{name: FLAGS[name].value for name in options if name in FLAGS}
        ),
        augmentation=image_flags.config().augmentation(),
        policy=strategies.precision_policy(FLAGS.mixed_precision),
        seed=FLAGS.seed,
    )


def load_source():
    source = image_flags.load_source()
    say(source.summary())
    if source.skipped:
        say(f"{len(source.skipped)} images cannot be decoded and are left out")
    return source


def draw(source, probability, image_size: int, without=None) -> None:
    from rfd_tf.data import pu_grid

    if FLAGS.grid:
        pu_grid.draw(FLAGS.grid, source, probability, image_size=image_size, without=without)
        say(f"picture of the extremes: {FLAGS.grid}")


def convert() -> None:
    """Rewrites or draws the weights of --input."""
    from rfd_tf.data import pu_weights

    source = load_source()
    probability = pu_weights.read(FLAGS.input, source)
    if FLAGS.output:
        about = {"classifier": "unknown", "settings": {"converted_from": Path(FLAGS.input).name}}
        if FLAGS.input.lower().endswith(".npz"):
            found = pu_weights.read_description(FLAGS.input)
            about = {name: found[name] for name in about}
        pu_weights.write(FLAGS.output, probability, source, overwrite=FLAGS.overwrite, **about)
        say(f"PU weights: {FLAGS.output}")
    draw(source, probability, image_flags.config().side())


def train() -> None:
    """Estimates the weights, fold by fold."""
    how = estimation()
    estimate(load_source(), how, FLAGS.output)


def estimate(source, how, output: str) -> None:
    """Trains what is missing and writes the weights."""
    from rfd_tf.training import pu_estimation

    result = pu_estimation.estimate_to(
        output, source, how, overwrite=FLAGS.overwrite, progress=True, report=say
    )
    draw(source, result.upright_probability, how.image_size, result.unread)


def main() -> None:
    data_flags.resolve()
    if FLAGS.config:
        image_flags.adopt_config(FLAGS.config)
    check_files()
    if FLAGS.input:
        convert()
    else:
        train()


if __name__ == "__main__":
    common.run(main)
