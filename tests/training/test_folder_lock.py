"""One process at a time holds a folder, and a dead one holds nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rfd_tf.errors import UserError
from rfd_tf.training import folder_lock
from rfd_tf.training.folder_lock import FolderLock

HOLD = """
import sys, time
from rfd_tf.training.folder_lock import FolderLock
FolderLock(sys.argv[1]).acquire()
print("held", flush=True)
time.sleep(100)
"""


def content(folder):
    return json.loads((folder / ".lock").read_text())


def write(folder, **changes):
    """The lock file of another process, as this machine would write it but for some entries."""
    text = {**folder_lock._here(), "token": "other", "doing": "trains in", "since": "now"}
    (folder / ".lock").write_text(json.dumps({**text, **changes}))


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_held_folder_is_refused_and_a_killed_holder_holds_nothing(holder, tmp_path):
    with pytest.raises(UserError, match=rf"'{tmp_path}' is in use: process {holder.pid} .*-c"):
        FolderLock(tmp_path).acquire()
    assert content(tmp_path)["pid"] == holder.pid
    holder.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while folder_lock._started(holder.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    # (Not waited for: a process that is dead but still listed counts as dead.)
    started = time.monotonic()
    with FolderLock(tmp_path):
        assert content(tmp_path)["pid"] == os.getpid()
    assert time.monotonic() - started < folder_lock.SILENCE / 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"started": "1"},  # the number is another process' now
        {"pid": 2**22 + 5},
        {"pid": "no number"},
    ],
)
def test_a_dead_holder_on_this_machine_is_noticed_at_once(tmp_path, changes, caplog):
    write(tmp_path, **changes)
    with FolderLock(tmp_path):
        assert content(tmp_path)["token"] != "other"
    assert caplog.text == ""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(folder_lock, "SILENCE", 1.0)


def test_a_holder_on_another_machine_is_alive_while_it_touches_the_file(tmp_path, quick, caplog):
    write(tmp_path, host="elsewhere", pid=77)
    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            os.utime(tmp_path / ".lock")

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 77 on 'elsewhere' trains in it since now"):
            FolderLock(tmp_path).acquire()
    finally:
        ended.set()
        thread.join()
    assert "waiting up to 1 s" in caplog.text
    with FolderLock(tmp_path):
        assert content(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"boot": "before"}])
def test_a_holder_that_was_silent_for_long_is_not_waited_for(tmp_path, caplog, changes):
    write(tmp_path, **changes)
    os.utime(tmp_path / ".lock", (time.time() - 1000,) * 2)
    with FolderLock(tmp_path):
        assert content(tmp_path)["pid"] == os.getpid()
    assert caplog.text == ""


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}"])
def test_a_damaged_file_is_no_lock_for_ever(tmp_path, quick, text):
    (tmp_path / ".lock").write_text(text)
    with FolderLock(tmp_path):
        assert content(tmp_path)["pid"] == os.getpid()


def test_without_links_an_exclusive_file_does(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    with FolderLock(tmp_path):
        with pytest.raises(UserError, match="is in use"):
            FolderLock(tmp_path).acquire()
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []


def test_the_holder_keeps_touching_and_notices_a_lost_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT", 0.02)
    with FolderLock(tmp_path) as lock:
        lock.check()
        os.utime(tmp_path / ".lock", (1, 1))
        deadline = time.monotonic() + 60
        while (tmp_path / ".lock").stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / ".lock").stat().st_mtime > 1
        write(tmp_path, pid=77)
        with pytest.raises(UserError, match="process 77"):
            lock.check()
    # What is not its own any more is left.
    assert content(tmp_path)["pid"] == 77


def test_of_many_that_find_a_dead_holder_one_gets_the_lock(tmp_path):
    write(tmp_path, started="1")
    locks = [FolderLock(tmp_path) for _ in range(8)]
    found = []

    def take(lock):
        try:
            lock.acquire()
            found.append(lock)
        except UserError:
            pass

    threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1
    found[0].release()
    assert list(tmp_path.iterdir()) == []
