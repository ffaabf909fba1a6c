"""The other Python of the benchmark `peers`: a process that is asked line by line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")


class PeerError(Exception):
    """What the peer cannot do, in its own words."""


class Peer:
    """PyTorch in a process of its own.

    Args:
        python: the interpreter that has it.

    Raises:
        PeerError: there is no such interpreter.

    >>> import sys
    >>> with Peer(sys.executable) as peer:
    ...     peer.ask("run", key="nothing")
    Traceback (most recent call last):
    research.benchmarks.peers.process.PeerError: KeyError: 'nothing'
    """

    def __init__(self, python: str):
        # Its own packages alone: this project's path would bring ours.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        try:
            self._process = subprocess.Popen(
                [python, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        except OSError as error:
            raise PeerError(f"cannot run '{python}': {error.strerror}") from None

    def ask(self, what: str, **arguments: Any) -> Any:
        """Returns the peer's answer to a request, see `worker`.

        Raises:
            PeerError: it cannot do it, or has ended.
        """
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"the peer's process ended with code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["result"]

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()
