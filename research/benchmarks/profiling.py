"""Which operations the time of a step goes to, by TensorFlow's profiler."""

from __future__ import annotations

import collections
import glob
import os
import tempfile
from collections.abc import Callable

import tensorflow as tf

#: Operations that are convolutions or one of their gradients, by the start of their type.
CONVOLUTIONS = ("Conv2D", "_MklNativeConv2D", "_FusedConv2D", "_MklNativeFusedConv2D",
                "_MklFusedConv2D", "_MklConv2D")  # fmt: skip


def operation_times(run: Callable[[], object], repeats: int = 2) -> dict[str, float] | None:
    """Milliseconds that each type of operation takes in one run, largest first.

    Times are those of the threads: operations that run side by side both count.

    Args:
        run: what to look into; called `repeats` times, after having run before.
        repeats: calls to average over.

    Returns:
        Milliseconds by operation type, or None where this TensorFlow does not tell.

    >>> f = tf.function(lambda x: tf.matmul(x, x))
    >>> times = operation_times(lambda: f(tf.ones((64, 64))))
    >>> times is None or any("MatMul" in name for name in times)
    True
    """
    space = _space()
    if space is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        try:
            for _ in range(repeats):
                run()
        finally:
            tf.profiler.experimental.stop()
        files = glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)
        if not files:
            return None
        with open(files[0], "rb") as file:
            space.ParseFromString(file.read())
    total: collections.Counter[str] = collections.Counter()
    for plane in space.planes:
        if "CPU" not in plane.name:
            continue
        names = {key: _operation(value.name) for key, value in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                operation = names.get(event.metadata_id)
                if operation:
                    total[operation] += event.duration_ps / 1e9 / repeats
    return dict(total.most_common())


def is_convolution(operation: str) -> bool:
    """Whether a type of operation is a convolution or one of its gradients.

    >>> is_convolution("_MklNativeConv2DBackpropFilter"), is_convolution("MatMul")
    (True, False)
    """
    return operation.startswith(CONVOLUTIONS)


def _operation(name: str) -> str | None:
    """The type in an event's name, `node name:Type` or `node name:Type#id=...#`."""
    name, colon, kind = name.split("#")[0].rpartition(":")
    # Others are spans of the runtime, such as ExecutorState::Process, that hold operations.
    if not colon or name.endswith(":") or not kind.replace("_", "").isalnum():
        return None
    return kind


def _space():
    try:
        from tensorflow.tsl.profiler.protobuf import xplane_pb2
    except ImportError:
        try:
            from tsl.profiler.protobuf import xplane_pb2
        except ImportError:
            return None
    return xplane_pb2.XSpace()
