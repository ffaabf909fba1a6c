"""Keras' own settings: which of them would give other results, or none."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rfd_tf.errors import UserError, shown

# Setting -> the value that is expected, and why.
_EXPECTED = {
    "floatx": ("float32", "mixed precision is chosen per run, not by floatx"),
    "image_data_format": ("channels_last", "images are [height, width, channels] throughout"),
    "epsilon": (1e-07, "batch normalisation and losses would differ from all published results"),
}
_LIMITS = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")


def check_environment() -> None:
    """Refuses, before Keras is imported, settings under which the commands would go wrong.

    Read are `keras.json` in the folder `KERAS_HOME` (or `~/.keras`) and the environment, as Keras
    reads them.

    Raises:
        UserError: another backend than TensorFlow; another floatx, image format or epsilon than
            Keras' defaults; a limit on the length of every training; a file that Keras cannot
            read. The message names the variable or the file and the value.

    >>> check_environment()
    """
    for name in _LIMITS:
        if name in os.environ:
            raise UserError(
                f"{name}={shown(os.environ[name])} cuts every training short; unset it (the "
                "commands have flags of their own for that)"
            )
    path = config_path()
    settings = _read(path)
    backend = os.environ.get("KERAS_BACKEND")
    if backend and backend != "tensorflow":
        raise UserError(
            f"KERAS_BACKEND={shown(backend)}, and the commands run on TensorFlow; unset it, or "
            "set KERAS_BACKEND=tensorflow"
        )
    found = settings.get("backend", "tensorflow")
    if not backend and found != "tensorflow":
        raise UserError(
            f"'{path}' sets backend to {shown(repr(found))}, and the commands run on TensorFlow; "
            "change it there, or set KERAS_BACKEND=tensorflow"
        )
    for name, (expected, why) in _EXPECTED.items():
        found = settings.get(name, expected)
        if found != expected:
            raise UserError(
                f"'{path}' sets {name} to {shown(repr(found))}, and the commands need "
                f"{expected!r}: {why}; change it there, or set KERAS_HOME to another folder"
            )


def backend() -> str:
    """Returns the backend that Keras uses by these settings, or would use.

    >>> backend()
    'tensorflow'
    """
    named = os.environ.get("KERAS_BACKEND")
    try:
        return named or str(_read(config_path()).get("backend", "tensorflow"))
    except UserError:  # a file that Keras cannot read either
        return "tensorflow"


def config_path() -> str:
    """Returns the file that Keras takes its settings from; it need not exist."""
    folder = os.environ.get("KERAS_HOME")
    if folder is None:
        home = os.path.expanduser("~")
        folder = os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    return os.path.expanduser(os.path.join(folder, "keras.json"))


def _read(path: str) -> dict[str, Any]:
    if not os.path.exists(path):
        return {}
    try:
        with open(path) as file:
            settings = json.load(file)
    except ValueError:  # Keras passes over what is no JSON
        return {}
    except (OSError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Keras' settings '{path}' cannot be read: {reason}") from None
    if not isinstance(settings, dict):
        raise UserError(f"Keras' settings '{path}' hold no names with values; remove the file")
    return settings


def check_loaded() -> None:
    """Refuses, where a network or method is built, Keras settings that it cannot have.

    Raises:
        UserError: floatx is not float32, or images have their channels first.

    >>> check_loaded()
    """
    config = sys.modules["keras"].config if "keras" in sys.modules else None
    if config is None:
        return
    found = {"floatx": config.floatx(), "image_data_format": config.image_data_format()}
    for name, value in found.items():
        expected, why = _EXPECTED[name]
        if value != expected:
            raise UserError(
                f"Keras has {name} '{value}', and networks here need '{expected}': {why}; call "
                f"keras.config.set_{name}('{expected}') first"
            )
