"""The images of a report and their features, computed once for all sections."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np

from rfd_tf.data.sources import Source
from rfd_tf.data.subset import index_hash
from rfd_tf.evaluation.base import Data, Subject
from rfd_tf.evaluation.features import FeatureExtractor, Features
from rfd_tf.evaluation.image_set import ImageSet
from rfd_tf.evaluation.splits import subset
from rfd_tf.evaluation.transformed import evaluated_tensors, transformed_features
from rfd_tf.interpret.report.run_record import RunRecord

_GALLERY = 5
# The halves first: they are what is compared.
_ORDER = ("f1", "f2", "f")


class ReportImages:
    """The run's network on the run's images.

    Args:
        run: with weights.
        train: images it was trained on; neighbours are searched among them.
        test: images to look at; None holds out a fixed fifth of `train` by class.
        count: largest number of test images, chosen by a hash of their index; neighbours are found
            among five times as many training images.
        batch_size: images per step.
        seed: seed of the random-init network, the map and drawn samples.

    Attributes:
        train: the source.
        data: `Data` of both, cut to `count`.
        subject: the network.

    Raises:
        UserError: no images to look at, or weights that cannot be read.

    >>> import pathlib, tempfile
    >>> from rfd_tf import applications, data
    >>> from rfd_tf.interpret.report import read_run
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "run.json").write_text("{}")
    >>> network, record = applications.load_backbone("six_layer.rfd_cifar10")
    >>> _ = applications.save_backbone(network, folder / "backbone.weights.h5", record)
    >>> images = ReportImages(read_run(folder), data.digits(), data.digits("test"), count=20)
    >>> list(images.tensors)
    ['f1', 'f2', 'f']
    """

    def __init__(
        self,
        run: RunRecord,
        train: Source,
        test: Source | None = None,
        count: int = 1000,
        batch_size: int = 128,
        seed: int = 0,
    ):
        self.subject = Subject.pretrained(run.folder)
        self.train, self.seed = train, seed
        options = {"labels_optional": True, "max_train_images": _GALLERY * count, "seed": seed}
        size = self.subject.image_size
        self.data = Data(train, test, size, batch_size, **options)
        evaluated = self.data.test
        rows = subset(evaluated.rows, count)
        self.data.test = ImageSet(evaluated.source, rows, size, batch_size, seed)

    @functools.cached_property
    def network(self) -> keras.Model:
        """The run's backbone, a Keras model on normalised pixels."""
        return self.subject.network()

    @functools.cached_property
    def tensors(self) -> dict[str, Any]:
        """The pretraining's own features: f1, f2 and f, or the one there is."""
        found = evaluated_tensors(self.subject, self.network)
        names = [name for name in _ORDER if name in found] or list(found)[-1:]
        return {name: found[name] for name in names}

    @functools.cached_property
    def _extract(self) -> FeatureExtractor:
        model = keras.Model(self.network.inputs, self.tensors)
        return FeatureExtractor(model, self.subject.mean, self.subject.std)

    @functools.cached_property
    def gallery(self) -> tuple[Features, np.ndarray]:
        """Features of the train images `[N, dim]` by name, and the images' indices `[N]`."""
        features, places = transformed_features(self._extract, self.data.train)
        return features, self.data.train.rows[places]

    @functools.cached_property
    def queries(self) -> tuple[Features, np.ndarray]:
        """Features of the test images and their indices, likewise."""
        features, places = transformed_features(self._extract, self.data.test)
        return features, self.data.test.rows[places]

    def pixels(self, source: Source, index: np.ndarray) -> np.ndarray:
        """Images of a source in the order of `index`, uint8 `[n, S, S, 3]`."""
        from rfd_tf.data.pipeline import load_images

        distinct, place = np.unique(np.asarray(index), return_inverse=True)
        return load_images(source, self.subject.image_size, distinct)[place]

    def some_queries(self, count: int) -> np.ndarray:
        """Places among the test images of a few: one of each class in turn, by hash."""
        _, index = self.queries
        order = np.argsort(index_hash(index), kind="stable")
        labels = self.data.test.source.labels
        if labels is not None:
            # How many of its class come before an image: the first of every class come first.
            rank, seen = np.zeros(len(order), np.int64), {}
            for position, place in enumerate(order):
                label = int(labels[index[place]])
                rank[position] = seen.get(label, 0)
                seen[label] = rank[position] + 1
            order = order[np.argsort(rank, kind="stable")]
        return order[:count]


def describe(source: Source, index: int) -> str:
    """What an image is called: its class where known, and its name.

    >>> from rfd_tf import data
    >>> describe(data.digits("test"), 3)
    '6, image 3'
    """
    name = str(source.names[index]) if source.names else f"image {index}"
    label = class_of(source, index)
    # (The path of a file in its class's folder names the class already.)
    return f"{label}, {name}" if label and not name.startswith(f"{label}/") else name


def class_of(source: Source, index: int) -> str:
    """The name of an image's class, or an empty text."""
    if source.labels is None:
        return ""
    label = int(source.labels[index])
    if label < 0:
        return ""
    return str(source.class_names[label]) if source.class_names else f"class {label}"
