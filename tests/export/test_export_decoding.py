import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf.data import evaluation_dataset, image_files, image_folder
from rfd_tf.data.decode import evaluation_transform
from rfd_tf.data.image_files import to_rgb
from rfd_tf.export.decoding import decode, exif_orientation, pixels_from_bytes

rng = np.random.default_rng(0)
COARSE = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
PHOTO = COARSE.resize((72, 54), Image.Resampling.BICUBIC)
ALPHA = PHOTO.convert("RGBA")
ALPHA.putalpha(Image.fromarray(rng.integers(0, 256, (54, 72), dtype=np.uint8)))
PALETTE = PHOTO.quantize(40)
DEEP = Image.fromarray(rng.integers(0, 65536, (54, 72)).astype(np.uint16))

in_graph = tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)])
orientation_in_graph = tf.function(exif_orientation, input_signature=[tf.TensorSpec([], tf.string)])


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


FILES = {
    "jpeg": encoded(PHOTO, "JPEG", quality=90),
    "jpeg, progressive": encoded(PHOTO, "JPEG", progressive=True),
    "jpeg, grey": encoded(PHOTO.convert("L"), "JPEG"),
    "png": encoded(PHOTO, "PNG"),
    "png, grey": encoded(PHOTO.convert("L"), "PNG"),
    "png, grey and alpha": encoded(ALPHA.convert("LA"), "PNG"),
    "png, alpha": encoded(ALPHA, "PNG"),
    "png, palette": encoded(PALETTE, "PNG"),
    "png, small palette": encoded(PHOTO.quantize(4), "PNG"),
    "png, palette, one colour transparent": encoded(PALETTE, "PNG", transparency=3),
    "png, small palette, one colour transparent": encoded(PHOTO.quantize(4), "PNG", transparency=1),
    "png, black and white": encoded(PHOTO.convert("1"), "PNG"),
    "png, 16 bits": encoded(DEEP, "PNG"),
    "bmp": encoded(PHOTO, "BMP"),
    "bmp, grey": encoded(PHOTO.convert("L"), "BMP"),
    "bmp, palette": encoded(PALETTE, "BMP"),
    "bmp, 32 bits": encoded(PHOTO.convert("RGBA"), "BMP"),
    "gif": encoded(PALETTE, "GIF"),
    "gif, animated": encoded(PALETTE, "GIF", save_all=True, append_images=[PHOTO.quantize(9)]),
}


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_those_of_pillow(kind):
    expected = np.asarray(to_rgb(Image.open(io.BytesIO(FILES[kind]))))
    actual = in_graph(FILES[kind]).numpy()
    assert actual.dtype == np.uint8 and actual.shape == expected.shape
    # Lossless files leave no freedom; builds of libjpeg may round differently.
    allowed = 2 if "jpeg" in kind else 0
    assert np.abs(actual.astype(int) - expected).max() <= allowed


def test_what_cannot_be_decoded_is_an_error_rather_than_a_guess():
    compressed = bytearray(FILES["bmp, grey"])
    compressed[30] = 1
    for damaged in (bytes(compressed), encoded(PHOTO.convert("1"), "BMP"), b"", b"no image"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            in_graph(damaged)


def exif(orientation, endian):
    tags = Image.Exif()
    tags.endian = endian
    tags[0x010F] = "a maker, so that the tag is not the first"
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("endian", ["<", ">"])
def test_the_exif_orientation_is_found(endian):
    for orientation in range(1, 9):
        file = encoded(PHOTO, "JPEG", exif=exif(orientation, endian))
        assert orientation_in_graph(file).numpy() == orientation


def test_no_or_damaged_exif_means_upright():
    file = encoded(PHOTO, "JPEG", exif=exif(6, "<"))
    start = file.index(b"Exif")
    assert orientation_in_graph(file).numpy() == 6
    generator = np.random.default_rng(3)
    for _ in range(30):
        damaged = bytearray(file)
        for place in generator.integers(start, start + 40, 8):
            damaged[place] = generator.integers(256)
        assert 1 <= orientation_in_graph(bytes(damaged)).numpy() <= 8
    for other in (b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1\xff\xff", FILES["png"], FILES["jpeg"]):
        assert orientation_in_graph(other).numpy() == 1
    for length in range(start - 8, start + 30, 3):
        assert orientation_in_graph(file[:length]).numpy() == 1


@pytest.mark.filterwarnings("ignore:Metadata Warning")
@pytest.mark.parametrize("endian", ["<", ">"])
def test_odd_exif_blocks_are_read_as_in_training(endian):
    photo = encoded(PHOTO, "JPEG")
    comment = b"\xff\xfe" + struct.pack(">H", 65535) + bytes(65533)
    quantisation = photo.index(b"\xff\xdb")
    for kind, count in ((1, 1), (1, 2), (3, 1), (3, 2), (4, 1), (4, 2)):
        value = b"\6\0\0\0" if kind == 1 else struct.pack(endian + " HI"[kind - 2], 6)
        entry = struct.pack(endian + "HHI", 0x0112, kind, count) + value.ljust(4, b"\0")
        start = struct.pack(endian + "HI", 42, 8) + struct.pack(endian + "H", 1)
        block = b"Exif\0\0" + {"<": b"II", ">": b"MM"}[endian] + start + entry + bytes(4)
        block = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
        for content in (
            photo[:2] + block + photo[2:],
            photo[:2] + 2 * comment + block + photo[2:],
            photo[:quantisation] + block + photo[quantisation:],
        ):
            wanted = image_files.header_of_bytes(content).orientation
            assert wanted == (6 if kind == 3 or (kind, count) == (4, 1) else 1)
            assert int(orientation_in_graph(content)) == wanted, (kind, count)


def test_photographs_with_exif_orientation_are_decoded_upright():
    square = PHOTO.resize((32, 32))
    files = [encoded(square, "JPEG", quality=95, exif=exif(n, "<")) for n in range(1, 9)]
    pixels = pixels_from_bytes(tf.constant(files), 32).numpy()
    for file, actual in zip(files, pixels, strict=True):
        expected = np.asarray(to_rgb(Image.open(io.BytesIO(file))))
        assert np.abs(actual.astype(int) - expected).max() <= 2


def test_images_are_brought_to_size_as_in_the_evaluation(tmp_path):
    sizes = [(72, 54), (40, 90), (32, 32), (20, 25), (33, 200)]
    for number, size in enumerate(sizes):
        PHOTO.resize(size).save(tmp_path / f"{number}.png")
    files = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    source = image_folder(str(tmp_path))
    (batch,) = evaluation_dataset(source, image_size=32, batch_size=9).as_numpy_iterator()
    np.testing.assert_array_equal(pixels_from_bytes(tf.constant(files), 32), batch["image"])
    # Without the library's resizing: an image of the right size passes unchanged.
    np.testing.assert_array_equal(batch["image"][2], np.asarray(PHOTO.resize((32, 32))))

    large = pixels_from_bytes(tf.constant(files), 96).numpy()
    for number, size in enumerate(sizes):
        whole = tf.constant(np.asarray(PHOTO.resize(size)))
        np.testing.assert_array_equal(large[number], evaluation_transform(whole, 96))
