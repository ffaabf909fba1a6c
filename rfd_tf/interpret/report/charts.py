"""Drawings as inline SVG that takes its colours from the page, so that it reads light and dark."""

from __future__ import annotations

import html
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rfd_tf.interpret.report.blocks import Chart

# Colours that stand for those of the page: they are drawn with, then replaced.
_INK, _FAINT = "#0a0b0c", "#0a0b0d"
_SERIES = [f"#0b0c{number:02x}" for number in range(10)]
_VARIABLES = {_INK: "currentColor", _FAINT: "var(--faint)"} | {
    colour: f"var(--s{number})" for number, colour in enumerate(_SERIES)
}
_number = itertools.count(1)


def line_chart(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x: str,
    y: str,
    levels: Mapping[str, float] | None = None,
    caption: str = "",
) -> Chart:
    """Draws lines over a common axis, and constant levels as dashed ones.

    Args:
        lines: name -> (x values, y values).
        title, x, y: titles of the chart and the axes, with units.
        levels: name -> y value, such as chance.
        caption: below the chart; the title where empty.

    >>> chart = line_chart({"loss": ([1, 2], [3.0, 2.0])}, title="Loss", x="epoch", y="nats")
    >>> "currentColor" in chart.svg, "http" in chart.svg
    (True, False)
    """
    figure, axes = _axes(x, y)
    for (name, (xs, ys)), colour in zip(lines.items(), itertools.cycle(_SERIES), strict=False):
        marker = "o" if len(xs) <= 25 else None
        axes.plot(xs, ys, color=colour, label=name, marker=marker, markersize=3, linewidth=1.6)
    for (name, value), dashes in zip((levels or {}).items(), itertools.cycle(["--", ":"])):
        axes.axhline(value, color=_INK, linestyle=dashes, linewidth=1.0, label=name)
    if x == "epoch":
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if len(lines) + len(levels or {}) > 1:
        _legend(axes)
    ends = "; ".join(
        f"{name} from {ys[0]:.4g} to {ys[-1]:.4g}" for name, (_, ys) in lines.items() if len(ys)
    )
    return Chart(_svg(figure, f"{title}: {ends}"), caption or title)


def stairs_chart(
    edges: Sequence[float],
    counts: Mapping[str, tuple[int, str, Sequence[float]]],
    *,
    title: str,
    x: str,
    y: str,
    caption: str = "",
) -> Chart:
    """Draws histograms as outlines.

    Args:
        edges: of the bins, `[bins + 1]`.
        counts: name -> (number of its colour, kind of line such as "-" or "--", shares `[bins]`).
        title, x, y, caption: see `line_chart`.

    >>> chart = stairs_chart([0, 1], {"f": (0, "-", [1.0])}, title="f", x="distance", y="share")
    >>> chart.caption
    'f'
    """
    figure, axes = _axes(x, y)
    for name, (colour, style, values) in counts.items():
        axes.stairs(values, edges, color=_SERIES[colour % 10], linestyle=style, label=name, lw=1.4)
    axes.set_xlim(edges[0], edges[-1])
    if len(counts) > 1:
        _legend(axes)
    return Chart(_svg(figure, f"Histograms of {title}: {', '.join(counts)}"), caption or title)


def _axes(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0, 2.7), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x, color=_INK, fontsize=9.5)
    axes.set_ylabel(y, color=_INK, fontsize=9.5)
    axes.tick_params(colors=_INK, labelsize=8.5)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_color(_INK)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _legend(axes: Any) -> None:
    count = len(axes.get_legend_handles_labels()[1])
    columns = 3 if count == 3 else 2
    axes.legend(
        fontsize=8.5, labelcolor=_INK, frameon=False, loc="lower left", bbox_to_anchor=(0, 1),
        ncols=columns, borderaxespad=0.2, columnspacing=1.2, handlelength=1.6,
    )  # fmt: skip


def _svg(figure: Any, alt: str) -> str:
    import matplotlib

    text = io.StringIO()
    style = {"svg.fonttype": "none", "svg.hashsalt": "report", "axes.unicode_minus": True}
    with matplotlib.rc_context(style):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    width, height = figure.get_size_inches() * 72
    opening = (
        f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {width:g} {height:g}" '
        'stroke-linejoin="round" stroke-linecap="butt">'
    )
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    # Drawings share a page: their names must not.
    name = f"chart{next(_number)}"
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def shares(counts: Sequence[float]) -> np.ndarray:
    """Numbers as shares of their sum.

    >>> shares([1, 3]).tolist()
    [0.25, 0.75]
    """
    counts = np.asarray(counts, np.float64)
    return counts / max(counts.sum(), 1)
