"""Defines flags from settings in `rfd_tf.config`: type, default, choices and help."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from rfd_tf.cli import path_flags
from rfd_tf.config import PretrainConfig
from rfd_tf.settings import Setting, method_settings, named_values, settings_of, signature_settings

FLAGS = flags.FLAGS

# (A flag belongs to the command that defines it by these functions.)
flags.disclaim_key_flags()

_PATH_LISTS = ("source_images",)
#: How image files are read, as every command that reads some has it.
READING = ("max_megapixels", "high_bit_depth", "color_profile")
_IMAGES = (
    "dataset", "data_dir", "data_root", "eval_dir", "train_split", "eval_split", "tfds_classes",
    "tfds_dir", "max_skipped", *READING, "cache_dir", "cache_gb",
)  # fmt: skip

#: Names of the flags and method options that were given by a flag file only.
configured: frozenset[str] = frozenset()


def DEFINE_settings(names: Iterable[str]) -> None:
    """Defines a flag for each of the settings."""
    settings = settings_of(PretrainConfig)
    for name in names:
        _define(settings[name])


def DEFINE_method_options() -> None:
    """Defines a flag for each option of Rotation Feature Decoupling, shared by other methods."""
    for setting in method_settings().values():
        _define(setting)


def DEFINE_images(*names: str, **helps: str) -> None:
    """Defines flags for images; the default is the images of a finished run.

    Args:
        *names: settings of `PretrainConfig`.
        **helps: help texts that differ from the setting's.
    """
    settings = settings_of(PretrainConfig)
    for name in names:
        setting = settings[name]
        text = helps.get(name) or setting.help
        if setting.kind is bool:
            _define(setting, help=text)
        else:
            _define(setting, help=f"{text} Default: the run's.", default=None)


def images() -> dict[str, Any]:
    """Returns the flags that `rfd_tf.data.run_images.RunImages.replaced` takes."""
    names = [field.name for field in dataclasses.fields(PretrainConfig) if field.name in _IMAGES]
    return {name: FLAGS[name].value for name in names if name in FLAGS}


def given(names: Iterable[str]) -> dict[str, Any]:
    """Returns those of the settings that the user gave, for `PretrainConfig.create`.

    Raises:
        UserError: an option that is not name=value.
    """
    found = {name: FLAGS[name].value for name in names if FLAGS[name].present}
    for name in ("backbone_option", "method_option"):
        if name in found:
            found[name] = named_values(found[name], name)
    return found


def DEFINE_arguments(
    module: str,
    owner: str,
    names: Iterable[str],
    renamed: Mapping[str, str] | None = None,
    bounds: Mapping[str, tuple] | None = None,
) -> dict[str, str]:
    """Defines flags for arguments of a function or a constructor.

    Args:
        module, owner: see `rfd_tf.settings.signature_settings`.
        names: names of the arguments.
        renamed: argument -> flag, if their names differ.
        bounds: argument -> smallest and largest value.

    Returns:
        Argument -> flag, for `values`.
    """
    settings, renamed = signature_settings(module, owner), renamed or {}
    flag_of = {name: renamed.get(name, name) for name in names}
    for name, flag in flag_of.items():
        DEFINE(settings[name], flag, bounds=(bounds or {}).get(name, (None, None)))
    return flag_of


def values(flag_of: Mapping[str, str]) -> dict[str, Any]:
    """Returns the arguments that the user gave, by name of the argument."""
    return {name: FLAGS[flag].value for name, flag in flag_of.items() if FLAGS[flag].present}


def DEFINE(setting: Setting, flag: str | None = None, **changes: Any) -> None:
    """Defines the flag of a setting.

    Args:
        setting: the setting.
        flag: name of the flag; the setting's if None.
        **changes: attributes of the setting to replace.
    """
    _define(dataclasses.replace(setting, name=flag or setting.name, **changes))


def _define(setting: Setting, **changes: Any) -> None:
    setting = dataclasses.replace(setting, **changes)
    name, default = setting.name, setting.default
    text = setting.help[:1].upper() + setting.help[1:]
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
        flags.DEFINE_list(name, None if default is None else list(map(str, default)), text)
    elif setting.kind is Path:
        path_flags.DEFINE_path(name, default, text)
    else:
        flags.DEFINE_string(name, default, text)
