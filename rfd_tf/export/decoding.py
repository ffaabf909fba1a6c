"""From encoded images to pixels inside a TensorFlow graph, nothing known about them beforehand.

Training reads each file's header in Python, and decodes with Pillow what TensorFlow does not; a
served model can do neither. Of the formats that it reads the result is the same: RGB, upright,
white behind what is transparent, brought to size by the evaluation transform. Only of a GIF
TensorFlow returns black for transparent pixels.
"""

from __future__ import annotations

import tensorflow as tf

from rfd_tf.data.decode import decode_webp, evaluation_transform, to_uint8
from rfd_tf.data.image_files import PNG_DEEP_GREY, STRETCH_SAMPLE, STRETCHED_FROM, STRETCHED_TO

# A segment of a JPEG holds 64 KiB at most: an Exif block cannot point further.
_MOST_BYTES = 1 << 16
_EXIF = (0x45, 0x78, 0x69, 0x66, 0, 0)
_ORIENTATION_TAG = 0x0112
_SHORT, _LONG = 3, 4
_START_OF_SCAN = 0xDA
_NOWHERE = -1
_ENTRY_BYTES = 12
_MOST_ENTRIES = 512
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_FIRST_BYTES = 34  # reaches the compression field of a BMP header
_BMP_PALETTE_BYTES = 4 * 256


def pixels_from_bytes(encoded: tf.Tensor, image_size: int, stretch: bool = True) -> tf.Tensor:
    """Decodes image files and brings them to the model's size.

    Args:
        encoded: string `[batch]`: JPEG, PNG, BMP, GIF or WebP files, of any sizes.
        image_size: side S of the result, in pixels.
        stretch: see `decode`.

    Returns:
        uint8 `[batch, S, S, 3]`, as the library's evaluation sees these files: images that are
        S x S already as they are, others resized (shorter side, antialiased) and cut to the centre.
    """

    def one(image: tf.Tensor) -> tf.Tensor:
        return evaluation_transform(decode(image, stretch), image_size, exif_orientation(image))

    pixels = tf.TensorSpec([image_size, image_size, 3], tf.uint8)
    return tf.map_fn(one, encoded, fn_output_signature=pixels)


def decode(encoded: tf.Tensor, stretch: bool = True) -> tf.Tensor:
    """Decodes one image of any supported kind to RGB, as it is stored.

    Args:
        encoded: string scalar: a JPEG, a PNG, a GIF (its first frame), an uncompressed BMP of
            8, 24 or 32 bits a pixel, or a WebP that is not animated.
        stretch: whether to stretch a grey PNG of 16 bits, see `rfd_tf.data.image_files.stretched`.

    Returns:
        uint8 `[height, width, 3]`. Grey is repeated, palettes are looked up, 16 bits keep the upper
        8 unless they are stretched, transparent parts of a PNG or WebP turn white, those of a GIF
        black, the fourth channel of a BMP is dropped.

    Raises:
        tf.errors.InvalidArgumentError: when run: no such file, a damaged one, or one of more than
            178,956,970 pixels.
    """

    def jpeg() -> tf.Tensor:
        return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")

    def other() -> tf.Tensor:
        # (TensorFlow's own message would quote the bytes, at which its Python side stumbles.)
        known = tf.debugging.Assert(
            starts_with(b"GIF8"), ["this is no JPEG, PNG, BMP, GIF or WebP file"]
        )
        with tf.control_dependencies([known] if known is not None else []):
            image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.ensure_shape(image, [None, None, 3])

    def starts_with(magic: bytes) -> tf.Tensor:
        return tf.equal(tf.strings.substr(encoded, 0, len(magic)), magic)

    image = tf.case(
        [
            (tf.io.is_jpeg(encoded), jpeg),
            (starts_with(_PNG_START), lambda: _decode_png(encoded, stretch)),
            (starts_with(b"BM"), lambda: _decode_bmp(encoded)),
            (starts_with(b"RIFF"), lambda: _decode_webp(encoded)),
        ],
        default=other,
    )
    return tf.ensure_shape(image, [None, None, 3])


def _head(encoded: tf.Tensor) -> tf.Tensor:
    """Returns the first bytes, zero-padded: reading past the end of a string is an error."""
    return tf.strings.join([tf.strings.substr(encoded, 0, _FIRST_BYTES), bytes(_FIRST_BYTES)])


def _decode_png(encoded: tf.Tensor, stretch: bool) -> tf.Tensor:
    # Asked for four channels, decode_png gives an opaque image of fewer than 8 bits an alpha of 1
    # to 15 where 255 is meant: find out first whether there is anything transparent.
    header = tf.strings.split(encoded, b"IDAT", maxsplit=1)[0]
    colour_type = tf.strings.substr(_head(encoded), 25, 1)
    transparent = tf.logical_or(
        tf.reduce_any(tf.equal(colour_type, [b"\x04", b"\x06"])),
        tf.size(tf.strings.split(header, b"tRNS")) > 1,
    )

    def over_white() -> tf.Tensor:
        values = tf.cast(tf.io.decode_png(encoded, channels=4), tf.float32)
        alpha = values[..., 3:] / 255.0
        return to_uint8(values[..., :3] * alpha + 255.0 * (1.0 - alpha))

    def in_eight_bits() -> tf.Tensor:
        return tf.cond(transparent, over_white, lambda: tf.io.decode_png(encoded, channels=3))

    if not stretch:
        return in_eight_bits()
    deep_grey = tf.equal(tf.strings.substr(_head(encoded), 24, 2), PNG_DEEP_GREY)
    return tf.cond(deep_grey, lambda: _stretched_png(encoded), in_eight_bits)


def _stretched_png(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a grey PNG of 16 bits to the pixels of `rfd_tf.data.image_files.stretched`."""
    image = tf.cast(tf.io.decode_png(encoded, channels=4, dtype=tf.uint16), tf.int32)
    values, seen = image[..., 0], image[..., 3] > 0
    most = tf.cast((tf.size(values) - 1) // STRETCH_SAMPLE, tf.float64)
    step = 1 + tf.cast(tf.floor(tf.sqrt(most)), tf.int32)

    def counted(step: tf.Tensor | int) -> tf.Tensor:
        some = [tf.reshape(each[::step, ::step], [-1]) for each in (values, seen)]
        found = tf.boolean_mask(*some)
        return tf.cond(tf.size(found) > 0, lambda: tf.sort(found), lambda: tf.zeros([1], tf.int32))

    sample = counted(step)
    last = tf.cast(tf.size(sample) - 1, tf.float64)
    low = sample[tf.cast(tf.floor(STRETCHED_FROM * last), tf.int32)]
    high = sample[tf.cast(tf.math.ceil(STRETCHED_TO * last), tf.int32)]

    def whole() -> tuple[tf.Tensor, tf.Tensor]:
        every = counted(1)
        return every[0], every[-1]

    low, high = tf.cond(tf.equal(low, high), whole, lambda: (low, high))
    scale = 255.0 / tf.cast(high - low, tf.float64)
    grey = tf.where(
        tf.equal(low, high),
        tf.cast(values // 256, tf.uint8),
        to_uint8(tf.cast(values - low, tf.float64) * scale),
    )
    grey = tf.where(seen, grey, tf.constant(255, tf.uint8))
    return tf.repeat(grey[..., None], 3, axis=-1)


def _decode_webp(encoded: tf.Tensor) -> tf.Tensor:
    head = _head(encoded)
    flags = tf.io.decode_raw(tf.strings.substr(head, 20, 1), tf.uint8)[0]
    extended = tf.equal(tf.strings.substr(head, 12, 4), b"VP8X")
    # (TensorFlow 2.21 writes past its memory where an animation has several frames.)
    animated = tf.logical_and(extended, tf.not_equal(tf.bitwise.bitwise_and(flags, 2), 0))
    webp = tf.equal(tf.strings.substr(head, 8, 4), b"WEBP")
    still = tf.debugging.Assert(
        tf.logical_and(webp, tf.logical_not(animated)), ["this is no WebP, or an animated one"]
    )
    with tf.control_dependencies([still] if still is not None else []):
        return decode_webp(encoded)


def _decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_bmp(encoded, channels=0)

    def looked_up() -> tf.Tensor:
        # decode_bmp gives the indices into the palette, which stands between header and pixels.
        header_bytes = tf.io.decode_raw(tf.strings.substr(_head(encoded), 14, 4), tf.int32)[0]
        start = tf.clip_by_value(header_bytes, 0, tf.strings.length(encoded) - 14) + 14
        colours = tf.strings.substr(encoded, start, _BMP_PALETTE_BYTES)
        palette = tf.io.decode_raw(colours, tf.uint8, fixed_length=_BMP_PALETTE_BYTES)
        return tf.gather(tf.reshape(palette, [256, 4])[:, 2::-1], tf.cast(image[..., 0], tf.int32))

    compression = tf.io.decode_raw(tf.strings.substr(_head(encoded), 30, 4), tf.int32)[0]
    plain = tf.debugging.Assert(
        tf.reduce_any(tf.equal(compression, [0, 3])), ["this BMP is compressed"]
    )
    with tf.control_dependencies([plain] if plain is not None else []):
        return tf.cond(tf.equal(tf.shape(image)[-1], 1), looked_up, lambda: image[..., :3])


def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of an image file.

    Args:
        encoded: string scalar, the file.

    Returns:
        int32 scalar, the Exif orientation 1 to 8; 1 (upright) for a file that is no JPEG, PNG or
        WebP, or does not say.

    Source: Exif 2.3 (JEITA CP-3451C), sections 4.5.2 and 4.6.2; PNG (W3C), 11.3.3.5; RFC 9649,
    section 2.7.1.5.
    """
    png = tf.equal(tf.strings.substr(encoded, 0, len(_PNG_START)), _PNG_START)
    webp = tf.equal(tf.strings.substr(encoded, 0, 4), b"RIFF")
    start = tf.case(
        [
            (tf.io.is_jpeg(encoded), lambda: _in_jpeg(encoded)),
            (png, lambda: _behind(encoded, [b"eXIfII*\0", b"eXIfMM\0*"], 4)),
            (webp, lambda: _in_webp(encoded)),
        ],
        default=lambda: tf.constant(_NOWHERE),
    )
    # (A position behind the end would be an error.)
    inside = tf.clip_by_value(start, 0, tf.strings.length(encoded))
    value = _orientation(tf.strings.substr(encoded, inside, _MOST_BYTES))
    known = tf.logical_and(tf.not_equal(start, _NOWHERE), tf.logical_and(value >= 1, value <= 8))
    return tf.where(known, value, 1)


def _behind(encoded: tf.Tensor, marks: list[bytes], skipped: int) -> tf.Tensor:
    """Returns where the first of some byte strings begins, and `skipped` bytes more: int32."""
    size = tf.strings.length(encoded)
    places = [tf.strings.length(tf.strings.split(encoded, mark, maxsplit=1)[0]) for mark in marks]
    first = tf.reduce_min(places)
    return tf.where(first < size, first + skipped, _NOWHERE)


def _in_webp(encoded: tf.Tensor) -> tf.Tensor:
    """Returns where the TIFF header of a WebP's Exif chunk stands."""
    # (Four letters, four bytes of length, and from some programs the signature of JPEG's Exif.)
    chunk = tf.strings.split(encoded, b"EXIF", maxsplit=1)
    return tf.cond(
        tf.size(chunk) > 1,
        lambda: (
            tf.strings.length(chunk[0])
            + 8
            + tf.where(tf.equal(tf.strings.substr(chunk[1], 4, 6), b"Exif\0\0"), 6, 0)
        ),
        lambda: tf.constant(_NOWHERE),
    )


def _bytes_of(head: tf.Tensor):
    """Returns a function from positions to the bytes there, zeros behind the end."""
    # Behind the end there are zeros: no position read from a damaged file leads outside.
    values = tf.io.decode_raw(tf.strings.join([head, b"\0"]), tf.uint8)
    last = tf.size(values) - 1

    def byte(position: tf.Tensor) -> tf.Tensor:
        inside = tf.logical_and(position >= 0, position < last)
        return tf.cast(tf.gather(values, tf.where(inside, position, last)), tf.int32)

    return byte


def _in_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Returns where the TIFF header of a JPEG's Exif segment stands."""
    byte = _bytes_of(encoded)

    def is_exif(segment: tf.Tensor) -> tf.Tensor:
        signature = byte(segment + 4 + tf.range(len(_EXIF)))
        return tf.logical_and(
            tf.equal(byte(segment + 1), 0xE1), tf.reduce_all(tf.equal(signature, _EXIF))
        )

    def is_other(segment: tf.Tensor) -> tf.Tensor:
        marker = byte(segment + 1)
        skippable = tf.logical_and(marker >= 0xC0, tf.not_equal(marker, _START_OF_SCAN))
        here = tf.logical_and(tf.equal(byte(segment), 0xFF), skippable)
        return tf.logical_and(here, tf.logical_not(is_exif(segment)))

    def following(segment: tf.Tensor) -> tuple[tf.Tensor]:
        length = byte(segment + 2) * 256 + byte(segment + 3)
        return (segment + 2 + tf.maximum(length, 2),)

    (segment,) = tf.while_loop(is_other, following, (tf.constant(2),))
    return tf.where(is_exif(segment), segment + 10, _NOWHERE)


def _orientation(head: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in an Exif block that begins with its TIFF header; 0 if none."""
    byte, tiff = _bytes_of(head), tf.constant(0)
    little = tf.equal(byte(tiff), ord("I"))

    def short(position: tf.Tensor) -> tf.Tensor:
        first, second = byte(position), byte(position + 1)
        return tf.where(little, first + 256 * second, 256 * first + second)

    def long(position: tf.Tensor) -> tf.Tensor:
        low, high = short(position), short(position + 2)
        # (Larger numbers lead outside.)
        value, rest = tf.where(little, low, high), tf.where(little, high, low)
        return tf.where(tf.equal(rest, 0), value, _MOST_BYTES)

    directory = tiff + long(tiff + 4)
    count = tf.minimum(short(directory), _MOST_ENTRIES)
    entries = directory + 2 + _ENTRY_BYTES * tf.range(count)
    kind, numbers = short(entries + 2), long(entries + 4)
    # (More numbers than fit in here stand elsewhere: no orientation has them.)
    of_short = tf.logical_and(tf.equal(kind, _SHORT), numbers <= 2)
    of_long = tf.logical_and(tf.equal(kind, _LONG), numbers <= 1)
    value = tf.where(of_short, short(entries + 8), tf.where(of_long, long(entries + 8), 0))
    return tf.reduce_max(tf.where(tf.equal(short(entries), _ORIENTATION_TAG), value, 0))
