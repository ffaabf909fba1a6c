"""The images of a run, as run.json records them: trained on, and evaluated on."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rfd_tf.data.base import Source
from rfd_tf.data.folder import folder_ids
from rfd_tf.data.image_files import MAX_MEGAPIXELS
from rfd_tf.data.photos import CropSettings
from rfd_tf.data.shards.paths import looks_like_shards
from rfd_tf.data.sources import DATASETS, load, splits
from rfd_tf.data.tfds_source import tfds
from rfd_tf.errors import UserError
from rfd_tf.paths import expanded

_FILE = "run.json"
_PLACES = ("dataset", "data_dir")


@dataclasses.dataclass(frozen=True)
class RunImages:
    """Which images a run trains on and is evaluated on; every command takes them from here.

    Attributes:
        dataset, data_dir, tfds_dir, tfds_classes, max_skipped, max_megapixels: as
            `rfd_tf.data.load` takes them, the classes as `classes`.
        train_split: split of `dataset` to train on; "train" where None.
        eval_split: split of `dataset` to evaluate on. Where None it is "test", or "validation" in
            datasets without it; a part of the training images is held out where both are missing.
        eval_dir: folder of images to evaluate on, in place of `eval_split`.
        photos, photo_options: photographs whose crops are trained on, as `load` takes them.

    >>> images = RunImages(dataset="digits", train_split="all")
    >>> images.train().num_images, images.test().num_images
    (1797, 297)
    >>> images.replaced(eval_split="train").test().num_images
    1500
    """

    dataset: str | None = None
    data_dir: str | None = None
    eval_dir: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    tfds_dir: str | None = None
    tfds_classes: Sequence[str] = ()
    max_skipped: float = 0.01
    max_megapixels: float = MAX_MEGAPIXELS
    photos: Sequence[str] = ()
    photo_options: Mapping[str, Any] | None = None

    @classmethod
    def of_run(cls, run: str | os.PathLike) -> RunImages:
        """Returns the images that a run folder records; none where there is no run.json.

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
                raise ValueError("its flags have no names")
            return cls.of_flags(flags, identity.get("image_size"))
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"'{path}' cannot be read: {error!r}") from None

    @classmethod
    def of_flags(cls, flags: Mapping[str, Any], image_size: int | None = None) -> RunImages:
        """Returns the images that the flags of scripts/pretrain.py name.

        Args:
            flags: name -> value; missing ones have their defaults.
            image_size: side of the training images, pixels, for the size of crops.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        found = {name: flags[name] for name in names if flags.get(name) is not None}
        photos = tuple(flags.get("source_images") or ())
        if photos:
            found.update(photos=photos, photo_options=photo_options(flags, image_size))
        return cls(**{**found, "tfds_classes": tuple(found.get("tfds_classes") or ())})

    def replaced(self, **given: Any) -> RunImages:
        """Returns these images with what a user gives in its place; None and () change nothing.

        A `dataset` or `data_dir` replaces all that names images, splits and classes included.

        Raises:
            UserError: what is given does not go together.
        """
        given = {name: value for name, value in given.items() if value not in (None, "", (), [])}
        if "dataset" in given and "eval_dir" in given and "data_dir" not in given:
            raise UserError(
                "--eval_dir goes with --data_dir; a --dataset is judged on --eval_split"
            )
        base = self
        if any(name in given for name in _PLACES):
            base = RunImages(
                tfds_dir=self.tfds_dir,
                max_skipped=self.max_skipped,
                max_megapixels=self.max_megapixels,
            )
        if "tfds_classes" in given:
            given["tfds_classes"] = tuple(given["tfds_classes"])
        images = dataclasses.replace(base, **given)
        if "eval_split" in given and "eval_dir" not in given:
            images = dataclasses.replace(images, eval_dir=None)
        if images.dataset is None:
            for name in ("train_split", "eval_split", "tfds_classes"):
                if name in given:
                    raise UserError(f"--{name} goes with a --dataset; a folder has no splits")
        return images

    @property
    def named(self) -> bool:
        """Whether there are any images."""
        return bool(self.dataset or self.data_dir or self.eval_dir or self.photos)

    def train(self, download: bool = False, leave_out: Sequence[str | os.PathLike] = ()) -> Source:
        """Returns the images to train on.

        Args:
            download: whether TFDS may download the dataset.
            leave_out: folders that hold no images of the set, see `rfd_tf.data.image_folder`.

        Raises:
            UserError: they cannot be read, or none or several sets are named.
        """
        return load(
            self.dataset,
            self.data_dir,
            split=self.train_split or "train",
            tfds_dir=self.tfds_dir,
            download=download,
            max_skipped=self.max_skipped,
            max_megapixels=self.max_megapixels,
            photos=self.photos,
            photo_options=self.photo_options,
            classes=self.tfds_classes,
            leave_out=leave_out,
        )

    def test(
        self, download: bool = False, leave_out: Sequence[str | os.PathLike] = ()
    ) -> Source | None:
        """Returns the images to evaluate on; None where some of `train` are to be held out.

        Warns where a dataset has no split "test", and says what is done.
        """
        if self.eval_dir:
            return load(
                data_dir=self.eval_dir,
                max_skipped=self.max_skipped,
                max_megapixels=self.max_megapixels,
                leave_out=leave_out,
            )
        split = self._eval_split(download) if self.dataset else None
        if split is None:
            return None
        return dataclasses.replace(self, train_split=split).train(download)

    def _eval_split(self, download: bool) -> str | None:
        if self.eval_split and self.eval_split != "test":
            return self.eval_split
        there = splits(self.dataset, self.tfds_dir, download)
        if "test" in there:
            return "test"
        told = f"dataset '{self.dataset}' has no split 'test' (it has: {', '.join(there)})"
        if "validation" in there:
            warnings.warn(f"{told}; evaluated on 'validation'", stacklevel=1)
            return "validation"
        warnings.warn(
            f"{told}; evaluated on images of '{self.train_split or 'train'}', of which kNN and "
            "probes get four fifths; pretraining sees all of them, without labels. To keep them "
            "apart, give --train_split=train[:80%] --eval_split=train[80%:]",
            stacklevel=1,
        )
        return None

    def evaluation(
        self, download: bool = False, leave_out: Sequence[str | os.PathLike] = ()
    ) -> tuple[Source, Source | None]:
        """Returns train and test images of an evaluation; the latter None to hold some out.

        Images to evaluate on serve as both where the run trains on crops of photographs.
        """
        if self.dataset or self.data_dir:
            train = self.train(download, leave_out)
            return train, self.test(download, leave_out)
        if not self.eval_dir:
            raise UserError("images to evaluate on are missing; give --eval_dir")
        return self.test(download, leave_out), None

    def train_ids(self) -> np.ndarray | None:
        """Returns what tells the images trained on from others, without reading any.

        Returns:
            uint64, as of `Source.image_ids`; None where it is not known.
        """
        try:
            if self.data_dir and looks_like_shards(self.data_dir):
                from rfd_tf.data.shards.source import shard_ids  # which imports Arrow

                return shard_ids(self.data_dir)
            if self.data_dir:
                return folder_ids(self.data_dir)
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


def place_of(data: str | os.PathLike) -> dict[str, str]:
    """Returns which field of `RunImages` a folder or the name of a dataset belongs to.

    Args:
        data: an existing folder comes first. Otherwise a path that begins with `/`, `.` or `~`
            or ends with `/`, and shards (`"photos-*.tar"`) are a `data_dir`, and all else is a
            `dataset`: embedded or of TFDS.

    >>> place_of("digits"), place_of("coco/2017"), place_of("./photos")
    ({'dataset': 'digits'}, {'dataset': 'coco/2017'}, {'data_dir': './photos'})
    """
    path = expanded(data)
    text = os.fspath(data)
    try:
        exists = path.exists()
    except (OSError, ValueError):  # too long for a path, or with a null character
        exists = False
    named = text.startswith(("/", ".", "~")) or text.endswith(("/", os.sep))
    if exists or named or looks_like_shards(text):
        return {"data_dir": text}
    return {"dataset": text}


def photo_options(flags: Mapping[str, Any], image_size: int | None) -> dict[str, Any]:
    """Returns what `rfd_tf.data.photo_crops` takes from the flags of scripts/pretrain.py.

    Args:
        flags: name -> value, those that begin with `source_`.
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
    """Returns how many images of a source are among others; 0 where that is not known.

    Args:
        ids: of the others, see `Source.image_ids`.
        source: the images.
        rows: indices of those that count; all when None.

    >>> from rfd_tf import data
    >>> shared(data.digits("all").image_ids(), data.digits("test"))
    297
    """
    own = source.image_ids()
    if ids is None or own is None:
        return 0
    return int(np.isin(own if rows is None else own[rows], ids).sum())


def warn_if_trained_on(
    images: RunImages, source: Source, rows: np.ndarray | None = None, what: str = "test images"
) -> int:
    """Warns where a run was trained on images that it is evaluated on.

    Args:
        images: of the run.
        source, rows: the images evaluated on; all rows when None.
        what: what to call them.

    Returns:
        How many were trained on; 0 where that is not known.
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
