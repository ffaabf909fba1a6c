"""Reads a folder of reference vectors, and makes the weights that they were computed with.

Such a folder holds outputs of the published PyTorch programs of RFD and RotNet, as `.npz` files,
and `state_dict.json`, the names and shapes of the networks' weights. The weights themselves follow
from a seed, so that the folder stays small.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from rfd_tf.errors import UserError
from rfd_tf.paths import expanded

STATE_DICT = "state_dict.json"
# Streams of the seed that give the images of `rfd_steps.npz` and of `nin.npz`.
RFD_IMAGES, NIN_IMAGES = 500, 501
# Network -> where its entries' seeds begin.
BASES = {"feature": 1000, "classifier": 2000, "norm": 3000, "nin": 4000}
STEP_ARRAYS = {
    "nce.npz": ("features", "ids", "negatives", "probabilities", "loss", "grad_features", "z"),
    "rfd_steps.npz": (
        "ids",
        "negatives",
        "losses",
        "logits",
        "embedding",
        "z",
        "grad_norm_names",
        "grad_norms",
    ),
}
ALEXNET_NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc_block")
FIXED_ARRAYS = {
    "rotations.npz": ("images", "views"),
    "nce.npz": ("bank_0", "temperature", "momentum"),
    "rfd_steps.npz": (
        "bank_0",
        "image_seed",
        "pu_weights",
        "final_names",
        "final_mean",
        "final_norm",
        *(f"eval_{name}_{kind}" for name in ALEXNET_NAMES for kind in ("mean", "head")),
    ),
}
FILES = ("rotations.npz", "adaptive_max_pool.npz", "nce.npz", "rfd_steps.npz", "nin.npz")


class Vectors:
    """One file's arrays, by name; a mapping that knows where it comes from."""

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray]):
        self.name = name
        self.arrays = dict(arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def names(self) -> list[str]:
        return list(self.arrays)

    @property
    def steps(self) -> int:
        """How many steps the file holds, 0 where it holds none."""
        return sum(re.fullmatch(r"z_\d+", name) is not None for name in self.arrays)

    def stems(self, suffix: str) -> list[str]:
        """What stands before `suffix` in the names that end so, in the file's order."""
        return [name.removesuffix(suffix) for name in self.arrays if name.endswith(suffix)]

    def expected(self) -> list[str]:
        """The names that a file of this kind holds, by those that it does hold."""
        if self.name == "adaptive_max_pool.npz":
            return [
                f"{stem}{end}" for stem in self._stems("_in", "_out") for end in ("_in", "_out")
            ]
        if self.name == "nin.npz":
            ends = ("_shape", "_mean", "_head")
            return [f"{stem}{end}" for stem in self._stems(*ends) for end in ends]
        steps = STEP_ARRAYS.get(self.name, ())
        names = [f"{name}_{i}" for i in range(max(self.steps, 1)) for name in steps]
        banks = [f"bank_{i + 1}" for i in range(max(self.steps, 1))] if steps else []
        return [*FIXED_ARRAYS[self.name], *names, *banks]

    def _stems(self, *ends: str) -> Iterable[str]:
        stems = dict.fromkeys(stem for end in ends for stem in self.stems(end))
        return stems or ("conv1",)


def read(directory: str | os.PathLike) -> dict[str, Vectors]:
    """Reads the `.npz` files of a vectors folder.

    Args:
        directory: a folder with exactly the five `.npz` files and `state_dict.json`; texts
            (`.md`) and hidden files are passed over.

    Returns:
        `{file name: Vectors}`.

    Raises:
        UserError: no such folder; a file or an array that is missing, damaged, or does not
            belong there.
    """
    directory = expanded(directory)
    if not directory.is_dir():
        raise UserError(f"no such folder of reference vectors: '{directory}'")
    present = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    wanted = {*FILES, STATE_DICT}
    for name in sorted(wanted - present):
        raise UserError(f"'{directory}' lacks {name}; a vectors folder holds {_listed(wanted)}")
    for name in sorted(present - wanted):
        if not name.endswith(".md"):
            raise UserError(
                f"'{directory}' holds '{name}', which nothing here compares with; "
                f"a vectors folder holds {_listed(wanted)}"
            )
    return {name: _read_arrays(directory / name) for name in FILES}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _read_arrays(path: Path) -> Vectors:
    try:
        with np.load(path, allow_pickle=False) as file:
            vectors = Vectors(path.name, {name: file[name] for name in file.files})
    except Exception as error:  # a damaged archive fails in many ways
        raise UserError(f"'{path}' is not an .npz file that can be read: {error}") from None
    expected = vectors.expected()
    for name in expected:
        if name not in vectors.arrays:
            raise UserError(f"'{path}' lacks the array '{name}'")
    for name, value in vectors.arrays.items():
        if name not in expected:
            raise UserError(f"'{path}' holds an array '{name}', which nothing here compares with")
        if value.dtype.kind not in ("U" if "names" in name else "fiu"):
            raise UserError(f"array '{name}' of '{path}' has the wrong dtype, {value.dtype}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise UserError(f"array '{name}' of '{path}' holds values that are not finite")
    return vectors


def read_state_dict(directory: str | os.PathLike) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """Reads `state_dict.json`: per network, its entries' names and shapes in order.

    Raises:
        UserError: it cannot be read, or lacks a network.
    """
    path = expanded(directory) / STATE_DICT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        networks = {
            network: [(str(name), tuple(int(size) for size in shape)) for name, shape in entries]
            for network, entries in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"'{path}' does not list names and shapes: {error}") from None
    if set(networks) != set(BASES):
        raise UserError(f"'{path}' lists {_listed(networks)} instead of {_listed(BASES)}")
    return networks


def weights(
    entries: Iterable[tuple[str, tuple[int, ...]]], network: str, seed: int
) -> dict[str, np.ndarray]:
    """Makes a network's weights by the vectors' recipe, in PyTorch's names and layouts.

    Entry number k is drawn from `default_rng([seed, base + k])` and scaled by what it is: batch
    statistics, gammas, biases or kernels.

    Args:
        entries: names and shapes in order, as of `read_state_dict`.
        network: `feature`, `classifier`, `norm` or `nin`.
        seed: the folder's seed.

    >>> made = weights([("a.weight", (2, 3)), ("a.num_batches_tracked", ())], "norm", 1)
    >>> [(name, value.shape, value.dtype.name) for name, value in made.items()]
    [('a.weight', (2, 3), 'float32')]
    """
    made = {}
    for number, (name, shape) in enumerate(entries):
        if name.endswith("num_batches_tracked"):
            continue
        n = normal(shape, seed, BASES[network] + number)
        if name.endswith("running_mean"):
            n = 0.1 * n
        elif name.endswith("running_var"):
            n = 1 + 0.1 * np.abs(n)
        elif len(shape) == 1:
            n = 1 + 0.1 * n if name.endswith("weight") else 0.1 * n
        else:
            n = n / math.sqrt(math.prod(shape[1:]))
        made[name] = n
    return made


def normal(shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Float32 normal numbers of a seed's stream."""
    return np.random.default_rng([seed, stream]).standard_normal(shape).astype(np.float32)


def need_shape(vectors: Vectors, name: str, *shape: int | None) -> None:
    """Raises `UserError` unless an array has a shape, None standing for any size above 0."""
    found = vectors[name].shape
    if len(found) != len(shape) or any(
        size == 0 or (wanted is not None and size != wanted)
        for size, wanted in zip(found, shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise UserError(f"array '{name}' of {vectors.name} has shape {found}, not ({wanted})")


def check_indices(vectors: Vectors, step: int, rows: int) -> None:
    """Raises `UserError` unless a step's ids and negatives are rows of a bank."""
    need_shape(vectors, f"ids_{step}", None)
    need_shape(vectors, f"negatives_{step}", len(vectors[f"ids_{step}"]), None)
    for name in (f"ids_{step}", f"negatives_{step}"):
        values = vectors[name]
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= rows:
            raise UserError(
                f"array '{name}' of {vectors.name} does not hold rows of a bank of {rows}"
            )
