"""Names and labels of many samples, in little memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rfd_tf.data.remote import transports
from rfd_tf.data.remote.cache import NotFetched
from rfd_tf.data.shards.listing import Label
from rfd_tf.data.shards.store import Places
from rfd_tf.errors import UserError, shown
from rfd_tf.text import file_name_to_text, read_text, same_form

#: The file beside shards that names their classes, "NUMBER:NAME" a line.
LABELS_FILE = "labels.txt"
_MOST_CLASSES = 1_000_000


class Names(Sequence):
    """Display names of samples: those they have in their shards.

    Names that occur twice, and samples without one, are preceded by the name of the shard.

    Args:
        names: of each sample, "" where it has none.
        shards: int `[N]`, which shard holds each.
        rows: int `[N]`, its number there.
        shard_names: of the shards.

    >>> names = Names(["a.jpg", "", "b.jpg"], np.array([0, 0, 1]), np.arange(3), ["x", "y"])
    >>> list(names)
    ['a.jpg', 'x/1', 'b.jpg']
    """

    def __init__(
        self,
        names: Iterable[str],
        shards: np.ndarray,
        rows: np.ndarray,
        shard_names: Sequence[str],
    ):
        encoded = [os.fsencode(name) for name in names]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._shards, self._rows, self._shard_names = shards, rows, list(shard_names)
        hashes = np.fromiter(map(hash, filter(None, encoded)), np.int64)
        self._unique = len(np.unique(hashes)) == len(hashes)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"no name {index} of {len(self)}")
        index %= len(self)
        start = self._ends[index - 1] if index else 0
        name = os.fsdecode(self._text[start : self._ends[index]])
        if self._unique and name:
            return file_name_to_text(name)
        shard = self._shard_names[self._shards[index]]
        return file_name_to_text(f"{shard}/{name or self._rows[index]}")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class Labels:
    """Collects labels, numbers or names, and numbers the classes."""

    def __init__(self):
        self._codes: dict[Label, int] = {None: 0}
        self._parts: list[np.ndarray] = []

    def add(self, labels: Sequence[Label]) -> None:
        """Adds the labels of further samples."""
        codes = self._codes
        self._parts.append(
            np.fromiter((codes.setdefault(one, len(codes)) for one in labels), np.int32)
        )

    def numbered(
        self, class_names: Sequence[str] | None, place: str
    ) -> tuple[np.ndarray | None, list[str] | None]:
        """Returns the label of each sample and the names of the classes.

        Args:
            class_names: that are known beforehand, by number.
            place: where the shards are, for messages.

        Returns:
            int64 `[N]`, -1 where there is none, or None where there are none at all; the names of
            the classes, or None.

        Raises:
            UserError: a number that cannot be one of a class.
        """
        given = [label for label in self._codes if label is not None]
        if not given:
            return None, None
        if any(isinstance(label, str) for label in given):
            forms = {label: same_form(str(label)) for label in given}
            class_names = list(class_names or ())
            if not set(forms.values()) <= set(class_names):
                class_names = sorted(set(forms.values()))
            number = {name: value for value, name in enumerate(class_names)}
            values = {label: number[form] for label, form in forms.items()}
        else:
            values = {label: max(-1, label) for label in given}
            largest = max(values.values())
            if largest >= _MOST_CLASSES:
                raise UserError(
                    f"'{shown(place)}': label {largest}; labels number the classes from 0 on, "
                    f"fewer than {_MOST_CLASSES:,}"
                )
            if class_names is not None:
                # (A name for every number, whatever the list leaves out.)
                more = range(len(class_names), largest + 1)
                class_names = [*class_names, *map(str, more)]
        table = np.array([values.get(label, -1) for label in self._codes], np.int64)
        labels = table[np.concatenate(self._parts)]
        if labels.max() < 0:
            return None, None
        return labels, list(class_names) if class_names else None


def class_names_beside(shard: str, places: Places | None = None) -> list[str] | None:
    """Returns the names of classes that a file beside shards lists by number; None without one."""
    path = Path(shard).parent / LABELS_FILE
    if places is not None:
        address = transports.joined(transports.folder_of(shard), LABELS_FILE)
        try:
            path = places.cache.latest(address)
        except NotFetched:
            return None
    if not path.is_file():
        return None
    names: dict[int, str] = {}
    for line in read_text(path, "the names of classes").splitlines():
        number, separator, name = line.partition(":")
        if separator and number.strip().isdecimal() and len(number) < 8:
            names[int(number)] = name.strip()
    if not names or max(names) >= _MOST_CLASSES:
        return None
    return [names.get(number, str(number)) for number in range(max(names) + 1)]


def class_names_file(class_names: Sequence[str]) -> str:
    """Returns the text of the file that `class_names_beside` reads."""
    lines = (f"{number}:{' '.join(name.split())}\n" for number, name in enumerate(class_names))
    return "".join(lines)
