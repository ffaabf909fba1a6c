"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path

from rfd_tf.errors import UserError


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
