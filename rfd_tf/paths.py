"""Paths as users write them."""

from __future__ import annotations

import contextlib
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from rfd_tf.errors import UserError
from rfd_tf.text import file_name_from_text, same_name_forms

#: Endings of lists of image files, see `rfd_tf.data.image_list`.
LISTS = (".csv", ".tsv", ".txt", ".jsonl")
#: What names of Hugging Face's datasets begin with.
HUGGING_FACE = "hf:"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.\-]*(::[a-z0-9+.\-]+)*://", re.IGNORECASE)


def is_address(path: str | os.PathLike) -> bool:
    """Returns whether this is the address of a file elsewhere, such as `s3://bucket/train.tar`.

    >>> is_address("https://host/train.csv"), is_address("photos/train.csv")
    (True, False)
    """
    return isinstance(path, str) and _ADDRESS.match(path) is not None


def expanded(path: str | os.PathLike) -> Path:
    """Returns a path with `~` and `~name` replaced by the home folder.

    Raises:
        UserError: there is no such home folder.

    >>> expanded("photos/cats").as_posix()
    'photos/cats'
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"'{path}' begins with a home folder that does not exist") from None


def absolute(path: str | os.PathLike) -> Path:
    """Returns the absolute path, `~` expanded, for objects that outlive the working directory.

    >>> absolute("~/photos").is_absolute() and absolute("photos").is_absolute()
    True
    """
    return Path(os.path.abspath(expanded(path)))


@contextlib.contextmanager
def replacing(path: Path, writing: Path | None = None) -> Iterator[Path]:
    """Gives a place to write a file to, which takes the file's name once it is complete.

    An interruption leaves what was there before, never half a file.

    Args:
        path: of the file.
        writing: the place, in the same folder; one of this process, with the same ending, if None.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "table.csv"
    >>> with replacing(path) as writing:
    ...     _ = writing.write_text("a,b")
    >>> path.read_text(), writing.suffix, writing.exists()
    ('a,b', '.csv', False)
    """
    writing = writing or path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield writing
        os.replace(writing, path)
    finally:
        with contextlib.suppress(OSError):
            writing.unlink()


def shared_folders(name: str) -> tuple[Path, ...]:
    """Returns where a folder of files that come with the package may be: a checkout's comes first.

    Args:
        name: the folder's name at the top of a checkout, and below `share/rfd_tf` where the
            package is installed.

    >>> [folder.name for folder in shared_folders("configs")][0]
    'configs'
    """
    top = Path(__file__).resolve().parents[1]
    # By the kind of installation: by `pip install --target`, in an environment, for one user. What
    # next to the package has priority: the environment may hold another version.
    user = sysconfig.get_path("data", sysconfig.get_preferred_scheme("user"))
    places = [top, Path(sysconfig.get_path("data")), Path(user)]
    installed = [place / "share" / "rfd_tf" / name for place in places]
    # (Another package may have put a folder of this name beside the installed one.)
    checkout = [top / name] if (top / "setup.cfg").is_file() else []
    return tuple(dict.fromkeys([*checkout, *installed]))


def is_file(path: Path) -> bool:
    """Returns whether there is such a file, also for names that no file can have.

    >>> is_file(Path("a\\0b"))
    False
    """
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def found_file(folder: Path, name: str) -> Path | None:
    """Returns the file that a list or an annotation names; None where there is none.

    The text may come from a system that stores accents in another Unicode form, or hold a name
    that is no UTF-8 as `rfd_tf.text.file_name_to_text` writes it.

    >>> found_file(Path("no/such/folder"), "a.jpg") is None
    True
    """
    forms = dict.fromkeys((*same_name_forms(name), file_name_from_text(name)))
    return next((folder / form for form in forms if is_file(folder / form)), None)
