"""Writes a suite's comparison as Markdown, CSV, JSON and figure."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rfd_tf import extras
from rfd_tf.evaluation.files import save_figure, write_json, write_text
from rfd_tf.evaluation.table import is_share, shown

_COLUMNS = ("task", "feature", "images", "metric", "when")
_STEM = "comparison"


def write(comparison: Mapping[str, Any], folder: Path) -> None:
    """Writes comparison.md, .csv, .png and .json.

    Args:
        comparison: as `rfd_tf.evaluation.suite.run_suite` returns it.
        folder: an existing folder.

    Raises:
        UserError: a file cannot be written.
    """
    write_json(folder / f"{_STEM}.json", comparison)
    with write_text(folder / f"{_STEM}.md") as file:
        file.write(markdown(comparison))
    with write_text(folder / f"{_STEM}.csv") as file:
        writer = csv.DictWriter(
            file, [*_COLUMNS, "run", "network", "value", "spread", "published", "source", "differs"]
        )
        writer.writeheader()
        writer.writerows(long_rows(comparison))
    if comparison["rows"]:
        save_figure(lambda: figure(comparison), folder / f"{_STEM}.png")


def table(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Returns head and rows of the table as text; random init in brackets.

    An asterisk marks a published score of a protocol that is not quite the same.

    Columns: task and feature; images, metric and when unless equal in all rows; one per run; one
    per published method.

    >>> row = {"entry": "knn", "feature": "f", "images": "upright", "metric": "accuracy",
    ...        "when": "", "published": [],
    ...        "runs": {"a": {"value": 0.5, "spread": None, "random_init": 0.25}}}
    >>> table({"rows": [row], "runs": [{"title": "a"}]})
    [['task', 'feature', 'a'], ['knn', 'f', '50.0 (25.0)']]
    """
    rows, labels = comparison["rows"], _labels(comparison)
    titles = [run["title"] for run in comparison["runs"]]
    methods = list(dict.fromkeys(_method(other) for row in rows for other in row["published"]))
    lines = [[*labels, *titles, *(f"{method}, published" for method in methods)]]
    for row in rows:
        cells = [row["entry" if name == "task" else name] for name in labels]
        cells += [_cell(row["runs"].get(title), row["metric"]) for title in titles]
        beside = {_method(other): other for other in row["published"]}
        for method in methods:
            mark = " *" if beside.get(method, {}).get("differs") else ""
            cells.append(_cell(beside.get(method), row["metric"]) + mark)
        lines.append(cells)
    return lines


def _labels(comparison: Mapping[str, Any]) -> list[str]:
    """Returns task, feature, and the other labels that are not equal in all rows."""
    rows = comparison["rows"]
    return [
        name for name in _COLUMNS if name in _COLUMNS[:2] or len({row[name] for row in rows}) > 1
    ]


def _method(other: Mapping[str, Any]) -> str:
    return f"{other['method']} ({other['network']})"


def _cell(found: Mapping[str, Any] | None, metric: str) -> str:
    if found is None:
        return ""
    text = shown(found["value"], found.get("spread"), metric)
    if found.get("random_init") is None:
        return text
    return f"{text} ({shown(found['random_init'], found.get('random_init_spread'), metric)})"


def markdown(comparison: Mapping[str, Any]) -> str:
    """Returns the comparison as Markdown: data and runs, the table, sources and notes."""
    lines = [f"# {comparison['title']}", "", *_about(comparison), ""]
    head, *rows = table(comparison)
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines.append("| " + " | ".join(escaped[0]) + " |")
    labels = len(_labels(comparison))
    lines.append("|" + "---|" * labels + "---:|" * (len(head) - labels))
    lines += ["| " + " | ".join(row) + " |" for row in escaped[1:]]
    lines += ["", "Shares in percent; in brackets the same network with random weights."]
    if any(row["when"] == "best epoch" for row in comparison["rows"]):
        lines.append("Best epoch: chosen on the test images, so optimistic.")
    others = [other for row in comparison["rows"] for other in row["published"]]
    if others:
        lines += ["", "Published, not measured here (same protocol, network and images"]
        lines[-1] += "; *: differs as named):" if any(o["differs"] for o in others) else "):"
        lines += ["", *dict.fromkeys(_source(other) for other in others)]
    if comparison["notes"]:
        lines += ["", "Left out:", "", *(f"- {note}" for note in comparison["notes"])]
    lines += ["", f"{comparison['date']}. The protocols' settings are in {_STEM}.json.", ""]
    return "\n".join(lines)


def _source(other: Mapping[str, Any]) -> str:
    differs = f" * Differs: {other['differs']}." if other["differs"] else ""
    return f"- {_method(other)}: {other['source']}.{differs}"


def _about(comparison: Mapping[str, Any]) -> list[str]:
    lines = []
    data = comparison["data"]
    if "train" in data:
        lines.append(
            f"{data['num_test']:,} test images ({data['test']}), "
            f"{data['num_train']:,} train images ({data['train']}), {data['num_classes']} classes."
        )
    for entry in comparison["entries"]:
        # Tasks with their own pictures.
        own = entry["protocol"] or {}
        if {"num_train", "num_test"} <= set(own):
            train, test = (own.get(side) or own.get(f"{side}_split") for side in ("train", "test"))
            lines.append(
                f"- {entry['label']}: {own['num_test']:,} test pictures ({test}), "
                f"{own['num_train']:,} train pictures ({train})"
            )
    for run in comparison["runs"]:
        options = "".join(f", {key}={value}" for key, value in run["arguments"].items())
        method = f"{run['method']}, " if run["method"] else ""
        epoch = "" if run["epoch"] is None else f", epoch {run['epoch']:g}"
        size = run["image_size"]
        lines.append(f"- {run['title']}: {method}{run['backbone']}{options}, {size} px{epoch}")
    return lines


def long_rows(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns one row per score, for CSV: of runs, their random networks, and papers."""
    found = []
    for row in comparison["rows"]:
        labels = {name: row["entry" if name == "task" else name] for name in _COLUMNS}
        for title, values in row["runs"].items():
            for network, value, spread in (
                ("pretrained", "value", "spread"),
                ("random init", "random_init", "random_init_spread"),
            ):
                if values.get(value) is not None:
                    score = {"value": values[value], "spread": values.get(spread)}
                    found.append(
                        {**labels, "run": title, "network": network, **score, "published": "no"}
                    )
        for other in row["published"]:
            for network, value in (("pretrained", "value"), ("random init", "random_init")):
                if other[value] is not None:
                    found.append(
                        {
                            **labels,
                            "run": _method(other),
                            "network": network,
                            "value": other[value],
                            "published": "yes",
                            "source": other["source"],
                            "differs": other["differs"],
                        }
                    )
    return found


def figure(comparison: Mapping[str, Any]):
    """Draws the table: a panel per task, a line per feature, a colour per run; stars are published.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    Figure = extras.load("matplotlib.figure", "the figure of a comparison").Figure
    Line2D = extras.load("matplotlib.lines", "the figure of a comparison").Line2D

    entries = list(dict.fromkeys(row["entry"] for row in comparison["rows"]))
    parts = [[row for row in comparison["rows"] if row["entry"] == entry] for entry in entries]
    sizes = [len(part) for part in parts]
    height = 0.19 * sum(sizes) + 0.75 * len(parts) + 1.2
    drawn = Figure(figsize=(8, height), dpi=150, layout="constrained")
    panels = drawn.subplots(len(parts), 1, squeeze=False, height_ratios=[n + 2 for n in sizes])
    titles = [run["title"] for run in comparison["runs"]]
    colours = {title: f"C{number % 10}" for number, title in enumerate(titles)}
    for panel, rows, entry in zip(panels[:, 0], parts, entries, strict=True):
        _panel(panel, rows, colours)
        panel.set_title(entry, loc="left", fontsize="medium")
    handles = [
        Line2D([], [], color=colours[title], marker="o", linestyle="", label=title)
        for title in titles
    ]
    hollow = {"color": "grey", "linestyle": ""}
    handles.append(Line2D([], [], marker="o", fillstyle="none", label="random init", **hollow))
    if any(row["published"] for row in comparison["rows"]):
        handles.append(
            Line2D([], [], color="black", marker="*", linestyle="", label="published, not ours")
        )
    drawn.legend(handles=handles, loc="outside upper center", ncols=4, fontsize="small")
    data = comparison["data"]
    about = f", {data['num_test']:,} test images" if "num_test" in data else ""
    drawn.supxlabel(f"{comparison['title']}{about}", fontsize="small")
    return drawn


def _panel(panel, rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> None:
    share = is_share(rows[0]["metric"])
    factor = 100 if share else 1
    varying = [name for name in _COLUMNS[2:] if len({row[name] for row in rows}) > 1]
    names = [", ".join(filter(None, [row["feature"], *(row[n] for n in varying)])) for row in rows]
    # Runs are offset a little, so that equal scores do not hide one another.
    step = 0.5 / max(len(colours), 2)
    offsets = {title: step * (n - (len(colours) - 1) / 2) for n, title in enumerate(colours)}
    for place, row in enumerate(rows):
        panel.axhline(place, color="0.9", linewidth=0.8, zorder=0)
        for title, values in row["runs"].items():
            colour = {"color": colours[title], "linestyle": "", "markersize": 5}
            if values.get("random_init") is not None:
                at = factor * values["random_init"]
                panel.plot(at, place + offsets[title], marker="o", fillstyle="none", **colour)
            panel.plot(factor * values["value"], place + offsets[title], marker="o", **colour)
        for other in row["published"]:
            panel.plot(factor * other["value"], place, "*", color="black", markersize=9)
            if other["random_init"] is not None:
                at = factor * other["random_init"]
                panel.plot(at, place, "*", color="black", fillstyle="none", markersize=9)
    panel.set_yticks(range(len(rows)), names, fontsize="x-small")
    panel.set_ylim(len(rows) - 0.5, -0.5)
    metrics = {row["metric"] for row in rows}
    metric = metrics.pop() if len(metrics) == 1 else ""
    panel.set_xlabel(", ".join(filter(None, [metric, "percent" if share else ""])))
