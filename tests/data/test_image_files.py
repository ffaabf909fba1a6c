"""Looking at single files: what they are, and reading the unusual ones."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import image_files
from rfd_tf.data.image_files import BMP, JPEG, PILLOW, PNG, STRETCHED, TRANSPARENT_PNG

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)


def _image(mode):
    if mode == "CMYK":
        return Image.frombytes("CMYK", (9, 6), PIXELS.tobytes())
    if mode == "I;16":
        return Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256 + PIXELS[..., 1])
    channels = 4 if "A" in mode else 3
    return Image.fromarray(np.ascontiguousarray(PIXELS[..., :channels])).convert(mode)


@pytest.mark.parametrize(
    "kind,mode,extension",
    [
        (JPEG, "RGB", "jpg"),
        (JPEG, "L", "jpg"),
        (PILLOW, "CMYK", "jpg"),
        (PNG, "RGB", "png"),
        (PNG, "L", "png"),
        (PNG, "P", "png"),
        (PNG, "1", "png"),
        (STRETCHED, "I;16", "png"),
        (TRANSPARENT_PNG, "RGBA", "png"),
        (TRANSPARENT_PNG, "LA", "png"),
        (BMP, "RGB", "bmp"),
        (PILLOW, "P", "bmp"),
        (PILLOW, "L", "bmp"),
        (PILLOW, "1", "bmp"),
        (PILLOW, "RGBA", "bmp"),
        (PILLOW, "P", "gif"),
    ],
)
def test_kinds(tmp_path, kind, mode, extension):
    path = tmp_path / f"image.{extension}"
    _image(mode).save(path)
    assert image_files.read_header(str(path)) == (kind, 6, 9, 1)
    path.rename(tmp_path / "no_extension")  # the content counts, not the name
    assert image_files.read_header(str(tmp_path / "no_extension")) == (kind, 6, 9, 1)


def test_a_palette_with_a_transparent_colour_is_transparent(tmp_path):
    path = tmp_path / "image.png"
    _image("P").save(path, transparency=3)
    assert image_files.read_header(str(path)).kind == TRANSPARENT_PNG


@pytest.mark.parametrize("code", range(1, 9))
def test_orientation_is_read(tmp_path, code):
    path = str(tmp_path / "image.jpg")
    exif = Image.Exif()
    exif[0x0112] = code
    _image("RGB").save(path, exif=exif)
    assert image_files.read_header(path) == (JPEG, 6, 9, code)


@pytest.mark.parametrize("value", [0, 9])
def test_a_nonsense_orientation_is_none(tmp_path, value):
    path = str(tmp_path / "image.jpg")
    exif = Image.Exif()
    exif[0x0112] = value
    _image("RGB").save(path, exif=exif)
    assert image_files.read_header(path).orientation == 1


@pytest.mark.parametrize(
    "name,content,result",
    [
        ("empty.jpg", b"", "empty file"),
        ("text.PNG", b"hello", f"not a {image_files.formats()} file"),
        ("text.txt", b"BMessage of some length, no picture", None),
        ("empty.txt", b"", None),
        ("cut", b"\x89PNG\r\n\x1a\n\0\0", "broken header"),
        ("cut.gif", b"GIF89a", "broken header"),
    ],
)
def test_what_is_no_image(tmp_path, name, content, result):
    (tmp_path / name).write_bytes(content)
    assert image_files.read_header(str(tmp_path / name)) == result


def test_a_missing_file(tmp_path):
    assert image_files.read_header(str(tmp_path / "gone.jpg")) == "No such file or directory"


def test_enormous_images_are_not_decoded(tmp_path):
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    struct.pack_into(">II", content, 16, 20_000, 20_000)
    struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    (tmp_path / "bomb.png").write_bytes(content)
    reason = image_files.read_header(str(tmp_path / "bomb.png"))
    assert "400 megapixels, more than 300; raise --max_megapixels" in reason
    larger = image_files.read_header(str(tmp_path / "bomb.png"), image_files.Reading(400))
    assert larger.height == 20_000


def test_sixteen_bits_keep_the_upper_eight_unless_they_are_stretched():
    rgb = np.asarray(image_files.to_rgb(_image("I;16"), stretch=False))
    np.testing.assert_array_equal(rgb, np.repeat(PIXELS[..., :1], 3, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_turns_white(mode):
    image = _image(mode)
    colours = np.asarray(image.convert("RGBA")).astype(float)
    alpha = colours[..., 3:] / 255
    expected = colours[..., :3] * alpha + 255 * (1 - alpha)
    result = np.asarray(image_files.to_rgb(image))
    assert np.abs(result - expected).max() <= 1


def test_what_pillow_decodes_is_upright(tmp_path):
    path = str(tmp_path / "in.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    _image("CMYK").save(path, exif=exif, quality=95)
    assert image_files.read_header(path) == (PILLOW, 9, 6, 1)
    upright = np.rot90(np.asarray(Image.open(path).convert("RGB")), -1)
    np.testing.assert_array_equal(image_files.read_rgb(path), upright)


def test_only_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
    path = str(tmp_path / "image.gif")
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert (image_files.read_rgb(path) == [255, 0, 0]).all()
