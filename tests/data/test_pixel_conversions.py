"""Grey of more than 8 bits is stretched, and colour profiles are converted to sRGB, as stated."""

import io
import logging
import shutil
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf.config import PretrainConfig
from rfd_tf.data import image_files, image_folder, image_list, load, load_images, shards
from rfd_tf.data.decode import decode_bytes
from rfd_tf.data.run_images import RunImages
from rfd_tf.errors import UserError
from rfd_tf.export.decoding import decode

SIDE = 24
RNG = np.random.default_rng(0)
TWELVE = RNG.integers(100, 4096, (SIDE, SIDE)).astype(np.uint16)  # black by its upper 8 bits
HOT = TWELVE.copy()
HOT[3, 4] = 65535
FLOATS = RNG.normal(0, 1e-3, (SIDE, SIDE)).astype(np.float32)
FLOATS[:2, :3] = [[np.nan, np.inf, -np.inf], [np.nan, 0, 1]]
SIGNED = RNG.integers(-1000, 3000, (SIDE, SIDE)).astype(np.int32)
UNSIGNED = RNG.integers(1, 2**32, (SIDE, SIDE)).astype(np.uint32)
RARE = np.zeros((SIDE * 50, SIDE * 50), np.uint16)  # of which less than a thousandth is bright
RARE[5:15, 7:17] = RNG.integers(1, 400, (10, 10))
TRUNCATE = image_files.Reading(high_bit_depth="truncate")


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def of_tag(content, tag, before, after):
    """A little-endian TIFF with another value of a tag that holds one short."""
    entry = struct.pack("<HHI", tag, 3, 1)
    assert content.count(entry + bytes([before, 0])) == 1
    return content.replace(entry + bytes([before, 0]), entry + bytes([after, 0]))


def with_clear_grey(content, value):
    """A PNG in which a grey is transparent."""
    name, key = b"tRNS", struct.pack(">H", value)
    chunk = struct.pack(">I", 2) + name + key + zlib.crc32(name + key).to_bytes(4, "big")
    return content[:33] + chunk + content[33:]


def oracle(values):
    """The statement of docs/guides/data.md, by sorting."""
    values = values.astype(np.float64)
    counted = np.sort(values[np.isfinite(values)], axis=None)
    low = counted[int(np.floor(0.001 * (counted.size - 1)))]
    high = counted[int(np.ceil(0.999 * (counted.size - 1)))]
    if low == high:
        low, high = counted[0], counted[-1]
    return np.rint(np.interp(np.where(np.isnan(values), low, values), (low, high), (0, 255)))


# What is written -> (content, grey of its pixels, grey by the upper 8 of 16 bits or None).
FILES = {
    "png, 12 bits in 16": (encoded(Image.fromarray(TWELVE), "PNG"), oracle(TWELVE), TWELVE >> 8),
    "png, a hot pixel": (encoded(Image.fromarray(HOT), "PNG"), oracle(HOT), HOT >> 8),
    "png, rarely bright": (encoded(Image.fromarray(RARE), "PNG"), oracle(RARE), RARE >> 8),
    "png, one value": (encoded(Image.new("I;16", (SIDE, SIDE), 0x4700), "PNG"), 0x47, 0x47),
    "png, a clear grey": (
        with_clear_grey(encoded(Image.fromarray(HOT), "PNG"), 65535),
        np.where(HOT == 65535, 255, oracle(np.where(HOT == 65535, np.nan, HOT))),
        np.where(HOT == 65535, 255, HOT >> 8),
    ),
    "tiff, 16 bits": (encoded(Image.fromarray(TWELVE), "TIFF"), oracle(TWELVE), TWELVE >> 8),
    "tiff, 16 bits from white": (
        of_tag(encoded(Image.fromarray(TWELVE), "TIFF"), 262, 1, 0),
        255 - oracle(TWELVE),
        255 - (TWELVE >> 8),
    ),
    "jpeg 2000": (encoded(Image.fromarray(TWELVE), "JPEG2000"), oracle(TWELVE), TWELVE >> 8),
    "pgm": (
        b"P5 24 24 65535\n" + TWELVE.astype(">u2").tobytes(), oracle(TWELVE), TWELVE >> 8,
    ),
    "tiff, signed": (encoded(Image.fromarray(SIGNED), "TIFF"), oracle(SIGNED), None),
    "tiff, unsigned": (
        of_tag(encoded(Image.fromarray(UNSIGNED.view(np.int32)), "TIFF"), 339, 2, 1),
        oracle(UNSIGNED),
        None,
    ),
    "tiff, floating point": (encoded(Image.fromarray(FLOATS), "TIFF"), oracle(FLOATS), None),
    "tiff, one value": (encoded(Image.new("F", (SIDE, SIDE), 7), "TIFF"), 0, None),
    "tiff, no number": (encoded(Image.new("F", (SIDE, SIDE), np.nan), "TIFF"), 0, None),
}  # fmt: skip
SMALL = [name for name in FILES if name != "png, rarely bright"]


def pixels_of(grey):
    return np.broadcast_to(np.asarray(grey)[..., None], (SIDE, SIDE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with all files, a list of them, and the two as shards."""
    place = tmp_path_factory.mktemp("deep")
    (place / "images").mkdir()
    for number, name in enumerate(SMALL):
        (place / "images" / f"{number:02}.img").write_bytes(FILES[name][0])
    names = [f"images/{number:02}.img" for number in range(len(SMALL))]
    (place / "list.txt").write_text("\n".join(names))
    shards.write_shards(image_folder(place / "images"), place / "shards")
    return place


@pytest.mark.parametrize("name", FILES)
def test_one_image_is_stretched_as_stated(name):
    content, grey, upper = FILES[name]
    seen = image_files.read_rgb(content)
    expected = np.broadcast_to(np.asarray(grey)[..., None], seen.shape)
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(decode_bytes(tf.constant(content)), expected)
    if name.startswith("png"):  # a SavedModel decodes by TensorFlow alone
        np.testing.assert_array_equal(decode(tf.constant(content)), expected)
        seen = decode(tf.constant(content), stretch=False)
        np.testing.assert_array_equal(seen[..., 0], np.broadcast_to(upper, expected.shape[:2]))
    if upper is None:
        with pytest.raises(ValueError, match="32 bits.*--high_bit_depth=stretch"):
            image_files.read_rgb(content, TRUNCATE)
    else:
        seen = image_files.read_rgb(content, TRUNCATE)[..., 0]
        np.testing.assert_array_equal(seen, np.broadcast_to(upper, expected.shape[:2]))


def test_folders_lists_and_shards_stretch_alike(folder, caplog):
    caplog.set_level(logging.INFO, "rfd_tf")
    expected = np.stack([pixels_of(FILES[name][1]) for name in SMALL])
    sources = [
        image_folder(folder / "images"),
        image_folder(folder / "images", verify="header"),
        image_list(folder / "list.txt", cache_bytes=0),
        load(folder / "shards"),
        shards.shard_source(folder / "shards", verify="header"),
    ]
    for source in sources:
        np.testing.assert_array_equal(load_images(source, SIDE), expected)
    part = sources[1].subset([2, 5])
    np.testing.assert_array_equal(load_images(part, SIDE), expected[[2, 5]])
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 4 and all(
        "13 grey images of more than 8 bits: each stretched from its 0.1" in line for line in told
    )


def test_truncation_keeps_the_upper_bits_and_names_what_has_none(folder):
    kept = [number for number, name in enumerate(SMALL) if FILES[name][2] is not None]
    expected = np.stack([pixels_of(FILES[SMALL[number]][2]) for number in kept])
    for place in (folder / "list.txt", folder / "shards"):
        source = load(place, high_bit_depth="truncate", max_skipped=0.5)
        np.testing.assert_array_equal(load_images(source, SIDE), expected)
        assert len(source.skipped) == 5 and "32 bits" in source.skipped[0][1]
    with pytest.raises(UserError, match="unknown high_bit_depth 'wide'; .* stretch, truncate"):
        load(folder / "images", high_bit_depth="wide")


def test_the_fingerprint_follows_the_conversion_only_where_there_is_something_to_convert(tmp_path):
    Image.fromarray(TWELVE).save(tmp_path / "deep.png")

    def both(place):
        return {load(place, high_bit_depth=how).fingerprint for how in ("stretch", "truncate")}

    written = shards.write_shards(image_folder(tmp_path), tmp_path / "shards")
    assert len(both(written)) == 2
    shutil.rmtree(written)
    assert len(both(tmp_path)) == 2
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "deep.png")
    assert len(both(tmp_path)) == 1


def test_a_run_that_records_no_bit_depth_is_read_as_it_was(tmp_path):
    (tmp_path / "run.json").write_text('{"flags": {"data_dir": "photos"}}')
    old = RunImages.of_run(tmp_path)
    assert old.high_bit_depth == "truncate"
    assert old.replaced(data_dir="others").reading()["high_bit_depth"] == "truncate"
    (tmp_path / "run.json").write_text('{"flags": {"color_profile": "srgb"}}')
    assert RunImages.of_run(tmp_path).replaced(dataset="digits").color_profile == "srgb"
    assert RunImages().high_bit_depth == "stretch"
    assert PretrainConfig.of_flags({"data_dir": "photos"}).high_bit_depth == "truncate"
    assert PretrainConfig.of_flags({"dataset": "digits"}).high_bit_depth == "stretch"


# -- colour profiles ---------------------------------------------------------------------------

#: The primaries of sRGB as ICC profiles have them (adapted to D50), and its transfer function.
RED, GREEN, BLUE = (
    (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410),
)  # fmt: skip
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def profile(space, tags, pcs=b"XYZ "):
    """An ICC profile of version 2, from its tags."""

    def number(value):
        return struct.pack(">i", round(value * 65536))

    def tagged(value):
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            text = value.encode() + b"\0"
            described = struct.pack(">I", len(text)) + text + bytes(78)
            return b"desc" + bytes(4) + described
        if len(value) == 3:
            return b"XYZ " + bytes(4) + b"".join(map(number, value))
        if len(value) == 1:  # a power
            return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value[0] * 256))
        return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + b"".join(map(number, value))

    white = (0.9642, 1.0, 0.8249)
    tags = {"desc": "made for a test", "cprt": b"text\0\0\0\0none\0", "wtpt": white, **tags}
    table, data = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        part = tagged(value)
        place = 128 + 4 + 12 * len(tags) + len(data)
        table += name.encode() + struct.pack(">II", place, len(part))
        data += part + bytes(-len(part) % 4)
    sort = b"prtr" if pcs == b"Lab " else b"mntr"
    size = 128 + len(table + data)
    header = struct.pack(">I4sI4s4s4s", size, b"", 0x02400000, sort, space, pcs)
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += b"".join(map(number, white))
    return header.ljust(128, b"\0") + table + data


CURVES = dict.fromkeys(("rTRC", "gTRC", "bTRC"), SRGB_CURVE)
SWAPPED = profile(b"RGB ", {"rXYZ": BLUE, "gXYZ": GREEN, "bXYZ": RED, **CURVES})
LINEAR_GREY = profile(b"GRAY", {"kTRC": (1.0,)})
#: Inks by a table of its corners, in Lab: paper is white, cyan a grey of L* = 50.2, the rest black.
CORNERS = {0: (255, 128, 128), 8: (128, 128, 128)}
LUT = b"".join([
    b"mft1", bytes(4), bytes([4, 3, 2, 0]), struct.pack(">9i", *np.diag([65536] * 3).flat),
    bytes(range(256)) * 4, *(bytes(CORNERS.get(n, (0, 128, 128))) for n in range(16)),
    bytes(range(256)) * 3,
])  # fmt: skip
INKS = profile(b"CMYK", {"A2B0": LUT}, pcs=b"Lab ")
PICTURE = Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((SIDE, SIDE), 2)
ALPHA = PICTURE.copy()
ALPHA.putalpha(Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)))
SRGB = image_files.Reading(color_profile="srgb")


def swapped(pixels):
    return np.asarray(pixels)[..., ::-1]


def test_profiles_with_swapped_primaries_swap_the_channels_of_every_format(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    kinds = {"JPEG": {"quality": 98}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}
    for kind, options in kinds.items():
        for name, tags in (("a", {"icc_profile": SWAPPED}), ("b", {})):
            PICTURE.save(tmp_path / f"{kind}_{name}", kind, exif=exif, **tags, **options)
    ignore, srgb = (load(tmp_path, color_profile=how) for how in ("ignore", "srgb"))
    ignored, converted = (load_images(source, SIDE).astype(int) for source in (ignore, srgb))
    np.testing.assert_array_equal(ignored[::2], ignored[1::2])
    np.testing.assert_array_equal(ignored[1::2], converted[1::2])
    assert np.abs(converted[::2] - swapped(ignored[::2])).max() <= 2
    assert ignore.fingerprint != srgb.fingerprint
    content = (tmp_path / "JPEG_a").read_bytes()
    np.testing.assert_array_equal(image_files.read_rgb(content, SRGB), converted[0])
    seen = decode_bytes(tf.constant(content), color_profile="srgb")
    np.testing.assert_array_equal(seen, converted[0])


def test_profiles_of_grey_transparent_and_palette_images():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    seen = image_files.read_rgb(
        encoded(Image.fromarray(grey), "PNG", icc_profile=LINEAR_GREY), SRGB
    )
    light = grey / 255  # of which sRGB stores this
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(seen - 255 * expected[..., None]).max() <= 1.5
    seen = image_files.read_rgb(encoded(ALPHA, "PNG", icc_profile=SWAPPED), SRGB).astype(int)
    assert np.abs(seen - swapped(image_files.read_rgb(encoded(ALPHA, "PNG")))).max() <= 2
    palette = PICTURE.quantize(16)
    seen = image_files.read_rgb(encoded(palette, "PNG", icc_profile=SWAPPED), SRGB).astype(int)
    assert np.abs(seen - swapped(palette.convert("RGB"))).max() <= 2


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_inks_are_converted_by_their_profile(kind):
    for inks, grey in (((0, 0, 0, 0), 255), ((255, 0, 0, 0), 120), ((0, 255, 0, 0), 0)):
        image = Image.new("CMYK", (16, 16), inks)
        seen = image_files.read_rgb(encoded(image, kind, icc_profile=INKS), SRGB).astype(int)
        assert np.abs(seen - grey).max() <= 3, inks


def test_images_in_srgb_are_left_to_tensorflow_and_unusable_profiles_are_named(tmp_path, recwarn):
    from PIL import ImageCms

    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profiles = {"own": own, "damaged": SWAPPED[:150], "other": LINEAR_GREY, "swapped": SWAPPED}
    for name, each in profiles.items():
        PICTURE.save(tmp_path / f"{name}.jpg", icc_profile=each)
    image_files._transform.cache_clear()
    source = load(tmp_path, color_profile="srgb", max_skipped=0)
    told = [str(each.message) for each in recwarn if "a colour profile" in str(each.message)]
    assert len(told) == 2 and any("for GRAY pixels, not for RGB" in line for line in told)
    damaged, other, own, converted = load_images(source, SIDE).astype(int)
    np.testing.assert_array_equal(damaged, own)
    np.testing.assert_array_equal(other, own)
    assert np.abs(converted - swapped(own)).max() <= 2
    files = image_folder(tmp_path, cache_bytes=0, color_profile="srgb")
    assert files.kinds.tolist() == [image_files.JPEG] * 3 + [image_files.SRGB]
