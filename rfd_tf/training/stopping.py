"""On a signal, training ends after the current step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class TrainingStopped(Exception):
    """A signal ended training after the current step; everything is saved.

    Args:
        signal: the signal.

    >>> TrainingStopped(signal.SIGTERM).signal.name
    'SIGTERM'
    """

    def __init__(self, signal: signal.Signals):
        super().__init__(f"stopped by {signal.name}")
        self.signal = signal


class StopRequest:
    """Whether the process has been asked to stop.

    Attributes:
        signal: the `signal.Signals` that asked, or None.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Takes SIGTERM and SIGINT as requests while the body runs; a second one acts at once.

        Python has handlers in its main thread only; elsewhere nothing is changed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def note(number, _):
            self.signal = signal.Signals(number)
            restore()
            # (Printing may be under way: a handler must not use the same buffer.)
            os.write(2, b"\nsaving and stopping after the current step; once more to end at once\n")

        def restore():
            for each, handler in before.items():
                signal.signal(each, signal.SIG_DFL if handler is None else handler)

        for each in SIGNALS:
            signal.signal(each, note)
        try:
            yield self
        finally:
            restore()
