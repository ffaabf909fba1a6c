"""Where training runs: one device, several, or several machines; and in which precision."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from rfd_tf import kernels, system
from rfd_tf.errors import UserError, unknown
from rfd_tf.training import workers

STRATEGIES = ("auto", "none", "mirrored", "multiworker")
PRECISIONS = ("auto", "float32", "bfloat16")
JIT_COMPILE = ("auto", "true", "false")
# TensorFlow's own variable for what `grow_gpu_memory` does.
_GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"


def build(name: str = "auto", logical_devices: int = 0) -> tf.distribute.Strategy:
    """Makes the distribution strategy. Call it before anything else touches TensorFlow.

    Args:
        name: `none`: one device. `mirrored`: all GPUs of this machine, or the logical CPU
            devices. `multiworker`: the machines that the environment variable TF_CONFIG names, or
            the tasks of a SLURM job step. `auto`: mirrored when there are several devices, else
            none.
        logical_devices: splits the CPU into so many devices, to try a strategy without GPUs;
            0 leaves it whole.

    Raises:
        UserError: unknown name, a TF_CONFIG missing or malformed, devices already in use, a
            worker that does not start within `workers.START_TIMEOUT`.

    >>> build("none").num_replicas_in_sync
    1
    """
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES)
    if logical_devices < 0:
        raise UserError(f"logical_devices {logical_devices} must be at least 0")
    grow_gpu_memory(tf.config.list_physical_devices("GPU"))
    if logical_devices > 1:
        _split_cpu(logical_devices)
    if name == "multiworker":
        return _multiworker()
    devices = tf.config.list_logical_devices("GPU")
    if not devices and logical_devices > 1:
        devices = tf.config.list_logical_devices("CPU")
    if name == "mirrored" or (name == "auto" and len(devices) > 1):
        return tf.distribute.MirroredStrategy([device.name for device in devices] or None)
    return tf.distribute.get_strategy()


def grow_gpu_memory(gpus: Iterable[Any]) -> None:
    """Lets TensorFlow take GPU memory as it needs it, where by itself it takes almost all.

    The environment variable TF_FORCE_GPU_ALLOW_GROWTH decides instead if it is set. GPUs that
    TensorFlow has already started stay as they are.

    Args:
        gpus: physical devices.

    >>> grow_gpu_memory(tf.config.list_physical_devices("GPU"))
    """
    if _GROWTH in os.environ:
        return
    for gpu in gpus:
        with contextlib.suppress(RuntimeError, ValueError):
            tf.config.experimental.set_memory_growth(gpu, True)


def _split_cpu(count: int) -> None:
    cpus = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(
            cpus[0], [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        )
    except RuntimeError:
        if len(tf.config.list_logical_devices("CPU")) != count:
            raise UserError(
                f"the CPU cannot be split into {count} devices any more: TensorFlow has started; "
                "ask for logical devices first"
            ) from None


def _multiworker() -> tf.distribute.Strategy:
    addresses, index = workers.read_cluster()
    workers.meet(addresses, index)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        if "must be" not in str(error):
            raise
        raise UserError(
            "strategy 'multiworker' must be made before anything else runs in TensorFlow"
        ) from None
    # TensorFlow catches SIGTERM here and trains on; a worker that is asked to end should end.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return strategy


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """This process' position among the machines and their number, `(0, 1)` on a single one.

    >>> worker(build("none"))
    (0, 1)
    """
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec():
        return 0, 1
    return resolver.task_id, resolver.cluster_spec().num_tasks("worker")


def agree(strategy: tf.distribute.Strategy, value: int) -> int:
    """Returns the first machine's value on every machine, and waits until all have come here.

    Args:
        strategy: the strategy that trains.
        value: a whole number; only that of worker 0 counts.

    >>> agree(build("none"), 7)
    7
    """
    return int(_first_workers(strategy, [value])[0])


def check_same(strategy: tf.distribute.Strategy, facts: dict) -> None:
    """Checks that every machine trains the same thing.

    Args:
        strategy: the strategy that trains.
        facts: JSON-able values by name, the names being the same on every machine.

    Raises:
        UserError: a fact is not what it is on worker 0; the message names it.

    >>> check_same(build("none"), {"images": "digits"})
    """
    digests = []
    for value in facts.values():
        text = json.dumps(value, sort_keys=True).encode()
        digests.append(int.from_bytes(hashlib.sha256(text).digest()[:5], "big"))
    wanted = _first_workers(strategy, digests)
    for name, digest, first in zip(facts, digests, wanted, strict=True):
        if digest != first:
            raise UserError(
                f"worker {worker(strategy)[0]} has another {name} than worker 0: here it is "
                f"{facts[name]!r}; give every worker the same images and the same command"
            )


def _first_workers(strategy: tf.distribute.Strategy, values: list[int]) -> list[int]:
    position, num_workers = worker(strategy)
    if num_workers == 1:
        return list(values)
    given = tf.constant(values if position == 0 else [0] * len(values), tf.int64)
    local = strategy.num_replicas_in_sync // num_workers

    @tf.function
    def total():
        return strategy.reduce("SUM", strategy.run(lambda: given), axis=None)

    return [int(value) // local for value in total()]


def check_batch(strategy: tf.distribute.Strategy, batch_size: int, parts: int = 1) -> None:
    """Raises a `UserError` when the batch cannot be split evenly over replicas and parts.

    >>> check_batch(build("none"), batch_size=10, parts=4)
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: batch_size 10 cannot be split evenly over 1 replicas x 4 ...
    """
    pieces = strategy.num_replicas_in_sync * parts
    if batch_size % pieces:
        raise UserError(
            f"batch_size {batch_size} cannot be split evenly over "
            f"{strategy.num_replicas_in_sync} replicas x {parts} accumulation parts; "
            f"use a multiple of {pieces}"
        )


def gpu_details() -> list[dict[str, Any]]:
    """Returns what TensorFlow knows of each GPU that it sees.

    That is `device_name`, and of NVIDIA's GPUs `compute_capability`.

    >>> isinstance(gpu_details(), list)
    True
    """
    gpus = tf.config.list_physical_devices("GPU")
    return [dict(tf.config.experimental.get_device_details(gpu)) for gpu in gpus]


def bfloat16_is_faster(gpus: Iterable[Mapping[str, Any]] | None = None) -> bool:
    """Whether this machine trains faster in bfloat16 than in float32.

    True if all GPUs have a compute capability of at least 8, and for processors with AMX or,
    except Intel's, with AVX512-BF16: Intel's multiply no more numbers at a time by AVX512-BF16
    than in float32. Those instructions are used by TensorFlow's oneDNN kernels alone: without them
    bfloat16 is many times slower.

    Args:
        gpus: as of `gpu_details`, whose result is taken if None.

    >>> bfloat16_is_faster([{"compute_capability": (9, 0)}])
    True
    >>> bfloat16_is_faster([{"compute_capability": (7, 5)}])
    False
    """
    gpus = gpu_details() if gpus is None else list(gpus)
    if gpus:
        return all((gpu.get("compute_capability") or (0, 0))[0] >= 8 for gpu in gpus)
    if kernels.is_on() is False:
        return False
    flags = system.cpu_flags()
    if "amx_bf16" in flags:
        return True
    return "avx512_bf16" in flags and system.cpu_vendor() != "GenuineIntel"


def uses_xla(
    name: str = "auto",
    *,
    num_replicas: int = 1,
    compiles: bool = True,
    num_gpus: int | None = None,
) -> bool:
    """Whether XLA compiles the training steps.

    XLA slows convolutional networks down on CPUs. It cannot compile the communication of replicas.

    Args:
        name: one of `JIT_COMPILE`; `auto`: on a single GPU, if the backbone compiles.
        num_replicas: replicas that train.
        compiles: whether XLA compiles all layers of the backbone, by Keras' `supports_jit`.
        num_gpus: GPUs that TensorFlow sees; counted if None.

    Raises:
        UserError: an unknown name, or `true` for what XLA cannot compile.

    >>> uses_xla("auto", num_gpus=1), uses_xla("auto", num_gpus=0), uses_xla("true", num_gpus=0)
    (True, False, True)
    """
    if name not in JIT_COMPILE:
        raise unknown("jit_compile", name, JIT_COMPILE)
    if name == "auto":
        if num_gpus is None:
            num_gpus = len(tf.config.list_physical_devices("GPU"))
        return num_gpus > 0 and num_replicas == 1 and compiles
    if name == "true" and num_replicas > 1:
        raise UserError(
            f"jit_compile=true compiles for one device, not for {num_replicas} replicas; give "
            "jit_compile=auto, or strategy=none to train on one"
        )
    if name == "true" and not compiles:
        raise UserError(
            "jit_compile=true: the backbone has layers that XLA does not compile; leave out "
            "--jit_compile"
        )
    return name == "true"


def precision_policy(name: str = "auto") -> str:
    """The Keras dtype policy, `float32` or `mixed_bfloat16`, that a precision's name means.

    Raises:
        UserError: a name not among `PRECISIONS`.

    >>> precision_policy("bfloat16")
    'mixed_bfloat16'
    """
    if name not in PRECISIONS:
        raise unknown("mixed precision", name, PRECISIONS)
    if name == "auto":
        name = "bfloat16" if bfloat16_is_faster() else "float32"
    return "mixed_bfloat16" if name == "bfloat16" else "float32"
