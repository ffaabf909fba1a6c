"""Work on stretches of very large sets, handed to the workers of an Apache Beam runner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rfd_tf import extras
from rfd_tf.errors import UserError, shown


class Runner:
    """An Apache Beam runner that calls a function for each of many numbers.

    Args:
        name: of the runner, such as `DirectRunner`.
        options: its options, as `name=value`.

    Raises:
        UserError: an unknown runner, or an option with a wrong value.
        MissingPackage: Apache Beam is not installed.
    """

    def __init__(self, name: str, options: Iterable[str] = ()):
        self._beam = extras.load("apache_beam", "a Beam pipeline")
        from apache_beam.options.pipeline_options import PipelineOptions

        try:
            flags = [f"--{option}" for option in options]
            self._pipeline = self._beam.Pipeline(runner=name, options=PipelineOptions(flags))
        # (An unknown runner, an option with a wrong value: argparse ends the program.)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"runner '{name}' does not start ({shown(error)}); give --runner a runner of "
                "Apache Beam, and --beam_option options that it has"
            ) from None

    def run(self, function: Callable[[int, Any], Any], numbers: Sequence[int], job: Any) -> None:
        """Calls `function(number, job)` for each number, in any order, and again after a failure.

        Args:
            function: of a module; it writes its results to files, each whole or not at all.
            numbers: what it is called for.
            job: picklable, the same for all.

        Raises:
            UserError: a call failed as often as the runner tries.
        """
        if not numbers:
            return
        beam = self._beam
        # (Without the shuffle, a runner may fuse all numbers into one bundle.)
        _ = (
            self._pipeline
            | "numbers" >> beam.Create(numbers)
            | "spread" >> beam.Reshuffle()
            | "work" >> beam.Map(function, job)
        )
        try:
            self._pipeline.run().wait_until_finish()
        # (Runners raise errors of their own; the last line is the worker's.)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"the Beam pipeline failed: {shown(lines[-1])}") from None
