"""A source made of one or a few photographs: many small crops of them, each changed at random.

How the photographs are cut is written here; `photo_sampling` makes the pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfd_tf.data import image_files
from rfd_tf.data.base import ArraySource, Source, fingerprint
from rfd_tf.errors import UserError, unknown
from rfd_tf.paths import absolute

if TYPE_CHECKING:
    import tensorflow as tf

    from rfd_tf.data.photo_sampling import Cutter
    from rfd_tf.data.recipe import Recipe

#: What a name begins with that stands for one of scikit-learn's sample photographs.
SAMPLE = "sklearn:"
SAMPLES = ("china.jpg", "flower.jpg")

_FORM = 1  # to be raised when the same settings come to mean other pixels
_SMALLEST_WINDOW = 2.0  # pixels
_PROGRESS_FROM = 20_000


@dataclasses.dataclass(frozen=True)
class CropSettings:
    """How crops are cut from photographs and changed.

    The steps, in order: a square region at a random place of the photograph; of it a window of
    random area and aspect, resized to more than the crop; rotated and sheared, with black where
    nothing is left; mirrored; its centre cut out; colours changed; noise added. All are as
    published where nothing is given. Without `rotation` and `shear` the window is resized to the
    crop itself.

    Attributes:
        region: side of the square region as a share of the photograph's shorter side, above 0 and
            at most 1; 0 for the whole photograph.
        scale: whether windows have random areas. Without, a window has as many pixels as it is
            resized to.
        area_min: smallest area of a window as a share of the region's; the largest is 1.
        aspect: largest width / height of a window, and height / width; 1 for squares.
        rotation: largest angle, degrees, to either side; 0 for none.
        shear: largest shear, degrees below 90, to either side; 0 for none.
        vertical_flip: whether to turn every other crop upside down.
        horizontal_flip: whether to mirror every other crop. Training mirrors anyway.
        color_jitter: strength s of changes of brightness, contrast and saturation; 0 for none.
        hue: largest turn of the colours, a share of the circle up to 0.5; 0 for none.
        color_probability: share of the crops whose colours are changed.
        noise: standard deviation of Gaussian noise, a share of the range of the pixels up to 1,
            drawn for each crop, pixel and channel; results are clipped to the range. 0 for none.

    Source: Asano, Rupprecht, Vedaldi, "A critical analysis of self-supervision, or what we can
    learn from a single image", ICLR 2020, and their published program, which leaves colours and
    mirroring to the training.

    >>> CropSettings(rotation=0, shear=0).resized(32), CropSettings().resized(256)
    (32, 362)
    """

    region: float = 0.5
    scale: bool = True
    area_min: float = 1 / 500
    aspect: float = 4 / 3
    rotation: float = 30.0
    shear: float = 30.0
    vertical_flip: bool = False
    horizontal_flip: bool = False
    color_jitter: float = 0.4
    hue: float = 0.1
    color_probability: float = 0.5
    noise: float = 0.0

    @property
    def turns(self) -> bool:
        """Whether crops are rotated or sheared."""
        return bool(self.rotation or self.shear)

    def resized(self, size: int) -> int:
        """Returns the side to which windows are resized for crops of `size` pixels."""
        return int(math.sqrt(2.0) * size) if self.turns else size

    def region_of(self, height: int, width: int) -> tuple[int, int]:
        """Returns height and width of the region in a photograph."""
        if not self.region:
            return height, width
        side = int(self.region * min(height, width))
        return side, side

    def check(self) -> None:
        """Raises UserError for a setting out of its range."""
        ranges = {
            "region": (self.region, 0.0, 1.0, "a share of the photograph's shorter side"),
            "area_min": (self.area_min, 0.0, 1.0, "a share of the region's area"),
            "aspect": (self.aspect, 1.0, 100.0, "a largest width / height"),
            "rotation": (self.rotation, 0.0, 180.0, "an angle in degrees"),
            "shear": (self.shear, 0.0, 80.0, "an angle in degrees"),
            "color_jitter": (self.color_jitter, 0.0, math.inf, "a strength"),
            "hue": (self.hue, 0.0, 0.5, "a share of the colour circle"),
            "color_probability": (self.color_probability, 0.0, 1.0, "a probability"),
            "noise": (self.noise, 0.0, 1.0, "a share of the range of the pixels"),
        }
        for name, (value, low, high, what) in ranges.items():
            if not (low <= value <= high and math.isfinite(value)):
                raise UserError(f"{name} of crops is {what} from {low:g} to {high:g}, got {value}")


class PhotoSource(Source):
    """Crops of photographs, made when they are read. Made by `photo_crops`.

    Attributes:
        photos: uint8 `[H, W, 3]` each; crop i comes from the one at i modulo their number.
        size: side of the crops, pixels.
        seed: of the crops.
        settings: how they are cut.
        numbers: int64 `[N]`, the crop at each index; None where these are the same.

    >>> photos = ["sklearn:china.jpg"]
    >>> source = photo_crops(photos, num_crops=100, size=16, cache_bytes=0)
    >>> source.num_images, len(source.photos), source.size
    (100, 1, 16)
    """

    def __init__(
        self,
        photos: Sequence[np.ndarray],
        size: int,
        seed: int,
        settings: CropSettings,
        numbers: np.ndarray | None = None,
        **described: Any,
    ):
        super().__init__(**described)
        self.photos = tuple(photos)
        self.size = size
        self.seed = seed
        self.settings = settings
        self.numbers = numbers

    @functools.cached_property
    def cutter(self) -> Cutter:
        """What makes the crops: one, however many datasets read from it."""
        from rfd_tf.data.photo_sampling import Cutter

        return Cutter(self)

    def training_steps(self, recipe: Recipe) -> tf.data.Dataset:
        from rfd_tf.data import streams

        return streams.train_on_photos(self, recipe)

    def evaluation_pass(
        self,
        image_size: int,
        batch_size: int,
        indices: np.ndarray | None,
        transform: Callable[..., tf.Tensor],
    ) -> tf.data.Dataset:
        from rfd_tf.data import streams

        return streams.evaluate_photos(self, image_size, batch_size, indices, transform)

    def _part(self, indices: np.ndarray, **described: Any) -> PhotoSource:
        numbers = indices if self.numbers is None else self.numbers[indices]
        return PhotoSource(
            self.photos,
            self.size,
            self.seed,
            self.settings,
            numbers,
            num_images=len(indices),
            labels=self._labels_at(indices),
            **described,
        )


def photo_crops(
    images: Sequence[str | os.PathLike],
    num_crops: int = 50_000,
    size: int = 32,
    seed: int = 0,
    cache_bytes: int = 1 << 30,
    max_megapixels: float = image_files.MAX_MEGAPIXELS,
    high_bit_depth: image_files.HighBitDepth = "stretch",
    color_profile: image_files.ColorProfile = "ignore",
    **settings: Any,
) -> Source:
    """Returns a source made of crops of photographs, to learn from one image or a few.

    Crop i follows from the photographs, the settings, the seed and i alone. It is always the same:
    what varies from epoch to epoch is left to the training's own augmentation.

    Every pixel is interpolated once, between the four pixels around it on the two levels nearest
    in scale of a pyramid of halved photographs; the published program resizes the window
    bicubically and then turns it bilinearly, and its colour changes come in random order.

    Args:
        images: files of any format that `image_folder` reads; `"sklearn:china.jpg"` and
            `"sklearn:flower.jpg"` are the sample photographs that come with scikit-learn. They are
            kept in memory, with their pyramids 4 bytes a pixel.
        num_crops: how many crops there are (published: 1,281,167). The photographs take turns.
        size: side of the crops, pixels (published: 256).
        seed: of the crops, any integer.
        cache_bytes: the crops are made beforehand and kept in memory if they take no more than
            this, else made while they are read, to the same pixels. 0 turns it off.
        max_megapixels: larger photographs are refused.
        high_bit_depth, color_profile: see `image_folder`.
        **settings: see `CropSettings`.

    Returns:
        An `ArraySource` where the crops are kept in memory, else a `PhotoSource`. No labels.

    Raises:
        UserError: no image; a file that is missing or no image, or too small to be cut; a setting
            that does not exist or is out of its range.

    >>> source = photo_crops(["sklearn:china.jpg"], num_crops=100, size=16)
    >>> source.images.shape
    (100, 16, 16, 3)
    """
    options = [field.name for field in dataclasses.fields(CropSettings)]
    for name in settings:
        if name not in options:
            raise unknown("setting of crops", name, options)
    how = CropSettings(**settings)
    how.check()
    if not images:
        raise UserError("crops need a photograph; give --source_images=PHOTO.jpg")
    for what, value in (("number of crops", num_crops), ("side of crops", size)):
        if value < 1:
            raise UserError(f"the {what} must be 1 or more, got {value}")
    reading = image_files.Reading(max_megapixels, high_bit_depth, color_profile)
    reading.check()
    contents, photos = [], []
    for name in images:
        path = _path(str(name))
        photo = _read(str(name), path, reading)
        _check_size(str(name), photo, size, how)
        contents.append(path.read_bytes())
        photos.append(photo)
    if sum(photo.size // 3 for photo in photos) * 1.4 > np.iinfo(np.int32).max:
        raise UserError(
            f"the {len(photos)} photographs have more than 1.5 thousand million pixels; scale "
            "them down, or give fewer"
        )
    kinds = [image_files.header_of_bytes(content, reading).kind for content in contents]
    more = f" and {len(images) - 1} more" if len(images) > 1 else ""
    identity = ["photo crops", _FORM, num_crops, size, int(seed), len(contents), *contents]
    # Without noise the crops are those of versions that had none, and so is what identifies them.
    *before_noise, noise = dataclasses.astuple(how)
    described = (*before_noise, noise) if noise else tuple(before_noise)
    source = PhotoSource(
        photos,
        size,
        int(seed),
        how,
        num_images=num_crops,
        name=f"crops of {Path(str(images[0]).removeprefix(SAMPLE)).name}{more}",
        fingerprint=fingerprint([*identity, repr(described), *image_files.conversions(kinds)]),
    )
    return source if num_crops * size * size * 3 > cache_bytes else _in_memory(source)


def sheet(source: Source, size: int, rows: int = 8, columns: int = 8) -> np.ndarray:
    """Returns a picture of a source's first images, side by side, to be looked at.

    Args:
        source: any source.
        size: side of each image in the picture, pixels.
        rows, columns: how many; empty places are white.

    Returns:
        uint8 `[rows * (size + 2) - 2, columns * (size + 2) - 2, 3]`.

    >>> sheet(photo_crops(["sklearn:flower.jpg"], num_crops=9, size=16), 16).shape
    (142, 142, 3)
    """
    from rfd_tf.data.pipeline import load_images

    count = min(rows * columns, source.num_images)
    images = load_images(source, size, np.arange(count))
    tiles = np.full((rows * columns, size + 2, size + 2, 3), 255, np.uint8)
    tiles[:count, :size, :size] = images
    tiles = tiles.reshape(rows, columns, size + 2, size + 2, 3).swapaxes(1, 2)
    return tiles.reshape(rows * (size + 2), columns * (size + 2), 3)[:-2, :-2]


def _path(name: str) -> Path:
    if not name.startswith(SAMPLE):
        return absolute(name)
    sample = name.removeprefix(SAMPLE)
    if sample not in SAMPLES:
        raise unknown("sample photograph of scikit-learn", sample, SAMPLES)
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).with_name("images") / sample


def _read(name: str, path: Path, reading: image_files.Reading) -> np.ndarray:
    if not path.exists():
        hint = f"; scikit-learn's is {SAMPLE}{path.name}" if path.name in SAMPLES else ""
        raise UserError(f"no such photograph: '{name}'{hint}")
    if path.is_dir():
        raise UserError(
            f"'{name}' is a folder, not a photograph; name its files, or train on all of them "
            "with --data_dir"
        )
    try:
        return image_files.read_rgb(path, reading)
    except Exception as error:  # Pillow raises many types on broken files
        raise UserError(
            f"'{name}' cannot be read as an image ({image_files.reason_of(error)}); give a "
            f"{image_files.formats()}"
        ) from None


def _check_size(name: str, photo: np.ndarray, size: int, how: CropSettings) -> None:
    height, width = photo.shape[:2]
    region = min(how.region_of(height, width))
    cut_from = f"'{name}' has {height} x {width} pixels, and crops are cut from {region} of a side"
    if how.scale:
        window = region * math.sqrt(how.area_min)
        if window < _SMALLEST_WINDOW:
            raise UserError(
                f"{cut_from}, the smallest from {window:.1f}: too small; give a larger photograph, "
                "a larger region or a larger area_min"
            )
    elif region < how.resized(size):
        raise UserError(
            f"{cut_from}, which is less than the {how.resized(size)} that crops of {size} need; "
            "give a larger photograph, a larger region or smaller crops"
        )


def _in_memory(source: PhotoSource) -> ArraySource:
    """Makes all crops beforehand."""
    from rfd_tf.progress import tqdm

    images = np.zeros((source.num_images, source.size, source.size, 3), np.uint8)
    quiet = True if source.num_images < _PROGRESS_FROM else None
    with tqdm(
        total=source.num_images,
        desc="Cutting crops",
        unit=" crops",
        file=sys.stderr,
        leave=False,
        disable=quiet,
    ) as bar:
        batches = source.eval_dataset(image_size=source.size, batch_size=256)
        for batch in batches.as_numpy_iterator():
            images[batch["index"]] = batch["image"]
            bar.update(len(batch["index"]))
    return ArraySource(images, name=source.name, fingerprint=source.fingerprint)
