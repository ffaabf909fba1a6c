"""Finds images that a set has twice: identical files, and pairs that look nearly the same.

    rfd-tf duplicates --data=photos --output_dir=duplicates
    rfd-tf duplicates --data=photos --weights=runs/x --similarity=0.95 --output_dir=duplicates

writes `duplicates.parquet` (one row per pair: `first`, `second`, `similarity`, `identical`),
`duplicates.json` and `duplicates.png` (the most similar pairs that are not identical).
"""

from __future__ import annotations

from absl import flags

from rfd_tf.cli import common, config_flags, data_flags, path_flags
from rfd_tf.config import PretrainConfig

FLAGS = flags.FLAGS

data_flags.DEFINE_data(
    "data", None, f"The images: {data_flags.FORMS}. Stands for --data_dir or --dataset."
)
_IMAGES = (
    *("dataset", "data_dir", "data_root", "train_split", "tfds_classes", "tfds_dir"),
    *("tfds_download", "max_skipped", *config_flags.READING, "cache_dir", "cache_gb"),
)
config_flags.DEFINE_settings(_IMAGES)
path_flags.DEFINE_path("output_dir", None, "The folder to write.")
path_flags.DEFINE_path(
    "weights",
    None,
    "A run folder, a .weights.h5 file, or the name of shipped weights, whose features compare the "
    "images. Without, thumbnails do.",
)
_SEARCH = config_flags.DEFINE_arguments(
    "interpret.duplicates", "find_duplicates", ("similarity", "overwrite")
)


def main() -> None:
    from rfd_tf import estimation
    from rfd_tf.errors import UserError

    data_flags.resolve()
    if not FLAGS.output_dir:
        raise UserError("--output_dir is missing; see rfd-tf duplicates --help")
    settings = PretrainConfig.create(config_flags.given(_IMAGES))

    from rfd_tf.interpret import duplicates

    duplicates.check(FLAGS.output_dir, FLAGS.similarity, FLAGS.overwrite)
    embedder = None
    if FLAGS.weights:
        from rfd_tf import export

        embedder = export.keras_embedder(FLAGS.weights)
    settings.merge_copies = False  # they are what is looked for
    source = estimation.load(settings)
    report = duplicates.find_duplicates(
        source, FLAGS.output_dir, embedder=embedder, **config_flags.values(_SEARCH)
    )
    print(summary(report, FLAGS.output_dir))


def summary(report: dict, output_dir: str) -> str:
    """Returns what was found, as text."""
    lines = [
        f"{report['images']:,} images: {report['identical']:,} identical to an earlier one, "
        f"{report['similar']:,} further pairs with a similarity of at least "
        f"{report['similarity']:g}",
        f"  files in {output_dir}: {', '.join(report['files'])}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    common.run(main)
