"""Datasets that need neither network nor download: handwritten digits, photographs of clothing."""

from __future__ import annotations

import functools
import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from rfd_tf.data.base import ArraySource, fingerprint, image_ids
from rfd_tf.errors import UserError, unknown

_NUM_DIGITS = 1797
_DIGITS_TRAIN = 1500
_DIGITS_SIZE = 32

#: The photographs; scripts/build_clothing.py writes the file and prints its sha256.
CLOTHING = Path(__file__).parent / "files" / "clothing.npz"
CLOTHING_SHA256 = "2c01e4ce31a3c44425377dc3616227b2d3f43bdf8c6ce5c4a4f9749df0d9ad04"

SPLITS = ("train", "test", "all")


def digits(split: str = "train") -> ArraySource:
    """Returns scikit-learn's handwritten digits as 32x32 colour images. Needs no network.

    The 8x8 images with values 0 to 16 are enlarged by bicubic interpolation, scaled to 0-255 and
    repeated over three equal channels.

    Args:
        split: `"train"` (the first 1,500), `"test"` (the last 297) or `"all"` (1,797).

    Returns:
        A source with uint8 images `[N, 32, 32, 3]`, labels 0 to 9 and class names "0" to "9".

    Raises:
        UserError: there is no such split.

    Source: the test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
    1998), as `sklearn.datasets.load_digits` gives it.

    >>> digits("test").images.shape
    (297, 32, 32, 3)
    """
    part = _part("digits", split, _DIGITS_TRAIN, _NUM_DIGITS)
    from sklearn.datasets import load_digits

    data = load_digits()
    size = (_DIGITS_SIZE, _DIGITS_SIZE)
    enlarged = np.stack(
        [
            np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
            for image in data.images[part].astype(np.float32)
        ]
    )
    grey = np.clip(np.rint(enlarged * (255.0 / 16.0)), 0, 255).astype(np.uint8)
    source = ArraySource(
        np.repeat(grey[..., None], 3, axis=-1),
        labels=data.target[part],
        class_names=[str(name) for name in data.target_names],
        name=_name("digits", split),
    )
    source.origins = lambda: image_ids("digits", part.start, source.num_images)
    return source


def clothing(split: str = "train") -> ArraySource:
    """Returns photographs of clothing in ten classes as 48x48 colour images. Needs no network.

    The central squares of photographs, most of one item on a floor, a bed or a wall.

    Args:
        split: `"train"` (3,409), `"test"` (372) or `"all"` (3,781, train first).

    Returns:
        A source with uint8 images `[N, 48, 48, 3]`, labels 0 to 9 and the class names dress, hat,
        longsleeve, outwear, pants, shirt, shoes, shorts, skirt and t-shirt.

    Raises:
        UserError: there is no such split, or the file with the images is missing or damaged.

    Source: "Clothing dataset (small)", published by Alexey Grigorev, 2020, in the public domain
    (CC0 1.0). Its validation images are in the train split.

    >>> source = clothing("test")
    >>> source.images.shape, source.class_names[source.labels[0]]
    ((372, 48, 48, 3), 'outwear')
    """
    _part("clothing", split, 0, 0)  # reject an unknown split before reading the file
    part, images, labels, class_names = _clothing(CLOTHING, CLOTHING_SHA256, split)
    source = ArraySource(
        images,
        labels=labels,
        class_names=class_names,
        name=_name("clothing", split),
        # Not of the pixels, which depend on the version of the JPEG decoder in the last bits.
        fingerprint=fingerprint(["clothing", split, CLOTHING_SHA256]),
    )
    source.origins = lambda: image_ids("clothing", part.start, source.num_images)
    return source


# (Training, evaluation and export each load the photographs, and decoding takes seconds.)
@functools.cache
def _clothing(
    path: Path, sha256: str, split: str
) -> tuple[slice, np.ndarray, np.ndarray, list[str]]:
    """Returns the rows of a split of the photographs, its images, labels and class names."""
    packed = _read(path, sha256)
    lengths, ends = packed["lengths"], np.cumsum(packed["lengths"])
    part = _part("clothing", split, int(packed["num_train"]), len(ends))
    jpegs = packed["jpegs"].tobytes()
    images = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(jpegs[end - length : end])))
            for length, end in zip(lengths[part], ends[part], strict=True)
        ]
    )
    labels = packed["labels"][part]
    for shared in (images, labels):
        shared.flags.writeable = False
    return part, images, labels, [str(name) for name in packed["class_names"]]


def _part(dataset: str, split: str, num_train: int, count: int) -> slice:
    """Returns which images belong to a split."""
    if split not in SPLITS:
        raise unknown(f"split of {dataset}", split, SPLITS)
    return {"train": slice(0, num_train), "test": slice(num_train, count), "all": slice(0, count)}[
        split
    ]


def _name(dataset: str, split: str) -> str:
    return dataset if split == "all" else f"{dataset}/{split}"


def _read(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a file of photographs.

    Returns:
        `jpegs` uint8, the JPEG files one after another; `lengths` int32 `[N]`, their bytes;
        `labels` uint8 `[N]`; `class_names`; `num_train`, how many belong to the train split.

    Raises:
        UserError: the file cannot be read or has another checksum.
    """
    advice = "install rfd_tf again, or restore the file with git"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read '{path}' ({error.strerror}); {advice}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise UserError(
            f"'{path}' is damaged: its sha256 is {found[:12]}..., not {sha256[:12]}...; {advice}"
        )
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)
