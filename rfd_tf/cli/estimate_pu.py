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

from rfd_tf.cli import common, config_flags, data_flags, image_flags, path_flags
from rfd_tf.config import PretrainConfig, settings_of

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

# Classifier and seed, and how each fold's network is trained.
_ESTIMATION = config_flags.DEFINE_arguments(
    "training.pu_estimation",
    "Estimation",
    ("classifier", "num_folds", "positive_prior", "seed"),
    {"num_folds": "folds"},
)
_OPTIMIZATION = ("epochs", "steps_per_epoch", "learning_rate", "warmup_epochs", "weight_decay")
for _name in _OPTIMIZATION:
    _changes = {"default": 30} if _name == "epochs" else {}
    config_flags.DEFINE(settings_of(PretrainConfig)[_name], **_changes)


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


def estimation(num_images: int):
    """How to estimate from so many images, as the flags say."""
    from rfd_tf.training import pretraining, pu_estimation
    from rfd_tf.training import strategy as strategies

    config = image_flags.config()
    config.choose(num_images)
    options = {field.name for field in dataclasses.fields(pretraining.Optimization)}
    given = {name: FLAGS[name].value for name in options if name in FLAGS}
    return pu_estimation.Estimation(
        backbone=FLAGS.backbone,
        backbone_options=common.backbone_options(),
        image_size=config.side(),
        **config.normalization(),
        batch_norm_momentum=FLAGS.batch_norm_momentum,
        optimization=pretraining.Optimization(**{**given, "batch_size": config.batch_size}),
        augmentation=config.augmentation(),
        policy=strategies.precision_policy(FLAGS.mixed_precision),
        **config_flags.values(_ESTIMATION),
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
    from rfd_tf.training.folder_lock import FolderLock

    source = load_source()
    how = estimation(source.num_images)
    output = Path(FLAGS.output)
    with FolderLock(output.parent, f".{output.name}.lock", "writes", output):
        estimate(source, how, output)


def estimate(source, how, output: Path) -> None:
    """Trains what is missing and writes the weights."""
    from rfd_tf.data import pu_weights
    from rfd_tf.training import pu_estimation

    keep_dir = output.with_name(output.name + ".folds")
    result = pu_estimation.estimate(source, how, keep_dir=keep_dir, progress=True, report=say)
    pu_weights.write(
        output,
        result.upright_probability,
        source,
        classifier=how.classifier,
        settings=how.settings(),
        overwrite=FLAGS.overwrite,
    )
    pu_estimation.remove_kept(keep_dir)
    views = 3 * source.num_images
    say(
        f"out-of-fold rotation accuracy {result.accuracy:.4f} (chance 0.25); {result.num_upright} "
        f"of {views} rotated views ({result.num_upright / views:.1%}) have P(looks upright) > 0.5"
    )
    if len(result.unread):
        say(f"{len(result.unread)} images could not be read; their views count in full")
    say(f"PU weights: {output}")
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
