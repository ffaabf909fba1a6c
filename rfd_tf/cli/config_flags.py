"""Flags of the settings in `rfd_tf.config`, which has their types, defaults, choices and help."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import flags

from rfd_tf.cli import path_flags
from rfd_tf.config import PretrainConfig, Setting, method_settings, named_values, settings_of

FLAGS = flags.FLAGS

# (A flag belongs to the command that defines it by these functions.)
flags.disclaim_key_flags()

_PATH_LISTS = ("source_images",)

#: Names of the flags, and of options of the method, that only a flag file gave.
preset: frozenset[str] = frozenset()


def DEFINE_settings(names: Iterable[str]) -> None:
    """Defines a flag for each of the settings."""
    settings = settings_of(PretrainConfig)
    for name in names:
        _define(settings[name])


def DEFINE_method_options() -> None:
    """Defines a flag for each option of Rotation Feature Decoupling, which others share."""
    for setting in method_settings().values():
        _define(setting)


def given(names: Iterable[str]) -> dict[str, Any]:
    """Returns the settings among these that the user gave, as `PretrainConfig.create` takes them.

    Raises:
        UserError: an option that is not name=value.
    """
    found = {name: FLAGS[name].value for name in names if FLAGS[name].present}
    for name in ("backbone_option", "method_option"):
        if name in found:
            found[name] = named_values(found[name], name)
    return found


def _define(setting: Setting) -> None:
    name, default = setting.name, setting.default
    text = setting.help[0].upper() + setting.help[1:]
    if setting.choices:
        flags.DEFINE_enum(name, default, list(setting.choices), text)
    elif setting.kind is bool:
        flags.DEFINE_bool(name, default, text)
    elif setting.kind is int:
        flags.DEFINE_integer(name, default, text, *setting.bounds)
    elif setting.kind is float:
        flags.DEFINE_float(name, default, text, *setting.bounds)
    elif setting.kind is dict:
        flags.DEFINE_multi_string(name, [], text)
    elif setting.kind is list and name in _PATH_LISTS:
        path_flags.DEFINE_path_list(name, default, text)
    elif setting.kind is list:
        flags.DEFINE_list(name, default, text)
    elif setting.kind is Path:
        path_flags.DEFINE_path(name, default, text)
    else:
        flags.DEFINE_string(name, default, text)
