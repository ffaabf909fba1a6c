"""Experiment trackers: what their own Keras callbacks leave out of a run."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from rfd_tf import extras
from rfd_tf.errors import UserError, shown

log = logging.getLogger("rfd_tf")


class _Wandb:
    package = "wandb"

    def __init__(self):
        self.api = extras.load(self.package, "tracking by W&B")

    def start(self) -> None:
        """Starts the run that `WandbMetricsLogger` requires; the variables WANDB_* name it."""
        if self.api.run is None:
            self.api.init()

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        self.start()
        self.api.config.update(dict(settings), allow_val_change=True)

    def log_results(self, files: _Results) -> None:
        for name, value in files.scores.items():
            self.api.run.summary[name] = value
        figures = {
            f"figures/{path.stem}": self.api.Image(str(path)) for path in sorted(files.figures)
        }
        if figures:
            self.api.log(figures)
        if files.export is not None:
            self.api.run.log_model(str(files.export))

    def close(self) -> None:
        """Leaves the run open, as it was given; W&B ends it with the program."""


class _Mlflow:
    package = "mlflow"

    def __init__(self):
        self.api = extras.load(self.package, "tracking by MLflow")
        self.started = False

    def start(self) -> None:
        """Does nothing: `MlflowCallback` starts a run by itself."""

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        self.started = self.api.active_run() is None
        run = self.api.active_run() or self.api.start_run()
        # A parameter is written once; a resumed run may have another value, see run.json.
        known = self.api.get_run(run.info.run_id).data.params
        self.api.log_params({n: value for n, value in settings.items() if n not in known})

    def log_results(self, files: _Results) -> None:
        # (The names that MLflow allows.)
        scores = {re.sub(r"[^\w\-./ ]", "_", name): score for name, score in files.scores.items()}
        self.api.log_metrics(scores)
        for path in files.figures:
            self.api.log_artifact(str(path), "figures")
        self.api.log_artifact(str(files.record))
        if files.export is not None:
            self.api.log_artifacts(str(files.export), "export")

    def close(self) -> None:
        self.api.flush_async_logging()
        if self.started:
            self.api.end_run()


_TRACKERS = {kind.package: kind for kind in (_Wandb, _Mlflow)}


class _Results:
    """What a finished run has to log: scores by name, and files."""

    def __init__(self, folder: Path, evaluated: bool, exported: bool):
        self.record = folder / "run.json"
        self.figures = sorted((folder / "figures").glob("*.png"))
        self.export = folder / "export" if exported else None
        self.scores: dict[str, float] = {}
        if evaluated:
            report = json.loads((folder / "evaluation.json").read_bytes())
            for row in report["results"]:
                parts = (row["task"], row["name"], row["images"], row["metric"], row["when"])
                name = "/".join(("evaluation", *(part for part in parts if part)))
                if row["value"] is not None:
                    self.scores[name] = float(row["value"])


def start(module: str) -> None:
    """Starts the tracker's run before a callback of its package is created, where it needs one.

    Args:
        module: the callback's, such as `wandb.integration.keras`; others are left alone.

    Raises:
        MissingPackage: the tracker is not installed.
    """
    kind = _TRACKERS.get(module.partition(".")[0])
    if kind is not None:
        kind().start()


@contextlib.contextmanager
def logged(
    callbacks: Sequence[keras.callbacks.Callback],
    settings: Mapping[str, Any],
    folder: Path,
    evaluated: bool,
    exported: bool,
) -> Iterator[None]:
    """Logs settings before the body and results after it to the trackers of the callbacks.

    The callbacks of W&B and MLflow log metrics. This adds the settings, the scores, the latest of
    each figure and the exported model.

    Args:
        callbacks: of the training. Without one of a tracker's package nothing is logged.
        settings: of the run; those that are None are left out.
        folder: of the run.
        evaluated, exported: whether the body writes `evaluation.json` and `export/`.

    Raises:
        UserError: a tracker does not take the settings.

    >>> with logged([], {}, Path("no/such/run"), False, False):
    ...     pass
    """
    bases = (base for callback in callbacks for base in type(callback).__mro__)
    packages = {base.__module__.partition(".")[0] for base in bases}
    trackers = [kind() for name, kind in _TRACKERS.items() if name in packages]
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        for tracker in trackers:
            try:
                tracker.log_settings(given)
            except Exception as error:
                raise UserError(
                    f"{tracker.package} does not take the run's settings ({shown(error)}); leave "
                    "out its callback to train without it"
                ) from None
        yield
        for tracker in trackers:
            # Training may have taken days; what it wrote is in its folder.
            try:
                tracker.log_results(_Results(folder, evaluated, exported))
            except Exception as error:
                log.warning(f"{tracker.package} did not take all results ({shown(error)})")
    finally:
        for tracker in trackers:
            with contextlib.suppress(Exception):
                tracker.close()
