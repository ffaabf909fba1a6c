"""Networks on the Hugging Face Hub, by `hf://USER/REPO` or `hf://USER/REPO@REVISION`."""

from __future__ import annotations

import atexit
import contextlib
import functools
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rfd_tf import extras
from rfd_tf.applications import custom
from rfd_tf.errors import UserError, shown

SCHEME = "hf://"
WEIGHTS = "backbone.weights.h5"
#: What Keras writes for `hf://`: a `.keras` file, unpacked.
KERAS_FILES = ("config.json", "metadata.json", "model.weights.h5")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_place(value: Any) -> bool:
    """Whether a text names a repository on the Hub.

    >>> is_place("hf://user/network"), is_place("runs/first")
    (True, False)
    """
    return isinstance(value, str) and value.startswith(SCHEME)


def split(place: str) -> tuple[str, str | None]:
    """Returns the repository and the revision, None for the newest.

    Raises:
        UserError: another form.

    >>> split("hf://user/network@v1"), split("hf://user/network")
    (('user/network', 'v1'), ('user/network', None))
    """
    repository, at, revision = place.removeprefix(SCHEME).partition("@")
    if not _REPOSITORY.fullmatch(repository) or (at and not revision):
        raise UserError(f"'{shown(place)}' must read hf://USER/REPO or hf://USER/REPO@REVISION")
    return repository, revision or None


def same(place: Any, pinned: Any) -> bool:
    """Whether a place stands for a pinned one: the same repository, and that revision or none.

    >>> same("hf://user/network", "hf://user/network@0123"), same("hf://user/network@v2", "x")
    (True, False)
    """
    return is_place(place) and (place == pinned or str(pinned).startswith(f"{place}@"))


def fetch(place: str, keras_model: bool = False) -> Path:
    """Downloads a network, once, and returns its file.

    Without a connection, and for a commit that was downloaded before, this reads the cache of
    `huggingface_hub`.

    Args:
        place: `hf://USER/REPO` or `hf://USER/REPO@REVISION`: a branch, a tag or a commit.
        keras_model: return a `.keras` file where the repository has no `backbone.weights.h5`.

    Returns:
        `backbone.weights.h5`, beside `architecture.keras` where the repository has it.

    Raises:
        UserError: another form, no such repository or revision, no connection, or no such file.
        MissingPackage: `huggingface_hub` is not installed.
    """
    folder = _snapshot(place, (WEIGHTS, custom.FILE))
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    if not keras_model:
        raise UserError(
            f"'{place}' has no {WEIGHTS}; give a Keras model on the Hub as --backbone or "
            "--init_weights"
        )
    folder = _snapshot(place, (*KERAS_FILES, "assets/*"))
    if not all((folder / name).is_file() for name in KERAS_FILES):
        raise UserError(f"'{place}' has neither {WEIGHTS} nor a Keras model ({KERAS_FILES[0]})")
    return _packed(folder)


def pinned(place: str, file: Path) -> str:
    """Returns a place with the commit that a file was downloaded from.

    Args:
        place: see `fetch`.
        file: as `fetch` returns it.

    >>> commit = "0123456789" * 4
    >>> pinned("hf://user/network@main", Path(f"cache/snapshots/{commit}/backbone.weights.h5"))
    'hf://user/network@0123456789012345678901234567890123456789'
    """
    repository, revision = split(place)
    commits = [part for part in file.parts if _COMMIT.fullmatch(part)]
    revision = commits[-1] if commits else revision
    return f"{SCHEME}{repository}" + (f"@{revision}" if revision else "")


def _snapshot(place: str, files: tuple[str, ...]) -> Path:
    """Returns the folder of a repository's files, those of them that it has."""
    repository, revision = split(place)
    hub = extras.load("huggingface_hub", f"'{place}'")
    with errors_reported(
        f"'{place}' cannot be downloaded",
        "check the name, the revision and the connection; `hf auth login` gives access to private "
        "repositories",
    ):
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=files))


@contextlib.contextmanager
def errors_reported(what: str, remedy: str) -> Iterator[None]:
    """Turns any error of `huggingface_hub` into a `UserError`: what failed, why, what to do.

    >>> with errors_reported("'hf://a/b' cannot be downloaded", "check the name"):
    ...     raise OSError("no connection")
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: 'hf://a/b' cannot be downloaded (no connection); check the name
    """
    try:
        yield
    # (Its errors are those of several packages, without a common base.)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{what} ({shown(reason)}); {remedy}") from None


# (Checking, building and loading a network read the same file.)
@functools.cache
def _packed(folder: Path) -> Path:
    """Returns Keras' unpacked files as a `.keras` file, for this process."""
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    # The name of the folder is the commit.
    path = place / folder.name / "model.keras"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        for inside in sorted(each for each in folder.rglob("*") if each.is_file()):
            name = inside.relative_to(folder)
            if str(name) in KERAS_FILES or name.parts[0] == "assets":
                # (Without the file's time: the digest follows from the content.)
                file.writestr(zipfile.ZipInfo(name.as_posix()), inside.read_bytes())
    return path
