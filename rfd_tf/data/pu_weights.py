"""Files of PU weights: the probability that each rotated view looks upright.

Two formats, by the file's extension:

- `.npz`: the array `upright_probability`, float32 `[num_images, 4]`, with the fingerprint and name
  of the dataset it was made from, the classifier and its settings as JSON. It holds no pickles.
- `.dat`: the text file of RFD's published program, 4 * num_images lines of one probability each.
  Line 4 * i + r belongs to rotation r (counter-clockwise quarter turns) of image i in the sorted
  order of the folder. Line r = 0 is not used. It does not name its dataset.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rfd_tf.data.base import Source
from rfd_tf.data.views import NUM_ROTATIONS
from rfd_tf.errors import UNREADABLE_NPZ, UserError, shown
from rfd_tf.paths import expanded, replacing
from rfd_tf.text import read_text

EXTENSIONS = (".npz", ".dat")
_FORMAT = 1
_AGAIN = "make it again with rfd-tf estimate-pu"


def read(path: str | os.PathLike, source: Source) -> np.ndarray:
    """Reads the PU weights that belong to a source.

    Args:
        path: a `.npz` or `.dat` file.
        source: the images that the weights are for.

    Returns:
        float32 `[num_images, 4]`, probabilities 0 to 1; column 0 is not used in training.

    Raises:
        UserError: the file is missing, broken, holds pickles, values that are no probabilities or
            another number of them, or was made from another dataset.

    >>> from rfd_tf.data import digits
    >>> path = os.path.join(tempfile.mkdtemp(), "pu.npz")
    >>> write(path, np.full((297, 4), 0.25), digits("test"), classifier="softmax")
    >>> read(path, digits("test")).shape
    (297, 4)
    """
    path, extension = _found(path)
    if extension == ".dat":
        return _checked(_read_text(path, source), path)
    content = _read_npz(path)
    if content["fingerprint"] != source.fingerprint:
        raise UserError(
            f"PU weights '{path}' were made from '{content['dataset']}' "
            f"({len(content['upright_probability'])} images, fingerprint "
            f"{content['fingerprint'][:12]}), not from '{source.name}' ({source.num_images} "
            f"images, fingerprint {source.fingerprint[:12]}); give the images they were made "
            "from, or make weights for these with rfd-tf estimate-pu"
        )
    probability = content["upright_probability"]
    if probability.shape != (source.num_images, NUM_ROTATIONS):
        raise UserError(
            f"PU weights '{path}' have shape {probability.shape} instead of "
            f"({source.num_images}, {NUM_ROTATIONS}); {_AGAIN}"
        )
    return _checked(probability, path)


def check(path: str | os.PathLike) -> None:
    """Raises `UserError` for a path that is no file of PU weights, whatever its images."""
    path, extension = _found(path)
    if extension == ".npz":
        _read_npz(path)


def _found(path: str | os.PathLike) -> tuple[Path, str]:
    path = expanded(path)
    extension = _extension(path)
    if not path.is_file():
        raise UserError(f"no such PU weights file: '{path}'; {_AGAIN}")
    return path, extension


def read_description(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the metadata of a `.npz` file: dataset, fingerprint, classifier, settings.

    Raises:
        UserError: the file cannot be read.
    """
    content = _read_npz(expanded(path))
    del content["upright_probability"]
    return content


def write(
    path: str | os.PathLike,
    upright_probability: np.ndarray,
    source: Source,
    *,
    classifier: str,
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes PU weights, whole or not at all.

    Args:
        path: file to write; `.npz` or `.dat` chooses the format.
        upright_probability: `[num_images, 4]`, 0 to 1.
        source: the images they were estimated on.
        classifier: what estimated them.
        settings: how, in terms of JSON. `.dat` has no place for this and the former.
        overwrite: whether an existing file may be replaced.

    Raises:
        UserError: values that are no probabilities, another shape, a file that exists or cannot
            be written.
    """
    path = expanded(path)
    extension = _extension(path)
    probability = np.asarray(upright_probability, np.float32)
    if probability.shape != (source.num_images, NUM_ROTATIONS):
        raise UserError(
            f"PU weights of '{source.name}' must have shape ({source.num_images}, "
            f"{NUM_ROTATIONS}), got {probability.shape}"
        )
    probability = _checked(probability, path)
    check_output(path, overwrite)

    def save(file: BinaryIO) -> None:
        if extension == ".dat":
            # Nine digits bring every float32 back as it was.
            file.writelines(b"%.9g\n" % value for value in probability.ravel().tolist())
            return
        np.savez_compressed(
            file,
            upright_probability=probability,
            format=np.array(_FORMAT),
            fingerprint=np.array(source.fingerprint),
            dataset=np.array(source.name),
            classifier=np.array(classifier),
            settings=np.array(json.dumps(settings or {}, sort_keys=True)),
        )

    replace_file(path, save)


def check_output(path: str | os.PathLike, overwrite: bool = False, flag: str = "--output") -> None:
    """Finds out before the work whether a file can be written afterwards; makes its folder.

    Raises:
        UserError: the file exists and `overwrite` is not given, or it cannot be written.
    """
    path = expanded(path)
    with _clear_message(path, flag):
        if path.is_dir():
            raise UserError(f"'{path}' is a folder; give {flag} a file name")
        if path.exists() and not overwrite:
            raise UserError(f"'{path}' exists; give another {flag}, or --overwrite to replace it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def replace_file(
    path: str | os.PathLike, save: Callable[[BinaryIO], None], flag: str = "--output"
) -> None:
    """Writes a file beside its place and then moves it there: never half a file.

    Args:
        path: the file.
        save: writes the content to an open binary file.
        flag: what a user changes to choose another place.

    Raises:
        UserError: the file cannot be written.
    """
    path = expanded(path)
    with _clear_message(path, flag), replacing(path) as writing, open(writing, "wb") as file:
        save(file)


@contextlib.contextmanager
def _clear_message(path: Path, flag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write '{path}' ({error.strerror or error}); choose another {flag}"
        ) from None


def _extension(path: Path) -> str:
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise UserError(
            f"PU weights file '{path}' must end in .npz, or in .dat for the text format of RFD's "
            "published program"
        )
    return extension


def _checked(probability: np.ndarray, path: Path) -> np.ndarray:
    bad = ~((probability >= 0) & (probability <= 1))  # NaN is neither
    if bad.any():
        image, rotation = (int(place[0]) for place in np.nonzero(bad))
        raise UserError(
            f"PU weights '{path}': {int(bad.sum())} values are no probabilities from 0 to 1, the "
            f"first {probability[image, rotation]} of image {image}, rotation {90 * rotation}; "
            f"{_AGAIN}"
        )
    return np.ascontiguousarray(probability, np.float32)


def _read_text(path: Path, source: Source) -> np.ndarray:
    lines = read_text(path, "PU weights").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    wanted = NUM_ROTATIONS * source.num_images
    if len(lines) != wanted:
        raise UserError(
            f"PU weights '{path}' have {len(lines)} lines; the {source.num_images} images of "
            f"'{source.name}' need {wanted}, one an image and rotation"
        )
    values = np.empty(wanted, np.float32)
    for number, line in enumerate(lines):
        try:
            values[number] = float(line)
        except ValueError:
            raise UserError(
                f"PU weights '{path}', line {number + 1}: '{line.strip()[:40]}' is no number"
            ) from None
    values = values.reshape(-1, NUM_ROTATIONS)
    # The published program never looks at the line of the upright view; it may hold anything.
    values[:, 0] = np.where((values[:, 0] >= 0) & (values[:, 0] <= 1), values[:, 0], 1.0)
    return values


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        if not zipfile.is_zipfile(path):
            # NumPy would take anything else for a pickle.
            raise UserError(f"'{path}' is no .npz file, or a broken one; {_AGAIN}")
        with np.load(path, allow_pickle=False) as file:
            missing = {"upright_probability", "fingerprint", "dataset", "classifier"} - {*file}
            if missing:
                raise UserError(
                    f"'{path}' holds no PU weights: {', '.join(sorted(missing))} missing; {_AGAIN}"
                )
            content = {name: file[name] for name in file}
        probability = content["upright_probability"]
        if probability.dtype.kind != "f" or probability.ndim != 2:
            raise ValueError(f"an array of {probability.dtype} {probability.shape}")
        return {
            "upright_probability": probability,
            "fingerprint": str(content["fingerprint"]),
            "dataset": str(content["dataset"]),
            "classifier": str(content["classifier"]),
            "settings": json.loads(str(content.get("settings", "{}"))),
        }
    except UserError:
        raise
    except UNREADABLE_NPZ as error:
        if "pickle" in str(error):
            raise UserError(
                f"'{path}' holds pickled objects, which are not loaded: they could run any "
                f"program; {_AGAIN}"
            ) from None
        raise UserError(f"PU weights '{path}' cannot be read ({shown(error)}); {_AGAIN}") from None
