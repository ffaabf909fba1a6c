"""LiteRT (`.tflite`), for phones and small computers: written and run."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfd_tf.errors import UserError
from rfd_tf.paths import expanded

if TYPE_CHECKING:
    import keras

FILE = "model.tflite"
FILES = {kind: f"model.{kind}.tflite" for kind in ("int8", "float16")}
INPUT = "pixels"
METADATA = "rfd_tf"
_SIGNATURE = "serving_default"


def write_litert(
    model: keras.Model,
    path: str | Path,
    *,
    precision: str = "float32",
    images: np.ndarray | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a LiteRT file of a model from pixels to named features, by TensorFlow's converter.

    Input of the signature `serving_default`: `pixels`, uint8 `[batch, S, S, 3]`, RGB. Outputs: the
    model's, by name, float32. The batch is free: an interpreter is resized to it. Only LiteRT's own
    operations are used, none of TensorFlow's.

    Args:
        model: what `deployable` gives: pixels 0-255 `[batch, S, S, 3]` to a dict of features.
        path: the file to write.
        precision: `"float32"`; `"float16"`, which stores weights in half the bytes; or `"int8"`,
            which computes in 8-bit integers wherever LiteRT can.
        images: uint8 `[N, S, S, 3]`, such as the model will see; they set the scales of int8.
        metadata: the file's metadata; see `LiteRTModel.metadata`.

    Raises:
        UserError: an operation of the network that LiteRT does not have, or int8 without images.

    >>> import os
    >>> from rfd_tf import applications
    >>> from rfd_tf.export import deployable
    >>> network = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8))
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> path = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> write_litert(deployable(network, record), path, metadata={"name": "small"})
    >>> LiteRTModel(path).metadata
    {'name': 'small'}
    """
    import tensorflow as tf

    from rfd_tf.export.saved_model import write_saved_model

    path = expanded(path)
    operations = [tf.lite.OpsSet.TFLITE_BUILTINS]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quietly():
        write_saved_model(model, folder, files=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[_SIGNATURE])
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            if images is None or not len(images):
                raise UserError("int8 needs images that set its scales")
            converter.representative_dataset = lambda: (
                {INPUT: image} for image in np.asarray(images, np.uint8)[:, None]
            )
            operations.insert(0, tf.lite.OpsSet.TFLITE_BUILTINS_INT8)
        converter.target_spec.supported_ops = operations
        try:
            converted = converter.convert()
        except Exception as error:  # the converter's own type, private to TensorFlow
            raise UserError(
                f"LiteRT does not have all of this network's operations: {_first(error)}"
            ) from None
    path.write_bytes(_with_metadata(converted, metadata or {}))


def _first(error: Exception) -> str:
    """Returns the line of a converter's error that names the operations, or its first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "ops:" in line or "op is" in line]
    return (named or lines or [type(error).__name__])[0]


def _with_metadata(model: bytes, metadata: Mapping[str, Any]) -> bytes:
    if not metadata:
        return model
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    tree = flatbuffer_utils.convert_bytearray_to_object(bytearray(model))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(json.dumps(metadata, sort_keys=True).encode("utf-8"))
    tree.buffers.append(buffer)
    entry.name, entry.buffer = METADATA, len(tree.buffers) - 1
    tree.metadata.append(entry)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(tree))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps TensorFlow's notices of the conversion to itself."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def interpreter(path: str | Path) -> Any:
    """Returns LiteRT's interpreter of a file: of the package ai-edge-litert, else TensorFlow's."""
    return _interpreter_class()[0](model_path=str(path))


def description() -> str:
    """Returns which interpreter runs the files, and its version.

    >>> description().split()[0] in ("ai-edge-litert", "tensorflow.lite")
    True
    """
    return _interpreter_class()[1]


def _interpreter_class() -> tuple[Any, str]:
    try:
        import importlib.metadata

        from ai_edge_litert.interpreter import Interpreter

        version = importlib.metadata.version("ai-edge-litert")
        return Interpreter, f"ai-edge-litert {version}"
    except ImportError:
        import tensorflow as tf

        def quiet(**arguments: Any) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it advises the other package
                return tf.lite.Interpreter(**arguments)

        return quiet, f"tensorflow.lite {tf.__version__}"


class LiteRTModel:
    """Pixels to features by LiteRT on the CPU.

    Args:
        path: a file of `write_litert`.

    Attributes:
        path: of the file.
        image_size: side S of its images, in pixels.
        outputs: the names of its outputs, sorted.

    Raises:
        UserError: no such file, not a LiteRT file, or one whose input is not square RGB images.

    >>> from rfd_tf import applications
    >>> from rfd_tf.export import deployable
    >>> network = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8))
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> path = tempfile.mkdtemp() + "/model.tflite"
    >>> write_litert(deployable(network, record), path)
    >>> LiteRTModel(path)(np.zeros((2, 16, 16, 3), np.uint8))["embedding"].shape
    (2, 8)
    """

    def __init__(self, path: str | Path):
        self.path = expanded(path)
        if not self.path.is_file():
            raise UserError(f"no such LiteRT file: '{path}'")
        try:
            self._interpreter = interpreter(self.path)
            self._run = self._interpreter.get_signature_runner(_SIGNATURE)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"'{path}' cannot be run as LiteRT: {reason}") from None
        inputs = self._run.get_input_details()
        shape = list(inputs[INPUT]["shape_signature"]) if list(inputs) == [INPUT] else []
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
            raise UserError(
                f"'{path}' takes {', '.join(inputs) or 'nothing'}, not pixels of square RGB "
                "images; rfd-tf export writes such a file"
            )
        self.image_size = int(shape[1])
        self.outputs = sorted(self._run.get_output_details())

    @property
    def metadata(self) -> dict[str, Any]:
        """The file's metadata; empty where it has none."""
        from tensorflow.lite.tools import flatbuffer_utils

        tree = flatbuffer_utils.read_model(str(self.path))
        for entry in tree.metadata or ():
            if entry.name == METADATA.encode():
                return json.loads(bytes(bytearray(tree.buffers[entry.buffer].data)))
        return {}

    def __call__(self, pixels: np.ndarray, names: list[str] | None = None) -> dict[str, np.ndarray]:
        """Returns the outputs by name.

        Args:
            pixels: `[batch, S, S, 3]`, RGB, 0 to 255.
            names: the outputs wanted; by default all.
        """
        values = self._run(**{INPUT: np.asarray(pixels).astype(np.uint8)})
        return {name: values[name] for name in (self.outputs if names is None else names)}
