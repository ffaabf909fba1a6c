"""Smaller ONNX files: 8-bit integers, and floating point of 16 bits."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from rfd_tf.errors import UserError, chosen
from rfd_tf.export.runtime import onnxruntime
from rfd_tf.paths import expanded

QUANTIZATIONS = ("int8", "float16")
FILES = {kind: f"model.{kind}.onnx" for kind in QUANTIZATIONS}
_BATCH = 8


def checked_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Returns the kinds asked for, each once; raises `UserError` for one that does not exist.

    >>> checked_kinds(["float16", "int8", "int8"])
    ('int8', 'float16')
    """
    return chosen("quantisation", kinds, QUANTIZATIONS)


def quantize_int8(source: str | Path, target: str | Path, images: np.ndarray) -> None:
    """Writes an ONNX file in 8-bit integers, whose inputs and outputs are those of the original.

    Static quantisation: weights int8 from -64 to 64 with a scale for each channel, activations
    uint8 with a scale set by the smallest and largest values on the images. Stored as pairs of
    QuantizeLinear and DequantizeLinear around the operations (QDQ), which runtimes fuse.

    Weights use 7 of their 8 bits because x86 processors without VNNI add two products of an
    activation and a weight in 16 bits: 2 * 255 * 64 fits, 2 * 255 * 127 saturates.

    Args:
        source: an ONNX file in float32, of `write_onnx`.
        target: the file to write.
        images: uint8 `[N, S, S, 3]`, such as the model will see: they set the scales.

    Raises:
        UserError: no images, or of another size than the model's.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018; `onnxruntime.quantization`.

    >>> from rfd_tf import applications
    >>> from rfd_tf.export import deployable, verification_images, write_onnx
    >>> network = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8))
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> folder = tempfile.mkdtemp()
    >>> write_onnx(deployable(network, record), f"{folder}/model.onnx")
    >>> quantize_int8(f"{folder}/model.onnx", f"{folder}/int8.onnx", verification_images(16))
    >>> from rfd_tf.export import OnnxModel
    >>> OnnxModel(f"{folder}/int8.onnx").outputs
    ['embedding']
    """
    onnxruntime()
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from rfd_tf.export.onnx_model import OnnxModel

    source, target = expanded(source), expanded(target)
    model = OnnxModel(source)
    side = model.image_size
    if len(images) == 0 or images.shape[1:] != (side, side, 3):
        raise UserError(
            f"calibration needs images [N, {side}, {side}, 3] and got {list(images.shape)}"
        )
    batches = (
        {model.input_name: model.batch(images[start : start + _BATCH])}
        for start in range(0, len(images), _BATCH)
    )

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):
            return next(batches, None)

    with _quietly(), tempfile.TemporaryDirectory(dir=target.parent) as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(made),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
        )
        _finish(source, made, target, "int8")


def convert_float16(source: str | Path, target: str | Path) -> None:
    """Writes an ONNX file that computes in float16; inputs and outputs are as they were.

    Half the size. Graphics processors and phones compute faster so; onnxruntime on a processor
    mostly does not.

    Args:
        source: an ONNX file in float32, of `write_onnx`.
        target: the file to write.

    >>> from rfd_tf import applications
    >>> from rfd_tf.export import deployable, write_onnx
    >>> network = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8))
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> folder = tempfile.mkdtemp()
    >>> write_onnx(deployable(network, record), f"{folder}/model.onnx")
    >>> convert_float16(f"{folder}/model.onnx", f"{folder}/float16.onnx")
    >>> Path(f"{folder}/float16.onnx").stat().st_size < Path(f"{folder}/model.onnx").stat().st_size
    True
    """
    onnxruntime()
    source, target = expanded(source), expanded(target)
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quietly(), tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "float16.onnx"
        proto = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
        model = ONNXModel(proto)
        model.topological_sort()  # the casts at the inputs come last
        onnx.save_model(model.model, str(made))
        _finish(source, made, target, "float16")


def _finish(source: str | Path, made: Path, target: str | Path, kind: str) -> None:
    """Says in the file what it is, checks it, and puts it in its place."""
    import onnx

    from rfd_tf.export.onnx import check_graph

    original = onnx.load(str(source))
    proto = onnx.load(str(made))
    entries = {entry.key: entry.value for entry in original.metadata_props}
    onnx.helper.set_model_props(proto, {**entries, "precision": kind})
    proto.producer_name = "rfd_tf"
    # Shapes in between are what runtimes infer; those of the converters can be wrong.
    del proto.graph.value_info[:]
    check_graph(proto, [value.name for value in original.graph.output])
    onnx.checker.check_model(proto, full_check=True)
    onnx.save_model(proto, str(target))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps the converters' advice to itself: what it advises is done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
