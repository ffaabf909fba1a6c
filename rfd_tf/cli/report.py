"""Writes the report of a run: one HTML file with curves, neighbours, maps, tables and files.

    rfd-tf report --run=runs/x
    rfd-tf report --run=runs/x --data=train --val_data=test --output=x.html
    rfd-tf report --run=runs/x --images=0             # without images
    rfd-tf report --run=runs/x --tensorboard          # also for TensorBoard

The file loads nothing from the network: mail it, print it, open it on a phone. It contains about a
hundred images of the data, scaled down.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from absl import flags

from rfd_tf.cli import config_flags, data_flags, path_flags
from rfd_tf.cli.common import run
from rfd_tf.settings import signature_settings

path_flags.DEFINE_path("run", None, "Run folder of rfd-tf pretrain, finished or not.")
path_flags.DEFINE_path("output", None, "HTML file. Default: report.html in the run folder.")
config_flags.DEFINE_arguments("interpret.report.assemble", "build", ("sections",))
flags.DEFINE_boolean(
    "tensorboard",
    False,
    "Also write tensorboard/report in the run folder: embeddings with thumbnails for the "
    "projector, and grids of neighbours.",
)

# Images.
data_flags.DEFINE_data(
    "data",
    None,
    f"The images: {data_flags.FORMS}. Stands for --data_dir or --dataset. Default: the run's.",
)
data_flags.DEFINE_data(
    "val_data",
    None,
    "Images to look at: a folder, several or a list, or the dataset of --data, for its test "
    "images. Stands for --eval_dir.",
)
config_flags.DEFINE_images(
    *("dataset", "data_dir", "data_root", "eval_dir", "train_split", "eval_split"),
    *("tfds_classes", "tfds_dir", "tfds_download"),
    *("max_skipped", *config_flags.READING, "cache_dir", "cache_gb"),
    eval_dir="images to look at, in the forms of --data_dir; without, a fifth of the others.",
)
_COUNT = signature_settings("interpret.report.images", "ReportImages")["count"]
config_flags.DEFINE(
    _COUNT, "images", help=f"{_COUNT.help} 0 for a report without images.", bounds=(0, None)
)
_IMAGES = config_flags.DEFINE_arguments(
    "interpret.report.images",
    "ReportImages",
    ("batch_size", "seed"),
    bounds={"batch_size": (1, None), "seed": (0, None)},
)
path_flags.DEFINE_path("pu_weights", None, "PU weights of the run, if the file has moved.")

FLAGS = flags.FLAGS


def sources(folder: Path) -> tuple:
    """Train and test source; the test source is None where a part of train is to be held out."""
    from rfd_tf.data import given
    from rfd_tf.data.run_images import RunImages
    from rfd_tf.errors import UserError

    if FLAGS.dataset and (FLAGS.data_dir or FLAGS.eval_dir):
        raise UserError("--dataset does not go with --data_dir and --eval_dir")
    images = RunImages.of_run(folder).replaced(**config_flags.images())
    for name in ("data_dir", "eval_dir"):
        place = getattr(images, name)
        path = given.missing(place) if place and not FLAGS[name].value else None
        if path:
            raise UserError(
                f"the run's images are no longer in '{path}' (--{name}); give where they "
                f"are by --{name}, or give --images=0 for a report without images"
            )
    if not (images.dataset or images.data_dir or images.eval_dir):
        raise UserError(
            "the run does not record its images; give --data, or --images=0 for a "
            "report without images"
        )
    return images.evaluation(FLAGS.tfds_download)


def main() -> None:
    from rfd_tf.data import pu_weights
    from rfd_tf.errors import UserError
    from rfd_tf.interpret import report

    data_flags.resolve()
    if not FLAGS.run:
        raise UserError("--run is missing: the folder of a run, as rfd-tf pretrain writes it")
    record = report.read_run(FLAGS.run)
    if FLAGS.pu_weights:
        if not FLAGS.images:
            raise UserError("--pu_weights has no effect with --images=0; leave one of them out")
        pu_weights.check(FLAGS.pu_weights)
        record.flags["pu_weights"] = FLAGS.pu_weights
    output = Path(FLAGS.output) if FLAGS.output else record.folder / "report.html"
    report.check_output(output)
    for name in FLAGS.sections or []:
        report.check_section(name)
    images, reason = None, "the report was requested without images."
    if FLAGS.images and not record.has_weights:
        reason = "the run has no weights yet."
    elif FLAGS.images and (
        FLAGS.tensorboard or report.needs_images(FLAGS.sections or report.SECTIONS)
    ):
        train, test = sources(record.folder)
        for source in (train, test):
            if source is not None:
                print(source.summary(), flush=True)
        images = report.ReportImages(
            record, train, test, FLAGS.images, **config_flags.values(_IMAGES)
        )
    if FLAGS.tensorboard and images is None:
        raise UserError(f"nothing for TensorBoard: {reason}")
    left_out = report.write(
        output,
        record,
        images,
        FLAGS.sections,
        reason,
        say=lambda name: print(f"{name} ...", flush=True),
    )
    for name, why in left_out:
        print(f"left out: {name}: {why}")
    if record.unfinished:
        print(record.unfinished)
    print(f"written: {output}")
    if FLAGS.tensorboard:
        from rfd_tf.interpret import projector

        folder = record.folder / "tensorboard" / "report"
        projector.write(folder, images)
        logs = shlex.quote(str(record.folder / "tensorboard"))
        print(f"written: {folder}; see it by tensorboard --logdir={logs}")


if __name__ == "__main__":
    run(main)
