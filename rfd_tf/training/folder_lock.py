"""One process at a time writes a run, an evaluation or an export."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from rfd_tf.errors import UserError, shown

#: Seconds between two signs of life.
BEAT = 5.0
#: Seconds without a sign of life after which a process that cannot be inspected counts as dead.
SILENCE = 30.0
NAME = ".lock"
_log = logging.getLogger("rfd_tf")


class FolderLock:
    """A lock file that names its holder; a context manager.

    A holder on this machine is alive if its process is: after SIGKILL the next start takes the
    lock at once. A holder on another machine, in another container or from before a reboot is
    dead if it has not touched the file for `2 * SILENCE` seconds by the file system's clock; else
    the file is watched for `SILENCE` seconds. Atomic links or exclusive creation are all that is
    needed, and network file systems have both.

    Args:
        folder: folder of the file; it must exist.
        name: of the file.
        doing: what the holder does, for the message: "trains in", "writes".
        what: the file or folder that is locked, for the message; `folder` when None.

    Raises:
        UserError: another process holds the lock; the message names the folder and the process.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with FolderLock(folder):
    ...     FolderLock(folder).acquire()
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: '...' is in use: process ... trains in it since ...
    >>> os.listdir(folder)
    []
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        name: str = NAME,
        doing: str = "trains in",
        what: str | os.PathLike | None = None,
    ):
        self.folder, self.doing = Path(folder), doing
        self.what = self.folder if what is None else Path(what)
        self.path = self.folder / name
        self._token = uuid.uuid4().hex
        self._ended = threading.Event()
        self._beat: threading.Thread | None = None
        self._pid = 0

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock, also of a holder that has died."""
        while not self._create():
            holder = _read(self.path)
            if holder is None:
                continue  # released in the meantime
            if holder.get("token") == self._token:
                break  # made, though the network lost the reply
            if _is_alive(holder, self.path):
                raise UserError(self._in_use(holder))
            self._remove(holder)
        self._pid = os.getpid()
        self._ended.clear()
        self._beat = threading.Thread(target=self._keep_alive, daemon=True)
        self._beat.start()

    def release(self) -> None:
        """Gives the lock back; does nothing where it is not held, as in a forked process."""
        if self._beat is None or self._pid != os.getpid():
            return
        self._ended.set()
        self._beat.join()
        self._beat = None
        if self._is_own():
            with contextlib.suppress(OSError):
                self.path.unlink()

    def check(self) -> None:
        """Raises `UserError` where another process has taken the lock.

        That happens to a process that was stopped for longer than `SILENCE` seconds, on a file
        system shared with the machine of the other.
        """
        if self._beat is not None and self._pid == os.getpid() and not self._is_own():
            holder = _read(self.path)
            if holder is not None:
                raise UserError(self._in_use(holder))

    def _is_own(self) -> bool:
        return (_read(self.path) or {}).get("token") == self._token

    def _create(self) -> bool:
        content = {**_here(), "token": self._token, "doing": self.doing, "beat": BEAT}
        content["since"] = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        content["command"] = " ".join(sys.argv)[:300]
        text = json.dumps(content).encode()
        # A link appears with its content; where there are no links, an exclusive file will do.
        temporary = self.path.with_name(f"{self.path.name}.{self._token}")
        try:
            temporary.write_bytes(text)
            try:
                os.link(temporary, self.path)
                return True
            except FileExistsError:
                return False
            except OSError:
                with open(self.path, "xb") as file:
                    file.write(text)
                return True
        except FileExistsError:
            return False
        except OSError as error:
            raise UserError(
                f"'{self.folder}' cannot be written ({error.strerror}); choose another output "
                "folder"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _remove(self, holder: dict[str, Any]) -> None:
        """Removes the file of a dead holder, and no other that has appeared in its place."""
        aside = self.path.with_name(f"{self.path.name}.{self._token}.dead")
        try:
            os.rename(self.path, aside)
        except OSError:
            return  # another process was quicker
        if (_read(aside) or {}).get("token") != holder.get("token"):
            with contextlib.suppress(OSError):
                os.link(aside, self.path)
        with contextlib.suppress(OSError):
            aside.unlink()

    def _keep_alive(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _in_use(self, holder: dict[str, Any]) -> str:
        where = holder.get("host")
        on = f" on '{shown(where)}'" if where and where != socket.gethostname() else ""
        command = f" ({shown(holder['command'], 120)})" if holder.get("command") else ""
        return (
            f"'{self.what}' is in use: process {holder.get('pid', '?')}{on}{command} "
            f"{shown(holder.get('doing', 'writes to'))} it since {shown(holder.get('since', '?'))}"
            "; wait until it has ended, end it, or choose another output"
        )


def _here() -> dict[str, Any]:
    """What identifies this process, and the machine and container in which its number is unique."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
        "pid": pid,
        "started": _started(pid),
    }


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return None


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None where it is dead, or without /proc."""
    text = _text(f"/proc/{pid}/stat")
    if text is None:
        return None
    fields = text.rpartition(")")[2].split()  # after the name, which may hold anything
    return None if fields[0] in "ZX" else fields[19]


def _read(path: Path) -> dict[str, Any] | None:
    """The holder that a lock file names; an empty dict where it names none; None without a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    try:
        holder = json.loads(text)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_alive(holder: dict[str, Any], path: Path) -> bool:
    here = _here()
    same = holder.get("host") == here["host"]
    pid = holder.get("pid")
    if same and here["boot"] is None and not _exists(pid):
        return False
    if same and here["boot"] is not None:
        # (Two machines can have one name, and two containers one number for their processes.)
        if all(holder.get(key) == here[key] for key in ("boot", "namespace")):
            return isinstance(pid, int) and _started(pid) == holder.get("started") is not None
    return _shows_life(path, holder)


def _exists(pid: Any) -> bool:
    """Whether there is such a process, on systems without /proc."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError, TypeError):
        return False
    return True


def _shows_life(path: Path, holder: dict[str, Any]) -> bool:
    """Whether the file's time advances, for a holder that cannot be inspected."""
    first = _touched(path)
    now = _clock(path)
    if first is not None and now is not None and now - first > 2 * SILENCE:
        return False
    _log.warning(
        f"waiting up to {SILENCE:g} s to see whether process {holder.get('pid', '?')} on "
        f"'{shown(holder.get('host', '?'))}' still uses '{path.parent}'"
    )
    deadline = time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        time.sleep(min(0.5, SILENCE / 10))
        last = _touched(path)
        if last is None:
            return False
        if last != first:
            return True
    return False


def _touched(path: Path) -> float | None:
    try:
        # (Opening makes a network file system ask its server.)
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return None


def _clock(path: Path) -> float | None:
    """The time by the clock of the file system, which may be another machine's."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}.clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
