"""TFRecord files of `tf.train.Example`, read without TensorFlow.

A record is its length, the length's checksum, the content and the content's checksum. Where in the
content an image lies is found by going over the fields of the protocol buffer.

Source: tensorflow/core/lib/io/record_writer.h; example.proto and feature.proto in
tensorflow/core/example.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import numpy as np

from rfd_tf.data.shards.listing import FileBytes, HeldBytes, Label, Listing, Wanted, label_of

_HEAD, _TAIL = 12, 4
_BATCH = 1024
_IMAGES = ("image/encoded", "image")
_LABELS = ("image/class/label", "label")
_NAME = "image/filename"
_MOST_SIDE_BYTES = 1 << 16
_MOST_KEY = 1024

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_BYTES_LIST, _INT64_LIST = 1, 3


class _Broken(Exception):
    """The content of a record is no `tf.train.Example`."""


def listing(data: FileBytes | HeldBytes, wanted: Wanted) -> Listing:
    """Lists the samples of a TFRecord file; images are not read.

    Args:
        data: the file.
        wanted: names of features.
    """
    found = Listing()
    images = _IMAGES if wanted.image is None else (wanted.image,)
    labels = _LABELS if wanted.label is None else (wanted.label,)
    records: list[tuple[int, int, bytes]] = []
    place, damage = 0, None
    while place < data.size and damage is None:
        records.clear()
        while place < data.size and len(records) < _BATCH:
            head = data.at(place, _HEAD)
            length = int.from_bytes(head[:8], "little")
            if len(head) < _HEAD or place + _HEAD + length + _TAIL > data.size:
                damage = "cut off"
                break
            records.append((place, length, head))
            place += _HEAD + length + _TAIL
        sound = _sound([head for _, _, head in records])
        if sound < len(records):
            place, damage = records[sound][0], "damaged"
        for start, length, _ in records[:sound]:
            _add(found, data, start + _HEAD, length, images, labels)
    if damage is not None:
        found.cut(damage, place, data.size)
    return found


def _add(
    found: Listing,
    data: FileBytes | HeldBytes,
    start: int,
    length: int,
    images: tuple[str, ...],
    labels: tuple[str, ...],
) -> None:
    try:
        features = dict(_features(data, start, start + length))
    except _Broken:
        found.add("", 0, 0, None, "not a tf.train.Example")
        return
    if not found.columns:
        found.columns = [shown for shown in features if shown.isprintable()]
    label = next((_label(data, *features[key]) for key in labels if key in features), None)
    name = ""
    if _NAME in features:
        value = _first(data, *features[_NAME])
        name = os.fsdecode(value) if isinstance(value, bytes) else ""
    image = next((features[key] for key in images if key in features), None)
    place = _place(data, *image) if image is not None else None
    if place is None:
        found.add(name, 0, 0, label, f"no bytes in the feature {' or '.join(images)}")
    else:
        found.add(name, *place, label, "" if place[1] else "empty file")


def _features(
    data: FileBytes | HeldBytes, start: int, end: int
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields the name of each feature of an Example, and from where to where it goes."""
    for number, wire, first, last in _fields(data, start, end):
        if number != 1 or wire != _BYTES:
            continue
        for entry, wire, begin, stop in _fields(data, first, last):
            if entry != 1 or wire != _BYTES:
                continue
            key, feature = None, None
            for part, wire, a, b in _fields(data, begin, stop):
                if part == 1 and wire == _BYTES and b - a <= _MOST_KEY:
                    key = data.at(a, b - a).decode("utf-8", "replace")
                elif part == 2 and wire == _BYTES:
                    feature = (a, b)
            if key is not None and feature is not None:
                yield key, feature


def _place(data: FileBytes | HeldBytes, start: int, end: int) -> tuple[int, int] | None:
    """Returns offset and length of the first value of a list of bytes; None if there is none."""
    for kind, wire, a, b in _fields(data, start, end):
        if kind == _BYTES_LIST and wire == _BYTES:
            for number, wire, first, last in _fields(data, a, b):
                if number == 1 and wire == _BYTES:
                    return first, last - first
    return None


def _first(data: FileBytes | HeldBytes, start: int, end: int) -> bytes | int | None:
    """Returns the first value of a feature that holds texts or whole numbers."""
    if place := _place(data, start, end):
        return data.at(*place) if place[1] <= _MOST_SIDE_BYTES else None
    for kind, wire, a, b in _fields(data, start, end):
        if kind == _INT64_LIST and wire == _BYTES:
            for number, wire, first, last in _fields(data, a, b):
                if number == 1 and wire == _BYTES and last > first:  # packed
                    return _signed(_varint(data, first, last)[0])
                if number == 1 and wire == _VARINT:
                    return _signed(first)
    return None


def _label(data: FileBytes | HeldBytes, start: int, end: int) -> Label:
    try:
        return label_of(_first(data, start, end))
    except _Broken:
        return None


def _signed(value: int) -> int:
    return struct.unpack("<q", (value & (1 << 64) - 1).to_bytes(8, "little"))[0]


def _fields(
    data: FileBytes | HeldBytes, place: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yields the fields of a message: number, wire type, start and end of the content.

    Of a varint the start is the value.
    """
    while place < end:
        tag, place = _varint(data, place, end)
        wire = tag & 7
        if wire == _BYTES:
            length, place = _varint(data, place, end)
            if place + length > end:
                raise _Broken
            yield tag >> 3, wire, place, place + length
            place += length
        elif wire == _VARINT:
            value, place = _varint(data, place, end)
            yield tag >> 3, wire, value, place
        elif wire in (_EIGHT, _FOUR):
            place += 8 if wire == _EIGHT else 4
            if place > end:
                raise _Broken
        else:
            raise _Broken


def _varint(data: FileBytes | HeldBytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for byte in data.at(place, min(10, end - place)):
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
    raise _Broken


def _table() -> np.ndarray:
    """The table of CRC-32C (Castagnoli), bits reversed: uint32 `[256]`."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


_CRC = _table()


def _sound(heads: list[bytes]) -> int:
    """Returns how many records come before the first whose length has a wrong checksum."""
    if not heads:
        return 0
    table = np.frombuffer(b"".join(heads), np.uint8).reshape(-1, _HEAD)
    crc = np.full(len(table), 0xFFFFFFFF, np.uint32)
    for column in range(8):
        crc = _CRC[(crc ^ table[:, column]) & 0xFF] ^ crc >> 8
    crc = ~crc
    masked = (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)
    stored = table[:, 8:].copy().view("<u4")[:, 0]
    wrong = np.flatnonzero(masked != stored)
    return int(wrong[0]) if len(wrong) else len(table)
