"""Running an ONNX file that `write_onnx` made: from uint8 pixels to named features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rfd_tf.errors import UserError
from rfd_tf.export.runtime import session
from rfd_tf.paths import expanded


class OnnxModel:
    """Pixels to features by onnxruntime on the CPU, whatever dtype and layout the file takes.

    Args:
        path: of the file, in float32, float16 or int8.

    Attributes:
        path: of the file.
        input_name: what its input is called.
        image_size: side S of its images, in pixels.
        outputs: the names of its outputs, in their order.
        metadata: the file's metadata: name -> value, JSON decoded.

    Raises:
        UserError: no such file, not an ONNX file, or one whose input is not square RGB images.

    >>> import os, tempfile
    >>> from rfd_tf import applications
    >>> from rfd_tf.export import deployable, write_onnx
    >>> network = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8))
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> write_onnx(deployable(network, record), path, layout="nchw")
    >>> model = OnnxModel(path)
    >>> model(np.zeros((2, 16, 16, 3), np.uint8))["embedding"].shape
    (2, 8)
    """

    def __init__(self, path: str | Path):
        self.path = expanded(path)
        if not self.path.is_file():
            raise UserError(f"no such ONNX file: '{path}'")
        try:
            self._session = session(self.path)
        except Exception as error:  # onnxruntime's own types, which its versions name differently
            reason = " ".join(str(error).split())
            raise UserError(f"'{path}' cannot be run as ONNX: {reason}") from None
        inputs = self._session.get_inputs()
        shape = list(inputs[0].shape) if len(inputs) == 1 else []
        dtypes = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
        channels_last = shape[3:] == [3] and shape[1] == shape[2]
        channels_first = shape[1:2] == [3] and shape[2:3] == shape[3:]
        dtype = dtypes.get(inputs[0].type) if inputs else None
        if len(shape) != 4 or dtype is None or not (channels_last or channels_first):
            taken = ", ".join(f"{value.name} {value.type} {value.shape}" for value in inputs)
            raise UserError(
                f"'{path}' takes {taken or 'nothing'}, not pixels of square RGB images, uint8 or "
                "float32; rfd-tf export writes such a file"
            )
        self.input_name, self._dtype, self._channels_last = inputs[0].name, dtype, channels_last
        if not isinstance(shape[2], int):
            raise UserError(f"'{path}' does not say how large its images are: {shape}")
        self.image_size = shape[2]
        self.outputs = [value.name for value in self._session.get_outputs()]
        self.metadata = {
            key: _decoded(text)
            for key, text in self._session.get_modelmeta().custom_metadata_map.items()
        }

    def __call__(self, pixels: np.ndarray, names: list[str] | None = None) -> dict[str, np.ndarray]:
        """Returns the outputs by name.

        Args:
            pixels: `[batch, S, S, 3]`, RGB, 0 to 255.
            names: the outputs wanted; by default all.
        """
        names = self.outputs if names is None else names
        values = self._session.run(names, {self.input_name: self.batch(pixels)})
        return dict(zip(names, values, strict=True))

    def batch(self, pixels: np.ndarray) -> np.ndarray:
        """Returns pixels as the file takes them: its dtype, its layout."""
        pixels = np.asarray(pixels).astype(self._dtype)
        return np.ascontiguousarray(pixels if self._channels_last else pixels.transpose(0, 3, 1, 2))


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
