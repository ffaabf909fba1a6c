"""Several machines: what TF_CONFIG says, meeting before training, and losing one another."""

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


def read_tf_config() -> tuple[list[str], int]:
    """Returns the workers' `host:port` addresses and this worker's position among them.

    They come from the environment variable TF_CONFIG.

    Raises:
        UserError: it is missing or malformed, or its index is not that of a worker.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise UserError(
            "strategy 'multiworker' needs the environment variable TF_CONFIG, such as " + _EXAMPLE
        )
    try:
        config = json.loads(text)
        addresses, task = config["cluster"]["worker"], config["task"]
        index = int(task["index"])
        ports = [int(address.rpartition(":")[2]) for address in addresses]
        ok = task["type"] == "worker" and bool(ports) and set(config["cluster"]) == {"worker"}
    except (ValueError, KeyError, TypeError, AttributeError):
        ok = False
    if not ok:
        raise UserError(f"TF_CONFIG does not read like {_EXAMPLE}; it is: {text}")
    if not 0 <= index < len(addresses):
        raise UserError(
            f"TF_CONFIG gives this machine the index {index}, but names {len(addresses)} "
            f"worker(s); the index counts from 0 to {len(addresses) - 1}"
        )
    return addresses, index


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
        told = ("Collective ops is aborted", "heartbeat", "coordination service", "/job:worker")
        if num_workers == 1 or not any(part in text for part in told):
            raise
        raise UserError(
            "another worker was lost, so this one ends too; see that worker's own message, then "
            "start the same command again on every machine: the run resumes from its last "
            "checkpoint"
        ) from None
