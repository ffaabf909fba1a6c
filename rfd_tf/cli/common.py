"""Entry point of every command: parses flags, reports user errors and shows help."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Collection

# Read by TensorFlow at its first import: no messages about missing GPUs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

from rfd_tf import settings
from rfd_tf.cli import config_flags, data_flags, path_flags
from rfd_tf.cli.commands import COMMANDS, show
from rfd_tf.errors import of_other_program

USER_MISTAKE = 2
COMMAND = "rfd-tf"
_FLAGFILE = ("--flagfile", "-flagfile")


def parse(arguments: list[str]) -> list[str]:
    """Parses a command line with its flag files; user errors exit with code 2."""
    from rfd_tf.errors import UserError
    from rfd_tf.text import one_line

    try:
        given, of_files = _with_flagfiles(arguments[1:])
        rest = flags.FLAGS([arguments[0], *given])
        if path_flags.config_given():
            of_config = _config()
            of_files += of_config
            rest = flags.FLAGS([arguments[0], *of_config, *given])
            # Its content is now in the other flags.
            flags.FLAGS["config"].value = None
        own = set(map(option_name, arguments[1:]))
        config_flags.configured = frozenset(map(option_name, of_files)) - own
    except (flags.Error, UserError) as error:
        print(f"error: {one_line(str(error))}; see {arguments[0]} --help", file=sys.stderr)
        raise SystemExit(USER_MISTAKE) from None
    # Not caught by absl: a flag of a thousand letters.
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


def _with_flagfiles(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Replaces each --flagfile by its flags, as absl does, but in any encoding.

    Returns:
        All arguments, and the arguments that come from flag files.
    """
    expanded, rest, of_files = [], list(arguments), []
    while rest:
        argument = rest.pop(0)
        name, _, path = argument.partition("=")
        if name not in _FLAGFILE:
            expanded.append(argument)
            if argument == "--":
                return [*expanded, *rest], of_files
        elif argument == name and not rest:
            raise flags.Error("--flagfile with no argument")
        else:
            found = _flagfile(path if argument != name else rest.pop(0), ())
            expanded += found
            of_files += found
    return expanded, of_files


def _flagfile(path: str, above: tuple[str, ...]) -> list[str]:
    """The flags in a flagfile and in flagfiles it names; lines with # or // are comments."""
    from rfd_tf.errors import UserError
    from rfd_tf.text import read_text

    path = os.path.expanduser(path.strip())
    if path in above:
        raise UserError(f"the flagfile '{path}' names itself by way of {' and '.join(above)}")
    found = []
    # (absl ignores an empty name.)
    for line in read_text(path, "the flagfile").split("\n") if path else ():
        name, _, nested = line.strip().partition("=")
        if name in _FLAGFILE:
            found += _flagfile(nested, (*above, path))
        elif line.strip() and not line.startswith(("#", "//")):
            found.append(line.strip())
    return found


def _config() -> list[str]:
    """The flags of --config that the given flags do not replace; resets all flags."""
    from rfd_tf import presets
    from rfd_tf.errors import UserError

    path = str(presets.find(path_flags.config_given()))
    given = [name for name in flags.FLAGS if flags.FLAGS[name].present]
    kept = config_lines(_flagfile(path, ()), given)
    if any(flag_name(line) == "config" for line in kept):
        raise UserError(f"'{path}' names another configuration; name that by --flagfile=FILE")
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    return kept


def config_lines(lines: list[str], given: Collection[str]) -> list[str]:
    """Returns the flags of a configuration, except images that the given flags replace."""
    return [line for line in lines if not data_flags.replaced(flag_name(line), given)]


def flag_name(argument: str) -> str:
    """Returns the name in `--name=value`."""
    return argument.lstrip("-").partition("=")[0]


def option_name(argument: str) -> str:
    """Returns the setting that an argument sets: `grid` for `--method_option=grid=3`.

    >>> option_name("--nesterov=false"), option_name("--method_option=grid=3")
    ('nesterov', 'grid')
    """
    name = flag_name(argument)
    if name == "method_option":
        return argument.split("=")[1] if "=" in argument else name
    known = name in flags.FLAGS or not name.startswith("no")
    return name if known else name.removeprefix("no")


def backbone_options() -> dict:
    """The flag --backbone_option as a dict."""
    return named_values("backbone_option")


def named_values(flag: str) -> dict:
    """A repeatable name=value flag as a dict, see `rfd_tf.settings.named_values`."""
    return settings.named_values(flags.FLAGS[flag].value, flag)


# Flags with the same meaning. The library names the first of each; a command may have another.
_FAMILIES = (
    (
        "data_dir", "eval_dir", "calibration_dir", "photos_dir", "test_dir", "voc_dir",
        "voc_test_dir", "coco_images",
    ),
    ("output_dir", "output", "cache_dir"),
    ("weights", "run", "runs", "reference_weights"),
)  # fmt: skip
# Flags that replace a flag that a command does not have.
_SUBSTITUTES = {
    "data_dir": ("calibration_dir", "photos_dir"),
    "output_dir": ("output", "cache_dir"),
    "output": ("output_dir",),
    "weights": ("run",),
    "run": ("weights",),
}
_SCRIPT = re.compile(r"(?:python )?\bscripts/(\w+)\.py")


def in_own_flags(message: str) -> str:
    """Returns an error message in which arguments of the library are flags of this command.

    The library names arguments; those that are flags of this command become `--name`. If the
    message quotes the path given to another flag with the same meaning, that flag is named. Advice
    on --data_dir names --data if that was typed. A flag that this command does not have becomes its
    substitute, or else the plain name of the argument.
    """
    given = path_flags.paths_given()
    quoted = [name for name, paths in given.items() if any(f"'{p}'" in message for p in paths)]

    def own(match: re.Match) -> str:
        name = match.group(1)
        if of_other_program(message, match):
            return match.group()
        family = next((family for family in _FAMILIES if name in family), ())
        alike = [other for other in quoted if other in family]
        if name in _SUBSTITUTES and len(alike) == 1:
            name = alike[0]
        typed = {"data_dir": "data", "eval_dir": "val_data"}.get(name)
        if message[: match.start()].endswith("give ") and typed in flags.FLAGS:
            if flags.FLAGS[typed].present:
                return f"--{typed}"
        if name in flags.FLAGS or name.removeprefix("no") in flags.FLAGS:
            return f"--{name}"
        for substitute in _SUBSTITUTES.get(name, ()):
            if substitute in flags.FLAGS:
                return f"--{substitute}"
        return name

    message = re.sub(r"(?<![\w-])--(\w+)", own, message)
    return in_own_commands(_ARGUMENT.sub(_as_flag, message))


# An argument as the library names it: `name=value`, or a name of several words.
_ARGUMENT = re.compile(r"(?<![\w'\"`/.=-])([a-z]\w*)(?==[\w'\"\[({.-])|"
                       r"(?<![\w'\"`/.=-])([a-z]+(?:_[a-z]+)+)(?![\w/(=-]|\.\w)")  # fmt: skip


def _as_flag(match: re.Match) -> str:
    name = match.group()
    return f"--{name}" if name in flags.FLAGS else name


def in_own_commands(message: str) -> str:
    """Returns a message that names commands of `rfd-tf` instead of scripts, if run by it."""

    def own(match: re.Match) -> str:
        name = match.group(1).replace("_", "-")
        return f"{COMMAND} {name}" if name in COMMANDS else match.group()

    if not sys.argv[0].startswith(f"{COMMAND} "):
        return message
    return _SCRIPT.sub(own, message)


class _HelpFlag(flags.BooleanFlag):
    """Replaces absl's --help, which only knows the module `__main__`.

    Args:
        name: name of the flag.
        text: function from the module's name to the text after the docstring.
        module: name of the command's module.
    """

    def __init__(self, name: str, text: Callable[[str], str], module: str):
        short = "?" if name == "help" else None
        super().__init__(name, False, "show this help", short_name=short, allow_hide_cpp=True)
        self.allow_override = True
        self._text, self._module = text, module

    def parse(self, arg: str) -> None:
        if self._parse(arg):
            show(f"{sys.modules[self._module].__doc__}\n{self._text(self._module)}")
            raise SystemExit(0)


def _own_flags(module: str) -> str:
    # (The first two lines name the module.)
    listed = flags.FLAGS.module_help(module).split("\n")[2:]
    last = "--flagfile=FILE reads flags from a file; --helpfull lists those of all modules."
    return "\n".join(["flags:", *listed, "", last])


def _all_flags(_: str) -> str:
    return flags.FLAGS.get_help()


def be_quiet() -> None:
    """Hides TensorFlow's messages about every step of saving, unless --verbosity is given."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)


def _warn_in_a_line(message, category, filename, lineno, line=None) -> str:
    if category is UserWarning and f"{os.sep}rfd_tf{os.sep}" in filename:
        from rfd_tf.text import one_line

        return f"warning: {one_line(str(message))}\n"
    return _format_warning(message, category, filename, lineno, line)


_format_warning = warnings.formatwarning


def run(main: Callable[[], None], check_keras: bool = True) -> None:
    """Parses the flags and calls `main()`; user errors print one line and exit with code 2.

    Args:
        main: function of a command's module; --help shows the module's docstring and flags.
        check_keras: refuse Keras settings with which commands would fail.
    """

    def guarded(_: list[str]) -> None:
        from rfd_tf import keras_settings
        from rfd_tf.data import record_files
        from rfd_tf.errors import UserError
        from rfd_tf.run import shown
        from rfd_tf.text import one_line

        be_quiet()
        warnings.formatwarning = _warn_in_a_line
        try:
            if check_keras:
                keras_settings.check_environment()
            with record_files.damage_reported(), shown(verbose=1):
                main()
        except UserError as error:
            print(f"error: {one_line(in_own_flags(error.marked))}", file=sys.stderr)
            raise SystemExit(USER_MISTAKE) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    for stream in (sys.stdout, sys.stderr):
        # Names of files and classes may contain characters that a terminal cannot show.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app.define_help_flags()
    for name, text in (("help", _own_flags), ("helpshort", _own_flags), ("helpfull", _all_flags)):
        flags.DEFINE_flag(_HelpFlag(name, text, main.__module__))
    app.run(guarded, flags_parser=parse)
