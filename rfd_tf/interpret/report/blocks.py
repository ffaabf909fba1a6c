"""What a section of a report is made of. Texts are plain: the page's template escapes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar


class LeftOut(Exception):
    """Raised by a section that does not apply to a run; the message says why, as a sentence."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph; `warning` sets it apart."""

    text: str
    warning: bool = False
    kind: ClassVar[str] = "text"


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and values, short."""

    pairs: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "facts"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: titles of the columns.
        rows: texts.
        caption: what the numbers are, and their unit.
        labels: the first so many columns are names, the others numbers.
        shades: for each row and number column 0 to 1, how strongly the cell is tinted; or None.
        folded: whether the table shows only when asked for.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    labels: int = 1
    shades: Sequence[Sequence[float]] | None = None
    folded: bool = False
    kind: ClassVar[str] = "table"


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawing made by `charts`: the one kind of text that is not escaped again."""

    svg: str
    caption: str
    kind: ClassVar[str] = "chart"


@dataclasses.dataclass(frozen=True)
class Charts:
    """Small drawings side by side."""

    charts: Sequence[Chart]
    kind: ClassVar[str] = "charts"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        uri: `data:` address.
        alt: what it shows, for those who do not see it.
        note: a short text below it.
        mark: "same" or "other" frames it.
        sharp: whether enlarging keeps its pixels as squares.
    """

    uri: str
    alt: str
    note: str = ""
    mark: str = ""
    sharp: bool = False


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Rows of pictures of equal size, in columns.

    Attributes:
        rows: (label, pictures) each.
        caption: what they show.
        lead: a picture that stands before the rows, such as the query of its neighbours.
    """

    rows: Sequence[tuple[str, Sequence[Picture]]]
    caption: str
    lead: Picture | None = None
    kind: ClassVar[str] = "pictures"

    @property
    def columns(self) -> int:
        return max(len(pictures) for _, pictures in self.rows)


@dataclasses.dataclass(frozen=True)
class Code:
    """Lines to copy."""

    title: str
    code: str
    kind: ClassVar[str] = "code"


@dataclasses.dataclass(frozen=True)
class Map:
    """Points in the plane, with a thumbnail each; see `embedding_map`.

    Attributes:
        views: title -> {"points": [[x, y], ...] from 0 to 1, "x": axis title, "y": axis title}.
        groups: of each point, the number of its colour.
        group_names: titles of the colours.
        names: of the points.
        sprite: `data:` address of all thumbnails, `columns` a row, `size` pixels a side.
    """

    views: dict[str, dict[str, Any]]
    groups: Sequence[int]
    group_names: Sequence[str]
    names: Sequence[str]
    sprite: str
    columns: int
    size: int
    caption: str
    kind: ClassVar[str] = "map"


Block = Text | Facts | Table | Chart | Charts | Pictures | Code | Map


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report with a title."""

    name: str
    title: str
    blocks: Sequence[Block]
