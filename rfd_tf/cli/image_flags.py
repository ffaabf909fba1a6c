"""Flags of images, augmentation, network and batch, shared by a run and its PU weights.

Commands that train or estimate on a run's images adopt these flags. `settings` reads them from the
run's command, its flag file or its folder.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from rfd_tf import presets
from rfd_tf.cli import config_flags, data_flags
from rfd_tf.config import IMAGE_SETTINGS, PretrainConfig

FLAGS = flags.FLAGS

data_flags.DEFINE_data(
    "data",
    None,
    f"The images to train on: {data_flags.FORMS}. Stands for --data_dir or --dataset.",
)
config_flags.DEFINE_settings(IMAGE_SETTINGS)


def config():
    """Returns the `rfd_tf.config.PretrainConfig` of these flags."""
    return PretrainConfig.create(config_flags.given(IMAGE_SETTINGS))


def load_source():
    """Loads the training images."""
    return config().training_images()


def expanded(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with `--flagfile=FILE` replaced by the file's flags.

    Raises:
        UserError: a flag file that cannot be read.
    """
    from rfd_tf.errors import UserError

    try:
        return FLAGS.read_flags_from_files(list(arguments))
    except (flags.Error, OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"the flag file cannot be read: {error}") from None


def settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads these flags from the arguments of another script, such as rfd-tf pretrain.

    Args:
        arguments: its command line or a part of it, including `--flagfile=FILE`. Flags that are not
            shared are ignored, except `--fidelity`, which sets values of others.

    Returns:
        The value of every given shared flag, by name.

    Raises:
        UserError: a wrong value of a flag, or a flag file that cannot be read.
    """
    from rfd_tf.errors import UserError
    from rfd_tf.training import fidelity

    values = flags.FlagValues()
    shared = [flag.name for flag in FLAGS.get_key_flags_for_module(sys.modules[__name__])]
    for name in shared:
        values[name] = copy.deepcopy(FLAGS[name])
        values[name].unparse()
    flags.DEFINE_bool("fidelity", False, "", flag_values=values)
    try:
        values(["", *expanded(arguments)], known_only=True)
    except flags.Error as error:
        raise UserError(str(error)) from None
    found = {name: values[name].value for name in shared if values[name].present}
    if values["fidelity"].value:
        implied = fidelity.flag_values()
        found = {**{name: implied[name] for name in shared if name in implied}, **found}
    return found


def settings_of(run: str) -> dict[str, Any]:
    """Reads these flags from a flag file of rfd-tf pretrain or from a run folder.

    Raises:
        UserError: there is no such file, or a folder without a run.
    """
    from rfd_tf.data import image_files
    from rfd_tf.errors import UserError

    path = Path(run)
    if not path.is_dir():
        with contextlib.suppress(UserError):
            path = presets.find(run)
        if path.is_file():
            return settings([f"--flagfile={path}"])
    try:
        recorded = json.loads((path / "run.json").read_bytes())["flags"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"'{run}' is neither a flag file of rfd-tf pretrain nor the folder of a run, nor "
            "an installed configuration"
        ) from None
    shared = [flag.name for flag in FLAGS.get_key_flags_for_module(sys.modules[__name__])]
    recorded = image_files.recorded(recorded)
    # Flags of crops are refused without photographs.
    photographs = bool(recorded.get("source_images"))
    return {
        name: recorded[name]
        for name in shared
        if recorded.get(name) is not None and (photographs or not name.startswith("source_"))
    }


def arguments(values: Mapping[str, Any]) -> list[str]:
    """Returns command-line arguments that set the flags to these values."""
    found = []
    for name, value in values.items():
        if isinstance(value, bool):
            found.append(f"--{name}={str(value).lower()}")
        elif isinstance(FLAGS[name], flags.MultiFlag):
            found += [f"--{name}={item}" for item in value]
        elif value is not None:
            found.append(f"--{name}={','.join(value) if isinstance(value, list) else value}")
    return found


def adopt(values: Mapping[str, Any]) -> None:
    """Sets the flags to these values."""
    for name, value in values.items():
        FLAGS[name].value = value
        FLAGS[name].present += 1
    config_flags.configured |= values.keys()


def adopt_config(run: str) -> None:
    """Sets the flags that are not given to the values of a flag file or a run."""
    own = given()
    found = {
        name: value
        for name, value in settings_of(run).items()
        if name not in own and not data_flags.replaced(name, own)
    }
    adopt(found)
    data_flags.resolve()


def given() -> dict[str, Any]:
    """Returns the given flags, by name."""
    shared = FLAGS.get_key_flags_for_module(sys.modules[__name__])
    return {flag.name: flag.value for flag in shared if flag.present}
