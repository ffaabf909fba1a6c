"""How fast the exported forms of a backbone are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from research.benchmarks.base import Entry, alternate, milliseconds, paired_ratio
from rfd_tf import applications

TINY = {"backbone": "six_layer", "image_size": 16, "batch_sizes": (1, 2)}
#: Images that the 8-bit scales are set by.
CALIBRATION_IMAGES = 16


def inference(
    rounds: int = 5,
    backbone: str = "resnet18",
    image_size: int = 224,
    batch_sizes: Sequence[int] = (1, 64),
) -> Iterator[Entry]:
    """Time of an exported backbone / time of Keras' `model.predict` on the same pixels.

    The forms: ONNX in float32 and in 8-bit integers (onnxruntime, static quantisation), and
    SavedModel. All take uint8 pixels and give the pooled feature, in float32.

    Args:
        rounds: how often each is timed.
        backbone, image_size: what is exported, with random weights.
        batch_sizes: images a call.
    """
    from rfd_tf.export import deployable
    from rfd_tf.export.onnx import write_onnx
    from rfd_tf.export.quantize import quantize_int8
    from rfd_tf.export.runtime import session
    from rfd_tf.export.saved_model import write_saved_model

    network = applications.build(backbone, image_size)
    record = {
        "mean": list(applications.IMAGENET_MEAN),
        "std": list(applications.IMAGENET_STD),
        "feature": {"endpoint": applications.endpoints(network)[-1], "pooling": "avg"},
    }
    model = deployable(network, record)
    draw = np.random.default_rng(0)
    shape = (image_size, image_size, 3)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_onnx(model, folder / "float32.onnx")
        write_saved_model(model, folder / "saved_model")
        calibration = draw.integers(0, 256, (CALIBRATION_IMAGES, *shape), "uint8")
        quantize_int8(folder / "float32.onnx", folder / "int8.onnx", calibration)
        float32, int8 = session(folder / "float32.onnx"), session(folder / "int8.onnx")
        saved = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]
        for batch_size in batch_sizes:
            pixels = draw.integers(0, 256, (batch_size, *shape), "uint8")
            runs = {
                "predict": lambda pixels=pixels: model.predict(
                    pixels, batch_size=len(pixels), verbose=0
                )["embedding"],
                "onnx_float32": lambda pixels=pixels: float32.run(
                    ["embedding"], {"pixels": pixels}
                )[0],
                "onnx_int8": lambda pixels=pixels: int8.run(["embedding"], {"pixels": pixels})[0],
                "saved_model": lambda pixels=pixels: saved(pixels=tf.constant(pixels))[
                    "embedding"
                ].numpy(),
            }
            expected = runs["predict"]()
            seconds = alternate(runs, rounds)
            for form in ("onnx_float32", "onnx_int8", "saved_model"):
                yield Entry(
                    f"inference/{form}_batch_{batch_size}",
                    paired_ratio(seconds[form], seconds["predict"]),
                    f"time of {form} / of model.predict, {backbone} at {image_size}, batch "
                    f"{batch_size}",
                    details={
                        "ms": milliseconds(seconds[form]),
                        "predict_ms": milliseconds(seconds["predict"]),
                        "cosine_to_predict": round(_cosine(runs[form](), expected), 5),
                    },
                )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Mean cosine of the angle between the rows of two arrays."""
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean(np.sum(a * b, axis=1) / np.maximum(lengths, 1e-12)))
