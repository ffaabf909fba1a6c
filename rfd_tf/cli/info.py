"""Reports versions, devices, processor features, and what slows training on this machine.

    rfd-tf info

If TensorFlow cannot use an NVIDIA GPU that is present, the report gives the reason, if known, and
what to install.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

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
    """Yields lines on devices, processor and numeric precision."""
    from rfd_tf import kernels, system
    from rfd_tf.training import strategy

    gpus = tf.config.list_physical_devices("GPU")
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device) if device in gpus else {}
        called = f", {details['device_name']}" if "device_name" in details else ""
        yield "device", device.name.removeprefix("/physical_device:") + called
    present = [] if gpus else system.nvidia_gpus()
    if present:
        reason, remedy = system.gpu_problem()
        yield "unseen GPU", f"{', '.join(present)}: TensorFlow does not see it, because {reason}"
        yield "", f"to use it: {remedy}"
    features = ", ".join(system.cpu_features(system.cpu_flags())) or "features unknown"
    yield "processor", f"{system.cpu_name()}, {os.cpu_count()} logical cores; {features}"
    yield "oneDNN kernels", _onednn(kernels.is_on())
    yield "precision", f"--mixed_precision=auto trains in {strategy.precision_policy('auto')}"


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
