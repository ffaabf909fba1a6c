"""TFRecord files that are damaged or missing, found and named."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from rfd_tf.errors import UserError

#: Of more records than this, files are not checked beforehand: it would take minutes.
MOST_RECORDS = 200_000
# A record: length, checksum of the length, content, checksum of the content.
_HEAD, _TAIL = 12, 4
_OPEN: weakref.WeakSet[Any] = weakref.WeakSet()


def check(name: str, files: Iterable[tuple[str, int]]) -> None:
    """Checks that record files exist and are complete, by the lengths in them.

    Args:
        name: of the dataset, for messages.
        files: the path of each, and how many records it must hold. Of more than 200,000 records
            in all only the presence is checked. Paths that are no local files are ignored.

    Raises:
        UserError: a file is missing or has other records. Names the file and the way out.
    """
    local = [(path, records) for path, records in files if "://" not in path]
    walk = sum(records for _, records in local) <= MOST_RECORDS
    for path, records in local:
        fault = _fault(path, records if walk else None)
        if fault:
            raise _error(name, path, fault)


def _fault(path: str, records: int | None) -> str | None:
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if records is None:
                return "is empty" if not size else None
            place = count = 0
            while place < size:
                file.seek(place)
                head = file.read(_HEAD)
                if len(head) < _HEAD:
                    return f"is cut off after {count} of {records} records"
                place += _HEAD + struct.unpack("<Q", head[:8])[0] + _TAIL
                if place > size:
                    return f"is damaged or cut off after {count} of {records} records"
                count += 1
    except OSError as error:
        return "is missing" if isinstance(error, FileNotFoundError) else f"{error.strerror}"
    return None if count == records else f"holds {count} records instead of {records}"


def _error(name: str, path: str, fault: str) -> UserError:
    return UserError(
        f"dataset '{name}': record file '{path}' {fault}; copy it again, or remove the folder "
        f"'{os.path.dirname(path)}' and give --tfds_download to prepare the dataset again"
    )


def of_splits(info: Any) -> list[tuple[str, int]]:
    """Returns paths and numbers of records of all splits of a prepared TFDS dataset."""
    return [
        (os.fspath(file.filename), file.examples_in_shard)
        for split in info.splits.values()
        for file in split.file_instructions
    ]


@dataclasses.dataclass(eq=False)
class Watched:
    """Record files that are read by others' code; watched while there is a reference to this."""

    name: str
    record_files: list[tuple[str, int]]


def watch(source: Any) -> None:
    """Remembers a source whose files are to be looked through when a record cannot be read.

    Args:
        source: with `name`, and `record_files`: paths and numbers of records.
    """
    _OPEN.add(source)


@contextlib.contextmanager
def damage_reported() -> Iterator[None]:
    """Turns TensorFlow's errors about a record file into one that names the file.

    Raises:
        UserError: a file was found to be damaged or removed since it was opened.

    >>> with damage_reported():
    ...     pass
    """
    # TensorFlow's errors can occur only where it is imported already.
    try:
        yield
    except Exception as error:
        found = explained(error)
        if found is None:
            raise
        raise found from None


def explained(error: Exception) -> UserError | None:
    """Returns the error that names the damaged file behind one of TensorFlow's; None if none."""
    if not _OPEN:
        return None
    import tensorflow as tf

    if not isinstance(error, (tf.errors.DataLossError, tf.errors.NotFoundError)):
        return None
    for source in list(_OPEN):
        for path, records in source.record_files:
            try:
                fault = _fault(path, records) if "://" not in path else None
                # (Content that changed shows in its checksum alone, which TensorFlow reads.)
                for _ in tf.data.TFRecordDataset(path) if not fault else ():
                    pass
            except tf.errors.OpError as again:
                fault = f"is damaged: {again.message.split('} ')[-1].split(' [Op')[0]}"
            if fault:
                return _error(source.name, path, fault)
    return None
