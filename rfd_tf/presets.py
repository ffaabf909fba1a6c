"""The configurations that come with the package, by name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from rfd_tf.errors import UserError, shown
from rfd_tf.paths import expanded, shared_folders


def configurations() -> dict[str, Path]:
    """Returns the installed configurations: name -> flag file, sorted by name.

    >>> configurations()["quickstart"].name
    'quickstart.cfg'
    """
    found: dict[str, Path] = {}
    for folder in shared_folders("configs"):
        for path in folder.glob("*.cfg"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find(config: str | os.PathLike) -> Path:
    """Returns the flag file that a path or the name of an installed configuration stands for.

    Args:
        config: a file, which comes first, or a name with or without `.cfg`.

    Raises:
        UserError: it is neither. The message lists the names most like it.

    >>> find("cifar10_rfd_nin") == find("cifar10_rfd_nin.cfg")
    True
    >>> find("quikstart")
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: 'quikstart' is neither a file nor an installed ...; nearest: quickstart
    """
    path = expanded(config)
    try:
        # (A pipe, as of `<(...)`, is no file and can be read.)
        if path.exists() and not path.is_dir():
            return path
    except (OSError, ValueError):  # too long for a path, or with a null character
        pass
    names = configurations()
    name = os.fspath(config).removesuffix(".cfg")
    if name in names:
        return names[name]
    stem = os.path.basename(name)
    near = difflib.get_close_matches(stem[:300], names, n=3)
    near = near or [name for name in names if stem and stem in name]
    listed = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(names) or 'none'}"
    raise UserError(
        f"'{shown(os.fspath(config))}' is neither a file nor an installed configuration; {listed}"
    )
