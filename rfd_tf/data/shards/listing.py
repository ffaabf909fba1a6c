"""What one shard holds, found without decoding its images."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import NamedTuple

import numpy as np

_CHUNK = 4096
_LONG_CHUNK = 1 << 16
_MOST_NUMBER = 1 << 63

Label = int | str | None


@dataclasses.dataclass
class Listing:
    """The samples of a shard, in its order.

    Attributes:
        names: of the images in it; "" where they have none.
        offsets: where each encoded image begins; in Parquet its row in the row group.
        lengths: bytes of each; 0 where there is no image, -1 where only the block knows.
        groups: the block of the shard that holds each; None where there is one block only.
        labels: of each, None where it has none.
        missing: sample -> why it has no image.
        bytes_of_groups: of the images of each block; empty where there is one block.
        columns: what the samples have: features, columns, extensions.
        class_names: that the shard itself gives, or None.
        damage: what is wrong with the shard from a place on, or None.
        lost: how many samples are known to lie behind that place.
        lost_bytes: of the shard behind that place.
    """

    names: list[str] = dataclasses.field(default_factory=list)
    offsets: list[int] | np.ndarray = dataclasses.field(default_factory=list)
    lengths: list[int] | np.ndarray = dataclasses.field(default_factory=list)
    groups: np.ndarray | None = None
    labels: list[Label] = dataclasses.field(default_factory=list)
    missing: dict[int, str] = dataclasses.field(default_factory=dict)
    bytes_of_groups: list[int] = dataclasses.field(default_factory=list)
    columns: list[str] = dataclasses.field(default_factory=list)
    class_names: list[str] | None = None
    damage: str | None = None
    lost: int = 0
    lost_bytes: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, offset: int, length: int, label: Label, missing: str = "") -> None:
        """Adds a sample; `missing` says why it has no image."""
        if missing:
            self.missing[len(self.names)] = missing
        self.names.append(name)
        self.offsets.append(offset)
        self.lengths.append(length)
        self.labels.append(label)

    def cut(self, damage: str, place: int, size: int) -> None:
        """Notes that a shard of `size` bytes cannot be read from `place` on."""
        self.damage = f"{damage} after {len(self):,} images"
        self.lost_bytes = size - place

    def to_json(self) -> str:
        """Returns the listing as text, for `from_json`."""
        values = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }
        values["missing"] = list(self.missing.items())
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str | bytes) -> Listing:
        """Returns the listing that `to_json` wrote.

        Raises:
            ValueError: it is damaged, or of another version.

        >>> listing = Listing(["a.jpg"], [512], [9], labels=["cat"], bytes_of_groups=[1024])
        >>> Listing.from_json(listing.to_json()).names
        ['a.jpg']
        """
        values = json.loads(text)
        try:
            found = cls(**values)
            found.missing = {int(row): str(reason) for row, reason in found.missing}
            found.labels = list(map(label_of, found.labels))
            found.bytes_of_groups = [min(max(0, int(n)), 1 << 62) for n in found.bytes_of_groups]
            found.offsets = np.array(found.offsets, np.int64)
            found.lengths = np.array(found.lengths, np.int64)
            groups = np.zeros(len(found), np.int32)
            if found.groups is not None:
                groups = found.groups = np.array(found.groups, np.int32)
            texts = (*found.names, *found.columns, *(found.class_names or ()))
            columns = (found.names, found.offsets, found.lengths, found.labels, groups)
            possible = (
                len(set(map(len, columns))) == 1
                and all(isinstance(text, str) for text in texts)
                and all(0 <= row < len(found) for row in found.missing)
                and (found.offsets >= 0).all()
                and ((groups >= 0) & (groups < len(found.bytes_of_groups))).all()
            )
            if not possible:
                raise ValueError("no listing")
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(str(error)) from None
        return found


class Listed(NamedTuple):
    """A shard, its length in bytes and what it holds."""

    path: str
    file_bytes: int
    listing: Listing


class Wanted(NamedTuple):
    """Which parts of a sample are its image and its label; the usual ones where None."""

    image: str | None = None
    label: str | None = None


class FileBytes:
    """A file's bytes, read some thousand at a time; more where it is read without gaps.

    Attributes:
        size: of the file.
    """

    def __init__(self, path: str):
        self._file = open(path, "rb", buffering=0)
        self._number = self._file.fileno()
        self.size = os.fstat(self._number).st_size
        self._start, self._chunk = 0, b""

    def around(self, place: int, count: int) -> tuple[bytes, int]:
        """Returns bytes and where in them those from a place on begin.

        There are `count` of them or more, unless the file ends before.
        """
        start = place - self._start
        held = len(self._chunk)
        if 0 <= start <= held - count:
            return self._chunk, start
        near = 0 <= start <= 2 * held
        self._chunk = os.pread(self._number, max(count, _LONG_CHUNK if near else _CHUNK), place)
        self._start = place
        return self._chunk, 0

    def at(self, place: int, count: int) -> bytes:
        """Returns `count` bytes from a place on, fewer at the end of the file."""
        chunk, start = self.around(place, count)
        return chunk[start : start + count]

    def close(self) -> None:
        self._file.close()


class HeldBytes:
    """Bytes in memory, read as those of a file."""

    def __init__(self, data: memoryview):
        self._data, self.size = data, len(data)
        self._start, self._chunk = 0, b""

    def around(self, place: int, count: int) -> tuple[bytes, int]:
        start = place - self._start
        if 0 <= start <= len(self._chunk) - count:
            return self._chunk, start
        self._chunk = bytes(self._data[place : place + max(count, _CHUNK)])
        self._start = place
        return self._chunk, 0

    at = FileBytes.at

    def close(self) -> None:
        self._data.release()


def label_of(value: object) -> Label:
    """Returns a label as found in a shard as one that is used: a whole number, a name, or None.

    >>> label_of(3), label_of(" cat "), label_of([1, 2]), label_of(b"7")
    (3, 'cat', None, 7)
    """
    if isinstance(value, bytes):
        if value.isdigit() and len(value) < 19:
            return int(value)
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        text = value.strip()
        if text.isascii() and text.lstrip("+-").isdigit() and len(text) < 19:
            return _whole(text)
        return text or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | np.integer):
        value = int(value)
        return value if -_MOST_NUMBER <= value < _MOST_NUMBER else str(value)
    return None


def _whole(text: str) -> Label:
    try:
        return int(text)
    except ValueError:  # several signs
        return text
