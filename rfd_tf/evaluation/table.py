"""Formats a report as an aligned text table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfd_tf.evaluation.base import BEST_EPOCH

# Metrics that are not shares, hence not shown in percent.
_PLAIN = ("distance", "ratio", "learning rate")
#: Baselines of a score: entry of a report's row -> title of its column.
BASELINES = {"random_init": "random init", "starting_weights": "starting weights"}


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1 and is shown in percent.

    >>> is_share("accuracy"), is_share("distance")
    (True, False)
    """
    return not metric.startswith(_PLAIN)


def shown(value: float | None, spread: float | None, metric: str) -> str:
    """Returns a score as text: shares in percent, with the spread over draws if known.

    >>> shown(0.1234, 0.01, "accuracy"), shown(1.5, None, "distance"), shown(None, None, "x")
    ('12.3 ± 1.0', '1.5', '')
    """
    if value is None:
        return ""
    factor, form = (100, ".1f") if is_share(metric) else (1, ".4g")
    text = f"{factor * value:{form}}"
    return text if spread is None else f"{text} ± {factor * spread:{form}}"


def table(report: dict[str, Any]) -> str:
    """Returns a report's results, shares in percent: a row per feature, columns per kind of images.

    Each column of images is followed by those of the baselines that the report has: the random
    network, and the weights that the training started from. The columns "metric" and "when" are
    omitted if they are equal in all rows.

    >>> row = {"task": "knn", "name": "f", "images": "upright", "metric": "accuracy", "when": "",
    ...        "value": 0.5, "spread": None, "random_init": 0.25, "random_init_spread": None}
    >>> print(table({"results": [row]}))
    task  feature  upright  random init
    knn   f           50.0         25.0
    """
    return "\n\n".join(_aligned(*block) for block in tables(report))


def summary(report: dict[str, Any], endpoints: Sequence[str]) -> dict[str, Any]:
    """Returns a report without the rows of earlier layers and of best epochs, for a short table.

    Only tasks with a row for the feature `f` are shortened: the last endpoint, `f`, its halves and
    the projection remain, after the last epoch.

    Args:
        report: of `rfd_tf.evaluation.evaluate`.
        endpoints: of the backbone, first to last.

    >>> row = {"task": "linear", "images": "upright", "value": 0.5, "when": ""}
    >>> rows = [{**row, "name": name} for name in ("block1", "block2", "f")]
    >>> [row["name"] for row in summary({"results": rows}, ["block1", "block2"])["results"]]
    ['block2', 'f']
    """
    # ("pooled" is the mean of the last endpoint.)
    left_out = {*endpoints[:-1], "pooled"}
    shortened = {row["task"] for row in report["results"] if row["name"] == "f"}
    results = []
    for row in report["results"]:
        if row["task"] not in shortened:
            results.append(row)
        elif row["name"] not in left_out and row["when"] != BEST_EPOCH:
            results.append({**row, "when": ""})  # they are all of the last epoch
    return {**report, "results": results}


def tables(report: dict[str, Any]) -> list[tuple[list[str], list[list[str]], int]]:
    """Returns the blocks of `table`: (titles of the columns, rows, number of label columns).

    >>> row = {"task": "knn", "name": "f", "images": "upright", "metric": "accuracy", "when": "",
    ...        "value": 0.5, "spread": None, "random_init": 0.25, "random_init_spread": None}
    >>> tables({"results": [row]})
    [(['task', 'feature', 'upright', 'random init'], [['knn', 'f', '50.0', '25.0']], 2)]
    """
    return [_block(results) for results in _blocks(report["results"])]


def _blocks(results: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Returns the rows by table: tasks evaluated on the same kinds of images share one."""
    kinds: dict[str, list[str]] = {}
    for row in results:
        kinds.setdefault(row["task"], []).append(row["images"])
    blocks: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in results:
        key = tuple(dict.fromkeys(kinds[row["task"]]))
        blocks.setdefault(key, []).append(row)
    return list(blocks.values())


def _block(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]], int]:
    images = list(dict.fromkeys(row["images"] for row in results))
    beside = [name for name in BASELINES if any(row.get(name) is not None for row in results)]
    labels = ["task", "name"]
    labels += [key for key in ("metric", "when") if len({row[key] for row in results}) > 1]
    head = ["feature" if key == "name" else key for key in labels]
    for kind in images:
        head += [kind, *(BASELINES[name] for name in beside)]
    cells: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in results:
        key = tuple(row[k] for k in ("task", "name", "metric", "when"))
        cells.setdefault(key, {})[row["images"]] = row
    rows = []
    for found in cells.values():
        first = next(iter(found.values()))
        line = [first[key] for key in labels]
        for kind in images:
            row = found.get(kind)
            values = [("value", "spread"), *((name, f"{name}_spread") for name in beside)]
            for value, spread in values:
                cell = "" if row is None else shown(row.get(value), row.get(spread), row["metric"])
                line.append(cell)
        rows.append(line)
    return head, rows, len(labels)


def _aligned(head: list[str], rows: list[list[str]], labels: int) -> str:
    rows = [head, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        padded = [
            cell.ljust(width) if column < labels else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
