"""Lists that name image files, with a label and a split where they have them."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import re
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rfd_tf.data import image_files
from rfd_tf.data.base import Source
from rfd_tf.data.folder import file_ids, in_threads, read_files
from rfd_tf.data.image_files import MAX_MEGAPIXELS, ColorProfile, HighBitDepth, Reading
from rfd_tf.data.remote import transports
from rfd_tf.data.remote.cache import CACHE_GB, NotFetched, opened
from rfd_tf.errors import UserError, shown
from rfd_tf.paths import absolute, expanded, is_address
from rfd_tf.text import (
    file_name_from_text,
    file_name_to_text,
    read_text,
    same_form,
    same_name_forms,
)

#: Names of the columns of a table, and of the entries of JSON: the first that exists counts.
COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "class_name"),
    "split": ("split",),
}
#: Other words for the splits `train`, `validation` and `test`.
_SPLITS = {
    "training": "train", "val": "validation", "valid": "validation", "dev": "validation",
    "testing": "test",
}  # fmt: skip
#: The split of all rows.
ALL = "all"
TRAIN = "train"
_MOST_CLASSES = 1_000_000  # there is memory for as many classes as the largest label says
# With so many whole numbers among the labels the others are mistakes, not names.
_NUMBERS = 0.99
# What a program writes of whole numbers where some are missing: 3.0.
_WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0+)?")
_NAMED = 5


class _Row(NamedTuple):
    """A row of a list: texts are empty where it has none; `fault` is why it cannot be used."""

    line: int
    path: str
    label: str
    split: str
    fault: str

    @classmethod
    def of(
        cls, line: int, path: str = "", label: str = "", split: str = "", fault: str = ""
    ) -> _Row:
        """A row of texts as they are written."""
        fault = fault or ("" if path else "no path")
        return cls(line, path, label and _label(label), split and split_word(split), fault)


# (Cached, a word of a million rows is one object.)
@functools.lru_cache(maxsize=1 << 16)
def _label(text: str) -> str:
    return same_form(text.strip())


@functools.lru_cache(maxsize=1 << 10)
def split_word(text: str) -> str:
    """Returns the word for a split: of several for the same one always the same."""
    word = text.strip().casefold()
    return _SPLITS.get(word, word)


class _Rows(NamedTuple):
    rows: list[_Row]
    has_splits: bool


def image_list(
    path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    max_skipped: float = 0.01,
    verify: str = "auto",
    cache_bytes: int = 1 << 30,
    max_megapixels: float = MAX_MEGAPIXELS,
    split: str | None = ALL,
    cache_dir: str | os.PathLike | None = None,
    cache_gb: float = CACHE_GB,
    high_bit_depth: HighBitDepth = "stretch",
    color_profile: ColorProfile = "ignore",
) -> Source:
    """Returns the images that a list names; the index follows the list.

    The ending of the list's name decides how it is read:

    - `.csv`, `.tsv`: a table whose first row names its columns; `.csv` may have commas, semicolons
      or tabs between cells. The path is in the column `path`, `file`, `filename`, `file_name`,
      `filepath`, `image` or `image_path`; a label, where there is one, in `label`, `class` or
      `class_name`; a split in `split`. Other columns are ignored.
    - `.jsonl`: a JSON object a line, with entries of these names.
    - `.txt` and any other: one image a line, its path and, after a tab or a space, its label,
      which may be missing.

    Labels are whole numbers from 0, or names of classes, which are then numbered in sorted order,
    those of all splits together. An image without a label has the label -1; where no image has one
    there are no labels. Paths may hold spaces; a leading slash is taken as `root` where there is no
    such file. Empty lines are ignored, and so is a row that names a file again.

    The list, `root` and the paths in rows may be addresses (`https://`, `s3://`, `gs://` and the
    others of fsspec). Images at addresses are fetched into a local cache when training reaches
    them, and not decoded beforehand.

    Rows without a path, with a file that is not there or cannot be decoded, and with an impossible
    label are left out and listed, by their line, in the source's `skipped`.

    Args:
        path: the list: UTF-8, or UTF-16 with a byte order mark.
        root: the folder that the paths are relative to; the list's own by default.
        max_skipped: the largest fraction of rows to leave out, 0 to 1.
        verify, cache_bytes, max_megapixels: as of `image_folder`.
        split: the rows with this word in the column `split`, or with one of several, with `+`
            between them. `train` and `training`, `validation`, `val`, `valid` and `dev`, `test` and
            `testing` are the same. `all` takes every row. None is `train`, or `all` where there is
            no such row; of a list without that column `train` takes every row.
        cache_dir: the folder of the cache; `rfd_tf` in the user's folder of caches if None.
        cache_gb: the largest total length of the files in it, 10^9 bytes each.
        high_bit_depth, color_profile: as of `image_folder`.

    Returns:
        An `ArraySource` where the images are kept in memory, else a `FolderSource`; its name is
        the list's path, and the split.

    Raises:
        UserError: the list does not exist, cannot be read as such a list (the line is named), has
            no such split or no images; or more than `max_skipped` of the rows cannot be used.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (8, 8)).save(folder / "a 1.png")
    >>> Image.new("RGB", (8, 8)).save(folder / "b.png")
    >>> _ = (folder / "train.txt").write_text("b.png 1\\na 1.png 0\\n")
    >>> image_list(folder / "train.txt").labels.tolist()
    [1, 0]
    >>> _ = (folder / "some.csv").write_text("file,class\\nb.png,dog\\na 1.png,\\n")
    >>> image_list(folder / "some.csv").labels.tolist()
    [0, -1]
    """
    options = {"cache_dir": cache_dir, "cache_gb": cache_gb}
    path, root = _places(path, root)
    rows, has_splits = _read(path, **options)
    rows, labels, class_names = _numbered(rows)
    split = _effective(rows, has_splits, split)
    chosen = _of_split(rows, has_splits, split, path)
    files, kept = _files(root, [rows[i] for i in chosen], path, max_skipped)
    labels = labels and [labels[chosen[i]] for i in kept]
    if not labels or max(labels) < 0:
        labels = class_names = None
    described = {
        "name": file_name_to_text(str(path)) + (f"[{split}]" if split != ALL else ""),
        "labels": labels and np.array(labels, np.int64),
        "class_names": class_names,
    }
    reading = Reading(max_megapixels, high_bit_depth, color_profile)
    if any(is_address(name) for name, _ in files):
        from rfd_tf.data.shards import listed  # which imports Arrow

        return listed.listed_images(
            str(root), files, str(path), max_skipped, reading, **options, **described
        )
    return read_files(
        str(root),
        files,
        max_skipped,
        verify,
        cache_bytes,
        reading,
        listed=str(path),
        **described,
    )


def _places(
    path: str | os.PathLike, root: str | os.PathLike | None
) -> tuple[str | Path, str | Path]:
    """Returns a list's path and the folder its paths are relative to; texts if elsewhere."""
    if not is_address(path):
        path = expanded(path)
    if root is None:
        root = transports.folder_of(path) if isinstance(path, str) else path.parent
    return path, root if is_address(root) else absolute(root)


def list_splits(path: str | os.PathLike, **options: Any) -> list[str]:
    """Returns the words in a list's column `split`, in the order of their first rows.

    Of several words for a split it is always the same one, such as `validation` for `val`.

    Args:
        path, **options: the list, `cache_dir` and `cache_gb`, as of `image_list`.

    Returns:
        An empty list where there is no such column.

    Raises:
        UserError: the list cannot be read.
    """
    path, _ = _places(path, None)
    return list(dict.fromkeys(row.split for row in _read(path, **options).rows if row.split))


def list_ids(
    path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    split: str | None = ALL,
    **options: Any,
) -> np.ndarray:
    """Returns the ids of the files that a list names, as `Source.image_ids` has them.

    Args:
        path, root, split, **options: as of `image_list`; of these `cache_dir` and `cache_gb`.
    """
    path, root = _places(path, root)
    rows, has_splits = _read(path, **options)
    split = _effective(rows, has_splits, split)
    rows = [rows[i] for i in _of_split(rows, has_splits, split, path)]
    files = in_threads(lambda row: _file(root, row), rows, "Looking for files")
    names = [name for name, size in files if isinstance(size, int)]
    if any(map(is_address, names)):
        from rfd_tf.data.shards import listed

        return listed.ids(str(root), names)
    return file_ids(str(root), names)


# -- the rows of a list ---------------------------------------------------------------------


def _read(
    path: str | Path, cache_dir: str | os.PathLike | None = None, cache_gb: float = CACHE_GB
) -> _Rows:
    place = path
    if isinstance(path, str):
        try:
            place = opened(cache_dir, cache_gb).latest(path)
        except NotFetched as error:
            raise UserError(error) from None
    text = read_text(place, "the image list")
    suffix = place.suffix.lower()
    if suffix == ".jsonl":
        found = _of_json(text, path)
    elif suffix in (".csv", ".tsv"):
        found = _of_table(text, path, ",;\t" if suffix == ".csv" else "\t")
    else:
        found = _Rows([_of_line(*line) for line in _lines(text)], False)
    if not found.rows:
        raise UserError(f"the image list '{path}' names no images")
    return found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields number and content of the lines that are not empty."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def _of_line(number: int, line: str) -> _Row:
    if image_files.has_image_extension(line):
        return _Row.of(number, line)
    path, tab, label = line.rpartition("\t")
    if not tab:
        path, label, *_ = *line.rsplit(maxsplit=1), ""
    return _Row.of(number, path.strip(), label)


def _of_table(text: str, path: str | Path, delimiters: str) -> _Rows:
    first, line = next(_lines(text), (1, ""))
    headers = {mark: _next(csv.reader([line], delimiter=mark), path) or [] for mark in delimiters}
    fitting = [mark for mark, names in headers.items() if "path" in _columns(names)]
    if not fitting:
        if len(headers[delimiters[0]]) <= 1 and "," in delimiters:
            # Lists of the kind "path label" are called .csv, too, such as those of Places205.
            return _Rows([_of_line(*line) for line in _lines(text)], False)
        names = headers[delimiters[0]]
        raise _without_path(path, first, "column", names, "begin the list with such a row")
    delimiter = fitting[0]
    cells = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names, rows = _next(cells, path) or [], []
    columns = _columns(names)
    places = [columns.get(key, len(names)) for key in COLUMNS]
    while (row := _next(cells, path)) is not None:
        if len(row) > len(names):
            fault = f"{len(row)} cells under {len(names)} names; quote cells with a '{delimiter}'"
            rows.append(_Row.of(cells.line_num, fault=fault))
            continue
        row += [""] * (1 + len(names) - len(row))
        rows.append(_Row.of(cells.line_num, *(row[place] for place in places)))
    return _Rows(rows, "split" in columns)


def _next(cells: Any, path: str | Path) -> list[str] | None:
    """The next row of a table that is not empty; None at the end."""
    try:
        return next((row for row in cells if any(cell.strip() for cell in row)), None)
    except csv.Error as error:
        raise UserError(
            f"the image list '{path}', line {cells.line_num}: {shown(error)}; quote cells as CSV "
            'does: "a ""b"", c"'
        ) from None


def _columns(names: Sequence[str]) -> dict[str, int]:
    """Which column has what."""
    places = {name.strip().casefold().replace(" ", "_"): i for i, name in enumerate(names)}
    found = {}
    for key, words in COLUMNS.items():
        place = next((places[word] for word in words if word in places), None)
        if place is not None:
            found[key] = place
    return found


def _of_json(text: str, path: str | Path) -> _Rows:
    rows, known, first, kinds = [], set(), None, {}
    for number, line in _lines(text):
        try:
            entries = json.loads(line)
        except (ValueError, RecursionError) as error:
            rows.append(_Row.of(number, fault=f"no JSON ({shown(error, 80)})"))
            continue
        if not isinstance(entries, dict):
            rows.append(_Row.of(number, fault="no JSON object"))
            continue
        names = tuple(entries)
        first = first or (number, names)
        if names not in kinds:  # as a rule there is one
            kinds[names] = {key: names[place] for key, place in _columns(names).items()}
            known |= kinds[names].keys()
        rows.append(_of_entries(number, {key: entries[kinds[names][key]] for key in kinds[names]}))
    if rows and "path" not in known:
        number, names = first or (rows[0].line, [])
        raise _without_path(path, number, "entry", names, 'write {"path": "a.jpg"}')
    return _Rows(rows, "split" in known)


def _of_entries(number: int, entries: Mapping[str, Any]) -> _Row:
    texts = {}
    for key, value in entries.items():
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        whole = key == "label" and isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not isinstance(value, str) and not whole:
            return _Row.of(number, fault=f"its {key} is of type {type(value).__name__}, no text")
        texts[key] = "" if value is None else str(value)
    try:
        "".join(texts.values()).encode()
    except UnicodeEncodeError:  # JSON can write halves of characters
        return _Row.of(number, fault="no valid Unicode")
    return _Row.of(number, **texts)


def _without_path(
    path: str | Path, line: int, what: str, names: Sequence[str], way_out: str
) -> UserError:
    wanted = ", ".join(COLUMNS["path"])
    found = shown(", ".join(names), 200) or "none"
    return UserError(
        f"the image list '{path}', line {line}: no {what} is called {wanted}; there are: {found}; "
        f"{way_out}"
    )


# -- what they stand for --------------------------------------------------------------------


def _numbered(rows: list[_Row]) -> tuple[list[_Row], list[int] | None, list[str] | None]:
    """Returns the rows, some with a fault now, the label of each, and the names of the classes."""
    texts = [row.label for row in rows]
    given = [text for text in texts if text]
    if not given:
        return rows, None, None
    whole = {text: _WHOLE.fullmatch(text) for text in set(given)}
    if sum(whole[text] is not None for text in given) < _NUMBERS * len(given):
        class_names = sorted(whole)
        number = {name: label for label, name in enumerate(class_names)}
        return rows, [number.get(text, -1) for text in texts], class_names
    faults = {text: _label_fault(text, match) for text, match in whole.items()}
    labels = []
    for i, row in enumerate(rows):
        fault = faults.get(row.label)
        if fault and not row.fault:
            rows[i] = row._replace(fault=fault)
        labels.append(-1 if fault or not row.label else int(whole[row.label][1]))
    return rows, labels, None


def _label_fault(text: str, match: re.Match | None) -> str | None:
    if match is None:
        return f"label '{shown(text, 40)}' is no whole number, as the others are"
    if text.startswith("-") and match[1].strip("-0"):
        return f"label {shown(text, 40)}; labels are numbers from 0"
    if len(match[1]) > 18 or int(match[1]) >= _MOST_CLASSES:
        text = shown(text, 40)
        return (
            f"label {text}; labels number the classes from 0 on, fewer than {_MOST_CLASSES:,}; "
            f"write ids of another kind as names, such as id{text}"
        )
    return None


def _effective(rows: Sequence[_Row], has_splits: bool, split: str | None) -> str:
    """The split to read, see `image_list`."""
    if split is None:
        return TRAIN if any(row.split == TRAIN for row in rows) else ALL
    return split if has_splits or split != TRAIN else ALL


def _of_split(rows: list[_Row], has_splits: bool, split: str, path: str | Path) -> list[int]:
    """Returns the positions of the rows of a split, those without one among them, with a fault."""
    if split == ALL:
        return list(range(len(rows)))
    if not has_splits:
        raise UserError(
            f"the image list '{path}' has no column 'split' to choose '{shown(split)}' by; add "
            "one, or leave the split out"
        )
    wanted = set(map(split_word, split.split("+")))
    there = dict.fromkeys(row.split for row in rows if row.split)
    for word in wanted:
        if word not in there:
            raise UserError(
                f"the image list '{path}' has no rows of the split '{shown(word)}'; its splits are "
                f"{shown(', '.join(there) or 'empty')}, and {ALL} takes every row"
            )
    # (A row without a split might be of any.)
    chosen = [i for i, row in enumerate(rows) if not row.split or row.split in wanted]
    for i in chosen:
        if not rows[i].split:
            rows[i] = rows[i]._replace(fault=rows[i].fault or "no split")
    return chosen


def _files(
    root: str | Path, rows: Sequence[_Row], path: str | Path, max_skipped: float
) -> tuple[list[tuple[str, int | str]], list[int]]:
    """Returns `(name, bytes)` of each file, or `(name, reason)`, and its row's position."""
    found = in_threads(lambda row: _file(root, row), rows, "Looking for files")
    first: dict[str, _Row] = {}
    files, kept, again, faults = [], [], [], []
    for i, (row, (name, known)) in enumerate(zip(rows, found, strict=True)):
        other = first.setdefault(name, row) if isinstance(known, int) else row
        if other is not row and other.label == row.label:
            again.append(row)
            continue
        if other is not row:
            known = (
                f"label '{shown(row.label, 40)}', and '{shown(other.label, 40)}' in line "
                f"{other.line}"
            )
        if isinstance(known, str):
            known = f"line {row.line}: {known}"
            faults.append(known)
        files.append((name, known))
        kept.append(i)
    if len(faults) > max_skipped * len(rows):
        more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise UserError(
            f"'{path}', {'; '.join(faults[:_NAMED])}{more}: {len(faults)} of {len(rows)} rows "
            "cannot be used; paths are relative to the list's folder, or to --data_root; repair "
            f"the list, or raise --max_skipped (now {max_skipped:g})"
        )
    if again:
        lines = ", ".join(str(row.line) for row in again[:_NAMED])
        warnings.warn(
            f"{len(again)} rows of '{path}' name a file that another row names, and are passed "
            f"over: line {lines}{', ...' * (len(again) > _NAMED)}",
            stacklevel=3,
        )
    return files, kept


def _file(root: str | Path, row: _Row) -> tuple[str, int | str]:
    """Returns the name under which a row's file exists and its bytes; or a name and a reason.

    A file elsewhere has its address and -1.
    """
    if row.fault:
        return row.path or "a row", row.fault
    name = row.path
    if is_address(name):
        return name, -1
    if isinstance(root, str):
        return transports.joined(root, name), -1
    absolute = name.startswith("/") and not os.path.isfile(name)
    if absolute:  # or relative to the root, as some lists are written
        name = name.lstrip("/")
    found = _found(root, name)
    if found is None:
        there = f"'{shown(root / name)}'"
        return name, f"no file '{shown(row.path)}', nor {there}" if absolute else f"no file {there}"
    name, status = found
    if not stat.S_ISREG(status.st_mode):
        return name, f"'{shown(root / name)}' is no file"
    return name, status.st_size


def _found(root: Path, name: str) -> tuple[str, os.stat_result] | None:
    """Returns the name under which a listed file exists, and its status; None where it does not.

    The list may come from a system that stores accents in another form or writes `\\` between
    folders, or hold names that are no UTF-8 as `file_name_to_text` writes them.
    """
    forms = (*same_name_forms(name), file_name_from_text(name), name.replace("\\", "/"))
    for form in dict.fromkeys(forms):
        try:
            return form, os.stat(root / form)
        except (OSError, ValueError):  # a name with a zero byte is a value, not a file
            continue
    return None
