"""Weights files: `.weights.h5` as Keras writes them, with a record of what they belong to."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rfd_tf.applications import hub, pretrained
from rfd_tf.applications import record as records
from rfd_tf.errors import UserError, shown, unknown
from rfd_tf.paths import expanded, replacing

SUFFIX = ".weights.h5"
RUN_FILE = "backbone.weights.h5"
_TOP = "predictions"  # the classification layer
# Options that leave the weights as they are.
WITHOUT_WEIGHTS = ("fused_batch_norm", "dropout", "dropout_rate", "initialization")


def save_backbone(model: keras.Model, path: str | os.PathLike, record: dict[str, Any]) -> Path:
    """Writes a backbone's weights and their record into one file.

    The file is the one `model.save_weights` writes, so that Keras alone loads it into the same
    network; the record is JSON in the attribute `rfd_tf` of the file's root. It appears whole or
    not at all.

    Args:
        model: the backbone, with or without top.
        path: where to, ending in `.weights.h5`; the folder is made if need be.
        record: `format` (1), `backbone` (key of `BACKBONES`), `arguments` (the constructor's own
            options), `image_size` in pixels; and, as far as known, `mean` and `std` (of
            `preprocess_input`), `method`, `dataset`, `epoch`, `feature` (`endpoint`, `pooling`,
            `split`), `endpoints`, `started_from` (see `origin`) and, of a Keras model that is in
            no registry, `architecture` (`name` and `sha256` of the file beside the weights).

    Returns:
        The path.

    Raises:
        UserError: another ending, a record that lacks something, a place that cannot be written.

    >>> import tempfile
    >>> from rfd_tf.applications import SixLayer
    >>> model = SixLayer(include_top=False, input_shape=(32, 32, 3))
    >>> record = {"format": 1, "backbone": "six_layer", "arguments": {}, "image_size": 32}
    >>> path = save_backbone(model, tempfile.mkdtemp() + "/six.weights.h5", record)
    >>> read_record(path)["image_size"]
    32
    """
    import h5py

    path = expanded(path)
    if not path.name.endswith(SUFFIX):
        raise UserError(f"weights are written to a file ending in {SUFFIX}, not '{path}'")
    text = records.encode(record)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as writing:
            model.save_weights(writing)
            with h5py.File(writing, "r+") as file:
                file.attrs[records.ATTRIBUTE] = text
    except OSError as error:
        raise UserError(f"cannot write weights to '{path}': {error}") from error
    return path


def read_record(path: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the record of a weights file, or None where it carries none.

    Args:
        path: a `.weights.h5` file, the run folder that holds one, or a shipped name.

    Raises:
        UserError: no such file, not a weights file, or a damaged record.

    >>> read_record("six_layer.rfd_cifar10")["feature"]["split"]
    [64, 64]
    """
    import h5py

    path = find_weights(path)
    with _opened(path) as file:
        try:
            text = file.attrs.get(records.ATTRIBUTE)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError):
            raise UserError(f"the record in '{path}' cannot be read") from None
        if isinstance(text, h5py.Empty):
            text = ""
    return None if text is None else records.decode(text, f"'{path}'")


def load_into(
    model: keras.Model,
    weights: str | os.PathLike,
    backbone: str,
    arguments: dict[str, Any],
    defaults: dict[str, Any],
) -> None:
    """Loads a weights file into a freshly built backbone, all of it or none.

    Shipped weights by name have no classification layer: a network with a top keeps its new one,
    and a warning says so. A file without one is refused there.

    Args:
        model: the network to fill, with top or without.
        weights: a `.weights.h5` file, the run folder that holds one, or a shipped name.
        backbone: the network's key in `BACKBONES`.
        arguments: the values of its own options.
        defaults: the defaults of these, see `building.own_defaults`.

    Raises:
        UserError: no such file or name; a file of another backbone, other options, another
            number of classes; a weight too many or too few.
    """
    path = find_weights(weights, backbone)
    record = read_record(path)
    if record is not None:
        same = record["backbone"] == backbone
        if same:
            check_options(record, path, defaults)
        theirs = _described(record["backbone"], record["arguments"], defaults if same else {})
        ours = _described(backbone, arguments, defaults)
        if theirs != ours:
            raise UserError(f"'{path}' holds backbone {theirs}, not {ours}")
    if pretrained.find(weights, backbone) and _has_top(model):
        warnings.warn(
            f"weights '{weights}' have no classification layer: `predictions` is new and has to be "
            "trained; include_top=False leaves it out",
            stacklevel=3,
        )
        model = keras.Model(model.inputs, model.get_layer(_TOP).input)
    _load(model, path, record, backbone, defaults)


def load_exactly(model: keras.Model, weights: str | os.PathLike, backbone: str) -> None:
    """Loads a weights file into a network that is in no registry, all of it or none.

    Args:
        model: the network to fill.
        weights: a `.weights.h5` file or the run folder that holds one.
        backbone: what the network is called in messages.

    Raises:
        UserError: no such file, or a weight too many or too few.
    """
    path = find_weights(weights)
    _load(model, path, read_record(path), backbone, {})


def _load(
    model: keras.Model,
    path: Path,
    record: dict[str, Any] | None,
    backbone: str,
    defaults: dict[str, Any],
) -> None:
    _check_shapes(model, path, record, backbone, defaults)
    try:
        model.load_weights(str(path))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"'{path}' {_holds(record, defaults)}; its weights do not fit backbone {backbone}"
        ) from error


def find_weights(weights: str | os.PathLike, backbone: str | None = None) -> Path:
    """Returns the file that a path, a run folder or a shipped name stands for.

    Args:
        weights: a path, `hf://USER/REPO[@REVISION]` or a name; see `pretrained.find` for names.
        backbone: the network that the weights are for, where it is known.

    Raises:
        UserError: there is none (the shipped names are listed), or a shipped file has changed.
    """
    found = pretrained.find(weights, backbone)
    if found is not None:
        path = pretrained.path_of(found.file)
        if sha256(path) != found.sha256:
            raise UserError(
                f"'{path}' is not the file that shipped as '{found.name}' (its sha256 differs); "
                "install the package again to restore it"
            )
        return path
    if not isinstance(weights, (str, os.PathLike)) or not os.fspath(weights):
        given = repr(weights) if isinstance(weights, str) else type(weights).__name__
        raise UserError(f"weights must be None, a path or a name, not {given}")
    if hub.is_place(weights):
        return hub.fetch(weights)
    path = expanded(weights)
    if path.is_dir():
        if not (path / RUN_FILE).is_file():
            unfinished = (path / "run.json").is_file()
            way_out = (
                "; a run has it from the end of its first epoch: resume it" if unfinished else ""
            )
            raise UserError(f"folder '{path}' holds no {RUN_FILE}{way_out}")
        return path / RUN_FILE
    if not path.is_file():
        names = [*pretrained.tags(), *pretrained.WEIGHTS]
        if path.name != str(weights) or path.suffix in (".h5", ".keras"):
            raise UserError(
                f"no such weights file: '{path}'; give an existing one, a run folder or a shipped "
                f"name ({', '.join(pretrained.WEIGHTS)})"
            )
        way_out = "or the path of a .weights.h5 file or of a run folder"
        raise UserError(f"{unknown('weights', weights, names)}; {way_out}")
    if not path.name.endswith(SUFFIX):
        raise UserError(
            f"weights are read from a file ending in {SUFFIX}, not '{path}'; give that next to it, "
            "or its folder"
        )
    return path


def origin(weights: str | os.PathLike, backbone: str | None) -> dict[str, str]:
    """Returns the entry of a run's record on the weights that its backbone starts from.

    Args:
        weights: a `.weights.h5` file, the run folder that holds one, or a shipped name.
        backbone: key of `BACKBONES`, or None for a Keras model that is in no registry.

    Returns:
        `weights`, the absolute path, the shipped name or `hf://USER/REPO@COMMIT`, and `sha256`,
        the file's digest.

    Raises:
        UserError: there is no such file or name.

    >>> origin("rfd_cifar10", "six_layer")["weights"]
    'six_layer.rfd_cifar10'
    """
    path = find_weights(weights, backbone)
    shipped = pretrained.find(weights, backbone)
    if shipped:
        called = shipped.name
    else:
        called = hub.pinned(weights, path) if hub.is_place(weights) else str(path.absolute())
    return {"weights": called, "sha256": sha256(path)}


def digest(arrays: Iterable[np.ndarray]) -> str:
    """Returns the hexadecimal SHA-256 digest of a network's arrays, in their order.

    >>> digest([np.zeros(3)]) == digest([np.zeros((3, 1))])
    False
    """
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def sha256(path: str | os.PathLike) -> str:
    """Returns the hexadecimal SHA-256 digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _opened(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"'{path}' is not a weights file (HDF5), or is cut off") from error


def check_options(record: dict[str, Any], path: Path, defaults: dict[str, Any]) -> None:
    """Raises `UserError` where a record has an option that its backbone has not.

    Args:
        record: of a weights file.
        path: of the file, for the message.
        defaults: the options of the record's backbone.
    """
    for option in record["arguments"]:
        if option not in defaults:
            error = unknown(f"option of backbone {record['backbone']}", option, defaults)
            raise UserError(f"'{path}': {error}")


def _described(backbone: str, arguments: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Returns backbone and options as text that is the same where the networks are."""
    defaults = _as_json(defaults)
    shown = [
        f"{option}={value}"
        for option, value in sorted(_as_json(arguments).items())
        if value != defaults.get(option) and option not in WITHOUT_WEIGHTS
    ]
    return f"{backbone}({', '.join(shown)})" if shown else backbone


def _as_json(arguments: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(arguments, default=str))


def _holds(record: dict[str, Any] | None, defaults: dict[str, Any]) -> str:
    if record is None:
        return "carries no record of its backbone"
    described = _described(record["backbone"], record["arguments"], defaults)
    return f"holds backbone {described} for {record['image_size']} pixels"


def _has_top(model: keras.Model) -> bool:
    return any(layer.name == _TOP for layer in model.layers)


def _check_shapes(
    model: keras.Model,
    path: Path,
    record: dict[str, Any] | None,
    backbone: str,
    defaults: dict[str, Any],
) -> None:
    """Raises `UserError` unless the file has the model's weights and no others.

    Keras raises where a layer finds nothing of its own, but passes over what no layer asks for.
    """
    in_file = _shapes_in_file(path)
    top = in_file.pop(_TOP, None)
    if _has_top(model):
        if top is None:
            raise UserError(
                f"'{path}' {_holds(record, defaults)}, without a classification layer: "
                "load it with include_top=False"
            )
        classes, wanted = top[-1][-1], model.get_layer(_TOP).weights[-1].shape[-1]
        if classes != wanted:
            raise UserError(f"'{path}' classifies {classes} classes, not classes={wanted}")
        in_file[_TOP] = top
    found = Counter(shape for shapes in in_file.values() for shape in shapes)
    wanted = Counter(tuple(weight.shape) for weight in model.weights)
    if found != wanted:
        surplus = sum((found - wanted).values())
        missing = sum((wanted - found).values())
        raise UserError(
            f"'{path}' {_holds(record, defaults)} and does not fit backbone {backbone} as asked "
            f"for: {missing} of its {sum(wanted.values())} weights are not there in their shape, "
            f"{surplus} of the file's belong to something else"
        )


def _shapes_in_file(path: Path) -> dict[str, list[tuple[int, ...]]]:
    """Returns the shapes of the weights in a file by layer: its name where known, or its place."""
    import h5py

    found: dict[str, list[tuple[int, ...]]] = {}

    def visit(place: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            # Whose content would be taken from any other file on this machine.
            raise UserError(f"'{path}' is refused: its '{shown(place)}' points to another file")
        if not isinstance(item, h5py.Dataset) or "seed_generator" in place:
            return
        if place.startswith("optimizer/"):
            return
        layer = place.split("/vars/")[0]
        name = item.parent.attrs.get("name")
        key = _TOP if name in (_TOP, _TOP.encode()) else layer
        found.setdefault(key, []).append(tuple(item.shape or ()))

    with _opened(path) as file:
        try:
            file.visititems(visit)
        except UserError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise UserError(f"'{path}' is damaged: {error}") from error
    return found
