"""Reads `.caffemodel` files: the layers of a Caffe network and their weights.

A small reader of the protocol buffers' wire format, so that neither Caffe nor its schema is
needed. Nothing in a file is run.
"""

from __future__ import annotations

import dataclasses
import math
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from rfd_tf.errors import UserError, shown
from rfd_tf.paths import expanded

# Protocol buffers cannot be larger.
_LARGEST = 1 << 31
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Types of layers in the format of before 2015.
_V1_TYPES = {4: "Convolution", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU"}
_V0_TYPES = {"conv": "Convolution", "innerproduct": "InnerProduct", "lrn": "LRN", "relu": "ReLU"}


@dataclasses.dataclass
class CaffeLayer:
    """One layer of a `.caffemodel` file.

    Attributes:
        name, type: such as "conv1" and "Convolution".
        bottoms, tops: names of its inputs and outputs.
        blobs: float32 weights in Caffe's order: kernels `[out, in, height, width]`, matrices
            `[out, in]`, vectors; leading ones of the old four-number shapes are left out.
        stride: of a convolution, where the file has it.
        epsilon: of a BatchNorm.
        negative_slope: of a ReLU.
    """

    name: str = ""
    type: str = ""
    bottoms: list[str] = dataclasses.field(default_factory=list)
    tops: list[str] = dataclasses.field(default_factory=list)
    blobs: list[np.ndarray] = dataclasses.field(default_factory=list)
    stride: int | None = None
    epsilon: float = 1e-5
    negative_slope: float = 0.0


def read_caffemodel(path: str | os.PathLike) -> list[CaffeLayer]:
    """Returns the layers of a `.caffemodel` file in their order.

    Reads the current format (`layer`) and both older ones (`layers`).

    Args:
        path: the file.

    Raises:
        UserError: no such file, or a file that is damaged, cut off, or no Caffe network.

    Source: `caffe.proto` of BVLC Caffe; the encoding of protocol buffers.
    """
    path = expanded(path)
    if not path.is_file():
        raise UserError(f"no such Caffe file: '{path}'")
    try:
        if path.stat().st_size >= _LARGEST:
            raise UserError(f"'{path}' has 2 GiB or more, which no .caffemodel can have")
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    layers = []
    try:
        for number, kind, value in _fields(content):
            if number == 100 and kind == _BYTES:
                layers.append(_layer(value))
            elif number == 2 and kind == _BYTES:
                layers.append(_old_layer(value))
    except (ValueError, struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise UserError(f"'{path}' is no Caffe model, or is damaged: {shown(error)}") from None
    if not any(layer.blobs for layer in layers):
        raise UserError(f"'{path}' is no Caffe model: it holds no layer with weights")
    return layers


def _fields(content: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yields (field, wire type, value) of a message: an int, or the bytes of what is longer."""
    at, end = 0, len(content)
    while at < end:
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field without a number")
        if kind == _VARINT:
            value, at = _varint(content, at)
        else:
            if kind == _BYTES:
                size, at = _varint(content, at)
            elif kind in (_FIXED64, _FIXED32):
                size = 8 if kind == _FIXED64 else 4
            else:
                raise ValueError(f"a field of unknown kind {kind}")
            if size > end - at:
                raise ValueError("it is cut off")
            value, at = content[at : at + size], at + size
        yield number, kind, value


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise ValueError("it is cut off")
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), at
    raise ValueError("a number without end")


def _text(value: Any) -> str:
    # Fit to be shown in a message, whatever the file holds.
    return shown(bytes(value).decode("utf-8"))


def _layer(content: memoryview) -> CaffeLayer:
    """A LayerParameter."""
    layer = CaffeLayer()
    for number, kind, value in _fields(content):
        if kind != _BYTES:
            continue
        if number in (1, 2):
            setattr(layer, "name" if number == 1 else "type", _text(value))
        elif number in (3, 4):
            (layer.bottoms if number == 3 else layer.tops).append(_text(value))
        elif number == 7:
            layer.blobs.append(_blob(value))
        elif number == 106:
            layer.stride = _stride(value)
        elif number == 123:
            layer.negative_slope = _float(value, 1, 0.0)
        elif number == 139:
            layer.epsilon = _float(value, 3, 1e-5)
    return layer


def _old_layer(content: memoryview) -> CaffeLayer:
    """A V1LayerParameter, or the V0LayerParameter in it."""
    layer = CaffeLayer()
    for number, kind, value in _fields(content):
        if number == 5 and kind == _VARINT:
            layer.type = _V1_TYPES.get(value, f"type {value}")
        if kind != _BYTES:
            continue
        if number in (2, 3):
            (layer.bottoms if number == 2 else layer.tops).append(_text(value))
        elif number == 4:
            layer.name = _text(value)
        elif number == 6:
            layer.blobs.append(_blob(value))
        elif number == 10:
            layer.stride = _stride(value)
        elif number == 30:
            layer.negative_slope = _float(value, 1, 0.0)
        elif number == 1:
            for inner, inner_kind, inner_value in _fields(value):
                if inner == 10 and inner_kind == _VARINT:
                    layer.stride = inner_value
                elif inner_kind == _BYTES and inner in (1, 2):
                    text = _text(inner_value)
                    if inner == 1:
                        layer.name = text
                    else:
                        layer.type = _V0_TYPES.get(text, text)
                elif inner_kind == _BYTES and inner == 50:
                    layer.blobs.append(_blob(inner_value))
    return layer


def _stride(content: memoryview) -> int:
    """The stride of a ConvolutionParameter; 1 where it has none."""
    for number, kind, value in _fields(content):
        if number in (6, 13):
            return value if kind == _VARINT else _varint(value, 0)[0]
    return 1


def _float(content: memoryview, field: int, default: float) -> float:
    for number, kind, value in _fields(content):
        if number == field and kind == _FIXED32:
            return struct.unpack("<f", value)[0]
    return default


def _blob(content: memoryview) -> np.ndarray:
    """A BlobProto."""
    old = {1: 1, 2: 1, 3: 1, 4: 1}
    shape: list[int] | None = None
    parts: list[np.ndarray] = []
    single: list[bytes] = []
    for number, kind, value in _fields(content):
        if number in old and kind == _VARINT:
            old[number] = value
        elif number == 7 and kind == _BYTES:
            shape = _dimensions(value)
        elif number == 5 and kind == _BYTES:
            parts.append(_numbers(value, "<f4"))
        elif number == 8 and kind == _BYTES:
            parts.append(_numbers(value, "<f8"))
        elif (number, kind) in ((5, _FIXED32), (8, _FIXED64)):
            single.append(bytes(value))
    if single:
        form = "<f4" if len(single[0]) == 4 else "<f8"
        parts.append(_numbers(b"".join(single), form))
    data = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if shape is None:
        shape = [old[key] for key in (1, 2, 3, 4)]
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
    if math.prod(shape) != len(data):
        raise ValueError(f"weights of shape {shape} with {len(data)} numbers")
    return data.astype(np.float32).reshape(shape)


def _numbers(content: Any, form: str) -> np.ndarray:
    if len(content) % np.dtype(form).itemsize:
        raise ValueError("it is cut off within a number")
    return np.frombuffer(content, form)


def _dimensions(content: memoryview) -> list[int]:
    found: list[int] = []
    for number, kind, value in _fields(content):
        if number != 1:
            continue
        if kind == _VARINT:
            found.append(value)
        elif kind == _BYTES:
            at = 0
            while at < len(value):
                size, at = _varint(value, at)
                found.append(size)
    return found
