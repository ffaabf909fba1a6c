"""TensorFlow's oneDNN kernels: on, unless the user decides otherwise."""

from __future__ import annotations

import os
import platform
import sys
import warnings

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


def choose() -> None:
    """Turns the oneDNN kernels on where the environment does not say, before TensorFlow starts.

    By itself TensorFlow turns them on only for processors with AVX512-VNNI, AVX512-BF16, AVX-VNNI
    or AMX; with AVX2 alone training takes up to twice as long without them. They add in another
    order, so that results differ in their last digits. Other processors than x86-64 keep
    TensorFlow's choice.

    >>> choose()
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or VARIABLE in os.environ:
        return
    if "tensorflow" not in sys.modules:
        os.environ[VARIABLE] = "1"
    elif sys.platform != "darwin" and is_on() is False:
        warnings.warn(
            "TensorFlow was imported before rfd_tf, without its oneDNN kernels; training may take "
            f"twice as long. Import rfd_tf first, or set {VARIABLE}=1 in the environment (0 keeps "
            "them off and silences this)",
            stacklevel=3,
        )


def is_on() -> bool | None:
    """Returns whether TensorFlow uses its oneDNN kernels; None where that is unknown.

    >>> is_on() in (True, False, None)
    True
    """
    try:
        from tensorflow.python.util import _pywrap_util_port

        return bool(_pywrap_util_port.IsMklEnabled())
    except (ImportError, AttributeError):  # no public name has it
        return None
