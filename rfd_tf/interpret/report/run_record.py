"""What a run folder contains without its images: flags, metrics of every epoch, evaluation."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from rfd_tf.applications.weights import RUN_FILE
from rfd_tf.errors import UserError
from rfd_tf.evaluation import Verdict, health
from rfd_tf.paths import expanded


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run folder's own account.

    Attributes:
        folder: of the run.
        flags, identity, record, versions: entries of run.json, empty where it lacks them.
        started: when, as run.json has it.
        epochs: a dict of numbers for every row of metrics.csv; what was not measured is missing.
        chance_levels: of the logged quantities, value before anything is learned.
        before_training: of the measures of features, value before the first step.
        knn_test_images: number of images of the kNN monitor's accuracy; None if not recorded.
        evaluation: of evaluation.json, or None.
        has_weights: whether there is a backbone to look at.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "run.json").write_text('{"flags": {"epochs": 3}}')
    >>> _ = (folder / "metrics.csv").write_text("epoch,loss\\n1,2.5\\n")
    >>> read_run(folder).unfinished[:48]
    'This run is unfinished: 1 of 3 epochs are done. '
    """

    folder: Path
    flags: dict[str, Any]
    identity: dict[str, Any]
    record: dict[str, Any]
    versions: dict[str, Any]
    started: str
    epochs: list[dict[str, float]]
    chance_levels: dict[str, float]
    before_training: dict[str, float]
    knn_test_images: int | None
    evaluation: dict[str, Any] | None
    has_weights: bool

    @property
    def epochs_done(self) -> int:
        """The number of the last epoch in metrics.csv, 0 where there is none."""
        return int(self.epochs[-1]["epoch"]) if self.epochs else 0

    @property
    def verdict(self) -> Verdict | None:
        """Whether the method learns, from what was measured so far; None where nothing was."""
        return health.verdict(self.epochs, self.before_training, self.chance_levels)

    @property
    def unfinished(self) -> str:
        """Why the run is not complete, as a sentence, or an empty text."""
        asked = self.flags.get("epochs")
        if isinstance(asked, int) and self.epochs_done < asked:
            return (
                f"This run is unfinished: {self.epochs_done} of {asked} epochs are done. The "
                "report shows what there is; the command of the run, given again, continues it."
            )
        if not self.has_weights:
            return f"This run is unfinished: there is no {RUN_FILE} yet."
        return ""


def read_run(folder: str | os.PathLike) -> RunRecord:
    """Reads a run folder, complete or not.

    Args:
        folder: as rfd-tf pretrain writes it; needed is run.json.

    Raises:
        UserError: no such folder, no run in it, or a file that cannot be read.

    >>> read_run("no/such/run")
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: no such run folder: 'no/such/run'; give run a folder that ...
    """
    folder = expanded(folder)
    if not folder.is_dir():
        raise UserError(
            f"no such run folder: '{folder}'; give --run a folder that rfd-tf pretrain wrote"
        )
    path = folder / "run.json"
    if not path.is_file():
        raise UserError(
            f"'{folder}' holds no run.json, so no run; give --run a folder that "
            "rfd-tf pretrain wrote"
        )
    run = _json(path)
    entries = {name: _dict(run.get(name)) for name in ("flags", "identity", "record", "versions")}
    levels = _numbers(run.get("chance_levels"))
    before = _numbers(_dict(run.get("health")).get("before"))
    evaluation = folder / "evaluation.json"
    report = _json(evaluation) if evaluation.is_file() else None
    return RunRecord(
        folder=folder,
        **entries,
        started=str(run.get("started") or ""),
        epochs=_epochs(folder / "metrics.csv"),
        chance_levels=levels or _levels_of_events(folder / "tensorboard"),
        before_training=before,
        knn_test_images=_count(run.get("knn_test_images")),
        evaluation=report,
        has_weights=(folder / RUN_FILE).is_file(),
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _numbers(value: Any) -> dict[str, float]:
    return {
        name: float(number)
        for name, number in _dict(value).items()
        if isinstance(number, int | float) and math.isfinite(number)
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("it holds no entries")
        return value
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read: {error}") from None


def _epochs(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [
                {name: float(value) for name, value in row.items() if name and value}
                for row in csv.DictReader(file)
            ]
        if any("epoch" not in row for row in rows):
            raise ValueError("a row without epoch")
        return rows
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"'{path}' cannot be read: {error}") from None


def _levels_of_events(folder: Path) -> dict[str, float]:
    """Chance levels from TensorBoard's files, for runs whose run.json does not have them."""
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 1, "images": 1})
    events.Reload()
    return {
        tag.removeprefix("chance/"): float(tf.make_ndarray(events.Tensors(tag)[0].tensor_proto))
        for tag in events.Tags()["tensors"]
        if tag.startswith("chance/")
    }
