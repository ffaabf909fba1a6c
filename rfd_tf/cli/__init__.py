"""The command-line program `rfd-tf`: one module per command, and shared flags."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Sequence

from rfd_tf.cli.commands import COMMANDS, show

__all__ = ["COMMANDS", "main", "overview", "show"]

_MISTAKE = 2


def overview() -> str:
    """Returns the list of commands, as `rfd-tf --help` prints it.

    >>> print(overview())  # doctest: +ELLIPSIS
    Self-supervised pretraining of Keras image backbones...
    """
    import rfd_tf

    width = max(map(len, COMMANDS))
    listed = [f"  {name:<{width}}  {_summary(module)}" for name, module in COMMANDS.items()]
    first = (rfd_tf.__doc__ or "").splitlines()[0]
    return "\n".join(
        [
            first,
            "",
            "usage: rfd-tf COMMAND [flags]",
            "",
            *listed,
            "",
            "rfd-tf COMMAND --help lists a command's flags; rfd-tf --version prints the version.",
        ]
    )


def _summary(module: str) -> str:
    """The first line of a module's docstring, parsed: importing it would define its flags."""
    text = importlib.util.find_spec(module).loader.get_source(module)
    return ast.get_docstring(ast.parse(text)).splitlines()[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command of `rfd-tf` and exits with its exit code.

    Args:
        arguments: the command and its flags; `sys.argv[1:]` if None.

    >>> main(["--version"])
    rfd-tf 0...
    """
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    if command in ("--help", "-h", "-help", "help"):
        show(overview())
    elif command in ("--version", "-version", "-V"):
        import rfd_tf

        show(f"rfd-tf {rfd_tf.__version__}")
    elif (name := command.replace("_", "-")) in COMMANDS:
        from rfd_tf.cli import common

        # Messages name the program like this.
        sys.argv = [f"{common.COMMAND} {name}", *rest]
        module = importlib.import_module(COMMANDS[name])
        # `info` reports wrong Keras settings instead of refusing to run.
        common.run(module.main, check_keras=name != "info")
    else:
        print(f"error: {_wrong(command)}; see rfd-tf --help", file=sys.stderr)
        raise SystemExit(_MISTAKE)


def _wrong(command: str) -> str:
    from rfd_tf.errors import shown

    if not command:
        return f"give a command: {', '.join(COMMANDS)}"
    if command.startswith("-"):
        return f"'{shown(command)}' stands before the command; flags come after it"
    near = difflib.get_close_matches(command[:300], COMMANDS, n=1, cutoff=0.4)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"unknown command '{shown(command)}'{hint}"
