"""A folder of images as users have them: mixed, nested, partly broken."""

import os

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import ArraySource, FolderSource, image_files, image_folder, load_images
from rfd_tf.errors import UserError
from rfd_tf.text import file_name_from_text

RNG = np.random.default_rng(0)


def _picture(size=(40, 50), seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BILINEAR)


def _fill(folder, names, size=(40, 50)):
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _picture(size, seed).save(path)
    return str(folder)


def _bmp_with_runs(path):
    """Writes a BMP whose palette indices are run-length encoded: 4 red, 4 blue pixels a row."""
    palette = b"\x00\x00\xff\x00" + b"\xff\x00\x00\x00"
    data = b"\x04\x00\x04\x01\x00\x00" * 8 + b"\x00\x01"
    header = (40).to_bytes(4, "little") + (8).to_bytes(4, "little") * 2
    header += (1).to_bytes(2, "little") + (8).to_bytes(2, "little") + (1).to_bytes(4, "little")
    header += len(data).to_bytes(4, "little") + bytes(8) + (2).to_bytes(4, "little") + bytes(4)
    start = 14 + len(header) + len(palette)
    length = (start + len(data)).to_bytes(4, "little")
    file = b"BM" + length + bytes(4) + start.to_bytes(4, "little")
    path.write_bytes(file + header + palette + data)


def _one_of_each(folder):
    """Writes one file of every kind; returns what each should look like, by name."""
    picture = _picture((32, 32))
    alpha = Image.fromarray(RNG.integers(0, 256, (32, 32), dtype=np.uint8))
    transparent = picture.copy()
    transparent.putalpha(alpha)
    over_white = Image.alpha_composite(Image.new("RGBA", (32, 32), "white"), transparent)
    palette = picture.quantize(32)
    masked = palette.copy()
    hidden = np.asarray(masked) == 7
    assert hidden.any()
    without = np.where(hidden[..., None], 255, np.asarray(palette.convert("RGB")))
    sixteen = RNG.integers(0, 65536, (32, 32)).astype(np.uint16)
    cmyk = picture.convert("CMYK")

    picture.save(folder / "bmp.bmp")
    palette.save(folder / "bmp_palette.bmp")
    picture.convert("L").save(folder / "bmp_grey.bmp")
    picture.convert("1").save(folder / "bmp_bilevel.bmp")
    palette.save(folder / "gif.gif")
    masked.save(folder / "gif_masked.gif", transparency=7)
    picture.save(folder / "jpeg.JPEG", quality=90)
    picture.convert("L").save(folder / "jpeg_grey.jpe", "JPEG", quality=90)
    cmyk.save(folder / "jpeg_cmyk.jpg", quality=90)
    picture.save(folder / "jpeg_progressive.jpg", quality=90, progressive=True)
    picture.save(folder / "png.png")
    palette.save(folder / "png_palette.png")
    masked.save(folder / "png_masked.png", transparency=7)
    transparent.save(folder / "png_transparent.png")
    Image.fromarray(sixteen).save(folder / "png_sixteen.png")
    picture.save(folder / "really_png.jpg", "PNG")

    def of_file(name, mode="RGB"):
        return np.asarray(Image.open(folder / name).convert(mode).convert("RGB"))

    plain, flat = np.asarray(picture), np.asarray(palette.convert("RGB"))
    return {
        "bmp.bmp": plain,
        "bmp_bilevel.bmp": np.asarray(picture.convert("1").convert("RGB")),
        "bmp_grey.bmp": np.asarray(picture.convert("L").convert("RGB")),
        "bmp_palette.bmp": flat,
        "gif.gif": flat,
        "gif_masked.gif": without,
        "jpeg.JPEG": of_file("jpeg.JPEG"),
        "jpeg_cmyk.jpg": of_file("jpeg_cmyk.jpg"),
        "jpeg_grey.jpe": of_file("jpeg_grey.jpe"),
        "jpeg_progressive.jpg": of_file("jpeg_progressive.jpg"),
        "png.png": plain,
        "png_masked.png": without,
        "png_palette.png": flat,
        "png_sixteen.png": np.repeat((sixteen >> 8)[..., None], 3, -1),
        "png_transparent.png": np.asarray(over_white.convert("RGB")),
        "really_png.jpg": plain,
    }


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
def test_every_kind_of_file_is_read_as_pillow_reads_it(tmp_path, cache_bytes):
    expected = _one_of_each(tmp_path)
    source = image_folder(tmp_path, cache_bytes=cache_bytes)
    assert isinstance(source, ArraySource if cache_bytes else FolderSource)
    assert list(source.names) == sorted(expected) and source.skipped == []
    for name, image in zip(source.names, load_images(source, 32), strict=True):
        assert np.abs(image.astype(int) - expected[name]).max() <= 1, name


def test_a_run_length_encoded_bmp(tmp_path):
    _bmp_with_runs(tmp_path / "runs.bmp")
    image = load_images(image_folder(tmp_path, cache_bytes=0), 8)[0]
    assert (image[:, :4] == [255, 0, 0]).all() and (image[:, 4:] == [0, 0, 255]).all()


def test_pillow_gets_a_second_opinion(tmp_path):
    """TensorFlow refuses a PNG without its last chunk and a BMP with bytes behind its end."""
    for name, content_of in (
        ("a.png", lambda data: data[:-12]),
        ("b.bmp", lambda data: data + b"x"),
    ):
        _picture((32, 32)).save(tmp_path / name)
        (tmp_path / name).write_bytes(content_of((tmp_path / name).read_bytes()))
    for cache_bytes in (1 << 20, 0):
        source = image_folder(tmp_path, cache_bytes=cache_bytes)
        assert source.skipped == []
        np.testing.assert_array_equal(load_images(source, 32), [_picture((32, 32))] * 2)


def test_headers_alone_lead_to_the_same_images(tmp_path):
    _one_of_each(tmp_path)
    full, header = image_folder(tmp_path), image_folder(tmp_path, verify="header")
    assert isinstance(header, FolderSource) and header.fingerprint == full.fingerprint
    np.testing.assert_array_equal(load_images(header, 32), load_images(full, 32))


def test_sub_folders_are_classes(tmp_path):
    names = ["dog/b.png", "cat/x/c.png", "cat/a.png", "ant/d.png"]
    source = image_folder(_fill(tmp_path, names))
    assert list(source.names) == ["ant/d.png", "cat/a.png", "cat/x/c.png", "dog/b.png"]
    assert source.class_names == ("ant", "cat", "dog")
    assert source.labels.tolist() == [0, 1, 1, 2] and source.labels.dtype == np.int64


@pytest.mark.parametrize("names", [["a.png", "b.png"], ["x/a.png", "b.png"], ["all/x/a.png"]])
def test_otherwise_there_are_no_labels(tmp_path, names):
    source = image_folder(_fill(tmp_path, names))
    assert source.labels is None and source.class_names is None


def test_a_skipped_image_takes_no_index(tmp_path):
    _fill(tmp_path, ["a/1.png", "a/3.png", "b/4.png"])
    (tmp_path / "a" / "2.png").write_bytes(b"")
    source = image_folder(tmp_path, max_skipped=0.25)
    assert source.skipped == [("a/2.png", "empty file")]
    assert list(source.names) == ["a/1.png", "a/3.png", "b/4.png"]
    assert source.labels.tolist() == [0, 0, 1]
    expected = [np.asarray(_picture(seed=seed)) for seed in range(3)]
    np.testing.assert_array_equal(source.images, expected)


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
def test_undecodable_images_are_named_with_the_reason(tmp_path, cache_bytes):
    _fill(tmp_path, [f"{i:02}.jpg" for i in range(8)])
    content = (tmp_path / "00.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[:-20])
    (tmp_path / "text.jpg").write_text("no picture")
    os.symlink(tmp_path / "nowhere", tmp_path / "lost.jpg")
    source = image_folder(tmp_path, max_skipped=0.3, cache_bytes=cache_bytes)
    assert source.num_images == 8
    reasons = dict(source.skipped)
    assert sorted(reasons) == ["cut.jpg", "lost.jpg", "text.jpg"]
    assert "truncated" in reasons["cut.jpg"]
    assert reasons["text.jpg"] == f"not a {image_files.formats()} file"
    assert reasons["lost.jpg"] == "No such file or directory"


def test_too_many_undecodable_images_stop(tmp_path):
    _fill(tmp_path, [f"{i:02}.jpg" for i in range(48)])
    for i in range(12):
        (tmp_path / f"bad{i:02}.jpg").write_bytes(b"")
    assert image_folder(tmp_path, max_skipped=0.2).num_images == 48
    with pytest.raises(UserError, match="12 of 60 .*max_skipped") as caught:
        image_folder(tmp_path, max_skipped=0.19)
    assert "bad09.jpg (empty file) and 2 more" in str(caught.value)
    assert "bad10.jpg" not in str(caught.value)


def test_one_of_three_is_too_many(tmp_path):
    _fill(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "c.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="1 of 3 .*c.jpg"):
        image_folder(tmp_path)


def test_other_files_do_not_count(tmp_path):
    _fill(tmp_path, ["a.jpg"])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "b.wav").write_bytes(b"RIFF1234WAVE")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    _fill(tmp_path / ".cache", ["b.jpg"])
    source = image_folder(tmp_path, max_skipped=0.0)
    assert list(source.names) == ["a.jpg"] and source.skipped == []


def test_links_that_lead_back_end(tmp_path):
    _fill(tmp_path, ["a/1.png", "b/2.png"])
    os.symlink(tmp_path, tmp_path / "a" / "up", target_is_directory=True)
    os.symlink(tmp_path / "b", tmp_path / "c", target_is_directory=True)
    source = image_folder(tmp_path)
    assert list(source.names) == ["a/1.png", "b/2.png", "c/2.png"]


def test_names_that_are_no_text(tmp_path):
    _fill(tmp_path, ["a.png"])
    odd = os.fsencode(str(tmp_path)) + b"/b\xff \n.png"
    try:
        os.rename(tmp_path / "a.png", odd)
    except OSError:
        pytest.skip("this file system allows only text as names")
    source = image_folder(tmp_path, cache_bytes=0)
    assert list(source.names) == ["b\\xff \n.png"]
    assert file_name_from_text(source.names[0]) == os.fsdecode(b"b\xff \n.png")
    np.testing.assert_array_equal(source.sizes, [[40, 50]])
    assert load_images(source, 32).any()


def test_the_fingerprint_is_of_names_and_sizes(tmp_path):
    one = image_folder(_fill(tmp_path / "one", ["a.png", "b.png"]))
    (tmp_path / "two").mkdir()
    for name in ("b.png", "a.png"):  # another place, another order of creation
        (tmp_path / "two" / name).write_bytes((tmp_path / "one" / name).read_bytes())
    (tmp_path / "two" / "notes.txt").write_text("hello")
    assert image_folder(tmp_path / "two").fingerprint == one.fingerprint
    (tmp_path / "two" / "a.png").write_bytes((tmp_path / "one" / "b.png").read_bytes())
    assert image_folder(tmp_path / "two").fingerprint != one.fingerprint
    (tmp_path / "two" / "a.png").write_bytes((tmp_path / "one" / "a.png").read_bytes())
    assert image_folder(tmp_path / "two").fingerprint == one.fingerprint
    (tmp_path / "two" / "b.png").rename(tmp_path / "two" / "c.png")
    assert image_folder(tmp_path / "two").fingerprint != one.fingerprint


def test_only_images_of_one_small_size_are_kept_in_memory(tmp_path):
    same = _fill(tmp_path / "same", ["a.png", "b.png"])
    assert isinstance(image_folder(same), ArraySource)
    assert isinstance(image_folder(same, cache_bytes=2 * 40 * 50 * 3), ArraySource)
    assert isinstance(image_folder(same, cache_bytes=2 * 40 * 50 * 3 - 1), FolderSource)
    large = _fill(tmp_path / "large", ["a.png", "b.png"], size=(40, 300))
    assert isinstance(image_folder(large), FolderSource)
    _fill(tmp_path / "same", ["c.png"], size=(40, 51))
    assert isinstance(image_folder(same), FolderSource)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no such folder: .*missing.*data_dir"):
        image_folder(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not a folder: .*file"):
        image_folder(tmp_path / "file")
    with pytest.raises(UserError, match="no images .JPEG, PNG, .*1 other files, such as 'file'"):
        image_folder(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="1 of 1 images .*a.jpg"):
        image_folder(tmp_path / "bad", max_skipped=1.0)


def test_options_out_of_range(tmp_path):
    with pytest.raises(UserError, match="verify 'often'.*auto, full, header"):
        image_folder(tmp_path, verify="often")
    with pytest.raises(UserError, match="max_skipped .* got 2"):
        image_folder(tmp_path, max_skipped=2)
