"""A folder of bounded size for files that are fetched from addresses."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import functools
import hashlib
import itertools
import json
import os
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rfd_tf.data.remote import transports
from rfd_tf.data.remote.transports import UNKNOWN, Described, Refused
from rfd_tf.errors import UserError, shown
from rfd_tf.paths import absolute, replacing

#: The setting `cache_gb`.
CACHE_GB = 50.0
_AT_ONCE = 16
# A file is given up after so many tries in a row that bring no byte.
_TRIES = 8
_TRIES_TO_DESCRIBE = 4
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds
_MOST_TRIES = 100
# For so long a file that cannot be fetched is not asked for again.
_FORGOTTEN = 60.0
_RESCANNED = 60.0
_TOUCHED = 10.0
_ABANDONED = 86_400.0
_PARTIAL = ".part"
_NUMBERS = itertools.count()


#: The last file that could not be fetched, and why; for the message when training ends for it.
trouble: list[str] = []


class NotFetched(OSError):
    """A file that cannot be fetched, and why."""


class _Pool:
    """Threads that do not hold up the end of the program, as those of an executor would."""

    def __init__(self, count: int):
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._count, self._threads = count, 0
        self._lock = threading.Lock()

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future:
        future: Future = Future()
        self._tasks.put((future, work, arguments))
        with self._lock:
            if self._threads < self._count:
                self._threads += 1
                threading.Thread(target=self._work, name="rfd_tf fetch", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            future, work, arguments = self._tasks.get()
            try:
                future.set_result(work(*arguments))
            except BaseException as error:
                future.set_exception(error)


@dataclasses.dataclass
class _Held:
    size: int
    used: float


class Cache:
    """Fetches files and keeps the last ones used.

    Files are written under temporary names, verified by their length and by the checksum that the
    server reports, and renamed. Interrupted downloads resume where they stopped; several tries are
    made, with longer and longer pauses. Threads and processes may share the folder.

    Args:
        directory: the folder; `rfd_tf` in the user's folder of caches if None.
        gigabytes: the largest total length of the files in it, 10^9 bytes each.

    Raises:
        UserError: the folder cannot be written.

    >>> import tempfile
    >>> Cache(tempfile.mkdtemp(), 1).limit
    1000000000
    """

    def __init__(self, directory: str | os.PathLike | None = None, gigabytes: float = CACHE_GB):
        self.directory = absolute(directory if directory is not None else _usual_directory())
        self.limit = int(gigabytes * 1e9)
        self._files = self.directory / "files"
        self._indexes = self.directory / "indexes"
        try:
            self._files.mkdir(parents=True, exist_ok=True)
            self._indexes.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write to --cache_dir '{self.directory}': {error.strerror}"
            ) from None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._in_use: collections.Counter[str] = collections.Counter()
        # In the order of their last use, and their total length.
        self._held: dict[str, _Held] = {}
        self._total = 0
        self._reserved: dict[str, int] = {}
        self._scanned = 0.0
        self._pending: dict[str, Future] = {}
        self._failed: dict[str, tuple[float, Exception]] = {}
        self._pool = _Pool(_AT_ONCE)
        # Buckets whose ETags have turned out to be no checksums.
        self._without_checksums: set[str] = set()

    def describe(self, addresses: Sequence[str]) -> list[Described]:
        """Returns what the servers report of files, asked for in parallel.

        Raises:
            NotFetched: one is missing, refused or cannot be reached; names it.
        """
        found = [self._pool.submit(_described, address) for address in addresses]
        return [future.result() for future in found]

    def matching(self, pattern: str) -> dict[str, Described]:
        """Returns the files that match a pattern, see `transports.matching`.

        Raises:
            NotFetched: they cannot be listed.
        """
        return _patiently(pattern, lambda _: transports.matching(pattern), _TRIES_TO_DESCRIBE)

    def latest(self, address: str) -> Path:
        """Returns the place of a file whose present version is fetched; see `fetch`."""
        return self.fetch(address, _described(address))

    def fetch(self, address: str, described: Described = UNKNOWN) -> Path:
        """Returns a file's place in the cache, where it may be removed when others are fetched.

        Raises:
            NotFetched: it cannot be fetched or kept; names the address and why.
        """
        name = _name_of(address, described)
        with self._lock:
            future = self._begin(name, address, described)
        if future is not None:
            future.result()
        return self._files / name

    @contextlib.contextmanager
    def using(self, address: str, described: Described = UNKNOWN) -> Iterator[Path]:
        """Gives a file's place, where it stays while it is used; see `fetch`."""
        name = _name_of(address, described)
        with self._lock:
            self._in_use[name] += 1
        try:
            yield self.fetch(address, described)
        finally:
            with self._changed:
                self._in_use.subtract([name])
                self._in_use = +self._in_use
                self._changed.notify_all()

    def fetch_ahead(self, files: Iterable[tuple[str, Described]]) -> None:
        """Begins to fetch files that will be read soon, and marks those in the cache as used."""
        with self._lock:
            for address, described in files:
                with contextlib.suppress(NotFetched):
                    self._begin(_name_of(address, described), address, described)

    def index(self, key: Sequence[Any]) -> Path:
        """Returns where what is known of a file's content is kept; may not exist.

        Args:
            key: what it follows from: texts and numbers.
        """
        return self._indexes / f"{_digest(json.dumps(list(map(str, key))))}.json"

    # -- the files kept -------------------------------------------------------------------------

    def _begin(self, name: str, address: str, described: Described) -> Future | None:
        """Returns the download of a file, which may be running; None if it is in the cache."""
        future = self._pending.get(name)
        if future is not None:
            return future
        now = time.time()
        if self._is_there(name, now):
            return None
        failed = self._failed.get(name)
        if failed is not None and now - failed[0] < _FORGOTTEN:
            raise failed[1]
        if (described.size or 0) > self.limit:
            raise NotFetched(
                f"'{shown(address)}' has {described.size / 1e9:.3g} GB; raise --cache_gb "
                f"(now {self.limit / 1e9:g})"
            )
        future = self._pending[name] = self._pool.submit(self._download, name, address, described)
        return future

    def _is_there(self, name: str, now: float) -> bool:
        path = self._files / name
        held = self._held.get(name)
        if held is not None and now - held.used < _TOUCHED and path.exists():
            return True
        try:
            os.utime(path)  # for other processes, and later ones
            size = path.stat().st_size
        except OSError:
            self._drop(name)
            return False
        self._hold(name, size, now)
        return True

    def _hold(self, name: str, size: int, used: float) -> None:
        self._drop(name)
        self._held[name] = _Held(size, used)
        self._total += size

    def _drop(self, name: str) -> None:
        held = self._held.pop(name, None)
        self._total -= held.size if held else 0

    def _make_room(self, size: int) -> bool:
        """Removes the files used longest ago; returns whether there is room for another one."""
        now = time.time()
        if now - self._scanned > _RESCANNED:
            self._scan(now)
        most = self.limit - size - sum(self._reserved.values())
        excess, removed = self._total - most, []
        for name, held in self._held.items():
            if excess <= 0:
                break
            if not self._in_use[name]:
                removed.append(name)
                excess -= held.size
        for name in removed:
            self._drop(name)
            with contextlib.suppress(OSError):
                os.unlink(self._files / name)
        return self._total <= most

    def _scan(self, now: float) -> None:
        """Reads what is in the folder: other processes write to it, too."""
        self._scanned = now
        found = []
        with contextlib.suppress(OSError), os.scandir(self._files) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    if not entry.name.endswith(_PARTIAL):
                        found.append((status.st_mtime, entry.name, status.st_size))
                    elif now - status.st_mtime > _ABANDONED:
                        os.unlink(entry.path)
        self._held, self._total = {}, 0
        for used, name, size in sorted(found):
            self._hold(name, size, used)

    # -- downloads ------------------------------------------------------------------------------

    def _download(self, name: str, address: str, described: Described) -> None:
        writing = self._files / f"{name}.{os.getpid()}-{next(_NUMBERS)}{_PARTIAL}"
        failed: OSError | None = None
        size = described.size or 0
        try:
            with self._changed:
                # (Those that are being fetched or read make room when they are done.)
                while not self._make_room(size) and (self._reserved or self._in_use):
                    self._changed.wait(1.0)
                self._reserved[name] = size
            with replacing(self._files / name, writing):
                size = self._write(writing, address, described)
            with self._lock:
                self._make_room(size - self._reserved.pop(name))
                self._hold(name, size, time.time())
        except OSError as error:
            failed = error
            trouble[:] = [str(error)]
            raise
        finally:
            with self._lock:
                self._reserved.pop(name, None)
                self._pending.pop(name, None)
                if failed is None:
                    self._failed.pop(name, None)
                else:
                    self._failed[name] = time.time(), failed
                self._changed.notify_all()

    def _write(self, path: Path, address: str, described: Described) -> int:
        """Writes a file of the server; returns its length once it is verified."""
        others: set[str] = set()

        def attempt(progress: _Progress) -> int:
            with contextlib.ExitStack() as stack:
                with self._disk_errors():
                    file = stack.enter_context(open(path, "ab", buffering=0))
                place = file.tell()
                whole = described.size is not None and place == described.size
                for start, chunk in () if whole else transports.chunks(address, place, described):
                    with self._disk_errors():
                        if start != place:  # the server started over
                            file.truncate(start)
                        rest = memoryview(chunk)
                        while rest:
                            rest = rest[file.write(rest) :]
                    place = start + len(chunk)
                    progress.made = True
            if described.size is not None and place < described.size:
                raise OSError(f"{place:,} of {described.size:,} bytes were sent")
            fault = self._fault(path, address, described, others)
            if fault:
                os.truncate(path, 0)
                progress.made = False
                raise OSError(fault)
            return place

        return _patiently(address, attempt, _TRIES)

    def _fault(
        self, path: Path, address: str, described: Described, others: set[str]
    ) -> str | None:
        """Returns what is wrong with a whole file, or None.

        Args:
            others: digests of earlier downloads of it.
        """
        size = path.stat().st_size
        if described.size is not None and size != described.size:
            return f"{size:,} bytes were sent, not {described.size:,}"
        host = address.partition("://")[2].partition("/")[0]
        if described.checksum is None or (not described.sure and host in self._without_checksums):
            return None
        kind, wanted = described.checksum
        found = hashlib.new(kind, usedforsecurity=False)
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
        found = found.hexdigest()
        if found == wanted:
            return None
        if not described.sure and found in others:  # twice the same: the ETag is no checksum
            self._without_checksums.add(host)
            return None
        others.add(found)
        return f"its {kind} is {found[:12]}..., not {wanted[:12]}..."

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                way_out = "free space, give another --cache_dir or a smaller --cache_gb"
            else:
                way_out = "give another --cache_dir"
            raise NotFetched(
                f"cannot write to --cache_dir '{self.directory}': {error.strerror}; {way_out}"
            ) from None


@functools.cache
def opened(directory: str | os.PathLike | None, gigabytes: float) -> Cache:
    """Returns the cache of a folder, one for all images of the process."""
    return Cache(directory, gigabytes)


@dataclasses.dataclass
class _Progress:
    made: bool = False


def _described(address: str) -> Described:
    return _patiently(address, lambda _: transports.describe(address), _TRIES_TO_DESCRIBE)


def _patiently(address: str, work: Callable[[_Progress], Any], tries: int) -> Any:
    """Calls `work` until it succeeds, with longer and longer pauses.

    Raises:
        NotFetched: it failed for good, or too often without any progress.
    """
    failures = 0
    for _ in range(_MOST_TRIES):
        progress = _Progress()
        try:
            return work(progress)
        except NotFetched:
            raise
        except Refused as error:
            raise NotFetched(f"cannot read '{shown(address)}': {error}") from None
        except OSError as error:
            last = error
        failures = 1 if progress.made else failures + 1
        if failures >= tries:
            break
        pause = min(_FIRST_WAIT * 2 ** (failures - 1), _LONGEST_WAIT)
        time.sleep(pause * random.uniform(0.5, 1.0))
    raise NotFetched(f"cannot read '{shown(address)}' after {tries} tries: {shown(last)}") from None


def _usual_directory() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches) / "rfd_tf"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _name_of(address: str, described: Described) -> str:
    """The name in the cache: another version of a file has another one."""
    digest = _digest(f"{address}\0{described.size}\0{described.version}")
    name = re.sub(r"[^A-Za-z0-9._-]", "_", transports.name_of(address))[-80:]
    return f"{digest}-{name}"
