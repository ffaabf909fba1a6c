"""Reports versions, devices, processor features, and what slows training on this machine.

    rfd-tf info

If TensorFlow cannot use an NVIDIA GPU that is present, the report gives the reason, if known, and
what to install.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rfd_tf.cli import common


def main() -> None:
    for name, text in facts():
        print(f"{name:<15} {text}", flush=True)


def facts() -> Iterator[tuple[str, str]]:
    """Yields the name and text of each line of the report."""
    import rfd_tf
    from rfd_tf import keras_settings, presets
    from rfd_tf.errors import UserError

    yield "rfd_tf", f"{rfd_tf.__version__}, in {Path(rfd_tf.__file__).parent}"
    yield "configurations", _configurations(presets.configurations())
    yield "Python", f"{platform.python_version()}, {platform.platform()}"
    yield "NumPy", _version("numpy")
    yield "onnxruntime", _version("onnxruntime")
    yield "Keras", f"{_version('keras')}, backend {keras_settings.backend()}"
    try:
        keras_settings.check_environment()
    except UserError as error:
        yield "", f"commands refuse these settings: {error}"
    try:
        import tensorflow as tf
    except ImportError as error:
        yield "TensorFlow", f"cannot be imported: {error}"
        return
    yield "TensorFlow", tf.__version__
    yield from _machine(tf)


def _machine(tf) -> Iterator[tuple[str, str]]:
    """Yields lines on devices, processor and how training runs on them."""
    from rfd_tf import kernels, system
    from rfd_tf.training import strategy

    gpus = strategy.gpu_details()
    names = [device.name for device in tf.config.list_physical_devices()]
    present = [] if gpus else system.nvidia_gpus()
    yield from devices(names, gpus, present, system.gpu_problem() if present else ("", ""))
    features = ", ".join(system.cpu_features(system.cpu_flags())) or "features unknown"
    yield "processor", f"{system.cpu_name()}, {os.cpu_count()} logical cores; {features}"
    yield "oneDNN kernels", _onednn(kernels.is_on())
    yield from training(gpus)


def devices(
    names: Iterable[str],
    gpus: Iterable[Mapping[str, Any]],
    present: Sequence[str],
    problem: tuple[str, str],
) -> Iterator[tuple[str, str]]:
    """Yields lines on the devices that TensorFlow sees, and on GPUs that it does not see.

    Args:
        names: of the devices that TensorFlow sees.
        gpus: what it knows of each GPU among them, see `rfd_tf.training.strategy.gpu_details`.
        present: names of the GPUs that the driver lists though TensorFlow sees none.
        problem: why, and what to do; see `rfd_tf.system.why_gpu_unseen`.
    """
    known = iter(gpus)
    for name in names:
        details = next(known, {}) if ":GPU:" in name else {}
        parts = [name.removeprefix("/physical_device:")]
        if "device_name" in details:
            parts.append(details["device_name"])
        if details.get("compute_capability"):
            parts.append("compute capability " + ".".join(map(str, details["compute_capability"])))
        yield "device", ", ".join(parts)
    if present:
        reason, remedy = problem
        yield "unseen GPU", f"{', '.join(present)}: TensorFlow does not see it, because {reason}"
        yield "", f"to use it: {remedy}"
    elif not any(":GPU:" in name for name in names):
        yield "GPU", "none: neither TensorFlow nor NVIDIA's driver lists one"


def training(gpus: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yields lines on what `auto` means for precision and XLA.

    Args:
        gpus: see `devices`.
    """
    from rfd_tf.training import strategy

    precision = "bfloat16" if strategy.bfloat16_is_faster(gpus) else "float32"
    yield "precision", f"--mixed_precision=auto trains in {precision}"
    xla = strategy.uses_xla("auto", num_replicas=max(1, len(gpus)), num_gpus=len(gpus))
    verb = "compiles" if xla else "does not compile"
    yield "XLA", f"--jit_compile=auto {verb} training steps"


def _onednn(on: bool | None) -> str:
    from rfd_tf import kernels

    given = os.environ.get(kernels.VARIABLE)
    by = f"{kernels.VARIABLE}={given}" if given else "chosen by TensorFlow"
    if on is None:
        return f"unknown ({by})"
    if on:
        return f"on ({by})"
    return (
        f"off ({by}): {kernels.VARIABLE}=1 in the environment turns them on and may train up to "
        "twice as fast on a processor"
    )


def _configurations(found: dict[str, Path]) -> str:
    if not found:
        return "none installed; --config takes files only"
    places = list(dict.fromkeys(str(path.parent) for path in found.values()))
    return f"{len(found)} for --config, in {' and '.join(places)}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    common.run(main, check_keras=False)
