"""WebDataset: tar files in which neighbouring files of one key are a sample.

Source: POSIX.1-2017, pax, ustar interchange format; the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

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
_LABEL_KEYS = ("label", "cls", "class")


class _Member(NamedTuple):
    name: bytes
    place: int
    length: int


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
    columns: dict[str, None] = {}
    sample: dict[str, _Member] = {}
    key = None

    def finish() -> None:
        if not sample:
            return
        image = _image_of(sample, wanted.image)
        labelled = _is_labelled(sample, wanted.label)
        if image is None and not labelled:
            return  # a text beside the samples
        label = _label_of(data, sample, wanted.label) if labelled else None
        if image is None:
            name = next(iter(sample.values())).name
            found.add(_text(name), 0, 0, label, "no image beside its label")
        else:
            missing = "" if image.length else "empty file"
            found.add(_text(image.name), image.place, image.length, label, missing)

    try:
        for member in _members(data):
            slash = member.name.rfind(b"/") + 1
            dot = member.name.find(b".", slash)
            if dot <= slash:
                continue  # hidden, or without an extension
            if member.name[:dot] != key:
                finish()
                key, sample = member.name[:dot], {}
            extension = os.fsdecode(member.name[dot + 1 :]).lower()
            sample.setdefault(extension, member)
            if extension not in columns and len(columns) < 100:
                columns[extension] = None
        finish()
    except _Damaged as error:
        # (The sample before may have lost files that came behind it.)
        if _image_of(sample, wanted.image):
            finish()
        found.cut(str(error), error.place, data.size)
    found.columns = list(columns)
    return found


def _text(name: bytes) -> str:
    return os.fsdecode(name.removeprefix(b"./"))


def _image_of(sample: dict[str, _Member], wanted: str | None) -> _Member | None:
    if wanted is not None:
        return sample.get(wanted.lower().lstrip("."))
    several = None
    for extension, member in sample.items():
        if image_files.has_image_extension(f"a.{extension}"):
            if "." not in extension:
                return member
            several = several or member
    return several


def _is_labelled(sample: dict[str, _Member], wanted: str | None) -> bool:
    return "cls" in sample or "json" in sample or wanted in sample


def _label_of(data: FileBytes | HeldBytes, sample: dict[str, _Member], wanted: str | None) -> Label:
    extension = "cls" if wanted is None else wanted
    if extension in sample and extension != "json":
        return label_of(_content(data, sample[extension]))
    if "json" not in sample:
        return None
    content = _json(_content(data, sample["json"]))
    if not isinstance(content, dict):
        return label_of(content)
    keys = _LABEL_KEYS if wanted is None else (wanted,)
    return next((label_of(content[key]) for key in keys if key in content), None)


def _content(data: FileBytes | HeldBytes, member: _Member) -> bytes:
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
    stored = [_number(head[148:156]) for head in heads]
    # (The checksum itself counts as spaces.)
    sums = table.sum(1, dtype=np.int64) - table[:, 148:156].sum(1, dtype=np.int64) + 8 * 32
    wrong = np.flatnonzero(sums != np.array(stored, np.int64))
    return int(wrong[0]) if len(wrong) else len(heads)


def _number(field: bytes) -> int:
    """Returns an octal number of a header, or a large one in base 256; -1 if it is none."""
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
        head = data.at(place, BLOCK)
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
                yield _Member(long_name or _name(head), start, length)
            long_name = long_size = None
        place = start + -(-length // BLOCK) * BLOCK


def _name(head: bytes) -> bytes:
    name = head[:100].split(b"\0", 1)[0]
    # (GNU's own format, "ustar  ", has times where this one has the folder.)
    if head[257:263] == b"ustar\0" and head[345]:
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
