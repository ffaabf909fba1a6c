"""Writes `.caffemodel` files, in protocol buffers' wire format."""

import struct

import numpy as np


def varint(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def number(field, value):
    return varint(field << 3) + varint(value)


def sized(field, content):
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def blob(values, old_shape=False, packed=True):
    values = np.asarray(values, "<f4")
    if old_shape:
        shape = (1,) * (4 - values.ndim) + values.shape
        head = b"".join(number(1 + place, size) for place, size in enumerate(shape))
    else:
        head = sized(7, sized(1, b"".join(varint(size) for size in values.shape)))
    if packed:
        return head + sized(5, values.tobytes())
    return head + b"".join(varint(5 << 3 | 5) + struct.pack("<f", v) for v in values.ravel())


def layer(name, kind, bottom, top, blobs=(), stride=None, group=None, epsilon=None, slope=None):
    """A LayerParameter in a NetParameter."""
    content = sized(1, name) + sized(2, kind)
    content += sized(3, bottom) + sized(4, top)
    content += b"".join(sized(7, blob(each)) for each in blobs)
    if kind == "Convolution":
        own = number(4, 3) + (number(6, stride) if stride else b"")
        content += sized(106, own + (number(5, group) if group else b""))
    if epsilon is not None:
        content += sized(139, varint(3 << 3 | 5) + struct.pack("<f", epsilon))
    if slope is not None:
        content += sized(123, varint(1 << 3 | 5) + struct.pack("<f", slope))
    return sized(100, content)


def old_layer(name, kind, bottom, top, blobs=(), stride=None):
    """A V1LayerParameter in a NetParameter; kind is a number."""
    content = sized(2, bottom) + sized(3, top) + sized(4, name) + number(5, kind)
    content += b"".join(sized(6, blob(each, True, False)) for each in blobs)
    if stride:
        content += sized(10, number(6, stride))
    return sized(2, content)
