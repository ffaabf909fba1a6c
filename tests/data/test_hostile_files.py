"""Files and folders of every odd kind are read or refused as docs/guides/data.md lists."""

import io
import os
import re
import struct
import subprocess
import sys
import tempfile
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import folder, image_files, image_folder, image_list, load_images
from rfd_tf.errors import UserError

NOT_READ = f"not a {image_files.formats()} file"
RED, LIME = (255, 0, 0), (0, 255, 0)


def _encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _picture(mode="RGB", size=(16, 12)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _frames(kind):
    frames = [Image.new("RGB", (12, 12), colour) for colour in (RED, LIME)]
    return _encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)


def _with_orientation(kind, code):
    exif = Image.Exif()
    exif[0x0112] = code
    # Left half red, right half lime, as stored.
    image = Image.new("RGB", (16, 16), RED)
    image.paste(LIME, (8, 0, 16, 16))
    return _encoded(image, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


def _claiming(width, height, kind="PNG"):
    """A file of a few bytes whose header promises an enormous picture."""
    if kind == "PNG":
        content = bytearray(_encoded(Image.new("1", (1, 1)), "PNG"))
        struct.pack_into(">II", content, 16, width, height)
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    elif kind == "JPEG":
        content = bytearray(_encoded(Image.new("L", (1, 1)), "JPEG"))
        struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, height, width)
    elif kind == "BMP":
        content = bytearray(_encoded(Image.new("RGB", (1, 1)), "BMP"))
        struct.pack_into("<ii", content, 18, width, height)
    else:
        content = bytearray(_encoded(Image.new("L", (1, 1)), "GIF"))
        struct.pack_into("<HH", content, 6, width, height)
    return bytes(content)


JPEG = _encoded(_picture(), "JPEG", quality=95)
PNG = _encoded(_picture(), "PNG")
DEEP = Image.fromarray(np.full((12, 12), 70 << 8, np.uint16))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("zero.jpg", b"", "empty file"),
        ("text.png", b"just words", NOT_READ),
        ("cut.jpg", JPEG[:-40], "truncated"),
        ("cut.png", PNG[:-60], "truncated|broken|incomplete"),
        ("cut_in_header.png", PNG[:20], "(?i)truncated|broken header"),
        ("cut.gif", _frames("GIF")[:40], "truncated|image"),
        ("cut.bmp", _encoded(_picture(), "BMP")[:-20], "truncated"),
        ("archive.png", b"PK\x03\x04" + bytes(50), NOT_READ),
        ("page.gif", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is a format that is not"),
        ("vast.png", _claiming(20_000, 20_000), "too many pixels.* 400 megapixels, more than 300"),
        ("vast.jpg", _claiming(20_000, 20_000, "JPEG"), "too many pixels"),
        ("vast.bmp", _claiming(20_000, 20_000, "BMP"), "too many pixels"),
        ("vast.gif", _claiming(20_000, 20_000, "GIF"), "too many pixels"),
        ("negative.bmp", _claiming(-5, -5, "BMP"), "."),
        ("no_pixels.jpg", _claiming(0, 0, "JPEG"), "."),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value[:-1] else "",
)
def test_left_out_with_its_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.png").write_bytes(PNG)
    for verify in ("full", "header"):
        source = image_folder(tmp_path, max_skipped=0.5, verify=verify)
        if verify == "header" and not source.skipped:
            # The header is sound; that the picture is not is told when it is read.
            assert reason.startswith("truncated"), name
            continue
        assert list(source.names) == ["good.png"]
        ((told, why),) = source.skipped
        assert told == name and "\n" not in why
        assert re.search(reason, why), why


@pytest.mark.parametrize(
    ("name", "content", "colour"),
    [
        ("a.gif", _frames("GIF"), RED),
        ("named.jpg", _frames("WEBP"), RED),
        ("apng.png", _frames("PNG"), RED),
        ("really_png.jpg", _encoded(Image.new("RGB", (12, 12), RED), "PNG"), RED),
        ("no_extension", _encoded(Image.new("RGB", (12, 12), RED), "PNG"), RED),
        ("palette.png", _encoded(Image.new("RGB", (12, 12), RED).quantize(4), "PNG"), RED),
        ("clear.png", _encoded(Image.new("RGBA", (12, 12), (255, 0, 0, 0)), "PNG"), (255,) * 3),
        ("half.png", _encoded(Image.new("RGBA", (12, 12), (*RED, 128)), "PNG"), (255, 127, 127)),
        ("grey.png", _encoded(Image.new("L", (12, 12), 70), "PNG"), (70,) * 3),
        ("deep.png", _encoded(DEEP, "PNG"), (70,) * 3),
        ("cmyk.jpg", _encoded(Image.new("CMYK", (12, 12), (0, 255, 255, 0)), "JPEG"), RED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_read_as_stated(tmp_path, name, content, colour):
    (tmp_path / name).write_bytes(content)
    for options in ({"verify": "full"}, {"verify": "header"}):
        source = image_folder(tmp_path, **options)
        pixels = load_images(source, 12).astype(int)
        assert source.skipped == [] and pixels.shape == (1, 12, 12, 3)
        # (Converting CMYK and JPEG's rounding change a value or two.)
        assert np.abs(pixels - colour).max() <= 2, name


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(tmp_path, kind):
    for code in range(1, 9):
        (tmp_path / f"{code}.{kind.lower()}").write_bytes(_with_orientation(kind, code))
    upright = [
        np.asarray(image_files.to_rgb(Image.open(path))) for path in sorted(tmp_path.iterdir())
    ]
    for verify in ("full", "header"):
        seen = load_images(image_folder(tmp_path, verify=verify, cache_bytes=0), 16)
        assert np.abs(seen.astype(int) - upright).max() <= 3
    assert (seen[0, :, 0, 0] > 250).all() and (seen[2, :, 0, 0] < 5).all()


def test_a_large_picture_below_the_limit_is_read(tmp_path):
    Image.new("1", (20_000, 300), 1).save(tmp_path / "wide.png")
    assert 20_000 * 300 < image_files.MAX_MEGAPIXELS * 1e6 < 20_000 * 20_000
    source = image_folder(tmp_path)
    assert source.sizes.tolist() == [[300, 20_000]]
    assert (load_images(source, 8) == 255).all()


def test_the_limit_is_checked_before_pixels_are_asked_for(tmp_path):
    """In a process that may not take more memory than it has plus a tenth of what they promise."""
    for kind in ("PNG", "JPEG", "BMP", "GIF"):
        (tmp_path / f"vast.{kind.lower()}").write_bytes(_claiming(20_000, 20_000, kind))
    program = (
        "import resource, sys\n"
        "from rfd_tf.data import image_files\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    assert 'too many pixels' in image_files.read_header(path), path\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    paths = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40  # MiB; decoded, one of them would take 381


NAMES = [
    "späße.png",
    unicodedata.normalize("NFD", "é.png"),
    "日本語.png",
    "🐈‍⬛.png",
    "مرحبا.png",
    "a\u202egnp.png",  # turns the writing direction round
    "new\nline.png",
    "tab\t'\"`$(ls)&;|*?.png",
    " leading and trailing .png",
    "-rf.png",
    "100%.png",
    "%s{}.png",
]


def test_names_of_all_sorts(tmp_path):
    for number, name in enumerate(NAMES):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name)
    for cache_bytes in (1 << 20, 0):
        source = image_folder(tmp_path, cache_bytes=cache_bytes)
        assert sorted(source.names) == sorted(NAMES) and source.skipped == []
        reds = [NAMES.index(name) for name in source.names]
        assert load_images(source, 8)[:, 0, 0, 0].tolist() == reds


def test_a_folder_of_odd_bytes_is_a_class(tmp_path):
    below = os.fsencode(str(tmp_path)) + b"/\xff\xfe"
    try:
        os.mkdir(below)
    except OSError:
        pytest.skip("this file system allows only text as names")
    (tmp_path / "b").mkdir()
    for path in (below + b"/\x80.png", os.fsencode(str(tmp_path / "b" / "1.png"))):
        with open(path, "wb") as file:
            file.write(PNG)
    source = image_folder(tmp_path, cache_bytes=0)
    assert source.num_images == 2 and len(source.class_names) == 2
    assert load_images(source, 8).any(axis=(1, 2, 3)).all()
    for name in (*source.names, *source.class_names):
        name.encode("utf-8")  # can be printed and written


# Root may read everything: as root, the program goes on as another user once it is loaded.
READ = """
import os, sys
from rfd_tf.data import folder, image_files
from rfd_tf.errors import UserError
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    try:
        print(folder._scan(path), image_files.read_header(path + "/b/a.png"))
    except UserError as error:
        print("refused:", error)
"""


def test_folders_and_files_that_may_not_be_read():
    # (Outside pytest's own folder, which is for its user alone.)
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        for name in ("file/a", "file/b", "folder/a"):
            path = Path(root, name)
            path.mkdir(parents=True)
            (path / "a.png").write_bytes(PNG)
        Path(root, "file/b/a.png").chmod(0)
        Path(root, "folder/a").chmod(0)
        paths = [f"{root}/file", f"{root}/folder"]
        done = subprocess.run(
            [sys.executable, "-c", READ, *paths], capture_output=True, text=True, cwd="/"
        )
        Path(root, "folder/a").chmod(0o755)
    if done.returncode:
        pytest.skip(f"another user cannot be taken on here: {done.stderr[-200:]}")
    of_file, of_folder = done.stdout.splitlines()
    # The file is named, with the reason, and the others are read; a folder stops the run.
    assert "a/a.png" in of_file and of_file.endswith("Permission denied")
    assert of_folder == f"refused: cannot read folder '{root}/folder/a': Permission denied"


def test_links_in_a_circle_and_links_to_nowhere(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(PNG)
    os.symlink("..", tmp_path / "a" / "up", target_is_directory=True)
    os.symlink("self.png", tmp_path / "a" / "self.png")
    os.symlink("self", tmp_path / "self", target_is_directory=True)
    source = image_folder(tmp_path, max_skipped=0.5)
    assert list(source.names) == ["a/1.png"]
    assert [name for name, _ in source.skipped] == ["a/self.png"]


def test_links_all_over_the_place_are_refused(tmp_path):
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(PNG)
        for other in "abcdefgh":
            os.symlink(f"../{other}", tmp_path / name / f"to_{other}", target_is_directory=True)
    with pytest.raises(UserError, match="links lead to the folder .* in more than 64 ways"):
        image_folder(tmp_path)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    (tmp_path / "good.png").write_bytes(PNG)
    os.mkfifo(tmp_path / "pipe.png")
    assert list(image_folder(tmp_path).names) == ["good.png"]
    (tmp_path / "list.txt").write_text("good.png 0\npipe.png 1\n")
    with pytest.raises(UserError, match="line 2: .*pipe.png.* is no file"):
        image_list(tmp_path / "list.txt")


def test_very_many_files_are_looked_at_by_their_headers(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_FULL_CHECK_LIMIT", 2)
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(PNG)
    monkeypatch.setattr("rfd_tf.data.check_files.decode_all", None)  # not to be called
    source = image_folder(tmp_path)
    assert isinstance(source, folder.FolderSource) and source.num_images == 3
