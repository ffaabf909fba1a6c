"""The train and test images of a run, as recorded in run.json."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rfd_tf.data import given as files
from rfd_tf.data.base import Source
from rfd_tf.data.copies import identical_files
from rfd_tf.data.file_list import ALL
from rfd_tf.data.image_files import MAX_MEGAPIXELS, ColorProfile, HighBitDepth, Reading, recorded
from rfd_tf.data.photos import CropSettings
from rfd_tf.data.remote.cache import CACHE_GB
from rfd_tf.data.sources import DATASETS, load, splits
from rfd_tf.data.tfds_source import tfds
from rfd_tf.errors import UserError
from rfd_tf.paths import HUGGING_FACE, expanded

_FILE = "run.json"
_PLACES = ("dataset", "data_dir")
_TEST_SPLITS = ("test", "validation")


@dataclasses.dataclass(frozen=True)
class RunImages:
    """The images that a run trains on and is evaluated on, for all commands.

    Attributes:
        dataset, data_dir, data_root, tfds_dir, tfds_classes, max_skipped, max_megapixels,
            high_bit_depth, color_profile, cache_dir, cache_gb: as `rfd_tf.data.load` takes them,
            the classes as `classes`.
        train_split: split of `dataset`, or of a list, to train on; "train" if None.
        eval_split: split of `dataset`, or of a list, to evaluate on. If None, "test", or else
            "validation"; if both are missing, a part of the training images is held out.
        eval_dir: images to evaluate on, in the forms of `data_dir`; replaces those of
            `eval_split`. For a list without the splits test and validation, every row.
        photos, photo_options: photographs to train on crops of, see `load`.

    >>> images = RunImages(dataset="digits", train_split="all")
    >>> images.train().num_images, images.test().num_images
    (1797, 297)
    >>> images.replaced(eval_split="train").test().num_images
    1500
    """

    dataset: str | None = None
    data_dir: str | None = None
    data_root: str | None = None
    eval_dir: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    tfds_dir: str | None = None
    tfds_classes: Sequence[str] = ()
    max_skipped: float = 0.01
    max_megapixels: float = MAX_MEGAPIXELS
    high_bit_depth: HighBitDepth = "stretch"
    color_profile: ColorProfile = "ignore"
    cache_dir: str | None = None
    cache_gb: float = CACHE_GB
    photos: Sequence[str] = ()
    photo_options: Mapping[str, Any] | None = None

    @classmethod
    def of_run(cls, run: str | os.PathLike) -> RunImages:
        """Returns the images that a run folder records; none if there is no run.json.

        Args:
            run: the folder, or a weights file in it.

        Raises:
            UserError: run.json cannot be read.
        """
        run = expanded(run)
        path = (run.parent if run.is_file() else run) / _FILE
        try:
            content = json.loads(path.read_bytes())
            identity, flags = content.get("identity") or {}, content.get("flags", {})
            if not isinstance(flags, Mapping):
                raise ValueError("its flags are not a mapping")
            return cls.of_flags(recorded(flags), identity.get("image_size"))
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"'{path}' cannot be read: {error!r}") from None

    @classmethod
    def of_flags(cls, flags: Mapping[str, Any], image_size: int | None = None) -> RunImages:
        """Returns the images that the flags of `rfd-tf pretrain` name.

        Args:
            flags: name -> value; defaults for missing ones.
            image_size: side of the training images, pixels, for the size of crops.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        found = {name: flags[name] for name in names if flags.get(name) is not None}
        photos = tuple(flags.get("source_images") or ())
        if photos:
            found.update(photos=photos, photo_options=photo_options(flags, image_size))
        return cls(**{**found, "tfds_classes": tuple(found.get("tfds_classes") or ())})

    def replaced(self, **given: Any) -> RunImages:
        """Returns these images with some settings replaced; None, "" and () change nothing.

        A `dataset` or `data_dir` replaces all names of images, including splits and classes.

        Raises:
            UserError: settings that cannot be combined.
        """
        given = {name: value for name, value in given.items() if value not in (None, "", (), [])}
        if "dataset" in given and "eval_dir" in given and "data_dir" not in given:
            raise UserError(
                "--eval_dir goes with --data_dir; a --dataset is evaluated on --eval_split"
            )
        base = self
        if any(name in given for name in _PLACES):
            base = RunImages(
                tfds_dir=self.tfds_dir,
                max_skipped=self.max_skipped,
                **self.reading(),
                **self._cache(),
            )
        if "tfds_classes" in given:
            given["tfds_classes"] = tuple(given["tfds_classes"])
        images = dataclasses.replace(base, **given)
        if "eval_split" in given and "eval_dir" not in given:
            images = dataclasses.replace(images, eval_dir=None)
        lists = {
            "train_split": [images.data_dir], "eval_split": [images.data_dir, images.eval_dir],
            "tfds_classes": [],
        }  # fmt: skip
        if images.dataset is None:
            for name, places in lists.items():
                if name in given and not any(map(files.has_splits, places)):
                    raise UserError(f"--{name} goes with a --dataset; a folder has no splits")
        if "data_root" in given and not any(map(files.has_splits, lists["eval_split"])):
            raise UserError("--data_root goes with a list of images as --data or --val_data")
        return images

    @property
    def named(self) -> bool:
        """Whether there are any images."""
        return bool(self.dataset or self.data_dir or self.eval_dir or self.photos)

    def reading(self) -> dict[str, Any]:
        """Returns how image files are read: arguments of `rfd_tf.data.load`, by name."""
        return {name: getattr(self, name) for name in Reading._fields}

    def _cache(self) -> dict[str, Any]:
        return {"cache_dir": self.cache_dir, "cache_gb": self.cache_gb}

    def train(self, download: bool = False, leave_out: Sequence[str | os.PathLike] = ()) -> Source:
        """Returns the images to train on.

        Args:
            download: whether TFDS may download the dataset.
            leave_out: folders to ignore, see `rfd_tf.data.image_folder`.

        Raises:
            UserError: the images cannot be read, or none or several sets are named.
        """
        return load(
            dataset=self.dataset,
            data_dir=self.data_dir,
            data_root=self.data_root,
            split=self.train_split,
            tfds_dir=self.tfds_dir,
            download=download,
            max_skipped=self.max_skipped,
            **self.reading(),
            photos=self.photos,
            photo_options=self.photo_options,
            classes=self.tfds_classes,
            leave_out=leave_out,
            **self._cache(),
        )

    def test(
        self, download: bool = False, leave_out: Sequence[str | os.PathLike] = ()
    ) -> Source | None:
        """Returns the images to evaluate on; None if some of `train` are to be held out.

        Warns if a dataset or a list has splits but no "test", and names the images used instead.
        """
        if self.eval_dir:
            there = files.splits(self.eval_dir, **self._cache())
            usual = next((name for name in _TEST_SPLITS if name in there), ALL)
            return load(
                data_dir=self.eval_dir,
                data_root=self.data_root,
                split=self.eval_split or usual,
                max_skipped=self.max_skipped,
                **self.reading(),
                leave_out=leave_out,
                **self._cache(),
            )
        has_splits = self.dataset or files.has_splits(self.data_dir)
        split = self._eval_split(download) if has_splits else None
        if split is None:
            return None
        return dataclasses.replace(self, train_split=split).train(download)

    def _eval_split(self, download: bool) -> str | None:
        if self.eval_split and self.eval_split != "test":
            return self.eval_split
        if self.dataset:
            there = splits(self.dataset, self.tfds_dir, download)
            what, apart = "dataset", "give --train_split=train[:80%] --eval_split=train[80%:]"
        else:
            there = files.splits(self.data_dir, **self._cache())
            what, apart = "list", "write test into the column 'split' of some rows"
            if self.data_dir.startswith(HUGGING_FACE):
                what, apart = "dataset", "give others as --val_data"
            if not there:
                return self.eval_split
        if "test" in there:
            return "test"
        missing = (
            f"{what} '{self.dataset or self.data_dir}' has no split 'test' (it has: "
            f"{', '.join(there)})"
        )
        if "validation" in there:
            warnings.warn(f"{missing}; evaluated on 'validation'", stacklevel=1)
            return "validation"
        warnings.warn(
            f"{missing}; evaluated on images of '{self.train_split or 'train'}': kNN and probes "
            "train on four fifths of them; pretraining uses all of them, without labels. To keep "
            f"them apart, {apart}",
            stacklevel=1,
        )
        return None

    def evaluation(
        self, download: bool = False, leave_out: Sequence[str | os.PathLike] = ()
    ) -> tuple[Source, Source | None]:
        """Returns train and test images of an evaluation; test is None to hold some out.

        If the run trains on crops of photographs, the images to evaluate on are used for both.
        """
        if self.dataset or self.data_dir:
            train = self.train(download, leave_out)
            return train, self.test(download, leave_out)
        if not self.eval_dir:
            raise UserError("images to evaluate on are missing; give --val_data")
        return self.test(download, leave_out), None

    def train_ids(self) -> np.ndarray | None:
        """Returns the ids of the training images, without reading any image.

        Returns:
            uint64, see `Source.image_ids`; None if unknown.
        """
        try:
            if self.data_dir:
                return files.ids(self.data_dir, self.data_root, self.train_split, **self._cache())
            if not self.dataset:
                return None
            if self.dataset in DATASETS:
                return self.train().image_ids()
            return tfds(
                self.dataset,
                self.train_split or "train",
                self.tfds_dir,
                cache_bytes=0,
                classes=self.tfds_classes,
            ).image_ids()
        except (UserError, OSError):  # moved, or not prepared here
            return None


def photo_options(flags: Mapping[str, Any], image_size: int | None) -> dict[str, Any]:
    """Returns the arguments of `rfd_tf.data.photo_crops` from the flags of `rfd-tf pretrain`.

    Args:
        flags: name -> value; only those that begin with `source_` are used.
        image_size: side of the training images, pixels.

    >>> photo_options({"source_crops": 100, "source_hue": 0.0}, 32)
    {'hue': 0.0, 'num_crops': 100, 'size': 32}
    """
    from rfd_tf.data.decode import evaluation_resize  # which imports TensorFlow

    names = [field.name for field in dataclasses.fields(CropSettings)]
    options = {
        name: flags[f"source_{name}"] for name in names if flags.get(f"source_{name}") is not None
    }
    for flag, name in (("source_crops", "num_crops"), ("source_seed", "seed")):
        if flags.get(flag) is not None:
            options[name] = flags[flag]
    size = flags.get("source_size")
    if size is None and image_size is not None:
        size = evaluation_resize(image_size)
    return options if size is None else {**options, "size": size}


def shared(ids: np.ndarray | None, source: Source, rows: np.ndarray | None = None) -> int:
    """Returns how many images of a source are among others; 0 if unknown.

    Args:
        ids: of the others, see `Source.image_ids`.
        source: the images.
        rows: indices of the images to count; all if None.

    >>> from rfd_tf import data
    >>> shared(data.digits("all").image_ids(), data.digits("test"))
    297
    """
    own = source.image_ids()
    if ids is None or own is None:
        return 0
    return int(np.isin(own if rows is None else own[rows], ids).sum())


def shared_images(train: Source, test: Source) -> int:
    """Returns how many test images are training images, by their place or by their content.

    Files are compared as in `rfd_tf.data.copies.identical_files`, if the training images have no
    labels; of labelled ones evaluation itself reports the copies.

    >>> from rfd_tf import data
    >>> shared_images(data.digits("all"), data.digits("test"))
    297
    """
    count = shared(train.image_ids(), test)
    if count or train.labels is not None:
        return count
    rows = np.arange(train.num_images), np.arange(test.num_images)
    return len(identical_files(train, rows[0], test, rows[1]).pairs)


def warn_if_trained_on(
    images: RunImages, source: Source, rows: np.ndarray | None = None, what: str = "test images"
) -> int:
    """Warns if a run was trained on images that it is evaluated on.

    Args:
        images: of the run.
        source, rows: the images to evaluate on; all rows if None.
        what: their name in the message.

    Returns:
        How many were trained on; 0 if unknown.
    """
    count = shared(images.train_ids(), source, rows)
    if count:
        total = source.num_images if rows is None else len(rows)
        warnings.warn(
            f"the network was trained on {count} of the {total} {what} of '{source.name}', without "
            "labels: scores on images it has not seen may be lower",
            stacklevel=1,
        )
    return count
