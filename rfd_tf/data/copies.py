"""Image files that are in the training and in the test set."""

from __future__ import annotations

import collections
import hashlib
import os
from typing import NamedTuple

import numpy as np

from rfd_tf.data.base import Source
from rfd_tf.data.subset import index_hash
from rfd_tf.text import file_name_to_text

_MOST_BYTES = 512 << 20
_MOST_FILES = 50_000
_CHUNK = 1 << 20


class Copies(NamedTuple):
    """Test images whose files are, byte for byte, also training images.

    Attributes:
        pairs: `(test image, training image)`, a pair for each such test image.
        checked: how many test images were compared; the rest were too many to read.
    """

    pairs: list[tuple[str, str]]
    checked: int


def identical_files(
    train: Source, train_rows: np.ndarray, test: Source, test_rows: np.ndarray
) -> Copies:
    """Finds the test images that are training images too, by the content of their files.

    Only files of equal length are read. At most 50,000 files or 512 MiB are: of larger sets some
    test images are compared, chosen by the hash of their index.

    Args:
        train, test: sources, which may be the same.
        train_rows, test_rows: the indices that count.

    Returns:
        The copies; none where a source's images are not files.

    >>> from rfd_tf.data import digits
    >>> identical_files(digits(), np.arange(3), digits("test"), np.arange(3))
    Copies(pairs=[], checked=0)
    """
    if not (train.files and test.files and train.lengths and test.lengths):
        return Copies([], 0)
    by_length = collections.defaultdict(list)
    for row in train_rows.tolist():
        by_length[train.lengths[row]].append(row)
    hashes: dict[int, dict[bytes, int]] = {}
    pairs, checked, read_bytes, read_files = [], 0, 0, 0
    order = test_rows[np.argsort(index_hash(test_rows), kind="stable")]
    for row in order.tolist():
        length = test.lengths[row]
        candidates = by_length.get(length, ())
        if candidates:
            fresh = 1 + (0 if length in hashes else len(candidates))
            read_bytes, read_files = read_bytes + fresh * length, read_files + fresh
            if read_bytes > _MOST_BYTES or read_files > _MOST_FILES:
                break
            if length not in hashes:
                hashes[length] = {_digest(train, other): other for other in candidates}
            found = hashes[length].get(_digest(test, row))
            if found is not None:
                pairs.append((_name(test, row), _name(train, found)))
        checked += 1
    return Copies(sorted(pairs), checked)


def _name(source: Source, row: int) -> str:
    return file_name_to_text(source.files[1][row])


def _digest(source: Source, row: int) -> bytes:
    folder, names = source.files
    digest = hashlib.blake2b(digest_size=20)
    try:
        with open(os.path.join(folder, names[row]), "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError:  # gone since: whoever decodes it says so
        return repr((folder, names[row])).encode("utf-8", "backslashreplace")
    return digest.digest()
