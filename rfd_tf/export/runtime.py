"""onnxruntime: imported here alone, without its telemetry."""

from __future__ import annotations

import platform
from pathlib import Path
from types import ModuleType
from typing import Any

_CPU_INFO = Path("/proc/cpuinfo")


def onnxruntime() -> ModuleType:
    """Returns the module `onnxruntime`, which reports nothing to its vendor.

    `import rfd_tf` sets `ORT_DISABLE_TELEMETRY`, which onnxruntime reads when it is first imported.
    Where a program imported onnxruntime before rfd_tf, its events are switched off here.

    >>> onnxruntime().get_available_providers()[-1]
    'CPUExecutionProvider'
    """
    import onnxruntime as module

    module.disable_telemetry_events()
    return module


def session(path: str | Path) -> Any:
    """Returns an `onnxruntime.InferenceSession` of a file on the CPU, with its default settings."""
    return onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])


def description() -> str:
    """Returns the version of onnxruntime and the kind of processor, for a record of a measurement.

    Of x86 processors it names VNNI, the instructions that decide how 8-bit products are added.

    >>> description().startswith("onnxruntime ")
    True
    """
    machine = platform.machine() or "unknown processor"
    try:
        flags = next(line for line in _CPU_INFO.open() if line.startswith("flags")).split()
    except (OSError, StopIteration, UnicodeDecodeError):
        flags = []
    if flags:
        machine += f" {'with' if any('vnni' in flag for flag in flags) else 'without'} VNNI"
    return f"onnxruntime {onnxruntime().__version__}, {machine}"
