"""Bytes of images out of shards: at their offset, or from blocks that are unpacked first.

Tar and TFRecord files are read at an image's offset. A row group of a Parquet file and a compressed
file can be read as a whole only; such a block is unpacked, and stays so while it is in use.
"""

from __future__ import annotations

import collections
import mmap
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from rfd_tf.data.remote.cache import Cache
from rfd_tf.data.remote.transports import UNKNOWN, Described
from rfd_tf.data.shards import arrow, parquet
from rfd_tf.paths import is_address

_T = TypeVar("_T")

#: Blocks of more bytes are unpacked to a temporary file, which is deleted with them.
MOST_HELD = 64 << 20
#: `Block.packed` of a file that is an image.
WHOLE = "whole"
#: `Block.packed` of an Arrow file.
ARROW = "arrow"
#: `Block.packed` of files of which an image is read without others.
READ_AT_ONCE = ("", WHOLE, ARROW)
_LEAST_KEPT = 128 << 20
_OPEN_FILES = 256
_OPEN_FETCHED = 16
_READ_CHUNK = 1 << 16
_TRIAL = 8
_QUICK = 50e-6  # seconds


class Block(NamedTuple):
    """A part of a shard: a file that is read at any place, or what is unpacked as a whole.

    Attributes:
        path: of the shard.
        file_bytes: length of the file.
        packed: "" where the file is read as it is, "gzip" or "parquet"; `ARROW`; `WHOLE` where the
            file is an image.
        group: number of the row group.
        bytes: of all its images, about.
    """

    path: str
    file_bytes: int
    packed: str
    group: int
    bytes: int


class Places:
    """Where files lie whose blocks have addresses: in a cache that fetches them.

    Args:
        cache: the cache.
        described: the files by address, as servers describe them; of others nothing is known.
    """

    def __init__(self, cache: Cache, described: Mapping[str, Described]):
        self.cache, self.described = cache, described

    def fetch(self, path: str) -> str:
        """Returns the file of an address; raises OSError where it cannot be fetched."""
        return os.fspath(self.cache.fetch(path, self.described.get(path, UNKNOWN)))

    def fetch_ahead(self, paths: Iterable[str]) -> None:
        """Begins to fetch files that will be read soon."""
        wanted = dict.fromkeys(filter(is_address, paths))
        self.cache.fetch_ahead((path, self.described.get(path, UNKNOWN)) for path in wanted)


class Store:
    """Reads images of some blocks.

    Args:
        blocks: what there is to read from.
        image_column: of Parquet files; the usual one if None.
        places: where blocks with addresses lie, if there are any.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        image_column: str | None = None,
        places: Places | None = None,
    ):
        self.blocks = list(blocks)
        self.places = places
        #: Unpacked blocks are kept up to so many bytes.
        self.most_kept = _LEAST_KEPT
        self._column = image_column
        self._lock = threading.Lock()
        self._files: collections.OrderedDict[str, _File] = collections.OrderedDict()
        self._tables: dict[str, Callable[[int], bytes]] = {}
        self._unpacked: collections.OrderedDict[int, Future] = collections.OrderedDict()
        self._pool: ThreadPoolExecutor | None = None
        self._readers: ThreadPoolExecutor | None = None

    def read(self, block: int, offset: int, length: int) -> bytes:
        """Returns the bytes of an image.

        Raises:
            OSError: the shard cannot be read, or is not what it was.
        """
        described = self.blocks[block]
        if described.packed == WHOLE:
            return self._at_place(described, lambda path: Path(path).read_bytes())
        if described.packed == ARROW:
            return self._rows(described)(offset)
        if described.packed:
            return self._block(block).read(offset, length)
        content = b""
        if 0 <= length <= described.file_bytes:  # an index may be of other files
            content = os.pread(self._file(described).number, length, offset)
        if len(content) != length:
            raise OSError(f"'{described.path}' was cut off")
        return content

    def read_many(
        self, blocks: Sequence[int], offsets: Sequence[int], lengths: Sequence[int]
    ) -> list[bytes]:
        """Returns the bytes of several images; b"" of those that cannot be read."""

        def one(block: int, offset: int, length: int) -> bytes:
            try:
                return self.read(block, offset, length)
            except OSError:
                return b""

        rows = list(zip(blocks, offsets, lengths, strict=True))
        if self.places is not None:
            self.places.fetch_ahead(self.blocks[block].path for block in blocks)
        began = time.perf_counter()
        found = [one(*row) for row in rows[:_TRIAL]]
        # Threads hide the waiting for slow storage, and only delay what is in memory already.
        if len(rows) > _TRIAL:
            if time.perf_counter() - began < _QUICK * _TRIAL:
                found += [one(*row) for row in rows[_TRIAL:]]
            else:
                found += self._threads().map(lambda row: one(*row), rows[_TRIAL:])
        return found

    def prefetch(self, blocks: Iterable[int]) -> None:
        """Begins to unpack blocks that will be read soon."""
        if self.places is not None:
            blocks = list(blocks)
            self.places.fetch_ahead(self.blocks[block].path for block in blocks)
        with self._lock:
            for block in blocks:
                if self.blocks[block].packed not in READ_AT_ONCE:
                    self._future(block)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._readers is None:
                self._readers = ThreadPoolExecutor(16)
            return self._readers

    def _file(self, block: Block) -> _File:
        with self._lock:
            file = self._files.get(block.path)
            if file is not None:
                self._files.move_to_end(block.path)
                return file
        file = self._at_place(block, lambda path: _File(path, block.file_bytes))
        with self._lock:
            self._files[block.path] = file
            # (An open file takes space after it was removed from a cache.)
            if len(self._files) > (_OPEN_FILES if self.places is None else _OPEN_FETCHED):
                self._files.popitem(last=False)  # closed when its last reader is done
        return file

    def _rows(self, block: Block) -> Callable[[int], bytes]:
        with self._lock:
            read = self._tables.get(block.path)
        if read is None:
            read = self._at_place(block, lambda path: arrow.reader(path, self._column))
            with self._lock:
                self._tables[block.path] = read
        return read

    def _at_place(self, block: Block, read: Callable[[str], _T]) -> _T:
        """Calls `read` with the path of a block's file, which is fetched if need be."""
        if self.places is None or not is_address(block.path):
            return read(block.path)
        for _ in range(3):
            try:
                return read(self.places.fetch(block.path))
            except FileNotFoundError:  # removed from the cache meanwhile
                continue
        raise OSError(f"'{block.path}' was removed from the cache again and again")

    def _block(self, block: int) -> Unpacked:
        with self._lock:
            future = self._future(block)
        try:
            return future.result()
        except OSError:
            with self._lock:
                # (A file that cannot be fetched now may be later.)
                if self.places is not None and self._unpacked.get(block) is future:
                    del self._unpacked[block]
            raise

    def _unpack(self, block: Block) -> Unpacked:
        return self._at_place(block, lambda path: _unpack(path, block, self._column))

    def _future(self, block: int) -> Future:
        future = self._unpacked.get(block)
        if future is None:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(2)
            future = self._pool.submit(self._unpack, self.blocks[block])
            self._unpacked[block] = future
            kept = sum(self.blocks[one].bytes for one in self._unpacked)
            while kept > self.most_kept and len(self._unpacked) > 1:
                # (Not cancelled: another thread may be waiting for it.)
                oldest, _ = self._unpacked.popitem(last=False)
                kept -= self.blocks[oldest].bytes
        else:
            self._unpacked.move_to_end(block)
        return future


class _File:
    """An open shard. Closed when the last reference to it is gone."""

    def __init__(self, path: str, size: int):
        self._file = open(path, "rb", buffering=0)
        self.number = self._file.fileno()
        if os.fstat(self.number).st_size != size:
            self._file.close()
            raise OSError(f"'{path}' has changed its length")


class Unpacked:
    """The content of a block, in memory or, where it is large, in an unnamed temporary file.

    Attributes:
        damage: why the content ends early, or None.
    """

    def __init__(self):
        self.damage: str | None = None
        self._parts: list[bytes] | None = []
        self._size = 0
        self._file = None
        self._view: memoryview | None = None
        self._ends: list[int] = []

    def write(self, part: bytes) -> None:
        """Adds bytes at the end."""
        self._size += len(part)
        if self._file is None and self._size > MOST_HELD:
            self._file = tempfile.TemporaryFile()
            for one in self._parts:
                self._file.write(one)
            self._parts = None
        if self._file is None:
            self._parts.append(part)
        else:
            self._file.write(part)

    def end_row(self) -> None:
        """Makes what was written since the last row one of its own, read by its number."""
        self._ends.append(self._size)

    def content(self) -> memoryview:
        """Returns all that was written; nothing can be written afterwards."""
        if self._view is None:
            if self._file is None:
                self._view = memoryview(b"".join(self._parts))
                self._parts = None
            else:
                self._file.flush()
                self._view = memoryview(
                    mmap.mmap(self._file.fileno(), self._size, access=mmap.ACCESS_READ)
                )
                self._file.close()
        return self._view

    def read(self, offset: int, length: int) -> bytes:
        """Returns bytes from an offset on, or where rows were ended the row of that number."""
        view = self.content()
        if self._ends:
            if offset >= len(self._ends):
                raise OSError("the row is gone")
            start = self._ends[offset - 1] if offset else 0
            return bytes(view[start : self._ends[offset]])
        if offset + length > len(view):
            raise OSError(self.damage or "cut off")
        return bytes(view[offset : offset + length])


def _unpack(path: str, block: Block, column: str | None) -> Unpacked:
    if os.stat(path).st_size != block.file_bytes:
        raise OSError(f"'{block.path}' has changed its length")
    if block.packed == "gzip":
        return unpack_gzip(path)
    rows = Unpacked()
    for image in parquet.images_of_group(path, block.group, column):
        rows.write(image or b"")
        rows.end_row()
    rows.content()
    return rows


def unpack_gzip(path: str) -> Unpacked:
    """Returns the content of a gzip file, as far as it can be unpacked.

    Raises:
        OSError: it cannot be read.
    """
    found = Unpacked()
    with open(path, "rb", buffering=0) as file:
        reader, rest, whole = zlib.decompressobj(31), b"", True
        try:
            while rest or (rest := file.read(_READ_CHUNK)):
                found.write(reader.decompress(rest))
                rest, whole = b"", reader.eof
                if whole:  # another file may follow, or zeros that fill a block
                    rest = reader.unused_data.lstrip(b"\0")
                    reader = zlib.decompressobj(31)
            if not whole:
                found.damage = "cut off"
        except zlib.error as error:
            found.damage = f"damaged ({error})"
    found.content()
    return found
