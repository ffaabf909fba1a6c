"""Lists shards: in this process, in threads that wait for the storage, or in several processes."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rfd_tf.data import folder, image_files
from rfd_tf.data.remote.cache import NotFetched
from rfd_tf.data.shards import arrow, parquet, tar, tfrecord
from rfd_tf.data.shards.index import VERSION, Indexes, line_of, listed_in
from rfd_tf.data.shards.listing import FileBytes, HeldBytes, Listed, Listing, Wanted
from rfd_tf.data.shards.store import Places, unpack_gzip
from rfd_tf.errors import UserError
from rfd_tf.paths import replacing

#: Of no more images than this shards are read beforehand, which finds damage in them.
LEAST_INDEXED = 200_000
_MOST_THREADS = 16
# Processes take a second or two to start.
_LEAST_SECONDS = 6.0
_SECONDS_EACH = 2.0
_PROGRAM = "from rfd_tf.data.shards import lister; lister.main()"


def is_compressed(path: str) -> bool:
    """Returns whether a file is a gzip file, by its name."""
    return path.lower().endswith((".gz", ".tgz"))


def list_shard(path: str, format: str, wanted: Wanted) -> Listed:
    """Lists a shard; what is wrong with it stands in the listing.

    Raises:
        UserError: a Parquet file has no column of images, or not the columns that are wanted.
    """
    try:
        size = os.stat(path).st_size
        if not size:
            return Listed(path, 0, Listing(damage="empty file"))
        if format in ("parquet", "arrow"):
            read = {"parquet": parquet, "arrow": arrow}[format].listing
            return Listed(path, size, read(path, wanted))
        damage = None
        if is_compressed(path):
            unpacked = unpack_gzip(path)
            damage, data = unpacked.damage, HeldBytes(unpacked.content())
        else:
            data = FileBytes(path)
        try:
            listing = {"tar": tar, "tfrecord": tfrecord}[format].listing(data, wanted)
            listing.bytes_of_groups = [data.size]
        finally:
            data.close()
        if damage and not listing.damage:
            listing.cut(damage, size, size)
    except OSError as error:
        return Listed(path, 0, Listing(damage=image_files.reason_of(error)))
    return Listed(path, size, listing)


def list_all(paths: Sequence[str], format: str, wanted: Wanted) -> list[Listed]:
    """Lists shards, in order; of large sets only those that an index beside them does not have.

    How they are listed is chosen by how long the first one takes.

    Raises:
        UserError: see `list_shard`.
    """
    indexes = Indexes(wanted)
    found = {path: indexes.of(path, _size(path)) for path in paths}
    known = {path: one for path, one in found.items() if one is not None}
    if sum(len(one.listing) for one in known.values()) <= LEAST_INDEXED:
        known = {}
    others = [path for path in paths if path not in known]
    listed = _list_all(others, format, wanted) if others else []
    known.update(zip(others, listed, strict=True))
    return [known[path] for path in paths]


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _list_all(paths: Sequence[str], format: str, wanted: Wanted) -> list[Listed]:

    def one(path: str) -> Listed:
        return list_shard(path, format, wanted)

    listed: list[Listed] = []
    with folder.progress(len(paths), "Listing shards", " shards", 100) as bar:
        began, busy = time.perf_counter(), time.thread_time()
        listed.append(one(paths[0]))
        took, busy = time.perf_counter() - began, time.thread_time() - busy
        rest = paths[1:]
        processes = min(_cores(), len(rest), int(busy * len(rest) / _SECONDS_EACH))
        with contextlib.ExitStack() as stack:
            if busy * len(rest) > _LEAST_SECONDS and processes > 1 and sys.executable:
                found = stack.enter_context(_in_processes(rest, format, wanted, processes))
            elif took > 2 * busy + 1e-3:
                found = stack.enter_context(ThreadPoolExecutor(_MOST_THREADS)).map(one, rest)
            else:
                found = map(one, rest)
            for each in found:
                listed.append(each)
                bar.update(1)
    return listed


def list_fetched(paths: Sequence[str], format: str, wanted: Wanted, places: Places) -> list[Listed]:
    """Lists shards elsewhere, in order, unless an index beside them has them.

    What the others hold is kept in the cache for later runs.

    Raises:
        UserError: a shard cannot be fetched; see `list_shard`.
    """

    indexes = Indexes(wanted, places)
    if paths:
        indexes.of(paths[0], None)  # read once, before the threads ask for it

    def one(path: str) -> Listed:
        described = places.described[path]
        if known := indexes.of(path, described.size):
            return known
        kept = places.cache.index((VERSION, path, described.size, described.version, *wanted))
        with contextlib.suppress(OSError):
            if known := listed_in(kept.read_bytes()):
                return known._replace(path=path)
        listed = _list_fetched(path, format, wanted, places)
        if not listed.listing.damage:
            with contextlib.suppress(OSError), replacing(kept) as writing:
                writing.write_text(line_of(listed), encoding="utf-8")
        return listed

    listed: list[Listed] = []
    with (
        ThreadPoolExecutor(_MOST_THREADS) as pool,
        folder.progress(len(paths), "Reading the index of shards", " shards", 2) as bar,
    ):
        try:
            for found in pool.map(one, paths):
                listed.append(found)
                bar.update(1)
        except NotFetched as error:
            pool.shutdown(cancel_futures=True)
            raise UserError(error) from None
    return listed


def _list_fetched(path: str, format: str, wanted: Wanted, places: Places) -> Listed:
    with places.cache.using(path, places.described[path]) as place:
        place = os.fspath(place)
        try:
            return list_shard(place, format, wanted)._replace(path=path)
        except UserError as error:
            raise UserError(error.marked.replace(place, path)) from None


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


@contextlib.contextmanager
def _in_processes(
    paths: Sequence[str], format: str, wanted: Wanted, count: int
) -> Iterator[Iterator[Listed]]:
    """Gives the listings of shards, in order, made by processes in turn."""
    package = str(Path(folder.__file__).parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    }
    children: list[Any] = []

    def listed() -> Iterator[Listed]:
        for number, path in enumerate(paths):
            child = children[number % count]
            try:
                found = pickle.load(child.stdout)
            except (EOFError, OSError, pickle.UnpicklingError):  # it was killed, or did not start
                found = list_shard(path, format, wanted)
            if isinstance(found, UserError):
                raise found
            yield found

    try:
        for number in range(count):
            child = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C ends this process, which ends them
            )
            children.append(child)
            with contextlib.suppress(OSError), child.stdin:
                pickle.dump((paths[number::count], format, wanted), child.stdin)
        yield listed()
    finally:
        for child in children:
            child.kill()
            child.stdout.close()
            child.wait()


def main() -> None:
    """Runs such a process: lists the shards that standard input names, and writes the listings."""
    paths, format, wanted = pickle.load(sys.stdin.buffer)
    for path in paths:
        try:
            found = list_shard(path, format, wanted)
        except UserError as error:
            found = error
        pickle.dump(found, sys.stdout.buffer)
        sys.stdout.buffer.flush()
