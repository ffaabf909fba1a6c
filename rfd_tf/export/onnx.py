"""ONNX: one input of pixels, named outputs, a batch of any size."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfd_tf.errors import UserError, unknown
from rfd_tf.export.runtime import onnxruntime
from rfd_tf.paths import expanded

if TYPE_CHECKING:
    import keras
    import onnx

OPSETS = (13, 14, 15, 16, 17, 18)
DEFAULT_OPSET = 17
INPUT_DTYPES = ("uint8", "float32")
LAYOUTS = ("nhwc", "nchw")
INPUT = "pixels"
BATCH = "batch"


def check_options(opset: int, input_dtype: str, layout: str) -> None:
    """Raises `UserError` for an option that `write_onnx` does not have, and lists those it has."""
    if opset not in OPSETS:
        raise unknown("opset", opset, OPSETS)
    if input_dtype not in INPUT_DTYPES:
        raise unknown("ONNX input dtype", input_dtype, INPUT_DTYPES)
    if layout not in LAYOUTS:
        raise unknown("ONNX layout", layout, LAYOUTS)


def check_packages() -> None:
    """Raises `UserError` where the packages that write and check ONNX are not installed."""
    try:
        import onnx  # noqa: F401
        import tf2onnx  # noqa: F401

        onnxruntime()
    except ImportError as error:
        raise UserError(
            f"ONNX export needs the package '{error.name}'; "
            "install it: pip install onnx onnxruntime tf2onnx"
        ) from error


def write_onnx(
    model: keras.Model,
    path: str | Path,
    *,
    opset: int = DEFAULT_OPSET,
    input_dtype: str = "uint8",
    layout: str = "nhwc",
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes an ONNX file of a model from pixels to named features.

    Input: `pixels`, `[batch, S, S, 3]` (`nhwc`) or `[batch, 3, S, S]` (`nchw`), RGB from 0 to 255.
    Outputs: the model's, by name, float32; maps are `[batch, H, W, C]` in either layout. The batch
    is free. Normalisation is part of the graph; decoding and resizing are not (ONNX has no
    counterpart of them).

    Args:
        model: what `deployable` gives: pixels 0-255 `[batch, S, S, 3]` to a dict of features.
        path: the file to write.
        opset: version of the operator set, one of `OPSETS`.
        input_dtype: `"uint8"` or `"float32"`.
        layout: `"nhwc"` or `"nchw"`.
        metadata: entries for the file's metadata; what is not text is written as JSON.

    Raises:
        UserError: an option that does not exist, a package that is missing, or a network with an
            operation that ONNX does not have.
        RuntimeError: the graph is not as specified.

    >>> import os, tempfile, onnx
    >>> from rfd_tf import applications
    >>> from rfd_tf.export import deployable
    >>> network = applications.build("six_layer", 32)
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> _ = write_onnx(deployable(network, record), path, opset=17)
    >>> onnx.load(path).graph.input[0].name
    'pixels'
    """
    check_options(opset, input_dtype, layout)
    check_packages()
    import onnx
    import tf2onnx

    signature, function, outputs = _frozen(model, input_dtype)
    with _quiet_conversion():
        proto, _ = tf2onnx.convert.from_function(
            function,
            input_signature=[signature],
            opset=opset,
            inputs_as_nchw=[INPUT] if layout == "nchw" else None,
        )
    _check_operations(proto)
    _name_batch(proto)
    proto.producer_name = "rfd_tf"
    entries = {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in (metadata or {}).items()
    }
    onnx.helper.set_model_props(proto, entries)
    check_graph(proto, outputs)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save_model(proto, str(expanded(path)))


def check_graph(proto: onnx.ModelProto, outputs: Iterable[str]) -> None:
    """Checks that a graph is what `write_onnx` promises.

    Args:
        proto: the ONNX model.
        outputs: the names that the outputs must have, in any order.

    Raises:
        RuntimeError: other inputs than `pixels` (constants that TensorFlow passed on as inputs),
            other outputs, a batch that is not free, or a mean over the batch: the mark of batch
            normalisation that was converted in training mode.
    """
    import onnx

    graph = proto.graph
    inputs = [value.name for value in graph.input]
    if inputs != [INPUT]:
        raise RuntimeError(f"the ONNX graph takes {inputs}, not just '{INPUT}'")
    names = [value.name for value in graph.output]
    if sorted(names) != sorted(outputs):
        raise RuntimeError(f"the ONNX graph gives {names}, not {sorted(outputs)}")
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.shape.dim[0].dim_param != BATCH:
            raise RuntimeError(f"the batch of '{value.name}' is not free in the ONNX graph")

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("ReduceMean", "ReduceSum"):
            continue
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
        if axes is None and len(node.input) > 1 and node.input[1] in constants:
            axes = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
        if axes is None or 0 in axes:
            raise RuntimeError(
                f"ONNX node '{node.name}' ({node.op_type}) reduces over the batch: the network "
                "was converted in training mode"
            )


def _frozen(model: keras.Model, input_dtype: str) -> tuple[Any, Any, list[str]]:
    """Returns the input's signature, a function of it that captures nothing, and its outputs."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    signature = tf.TensorSpec([None, *model.input_shape[1:]], input_dtype, name=INPUT)

    @tf.function(input_signature=[signature], autograph=False)
    def features(pixels):
        return model(tf.cast(pixels, tf.float32), training=False)

    concrete = features.get_concrete_function()
    names = sorted(concrete.structured_outputs)
    if all(tensor.dtype == tf.resource for tensor in concrete.captured_inputs):
        return signature, features, names

    # tf2onnx makes an input of every constant that a function captures, for example those of
    # keras.layers.Normalization: hand it a function in which they are part of the graph.
    frozen = convert_variables_to_constants_v2(concrete)

    @tf.function(input_signature=[signature], autograph=False)
    def constant_features(pixels):
        values = tf.nest.flatten(frozen(pixels))
        return {
            name: tf.ensure_shape(value, concrete.structured_outputs[name].shape)
            for name, value in zip(names, values, strict=True)
        }

    return signature, constant_features, names


def _check_operations(proto: onnx.ModelProto) -> None:
    import onnx

    missing = sorted(
        {
            node.op_type
            for node in proto.graph.node
            if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type)
        }
    )
    if missing:
        raise UserError(
            f"this backbone uses operations that ONNX does not have ({', '.join(missing)}); "
            "export it as saved_model or keras"
        )


def _name_batch(proto: onnx.ModelProto) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    # The shapes in between carry the converter's own names for the batch; runtimes infer them.
    del proto.graph.value_info[:]


@contextlib.contextmanager
def _quiet_conversion() -> Iterator[None]:
    """Keeps the converter's log to itself: what matters of it, the checks here tell."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
