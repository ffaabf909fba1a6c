"""Exports a pretrained backbone: SavedModel, ONNX, Keras file, each compared with Keras first.

    python scripts/export.py --weights=runs/x --format=saved_model,onnx --output_dir=exported/x

writes `saved_model/`, `model.onnx`, `backbone.weights.h5`, `README.md` (what it is, and code to
use it) and `card.json` (the same for programs).
"""

from __future__ import annotations

import sys

import common
from absl import flags

MISMATCH = 1

flags.DEFINE_string(
    "weights", None, "A run folder, a .weights.h5 file, or the name of shipped weights."
)
flags.DEFINE_list("format", ["saved_model", "onnx"], "Formats to write: saved_model, onnx, keras.")
flags.DEFINE_string("output_dir", None, "The folder to write.")
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
            tolerance=FLAGS.tolerance,
            name=FLAGS.name,
            licence=FLAGS.licence,
            overwrite=FLAGS.overwrite,
        )
    except export.ExportMismatch as error:
        print(f"error: not exported: {error}", file=sys.stderr)
        raise SystemExit(MISMATCH) from None
    print(summary(card, FLAGS.output_dir))


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
    size = sum(entry["bytes"] for entry in card["files"].values())
    lines.append(f"  {len(card['files'])} files, {size / 1e6:.2f} MB; how to use them: README.md")
    return "\n".join(lines)


if __name__ == "__main__":
    common.run(main)
