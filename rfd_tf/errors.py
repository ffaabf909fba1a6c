"""The one exception that means "the user can put this right"."""

from __future__ import annotations

import difflib
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave, reported in one clear line.

    Scripts print the message without a stack trace and exit with code 2; a program that uses
    the library can catch it as a `ValueError`.

    Where the message is created, `--name` marks the name of an argument. The text of the error has
    the plain name; a command shows it as its flag.

    >>> raise UserError("no such folder: 'photos'; give --data_dir an existing folder")
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: no such folder: 'photos'; give data_dir an existing folder

    Attributes:
        marked: the message as it was created.
    """

    def __init__(self, message: object = ""):
        super().__init__(message)
        self.marked = str(message)

    def __str__(self) -> str:
        return _MARK.sub(
            lambda mark: mark[0] if of_other_program(self.marked, mark) else "", self.marked
        )


# A mark; what the user gave is in quotes and is none.
_MARK = re.compile(r"(?<![\w'\"/-])--(?=[a-z])")
# Options that a message does not list beside the nearest one.
_MANY = 40
_OTHER_PROGRAM = re.compile(r"\b(scripts/\w+\.py|rfd-tf [\w-]+|tfds build)\b[^;]*$")


def of_other_program(message: str, match: re.Match) -> bool:
    """Whether a flag in a message belongs to the command line of another program.

    >>> text = "rfd-tf evaluate --runs=x writes it; give --output"
    >>> [of_other_program(text, match) for match in re.finditer("--", text)]
    [True, False]
    """
    return _OTHER_PROGRAM.search(message[: match.start()]) is not None


def unknown(kind: str, value: object, options: Iterable[str]) -> UserError:
    """Returns the error for a name that is not among the options.

    Args:
        kind: what was named, for example `"backbone"`.
        value: the name that was given.
        options: every name that would have been right.

    Returns:
        A `UserError` that names the value, the nearest option and all options; of more than 40
        options the nearest alone.

    >>> print(unknown("backbone", "alexnett", ["alexnet", "resnet18"]))
    unknown backbone 'alexnett' (did you mean 'alexnet'?); options: alexnet, resnet18
    """
    names = [str(option) for option in options]
    close = difflib.get_close_matches(str(value)[:300], names, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    if close and len(names) > _MANY:
        return UserError(f"unknown {kind} '{shown(value)}'{hint}")
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
