"""Evaluates one weights file, and a random network, on one or several tasks."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import itertools
import json
import numbers
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import rfd_tf
from rfd_tf import applications
from rfd_tf.data.run_images import RunImages, shared, warn_if_trained_on
from rfd_tf.data.sources import Source
from rfd_tf.errors import UserError
from rfd_tf.evaluation import frozen
from rfd_tf.evaluation.base import Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.files import write_json
from rfd_tf.evaluation.frozen import Evaluator
from rfd_tf.evaluation.image_set import NAMES
from rfd_tf.evaluation.partial import PartialResults
from rfd_tf.evaluation.table import shown, table
from rfd_tf.paths import absolute, expanded
from rfd_tf.training.folder_lock import FolderLock

__all__ = ["evaluate", "output_locked", "save_report", "table", "with_earlier"]

_PACKAGES = ("tensorflow", "keras", "numpy")
_SLOW = 10.0  # seconds


def evaluate(
    weights: str | os.PathLike,
    tasks: Sequence[Task],
    train: Source | None = None,
    test: Source | None = None,
    *,
    endpoints: Sequence[str] | None = None,
    batch_size: int = 256,
    max_train_images: int | None = None,
    seed: int = 0,
    progress: bool = False,
    output: str | os.PathLike | None = None,
    cache_features: bool = False,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Runs tasks on the network of a weights file and on a random one.

    The random network has the same architecture and is evaluated under the same protocol. For a
    run that started from weights, so is the network with those weights.

    Args:
        weights: run folder, `.weights.h5` file with a record, or shipped name.
        tasks: for example `[KNearestNeighbours()]`.
        train: labelled images to train on; required unless every task has its own data.
        test: labelled images to evaluate on; None holds out a fixed fifth of every class of `train`
            (see `rfd_tf.evaluation.splits.held_out`).
        endpoints: endpoints to evaluate; by default all of the backbone.
        batch_size: images per step.
        max_train_images: largest number of labelled train images, chosen by a hash of their index.
        seed: seed of the random network and the rotations; sets Keras' global seed.
        progress: whether to show progress bars.
        output: folder for figures, caches and finished parts. If an interrupted call is repeated
            with the same folder and the same arguments, finished parts are reused.
        cache_features: keep frozen features on disk, in `output`, instead of in memory.
        say: called with a line on the images and classes of each set, after all checks, and with
            the scores that take ten seconds or more as soon as they are known.

    Returns:
        A dict that is ready for JSON: "protocol" {task: settings}, "weights", "sha256",
        "backbone", "endpoints", "data", "results" (a list of {"task", "name": the feature,
        "images", "metric", "when", "value", "spread", "random_init", "random_init_spread"}, see
        `Result`; with "starting_weights" and "starting_weights_spread" for a run that started from
        weights), "versions", "date", "minutes".

    Raises:
        UserError: weights, endpoints or images that cannot be evaluated, before long work starts.

    >>> import tempfile
    >>> from rfd_tf import applications, data
    >>> from rfd_tf.evaluation import KNearestNeighbours
    >>> network = applications.build("six_layer", 32)
    >>> record = {"format": 1, "backbone": "six_layer", "arguments": {}, "image_size": 32}
    >>> path = os.path.join(tempfile.mkdtemp(), "backbone.weights.h5")
    >>> path = applications.save_backbone(network, path, record)
    >>> report = evaluate(path, [KNearestNeighbours()], data.digits(), data.digits("test"),
    ...                   endpoints=["block6"], max_train_images=200)
    >>> report["results"][0]["name"], sorted(report["protocol"]["knn"])
    ('block6', ['features', 'k', 'similarity', 'temperature', 'vote'])
    """
    start = time.monotonic()
    output = None if output is None else absolute(output)
    if cache_features and output is None:
        raise UserError("cache_features=True needs an output folder; give output")
    endpoints = [endpoints] if isinstance(endpoints, str) else endpoints
    settings = Settings(seed, batch_size, progress, endpoints, output, cache_features)
    most = max_train_images
    if most is not None and (not isinstance(most, numbers.Integral) or most < 1):
        raise UserError(f"max_train_images={most!r} must be a whole number from 1, or None for all")
    subject = Subject.pretrained(weights)
    before = subject.starting_twin(seed)
    data = _data(tasks, train, test, subject, settings, max_train_images)
    if len({task.name for task in tasks}) < len(tasks):
        raise UserError("a task is given twice; call evaluate once for each of its protocols")
    if endpoints is not None:
        applications.feature_extractor(subject.network(), endpoints)  # checks the names
    frozen_tasks = [task for task in tasks if isinstance(task, Evaluator)]
    if frozen_tasks:
        frozen.check(frozen_tasks, subject, data, settings)
    for task in tasks:
        if not isinstance(task, Evaluator):
            task.check(subject, data if task.needs_labels else None)

    for source in (train, test) if data is not None and say is not None else ():
        if source is not None:
            say(source.summary())
    protocols = {task.name: task.protocol(data if task.needs_labels else None) for task in tasks}
    described = {} if data is None else {**data.describe(), **_seen_before(data, subject)}
    if any(task.compares_random for task in tasks):
        described["random_init"] = f"same architecture and code path, untrained, seed {seed}"
        if before is not None:
            described["starting_weights"] = dict(subject.record["started_from"])
    partial = PartialResults(output)
    identity = {
        "sha256": subject.sha256,
        "data": {key: value for key, value in described.items() if key not in NAMES},
        "endpoints": None if endpoints is None else list(endpoints),
        "batch_size": batch_size,
        "seed": seed,
        "versions": _versions(),
    }
    found: dict[str, list[dict[str, Result]]] = {}
    networks = [subject, subject.random_twin(seed), *([] if before is None else [before])]
    for evaluated in networks:
        due = [task for task in tasks if evaluated.is_pretrained or task.compares_random]
        keys = {task: (identity, task.name, protocols[task.name], evaluated.title) for task in due}
        missing = [task for task in due if partial.get(keys[task]) is None]
        for task, results in _run(missing, evaluated, data, settings, say):
            partial.put(keys[task], results)
        for task in due:
            found.setdefault(task.name, []).append(
                {result[:1] + result[2:5]: result for result in partial.get(keys[task])}
            )
    report = {
        "protocol": protocols,
        "weights": str(weights),
        "sha256": subject.sha256,
        "backbone": {k: subject.record.get(k) for k in ("backbone", "arguments", "image_size")},
        "epoch": subject.record.get("epoch"),
        "endpoints": identity["endpoints"],
        "data": described,
        "results": [row for task in tasks for row in _rows(task.name, *found[task.name])],
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "minutes": round((time.monotonic() - start) / 60, 2),
    }
    partial.remove()
    return report


def output_locked(path: str | os.PathLike) -> FolderLock:
    """Returns the lock of a report and of the figures and caches next to it.

    Args:
        path: of the JSON file.

    >>> import tempfile
    >>> with output_locked(tempfile.mkdtemp() + "/evaluation.json") as lock:
    ...     lock.path.name
    '.evaluation.json.lock'
    """
    path = expanded(path)
    return FolderLock(path.parent, f".{path.name}.lock", "writes", path)


def save_report(report: dict[str, Any], path: Path, say: Callable[[str], object]) -> dict[str, Any]:
    """Writes a report; scores that the file already has are never lost.

    Other tasks on the same images stay in the file (`with_earlier`). Scores of the same weights on
    other images, layers or seeds, or of other versions, are kept in `NAME_1.json` and so on.

    Args:
        report: of `evaluate`.
        path: of the JSON file; hold `output_locked` of it.
        say: called with a line where earlier scores are kept.

    Returns:
        What the file contains now.
    """
    earlier = None
    with contextlib.suppress(OSError, ValueError):
        earlier = json.loads(path.read_bytes())
    merged = with_earlier(report, earlier)
    if merged is report and isinstance(earlier, dict) and earlier.get("results"):
        if earlier.get("sha256") == report["sha256"]:
            names = (path.with_name(f"{path.stem}_{n}.json") for n in itertools.count(1))
            kept = next(name for name in names if not name.exists())
            path.rename(kept)
            say(f"earlier scores (other images, layers, seed or versions) are kept in '{kept}'")
    write_json(path, merged)
    return merged


def with_earlier(report: dict[str, Any], earlier: Any) -> dict[str, Any]:
    """Adds the other tasks of an earlier report, if both evaluate the same network and images.

    Args:
        report: of `evaluate`.
        earlier: the previous content of its file; anything but a report is ignored.

    Returns:
        The report with protocols and results of the tasks that only the earlier one has; unchanged
        if weights, images, endpoints, seed or versions differ.
    """
    try:
        if any(earlier[key] != report[key] for key in ("sha256", "endpoints", "versions")):
            return report
        known = earlier["data"]
        # If fingerprints identify the images, their names may have changed.
        notes = [name for name in NAMES if f"{name}_fingerprint" in known]
        facts = {key: value for key, value in report["data"].items() if key not in notes}
        if any(known.get(key, value) != value for key, value in facts.items()):
            return report
        kept = [task for task in earlier["protocol"] if task not in report["protocol"]]
        results = [row for row in earlier["results"] if row["task"] in kept]
        protocols = {task: earlier["protocol"][task] for task in kept}
    except (KeyError, TypeError, AttributeError):
        return report
    return {
        **report,
        "data": {**known, **report["data"]},
        "protocol": {**protocols, **report["protocol"]},
        "results": [*results, *report["results"]],
    }


def _data(
    tasks: Sequence[Task],
    train: Source | None,
    test: Source | None,
    subject: Subject,
    settings: Settings,
    max_train_images: int | None,
) -> Data | None:
    wanting = [task.name for task in tasks if task.needs_labels]
    if not wanting:
        return None
    if train is None:
        raise UserError(f"task '{wanting[0]}' needs images to train on; give train")
    return Data(
        train,
        test,
        subject.image_size,
        settings.batch_size,
        max_train_images,
        settings.seed,
        labels_optional=all(task.labels_optional for task in tasks if task.needs_labels),
    )


def _seen_before(data: Data, subject: Subject) -> dict[str, int]:
    """Returns how many test images the network and the probes were trained on; warns."""
    test, rows = data.test.source, data.test.rows
    found = {}
    if subject.folder is not None:
        images = RunImages.of_run(subject.folder)
        found["trained_on"] = warn_if_trained_on(images, test, rows)
    ids = data.train.source.image_ids()
    if ids is not None:
        found["test_in_train"] = shared(ids[data.train.rows], test, rows)
    if found.get("test_in_train"):
        warnings.warn(
            f"probes and kNN also train on {found['test_in_train']} of the {len(rows)} test "
            "images, with labels: the scores are too high; give other splits or folders",
            stacklevel=1,
        )
    return {name: count for name, count in found.items() if count}


def _run(
    tasks: Sequence[Task],
    subject: Subject,
    data: Data | None,
    settings: Settings,
    say: Callable[[str], None] | None,
) -> Iterator[tuple[Task, list[Result]]]:
    """Yields each task and its results as soon as it is done; evaluators share one pass.

    The others train networks: results that took long are logged as soon as they are known.
    """
    evaluators = [task for task in tasks if isinstance(task, Evaluator)]
    results: dict[Task, list[Result]] = {task: [] for task in tasks}
    for task in tasks:
        if task not in evaluators:
            start = time.monotonic()
            for result in task.run(subject, data if task.needs_labels else None, settings):
                results[task].append(result)
                if say is not None and time.monotonic() - start >= _SLOW:
                    say(_line(task, subject, result))
                start = time.monotonic()
            yield task, results[task]
        elif task is evaluators[0]:
            for done, result in frozen.evaluate(evaluators, subject, data, settings):
                results[done].append(result)
            yield from ((done, results[done]) for done in evaluators)


def _line(task: Task, subject: Subject, result: Result) -> str:
    what = [result.feature, result.images, result.when]
    score = f"{result.metric} {shown(result.value, result.spread, result.metric)}"
    return f"{task.name}, {subject.title}: {', '.join(part for part in what if part)}: {score}"


def _rows(
    task: str,
    trained: dict[tuple, Result],
    random: dict[tuple, Result] | None = None,
    start: dict[tuple, Result] | None = None,
) -> list[dict[str, Any]]:
    rows = []
    for key, result in trained.items():
        row = {
            "task": task,
            "name": result.feature,
            "images": result.images,
            "metric": result.metric,
            "when": result.when,
            "value": float(result.value),
            "spread": _float(result.spread),
        }
        baselines = {"random_init": random or {}}
        if start is not None:
            baselines["starting_weights"] = start
        for name, results in baselines.items():
            beside = results.get(key)
            row[name] = None if beside is None else float(beside.value)
            row[f"{name}_spread"] = None if beside is None else _float(beside.spread)
        rows.append(row)
    return rows


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "rfd_tf": rfd_tf.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
