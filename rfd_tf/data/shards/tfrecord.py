"""TFRecord files of `tf.train.Example`, read without TensorFlow.

A record is its length, the length's checksum, the content and the content's checksum. Where in the
content an image starts is found by parsing the fields of the protocol buffer.

Source: tensorflow/core/lib/io/record_writer.h; example.proto and feature.proto in
tensorflow/core/example.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from rfd_tf.data.shards.listing import FileBytes, HeldBytes, Listing, Wanted, label_of

_HEAD, _TAIL = 12, 4
_BATCH = 1024
_IMAGES = (b"image/encoded", b"image")
_LABELS = (b"image/class/label", b"label")
_NAME = b"image/filename"
_MOST_SIDE_BYTES = 1 << 16
_MOST_KEY = 1024

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_BYTES_LIST, _INT64_LIST = 1, 3
# Tags of fields 1, 2 and 3 that hold bytes; how much of a feature is looked at in one piece.
_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A
_NEAR = 96


class _Broken(Exception):
    """The content of a record is no `tf.train.Example`."""


def listing(data: FileBytes | HeldBytes, wanted: Wanted) -> Listing:
    """Lists the samples of a TFRecord file; images are not read.

    Args:
        data: the file.
        wanted: names of features.
    """
    found = Listing()
    images = _IMAGES if wanted.image is None else (wanted.image.encode(),)
    labels = _LABELS if wanted.label is None else (wanted.label.encode(),)
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
    images: tuple[bytes, ...],
    labels: tuple[bytes, ...],
) -> None:
    label, name, place = None, "", None
    try:
        features = _features(data, start, start + length)
        for key in images:
            if key in features:
                place = _place(data, *features[key])
                break
        for key in labels:
            if key in features:
                label = label_of(_first(data, *features[key]))
                break
        if _NAME in features:
            value = _first(data, *features[_NAME])
            name = os.fsdecode(value) if isinstance(value, bytes) else ""
    except (_Broken, IndexError):
        found.add("", 0, 0, None, "not a tf.train.Example")
        return
    if not found.columns:
        columns = (key.decode("utf-8", "replace") for key in features)
        found.columns = [column for column in columns if column.isprintable()]
    if place is None:
        tried = b" or ".join(images).decode("utf-8", "replace")
        found.add(name, 0, 0, label, f"no bytes in the feature {tried}")
    else:
        found.add(name, *place, label, "" if place[1] else "empty file")


def _features(data: FileBytes | HeldBytes, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """Returns the name of each feature of an Example, and from where to where it goes."""
    found: dict[bytes, tuple[int, int]] = {}
    if only := _only(data, start, end, _FIRST):
        place, last = only
        while place < last:
            place = _entry(data, place, last, found)
        return found
    for number, wire, place, last in _fields(data, start, end):
        if number != 1 or wire != _BYTES:
            continue
        while place < last:
            place = _entry(data, place, last, found)
    return found


def _entry(
    data: FileBytes | HeldBytes, place: int, last: int, found: dict[bytes, tuple[int, int]]
) -> int:
    """Adds the feature of an entry of the map, and returns where the next entry begins."""
    chunk, i = data.around(place, _NEAR)
    if chunk[i] == _FIRST:
        length, j = _varint_in(chunk, i + 1)
        stop = place + j - i + length
        if stop <= last and length and chunk[j] == _FIRST and chunk[j + 1] < 64:
            # As it is written everywhere: the key, then the feature.
            a = j + 2
            b = a + chunk[j + 1]
            if place + b - i < stop and chunk[b] == _SECOND:
                size, k = _varint_in(chunk, b + 1)
                first = place + k - i
                if first + size == stop:
                    found[chunk[a:b]] = first, stop
                    return stop
    for number, wire, begin, stop in _fields(data, place, last):
        if number == 1 and wire == _BYTES:
            key, feature = None, None
            for part, wire, a, b in _fields(data, begin, stop):
                if part == 1 and wire == _BYTES and b - a <= _MOST_KEY:
                    key = data.at(a, b - a)
                elif part == 2 and wire == _BYTES:
                    feature = a, b
            if key is not None and feature is not None:
                found[key] = feature
            return stop
        place = stop
    return last


def _only(data: FileBytes | HeldBytes, start: int, end: int, tag: int) -> tuple[int, int] | None:
    """Returns where the content of a message's only field is; None where it has another form."""
    chunk, i = data.around(start, min(12, end - start))
    if start < end and chunk[i] == tag:
        length, j = _varint_in(chunk, i + 1)
        first = start + j - i
        if first + length == end:
            return first, end
    return None


def _place(data: FileBytes | HeldBytes, start: int, end: int) -> tuple[int, int] | None:
    """Returns offset and length of the first value of a list of bytes; None if there is none."""
    if values := _only(data, start, end, _FIRST):
        if value := _only(data, *values, _FIRST):
            return value[0], value[1] - value[0]
    for kind, wire, a, b in _fields(data, start, end):
        if kind == _BYTES_LIST and wire == _BYTES:
            for number, wire, first, last in _fields(data, a, b):
                if number == 1 and wire == _BYTES:
                    return first, last - first
    return None


def _first(data: FileBytes | HeldBytes, start: int, end: int) -> bytes | int | None:
    """Returns the first value of a feature that holds texts or whole numbers."""
    if numbers := _only(data, start, end, _THIRD):
        if (packed := _only(data, *numbers, _FIRST)) and packed[0] < packed[1]:
            return _signed(_varint(data, *packed)[0])
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


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


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
    most = min(10, end - place)
    chunk, i = data.around(place, most)
    for byte in chunk[i : i + most]:
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
    raise _Broken


def _varint_in(chunk: bytes, i: int) -> tuple[int, int]:
    """Returns a number in bytes, and where it ends."""
    byte = chunk[i]
    if byte < 0x80:
        return byte, i + 1
    value, shift = byte & 0x7F, 7
    for place in range(i + 1, i + 10):
        byte = chunk[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
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
