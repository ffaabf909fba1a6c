"""Decoding every file of a set once, with the operations that training will use."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO

import numpy as np
import tensorflow as tf

from rfd_tf.data import image_files
from rfd_tf.data.decode import decode, decoded_height
from rfd_tf.data.image_files import Header
from rfd_tf.errors import shown

_BATCH = 64
_NO_BAR = contextlib.nullcontext()
_NAMED = 5
# What libjpeg prints each time it decodes a damaged file, without naming the file.
_COMPLAINT = re.compile(
    rb"^(?:Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|Invalid SOS parameters"
    rb"|Unknown Adobe color transform|Warning: unknown JFIF)[^\n]*\n?",
    re.MULTILINE,
)


class Files:
    """Image files, as `settle` reads them. What else holds images defines the same methods."""

    def __init__(self, paths: Sequence[bytes]):
        self._paths = paths

    def name(self, row: int) -> str:
        """Returns what to call an image in messages."""
        return os.fsdecode(self._paths[row])

    def content(self, row: int) -> str | bytes:
        """Returns an image's path, or its bytes."""
        return os.fsdecode(self._paths[row])

    def dataset(self, rows: Sequence[int]) -> tf.data.Dataset:
        """Returns a dataset of what `read` takes, string scalars, in the order of the rows."""
        return tf.data.Dataset.from_tensor_slices([self._paths[row] for row in rows])

    def read(self, origin: tf.Tensor) -> tf.Tensor:
        """Returns the bytes of an image."""
        return tf.io.read_file(origin)


def decode_all(
    files: Files,
    rows: Sequence[int],
    kinds: Sequence[int],
    shape: tuple[int, int] | None,
    progress: Callable[[int], object],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes image files in parallel, to learn which can be decoded.

    Args:
        files: where the images are.
        rows: N of the images.
        kinds: of each, see `image_files`.
        shape: height and width, where all images have the same and the pixels are wanted.
        progress: called with a number of images as they are done.

    Returns:
        bool `[N]`, which files could be decoded; and uint8 `[N, H, W, 3]` if `shape` was given
        (black where not decodable), else None.
    """
    possible = tuple(sorted({int(kind) for kind in kinds}))
    decodable = np.zeros(len(rows), bool)
    pixels = np.zeros((len(rows), *shape, 3), np.uint8) if shape else None

    @tf.autograph.experimental.do_not_convert  # nothing branches on a tensor; converting is slow
    def attempt(described: tuple[tf.Tensor, tf.Tensor], origin: tf.Tensor):
        index, kind = described
        contents = files.read(origin)
        if shape:
            return index, tf.ensure_shape(decode(contents, kind, possible), [*shape, 3])
        return index, decoded_height(contents, kind, possible)

    with tf.device("/CPU:0"):
        described = tf.data.Dataset.from_tensor_slices(
            (np.arange(len(rows)), np.asarray(kinds, np.int32))
        )
        images = tf.data.Dataset.zip(described, files.dataset(rows))
        # An image that raises is left out of what comes back: its index is missing then.
        done = images.map(attempt, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
        done = done.ignore_errors().batch(_BATCH).prefetch(2)
        for indices, images in done.as_numpy_iterator():
            decodable[indices] = True
            if pixels is not None:
                pixels[indices] = images
            progress(len(indices))
    return decodable, pixels


def settle(
    files: Files,
    headers: Sequence[Header],
    shape: tuple[int, int] | None = None,
    progress: Callable[[int, str], AbstractContextManager] = lambda total, what: _NO_BAR,
) -> tuple[list[Header | str], np.ndarray | None]:
    """Decodes image files and settles which decoder reads each.

    A file that one decoder refuses is tried by the other. JPEG files that libjpeg warns of are
    named in one warning and left to Pillow, which does not repeat the complaint at every reading.

    Args:
        files: where N images are.
        headers: of the images.
        shape: see `decode_all`.
        progress: called with a number of images and what is done; returns a progress bar, or None.

    Returns:
        The headers to decode by, the reason instead where a file cannot be decoded; and uint8
        `[N, H, W, 3]` if `shape` was given (black where not decodable), else None.
    """
    settled: list[Header | str] = list(headers)
    pixels = np.zeros((len(headers), *shape, 3), np.uint8) if shape else None

    def attempt(rows: Sequence[int], what: str) -> np.ndarray:
        """Returns those of the rows that cannot be decoded."""
        kinds = [settled[row].kind for row in rows]
        with progress(len(rows), what) as bar:
            update = bar.update if bar is not None else (lambda count: None)
            decodable, found = decode_all(files, rows, kinds, shape, update)
        if pixels is not None:
            pixels[rows] = found
        return np.asarray(rows)[~decodable]

    with _held_back() as complaints:
        failed = attempt(range(len(headers)), "Checking images") if headers else []
        others = {
            row: image_files.other_decoder(settled[row], files.content(row)) for row in failed
        }
        again = [row for row, other in others.items() if other is not None]
        for row in again:
            settled[row] = others[row]
        failed = set(failed) - set(again)
        if again:
            failed |= set(attempt(again, "Trying again").tolist())
        for row in failed:
            settled[row] = _why(files.content(row))
        read = [row for row, header in enumerate(settled) if isinstance(header, Header)]
        jpegs = [row for row in read if settled[row].kind == image_files.JPEG]
        damaged = _complained_of(complaints, files, jpegs)
    for row in damaged:
        settled[row] = image_files.other_decoder(settled[row], files.content(row))
    if damaged:
        named = [f"'{shown(files.name(row))}' ({why})" for row, why in damaged.items()]
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        warnings.warn(
            f"damaged but read: {', '.join(named[:_NAMED])}{more}; repair or remove them",
            stacklevel=2,
        )
    return settled, pixels


def _why(content: str | bytes) -> str:
    try:
        image_files.read_rgb(content, image_files.Reading(float("inf")))
    except Exception as error:  # Pillow raises many types on broken files
        return image_files.reason_of(error)
    return "its pixels are not what its header promises"


@contextlib.contextmanager
def _held_back() -> Iterator[BinaryIO | None]:
    """Holds back what is printed on stderr; all but libjpeg's complaints is printed afterwards.

    Yields:
        A file that grows with what is printed; None where stderr cannot be held back.
    """
    try:
        held, terminal = tempfile.TemporaryFile(), os.dup(2)
    except OSError:
        yield None
        return
    python = sys.stderr
    try:
        sys.stderr.flush()
        at_terminal = sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):
        at_terminal = False
    try:
        os.dup2(held.fileno(), 2)
        if at_terminal:  # progress bars go on
            sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, encoding=python.encoding)
        yield held
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        if sys.stderr is not python:
            sys.stderr.close()
            sys.stderr = python
        held.seek(0)
        rest = _COMPLAINT.sub(b"", held.read())
        held.close()
        if rest:
            os.write(2, rest)


def _complained_of(held: BinaryIO | None, files: Files, jpegs: Sequence[int]) -> dict[int, str]:
    """Returns the rows of the JPEG files that libjpeg complains of, and its words."""

    def said_since(place: int) -> list[bytes]:
        return _COMPLAINT.findall(os.pread(held.fileno(), 1 << 24, place))

    if held is None or not (wanted := len(said_since(0))):
        return {}
    found: dict[int, str] = {}
    # (A complaint does not name its file: the files are decoded one by one to find it.)
    for row in jpegs:
        place = os.fstat(held.fileno()).st_size
        with contextlib.suppress(tf.errors.OpError):
            content = files.content(row)
            content = tf.io.read_file(content) if isinstance(content, str) else tf.constant(content)
            decoded_height(content, image_files.JPEG, (image_files.JPEG,))
        if os.fstat(held.fileno()).st_size > place and (said := said_since(place)):
            found[row] = said[0].decode("ascii", "replace").strip()
            if len(found) == wanted:
                break
    return found
