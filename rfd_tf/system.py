"""What this machine offers: processor features, TensorFlow's kernels, and why a GPU is unseen."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_DRIVER = Path("/proc/driver/nvidia")
_DEVICES = Path("/dev")
# Feature -> the flags of /proc/cpuinfo, any of which means it.
_FEATURES = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "AVX512-VNNI": ("avx512_vnni",),
    "AVX512-BF16": ("avx512_bf16",),
    "AVX-VNNI": ("avx_vnni",),
    "AMX": ("amx_tile",),
    "AMX-BF16": ("amx_bf16",),
}
# Libraries that TensorFlow loads for NVIDIA GPUs, without the version in their names.
_GPU_LIBRARIES = ("cudart", "cublas", "cudnn", "cufft", "cusolver", "cusparse")
_LIBCUDA = "libcuda.so.1"


def cpu_flags() -> frozenset[str]:
    """Returns the processor's flags as Linux lists them; none where there is no such list.

    >>> "no_such_flag" in cpu_flags()
    False
    """
    return frozenset(_cpu_line("flags").split())


def cpu_name() -> str:
    """Returns the processor's name.

    >>> bool(cpu_name())
    True
    """
    return _cpu_line("model name") or platform.processor() or platform.machine()


def cpu_vendor() -> str:
    """Returns who made the processor, such as `GenuineIntel`; "" where Linux does not list it.

    >>> isinstance(cpu_vendor(), str)
    True
    """
    return _cpu_line("vendor_id")


def _cpu_line(key: str) -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in found if name.strip() == key), "")


def cpu_features(flags: frozenset[str]) -> list[str]:
    """Returns those of the features that matter for training speed which a processor has.

    Args:
        flags: as of `cpu_flags`.

    >>> cpu_features(frozenset({"avx2", "amx_tile", "sse"}))
    ['AVX2', 'AMX']
    """
    return [name for name, any_of in _FEATURES.items() if flags.intersection(any_of)]


def nvidia_gpus() -> list[str]:
    """Returns the names of the NVIDIA GPUs that the driver lists, whether usable or not.

    GPUs with a device file only are called `NVIDIA GPU`.

    >>> isinstance(nvidia_gpus(), list)
    True
    """
    program = shutil.which("nvidia-smi")
    if program:
        try:
            done = subprocess.run(
                [program, "-L"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=20,
            )
        except (OSError, subprocess.SubprocessError):
            done = None
        if done is not None and done.returncode == 0:
            # (GPU 0: NVIDIA H200 (UUID: ...))
            lines = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
            return [line.partition(": ")[2].partition(" (UUID")[0] for line in lines]
    names = []
    for path in sorted(_DRIVER.glob("gpus/*/information")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        found = [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
        names += found or ["NVIDIA GPU"]
    files = [path for path in _DEVICES.glob("nvidia*") if path.name[6:].isdigit()]
    driver = (_DRIVER / "version").exists()
    return names or ["NVIDIA GPU"] * max(len(files), int(driver))


def why_gpu_unseen(
    with_cuda: bool,
    visible: str | None,
    driver_error: str | None,
    missing: Sequence[str],
    version: str,
) -> tuple[str, str]:
    """Returns why TensorFlow sees no NVIDIA GPU though there is one, and what to do.

    Args:
        with_cuda: whether TensorFlow was built with CUDA.
        visible: the environment variable `CUDA_VISIBLE_DEVICES`, or None.
        driver_error: what is wrong with the driver's library, or None.
        missing: libraries that cannot be loaded.
        version: TensorFlow's.

    >>> reason, remedy = why_gpu_unseen(False, None, None, [], "2.21.0")
    >>> reason
    'this TensorFlow is built for processors only'
    >>> remedy
    "pip uninstall tensorflow-cpu; pip install 'rfd_tf[gpu]' 'tensorflow[and-cuda]==2.21.0'"
    """
    install = f"pip install 'rfd_tf[gpu]' 'tensorflow[and-cuda]=={version}'"
    if visible is not None and (not visible.strip() or visible.strip().startswith("-1")):
        return f"CUDA_VISIBLE_DEVICES='{visible}' hides it", "unset CUDA_VISIBLE_DEVICES"
    if not with_cuda:
        return (
            "this TensorFlow is built for processors only",
            f"pip uninstall tensorflow-cpu; {install}",
        )
    if driver_error:
        return driver_error, "install or update NVIDIA's driver; in a container, start it with GPUs"
    if missing:
        return f"libraries are missing: {', '.join(missing)}", install
    return (
        "the driver and CUDA's libraries load; TensorFlow's own log may say more",
        "run it with TF_CPP_MIN_LOG_LEVEL=0, and compare the driver's CUDA version with "
        "TensorFlow's",
    )


def gpu_problem() -> tuple[str, str]:
    """Returns `why_gpu_unseen` of this machine."""
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    return why_gpu_unseen(
        tf.test.is_built_with_cuda(),
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        _driver_error(),
        _missing_libraries(
            build.get("cuda_version", ""),
            build.get("cudnn_version", ""),
            Path(tf.__file__).resolve().parents[1],
        ),
        tf.__version__,
    )


def _driver_error() -> str | None:
    try:
        code = ctypes.CDLL(_LIBCUDA).cuInit(0)
    except (OSError, AttributeError) as error:
        return f"the driver's library {_LIBCUDA} cannot be loaded ({error})"
    return f"the driver does not start (cuInit returns {code})" if code else None


def _missing_libraries(cuda: str, cudnn: str, packages: Path) -> list[str]:
    """The libraries that neither the system's loader nor NVIDIA's Python packages have."""
    major, cudnn = cuda.partition(".")[0], cudnn.partition(".")[0]
    if not major.isdigit():
        return []
    versions = {"cudnn": [cudnn]}
    # These count their versions apart: 11 belongs to CUDA 12.
    versions.update(dict.fromkeys(("cufft", "cusolver"), [str(int(major) - 1), major]))
    missing = []
    for name in _GPU_LIBRARIES:
        files = [f"lib{name}.so.{version}" for version in versions.get(name, [major])]
        if not any(map(_loads, files)) and not any(packages.glob(f"nvidia/*/lib/lib{name}.so*")):
            missing.append(files[0])
    return missing


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
