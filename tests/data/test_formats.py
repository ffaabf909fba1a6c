"""Every format that is read gives the same pixels wherever it is read; the others are named."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, PngImagePlugin, features

from rfd_tf.data import (
    check_files,
    evaluation_dataset,
    image_files,
    image_folder,
    image_list,
    load,
    load_images,
    photo_crops,
    training_dataset,
)
from rfd_tf.data.decode import decode_bytes
from rfd_tf.errors import UserError
from rfd_tf.export.decoding import pixels_from_bytes

SIDE = 32
TRUNCATE = {"high_bit_depth": "truncate"}
RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((SIDE, SIDE), 2)
ALPHA = PICTURE.copy()
ALPHA.putalpha(Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)))
DEEP = RNG.integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)
DEEP3 = RNG.integers(0, 65536, (SIDE, SIDE, 3)).astype(np.uint16)
DEEP3[5:9] = 0x1234
OTHER = PICTURE.transpose(Image.Transpose.ROTATE_90)
FRAMES = {"save_all": True, "append_images": [OTHER]}
WHITE = Image.alpha_composite(Image.new("RGBA", ALPHA.size, "white"), ALPHA).convert("RGB")
TF_WEBP = hasattr(tf.raw_ops, "DecodeWebP")
AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")


def _encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _grey(values):
    return Image.fromarray(np.repeat(values.astype(np.uint8)[..., None], 3, axis=-1))


def _with_text(mebibytes=3):
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "x" * (mebibytes << 20), zip=True)
    return _encoded(PICTURE, "PNG", pnginfo=text)


def _with_late_exif(code):
    exif = Image.Exif()
    exif[0x0112] = code
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    plain = _encoded(noise, "PNG", exif=exif)  # longer than what is read of every file
    start = plain.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(plain[start : start + 4], "big")
    assert start < plain.index(b"IDAT")
    moved = plain[:start] + plain[end:]
    return moved[:-12] + plain[start:end] + moved[-12:], noise


def _png_with_key(values, depth, colour, key):
    """A PNG of values `[H, W]` or `[H, W, 3]` in which a colour is transparent, and its pixels."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    flat = values.reshape(len(values), -1)
    bits = np.unpackbits(flat.astype(">u2").view(np.uint8).reshape(*flat.shape, 2), axis=-1)
    rows = np.packbits(bits[..., 16 - depth :].reshape(len(flat), -1), axis=-1)
    content = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", values.shape[1], len(values), depth, colour, 0, 0, 0)
    )
    content += chunk(b"tRNS", struct.pack(">H", key) * (3 if colour else 1))
    content += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    colours = values.reshape(*values.shape[:2], -1).astype(int)
    clear = (colours == key).all(-1, keepdims=True)
    seen = colours >> 8 if depth == 16 else colours * 255 // (2**depth - 1)
    pixels = np.where(clear, 255, seen).repeat(3 // seen.shape[-1], -1).astype(np.uint8)
    return content + chunk(b"IEND", b""), Image.fromarray(pixels), 0


def _tiff_from_white():
    """A TIFF of 16 bits in which 0 is white, as scanners write them."""
    content = _encoded(Image.fromarray(DEEP), "TIFF")
    entry = struct.pack("<HHI", 262, 3, 1)
    assert content.count(entry + b"\1\0") == 1
    return content.replace(entry + b"\1\0", entry + b"\0\0")


# What is written -> (content, the pixels it must give, how far off a lossy one may be).
FILES = {
    "webp": (_encoded(PICTURE, "WEBP", lossless=True), PICTURE, 0),
    "webp, lossy": (_encoded(PICTURE, "WEBP", quality=95), PICTURE, 60),
    "webp, alpha": (_encoded(ALPHA, "WEBP", lossless=True, exact=True), WHITE, 1),
    "webp, animated": (_encoded(PICTURE, "WEBP", lossless=True, **FRAMES), PICTURE, 0),
    "tiff": (_encoded(PICTURE, "TIFF"), PICTURE, 0),
    "tiff, lzw": (_encoded(PICTURE, "TIFF", compression="tiff_lzw"), PICTURE, 0),
    "tiff, pages": (_encoded(PICTURE, "TIFF", **FRAMES), PICTURE, 0),
    "tiff, alpha": (_encoded(ALPHA, "TIFF"), WHITE, 1),
    "tiff, cmyk": (_encoded(PICTURE.convert("CMYK"), "TIFF"), PICTURE, 2),
    "tiff, 16 bits": (_encoded(Image.fromarray(DEEP), "TIFF"), _grey(DEEP >> 8), 0),
    "tiff, 16 dark bits": (_encoded(Image.fromarray(DEEP >> 9), "TIFF"), _grey(DEEP >> 17), 0),
    "tiff, palette": (_encoded(PICTURE.quantize(16), "TIFF"), PICTURE.quantize(16), 0),
    "png, 16 bits": (_encoded(Image.fromarray(DEEP), "PNG"), _grey(DEEP >> 8), 0),
    "jpeg 2000": (_encoded(PICTURE, "JPEG2000"), PICTURE, 0),
    "jpeg 2000, codestream": (_encoded(PICTURE, "JPEG2000", no_jp2=True), PICTURE, 0),
    "ppm": (_encoded(PICTURE, "PPM"), PICTURE, 0),
    "pgm": (_encoded(PICTURE.convert("L"), "PPM"), PICTURE.convert("L"), 0),
    "pbm": (_encoded(PICTURE.convert("1"), "PPM"), PICTURE.convert("1"), 0),
    "ppm, text": (
        b"P3\n# by hand\n32 32\n255\n"
        + " ".join(map(str, np.asarray(PICTURE).ravel())).encode(),
        PICTURE,
        0,
    ),
    "gif": (_encoded(PICTURE.quantize(16), "GIF"), PICTURE.quantize(16), 0),
    "jpeg, cmyk": (_encoded(PICTURE.convert("CMYK"), "JPEG", quality=98), PICTURE, 40),
    "png, much text": (_with_text(), PICTURE, 0),
    "tiff, 16 bits from white": (_tiff_from_white(), _grey((65535 - DEEP) >> 8), 0),
    "png, 16 bits, a clear grey": _png_with_key(DEEP, 16, 0, DEEP[3, 4]),
    "png, 48 bits, a clear colour": _png_with_key(DEEP3, 16, 2, 0x1234),
    "png, 4 bits, a clear grey": _png_with_key(DEEP >> 12, 4, 0, 7),
    "png, 2 bits, a clear grey": _png_with_key(DEEP >> 14, 2, 0, 1),
    "png, 1 bit, a clear grey": _png_with_key(DEEP >> 15, 1, 0, 0),
    "avif": (b"", PICTURE, 60),
}  # fmt: skip
if features.check("avif"):
    FILES["avif"] = (_encoded(PICTURE, "AVIF", quality=95), PICTURE, 60)
NAMES = [pytest.param(name, marks=AVIF if name == "avif" else ()) for name in FILES]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Name -> the format's pixels: files verified whole, by their headers, and read from disk."""
    folder = tmp_path_factory.mktemp("formats")
    names = [name for name in FILES if FILES[name][0]]
    for number, name in enumerate(names):
        # The content counts, not the name.
        (folder / f"{number:02}.jpg").write_bytes(FILES[name][0])
    pixels = [
        load_images(image_folder(folder, max_skipped=0, **TRUNCATE, **options), SIDE)
        for options in ({"verify": "full"}, {"verify": "header"}, {"cache_bytes": 0})
    ]
    return dict(zip(names, zip(*pixels, strict=True), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_format_gives_its_pixels_in_memory_and_from_disk(loaded, name):
    content, picture, off = FILES[name]
    expected = np.asarray(picture.convert("RGB")).astype(int)
    first, *others = loaded[name]
    assert np.abs(first.astype(int) - expected).max() <= off
    for pixels in others:
        np.testing.assert_array_equal(pixels, first)
    np.testing.assert_array_equal(decode_bytes(tf.constant(content), **TRUNCATE), first)
    reading = image_files.Reading(**TRUNCATE)
    np.testing.assert_allclose(image_files.read_rgb(content, reading), first, atol=1)


def test_all_formats_train_and_evaluate_in_one_folder(tmp_path):
    names = [name for name in FILES if FILES[name][0]]
    for number, name in enumerate(names):
        (tmp_path / f"{number:02}.bin").write_bytes(FILES[name][0])
    source = image_folder(tmp_path, max_skipped=0, cache_bytes=0)
    settings = {"image_size": SIDE, "batch_size": len(names), "seed": 0}
    whole = next(iter(training_dataset(source, crop="none", horizontal_flip=False, **settings)))
    order = np.argsort(whole["index"])
    np.testing.assert_array_equal(whole["image"].numpy()[order], load_images(source, SIDE))
    one, other = (
        [
            batch["image"].numpy()
            for batch in training_dataset(source, crop="resized", **settings).take(2)
        ]
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not TF_WEBP, reason="this TensorFlow reads no WebP")
def test_a_saved_model_reads_webp_as_training_does(tmp_path):
    contents = [FILES[name][0] for name in ("webp", "webp, lossy", "webp, alpha")]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.webp").write_bytes(content)
    seen = load_images(image_folder(tmp_path), SIDE)
    np.testing.assert_array_equal(pixels_from_bytes(tf.constant(contents), SIDE), seen)
    with pytest.raises(tf.errors.InvalidArgumentError, match="animated"):
        pixels_from_bytes(tf.constant([FILES["webp, animated"][0]]), SIDE)
    for cut in (b"RIFF", contents[0][:20], contents[0][:60], b"RIFF" + bytes(40)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            pixels_from_bytes(tf.constant([cut]), SIDE)


# -- EXIF orientation --------------------------------------------------------------------------


def _stored(upright, code):
    """The pixels that a file of an orientation stores of a picture, by the tag's definition."""
    pixels = np.asarray(upright)
    if code in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if code in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return Image.fromarray(np.ascontiguousarray(pixels.swapaxes(0, 1) if code >= 5 else pixels))


TALL = PICTURE.resize((70, 100), Image.Resampling.BICUBIC)


def _oriented(kind, code):
    exif = Image.Exif()
    exif[0x0112] = code
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}
    options["AVIF"] = {"quality": 98, "subsampling": "4:4:4"}
    return _encoded(_stored(TALL, code), kind, exif=exif, **options.get(kind, {}))


KINDS = ["JPEG", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=AVIF)]


@pytest.mark.parametrize("kind", KINDS)
def test_exif_orientation_is_applied_to_every_format_that_carries_it(tmp_path, kind):
    contents = [_oriented(kind, code) for code in range(1, 9)]
    for code, content in enumerate(contents, 1):
        (tmp_path / f"{code}").write_bytes(content)
    source = image_folder(tmp_path, max_skipped=0)
    off = {"JPEG": 8, "AVIF": 25}.get(kind, 1)
    for options in ({}, {"stretch": True}, {"ten_crops": True}):
        (batch,) = evaluation_dataset(source, image_size=48, batch_size=8, **options)
        seen = batch["image"].numpy().astype(int)
        assert np.abs(seen - seen[:1]).max() <= off, options
    for content in contents[::3]:
        pixels = decode_bytes(tf.constant(content)).numpy().astype(int)
        assert np.abs(pixels - np.asarray(TALL)).max() <= off + 8
        np.testing.assert_array_equal(image_files.read_rgb(content).shape, pixels.shape)
    if kind in ("JPEG", "PNG") or (kind == "WEBP" and TF_WEBP):
        (batch,) = evaluation_dataset(source, image_size=48, batch_size=8)
        np.testing.assert_array_equal(pixels_from_bytes(tf.constant(contents), 48), batch["image"])


def test_ten_crops_of_a_rotated_photograph_are_those_of_the_upright_one(tmp_path):
    for code in range(1, 9):
        (tmp_path / f"{code}.png").write_bytes(_oriented("PNG", code))
    (batch,) = evaluation_dataset(
        image_folder(tmp_path), image_size=48, batch_size=8, ten_crops=True
    )
    crops = batch["image"].numpy().astype(int)
    for code in range(2, 9):
        assert np.abs(crops[code - 1] - crops[0]).max() <= 1, code
    # (The centre of the mirrored image may lie a pixel beside the mirrored centre.)
    mirrored = crops[:, [1, 0, 3, 2], :, ::-1]
    np.testing.assert_array_equal(crops[:, 5:9], mirrored)


def test_exif_behind_the_pixels_of_a_png_is_applied(tmp_path):
    content, stored = _with_late_exif(6)
    (tmp_path / "late.png").write_bytes(content)
    expected = np.rot90(np.asarray(stored), -1)
    for options in ({"verify": "full"}, {"verify": "header"}):
        source = image_folder(tmp_path, **options)
        np.testing.assert_array_equal(load_images(source, 64)[0], expected)
    np.testing.assert_array_equal(decode_bytes(tf.constant(content)), expected)


# -- what is left out --------------------------------------------------------------------------

TIFF_RAW = (
    b"II*\0\x08\0\0\0\x01\0"
    + (50706).to_bytes(2, "little")
    + b"\x01\0\x04\0\0\0\x01\x04\0\0\0\0\0\0"
)
LEFT_OUT = {
    "drawing.svg": (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    "layers.psd": (b"8BPS\0\x01" + bytes(40), "PSD"),
    "IMG_1.CR2": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(40), "camera RAW"),
    "IMG_2.dng": (TIFF_RAW, "camera RAW"),
    "IMG_3.NEF": (_encoded(PICTURE, "TIFF"), "camera RAW"),
    "IMG_4.arw": (bytes(64), "camera RAW"),
    "IMG_5.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "camera RAW"),
    "IMG_6.RAF": (b"FUJIFILMCCD-RAW 0201", "camera RAW"),
    "raw_without_extension": (TIFF_RAW, "camera RAW"),
    "new.jxl": (b"\xff\x0a" + bytes(9), "JPEG XL"),
    "light.exr": (b"\x76\x2f\x31\x01" + bytes(9), "OpenEXR"),
    "targa.tga": (bytes(18), "TGA"),
    "scan.dcm": (bytes(128) + b"DICM", "DICOM"),
    "float.tif": (_encoded(Image.new("F", (9, 9)), "TIFF"), "32 bits"),
    "integers.tif": (_encoded(Image.new("I", (9, 9), 70000), "TIFF"), "32 bits"),
    "cut.webp": (FILES["webp"][0][:60], "."),
    "cut.tif": (FILES["tiff"][0][:100], "."),
    "cut.jp2": (FILES["jpeg 2000"][0][:60], "."),
    "cut.ppm": (FILES["ppm"][0][:100], "truncated"),
    "empty.webp": (b"", "empty file"),
}
NO_IMAGES = {
    "notes.txt": b"P5 is the fifth place, BMW a car, II a number",
    "data.json": b"{}",
    "labels.csv": b"a,b",
    "page.html": b"<!DOCTYPE html><p>hello",
    "film.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    "sound.wav": b"RIFF1234WAVE",
    "archive.zip": b"PK\x03\x04",
    "paper.pdf": b"%PDF-1.7",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "weights.h5": b"\x89HDF\r\n\x1a\n",
}


def test_pictures_that_are_not_read_are_named_and_other_files_are_not(tmp_path):
    for name, (content, _) in LEFT_OUT.items():
        (tmp_path / name).write_bytes(content)
    for name, content in NO_IMAGES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "good.webp").write_bytes(FILES["webp"][0])
    source = image_folder(tmp_path, max_skipped=1, **TRUNCATE)
    assert list(source.names) == ["good.webp"]
    reasons = dict(source.skipped)
    assert sorted(reasons) == sorted(LEFT_OUT)
    for name, (_, reason) in LEFT_OUT.items():
        assert reason == "." or reason in reasons[name], (name, reasons[name])
        assert "\n" not in reasons[name] and reasons[name].strip()
    with pytest.raises(UserError, match="20 of 21 images .*convert.*max_skipped"):
        image_folder(tmp_path, **TRUNCATE)


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(40)


def test_heic_is_recognised_and_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    image_files._missing.cache_clear()
    try:
        for name in ("a.heic", "b.jpg"):
            (tmp_path / name).write_bytes(HEIC)
        with pytest.raises(UserError, match=r"a.heic .*pip install 'rfd_tf\[heif\]'") as caught:
            image_folder(tmp_path)
        assert str(caught.value).count("rfd_tf[heif]") == 2
        with pytest.raises(UserError, match=r"rfd_tf\[heif\]"):
            photo_crops([tmp_path / "a.heic"])
    finally:
        image_files._missing.cache_clear()


def test_heic_is_read_where_its_package_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    image_files._missing.cache_clear()
    tall = PICTURE.resize((64, 96))
    tall.save(tmp_path / "a.jpg", "HEIF", quality=95)
    (pixels,) = load_images(image_folder(tmp_path), SIDE)
    assert (
        np.abs(
            pixels.astype(int) - np.asarray(tall.crop((0, 16, 64, 80)).resize((SIDE,) * 2, 2))
        ).max()
        < 60
    )


@pytest.mark.parametrize("brands", [(b"avif", b"mif1"), (b"mif1", b"avif"), (b"mif1", b"heic")])
def test_heif_containers_are_detected_by_their_brands(brands):
    head = b"\0\0\0\x18ftyp" + brands[0] + bytes(4) + brands[1] + b"miaf"
    assert image_files.sniff(head) == ("HEIF" if b"heic" in brands else "AVIF")


def test_a_list_names_what_is_no_image(tmp_path):
    (tmp_path / "a.webp").write_bytes(FILES["webp"][0])
    (tmp_path / "b.txt").write_text("words")
    (tmp_path / "c.svg").write_text("<svg/>")
    (tmp_path / "list.txt").write_text("a.webp 0\nb.txt 1\nc.svg 1\n")
    source = image_list(tmp_path / "list.txt", max_skipped=0.7)
    assert source.labels.tolist() == [0] and [name for name, _ in source.skipped] == [
        "b.txt",
        "c.svg",
    ]
    with pytest.raises(UserError, match="2 of 3 images .*b.txt .*c.svg"):
        image_list(tmp_path / "list.txt")


def test_photographs_of_every_format_can_be_cut(tmp_path):
    wide = PICTURE.resize((120, 90))
    sources = []
    for kind in ("PNG", "WEBP", "TIFF", "PPM"):
        path = tmp_path / f"photo.{kind.lower()}"
        wide.save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
        sources.append(photo_crops([path], num_crops=3, size=8, area_min=0.1).images)
    for images in sources[1:]:
        np.testing.assert_array_equal(images, sources[0])


# -- size --------------------------------------------------------------------------------------


def test_the_limit_of_megapixels_is_stated_and_can_be_raised(tmp_path):
    (tmp_path / "a.png").write_bytes(_encoded(Image.new("1", (2000, 1000)), "PNG"))
    (tmp_path / "a.jpg").write_bytes(_encoded(Image.new("L", (2000, 1000)), "JPEG"))
    (tmp_path / "a.tif").write_bytes(_encoded(Image.new("L", (2000, 1000)), "TIFF"))
    reason = "2000 x 1000 are 2 megapixels, more than 1.5; raise max_megapixels"
    with pytest.raises(UserError, match=reason) as caught:
        load(data_dir=str(tmp_path), max_megapixels=1.5)
    assert str(caught.value).count(reason) == 3
    assert load(data_dir=str(tmp_path), max_megapixels=2).num_images == 3
    with pytest.raises(UserError, match=reason):
        load(photos=[tmp_path / "a.tif"], max_megapixels=1.5)
    with pytest.raises(UserError, match="max_megapixels is above 0, got 0"):
        load(data_dir=str(tmp_path), max_megapixels=0)


def test_images_beyond_a_decoder_of_tensorflow_are_left_to_pillow(tmp_path, monkeypatch):
    assert image_files.MAX_MEGAPIXELS >= 250
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as a photograph of 200 megapixels is now
    monkeypatch.setattr(image_files, "_TENSORFLOW_PIXELS", 1000)
    monkeypatch.setattr(image_files, "_LARGE_PIXELS", 1000)
    exif = Image.Exif()
    exif[0x0112] = 6
    TALL.save(tmp_path / "photo.jpg", exif=exif, quality=98)
    source = image_folder(tmp_path, cache_bytes=0)
    assert source.kinds.tolist() == [image_files.PILLOW]
    assert source.sizes.tolist() == [[70, 100]] and source.orientations is None
    assert load_images(source, SIDE).any()


def test_a_second_opinion_goes_both_ways(tmp_path):
    """TensorFlow refuses a PNG without its last chunk, Pillow a header with much text."""
    (tmp_path / "a.png").write_bytes(_encoded(PICTURE, "PNG")[:-12])
    (tmp_path / "b.png").write_bytes(_with_text())
    for cache_bytes in (1 << 20, 0):
        source = image_folder(tmp_path, cache_bytes=cache_bytes, max_skipped=0)
        np.testing.assert_array_equal(load_images(source, SIDE), [PICTURE] * 2)
    np.testing.assert_array_equal(image_files.read_rgb(_with_text()), PICTURE)


def test_a_damaged_jpeg_is_named_once_and_not_complained_of_again(tmp_path, capfd, recwarn):
    """In a file whose last marker follows stray bytes libjpeg finds fault at every reading."""
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(_encoded(TALL, "JPEG", quality=95))
    content = _encoded(TALL, "JPEG", quality=95)
    (tmp_path / "stray.jpg").write_bytes(content[:-2] + bytes(range(1, 60)) + content[-2:])
    source = image_folder(tmp_path, max_skipped=0, cache_bytes=0)
    seen = load_images(source, SIDE)
    next(iter(training_dataset(source, image_size=SIDE, batch_size=5, seed=0, crop="resized")))
    np.testing.assert_array_equal(seen, seen[[0] * 5])
    told = [str(each.message) for each in recwarn if "damaged but read" in str(each.message)]
    assert len(told) == 1 and "stray.jpg' (Corrupt JPEG data" in told[0] and "0.jpg" not in told[0]
    assert "Corrupt JPEG" not in capfd.readouterr().err
    # What others print meanwhile is not lost.
    with check_files._held_back():
        os.write(2, b"something else\n")
    assert "something else" in capfd.readouterr().err
