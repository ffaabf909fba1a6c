"""Sections on what was trained and how it went. They need no images."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from rfd_tf.applications.weights import RUN_FILE, sha256
from rfd_tf.errors import UserError
from rfd_tf.evaluation.monitor import comparison
from rfd_tf.evaluation.table import tables
from rfd_tf.interpret.report import charts
from rfd_tf.interpret.report.blocks import (
    Chart,
    Charts,
    Code,
    Facts,
    LeftOut,
    Section,
    Table,
    Text,
)
from rfd_tf.interpret.report.run_record import RunRecord

_UNITS = {
    "rotation_loss": "cross-entropy, nats",
    "jigsaw_loss": "loss, nats",
    "instance_loss": "loss, nats",
    "contrast_loss": "cross-entropy, nats",
    "distance_loss": "squared difference",
    "distillation_loss": "cosine distance",
    "transformation_loss": "squared error",
    "learning_rate": "learning rate",
    "images_per_second": "images / second",
}
_BASELINES = {
    "knn_accuracy_random_init": "random init",
    "knn_accuracy_starting_weights": "starting weights",
}
_SHARES = re.compile(r"(^|_)accuracy(_|$)")
_TOGETHER = {
    "rotation_accuracy": ("Rotation accuracy", {"f1": "rotation_accuracy"}),
    "rotation_accuracy_f2": ("Rotation accuracy", {"f2": "rotation_accuracy_f2"}),
    "knn_accuracy": ("Nearest-neighbour accuracy", {"trained": "knn_accuracy"}),
    "knn_accuracy_random_init": ("Nearest-neighbour accuracy", {}),
    "knn_accuracy_starting_weights": ("Nearest-neighbour accuracy", {}),
}


def summary(run: RunRecord) -> Section:
    """What was trained on what, and the scores that show whether it worked."""
    flags, identity = run.flags, run.identity
    blocks: list[Any] = [Text(run.unfinished, warning=True)] if run.unfinished else []
    last = _last_values(run)
    facts = []
    if "rotation_accuracy" in last:
        facts.append(("rotation accuracy", _percent(last["rotation_accuracy"])))
    if "rotation_accuracy_f2" in last:
        # (Chance, 25 %, is what is hoped for.)
        facts.append(("rotation accuracy on f2", _percent(last["rotation_accuracy_f2"])))
    if "knn_accuracy" in last:
        beside = ""
        for name, title in _BASELINES.items():
            if name in last:
                beside += f"{', ' if beside else ''}{title} {_percent(last[name])}"
        beside = beside and f" ({beside})"
        measured = [last["knn_accuracy"], *(last.get(name) for name in _BASELINES)]
        blocks.append(Text(comparison(*measured, run.knn_test_images)))
        facts.append(("kNN accuracy", _percent(last["knn_accuracy"]) + beside))
    if run.verdict:
        facts.append(("health", str(run.verdict)))
    shown = [
        ("method", identity.get("method") or flags.get("method")),
        ("backbone", _named(identity.get("backbone"), identity.get("backbone_options"))),
        ("started from", (run.record.get("started_from") or {}).get("weights")),
        ("images", _images(identity)),
        ("image size", f"{identity['image_size']} pixels" if "image_size" in identity else None),
        ("epochs", f"{run.epochs_done} of {flags.get('epochs', '?')}"),
        ("batch", f"{identity['batch_size']} images" if "batch_size" in identity else None),
        ("feature", _feature(run.record)),
        ("PU weights", flags.get("pu_weights")),
        ("seed", identity.get("seed")),
        ("started", run.started),
        ("with", ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items()))),
    ]
    blocks.append(Facts([*facts, *((name, str(v)) for name, v in shown if v not in (None, ""))]))
    if flags:
        rows = [(f"--{name}", _flag(value)) for name, value in sorted(flags.items())]
        blocks.append(
            Table(
                ("flag", "value"),
                rows,
                "What was built, as flags; empty ones had no effect",
                labels=2,
                folded=True,
            )
        )
    return Section("summary", "What was trained", blocks)


def curves(run: RunRecord) -> Section:
    """Every logged quantity over the epochs, with its chance level."""
    if not run.epochs:
        raise LeftOut("no epoch is complete yet (no metrics.csv).")
    names = list(dict.fromkeys(name for row in run.epochs for name in row))
    names = [name for name in names if name not in ("epoch", "step")]
    # Losses first, the total before its parts.
    names.sort(key=lambda name: (name != "loss", not name.endswith("_loss")))
    drawn: dict[str, Chart] = {}
    for name in names:
        title = _TOGETHER.get(name, (name, {}))[0]
        if title not in drawn:
            drawn[title] = _chart(run, title, [n for n in names if _title(n) == title])
    columns = ["epoch", *names]
    rows = [[f"{row[name]:.4g}" if name in row else "" for name in columns] for row in run.epochs]
    known = "Dashed: chance, the value before anything is learned."
    if not run.chance_levels:
        known = "This run has no record of its chance levels."
    return Section(
        "curves",
        "Curves",
        [
            Text(
                f"Means over each epoch, on the augmented training images. {known} kNN and "
                "the measures of features take images that are not augmented."
            ),
            Charts(list(drawn.values())),
            Table(columns, rows, "The same as numbers (metrics.csv)", folded=True),
        ],
    )


def _title(name: str) -> str:
    return _TOGETHER.get(name, (name, {}))[0]


def _chart(run: RunRecord, title: str, names: Sequence[str]) -> Chart:
    factor = 100 if _SHARES.search(names[0]) else 1
    lines, levels = {}, {}
    for name in names:
        shown = _TOGETHER.get(name, (name, {name: name}))[1]
        for label, key in shown.items():
            rows = [row for row in run.epochs if key in row]
            lines[label] = (
                [row["epoch"] for row in rows],
                [factor * row[key] for row in rows],
            )
        if name in run.chance_levels:
            levels[f"chance {factor * run.chance_levels[name]:.4g}"] = (
                factor * run.chance_levels[name]
            )
        if name in _BASELINES:
            # (The last epochs may have gone without the monitor.)
            value = factor * _last_values(run)[name]
            levels[f"{_BASELINES[name]} {value:.4g}"] = value
        if name in run.before_training:
            value = factor * run.before_training[name]
            levels[f"before training {value:.4g}"] = value
    unit = "percent" if factor == 100 else _UNITS.get(names[0], "loss")
    if factor == 1 and not names[0].endswith("loss"):
        unit = _UNITS.get(names[0], names[0])
    where = " and ".join(sorted(names))
    caption = f"{where}: {_CAPTIONS[title]}" if title in _CAPTIONS else where
    return charts.line_chart(lines, title=title, x="epoch", y=unit, levels=levels, caption=caption)


_CAPTIONS = {
    "feature_spread": "near 0, all images have the same feature.",
    "effective_rank": "in how many directions the features of the images reach.",
    "alignment": "squared distance of an image from a crop of it, features scaled to length 1.",
    "uniformity": "0, all images have the same feature; -4, their features are orthogonal.",
    "f2_leak": "share of rotations that a linear classifier reads from f2, which should not know "
    "them.",
    "neighbours_kept": "share of the nearest neighbours that stayed since the measurement before.",
    "weights_moved": "relative change of the backbone's weights since before training.",
    "Rotation accuracy": "the classifier must leave chance on f1, and stay near it on f2, the "
    "half that should not know the rotation.",
    "Nearest-neighbour accuracy": "should climb above the random-init network's.",
    "loss": "the weighted sum of the losses.",
}


def evaluation(run: RunRecord) -> Section:
    """The tables of evaluation.json."""
    if run.evaluation is None:
        raise LeftOut("there is no evaluation.json; rfd-tf evaluate --weights=RUN writes it.")
    report = run.evaluation
    blocks: list[Any] = []
    try:
        parts = tables(report)
        if run.has_weights and report.get("sha256") != sha256(run.folder / RUN_FILE):
            blocks.append(
                Text("These scores are of other weights than those in the run now.", warning=True)
            )
        data = report.get("data") or {}
        if "num_test" in data:
            blocks.append(
                Text(
                    f"{data['num_test']} test images ({data['test']}), {data['num_train']} train "
                    f"images ({data['train']}). Rotated: {data['rotated']}."
                )
            )
        if data.get("trained_on"):
            blocks.append(
                Text(
                    f"Pretraining has seen {data['trained_on']} of the test images, without labels."
                )
            )
        when = {row["when"] for row in report["results"]}
        if "best epoch" in when:
            blocks.append(Text("Best epoch: chosen on the test images, so optimistic."))
        for number, (head, rows, labels) in enumerate(parts):
            tasks = ", ".join(dict.fromkeys(row[0] for row in rows))
            caption = f"{tasks}: accuracies and precisions in percent, distances and ratios plain"
            blocks.append(Table(head, rows, caption, labels, folded=number > 0 and len(rows) > 40))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise LeftOut("evaluation.json is not as rfd-tf evaluate writes it.") from None
    return Section("evaluation", "Evaluation", blocks)


def files(run: RunRecord) -> Section:
    """The files to use, with sizes and checksums, and how to use them."""
    names = [RUN_FILE, "backbone.keras", "heads.npz"]
    paths = [run.folder / name for name in names if (run.folder / name).is_file()]
    exported = run.folder / "export"
    paths += sorted(path for path in exported.rglob("*") if path.is_file())
    if not paths:
        raise LeftOut("the run has no files to use yet.")
    try:
        rows = [
            (str(path.relative_to(run.folder)), sha256(path), f"{path.stat().st_size:,}")
            for path in paths
        ]
    except OSError as error:
        raise UserError(f"'{error.filename}' cannot be read: {error.strerror}") from None
    blocks: list[Any] = [
        Table(("file", "SHA-256", "bytes"), rows, f"Files in {run.folder}", labels=2)
    ]
    folder = shlex.quote(str(run.folder))
    if run.has_weights:
        blocks.append(Code("Weights, with rfd_tf", _LOAD.format(path=str(run.folder))))
    blocks += [Code(title, code) for title, code in _of_card(exported / "README.md")]
    commands = [f"rfd-tf evaluate --task=knn,linear --weights={folder}"]
    commands.append(
        f"rfd-tf export --weights={folder} --format=saved_model,onnx \\\n"
        f"    --output_dir={shlex.quote(str(run.folder / 'export'))} --overwrite"
    )
    if run.has_weights:
        blocks.append(Code("To evaluate, and to export", "\n".join(commands)))
    return Section("files", "Files, and how to use them", blocks)


_LOAD = """\
import numpy as np
from rfd_tf.applications import load_backbone, pooled_feature_model, preprocess_input

backbone, record = load_backbone({path!r})
endpoint = (record.get("feature") or {{}}).get("endpoint")
model = pooled_feature_model(backbone, endpoint)
size = record["image_size"]
pixels = np.zeros((1, size, size, 3), "uint8")  # RGB, 0-255
embedding = model.predict(preprocess_input(pixels, mean=record["mean"], std=record["std"]))"""


def _of_card(path) -> list[tuple[str, str]]:
    """The pieces of code in an export's README.md, with what introduces each."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    pieces = re.findall(r"([^\n]+)\n+```python\n(.*?)```", text, flags=re.DOTALL)
    return [
        (f"{title.rstrip(':')} (in the folder export)", code.rstrip()) for title, code in pieces
    ]


def _last_values(run: RunRecord) -> dict[str, float]:
    """The latest value of everything that was logged."""
    found: dict[str, float] = {}
    for row in run.epochs:
        found.update(row)
    return found


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _named(name: Any, options: Any) -> str | None:
    if not name:
        return None
    listed = ", ".join(f"{key}={value}" for key, value in (options or {}).items())
    return f"{name} ({listed})" if listed else str(name)


def _images(identity: dict[str, Any]) -> str | None:
    if "num_images" not in identity:
        return None
    return f"{identity['num_images']:,} of '{identity.get('dataset', '?')}'"


def _feature(record: dict[str, Any]) -> str | None:
    feature = record.get("feature")
    if not isinstance(feature, dict):
        return None
    split = feature.get("split")
    halves = f", split into f1 ({split[0]}) and f2 ({split[1]})" if split else ""
    return f"{feature.get('endpoint')}{halves}"


def _flag(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)
