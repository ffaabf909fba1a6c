"""Embeds all images of a folder or a list: Parquet and NPY files with the names of the images.

    rfd-tf embed --weights=runs/x --data=PATH/TO/IMAGES --output_dir=embeddings
    rfd-tf embed --onnx=exported/x/model.onnx --data=PATH/TO/IMAGES --output_dir=OUT
    rfd-tf embed --weights=runs/x --data=shards/ --output_dir=OUT --runner=DirectRunner

writes `embeddings.parquet` (one row per image: `file`, and a list of float32 per feature),
`FEATURE.npy` with `file_names.json`, `skipped_files.txt` (images that cannot be decoded) and
`embeddings.json`. Memory use does not grow with the folder. Run an interrupted command again to
resume it.
"""

from __future__ import annotations

import functools

from absl import flags

from rfd_tf import paths
from rfd_tf.cli import beam_flags, config_flags, data_flags, path_flags
from rfd_tf.cli.common import run

path_flags.DEFINE_path(
    "weights", None, "A run folder, a .weights.h5 file, or the name of shipped weights."
)
path_flags.DEFINE_path("onnx", None, "Or an ONNX file of rfd-tf export, run by onnxruntime.")
data_flags.DEFINE_data(
    "data",
    None,
    f"The images: {data_flags.FORMS}. Stands for --data_dir or --dataset. Default: the run's "
    "training images.",
)
path_flags.DEFINE_path("output_dir", None, "The folder to write.")
flags.DEFINE_list(
    "features",
    [],
    "Features to write: f, f1, f2, layers such as block4 (averaged over the image), and "
    "rotation_logits or projection of the trained heads. For an ONNX file, names of its outputs. "
    "Default: f, for an ONNX file embedding.",
)
config_flags.DEFINE_images(
    *("data_dir", "dataset", "data_root", "train_split", "tfds_dir", "tfds_download"),
    *config_flags.READING,
    "cache_dir",
    "cache_gb",
    data_dir="images: a folder, flat or nested, several, or a list.",
    train_split="split of --dataset or of a list; all of a list that is given.",
)
_FOLDER = config_flags.DEFINE_arguments(
    "export.embeddings",
    "embed_folder",
    ("formats", "batch_size", "part_images", "overwrite"),
    {"formats": "format"},
)
beam_flags.DEFINE_runner()
_EMBEDDER = config_flags.DEFINE_arguments(
    "export.embedders", "keras_embedder", ("image_size", "backbone")
)

FLAGS = flags.FLAGS


def embedder():
    """Returns a function that creates the network of --weights or --onnx."""
    from rfd_tf import export
    from rfd_tf.errors import UserError

    if FLAGS.weights:
        options = config_flags.values(_EMBEDDER)
        features = FLAGS.features or ["f"]
        return functools.partial(export.keras_embedder, FLAGS.weights, features, **options)
    for name in ("image_size", "backbone"):
        if FLAGS[name].value is not None:
            raise UserError(f"--{name} goes with --weights; an ONNX file has its own")
    return functools.partial(export.onnx_embedder, FLAGS.onnx, FLAGS.features)


def images():
    """The images that the flags name, or that the run was trained on."""
    from rfd_tf.data.run_images import RunImages
    from rfd_tf.errors import UserError

    recorded = RunImages.of_run(FLAGS.weights) if FLAGS.weights else RunImages()
    found = recorded.replaced(**config_flags.images())
    if not (found.data_dir or found.dataset):
        raise UserError("--data_dir is missing, the images; see rfd-tf embed --help")
    return found


def main() -> None:
    from rfd_tf.errors import UserError

    data_flags.resolve()
    if not FLAGS.output_dir:
        raise UserError("--output_dir is missing; see rfd-tf embed --help")
    found = images()
    if not FLAGS.weights and not FLAGS.onnx:
        raise UserError("give --weights (a run folder, a file, a shipped name), or --onnx")
    if FLAGS.weights and FLAGS.onnx:
        raise UserError("give --weights or --onnx, not both")

    beam_flags.check_runner()
    print(summary(written(found), FLAGS.output_dir))


def written(found) -> dict:
    """Embeds images; returns the report.

    Args:
        found: `rfd_tf.data.run_images.RunImages`.
    """
    from rfd_tf import export
    from rfd_tf.data.file_list import ALL

    of_list = {
        "data_root": found.data_root,
        "split": found.train_split or ALL,
        **found.reading(),
        "cache_dir": found.cache_dir,
        "cache_gb": found.cache_gb,
    }
    options = {"progress": True, **config_flags.values(_FOLDER)}
    if FLAGS.runner:
        from rfd_tf.data import given
        from rfd_tf.export import beam, embeddings

        output = paths.absolute(FLAGS.output_dir)  # workers may run in other folders
        source = functools.partial(found.train, FLAGS.tfds_download)
        if found.data_dir:
            place = given.absolute(found.data_dir)
            source = functools.partial(embeddings.listed, place, output, **of_list)
        return beam.embed_by_beam(
            embedder(), source, output, FLAGS.runner, FLAGS.beam_option, **options
        )
    return export.embed_folder(
        embedder()(),
        found.data_dir or found.train(FLAGS.tfds_download),
        FLAGS.output_dir,
        **of_list,
        **options,
    )


def summary(report: dict, output_dir: str) -> str:
    """Returns what was embedded, and how fast, as text."""
    features = ", ".join(f"{name} [{size}]" for name, size in report["dimensions"].items())
    lines = [f"{report['images']:,} images embedded in {output_dir}: {features}"]
    if report["embedded_now"]:
        earlier = report["images"] - report["embedded_now"]
        lines.append(
            f"  {report['embedded_now']:,} now, in {report['seconds']:.1f} s "
            f"({report['images_per_second']:,.0f} images a second)"
            + (f"; {earlier:,} were there already" if earlier > 0 else "")
        )
    else:
        lines.append("  all were there already")
    if report["skipped"]:
        lines.append(f"  {report['skipped']:,} cannot be decoded: skipped_files.txt")
    lines.append(f"  files: {', '.join(report['files'])}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
