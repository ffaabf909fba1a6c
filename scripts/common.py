"""What every script shares: one way to start, one way to report a user's mistake."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Callable

# TensorFlow reads this when it is first imported: no start-up chatter about missing GPUs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import path_flags
from absl import app, flags, logging

USER_MISTAKE = 2
_FLAGFILE = ("--flagfile", "-flagfile")


def _parse(arguments: list[str]) -> list[str]:
    from rfd_tf.errors import UserError
    from rfd_tf.text import one_line

    try:
        rest = flags.FLAGS([arguments[0], *_with_flagfiles(arguments[1:])])
    except (flags.Error, UserError) as error:
        print(f"error: {one_line(str(error))}; see {arguments[0]} --help", file=sys.stderr)
        raise SystemExit(USER_MISTAKE) from None
    # What absl does not foresee: a flag of a thousand letters.
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        print(
            f"error: the flags cannot be read: {error}; see {arguments[0]} --help", file=sys.stderr
        )
        raise SystemExit(USER_MISTAKE) from None
    if len(rest) > 1:
        print(
            f"error: unexpected argument '{one_line(rest[1])}'; flags look like --name=value",
            file=sys.stderr,
        )
        raise SystemExit(USER_MISTAKE)
    return rest


def _with_flagfiles(arguments: list[str]) -> list[str]:
    """Puts the flags of each --flagfile in its place, as absl does, but in any encoding."""
    expanded, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        name, _, path = argument.partition("=")
        if name not in _FLAGFILE:
            expanded.append(argument)
            if argument == "--":
                return [*expanded, *rest]
        elif argument != name:
            expanded += _flagfile(path, ())
        elif rest:
            expanded += _flagfile(rest.pop(0), ())
        else:
            raise flags.Error("--flagfile with no argument")
    return expanded


def _flagfile(path: str, above: tuple[str, ...]) -> list[str]:
    """The flags in a flagfile and in those it names; lines with # or // are comments."""
    from rfd_tf.errors import UserError
    from rfd_tf.text import read_text

    path = os.path.expanduser(path.strip())
    if path in above:
        raise UserError(f"the flagfile '{path}' names itself by way of {' and '.join(above)}")
    found = []
    # (absl passes over an empty name.)
    for line in read_text(path, "the flagfile").split("\n") if path else ():
        name, _, nested = line.strip().partition("=")
        if name in _FLAGFILE:
            found += _flagfile(nested, (*above, path))
        elif line.strip() and not line.startswith(("#", "//")):
            found.append(line.strip())
    return found


def backbone_options() -> dict:
    """The flag --backbone_option as a dict."""
    return named_values("backbone_option")


def named_values(flag: str) -> dict:
    """A repeatable flag of name=value as a dict, values read as JSON where they are JSON."""
    from rfd_tf.errors import UserError

    options = {}
    for item in flags.FLAGS[flag].value:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise UserError(f"--{flag} '{item}' must read name=value")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text == "True" if text in ("True", "False") else text
    return options


# Flags of like meaning. The library names the first ones; a command may have others.
_FAMILIES = (
    (
        "data_dir", "eval_dir", "calibration_dir", "photos_dir", "test_dir", "voc_dir",
        "voc_test_dir", "coco_images",
    ),
    ("output_dir", "output", "cache_dir"),
    ("weights", "run", "runs", "reference_weights"),
)  # fmt: skip
# Where a command lacks the flag: those that take its place.
_SUBSTITUTES = {
    "data_dir": ("calibration_dir", "photos_dir"),
    "output_dir": ("output", "cache_dir"),
    "output": ("output_dir",),
    "weights": ("run",),
    "run": ("weights",),
}
_OTHER_PROGRAM = re.compile(r"\b(scripts/\w+\.py|tfds build)\b[^;]*$")


def in_own_flags(message: str) -> str:
    """Returns an error's message with the flags of this command.

    The library names the flag that usually has the argument. If the message quotes the path that
    another flag of like meaning was given, that flag is named. A flag that this command lacks
    becomes its substitute, or else the plain name of the argument.
    """
    given = path_flags.paths_given()
    quoted = [name for name, paths in given.items() if any(f"'{p}'" in message for p in paths)]

    def own(match: re.Match) -> str:
        name = match.group(1)
        if _OTHER_PROGRAM.search(message[: match.start()]):
            return match.group()
        family = next((family for family in _FAMILIES if name in family), ())
        alike = [other for other in quoted if other in family]
        if name in _SUBSTITUTES and len(alike) == 1:
            return f"--{alike[0]}"
        if name in flags.FLAGS or name.removeprefix("no") in flags.FLAGS:
            return match.group()
        for substitute in _SUBSTITUTES.get(name, ()):
            if substitute in flags.FLAGS:
                return f"--{substitute}"
        return name

    return re.sub(r"(?<![\w-])--(\w+)", own, message)


def be_quiet() -> None:
    """Keeps TensorFlow from telling of every step of saving, unless --verbosity asks for it."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)


def _warn_in_a_line(message, category, filename, lineno, line=None) -> str:
    if category is UserWarning and f"{os.sep}rfd_tf{os.sep}" in filename:
        from rfd_tf.text import one_line

        return f"warning: {one_line(str(message))}\n"
    return _format_warning(message, category, filename, lineno, line)


_format_warning = warnings.formatwarning


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main()`; a user's mistake ends in one line and exit code 2."""

    def guarded(_: list[str]) -> None:
        from rfd_tf import keras_settings
        from rfd_tf.data import record_files
        from rfd_tf.errors import UserError
        from rfd_tf.text import one_line

        be_quiet()
        warnings.formatwarning = _warn_in_a_line
        try:
            keras_settings.check_environment()
            with record_files.damage_reported():
                main()
        except UserError as error:
            print(f"error: {one_line(in_own_flags(str(error)))}", file=sys.stderr)
            raise SystemExit(USER_MISTAKE) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    for stream in (sys.stdout, sys.stderr):
        # Names of files and classes may hold what a terminal cannot show.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app.run(guarded, flags_parser=_parse)
