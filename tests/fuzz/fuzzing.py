"""What the fuzz tests share: damaged copies of a file, and a watch on what is written where."""

import contextlib
import os
import sys
import tempfile

from hypothesis import strategies as st

from rfd_tf.errors import UserError

#: How many examples were asked for; 0 is the tests' own number, of examples always the same.
MANY = int(os.environ.get("RFD_TF_FUZZ_EXAMPLES", "0"))

_TELLING = [
    b"", b"\0", b"\xff", b"\n", b"-1", b"0", b"1e999", b"nan", b"9" * 400, b"null", b"[]", b"{}",
    b"true", b"[" * 3000, b"../../etc/passwd", b"/dev/zero", b"%n%s", b"\x1b[2J", b"PK\x03\x04",
    b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>&b;", b"</", b"]]>", b"\xed\xa0\x80",
]  # fmt: skip


@st.composite
def damaged(draw, contents):
    """Copies of one of the contents (bytes) with some places cut, doubled, flipped or replaced."""
    data = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        end = min(len(data), place + draw(st.sampled_from([0, 1, 4, 20, 200])))
        how = draw(st.sampled_from(["cut", "flip", "put", "put", "double", "end"]))
        if how == "cut":
            del data[place:end]
        elif how == "flip" and place < len(data):
            data[place] ^= draw(st.integers(1, 255))
        elif how == "put":
            data[place:end] = draw(st.sampled_from(_TELLING) | st.binary(max_size=8))
        elif how == "double":
            data[place:place] = data[place:end]
        elif how == "end":
            del data[place:]
    return bytes(data)


def anything(*contents):
    """Bytes: mostly damaged copies of the contents, now and then any."""
    return damaged(list(contents)) | damaged(list(contents)) | st.binary(max_size=300)


_watching: list[list[str]] = []
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGING = ("os.mkdir", "os.rename", "os.symlink", "os.link", "os.remove", "os.rmdir")
_CALLING = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system")
# Where Python and TensorFlow keep what they compile.
_COMPILED = ("__pycache__", "__autograph_generated")


def _see(event, arguments):
    if not _watching:
        return
    paths = []
    if event == "open":
        path, mode, flags = arguments
        if set(mode or "") & set("wax+") or (isinstance(flags, int) and flags & _WRITING):
            paths = [path]
    elif event in _CHANGING:
        paths = arguments[:2]
    elif event in _CALLING:
        _watching[-1].append(f"{event} {arguments}")
    _watching[-1].extend(os.fsdecode(path) for path in paths if isinstance(path, (str, bytes)))


@contextlib.contextmanager
def nothing_outside(*folders):
    """Makes sure that nothing is written but in the folders, nobody called, no program started."""
    if not getattr(sys, "_rfd_tf_watch", False):
        sys.addaudithook(_see)  # for as long as the process lives
        sys._rfd_tf_watch = True
    seen: list[str] = []
    _watching.append(seen)
    try:
        yield
    finally:
        _watching.remove(seen)
    allowed = tuple(
        os.path.abspath(folder) + os.sep for folder in (*folders, os.devnull, "/proc/self")
    )
    outside = [
        path
        for path in seen
        if not any(name in path for name in _COMPILED)
        and not (os.path.abspath(path) + os.sep).startswith(allowed)
        and path != tempfile.gettempdir()
    ]
    assert not outside, outside


def refused(work, *folders):
    """Does the work. Returns its result, or None where it ended in the one documented error."""
    with nothing_outside(*folders):
        try:
            return work()
        except UserError as error:
            message = str(error)
            assert message and len(message) < 5000
            return None
