"""Decides which sub-folders of a folder of images are classes."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Sequence

import numpy as np

from rfd_tf.errors import shown
from rfd_tf.text import file_name_to_text, same_form

# Folders created by systems and programs: thumbnails, recycle bins, snapshots, resource forks.
# (Hidden ones, whose names begin with a dot, need no list.)
_SYSTEM = frozenset(
    {
        "@eadir", "@__thumb", "thumbs", "thumbnails", "@recycle", "#recycle", "$recycle.bin",
        "recycler", "recycled", "@recently-snapshot", "#snapshot", "@snapshot", "@tmp",
        "@sharebin", "@sharesnap", "__macosx", "__pycache__", "lost+found",
        "system volume information", "network trash folder", "temporary items",
        "thevolumesettingsfolder",
    }
)  # fmt: skip
# The first existing one of each is proposed in the warning. See `_split_word`.
_TRAIN = ("train", "training", "trn", "unlabeled", "unlabelled", "extra")
_TEST = (
    "test", "testing", "tst", "val", "valid", "validation", "dev", "eval", "evaluation", "holdout",
    "heldout",
)  # fmt: skip
_FILLERS = re.compile(r"[\W\d_]+|(?:set|images|imgs|data|split)$")
_NAMED = 5


def is_system_folder(name: str) -> bool:
    """Whether a name is that of a system folder, which holds no images of the user.

    >>> [is_system_folder(name) for name in ("@eaDir", ".Trash-1000", "$RECYCLE.BIN", "cats")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.casefold() in _SYSTEM


def are_splits(names: Sequence[str]) -> bool:
    """Whether sibling folders are the splits of a dataset, by their names.

    >>> are_splits(["test", "train"]), are_splits(["bus", "car", "train"])
    (True, False)
    """
    words = {_split_word(name) for name in names}
    tests = words.intersection(_TEST)
    return bool(tests) and (not words.isdisjoint(_TRAIN) or len(words) > 1 and words == tests)


def split_of(name: str) -> str | None:
    """Returns the split that a name stands for: "train", "test" or None.

    >>> [split_of(name) for name in ("training", "val", "cats")]
    ['train', 'test', None]
    """
    word = _split_word(name)
    return "train" if word in _TRAIN else "test" if word in _TEST else None


def _split_word(name: str) -> str:
    """Returns the split in a name: "train" for "Train2017", "train_images", "train set"."""
    word, before = name.casefold(), None
    while word != before:
        word, before = _FILLERS.sub("", word), word
    return word


def passed_over(root: str, folders: Sequence[str], files: Sequence[str]) -> str | None:
    """Returns a warning that lists ignored folders and hidden pictures; None if there are none."""
    parts = []
    if folders:
        names = sorted({os.path.basename(folder) for folder in folders})
        parts.append(f"{_count(len(folders), 'system or hidden folder')} ({_listed(names)})")
    if files:
        parts.append(f"{_count(len(files), 'hidden picture')} ({_listed(sorted(files))})")
    return f"ignored in '{root}': {' and '.join(parts)}" if parts else None


def about_splits(root: str, siblings: dict[str, list[str]], names: Sequence[str]) -> str | None:
    """Returns a warning that splits of a dataset are read as one set; None if they are not.

    Args:
        root: the folder of images.
        siblings: folder below the root -> the folders in it, if `are_splits`.
        names: relative names of the images.
    """
    if not siblings:
        return None
    inside: dict[str, set[str]] = {parent: set() for parent in siblings}
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts[:-1]):
            parent = "/".join(parts[:depth])
            if parent in inside:
                inside[parent].add(part)
    held = {parent: sorted(inside[parent] & set(folders)) for parent, folders in siblings.items()}
    found = {parent: folders for parent, folders in held.items() if are_splits(folders)}
    if not found:
        return None
    parent = min(found)
    place = os.path.join(root, parent) if parent else root
    by_word = {_split_word(name): name for name in found[parent]}
    train = next((by_word[word] for word in _TRAIN if word in by_word), None)
    test = next(by_word[word] for word in _TEST if word in by_word)
    more = f", likewise {_count(len(found) - 1, 'more folder')}" if len(found) > 1 else ""
    if len(found) > 1 or train is None:
        way_out = "give --data a folder with the images of one split"
    else:
        way_out = (
            f"give --data='{shown(os.path.join(place, train))}' and, for evaluation, "
            f"--val_data='{shown(os.path.join(place, test))}'"
        )
    classes = "" if parent else " and treated as classes"
    return (
        f"'{shown(place)}' has the splits {_listed(found[parent])} as folders{more}: the images "
        f"of all are read as one set{classes}, including the test images; {way_out}"
    )


def labels_of(
    roots: Sequence[str], names: Sequence[str], good: Sequence[int]
) -> tuple[np.ndarray | None, list[str] | None, str | None]:
    """Returns the labels of images by the first folder in their names, if these are classes.

    Args:
        roots: the folders of images, for the remark.
        names: of all images, relative to their own folder, with slashes.
        good: indices of the readable ones.

    Returns:
        int64 labels of the readable images, -1 for a picture next to the class folders; the names
        of the classes; and a remark for the user. Each is None if there is none. If half of the
        images or more are next to the folders, there are no classes.
    """
    tops = [name.split("/", 1)[0] if "/" in name else None for name in names]
    form = {top: same_form(file_name_to_text(top)) for top in set(tops) - {None}}
    class_names = sorted(set(form.values()))
    loose = [name for name, top in zip(names, tops, strict=True) if top is None]
    if len(class_names) < 2 or 2 * len(loose) >= len(names):
        return None, None, _wrapped(roots, names, class_names) if not loose else None
    number = {name: label for label, name in enumerate(class_names)}
    by_top = {None: -1, **{top: number[name] for top, name in form.items()}}
    labels = np.array([by_top[tops[i]] for i in good], np.int64)
    remark = None
    if loose:
        one = len(loose) == 1
        remark = (
            f"{_count(len(loose), 'image')} {'is' if one else 'are'} next to the class folders "
            f"of {quoted(roots)} ({_listed(loose)}) and {'has' if one else 'have'} no class: "
            f"training uses {'it' if one else 'them'}, evaluation does not; move "
            f"{'it' if one else 'them'} into a class folder or elsewhere"
        )
    return labels, class_names, remark


def _wrapped(roots: Sequence[str], names: Sequence[str], tops: Sequence[str]) -> str | None:
    """Returns a remark if a single folder contains all images, and those inside may be classes."""
    if len(tops) != 1:
        return None
    inside = [name.split("/", 2)[1:] for name in names]
    folders = {parts[0] for parts in inside if len(parts) == 2}
    if len(folders) < 2 or any(len(parts) < 2 for parts in inside):
        return None
    top = names[0].split("/", 1)[0]
    inner = ",".join(os.path.join(root, top) for root in roots)
    return (
        f"all images of {quoted(roots)} lie in its folder '{shown(tops[0])}', so there are no "
        f"classes; to use the {len(folders)} folders inside it as classes, give "
        f"--data='{shown(inner)}'"
    )


def summary(
    num_images: int, name: str, labels: np.ndarray | None, class_names: Sequence[str] | None
) -> str:
    """Returns a line with a set's number of images and its classes, abbreviated above twelve.

    >>> summary(4, "pets", np.array([0, 1, 1, -1]), ["cat", "dog"])
    '4 images of pets; 2 classes: cat 1, dog 2; 1 without a class'
    """
    text = f"{num_images} images of {name}"
    if labels is None:
        return text
    counts = collections.Counter(labels.tolist())
    without = sum(counts.pop(label) for label in list(counts) if label < 0)
    # A class without images is listed, too, with 0.
    present = range(len(class_names)) if class_names else sorted(counts)
    each = [
        f"{shown(class_names[label] if class_names else label, 60)} {counts[label]:,}"
        for label in present
    ]
    if len(each) > 12:
        values = [counts[label] for label in present]
        text += f"; {len(each):,} classes of {min(values):,} to {max(values):,} images: "
        text += f"{', '.join(each[:5])}, ... {each[-1]}"
    elif each:
        text += f"; {_count(len(each), 'class', 'classes')}: {', '.join(each)}"
    return text + (f"; {without:,} without a class" if without else "")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMED else ""
    return ", ".join(shown(file_name_to_text(name), 80) for name in names[:_NAMED]) + more


def quoted(paths: Sequence[str]) -> str:
    """Returns paths in quotes, for a message.

    >>> quoted(["a", "b"])
    "'a', 'b'"
    """
    return ", ".join(f"'{path}'" for path in paths[:_NAMED]) + ", ..." * (len(paths) > _NAMED)
