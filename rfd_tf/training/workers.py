"""Several machines: TF_CONFIG or SLURM, meeting before training, and losing one another."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator

import tensorflow as tf

from rfd_tf.errors import UserError

#: Seconds that a starting worker waits for the others.
START_TIMEOUT = 600.0
_GREETING = "rfd_tf worker"
_RETRY = 0.5
_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)


def read_cluster() -> tuple[list[str], int]:
    """Returns the workers' `host:port` addresses and this worker's position among them.

    They come from the environment variable TF_CONFIG, in which a `chief` counts as the first
    worker; without it, from those of a SLURM job step of several tasks. TF_CONFIG is then set, or
    set again, to a cluster of workers alone, which TensorFlow reads.

    Raises:
        UserError: there is neither, TF_CONFIG is malformed, or its index is not that of a worker.
    """
    text = os.environ.get("TF_CONFIG")
    addresses, index = _of_tf_config(text) if text else _of_slurm()
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
    return addresses, index


def _of_tf_config(text: str) -> tuple[list[str], int]:
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        workers = list(cluster.get("worker", []))
        chief = list(cluster.get("chief", []))
        index, kind = int(task["index"]), task["type"]
        ports = [int(address.rpartition(":")[2]) for address in chief + workers]
        ok = bool(ports) and set(cluster) <= {"chief", "worker"} and len(chief) <= 1
        ok = ok and kind in cluster
    except (ValueError, KeyError, TypeError, AttributeError):
        ok = False
    if not ok:
        raise UserError(f"TF_CONFIG does not read like {_EXAMPLE}; it is: {text}")
    named = chief if kind == "chief" else workers
    if not 0 <= index < len(named):
        raise UserError(
            f"TF_CONFIG gives this machine the index {index}, but names {len(named)} "
            f"{kind}(s); the index counts from 0 to {len(named) - 1}"
        )
    return chief + workers, index + (len(chief) if kind == "worker" else 0)


def _of_slurm() -> tuple[list[str], int]:
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if not tasks.isdigit() or int(tasks) < 2:
        raise UserError(
            f"strategy 'multiworker' needs the environment variable TF_CONFIG, such as {_EXAMPLE}, "
            "or a job step of SLURM with several tasks"
        )
    try:
        # It allots GPUs, too, and fails without any; here SLURM does (srun --gpus-per-task=1).
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=int(tasks), gpus_per_task=1, auto_set_gpu=False
        )
        cluster = resolver.cluster_spec()
        index = resolver.get_task_info()[1]
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the workers of this SLURM job step are not clear: {error}") from None
    return list(cluster.as_dict()["worker"]), index


def meet(addresses: list[str], index: int, timeout: float = START_TIMEOUT) -> None:
    """Waits until every worker has started; TensorFlow would wait without end, deaf to signals.

    Worker 0 listens on its own port, which TensorFlow takes over afterwards; the others call.

    Args:
        addresses: `host:port` of every worker.
        index: this worker's position among them.
        timeout: seconds to wait.

    Raises:
        UserError: some worker did not come in time; the message names it.
    """
    deadline = time.monotonic() + timeout
    host, _, port = addresses[0].rpartition(":")
    if index == 0:
        _receive(int(port), addresses, deadline, timeout)
    else:
        _call(host.strip("[]"), int(port), f"{_GREETING} {index}\n".encode(), deadline, timeout)


def _receive(port: int, addresses: list[str], deadline: float, timeout: float) -> None:
    missing = set(range(1, len(addresses)))
    if not missing:
        return
    calls = {}
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(port, deadline))
        while missing:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                call, _ = listener.accept()
            except TimeoutError:
                names = ", ".join(f"{n} ({addresses[n]})" for n in sorted(missing))
                raise UserError(
                    f"worker {names} did not start within {timeout:g} s; start the same command "
                    "on every machine of TF_CONFIG"
                ) from None
            stack.enter_context(call)
            call.settimeout(5)
            words = []
            with contextlib.suppress(OSError):
                words = call.recv(64).decode(errors="replace").split()
            if " ".join(words[:-1]) == _GREETING and words[-1].isdigit():
                calls[int(words[-1])] = call
                missing.discard(int(words[-1]))
        for call in calls.values():
            with contextlib.suppress(OSError):
                call.sendall(b"go\n")


def _listen(port: int, deadline: float) -> socket.socket:
    while True:
        try:
            # Both kinds of addresses where the machine has both.
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            return socket.create_server(("", port))
        except OSError as error:
            # The worker 0 of a run that has just ended may hold the port a little longer.
            if time.monotonic() > deadline:
                raise UserError(
                    f"worker 0 cannot listen on port {port} of TF_CONFIG ({error.strerror}); "
                    "end the program that uses it, or choose another port"
                ) from None
        time.sleep(_RETRY)


def _call(host: str, port: int, greeting: bytes, deadline: float, timeout: float) -> None:
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=5) as call:
                call.sendall(greeting)
                call.settimeout(max(0.01, deadline - time.monotonic()))
                if call.recv(8) == b"go\n":
                    return
        except OSError:
            pass
        time.sleep(_RETRY)
    raise UserError(
        f"worker 0 at {host}:{port}, or another worker, did not start within {timeout:g} s; start "
        "the same command on every machine of TF_CONFIG, and let them reach each other's ports"
    )


@contextlib.contextmanager
def lost_workers_reported(num_workers: int) -> Iterator[None]:
    """Turns TensorFlow's error about a lost worker into a `UserError`.

    TensorFlow notices a worker that has died by a refused connection, at once, or by 10 seconds
    without a sign of life; whatever waits for that worker then fails.

    Args:
        num_workers: workers that train together; with one, errors pass unchanged.

    Raises:
        UserError: another worker was lost while the body ran.
    """
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
        tf.errors.FailedPreconditionError,
    ) as error:
        text = str(error)
        lost = ("Collective ops is aborted", "heartbeat", "coordination service", "/job:worker")
        if num_workers == 1 or not any(part in text for part in lost):
            raise
        raise UserError(
            "another worker was lost, so this one ends too; see that worker's own message, then "
            "start the same command again on every machine: the run resumes from its last "
            "checkpoint"
        ) from None
