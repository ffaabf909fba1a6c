"""Which folders hold results of this package: their pictures are no images to train on."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Iterable, Sequence

from rfd_tf.errors import UserError, shown

#: Each is written by a command into the folder of its results: pretrain.py, saliency.py, study.py,
#: ablate.py, evaluate.py --suite, export.py and embed.py.
MARKERS = (
    "run.json",
    "saliency.json",
    "study.json",
    "ablations.json",
    "comparison.json",
    "card.json",
    "embeddings.json",
)
_EVALUATION_FILES = "_files"
_NAMED = 5


def holds_results(folder: str, names: Collection[str]) -> bool:
    """Returns whether a folder holds results: of a run, an evaluation, an export.

    Args:
        folder: its path.
        names: of the entries in it.

    >>> holds_results("photos/run", ["run.json", "figures"]), holds_results("photos", ["a.png"])
    (True, False)
    """
    if any(marker in names for marker in MARKERS):
        return True
    # Beside an evaluation's NAME.json lie its figures, in NAME_files.
    return folder.endswith(_EVALUATION_FILES) and _is_evaluation(
        folder.removesuffix(_EVALUATION_FILES) + ".json"
    )


def _is_evaluation(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(report, dict) and {"protocol", "results", "sha256"} <= report.keys()


def identities(root: str, leave_out: Iterable[str | os.PathLike]) -> set[tuple[int, int]]:
    """Returns device and inode of the folders to leave out; those that do not exist are passed.

    Raises:
        UserError: one of them is `root` itself.
    """
    found = set()
    for folder in leave_out:
        try:
            status = os.stat(folder)
            same = os.path.samestat(status, os.stat(root))
        except OSError:
            continue
        if same:
            raise UserError(
                f"the output folder '{folder}' is the folder of the images, which would then hold "
                "pictures of the results; give another output folder, such as "
                f"'{os.path.join(root, 'run')}'"
            )
        found.add((status.st_dev, status.st_ino))
    return found


def report(root: str, left_out: Sequence[str]) -> None:
    """Warns, in one line, of the folders below `root` that were left out."""
    if not left_out:
        return
    named = ", ".join(f"'{shown(name)}'" for name in sorted(left_out)[:_NAMED])
    more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    warnings.warn(
        f"left out of the images in '{root}', because they hold results of rfd_tf: {named}{more}",
        stacklevel=1,
    )
