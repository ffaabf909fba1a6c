"""Decoding encoded images inside tf.data: from bytes to pixels of the wanted size.

The usual kinds are decoded by TensorFlow's own C++ operations, the others by Pillow, which lets
other threads work while it decodes most formats.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from rfd_tf.data import image_files
from rfd_tf.data.image_files import (
    BMP,
    BY_PILLOW,
    JPEG,
    PNG,
    TRANSPARENT_PNG,
    WEBP,
    ColorProfile,
    HighBitDepth,
    Reading,
)

# The slow-but-accurate integer transform: the pixels are those of libjpeg and of Pillow.
_DCT = "INTEGER_ACCURATE"
# What a JPEG can be shrunk by while it is decoded, and how much larger than the result it stays.
_SHRINKS = (1, 2, 4, 8)
_SPARE = 2


def to_uint8(images: tf.Tensor) -> tf.Tensor:
    """Rounds floating-point pixels to uint8, clipped to 0-255."""
    return tf.cast(tf.clip_by_value(tf.round(images), 0.0, 255.0), tf.uint8)


def _over_white(image: tf.Tensor) -> tf.Tensor:
    """Lays `[H, W, 4]` pixels with alpha over white: uint8 `[H, W, 3]`."""
    values = tf.cast(image, tf.float32)
    alpha = values[..., 3:] / 255.0
    return to_uint8(values[..., :3] * alpha + 255.0 * (1.0 - alpha))


def _decode_jpeg(contents: tf.Tensor, shrink: int = 1) -> tf.Tensor:
    return tf.io.decode_jpeg(contents, channels=3, ratio=shrink, dct_method=_DCT)


def _decode_png(contents: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_png(contents, channels=3)


def _decode_transparent_png(contents: tf.Tensor) -> tf.Tensor:
    return _over_white(tf.io.decode_png(contents, channels=4))


def _decode_bmp(contents: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_image(contents, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def _as_bytes(contents: bytes | np.ndarray) -> bytes:
    """Returns what `tf.numpy_function` passes for a string: an array, if it runs eagerly."""
    return contents.item() if isinstance(contents, np.ndarray) else contents


def _decode_by_pillow(contents: tf.Tensor, kind: int = image_files.PILLOW) -> tf.Tensor:
    def pixels(contents) -> np.ndarray:
        return image_files.decode_any(_as_bytes(contents), kind)

    image = tf.numpy_function(pixels, [contents], tf.uint8, stateful=False)
    image = tf.ensure_shape(image, [None, None, 3])
    decoded = tf.debugging.Assert(tf.size(image) > 0, ["Pillow cannot decode the image"])
    with tf.control_dependencies([] if decoded is None else [decoded]):
        return tf.identity(image)


def decode_webp(contents: tf.Tensor) -> tf.Tensor:
    """Decodes a WebP, which must not be animated: uint8 `[H, W, 3]`, white behind alpha."""
    # (Asked for a number of channels that the file does not have, it fails.)
    image = tf.io.decode_image(contents, channels=0, expand_animations=False)
    image = tf.ensure_shape(image, [None, None, None])
    transparent = tf.equal(tf.shape(image)[-1], 4)
    image = tf.cond(transparent, lambda: _over_white(image), lambda: image)
    return tf.ensure_shape(image, [None, None, 3])


_DECODERS = {
    JPEG: _decode_jpeg,
    PNG: _decode_png,
    TRANSPARENT_PNG: _decode_transparent_png,
    BMP: _decode_bmp,
    WEBP: decode_webp if hasattr(tf.raw_ops, "DecodeWebP") else _decode_by_pillow,
    **{kind: functools.partial(_decode_by_pillow, kind=kind) for kind in sorted(BY_PILLOW)},
}

#: Every kind; and those that `kind_of` detects without Python.
ALL_KINDS = tuple(_DECODERS)
KINDS = (JPEG, PNG, TRANSPARENT_PNG, BMP)


def _by_value(value: tf.Tensor, options: tuple[int, ...], branch):
    """Runs `branch(option)` for the option that `value` is, out of those that can occur."""
    if len(options) == 1:
        return branch(options[0])
    branches = [(lambda option=option: branch(option)) for option in options]
    position = tf.argmax(tf.equal(tf.cast(value, tf.int32), tf.constant(options, tf.int32)))
    return tf.switch_case(tf.cast(position, tf.int32), branches)


def decode(contents: tf.Tensor, kind: tf.Tensor, kinds: tuple[int, ...]) -> tf.Tensor:
    """Decodes one image.

    Args:
        contents: string scalar, the encoded bytes.
        kind: integer scalar, one of the kinds in `image_files`.
        kinds: the kinds that can occur; with one there is no branch.

    Returns:
        uint8 `[H, W, 3]`, as stored.
    """
    return _by_value(kind, kinds, lambda k: _DECODERS[k](contents))


def decode_bytes(
    contents: tf.Tensor,
    max_megapixels: float | None = None,
    high_bit_depth: HighBitDepth = "stretch",
    color_profile: ColorProfile = "ignore",
) -> tf.Tensor:
    """Decodes one image of any supported format, detected from its bytes.

    The pixels are those that a file of the same content has in a folder.

    Args:
        contents: string scalar, the encoded bytes.
        max_megapixels: larger images are refused; `image_files.MAX_MEGAPIXELS` if None.
        high_bit_depth, color_profile: see `rfd_tf.data.image_folder`.

    Returns:
        uint8 `[H, W, 3]`, upright.

    Raises:
        tf.errors.InvalidArgumentError: when run: it cannot be decoded.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (30, 20)).save(file, "TIFF")
    >>> decode_bytes(tf.constant(file.getvalue())).shape
    TensorShape([20, 30, 3])
    """
    limit = image_files.MAX_MEGAPIXELS if max_megapixels is None else max_megapixels

    reading = Reading(limit, high_bit_depth, color_profile)
    reading.check()

    def describe(contents) -> tuple[np.int32, np.int32]:
        header = image_files.header_of_bytes(_as_bytes(contents), reading)
        if not isinstance(header, image_files.Header):
            return np.int32(-1), np.int32(1)
        return np.int32(header.kind), np.int32(header.orientation)

    kind, orientation = tf.numpy_function(describe, [contents], (tf.int32,) * 2, stateful=False)
    known = tf.debugging.Assert(kind >= 0, ["this is no image that can be read"])
    with tf.control_dependencies([] if known is None else [known]):
        kind, orientation = tf.ensure_shape(kind, []), tf.ensure_shape(orientation, [])
    return upright(decode(contents, kind, ALL_KINDS), orientation)


def decoded_height(contents: tf.Tensor, kind: tf.Tensor, kinds: tuple[int, ...]) -> tf.Tensor:
    """Reads an image to its end for nothing but to see that it can be decoded.

    All bytes of a JPEG are read, as `decode` does, but only an eighth as many rows made of them,
    in three quarters of the time.

    Args:
        contents, kind, kinds: as for `decode`; it fails where `decode` does.

    Returns:
        int32 scalar, the rows that were made.
    """

    def branch(k: int) -> tf.Tensor:
        if k == JPEG:
            return tf.shape(_decode_jpeg(contents, _SHRINKS[-1]))[0]
        return tf.shape(_DECODERS[k](contents))[0]

    return _by_value(kind, kinds, branch)


def kind_of(contents: tf.Tensor, transparent: bool) -> tf.Tensor:
    """Returns the kind of an encoded image, from its first bytes; `transparent` is of the PNGs."""
    png = TRANSPARENT_PNG if transparent else PNG
    start = tf.strings.substr(contents, 0, 4)
    return tf.where(tf.io.is_jpeg(contents), JPEG, tf.where(tf.equal(start, b"\x89PNG"), png, BMP))


def shape_of(contents: tf.Tensor, kind: tf.Tensor, kinds: tuple[int, ...]) -> tf.Tensor:
    """Returns int32 `[2]`, height and width as stored. JPEG and PNG are not decoded for it."""

    def branch(k: int) -> tf.Tensor:
        if k == JPEG:
            return tf.io.extract_jpeg_shape(contents)[:2]
        if k in (PNG, TRANSPARENT_PNG):  # width and height, big-endian, at byte 16
            header = tf.strings.substr(contents, 16, 8)
            return tf.io.decode_raw(header, tf.int32, little_endian=False)[::-1]
        return tf.shape(_DECODERS[k](contents))[:2]

    return tf.ensure_shape(_by_value(kind, kinds, branch), [2])


def resize(images: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Resizes `[H, W, 3]` or `[B, H, W, 3]`, bilinear with antialiasing, to uint8.

    The pixels are those of `tf.image.resize(..., antialias=True)`, rounded, in half the time.
    """
    fixed = isinstance(height, int) and isinstance(width, int)
    if fixed and tuple(images.shape[-3:-1]) == (height, width):
        return images
    stacked = images if images.shape.rank == 4 else images[None]
    batch, rows, columns = tf.unstack(tf.shape(stacked)[:3])
    # The kernel is slow where it moves the three values of a pixel at a time. So each axis in turn
    # is laid before all that stays together.
    by_row = _resize_second_axis(tf.reshape(stacked, [batch, rows, columns * 3]), height)
    by_row = tf.reshape(by_row, [batch, height, columns, 3])
    by_column = tf.reshape(tf.transpose(by_row, [0, 2, 1, 3]), [batch, columns, height * 3])
    resized = _resize_second_axis(by_column, width)
    # Means of pixels need no clipping.
    pixels = tf.cast(tf.round(resized), tf.uint8)
    pixels = tf.transpose(tf.reshape(pixels, [batch, width, height, 3]), [0, 2, 1, 3])
    return pixels if images.shape.rank == 4 else pixels[0]


def _resize_second_axis(values: tf.Tensor, size: int | tf.Tensor) -> tf.Tensor:
    """Resizes `[B, n, m]` to `[B, size, m]`, float32."""
    scale = tf.cast(size, tf.float32) / tf.cast(tf.shape(values)[1], tf.float32)
    # As images of one row: for each row of its result the kernel asks the other threads for help,
    # and with as many rows as pixels that takes longer than the work.
    resized = tf.raw_ops.ScaleAndTranslate(
        images=values[:, None],
        size=[1, size],
        scale=[1.0, scale],
        translation=[0.0, 0.0],
        kernel_type="triangle",
        antialias=True,
    )
    return resized[:, 0]


def shrink_factor(smallest: tf.Tensor, image_size: int) -> tf.Tensor:
    """Returns by how much a JPEG may be shrunk while it is decoded: int32 scalar, 1, 2, 4 or 8.

    Photographs of several megapixels are decoded in about half the time so. What is left is still
    twice as large as the result, which hides it, as in Pillow's `thumbnail`.

    Args:
        smallest: int32 scalar, the shortest side of the windows, in pixels.
        image_size: side of the result, in pixels.

    >>> [int(shrink_factor(side, 224)) for side in (400, 895, 896, 1792, 9000)]
    [1, 1, 2, 4, 8]
    """
    enough = [tf.cast(smallest >= _SPARE * image_size * n, tf.int32) for n in _SHRINKS[1:]]
    return tf.gather(_SHRINKS, tf.add_n(enough))


def _corners(window: tf.Tensor, shrink: tf.Tensor | int) -> tf.Tensor:
    """Returns int32 `[2, 2]`: (top, left) and (bottom, right) in the shrunk image."""
    start, size = window[:2], window[2:]
    return (tf.stack([start, start + size]) + shrink // 2) // shrink


def _decode_jpeg_window(
    contents: tf.Tensor, window: tf.Tensor, smallest: tf.Tensor, image_size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a window, shrunk as far as its smallest part allows; returns it and by how much."""

    def branch(shrink: int) -> tf.Tensor:
        start, end = tf.unstack(_corners(window, shrink))
        place = tf.concat([start, end - start], axis=0)
        return tf.io.decode_and_crop_jpeg(
            contents, place, channels=3, ratio=shrink, dct_method=_DCT
        )

    shrink = shrink_factor(smallest, image_size)
    return _by_value(shrink, _SHRINKS, branch), shrink


def decode_windows(
    contents: tf.Tensor,
    kind: tf.Tensor,
    windows: tf.Tensor,
    image_size: int,
    kinds: tuple[int, ...],
    mirrored: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decodes windows of an image and resizes them.

    Of a JPEG only the part in which the windows lie is decoded, once for all of them, and shrunk
    on the way where they are large, see `shrink_factor`: their edges are then up to a quarter of a
    pixel of the result off.

    Args:
        contents: string scalar, the encoded bytes.
        kind: integer scalar.
        windows: int32 `[n, 4]`: top, left, height, width, in stored pixels; n is static.
        image_size: side of the results.
        kinds: the kinds that can occur.
        mirrored: bool `[n, 2]`, whether to turn a result upside down, and left to right.

    Returns:
        uint8 `[n, image_size, image_size, 3]`.
    """
    several = tf.unstack(windows)
    outer = several[0]
    if len(several) > 1:
        start = tf.reduce_min(windows[:, :2], axis=0)
        end = tf.reduce_max(windows[:, :2] + windows[:, 2:], axis=0)
        outer = tf.concat([start, end - start], axis=0)
    smallest = tf.reduce_min(windows[:, 2:])

    def branch(k: int) -> tuple[tf.Tensor, tf.Tensor]:
        if k == JPEG:
            return _decode_jpeg_window(contents, outer, smallest, image_size)
        image = _DECODERS[k](contents)
        return tf.slice(image, [outer[0], outer[1], 0], [outer[2], outer[3], 3]), tf.constant(1)

    part, shrink = _by_value(kind, kinds, branch)
    origin = _corners(outer, shrink)[0]
    results = []
    for number, window in enumerate(several):
        image = part
        if len(several) > 1:
            start, end = tf.unstack(_corners(window, shrink) - origin)
            image = part[start[0] : end[0], start[1] : end[1]]
        image = resize(image, image_size, image_size)
        if mirrored is not None:
            turned = tf.concat([mirrored[number], [False]], axis=0)
            image = tf.raw_ops.Reverse(tensor=image, dims=turned)
        results.append(image)
    return tf.ensure_shape(tf.stack(results), [len(several), image_size, image_size, 3])


def upright(image: tf.Tensor, orientation: tf.Tensor | None) -> tf.Tensor:
    """Rotates and mirrors an image of any shape by its EXIF orientation.

    Args:
        image: `[H, W, 3]`.
        orientation: integer scalar, the EXIF tag's 1 to 8; None for 1.

    Returns:
        `[H, W, 3]`, from orientation 5 on `[W, H, 3]`.

    Source: Exif 2.3 (JEITA CP-3451C), tag 0x0112.

    >>> image = tf.reshape(tf.range(12), (2, 2, 3))
    >>> upright(image, tf.constant(6))[:, :, 0].numpy().tolist()  # 6 is a quarter turn
    [[6, 0], [9, 3]]
    """
    if orientation is None:
        return image
    code = tf.cast(orientation, tf.int32)

    def any_of(*values: int) -> tf.Tensor:
        return tf.reduce_any(tf.equal(code, values))

    image = tf.cond(code >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    turned = [any_of(3, 4, 7, 8), any_of(2, 3, 6, 7), False]
    return tf.raw_ops.Reverse(tensor=image, dims=tf.stack(turned))


def evaluation_resize(image_size: int) -> int:
    """Returns to what the shorter side is resized before the centre crop of `image_size`.

    From 96 pixels on, 256/224 of it, as is usual for 224; below, small images being the rule,
    the crop keeps the whole shorter side.

    >>> evaluation_resize(224), evaluation_resize(32)
    (256, 32)
    """
    return round(image_size * 256 / 224) if image_size >= 96 else image_size


def evaluation_transform(
    images: tf.Tensor, image_size: int, orientation: tf.Tensor | None = None
) -> tf.Tensor:
    """Resizes the shorter side, keeping the aspect, and cuts the centre.

    The shorter side becomes `evaluation_resize(image_size)`, bilinear with antialiasing. Images
    that are `image_size` square already are left as they are. As torchvision's Resize and
    CenterCrop.

    Args:
        images: uint8 `[H, W, 3]` or `[B, H, W, 3]`.
        image_size: side of the result.
        orientation: of an image `[H, W, 3]`, see `upright`; None for 1.

    Returns:
        uint8, upright, with `image_size` for H and W.
    """
    size = image_size
    static = (images.shape[-3], images.shape[-2])
    if static == (size, size):
        return upright(images, orientation)
    shape = [*images.shape[:-3], size, size, 3]

    def resized_and_cut() -> tf.Tensor:
        # (Rotated once it is small: a photograph takes longer to rotate than to decode.)
        resized = upright(_resize_shorter(images, evaluation_resize(size)), orientation)
        return _cut_centre(resized, size, size)

    if None not in static:
        return tf.ensure_shape(resized_and_cut(), shape)
    same = tf.reduce_all(tf.equal(tf.shape(images)[-3:-1], size))
    result = tf.cond(same, lambda: upright(images, orientation), resized_and_cut)
    return tf.ensure_shape(result, shape)


def stretch_transform(
    images: tf.Tensor, image_size: int, orientation: tf.Tensor | None = None
) -> tf.Tensor:
    """Resizes all of an image to a square, whatever its aspect; bilinear with antialiasing.

    Args:
        images: uint8 `[H, W, 3]` or `[B, H, W, 3]`.
        image_size: side of the result.
        orientation: of an image `[H, W, 3]`, see `upright`; None for 1.

    Returns:
        uint8, upright, with `image_size` for H and W.
    """
    shape = [*images.shape[:-3], image_size, image_size, 3]
    resized = resize(images, image_size, image_size)
    return tf.ensure_shape(upright(resized, orientation), shape)


def ten_crop_transform(
    images: tf.Tensor, image_size: int, orientation: tf.Tensor | None = None
) -> tf.Tensor:
    """Resizes the shorter side, keeping the aspect, and cuts the corners, the centre, and mirrors.

    The shorter side becomes 256/224 of `image_size`, bilinear with antialiasing. As torchvision's
    Resize and TenCrop.

    Args:
        images: uint8 `[H, W, 3]` or `[B, H, W, 3]`.
        image_size: side S of the crops.
        orientation: of an image `[H, W, 3]`, see `upright`; None for 1.

    Returns:
        uint8 `[..., 10, S, S, 3]`, of the upright image: top left, top right, bottom left,
        bottom right, centre, and the same five of the mirrored image.
    """
    images = _resize_shorter(images, round(image_size * 256 / 224))
    images = upright(images, orientation)
    crops = []
    for seen in (images, images[..., ::-1, :]):
        height, width = tf.shape(seen)[-3], tf.shape(seen)[-2]
        for top in (0, height - image_size):
            for left in (0, width - image_size):
                crops.append(seen[..., top : top + image_size, left : left + image_size, :])
        crops.append(_cut_centre(seen, image_size, image_size))
    crops = tf.stack(crops, axis=-4)
    return tf.ensure_shape(crops, [*images.shape[:-3], 10, image_size, image_size, 3])


# A strip is cut to this aspect before it is resized: enlarging the shorter side of a 4 x 4000
# image would take gigabytes, of which the centre crop keeps a sixtieth.
_LONGEST_ASPECT = 4


def _resize_shorter(images: tf.Tensor, target: int) -> tf.Tensor:
    height, width = tf.shape(images)[-3], tf.shape(images)[-2]
    shorter = tf.minimum(height, width)
    longest = _LONGEST_ASPECT * shorter
    images = _cut_centre(images, tf.minimum(height, longest), tf.minimum(width, longest))
    height, width = tf.shape(images)[-3], tf.shape(images)[-2]
    # Whole numbers: what is behind the point of the longer side is dropped, as in torchvision.
    return resize(images, target * height // shorter, target * width // shorter)


def _cut_centre(images: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    excess = tf.shape(images)[-3:-1] - tf.stack([height, width])
    top, left = tf.unstack(tf.cast(tf.round(tf.cast(excess, tf.float32) / 2.0), tf.int32))
    return images[..., top : top + height, left : left + width, :]
