"""Text files and file names that come from elsewhere."""

import codecs
import os

import pytest

from rfd_tf.errors import UserError
from rfd_tf.text import file_name_from_text, file_name_to_text, read_text, same_form

TEXT = "--a=café\n日本 1\n"
ENCODINGS = {
    "utf-8": TEXT.encode(),
    "utf-8 with a mark": codecs.BOM_UTF8 + TEXT.encode(),
    "utf-16 little": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    "utf-16 big": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-32 little": codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
    "utf-32 big": codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
    "line ends of Windows": TEXT.replace("\n", "\r\n").encode(),
    "line ends of old Macs": TEXT.replace("\n", "\r").encode(),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_the_same_text(tmp_path, encoding):
    (tmp_path / "x.txt").write_bytes(ENCODINGS[encoding])
    assert read_text(tmp_path / "x.txt") == TEXT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\ncafé".encode("latin-1"), "no text in UTF-8 .line 2, byte 5"),
        ("日本".encode("gbk"), "no text in UTF-8"),
        (b"\xff\xfea", "no text in UTF-8 or UTF-16"),
        ("list".encode("utf-16-le"), "looks like UTF-16 without a byte order mark"),
        ("list".encode("utf-16-be"), "looks like UTF-16 without a byte order mark"),
    ],
)
def test_other_encodings_are_named(tmp_path, content, message):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"the list '.*x.txt' cannot be read as text: .*{message}"):
        read_text(tmp_path / "x.txt", "the list")


def test_missing_texts_are_named(tmp_path):
    with pytest.raises(UserError, match="cannot read '.*none.txt': No such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(UserError, match="cannot read"):
        read_text(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        read_text("a\0b")


@pytest.mark.parametrize(
    ("declared", "codec"),
    [("ISO-8859-1", "latin-1"), ("GBK", "gbk"), ("Shift_JIS", "shift_jis"), ("utf-16", "utf-8"),
     ("UTF-8", "utf-8-sig"), ("UTF-16", "utf-16"), ("UTF-16", "utf-16-le")],
)  # fmt: skip
def test_xml_is_read_as_it_declares(tmp_path, declared, codec):
    word = "日本" if codec in ("gbk", "shift_jis") else "é"
    text = f'<?xml version="1.0" encoding="{declared}"?><a>{word}</a>'
    (tmp_path / "x.xml").write_bytes(text.encode(codec))
    assert read_text(tmp_path / "x.xml", xml=True) == text
    (tmp_path / "x.xml").write_text('<?xml version="1.0" encoding="klingon"?><a/>')
    with pytest.raises(UserError, match="x.xml' declares the unknown encoding 'klingon'"):
        read_text(tmp_path / "x.xml", xml=True)


def test_names_of_files_come_back_from_text():
    """Every name, of text or not, has one text of its own, one line long."""
    names = [
        b"a.jpg", "é.jpg".encode(), "é.jpg".encode("latin-1"), b"\xe8.jpg", b"a\xff\nb", b"a\\xff",
        b"a\\xff\xff", b"a\\b", b"a\\\\b", "\u2028".encode(), b"\r", b"\t", b"\xed\xb3\xa9",
        b"x" * 255, b"\xff" * 200,
    ]  # fmt: skip
    for one_line in (False, True):
        texts = [file_name_to_text(os.fsdecode(name), one_line) for name in names]
        assert len(set(texts)) == len(names)
        for name, text in zip(names, texts, strict=True):
            assert text.encode("utf-8").decode() == text
            assert not one_line or len(text.splitlines()) == 1
            assert os.fsencode(file_name_from_text(text)) == name
    # What is text already stays as it is.
    for name in ("a b.jpg", "é.jpg", "C:\\a.jpg", "日本/x.png"):
        assert file_name_to_text(name) == name


def test_accents_have_one_form():
    assert same_form("cafe\u0301") == same_form("café") == "café"
