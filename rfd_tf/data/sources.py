"""Sources by one argument: files of any kind, embedded datasets, photographs, TFDS datasets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rfd_tf.data import given
from rfd_tf.data.base import ArraySource, Source
from rfd_tf.data.embedded import SPLITS, clothing, digits
from rfd_tf.data.file_list import image_list
from rfd_tf.data.folder import FolderSource, image_folder
from rfd_tf.data.image_files import MAX_MEGAPIXELS, ColorProfile, HighBitDepth, Reading
from rfd_tf.data.photos import CropSettings, PhotoSource, photo_crops
from rfd_tf.data.remote.cache import CACHE_GB
from rfd_tf.data.tfds_source import TfdsSource, open_builder, tfds
from rfd_tf.errors import UserError

__all__ = [
    "DATASETS",
    "ArraySource",
    "CropSettings",
    "FolderSource",
    "PhotoSource",
    "Source",
    "TfdsSource",
    "clothing",
    "digits",
    "image_folder",
    "image_list",
    "load",
    "photo_crops",
    "tfds",
]

# Embedded datasets: name -> loader of a split. Every other name is looked up in TFDS.
DATASETS: dict[str, Callable[[str], Source]] = {"clothing": clothing, "digits": digits}


def splits(dataset: str, tfds_dir: str | None = None, download: bool = False) -> list[str]:
    """Returns the names of a dataset's splits.

    Args:
        dataset, tfds_dir, download: see `load`.

    Raises:
        UserError: there is no such dataset, it is not prepared, or TFDS is not installed.

    >>> splits("digits")
    ['train', 'test', 'all']
    """
    if dataset in DATASETS:
        return list(SPLITS)
    return list(open_builder(dataset, tfds_dir, download, DATASETS).info.splits)


def load(
    data: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    data_root: str | os.PathLike | None = None,
    split: str | None = None,
    tfds_dir: str | None = None,
    download: bool = False,
    max_skipped: float = 0.01,
    max_megapixels: float = MAX_MEGAPIXELS,
    high_bit_depth: HighBitDepth = "stretch",
    color_profile: ColorProfile = "ignore",
    photos: Sequence[str | os.PathLike] | None = None,
    photo_options: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    leave_out: Sequence[str | os.PathLike] = (),
    cache_dir: str | os.PathLike | None = None,
    cache_gb: float = CACHE_GB,
) -> Source:
    """Returns the source that folders, a list, a name or photographs stand for.

    Args:
        data: a folder of images, see `image_folder`; several, as a sequence or with commas between
            them; a list of images (`.csv`, `.tsv`, `.txt`, `.jsonl`), see `image_list`; shards: a
            file, a folder or a pattern of `.tar`, `.tfrecord` or `.parquet`, see
            `rfd_tf.data.shards.shard_source`; the address of such a list or such shards elsewhere
            (`https://`, `s3://`, `gs://` and the others of fsspec); `hf:FOLDER` or `hf:NAME`, a
            dataset of Hugging Face; a name in `DATASETS`, or of a TFDS image dataset, as
            `tfds.builder` takes it (`"cifar10"`, `"imagenet_resized/64x64"`).
        dataset, data_dir: `data`, where it is known to be a name, or to be files.
        data_root: the folder that the paths in a list are relative to; the list's own if None.
        split: which part of a dataset, or which rows of a list with a column `split`: `"train"`
            where None. Folders have no splits and ignore it.
        tfds_dir: where TFDS datasets lie, or None for TFDS' own default.
        download: whether TFDS may download and prepare the dataset.
        max_skipped: see `image_folder`.
        max_megapixels, high_bit_depth, color_profile: of image files and of photographs; see
            `image_folder`.
        photos: photographs to be cut into crops, see `photo_crops`. Give this or `data`.
        photo_options: the other arguments of `photo_crops`, by name.
        classes: of a TFDS dataset with objects, only the images that show one of these classes.
        leave_out: folders in `data` that hold no images of the set, see `image_folder`.
        cache_dir: folder of the cache of files at addresses; `rfd_tf` in the user's folder of
            caches if None.
        cache_gb: the largest total length of the files in it, 10^9 bytes each.

    Raises:
        UserError: no images or several sets are given, an unknown name or split, or what the
            loader itself finds wrong.

    >>> load("digits").num_images
    1500
    """
    flags = {"--dataset": dataset, "--data_dir": data_dir, "--source_images": photos or None}
    named = [flag for flag, value in flags.items() if value is not None]
    if isinstance(data, np.ndarray):
        raise UserError(
            "data is an array, which needs no loading: give it to rfd_tf.pretrain, or make an "
            "rfd_tf.data.ArraySource of it"
        )
    if data is not None:
        ((name, value),) = given.place_of(data).items()
        dataset, data_dir = (value, None) if name == "dataset" else (None, value)
        named.insert(0, f"--{name}")
    if not named:
        raise UserError(
            "no images were given; give --data a folder, a list of files or the name of a dataset "
            f"(embedded: {', '.join(DATASETS)}; others are TFDS's)"
        )
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} were given; give one of them")
    reading = Reading(max_megapixels, high_bit_depth, color_profile)._asdict()
    if photos:
        return photo_crops(photos, **reading, **photo_options or {})
    if classes and (dataset is None or dataset in DATASETS):
        raise UserError("--tfds_classes chooses images of a TFDS dataset that has objects")
    if data_dir is not None:
        return given.read(
            os.fspath(data_dir),
            data_root=data_root,
            split=split,
            max_skipped=max_skipped,
            **reading,
            leave_out=leave_out,
            cache_dir=cache_dir,
            cache_gb=cache_gb,
        )
    split = split or "train"
    if dataset in DATASETS:
        return DATASETS[dataset](split)
    return tfds(dataset, split, tfds_dir, download, embedded=DATASETS, classes=classes)
