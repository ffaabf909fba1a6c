"""Peak memory of a piece of work, measured in a process of its own.

    python -m research.benchmarks.measuring module:function '{"argument": 1}'

runs the function and prints, as JSON, by how many bytes the process' resident memory grew at its
peak, and what the function returned.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from typing import Any


def peak_growth(work: str, arguments: dict[str, Any]) -> int:
    """Bytes by which a process grows, at its peak, while it does some work.

    See `peak_growth_and_result`; the result is dropped.
    """
    return peak_growth_and_result(work, arguments)[0]


def peak_growth_and_result(work: str, arguments: dict[str, Any]) -> tuple[int, Any]:
    """Runs work in a process of its own and measures its memory.

    The growth is the process' largest resident set (VmHWM in /proc/self/status; elsewhere than on
    Linux getrusage's ru_maxrss), minus the resident set with TensorFlow loaded and started, just
    before the work.

    Args:
        work: `module:function`; the function's result must be JSON-able.
        arguments: keyword arguments of the function, JSON-able.

    Returns:
        Bytes of growth, and what the function returned.

    Raises:
        RuntimeError: the work failed; the message ends with its last lines.

    >>> growth, result = peak_growth_and_result("builtins:dict", {"a": 1})
    >>> growth < 50e6, result
    (True, {'a': 1})
    """
    process = subprocess.run(
        [sys.executable, "-m", "research.benchmarks.measuring", work, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
    )
    if process.returncode:
        last = "\n".join(process.stderr.strip().splitlines()[-5:])
        raise RuntimeError(f"measuring the memory of {work} failed ({process.returncode}): {last}")
    answer = json.loads(process.stdout.splitlines()[-1])
    return answer["growth"], answer["result"]


def resident_bytes() -> int:
    """Resident set of this process now; where /proc is missing, its largest so far."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """Largest resident set of this process so far."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    # On Linux this would count what the parent process held when it started this one.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Does the work that the command line names, and prints what was measured."""
    work, arguments = sys.argv[1:]
    module, _, name = work.partition(":")
    function = getattr(importlib.import_module(module), name)

    import tensorflow as tf

    # TensorFlow's own threads and pools are no part of the work.
    tf.function(lambda x: tf.matmul(x, x))(tf.ones((64, 64))).numpy()
    before = resident_bytes()
    result = function(**json.loads(arguments))
    print(json.dumps({"growth": peak_bytes() - before, "result": result}))


if __name__ == "__main__":
    main()
