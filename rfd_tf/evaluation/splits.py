"""The split into train and test images."""

from __future__ import annotations

import warnings

import numpy as np

from rfd_tf.data.copies import identical_files
from rfd_tf.data.sources import Source
from rfd_tf.data.subset import index_hash
from rfd_tf.errors import UserError, shown


def held_out(labels: np.ndarray) -> np.ndarray:
    """Chooses the test images where no test set is given: a fixed fifth of every class.

    Within a class the images whose index has the lowest hash are chosen: no order, seed or
    machine changes the choice. A class of 2 to 4 images gives 1, a class of one image gives none.

    Args:
        labels: whole numbers `[N]`.

    Returns:
        bool `[N]`, True for images held out.

    >>> int(held_out(np.repeat([0, 1], 50)).sum())
    20
    """
    chosen = np.zeros(len(labels), bool)
    order = np.argsort(index_hash(np.arange(len(labels))), kind="stable")
    for label in np.unique(labels):
        members = order[labels[order] == label]
        share = len(members) // 5 if len(members) >= 5 else min(1, len(members) - 1)
        chosen[members[:share]] = True
    return chosen


def subset(rows: np.ndarray, largest: int) -> np.ndarray:
    """Returns at most `largest` of the indices `rows`, chosen by their hash, in order.

    >>> subset(np.arange(10), 3).tolist()
    [3, 5, 7]
    """
    if len(rows) <= largest:
        return rows
    return np.sort(rows[np.argsort(index_hash(rows), kind="stable")[:largest]])


def split(
    train: Source,
    test: Source | None,
    max_train: int | None = None,
    max_test: int | None = None,
    way_out: str = "give a test set (--val_data)",
) -> tuple[np.ndarray, Source, np.ndarray]:
    """Chooses the train and the test images.

    Args:
        train: labelled train images.
        test: labelled test images; None holds out a part of `train`, see `held_out`.
        max_train: largest number of train images, chosen by the hash of their index; None for all.
        max_test: largest number of test images, likewise.
        way_out: what the error proposes where nothing can be held out.

    Returns:
        `(train_rows, test_source, test_rows)`: rows are increasing indices into their source.
        Images without a class, labelled -1, are in neither. A warning counts the files that are
        in both.

    Raises:
        UserError: no test set, and no class has an image to spare.

    >>> from rfd_tf import data
    >>> train_rows, source, test_rows = split(data.digits(), data.digits("test"), max_train=100)
    >>> len(train_rows), source.name, len(test_rows)
    (100, 'digits/test', 297)
    """
    train_rows = _with_class(train)
    labels = np.zeros(len(train_rows), np.int64)
    if train.labels is not None:
        labels = train.labels[train_rows]
    if test is None:
        chosen = held_out(labels)
        train_rows, test_rows = train_rows[~chosen], train_rows[chosen]
    else:
        test_rows = _with_class(test)
    if not len(test_rows):
        raise UserError(
            f"'{train.name}' has one image a class: none can be held out for testing; {way_out}"
        )
    if max_train is not None:
        train_rows = subset(train_rows, max_train)
    if max_test is not None:
        test_rows = subset(test_rows, max_test)
    test_source = train if test is None else test
    _warn_of_copies(train, train_rows, test_source, test_rows)
    return train_rows, test_source, test_rows


def _with_class(source: Source) -> np.ndarray:
    """Returns the indices of a source's images that have a class; all if none has."""
    labels = source.labels
    rows = np.arange(source.num_images)
    return rows if labels is None or (labels < 0).all() else rows[labels >= 0]


def _warn_of_copies(
    train: Source, train_rows: np.ndarray, test: Source, test_rows: np.ndarray
) -> None:
    pairs, checked = identical_files(train, train_rows, test, test_rows)
    if pairs:
        first, other = (shown(name, 120) for name in pairs[0])
        of = f"{checked:,} that were compared" if checked < len(test_rows) else f"{checked:,}"
        warnings.warn(
            f"{len(pairs):,} of the {of} test images of '{test.name}' are training images of "
            f"'{train.name}' too, byte for byte ('{first}' is '{other}'): scores come out too "
            "high; remove the copies from one of the sets",
            stacklevel=2,
        )


def check_classes(train: Source, test: Source | None) -> int:
    """Checks that train and test have the same classes, two or more, and returns their number.

    Args:
        train: labelled train images.
        test: labelled test images, or None where some of `train` are held out.

    Raises:
        UserError: no labels, one class only, or classes that differ.
    """
    for source in (train, test):
        if source is not None and (source.labels is None or (source.labels < 0).all()):
            raise UserError(
                f"'{source.name}' has no labels, which evaluation needs: use a folder with a "
                "sub-folder for each of two or more classes, a list with a column label, or a "
                "dataset with labels"
            )
    present = np.unique(train.labels[_with_class(train)])
    if len(present) < 2:
        names = train.class_names
        one = f"'{names[present[0]]}'" if names else str(present[0])
        raise UserError(f"'{train.name}' has one class only ({one}); evaluation needs two or more")
    highest = int(present[-1])
    if test is not None:
        if train.class_names and test.class_names and train.class_names != test.class_names:
            raise UserError(
                "train and test have different classes: "
                f"'{train.name}' has {_listed(train.class_names, test.class_names)}; "
                f"'{test.name}' has {_listed(test.class_names, train.class_names)}; give both the "
                "same sub-folders"
            )
        if not test.class_names:
            unseen = np.setdiff1d(test.labels[_with_class(test)], present)
            if len(unseen):
                shown = ", ".join(map(str, unseen[:10]))
                raise UserError(
                    f"'{test.name}' has images of class {shown}{' ...' * (len(unseen) > 10)}, of "
                    f"which '{train.name}' has none: train and test must have the same classes"
                )
        highest = max(highest, int(test.labels.max()))
    return max(highest + 1, len(train.class_names or ()))


def _listed(names: tuple[str, ...], others: tuple[str, ...]) -> str:
    """Returns all of a few names, or of many the first ones that the others lack."""
    if len(names) <= 10:
        return ", ".join(names)
    own = [name for name in names if name not in others]
    shown = ", ".join(own[:10])
    return f"{len(names)}, {len(own)} of them its own{': ' if own else ''}{shown}"
