"""Saves checkpoints beside training: a snapshot in memory, written by a thread."""

from __future__ import annotations

import threading
import time

from rfd_tf.errors import UserError
from rfd_tf.training import checkpoint
from rfd_tf.training.checkpoint import CheckpointFolder


class BackgroundSaver:
    """Writes checkpoints in the background of training; one at a time, in order.

    An error of the thread is raised by the next call of any method.

    Args:
        folder: where to.

    Attributes:
        saved: checkpoints begun.
        stalled: seconds that the caller, training, was held up.
        writing: seconds that the thread wrote.
    """

    def __init__(self, folder: CheckpointFolder):
        self.folder = folder
        self.saved, self.stalled, self.writing = 0, 0.0, 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, method, optimizer, description: dict) -> None:
        """Takes a snapshot and begins to write it; waits for the one before, if need be.

        Args:
            method: the `rfd_tf.methods.Method`.
            optimizer: its optimizer, built.
            description: see `checkpoint.save`; `"step"` names the file.

        Raises:
            UserError: the checkpoint before could not be written, or was not finite.
        """
        self.wait()
        started = time.perf_counter()
        named = checkpoint.snapshot(method, optimizer)
        # Not a daemon: the interpreter's end waits for the file.
        self._thread = threading.Thread(target=self._write, args=(named, description))
        self._thread.start()
        self.saved += 1
        self.stalled += time.perf_counter() - started

    def wait(self) -> None:
        """Waits until the last checkpoint is written.

        Raises:
            UserError: it could not be.
        """
        started = time.perf_counter()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.stalled += time.perf_counter() - started
        self.check()

    def report(self, seconds: float) -> dict:
        """How much of a training of so many seconds went into saving, for run.json."""
        return {
            "checkpoints": self.saved,
            "training_seconds": round(seconds, 3),
            "stalled_seconds": round(self.stalled, 3),
            "stalled_share": round(self.stalled / max(seconds, 1e-9), 6),
            "writing_seconds": round(self.writing, 3),
        }

    def tell(self, seconds: float) -> str:
        """`report` as a line."""
        report = self.report(seconds)
        return (
            f"saving: {self.saved} checkpoints; training paused for {self.stalled:.2f} of "
            f"{seconds:.2f} s ({report['stalled_share']:.2%}), files were written in the "
            f"background in {self.writing:.2f} s"
        )

    def check(self) -> None:
        """Raises what went wrong in the thread, if something did."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, named: list, description: dict) -> None:
        started = time.perf_counter()
        try:
            bad = checkpoint.not_finite(named)
            if bad is not None:
                last = self.folder.latest()
                kept = f"{last} is kept" if last else "there is no checkpoint before"
                raise UserError(
                    f"'{bad}' is NaN or infinite after step {description['step']}, though the "
                    f"losses were not; this is not saved, and {kept}; lower --learning_rate"
                )
            self.folder.write(named, description)
        except BaseException as error:
            self._error = error
        finally:
            self.writing += time.perf_counter() - started
