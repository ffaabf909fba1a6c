"""Image datasets of TensorFlow Datasets (TFDS) as sources."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfd_tf import extras
from rfd_tf.data import record_files
from rfd_tf.data.base import ArraySource, PartMixin, Source, fingerprint, image_ids
from rfd_tf.data.image_files import Reading
from rfd_tf.errors import UserError, shown, unknown
from rfd_tf.paths import absolute

if TYPE_CHECKING:
    import tensorflow as tf

    from rfd_tf.data.recipe import Recipe

_INTERLEAVED_FILES = 16
_BLOCK = 16
_SHUFFLE_BYTES = 512 << 20
_SMALLEST_SHUFFLE = 1024


class RecordSource(Source):
    """A set that is read record by record, for what is too large for memory.

    Attributes:
        transparent: whether the images may have an alpha channel.
        shuffle_buffer: how many records are shuffled together while training.
        record_files: `(path, records)` of each file.
    """

    reading = Reading(high_bit_depth="truncate")

    def __init__(
        self,
        transparent: bool,
        shuffle_buffer: int,
        record_files: Sequence[tuple[str, int]],
        **described: Any,
    ):
        super().__init__(**described)
        self.transparent = transparent
        self.shuffle_buffer = shuffle_buffer
        self.record_files = record_files

    def records(self, seed: Any = None, times: Any = None, views: int = 1) -> tf.data.Dataset:
        """Returns one pass over the records: a `tf.data.Dataset` of `(index, encoded image)`.

        Args:
            seed: None for the order of the index; or an int64 tensor `[2]`, which shuffles the
                files, interleaves them and shuffles the records within `shuffle_buffer`.
            times: with a seed: integer tensor `[num_images]`, how often each record is used; once
                if None.
            views: with a seed and without `times`: how often each record is used, numbered
                `index * views + view`.

        Returns:
            A dataset of (int64 scalar, string scalar).
        """
        raise self._undefined("records")

    def training_steps(self, recipe: Recipe) -> tf.data.Dataset:
        from rfd_tf.data import streams

        return streams.train_on_records(self, recipe)

    def evaluation_pass(
        self,
        image_size: int,
        batch_size: int,
        indices: np.ndarray | None,
        transform: Callable[..., tf.Tensor],
    ) -> tf.data.Dataset:
        from rfd_tf.data import streams

        return streams.evaluate_records(self, image_size, batch_size, indices, transform)

    def _part(self, indices: np.ndarray, **described: Any) -> RecordSource:
        return _RecordPart(self, indices, **described)


class _RecordPart(PartMixin, RecordSource):
    """Reads all records of the whole, and drops those that do not belong."""

    def __init__(self, whole: RecordSource, indices: np.ndarray, **described: Any):
        super().__init__(
            whole.transparent,
            whole.shuffle_buffer,
            whole.record_files,
            num_images=len(indices),
            **described,
        )
        self.whole, self.indices = whole, indices

    @property
    def labels(self) -> np.ndarray | None:
        return self.whole._labels_at(self.indices)

    def records(self, seed: Any = None, times: Any = None, views: int = 1) -> tf.data.Dataset:
        import tensorflow as tf

        place = np.full(self.whole.num_images, -1, np.int64)
        place[self.indices] = np.arange(self.num_images)
        with tf.device("/CPU:0"):
            place = tf.constant(place)
            if times is not None:
                whole = tf.zeros([self.whole.num_images], times.dtype)
                times = tf.tensor_scatter_nd_update(whole, self.indices[:, None], times)

        def renumber(number: tf.Tensor, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            index = tf.gather(place, number // views)
            return tf.where(index < 0, index, index * views + number % views), contents

        records = self.whole.records(seed, times, views).map(renumber)
        return records.filter(lambda index, _: index >= 0)


class TfdsSource(RecordSource):
    """A TFDS split that is read record by record, for sets too large for memory. Made by `tfds`.

    The index counts the records of the split's files in order, so it is the TFDS id
    (`...tfrecord-00002-of-00004__7`) with the lengths of the shards before it added; in a
    sub-split such as `"train[:50%]"` it counts from the sub-split's start.

    Attributes:
        transparent: whether the images may have an alpha channel.
        shuffle_buffer: how many records are shuffled together while training.

    >>> from rfd_tf import data
    >>> cifar10 = data.tfds("cifar10", cache_bytes=0)  # doctest: +SKIP
    >>> cifar10.num_images, cifar10.shuffle_buffer  # doctest: +SKIP
    (50000, 50000)
    """

    def __init__(
        self,
        files: Iterable[Any],
        features: Any,
        image_key: str,
        label_key: str | None,
        mean_bytes: float,
        **described: Any,
    ):
        files = list(files)
        takes = np.array([_taken(file) for file in files], np.int64)
        num_images = int(takes.sum())
        bounded = max(_SMALLEST_SHUFFLE, int(_SHUFFLE_BYTES // max(1.0, mean_bytes)))
        super().__init__(
            transparent=features[image_key].shape[-1] == 4,
            shuffle_buffer=min(num_images, bounded),
            record_files=[(os.fspath(file.filename), file.examples_in_shard) for file in files],
            num_images=num_images,
            **described,
        )
        self._filenames = [os.fspath(file.filename) for file in files]
        self._skips = np.array([file.skip for file in files], np.int64)
        self._takes, self._firsts = takes, np.cumsum(takes) - takes
        self._features = features
        self._image_key = image_key
        self._label_key = label_key
        self.origins = self._record_ids
        record_files.watch(self)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:  # read on first use: a pass over all files
        """The class of each image, int64 `[num_images]`, or None; read when first asked for."""
        if self._label_key is None:
            return None
        import tensorflow_datasets

        key = self._label_key
        reader = tensorflow_datasets.features.FeaturesDict({key: self._features[key]})
        labels = np.zeros(self.num_images, np.int64)
        with record_files.damage_reported(), _on_cpu():
            parsed = self._serialized(None).map(
                lambda index, record: (index, reader.deserialize_example(record)[key])
            )
            for indices, values in parsed.batch(1024).as_numpy_iterator():
                labels[indices] = values
        return labels

    def _record_ids(self) -> np.ndarray:
        # (The folder that holds the dataset may be another on another machine.)
        names = [os.path.basename(name) for name in self._filenames]
        files = zip(names, self._skips, self._takes, strict=True)
        return np.concatenate([image_ids(name, skip, take) for name, skip, take in files])

    def showing(self, class_names: Sequence[str]) -> np.ndarray:
        """Returns which images show an object of one of the classes: int64, increasing.

        Args:
            class_names: of the labels of the dataset's "objects", such as `("cat", "dog")`.

        Raises:
            UserError: the dataset has no objects with labels, or lacks a class.
        """
        import tensorflow_datasets

        try:
            names = self._features["objects"].feature["label"].names
        except (KeyError, AttributeError, TypeError):
            raise UserError(f"'{self.name}' has no objects with labels to choose by") from None
        for name in class_names:
            if name not in names:
                raise unknown(f"class of '{self.name}'", name, names)
        wanted = np.array([names.index(name) for name in class_names])
        reader = tensorflow_datasets.features.FeaturesDict({"objects": self._features["objects"]})
        with record_files.damage_reported(), _on_cpu():
            parsed = self._serialized(None).map(
                lambda index, record: (
                    index,
                    reader.deserialize_example(record)["objects"]["label"],
                )
            )
            found = [
                int(index)
                for index, labels in parsed.as_numpy_iterator()
                if np.isin(labels, wanted).any()
            ]
        return np.sort(np.array(found, np.int64))

    def records(self, seed: Any = None, times: Any = None, views: int = 1) -> tf.data.Dataset:
        import tensorflow_datasets

        key = self._image_key
        reader = tensorflow_datasets.features.FeaturesDict({key: self._features[key]})
        encoded = {key: tensorflow_datasets.decode.SkipDecoding()}
        return self._serialized(seed, times, views).map(
            lambda index, record: (index, reader.deserialize_example(record, decoders=encoded)[key])
        )

    def _serialized(self, seed: Any, times: Any = None, views: int = 1) -> Any:
        import tensorflow as tf

        def read(position: tf.Tensor) -> tf.data.Dataset:
            take = tf.gather(self._takes, position)
            first = tf.gather(self._firsts, position)
            records = tf.data.TFRecordDataset(tf.gather(self._filenames, position))
            records = records.skip(tf.gather(self._skips, position)).take(take)
            return tf.data.Dataset.zip(tf.data.Dataset.range(first, first + take), records)

        positions = tf.range(len(self._filenames))
        if seed is None:
            return tf.data.Dataset.from_tensor_slices(positions).flat_map(read)
        positions = tf.random.experimental.stateless_shuffle(positions, seed)
        records = tf.data.Dataset.from_tensor_slices(positions).interleave(
            read,
            cycle_length=_INTERLEAVED_FILES,
            block_length=_BLOCK,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if times is not None:

            def repeat(index: tf.Tensor, record: tf.Tensor) -> tf.data.Dataset:
                count = tf.cast(tf.gather(times, index), tf.int64)
                return tf.data.Dataset.from_tensors((index, record)).repeat(count)

            records = records.flat_map(repeat)
        if views > 1:

            def number(index: tf.Tensor, record: tf.Tensor) -> tf.data.Dataset:
                return tf.data.Dataset.range(views).map(lambda view: (index * views + view, record))

            records = records.flat_map(number)
        single = tf.random.stateless_uniform([], seed, minval=None, maxval=None, dtype=tf.int64)
        graph = tf.compat.v1.get_default_graph()
        global_seed, graph.seed = graph.seed, None
        try:
            # Under a global seed of 0, TensorFlow would ask in Python whether this one is 0 too.
            # (The views of a record share its bytes.)
            return records.shuffle(
                self.shuffle_buffer * views, seed=single, reshuffle_each_iteration=False
            )
        finally:
            graph.seed = global_seed


def tfds(
    name: str,
    split: str = "train",
    tfds_dir: str | None = None,
    download: bool = False,
    cache_bytes: int = 1 << 30,
    embedded: Iterable[str] = (),
    classes: Sequence[str] = (),
) -> Source:
    """Returns a split of a TFDS image dataset.

    Args:
        name: as `tfds.builder` takes it: `"cifar10"`, `"imagenet_resized/64x64"`, `"stl10:1.0.0"`.
        split: as TFDS takes it: `"train"`, `"train[:50%]"`, `"train+test"`.
        tfds_dir: where prepared datasets lie, or None for TFDS' own default.
        download: whether to download and prepare the dataset if it is not there.
        cache_bytes: a dataset whose images all have one shape is kept in memory if its decoded
            pixels take no more than this. 0 turns it off.
        embedded: names of other datasets, to be listed where `name` is unknown.
        classes: only the images that show an object of one of these classes, of a dataset with
            "objects" that have a "label", such as `coco/2017`; all images if empty.

    Returns:
        An `ArraySource` where the images are kept in memory, else a `TfdsSource`. Labels come from
        the dataset's class label, where it has one.

    Raises:
        UserError: TFDS is not installed; the dataset is unknown, not prepared, has no such split
            or no images of 8 or 16 bits; no objects, no such class or no image that shows one; a
            file of it is missing or damaged.

    >>> tfds("cifar10", tfds_dir="no/such/folder")
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: dataset 'cifar10' is not prepared in ...; give tfds_dir ...
    """
    builder = open_builder(name, tfds_dir, download, embedded)
    import tensorflow_datasets

    info = builder.info
    if info.file_format.value != "tfrecord":
        raise UserError(
            f"dataset '{name}' is prepared as {info.file_format.value}, which TensorFlow cannot "
            f"stream; prepare it as tfrecord (tfds build --file_format=tfrecord)"
        )
    part = _split(info, name, split)
    image_key, label_key = _keys(tensorflow_datasets, info.features, name)
    files = part.file_instructions
    record_files.check(name, [(os.fspath(file.filename), file.examples_in_shard) for file in files])
    full_name = f"{info.full_name}/{split}"
    whole_bytes = sum(one.num_bytes for one in info.splits.values())
    whole_images = sum(one.num_examples for one in info.splits.values())
    source = TfdsSource(
        files,
        info.features,
        image_key,
        label_key,
        whole_bytes / max(1, whole_images),
        name=full_name,
        fingerprint=fingerprint(
            [
                "tfds",
                full_name,
                *(
                    part
                    for file in files
                    for part in (os.path.basename(file.filename), file.skip, _taken(file))
                ),
            ]
        ),
        class_names=info.features[label_key].names if label_key else None,
    )
    if classes:
        chosen = source.showing(classes)
        if not len(chosen):
            raise UserError(f"no image of '{full_name}' shows {' or '.join(classes)}")
        return source.subset(chosen, f"{full_name}, {' or '.join(classes)}")
    return _in_memory(source, info.features[image_key].shape, cache_bytes) or source


def _taken(file: Any) -> int:
    """Returns how many records of a file belong to the split; -1 is TFDS' way to say the rest."""
    return file.take if file.take >= 0 else file.examples_in_shard - file.skip


def _on_cpu() -> Any:
    import tensorflow as tf

    return tf.device("/CPU:0")


def open_builder(
    name: str, tfds_dir: str | None = None, download: bool = False, embedded: Iterable[str] = ()
) -> Any:
    """Returns the builder of a dataset that is prepared.

    Args:
        name: as `tfds.builder` takes it.
        tfds_dir: where TFDS keeps its datasets; its own default if None.
        download: whether TFDS may fetch and prepare the dataset.
        embedded: names of other datasets, for the message where there is none.

    Raises:
        UserError: no such dataset, or it is not prepared and cannot or may not be; TFDS is not
            installed.
    """
    library = extras.load(
        "tensorflow_datasets",
        f"dataset '{shown(name)}', none of {', '.join(embedded) or 'the embedded ones'},",
    )
    builder = _builder(library, name, tfds_dir, embedded)
    _prepare(builder, name, download)
    return builder


def _builder(library: Any, name: str, tfds_dir: str | None, embedded: Iterable[str]) -> Any:
    try:
        place = None if tfds_dir is None else os.fspath(absolute(tfds_dir))
        return library.builder(name, data_dir=place)
    except library.core.DatasetNotFoundError:
        options = [*embedded, *library.list_builders(with_community_datasets=False)]
        near = unknown("dataset", name, options)
        hint = str(near).split(";")[0]
        raise UserError(
            f"{hint}, and no such folder; embedded: {', '.join(embedded) or 'none'}; others are "
            f"the {len(options)} names of TFDS (www.tensorflow.org/datasets/catalog); for your own "
            "images give the path of their folder"
        ) from None
    except Exception as error:  # a wrong version or configuration, an old or damaged folder
        damaged = [path for path in _descriptions(name, tfds_dir) if not _is_json(path)]
        if damaged:
            raise UserError(
                f"dataset '{name}': '{damaged[0]}' is damaged; copy it again, or remove its "
                "folder and give --tfds_download to prepare the dataset again"
            ) from None
        raise UserError(f"dataset '{name}': {_first_line(error)}") from None


def _descriptions(name: str, tfds_dir: str | None) -> list[Path]:
    """The files that describe a prepared dataset, of all its versions and configurations."""
    import tensorflow_datasets

    folder = Path(tfds_dir or tensorflow_datasets.core.constants.DATA_DIR).expanduser()
    files = [
        path
        for pattern in ("dataset_info.json", "features.json")
        for path in (folder / re.split("[/:]", name)[0]).rglob(pattern)
    ]
    return sorted(files)


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError, RecursionError):
        return False


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _prepare(builder: Any, name: str, download: bool) -> None:
    if builder.is_prepared():
        return
    if not download:
        folder = Path(os.fspath(builder.data_path))
        if folder.is_dir() and not (folder / "dataset_info.json").exists():
            raise UserError(
                f"dataset '{name}': '{folder}' has no dataset_info.json; copy it there, or remove "
                "the folder and give --tfds_download to prepare the dataset again"
            )
        raise UserError(
            f"dataset '{name}' is not prepared in '{builder.data_path}'; give --tfds_dir the "
            f"folder that holds it, or --tfds_download to download it"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # network, disk space, datasets that must be downloaded manually
        raise UserError(f"cannot download dataset '{name}': {_first_line(error)}") from None


def _split(info: Any, name: str, split: str) -> Any:
    try:
        part = info.splits[split]
        num_examples = part.num_examples
    except Exception as error:
        options = ", ".join(info.splits) or "none"
        raise UserError(
            f"dataset '{name}' has no split '{split}' ({_first_line(error)}); options: {options}, "
            f"and parts of them such as 'train[:50%]'"
        ) from None
    if not num_examples:
        raise UserError(f"split '{split}' of dataset '{name}' holds no images")
    return part


def _keys(library: Any, features: Any, name: str) -> tuple[str, str | None]:
    """Returns the names of the image feature and of the label, if there is one."""
    images = [key for key in features if isinstance(features[key], library.features.Image)]
    labels = [key for key in features if type(features[key]) is library.features.ClassLabel]
    if not images:
        raise UserError(f"dataset '{name}' has no image feature; it has: {', '.join(features)}")
    image = "image" if "image" in images else images[0]
    kind = np.dtype(features[image].np_dtype)
    if kind not in (np.uint8, np.uint16):
        raise UserError(f"images of dataset '{name}' are {kind}; only 8 and 16 bits can be used")
    label = "label" if "label" in labels else (labels[0] if labels else None)
    return image, label


def _in_memory(
    source: TfdsSource, shape: tuple[int | None, ...], cache_bytes: int
) -> ArraySource | None:
    """Decodes a small dataset of images of one shape; None where it is no such dataset."""
    import tensorflow as tf

    from rfd_tf.data.decode import KINDS, decode, kind_of

    height, width = shape[:2]
    if None not in (height, width) and source.num_images * height * width * 3 > cache_bytes:
        return None

    def decoded(index: tf.Tensor, contents: tf.Tensor):
        return index, decode(contents, kind_of(contents, source.transparent), KINDS)

    images = None
    with record_files.damage_reported(), _on_cpu():
        pixels = source.records().map(decoded, num_parallel_calls=tf.data.AUTOTUNE)
        try:
            for index, image in pixels.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
                if images is None:
                    if source.num_images * image.size > cache_bytes:
                        return None
                    images = np.zeros((source.num_images, *image.shape), np.uint8)
                elif image.shape != images.shape[1:]:
                    return None
                images[index] = image
        except tf.errors.InvalidArgumentError:
            return None  # an image that cannot be decoded: left out where records are streamed
    kept = ArraySource(
        images,
        source.labels,
        source.class_names,
        source.name,
        fingerprint=source.fingerprint,
    )
    kept.origins = source.origins
    return kept
