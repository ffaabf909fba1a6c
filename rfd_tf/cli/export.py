"""Exports a pretrained backbone to SavedModel, ONNX, LiteRT and Keras files, each verified.

    rfd-tf export --weights=runs/x --format=saved_model,onnx --output_dir=exported/x

writes `saved_model/1/`, `model.onnx`, `backbone.weights.h5`, `README.md` (a model card with code to
use the files) and `card.json` (the same for programs).
"""

from __future__ import annotations

import sys

from absl import flags

from rfd_tf.cli import common, config_flags, data_flags, path_flags

MISMATCH = 1

path_flags.DEFINE_path(
    "weights", None, "A run folder, a .weights.h5 file, or the name of shipped weights."
)
path_flags.DEFINE_path("output_dir", None, "The folder to write.")
_ARGUMENTS = config_flags.DEFINE_arguments(
    "export.backbone",
    "export_backbone",
    (
        "formats", "feature", "endpoints", "outputs", "image_size", "backbone", "opset",
        "onnx_input", "onnx_layout", "quantize", "calibration_images", "saved_model_version",
        "tolerance", "name", "licence", "overwrite",
    ),
    {"formats": "format"},
)  # fmt: skip
flags.DEFINE_alias("layout", "onnx_layout")
data_flags.DEFINE_data(
    "data",
    None,
    "Images like those the model will see: they set the scales of int8, and the loss is measured "
    f"on others of them, with kNN where they have classes: {data_flags.FORMS}. Stands for "
    "--calibration_dir or --dataset. By default the images the run was trained on.",
)
path_flags.DEFINE_path(
    "calibration_dir", None, "Those images: a folder, several, or a list of files."
)
config_flags.DEFINE_images(
    *("dataset", "data_root", "train_split", "tfds_dir", "tfds_download", "max_skipped"),
    *config_flags.READING,
    "cache_dir",
    "cache_gb",
)

FLAGS = flags.FLAGS


def main() -> None:
    from rfd_tf.errors import UserError

    data_flags.resolve()
    for name in ("weights", "output_dir"):
        if not FLAGS[name].value:
            raise UserError(f"--{name} is missing; see rfd-tf export --help")

    from rfd_tf import export

    try:
        card = export.export_backbone(
            FLAGS.weights,
            FLAGS.output_dir,
            calibration=calibration_source(),
            **config_flags.values(_ARGUMENTS),
        )
    except export.ExportMismatch as error:
        print(f"error: not exported: {error}", file=sys.stderr)
        raise SystemExit(MISMATCH) from None
    print(summary(card, FLAGS.output_dir))


def calibration_source():
    """Returns the images for --quantize, or None without --quantize or images."""
    from rfd_tf.errors import UserError
    from rfd_tf.export.quantize import checked_kinds

    if not checked_kinds(FLAGS.quantize):
        for name in ("data", "calibration_dir", "dataset"):
            if FLAGS[name].present:
                raise UserError(f"--{name} goes with --quantize=int8 or float16")
        return None
    from rfd_tf.data.run_images import RunImages

    recorded = RunImages.of_run(FLAGS.weights)
    recorded = recorded.replaced(data_dir=FLAGS.calibration_dir, **config_flags.images())
    if not (recorded.dataset or recorded.data_dir or recorded.photos):
        return None
    return recorded.train(FLAGS.tfds_download)


def summary(card: dict, output_dir: str) -> str:
    """Returns what was written, and each file's difference from Keras, as text."""
    lines = [f"exported {card['name']} to {output_dir}"]
    for output, spec in card["outputs"].items():
        shape = ", ".join(str(size) for size in spec["shape"])
        lines.append(f"  output {output:<12} [{shape}]  {spec['meaning']}")
    for kind, runs in card["verification"].items():
        worst = max(
            agreement["relative_difference"] for run in runs.values() for agreement in run.values()
        )
        lines.append(
            f"  {kind:<12} agrees with Keras: largest difference {worst:.1e} of the largest value"
        )
    for kind, found in card["quantization"].items():
        agreement = found["outputs"]["embedding"]
        line = (
            f"  {kind:<12} against float32, {found['images']} images: "
            f"cosine {agreement['cosine']:.5f} (lowest {agreement['lowest_cosine']:.5f}), largest "
            f"difference {agreement['relative_difference']:.1e} of the largest value"
        )
        if "knn" in found:
            knn = found["knn"]
            line += f", kNN accuracy {100 * knn['float32']:.1f} -> {100 * knn[kind]:.1f} %"
        lines.append(line)
    size = sum(entry["bytes"] for entry in card["files"].values())
    lines.append(f"  {len(card['files'])} files, {size / 1e6:.2f} MB; how to use them: README.md")
    return "\n".join(lines)


if __name__ == "__main__":
    common.run(main)
