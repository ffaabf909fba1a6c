"""Writes images into shards: WebDataset tar, TFRecord or Parquet files.

    rfd-tf shard --data=photos/ --output=shards/photos
    rfd-tf shard --data=photos/ --output=shards/small --format=parquet --image_size=256
    rfd-tf shard --data=cifar10 --split=test --output=shards/cifar10_test
    rfd-tf shard --data=photos.csv --output=shards/photos --runner=DirectRunner

A few large files are faster to copy and to read than many small ones. The other commands read the
same images, labels and names from --data=shards/photos. Files are copied byte for byte unless they
are resized. The folder appears when all is written; one that holds anything is not overwritten.
"""

from __future__ import annotations

import functools

from absl import flags

from rfd_tf.cli import beam_flags, config_flags, data_flags, path_flags
from rfd_tf.cli.common import run

data_flags.DEFINE_data(
    "data",
    None,
    "The images: a folder, shards, an embedded dataset (digits) or a TFDS dataset by name. Stands "
    "for --data_dir or --dataset.",
)
_IMAGES = (
    *("dataset", "data_dir", "tfds_classes", "tfds_dir", "tfds_download"),
    *("max_skipped", *config_flags.READING, "cache_dir", "cache_gb"),
)
config_flags.DEFINE_settings(_IMAGES)
flags.DEFINE_string("split", None, "Which part of --dataset; train if not given.")
path_flags.DEFINE_path("output", None, "The folder to write.")
beam_flags.DEFINE_runner()
_WRITER = config_flags.DEFINE_arguments(
    "data.shards.write",
    "write_shards",
    ("format", "images_per_shard", "image_size"),
    bounds={"images_per_shard": (1, None), "image_size": (1, None)},
)

FLAGS = flags.FLAGS


def main() -> None:
    from rfd_tf.errors import UserError, unknown

    data_flags.resolve()
    beam_flags.check_runner()
    if not FLAGS.output:
        raise UserError("--output is missing; see rfd-tf shard --help")

    from rfd_tf.data import shards
    from rfd_tf.data.run_images import RunImages
    from rfd_tf.data.shards.write import FORMATS, check_output

    check_output(FLAGS.output)  # before the images are read
    if FLAGS.format not in FORMATS:
        raise unknown("format", FLAGS.format, FORMATS)
    given = config_flags.given(_IMAGES)
    download = given.pop("tfds_download", False)
    images = RunImages().replaced(train_split=FLAGS.split, **given)
    make_source = functools.partial(images.train, download, leave_out=[FLAGS.output])
    source, options = make_source(), config_flags.values(_WRITER)
    if FLAGS.runner:
        from rfd_tf.data.shards.beam import shards_by_beam

        given = (make_source, FLAGS.output, FLAGS.runner, FLAGS.beam_option)
        folder = shards_by_beam(source, *given, **options)
    else:
        folder = shards.write_shards(source, FLAGS.output, **options)
    files = sorted(path for path in folder.iterdir() if shards.looks_like_shards(path))
    size = sum(path.stat().st_size for path in files)
    print(source.summary())
    print(f"written: {len(files)} shards, {size / 1e6:,.1f} MB, in {FLAGS.output}")


if __name__ == "__main__":
    run(main)
