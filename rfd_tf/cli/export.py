"""Exports a pretrained backbone: SavedModel, ONNX, Keras file, each compared with Keras first.

    rfd-tf export --weights=runs/x --format=saved_model,onnx --output_dir=exported/x

writes `saved_model/1/`, `model.onnx`, `backbone.weights.h5`, `README.md` (what it is, and code to
use it) and `card.json` (the same for programs).
"""

from __future__ import annotations

import sys

from absl import flags

from rfd_tf.cli import common, limit_flags, path_flags

MISMATCH = 1

path_flags.DEFINE_path(
    "weights", None, "A run folder, a .weights.h5 file, or the name of shipped weights."
)
flags.DEFINE_list("format", ["saved_model", "onnx"], "Formats to write: saved_model, onnx, keras.")
path_flags.DEFINE_path("output_dir", None, "The folder to write.")
flags.DEFINE_string(
    "feature", "f", "What `embedding` is: f (the pooled feature) or its half f1 or f2."
)
flags.DEFINE_list("endpoints", [], "Layers whose outputs are given as well, for example block2.")
flags.DEFINE_list(
    "outputs",
    [],
    "Further outputs: f, f1, f2 (the feature and its halves beside one another), and of the heads "
    "trained with the backbone rotation_logits, projection. A .keras file has the backbone only.",
)
flags.DEFINE_integer("image_size", None, "Pixels a side; by default as recorded in the weights.")
flags.DEFINE_string("backbone", None, "The network's name, for weights that carry no record of it.")
flags.DEFINE_integer("opset", 17, "ONNX operator set, 13 to 18.")
flags.DEFINE_string("onnx_input", "uint8", "Dtype of the ONNX file's pixels: uint8 or float32.")
flags.DEFINE_string("onnx_layout", "nhwc", "Layout of the ONNX file's pixels: nhwc or nchw.")
flags.DEFINE_alias("layout", "onnx_layout")
flags.DEFINE_list(
    "quantize",
    [],
    "Smaller ONNX files as well: int8 (model.int8.onnx, static quantisation) and float16 "
    "(model.float16.onnx). What they lose is printed and on the card.",
)
path_flags.DEFINE_path(
    "calibration_dir",
    None,
    "A folder of images like those the model will see: they set the scales of int8, and the loss "
    "is measured on others of them, with kNN where sub-folders name classes. By default the images "
    "the run was trained on.",
)
limit_flags.DEFINE_max_skipped()
limit_flags.DEFINE_max_megapixels()
flags.DEFINE_integer("calibration_images", 256, "At most so many images set the scales of int8.")
flags.DEFINE_integer(
    "saved_model_version",
    1,
    "The SavedModel goes to saved_model/VERSION/; TensorFlow Serving serves the highest version.",
)
flags.DEFINE_float(
    "tolerance", 1e-4, "Largest difference from Keras, as a fraction of the largest value."
)
flags.DEFINE_string("name", None, "The model's name on its card; by default the output folder's.")
flags.DEFINE_string("licence", "", "Terms of use, for the card.")
flags.DEFINE_bool("overwrite", False, "Replace an earlier export in the output folder.")

FLAGS = flags.FLAGS


def main() -> None:
    from rfd_tf.errors import UserError

    for name in ("weights", "output_dir"):
        if not FLAGS[name].value:
            raise UserError(f"--{name} is missing; see scripts/export.py --help")

    from rfd_tf import export

    try:
        card = export.export_backbone(
            FLAGS.weights,
            FLAGS.output_dir,
            FLAGS.format,
            feature=FLAGS.feature,
            endpoints=FLAGS.endpoints,
            outputs=FLAGS.outputs,
            image_size=FLAGS.image_size,
            backbone=FLAGS.backbone,
            opset=FLAGS.opset,
            onnx_input=FLAGS.onnx_input,
            onnx_layout=FLAGS.onnx_layout,
            quantize=FLAGS.quantize,
            calibration=calibration_source(),
            calibration_images=FLAGS.calibration_images,
            saved_model_version=FLAGS.saved_model_version,
            tolerance=FLAGS.tolerance,
            name=FLAGS.name,
            licence=FLAGS.licence,
            overwrite=FLAGS.overwrite,
        )
    except export.ExportMismatch as error:
        print(f"error: not exported: {error}", file=sys.stderr)
        raise SystemExit(MISMATCH) from None
    print(summary(card, FLAGS.output_dir))


def calibration_source():
    """The images for --quantize, or None where it is not asked for or there are none."""
    from rfd_tf.errors import UserError
    from rfd_tf.export.quantize import checked_kinds

    if not checked_kinds(FLAGS.quantize):
        if FLAGS.calibration_dir:
            raise UserError("--calibration_dir goes with --quantize=int8 or float16")
        return None
    from rfd_tf.data.run_images import RunImages

    recorded = RunImages.of_run(FLAGS.weights)
    recorded = recorded.replaced(data_dir=FLAGS.calibration_dir, **limit_flags.given())
    if not (recorded.dataset or recorded.data_dir or recorded.photos):
        return None
    return recorded.train()


def summary(card: dict, output_dir: str) -> str:
    """Returns what was written, and how far each file is from Keras, as text."""
    lines = [f"exported {card['name']} to {output_dir}"]
    for output, spec in card["outputs"].items():
        shape = ", ".join(str(size) for size in spec["shape"])
        lines.append(f"  output {output:<12} [{shape}]  {spec['meaning']}")
    for kind, runs in card["verification"].items():
        worst = max(
            figures["relative_difference"] for run in runs.values() for figures in run.values()
        )
        lines.append(
            f"  {kind:<12} agrees with Keras: largest difference {worst:.1e} of the largest value"
        )
    for kind, found in card["quantization"].items():
        figures = found["outputs"]["embedding"]
        line = (
            f"  {kind:<12} against float32, {found['images']} images: cosine "
            f"{figures['cosine']:.5f} (lowest {figures['lowest_cosine']:.5f}), largest difference "
            f"{figures['relative_difference']:.1e} of the largest value"
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
