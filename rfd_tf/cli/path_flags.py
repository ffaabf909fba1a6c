"""Flags whose values are paths; `~` is expanded wherever the flag is given."""

from __future__ import annotations

import os

from absl import flags

# (A flag belongs to the script that defines it by these functions.)
flags.disclaim_key_flags()


class _PathParser(flags.ArgumentParser):
    """A path, or a name instead of one."""

    def parse(self, argument: str) -> str:
        expanded = os.path.expanduser(argument)
        # `--output_dir=~nobody/x` would make a folder of that name.
        if expanded.startswith("~"):
            raise ValueError(f"there is no such home folder; write ./{argument} for a file")
        return expanded

    def flag_type(self) -> str:
        return "path"


class _PathListParser(flags.ListParser):
    def parse(self, argument: str | list[str]) -> list[str]:
        return [_PathParser().parse(path) for path in super().parse(argument)]


def DEFINE_path(name: str, default: str | None, help: str) -> None:
    """Defines a flag whose value is a path."""
    flags.DEFINE(_PathParser(), name, default, help, serializer=flags.ArgumentSerializer())


def DEFINE_path_list(name: str, default: list[str] | None, help: str) -> None:
    """Defines a flag whose value is a comma-separated list of paths."""
    flags.DEFINE(_PathListParser(), name, default, help, serializer=flags.CsvListSerializer(","))


class _ConfigParser(_PathParser):
    """A flag file, or the name of an installed one."""

    def flag_type(self) -> str:
        return "configuration"


def DEFINE_config(name: str, default: str | None, help: str) -> None:
    """Defines --config; given flags take precedence over its flags, see `rfd_tf.cli.common`."""
    flags.DEFINE(_ConfigParser(), name, default, help, serializer=flags.ArgumentSerializer())


def config_given() -> str | None:
    """Returns the value of --config, or None if it is not given or not a flag of the command."""
    flag = flags.FLAGS["config"] if "config" in flags.FLAGS else None
    return flag.value if flag is not None and isinstance(flag.parser, _ConfigParser) else None


def paths_given() -> dict[str, list[str]]:
    """Returns the paths given to each path flag of the command, by the flag's name."""
    given = {}
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag.parser, _PathParser | _PathListParser):
            value = flag.value or []
            given[name] = [value] if isinstance(value, str) else list(value)
    return given
