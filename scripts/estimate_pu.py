"""Estimates PU weights: how probable it is that each rotated view of an image looks upright.

    python scripts/estimate_pu.py --data_dir=photos --backbone=resnet18 --output=photos_pu.npz
    python scripts/pretrain.py --data_dir=photos ... --pu_weights=photos_pu.npz

A rotation network is trained on all folds of the images but one and judges the one left out, for
each fold in turn. Finished folds are kept beside the output until all are done: after an
interruption, run the same command again.

With --input no network is trained: the file is converted to --output's format, or only drawn.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import common
import photo_flags
from absl import flags

FLAGS = flags.FLAGS

flags.adopt_module_key_flags(photo_flags)

# Images.
flags.DEFINE_string("dataset", None, "Embedded dataset (digits) or TFDS image dataset by name.")
flags.DEFINE_string("data_dir", None, "Folder of images, flat or nested.")
flags.DEFINE_string("split", "train", "Split of --dataset; pretrain.py trains on 'train'.")
flags.DEFINE_string("tfds_dir", None, "Where TFDS datasets lie.")
flags.DEFINE_bool("tfds_download", False, "Let TFDS download and prepare the dataset.")
flags.DEFINE_float("max_skipped", 0.01, "Largest share of undecodable images to go on with.")

# Files.
flags.DEFINE_string("output", None, "PU weights to write: .npz, or .dat for the original's text.")
flags.DEFINE_string("input", None, "PU weights to convert or draw, instead of training.")
flags.DEFINE_string("grid", None, "PNG of the most and the least upright-looking rotated views.")
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
flags.DEFINE_string("backbone", "network_in_network", "As of pretrain.py.")
flags.DEFINE_multi_string(
    "backbone_option", [], "Constructor option as name=value, such as width=0.5; may be repeated."
)
flags.DEFINE_integer("image_size", None, "Side of the images; the backbone's own if not given.")

# Augmentation, while training only.
flags.DEFINE_enum("crop", "pad", ["pad", "resized", "none"], "As of pretrain.py.")
flags.DEFINE_float("crop_area_min", 0.08, "Smallest share of an image that a resized crop keeps.")
flags.DEFINE_integer("padding", None, "Border of --crop=pad, pixels; image_size / 8 if not given.")
flags.DEFINE_bool("horizontal_flip", True, "Mirror half of the images; not for text.")

# Optimization of each fold's network.
flags.DEFINE_integer("epochs", 30, "Passes over the other folds' images.")
flags.DEFINE_integer("steps_per_epoch", None, "Steps an epoch; all full batches if not given.")
flags.DEFINE_integer("batch_size", 128, "Original images in a batch; the views are four times so.")
flags.DEFINE_float("learning_rate", 0.05, "Highest learning rate; it follows a cosine.")
flags.DEFINE_float("warmup_epochs", 0.0, "Epochs of linear warm-up.")
flags.DEFINE_float("weight_decay", 5e-4, "Coupled weight decay, on every weight.")
flags.DEFINE_integer("seed", 0, "Of weights, order, augmentation; not of the folds.")
flags.DEFINE_enum(
    "mixed_precision",
    "auto",
    ["auto", "float32", "bfloat16"],
    "auto: bfloat16 where the hardware has it.",
)


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
        if Path(FLAGS.grid).suffix.lower() != ".png":
            raise UserError(f"--grid '{FLAGS.grid}' must end in .png")
        pu_weights.check_output(FLAGS.grid, FLAGS.overwrite, flag="--grid")


def estimation():
    """How to estimate, as the flags say."""
    from rfd_tf import applications
    from rfd_tf.training import pretraining, pu_estimation
    from rfd_tf.training import strategy as strategies

    options = {field.name for field in dataclasses.fields(pretraining.Optimization)}
    return pu_estimation.Estimation(
        backbone=FLAGS.backbone,
        backbone_options=common.backbone_options(),
        image_size=FLAGS.image_size or applications.default_image_size(FLAGS.backbone),
        classifier=FLAGS.classifier,
        num_folds=FLAGS.folds,
        positive_prior=FLAGS.positive_prior,
        optimization=pretraining.Optimization(
            **{name: FLAGS[name].value for name in options if name in FLAGS}
        ),
        augmentation=pretraining.Augmentation(
            crop=FLAGS.crop,
            crop_area=(FLAGS.crop_area_min, 1.0),
            padding=FLAGS.padding,
            horizontal_flip=FLAGS.horizontal_flip,
        ),
        policy=strategies.precision_policy(FLAGS.mixed_precision),
        seed=FLAGS.seed,
    )


def load_source():
    from rfd_tf import applications, data

    image_size = FLAGS.image_size or applications.default_image_size(FLAGS.backbone)
    source = data.load(
        FLAGS.dataset,
        FLAGS.data_dir,
        split=FLAGS.split,
        tfds_dir=FLAGS.tfds_dir,
        download=FLAGS.tfds_download,
        max_skipped=FLAGS.max_skipped,
        **photo_flags.load_arguments(image_size),
    )
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
    from rfd_tf import applications
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
    draw(source, probability, FLAGS.image_size or applications.default_image_size(FLAGS.backbone))


def train() -> None:
    """Estimates the weights, fold by fold."""
    from rfd_tf.data import pu_weights
    from rfd_tf.training import pu_estimation

    how = estimation()
    source = load_source()
    output = Path(FLAGS.output).expanduser()
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
    check_files()
    if FLAGS.input:
        convert()
    else:
        train()


if __name__ == "__main__":
    common.run(main)
