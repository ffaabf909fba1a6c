"""The heads that were trained with a backbone, in a file of their own beside its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from keras import ops

from rfd_tf.applications import read_record
from rfd_tf.errors import UNREADABLE_NPZ, UserError, shown
from rfd_tf.paths import expanded, replacing

FILE = "heads.npz"
_EPOCH = "epoch"

#: Kernel `[d, n]` and bias `[n]` of a linear layer, float32.
Head = tuple[np.ndarray, np.ndarray]


def save_heads(
    folder: str | os.PathLike, heads: Mapping[str, keras.layers.Dense], epoch: float
) -> Path:
    """Writes the linear heads of a method to `heads.npz` in a run folder, whole or not at all.

    The file is a NumPy archive with "NAME/kernel" `[d, n]` and "NAME/bias" `[n]`, float32, for
    every head, and "epoch". Of RFD: "rotation_head", on f1, and "projection", on f2; each on the
    whole feature where it is not split. A projection with a hidden layer, which ends in a ReLU,
    has it as "projection_hidden" before it. A layer without bias has one of zeros in the file.

    Args:
        folder: of the run.
        heads: of `Method.heads()`.
        epoch: that the weights beside it were saved after, as in their record.

    Returns:
        The path.

    Raises:
        UserError: the file cannot be written.

    >>> import tempfile
    >>> layer = keras.layers.Dense(4)
    >>> layer.build((None, 64))
    >>> path = save_heads(tempfile.mkdtemp(), {"rotation_head": layer}, epoch=3)
    >>> load_heads(path.parent)["rotation_head"][0].shape
    (64, 4)
    """
    arrays = {_EPOCH: np.float64(epoch)}
    for name, layer in heads.items():
        bias = np.zeros(layer.units) if layer.bias is None else layer.bias.value
        for part, value in (("kernel", layer.kernel.value), ("bias", bias)):
            arrays[f"{name}/{part}"] = np.asarray(ops.convert_to_numpy(value), np.float32)
    path = expanded(folder) / FILE
    try:
        with replacing(path) as writing, open(writing, "wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from error
    return path


def load_heads(folder: str | os.PathLike) -> dict[str, Head]:
    """Returns the heads of a run folder: name -> (kernel `[d, n]`, bias `[n]`), float32.

    Args:
        folder: with `heads.npz`, as `save_heads` writes it.

    Raises:
        UserError: there is no such file, it is damaged, or it belongs to another epoch than the
            `backbone.weights.h5` beside it.
    """
    folder = expanded(folder)
    path = folder / FILE
    again = "resume the run (its command again, or Run.resume), which writes it"
    if not path.is_file():
        raise UserError(f"'{folder}' holds no {FILE}; {again}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        epoch = float(arrays.pop(_EPOCH))
        names = dict.fromkeys(name.rsplit("/", 1)[0] for name in arrays)
        heads = {name: (arrays[f"{name}/kernel"], arrays[f"{name}/bias"]) for name in names}
        for kernel, bias in heads.values():
            if kernel.ndim != 2 or bias.shape != kernel.shape[1:]:
                raise ValueError("shapes that do not fit")
    except UNREADABLE_NPZ as error:
        raise UserError(f"'{path}' is damaged ({shown(error)}); {again}") from None
    if (folder / "backbone.weights.h5").is_file():
        recorded = (read_record(folder) or {}).get("epoch")
        if recorded is not None and recorded != epoch:
            raise UserError(
                f"'{path}' is of epoch {epoch:g}, the weights beside it of epoch {recorded:g}; "
                f"{again}"
            )
    return heads
