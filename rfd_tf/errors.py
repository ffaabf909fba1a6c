"""The one exception that means "the user can put this right"."""

from __future__ import annotations

import difflib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave, told in one clear line.

    Scripts print the message without a stack trace and exit with code 2; a program that uses
    the library can catch it as a `ValueError`.

    >>> raise UserError("no such folder: 'photos'; give --data_dir an existing folder")
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: no such folder: 'photos'; give --data_dir an existing folder
    """


def unknown(kind: str, value: object, options: Iterable[str]) -> UserError:
    """Returns the error for a name that is not among the options.

    Args:
        kind: what was named, for example `"backbone"`.
        value: the name that was given.
        options: every name that would have been right.

    Returns:
        A `UserError` that names the value, the nearest option and all options.

    >>> print(unknown("backbone", "alexnett", ["alexnet", "resnet18"]))
    unknown backbone 'alexnett' (did you mean 'alexnet'?); options: alexnet, resnet18
    """
    names = [str(option) for option in options]
    close = difflib.get_close_matches(str(value)[:300], names, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    listed = shown(", ".join(names), 4000) if names else "none"
    return UserError(f"unknown {kind} '{shown(value)}'{hint}; options: {listed}")


def chosen(kind: str, wanted: str | Iterable[str], options: Iterable[str]) -> tuple[str, ...]:
    """Returns the options asked for, each once and in the options' order.

    Args:
        kind: what the options are, for the message.
        wanted: one name, or several.
        options: the names that exist.

    Raises:
        UserError: a name that does not exist.

    >>> chosen("format", ["onnx", "keras", "onnx"], ("keras", "onnx", "saved_model"))
    ('keras', 'onnx')
    """
    options = tuple(options)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in options:
            raise unknown(kind, name, options)
    return tuple(option for option in options if option in names)


#: What NumPy and Python's zip reader raise on an `.npz` file that is damaged, or made to harm.
UNREADABLE_NPZ = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,  # encrypted; and its kinds: unknown compression, nested too deeply
    SyntaxError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def shown(text: object, most: int = 300) -> str:
    """Returns text from elsewhere fit for one line of a message: printable, and not too long.

    >>> shown("a\\nb"), shown("x" * 400, most=5)
    ('a\\\\nb', 'xxxxx...')
    """
    text = str(text)
    if len(text) > most:
        text = text[:most] + "..."
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
