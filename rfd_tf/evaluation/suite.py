"""Several runs, evaluated on the same tasks, in one table."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rfd_tf.data.run_images import RunImages
from rfd_tf.data.sources import Source
from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation import files
from rfd_tf.evaluation.base import Data, Subject, Task
from rfd_tf.evaluation.frozen import Evaluator
from rfd_tf.evaluation.invariance import RATIO
from rfd_tf.evaluation.published import Published, comparable
from rfd_tf.evaluation.rotation import ALL
from rfd_tf.evaluation.runner import evaluate
from rfd_tf.paths import expanded
from rfd_tf.rules import moot
from rfd_tf.training.folder_lock import FolderLock


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a suite: a task and its options.

    Attributes:
        label: its name in tables, unique in the suite.
        task: name in `TASKS`.
        options: of the task; the others have the task's defaults.
        without: options of the task that have no effect on this entry; if the user gives them,
            they apply to other entries.
        features, images, metrics: which of its results the table shows; None for all.
    """

    label: str
    task: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    without: tuple[str, ...] = ()
    features: tuple[str, ...] | None = None
    images: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None

    def shows(self, row: Mapping[str, Any]) -> bool:
        """Returns whether the table shows a result of a report."""
        chosen = (self.features, row["name"]), (self.images, row["images"])
        return all(
            names is None or value in names
            for names, value in (*chosen, (self.metrics, row["metric"]))
        )


@dataclasses.dataclass(frozen=True)
class Suite:
    """Tasks that belong together.

    Attributes:
        title: of the table.
        entries: what is run, in the order of the table.
        dataset: name of the images that are taken where neither the user nor the runs name any.
        needs_images: False where its tasks bring their own.
    """

    title: str
    entries: tuple[Entry, ...]
    dataset: str | None = None
    needs_images: bool = True


_ROTATION = Entry(
    "rotation", "rotation", {}, (), ("f1", "f2", "f", "pooled"), (ALL,), ("accuracy",)
)

#: Name -> suite. A new one is an entry here.
SUITES: dict[str, Suite] = {
    "cifar10": Suite(
        "CIFAR-10",
        (
            Entry("knn", "knn"),
            Entry("linear", "linear", {"protocol": "cached"}),
            Entry("rotated", "rotated"),
            _ROTATION,
            Entry("two hidden layers", "nonlinear", {"protocol": "rotnet_cifar10_hidden"}),
            Entry("convolutional", "nonlinear", {"protocol": "rotnet_cifar10_conv"}, ("hidden",)),
        ),
        "cifar10",
    ),
    "imagenet": Suite(
        "ImageNet",
        (
            Entry("knn", "knn"),
            Entry("linear, RFD", "linear", {"protocol": "rfd_imagenet"}, ("probe_size",)),
            Entry("linear, RotNet", "linear", {"protocol": "rotnet_imagenet"}, ("probe_size",)),
            Entry("linear, Goyal", "linear", {"protocol": "goyal_imagenet"}, ("probe_size",)),
            Entry("nonlinear", "nonlinear", {"protocol": "rfd_imagenet"}),
        ),
        "imagenet2012",
    ),
    "few_labels": Suite(
        "CIFAR-10 with few labels", (Entry("semi-supervised", "semi_supervised"),), "cifar10"
    ),
    "retrained": Suite(
        "ImageNet, later layers retrained", (Entry("retrained", "retrain"),), "imagenet2012"
    ),
    "features": Suite(
        "Frozen features",
        (
            Entry("knn", "knn"),
            Entry("linear", "linear", {"protocol": "cached"}),
            Entry("retrieval", "retrieval", {"k": (1, 10)}),
            Entry("invariance", "invariance", metrics=(RATIO,)),
            _ROTATION,
        ),
    ),
    "voc": Suite(
        "PASCAL VOC",
        (
            Entry("classification", "voc_classification"),
            Entry("rotated", "rotated_voc"),
            Entry("detection", "detection"),
            Entry("segmentation", "segmentation"),
        ),
        needs_images=False,
    ),
}


def find(name: str) -> Suite:
    """Returns a suite by name.

    >>> find("cifar10").title
    'CIFAR-10'
    """
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return SUITES[name]


def recorded_images(name: str, runs: Sequence[str | os.PathLike]) -> RunImages:
    """Returns the images of a suite: the runs' own, or the suite's dataset.

    Args:
        name: of the suite.
        runs: as for `run_suite`.

    Returns:
        Those of the runs where all record the same; of the suite where they do not, or are no run
        folders; none where the suite names none either.

    >>> recorded_images("cifar10", ["some.weights.h5"]).dataset
    'cifar10'
    """
    suite = find(name)
    found = [RunImages.of_run(run) for run in runs]
    if found and found[0].named and all(images == found[0] for images in found):
        return found[0]
    return RunImages(dataset=suite.dataset)


def run_suite(
    name: str,
    runs: Sequence[str | os.PathLike],
    train: Source | None = None,
    test: Source | None = None,
    *,
    output: str | os.PathLike,
    only: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    endpoints: Sequence[str] | None = None,
    batch_size: int = 256,
    max_train_images: int | None = None,
    seed: int = 0,
    progress: bool = False,
    cache_features: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Evaluates several runs on the tasks of a suite, and writes one table.

    Results in a run's evaluation.json are reused if weights, images, protocol, endpoints and seed
    are the same. The others are measured and kept in the output folder, where the same call finds
    them again.

    Args:
        name: in `SUITES`.
        runs: run folders, `.weights.h5` files or shipped names.
        train, test: see `evaluate`.
        output: folder for comparison.md, .csv, .png and .json, and for the runs' reports, figures
            and caches.
        only: labels or tasks of the suite to run; None for all.
        options: task -> options; those that the suite sets itself are the suite's.
        endpoints, batch_size, max_train_images, seed, progress, cache_features: see `evaluate`.
        say: called with each line of the log.

    Returns:
        The contents of comparison.json: "suite", "title", "data", "runs", "entries" (with their
        protocols), "rows", "notes" (tasks that a run does not allow), "date".

    Raises:
        UserError: an unknown suite, task, or run; no run allows any of the tasks.
    """
    from rfd_tf.evaluation.suite_table import write

    suite = find(name)
    entries = _chosen(name, suite, only)
    tasks = {entry.label: _task(entry, options or {}) for entry in entries}
    subjects = _subjects(runs)
    output = files.folder(output)
    with FolderLock(output, doing="writes a comparison to"):

        def images(subject: Subject, task: Task) -> Data:
            if train is None:
                raise UserError("the tasks need train and test images, and none were given")
            return Data(
                train,
                test,
                subject.image_size,
                batch_size,
                max_train_images,
                seed,
                labels_optional=task.labels_optional,
            )

        reports: dict[str, dict[str, dict[str, Any]]] = {}
        notes: list[str] = []
        todo = []
        for title, (run, subject) in subjects.items():
            kept = _Kept(output / "runs" / title, subject)
            reports[title] = {}
            for entry in entries:
                task = tasks[entry.label]
                try:
                    data = None
                    if task.needs_labels:
                        data = images(subject, task)
                    # First: the protocol of some tasks depends on what this finds.
                    task.check(subject, data)
                    wanted = {
                        "sha256": subject.sha256,
                        "protocol": _json(task.protocol(data)),
                        "endpoints": None if endpoints is None else list(endpoints),
                    }
                    described = {} if data is None else _json(data.identity())
                    found = kept.get(entry, wanted, described, seed)
                    if found is not None:
                        say(f"{title}, {entry.label}: reused")
                        reports[title][entry.label] = found
                        continue
                except UserError as error:
                    notes.append(f"{title}, {entry.label}: {error}")
                    say(f"left out: {notes[-1]}")
                    continue
                todo.append((title, run, entry, kept, wanted))
        if not todo and not any(reports.values()):
            raise UserError(f"suite '{name}' can evaluate none of the runs: {notes[0]}")
        for group in _groups(todo, tasks):
            title, run, _, kept, _ = group[0]
            say(f"{title}: {', '.join(entry.label for _, _, entry, _, _ in group)}")
            report = evaluate(
                run,
                [tasks[entry.label] for _, _, entry, _, _ in group],
                train,
                test,
                endpoints=endpoints,
                batch_size=batch_size,
                max_train_images=max_train_images,
                seed=seed,
                progress=progress,
                output=kept.folder / _slug(group[0][2].label),
                cache_features=cache_features,
            )
            for _, _, entry, _, wanted in group:
                reports[title][entry.label] = kept.put(
                    entry, {**_part(report, entry.task), **wanted}
                )
        comparison = _compare(name, suite, entries, subjects, reports, notes)
        write(comparison, output)
        return comparison


def _chosen(name: str, suite: Suite, only: Sequence[str] | None) -> list[Entry]:
    if only is None:
        return list(suite.entries)
    known = [text for entry in suite.entries for text in (entry.label, entry.task)]
    for wanted in only:
        if wanted not in known:
            raise unknown(f"task of suite {name}", wanted, dict.fromkeys(known))
    return [entry for entry in suite.entries if {entry.label, entry.task} & set(only)]


def _task(entry: Entry, options: Mapping[str, Mapping[str, Any]]) -> Task:
    from rfd_tf.evaluation import TASKS

    given = {
        name: value
        for name, value in options.get(entry.task, {}).items()
        if name not in entry.without
    }
    make, given = TASKS[entry.task], {**given, **entry.options}
    if isinstance(make, type):
        # What the user gives is for the other entries of the task, too.
        unused = {name for name, _ in moot(make.rules, {**make.defaults(), **given})}
        given = {name: value for name, value in given.items() if name not in unused}
    return make(**given)


def _subjects(runs: Sequence[str | os.PathLike]) -> dict[str, tuple[str, Subject]]:
    """Title -> (run, network), in the order given; a title is a folder's or a file's name."""
    if not runs:
        raise UserError("give --runs, one run folder or more, separated by commas")
    found: dict[str, tuple[str, Subject]] = {}
    for run in runs:
        name = expanded(run).resolve().name.removesuffix(".weights.h5")
        name = title = re.sub(r"[^\w.+-]", "_", name)
        number = 1
        while title in found:
            number += 1
            title = f"{name}_{number}"
        found[title] = str(run), Subject.pretrained(run)
    return found


def _groups(todo: list[tuple], tasks: Mapping[str, Task]) -> Iterator[list[tuple]]:
    """What is run by one call: a run's tasks on frozen features, and every other by itself."""
    for title in dict.fromkeys(item[0] for item in todo):
        own = [item for item in todo if item[0] == title]
        shared: dict[str, tuple] = {}
        rest = []
        for item in own:
            entry = item[2]
            if isinstance(tasks[entry.label], Evaluator) and entry.task not in shared:
                shared[entry.task] = item
            else:
                rest.append([item])
        yield from [list(shared.values())] * bool(shared)
        yield from rest


class _Kept:
    """The reports that there are of a run: its evaluation.json, and those of earlier calls."""

    def __init__(self, folder: Path, subject: Subject):
        self.folder = folder
        own = subject.folder / "evaluation.json" if subject.folder else None
        self._evaluation = _read(own) if own else None

    def get(
        self, entry: Entry, wanted: dict[str, Any], data: dict[str, Any], seed: int
    ) -> dict[str, Any] | None:
        """Returns an entry's report where it is the wanted one."""
        candidates = [_read(self.folder / f"{_slug(entry.label)}.json")]
        if self._evaluation is not None:
            candidates.append(_part(self._evaluation, entry.task))
        for found in candidates:
            try:
                if (
                    all(found.get(key) == value for key, value in wanted.items())
                    and all(found["data"].get(key) == value for key, value in data.items())
                    and found["data"].get("random_init", f"seed {seed}").endswith(f"seed {seed}")
                ):
                    return found
            except (AttributeError, KeyError, TypeError):  # another version's file, or none
                continue
        return None

    def put(self, entry: Entry, report: dict[str, Any]) -> dict[str, Any]:
        """Keeps an entry's report."""
        report = _json(report)
        files.write_json(files.folder(self.folder) / f"{_slug(entry.label)}.json", report)
        return report


def _part(report: dict[str, Any], task: str) -> dict[str, Any] | None:
    """Returns a report with the protocol and the results of one task alone."""
    try:
        part = {key: value for key, value in report.items() if key not in ("protocol", "results")}
        part["protocol"] = report["protocol"][task]
        part["results"] = [row for row in report["results"] if row["task"] == task]
    except (AttributeError, KeyError, TypeError):
        return None
    return part


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_")


def _compare(
    name: str,
    suite: Suite,
    entries: Sequence[Entry],
    subjects: Mapping[str, tuple[str, Subject]],
    reports: Mapping[str, Mapping[str, Any]],
    notes: Sequence[str],
) -> dict[str, Any]:
    rows: dict[tuple, dict[str, Any]] = {}
    protocols: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for entry in entries:
        for title in subjects:
            report = reports[title].get(entry.label)
            if report is None:
                continue
            protocols[entry.label] = report["protocol"]
            data = data or report["data"]
            same = list(
                comparable(entry.task, report["protocol"], report["data"], report["backbone"])
            )
            for found in filter(entry.shows, report["results"]):
                key = tuple(found[part] for part in ("name", "images", "metric", "when"))
                row = rows.setdefault((entry.label, *key), _row(entry, found))
                row["runs"][title] = {
                    part: found.get(part)
                    for part in ("value", "spread", "random_init", "random_init_spread")
                }
                for other in same:
                    if key[1:3] != (other.images, other.metric):
                        continue
                    if other.when not in (None, key[3]):
                        continue
                    if key[0] in other.values:
                        shown = _published(other, key[0])
                        if shown not in row["published"]:
                            row["published"].append(shown)
    return {
        "suite": name,
        "title": suite.title,
        "data": data,
        "runs": [
            {
                "title": title,
                "weights": run,
                "sha256": subject.sha256,
                "backbone": subject.record["backbone"],
                "arguments": subject.record["arguments"],
                "image_size": subject.image_size,
                "method": subject.record.get("method"),
                "epoch": subject.record.get("epoch"),
            }
            for title, (run, subject) in subjects.items()
        ],
        "entries": [
            {"label": entry.label, "task": entry.task, "protocol": protocols.get(entry.label)}
            for entry in entries
        ],
        "rows": list(rows.values()),
        "notes": list(notes),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _row(entry: Entry, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "entry": entry.label,
        "feature": found["name"],
        "images": found["images"],
        "metric": found["metric"],
        "when": found["when"],
        "runs": {},
        "published": [],
    }


def _published(entry: Published, feature: str) -> dict[str, Any]:
    return {
        "method": entry.method,
        "network": entry.network,
        "value": entry.values[feature],
        "random_init": entry.random_init.get(feature),
        "source": entry.source,
        "differs": entry.differs,
    }
