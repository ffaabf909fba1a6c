"""Datasets of Hugging Face as shards: the Arrow files that `datasets` keeps them in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rfd_tf import extras
from rfd_tf.data.file_list import ALL, TRAIN, split_word
from rfd_tf.errors import UserError, shown
from rfd_tf.paths import HUGGING_FACE as PREFIX
from rfd_tf.paths import expanded

_SPLITS, _STATE = "dataset_dict.json", "state.json"
_WHOLE = ""


def files(data: str) -> dict[str, list[str]]:
    """Returns the Arrow files of each split of a dataset.

    Args:
        data: `hf:` and a folder that `save_to_disk` wrote, or what `datasets.load_dataset` takes: a
            name, `NAME:CONFIGURATION`, or another folder.

    Returns:
        By the split's name; by "" if there are no splits.

    Raises:
        UserError: no such dataset, a damaged one, or `datasets` is not installed, which only names
            and folders of other kinds need.
    """
    place = data.removeprefix(PREFIX)
    folder = expanded(place)
    try:
        if (folder / _SPLITS).is_file():
            splits = _json(folder / _SPLITS)["splits"]
            return {str(split): _saved(folder / str(split)) for split in splits}
        if (folder / _STATE).is_file():
            return {_WHOLE: _saved(folder)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"'{shown(data)}' is damaged ({type(error).__name__}: {shown(error, 100)}); save it "
            "again with save_to_disk"
        ) from None
    return _loaded(data, place, folder.is_dir())


def chosen(data: str, split: str | None) -> tuple[list[str], str]:
    """Returns the Arrow files of a split, and what to call them.

    Args:
        data: see `files`.
        split: a name, or several with `+` between them; `all`; None for `train`, or all without
            such a split. Of a dataset without splits `train` is the whole.

    Raises:
        UserError: no such split; see `files`.
    """
    found, called = files(data), data.removeprefix(PREFIX)
    if split is None:
        split = TRAIN if TRAIN in found else ALL
    if split == ALL or (split == TRAIN and list(found) == [_WHOLE]):
        return [path for paths in found.values() for path in paths], called
    by_word = {split_word(name): paths for name, paths in found.items()}
    words = list(map(split_word, split.split("+")))
    for word in words:
        if word not in by_word:
            raise UserError(
                f"'{shown(data)}' has no split '{shown(word)}'; its splits are "
                f"{shown(', '.join(filter(None, found))) or 'none'}, and {ALL} takes every one"
            )
    return [path for word in words for path in by_word[word]], f"{called}[{split}]"


def splits(data: str) -> list[str]:
    """Returns the splits of a dataset, by the words of `file_list`; see `files`."""
    return [split_word(name) for name in files(data) if name]


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _saved(folder: Path) -> list[str]:
    return [os.path.join(folder, one["filename"]) for one in _json(folder / _STATE)["_data_files"]]


def _loaded(data: str, place: str, is_folder: bool) -> dict[str, list[str]]:
    library = extras.load("datasets", f"the dataset '{shown(data)}'")
    name, _, configuration = (place, "", "") if is_folder else place.partition(":")
    try:
        loaded = library.load_dataset(name, configuration or None)
    except Exception as error:  # the network, a missing name, the dataset's own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"cannot load the dataset '{shown(data)}': {shown(lines[0])}; after {PREFIX} stands a "
            "folder, or a name on huggingface.co"
        ) from None
    return {split: [one["filename"] for one in part.cache_files] for split, part in loaded.items()}
