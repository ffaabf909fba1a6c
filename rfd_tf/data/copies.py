"""Image files that occur twice: in one set, or in the training and in the test set."""

from __future__ import annotations

import collections
import hashlib
import os
import warnings
from typing import NamedTuple

import numpy as np

from rfd_tf.data.base import Source
from rfd_tf.data.folder import in_threads
from rfd_tf.data.subset import index_hash
from rfd_tf.errors import shown
from rfd_tf.text import file_name_to_text

_MOST_BYTES = 512 << 20
_MOST_FILES = 50_000
_CHUNK = 1 << 20
#: Of larger sets copies are not searched: that would delay the start.
MOST_IMAGES = 200_000
_NAMED = 3


def first_of_copies(source: Source) -> np.ndarray | None:
    """Returns the first image whose file is byte for byte that of each image.

    Only files of equal length are read.

    Returns:
        int64 `[num_images]`: the image's own index, or that of an earlier one; None where images
        are not files.

    >>> from rfd_tf.data import digits
    >>> first_of_copies(digits()) is None
    True
    """
    if not source.files or not source.lengths:
        return None
    first = np.arange(source.num_images)
    lengths = np.asarray(source.lengths, np.int64)
    values, counts = np.unique(lengths, return_counts=True)
    alike = np.flatnonzero(np.isin(lengths, values[counts > 1]))
    digests = in_threads(lambda row: _digest(source, row), alike.tolist(), "Looking for copies")
    seen: dict[bytes, int] = {}
    for row, digest in zip(alike.tolist(), digests, strict=True):
        first[row] = seen.setdefault(digest, row)
    return first


def merged(source: Source) -> Source:
    """Returns a source that has each image file once: copies of an earlier one are left out.

    In a memory bank copies are one another's negatives. A warning counts and names them, and those
    with another label than the image they are copies of. The index and the fingerprint are those of
    the images that are left.

    Args:
        source: the images; returned as it is where they are not files, where there are more than
            200,000, or no copies.
    """
    first = first_of_copies(source) if source.num_images <= MOST_IMAGES else None
    if first is None:
        return source
    own = np.arange(source.num_images)
    copies, kept = np.flatnonzero(first != own), np.flatnonzero(first == own)
    if not len(copies):
        return source
    part = source.subset(kept, source.name)
    part.skipped, part.reading = source.skipped, source.reading
    root, names = source.files
    part.files = root, [names[row] for row in kept.tolist()]
    part.lengths = [source.lengths[row] for row in kept.tolist()]
    remark = (
        f"{len(copies)} of {source.num_images} images of '{source.name}' are exact copies of "
        f"others and left out ({_listed(source, copies, first)}); --merge_copies=false keeps them"
    )
    if source.labels is not None:
        other = copies[source.labels[copies] != source.labels[first[copies]]]
        if len(other):
            remark += (
                f"; {len(other)} of them differ in the label ({_listed(source, other, first)})"
            )
    warnings.warn(remark, stacklevel=2)
    return part


def _listed(source: Source, copies: np.ndarray, first: np.ndarray) -> str:
    named = (f"{source.names[row]} of {source.names[first[row]]}" for row in copies[:_NAMED])
    return shown(", ".join(named)) + ", ..." * (len(copies) > _NAMED)


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
    except OSError:  # removed since: decoding reports it
        return repr((folder, names[row])).encode("utf-8", "backslashreplace")
    return digest.digest()
