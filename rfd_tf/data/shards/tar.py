"""WebDataset: tar files in which neighbouring files of one key are a sample.

Source: POSIX.1-2017, pax, ustar interchange format; the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rfd_tf.data import image_files
from rfd_tf.data.shards.listing import FileBytes, HeldBytes, Label, Listing, Wanted, label_of

BLOCK = 512
_BATCH = 1024
_MOST_SIDE_BYTES = 1 << 20  # of a label or a name; more is no such thing
_REGULAR = b"0\0007"
_SHORT = 256  # bytes of a member that are read with its header: most labels
_SLASH = 0x2F
_OCTAL = 8 ** np.arange(5, -1, -1)
_LABEL_KEYS = ("label", "cls", "class")


class _Member(NamedTuple):
    name: bytes
    place: int
    length: int
    content: bytes | None  # of a short one


class _Damaged(Exception):
    """The archive cannot be read from a place on."""

    def __init__(self, place: int, reason: str):
        super().__init__(reason)
        self.place = place


def listing(data: FileBytes | HeldBytes, wanted: Wanted) -> Listing:
    """Lists the samples of a tar file by its headers; images are not read.

    Args:
        data: the archive.
        wanted: `image` is an extension, as "jpg" or "input.png"; `label` an extension, or a key of
            the JSON object.
    """
    found = Listing()
    columns: dict[bytes, None] = {}
    sample: dict[bytes, _Member] = {}
    key = None
    image_name = None if wanted.image is None else os.fsencode(wanted.image.lower().lstrip("."))
    label_name = None if wanted.label is None else os.fsencode(wanted.label)

    def finish() -> None:
        image = _image_of(sample, image_name)
        labelled = b"cls" in sample or b"json" in sample or label_name in sample
        if image is None and not labelled:
            return  # a text beside the samples
        label = _label_of(data, sample, label_name) if labelled else None
        if image is None:
            name = next(iter(sample.values())).name
            found.add(_text(name), 0, 0, label, "no image beside its label")
        else:
            missing = "" if image.length else "empty file"
            found.add(_text(image.name), image.place, image.length, label, missing)

    try:
        for member in _members(data):
            name = member.name
            dot = name.find(b".", name.rfind(b"/") + 1)
            if dot < 1 or name[dot - 1] == _SLASH:
                continue  # hidden, or without an extension
            if name[:dot] != key:
                if sample:
                    finish()
                key, sample = name[:dot], {}
            extension = name[dot + 1 :].lower()
            sample.setdefault(extension, member)
            if extension not in columns and len(columns) < 100:
                columns[extension] = None
        if sample:
            finish()
    except _Damaged as error:
        # (The sample before may have lost files that came behind it.)
        if _image_of(sample, image_name):
            finish()
        found.cut(str(error), error.place, data.size)
    found.columns = list(map(_text, columns))
    return found


def _text(name: bytes) -> str:
    return os.fsdecode(name.removeprefix(b"./"))


def _image_of(sample: dict[bytes, _Member], wanted: bytes | None) -> _Member | None:
    if wanted is not None:
        return sample.get(wanted)
    several = None
    for extension, member in sample.items():
        if _is_image(extension):
            if b"." not in extension:
                return member
            several = several or member
    return several


@functools.lru_cache(1000)
def _is_image(extension: bytes) -> bool:
    return image_files.has_image_extension(f"a.{os.fsdecode(extension)}")


def _label_of(
    data: FileBytes | HeldBytes, sample: dict[bytes, _Member], wanted: bytes | None
) -> Label:
    extension = b"cls" if wanted is None else wanted
    if extension in sample and extension != b"json":
        return label_of(_content(data, sample[extension]))
    if b"json" not in sample:
        return None
    content = _json(_content(data, sample[b"json"]))
    if not isinstance(content, dict):
        return label_of(content)
    keys = _LABEL_KEYS if wanted is None else (os.fsdecode(wanted),)
    return next((label_of(content[key]) for key in keys if key in content), None)


def _content(data: FileBytes | HeldBytes, member: _Member) -> bytes:
    if member.content is not None:
        return member.content
    return data.at(member.place, member.length) if member.length <= _MOST_SIDE_BYTES else b""


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _members(data: FileBytes | HeldBytes) -> Iterator[_Member]:
    """Yields the regular files of an archive, whose headers have been checked."""
    members: list[tuple[int, _Member]] = []  # with the number of headers up to it
    heads: list[bytes] = []
    places: list[int] = []
    damaged = None
    walk = _walk(data, heads, places)
    while True:
        try:
            member = next(walk, None)
        except _Damaged as error:
            member, damaged = None, error
        if member is not None:
            members.append((len(heads), member))
            if len(heads) < _BATCH:
                continue
        sound = _sound(heads)
        for count, one in members:
            if count <= sound:
                yield one
        if sound < len(heads):
            raise _Damaged(places[sound], "damaged")
        if damaged is not None:
            raise damaged
        if member is None:
            return
        members.clear()
        heads.clear()
        places.clear()


def _sound(heads: list[bytes]) -> int:
    """Returns how many headers come before the first whose checksum is wrong."""
    if not heads:
        return 0
    table = np.frombuffer(b"".join(heads), np.uint8).reshape(-1, BLOCK)
    digits = table[:, 148:154].astype(np.int32) - 48
    stored = digits @ _OCTAL
    for row in np.flatnonzero((digits < 0).any(1) | (digits > 7).any(1)):
        stored[row] = _number(heads[row][148:156])
    # (The checksum itself counts as spaces.)
    sums = table.sum(1, dtype=np.int32) - table[:, 148:156].sum(1, dtype=np.int32) + 8 * 32
    wrong = np.flatnonzero(sums != stored)
    return int(wrong[0]) if len(wrong) else len(heads)


def _number(field: bytes) -> int:
    """Returns an octal number of a header, or a large one in base 256; -1 if it is none."""
    try:
        return int(field[:-1], 8)
    except ValueError:
        pass
    try:
        if field[0] & 0x80:
            return int.from_bytes(field[1:], "big")
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        return -1


def _walk(data: FileBytes | HeldBytes, heads: list[bytes], places: list[int]) -> Iterator[_Member]:
    """Yields the regular files of an archive; adds each header and its place to the lists."""
    place, size = 0, data.size
    long_name: bytes | None = None
    long_size: int | None = None
    while place < size:
        chunk, i = data.around(place, min(BLOCK + _SHORT, size - place))
        head = chunk[i : i + BLOCK]
        if len(head) < BLOCK:
            raise _Damaged(place, "cut off")
        if head[0] == 0:
            if any(head):
                raise _Damaged(place, "damaged")
            return  # the end of the archive
        kind = head[156:157]
        length = _number(head[124:136])
        if kind in _REGULAR and long_size is not None:
            length = long_size
        if not 0 <= length < 1 << 62:
            raise _Damaged(place, "damaged")
        start = place + BLOCK
        heads.append(head)
        places.append(place)
        if start + length > size:
            raise _Damaged(place, "cut off")
        if kind == b"L" or kind == b"x":
            text = data.at(start, min(length, _MOST_SIDE_BYTES))
            if kind == b"L":
                long_name = text.split(b"\0", 1)[0]
            else:
                long_name, long_size = _extended(text, long_name)
        elif kind not in b"Kg":
            if kind in _REGULAR:
                i += BLOCK
                content = chunk[i : i + length] if length <= _SHORT else None
                yield _Member(long_name or _name(head), start, length, content)
            long_name = long_size = None
        place = start + -(-length // BLOCK) * BLOCK


def _name(head: bytes) -> bytes:
    end = head.find(b"\0", 0, 100)
    name = head[: 100 if end < 0 else end]
    # (GNU's own format, "ustar  ", has times where this one has the folder.)
    if head[345] and head[257:263] == b"ustar\0":
        return head[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def _extended(text: bytes, name: bytes | None) -> tuple[bytes | None, int | None]:
    """Returns the path and the size in a pax header, "LENGTH KEY=VALUE" lines."""
    length = None
    while text:
        count, _, _ = text.partition(b" ")
        if not count.isdigit() or len(count) > 9 or int(count) <= len(count):
            break
        key, _, value = text[len(count) + 1 : int(count) - 1].partition(b"=")
        if key == b"path":
            name = value
        elif key == b"size" and value.isdigit() and len(value) < 19:
            length = int(value)
        text = text[int(count) :]
    return name, length
