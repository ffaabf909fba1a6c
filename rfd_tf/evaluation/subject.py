"""The models under evaluation: the pretrained one, and its random twin."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf import applications
from rfd_tf.applications.registry import copy_architecture, recorded_name
from rfd_tf.applications.start import FILE as START_FILE
from rfd_tf.applications.weights import RUN_FILE, find_weights, sha256
from rfd_tf.errors import UserError
from rfd_tf.evaluation.features import Pooling, feature_tensors

PRETRAINED, RANDOM, START = "pretrained", "random init", "starting weights"


class Subject:
    """A model under evaluation.

    Create it with `Subject.pretrained(weights)`. Its `random_twin(seed)` has the same architecture,
    untrained, and is evaluated by the same code, as is `starting_twin(seed)`, the network before
    training, if that started from weights.

    Attributes:
        title: "pretrained", "random init" or "starting weights".
        record: of the weights file: "backbone", "arguments", "image_size", and where recorded
            "mean", "std", "feature" {"endpoint", "pooling", "split"}.
        folder: the run folder, where the weights lie in one; None for a random twin.
        sha256: of the weights file.
        image_size: side of its images, pixels.
        mean, std: three numbers each, of the normalisation `(x / 255 - mean) / std`.

    >>> import tempfile
    >>> network = applications.build("six_layer", 32)
    >>> record = {"format": 1, "backbone": "six_layer", "arguments": {}, "image_size": 32}
    >>> path = os.path.join(tempfile.mkdtemp(), "backbone.weights.h5")
    >>> subject = Subject.pretrained(applications.save_backbone(network, path, record))
    >>> subject.title, subject.network().output_shape, subject.random_twin(0).title
    ('pretrained', (None, 8, 8, 128), 'random init')
    """

    def __init__(
        self, title: str, record: dict[str, Any], path: Path, folder: Path | None, seed: int
    ):
        self.title, self.record, self.folder = title, record, folder
        self.image_size = int(record["image_size"])
        self.mean = tuple(record.get("mean") or applications.IMAGENET_MEAN)
        self.std = tuple(record.get("std") or applications.IMAGENET_STD)
        self._path, self._seed = path, seed

    @classmethod
    def pretrained(cls, weights: str | os.PathLike) -> Subject:
        """Takes a run folder, a `.weights.h5` file with a record, or a shipped name.

        Raises:
            UserError: no such file or name, or no record of the backbone in it.
        """
        path = find_weights(weights)
        record = applications.read_record(path)
        if record is None:
            applications.load_backbone(path)  # names what is missing
        in_run = os.path.isdir(weights) or (path.parent / "run.json").exists()
        return cls(PRETRAINED, record, path, path.parent if in_run else None, 0)

    def random_twin(self, seed: int) -> Subject:
        """Returns a subject of the same architecture with random weights, the seed's."""
        twin = Subject(RANDOM, self.record, self._path, None, seed)
        twin._evaluated = self
        return twin

    def starting_twin(self, seed: int) -> Subject | None:
        """Returns a subject with the weights that the run started from, which lie in its folder.

        Its heads are random, the seed's. None where the network was trained from random weights,
        or where they are not there.
        """
        if not self.record.get("started_from") or self._path.name != RUN_FILE:
            return None
        path = self._path.with_name(START_FILE)
        if not path.is_file():
            return None
        record = applications.read_record(path)
        if record is None or record.get("started_from") != self.record["started_from"]:
            return None
        twin = Subject(START, record, path, None, seed)
        twin._evaluated = self
        return twin

    @property
    def is_pretrained(self) -> bool:
        """Whether this is the model under evaluation, rather than one of its twins."""
        return self.title == PRETRAINED

    @functools.cached_property
    def sha256(self) -> str:
        """The hex digest of the weights file."""
        return sha256(self._path)

    def network(self) -> keras.Model:
        """Returns a fresh backbone, `[None, S, S, 3]` normalised pixels to its last feature.

        Without top and pooling, always with the same weights. It may be
        trained. Sets Keras' global seed for a random twin.
        """
        if self.title != RANDOM:
            return applications.load_backbone(self._path)[0]
        keras.utils.set_random_seed(self._seed)
        return self.untrained()

    def untrained(self, image_size: int | None = None) -> keras.Model:
        """Returns the architecture with new random weights, as `network` without a seed.

        Args:
            image_size: side of its images, pixels; the subject's own if None.
        """
        backbone = recorded_name(self.record, self._path)
        size = self.image_size if image_size is None else image_size
        return applications.build(backbone, size, **self.record["arguments"])

    def copy_architecture(self, folder: Path) -> None:
        """Puts the architecture of a backbone without a name into a folder of its weights."""
        copy_architecture(self.record, self._path, folder)

    def feature_tensors(
        self,
        model: keras.Model,
        pooling: Pooling = ("average", 1),
        endpoints: Sequence[str] | None = None,
        embedding: bool = False,
        pixels: bool = False,
    ) -> dict[str, Any]:
        """Names the vectors of `network()` that are evaluated; see `features.feature_tensors`.

        Args:
            model: of `network()`.
            pooling: of maps.
            endpoints: names; by default all of the backbone's.
            embedding: whether to add "embedding", the projection of the instance loss (of BiGAN:
                the latent, in front of its sigmoid), where the run folder holds its head.
            pixels: whether to add "pixels", the model's images themselves, values from 0 to 1.
        """
        tensors = feature_tensors(model, self.record.get("feature"), pooling, endpoints)
        head = self.heads.get("projection") if embedding else None
        if head is not None:
            features = tensors.get("f2")
            if features is None:
                endpoint = (self.record.get("feature") or {}).get("endpoint")
                features = ops.cast(
                    applications.pooled_feature_model(model, endpoint).output, "float32"
                )
            hidden = self.heads.get("projection_hidden")
            layers = [head] if hidden is None else [hidden, head]
            for number, (kernel, bias) in enumerate(layers):
                if features.shape[-1] != kernel.shape[0]:
                    raise UserError(
                        f"the projection head of '{self.folder}' takes {kernel.shape[0]} numbers, "
                        f"the feature has {features.shape[-1]}"
                    )
                features = ops.relu(features) if number else features
                features = ops.matmul(features, kernel) + bias
            tensors["embedding"] = features
        if pixels:
            mean, std = (np.asarray(each, np.float32) for each in (self.mean, self.std))
            images = ops.cast(model.input, "float32") * std + mean
            tensors["pixels"] = ops.reshape(images, (-1, math.prod(model.input_shape[1:])))
        return tensors

    @functools.cached_property
    def heads(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Name -> (kernel `[d, n]`, bias `[n]`) of the heads trained with the backbone.

        Those of the run folder; random ones of the same shapes for its twins; none where the run
        folder has none.
        """
        if self.is_pretrained:
            # (Another weights file in the folder was not trained with them.)
            return _trained_heads(self.folder) if self._path.name == RUN_FILE else {}
        heads = {}
        rng = np.random.default_rng(self._seed)
        for name, (kernel, bias) in self._evaluated.heads.items():
            bound = 1 / np.sqrt(len(kernel))
            random = [rng.uniform(-bound, bound, part.shape) for part in (kernel, bias)]
            heads[name] = tuple(part.astype(np.float32) for part in random)
        return heads


def _trained_heads(folder: Path | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if folder is None or not (folder / "heads.npz").exists():
        return {}
    from rfd_tf.evaluation.heads import load_heads

    return load_heads(folder)
