"""Text that others wrote: its encoding, its line ends, and names in different Unicode forms."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from pathlib import Path

from rfd_tf.errors import UserError, shown

# The marks of UTF-32 begin like those of UTF-16, so they come first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-8 or UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-8 or UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-8 or UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-8 or UTF-16"),
)
_DECLARED = re.compile(rb"""\A<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")
# What splits a line, or would hide in one.
_SPLITTING = ("Cc", "Zl", "Zp")
_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")
_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2})")


def read_text(path: str | os.PathLike, what: str = "", xml: bool = False) -> str:
    """Reads a text file: UTF-8 with or without a byte order mark, or UTF-16 or UTF-32 with one.

    Args:
        path: the file.
        what: what the file is, for messages: `"the image list"`.
        xml: whether the encoding that an XML declaration names is used where there is no mark.

    Returns:
        The text without its mark; every line ends with a line feed.

    Raises:
        UserError: the file cannot be read, or its bytes are not in any of these encodings.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "list.txt")
    >>> _ = path.write_bytes("caf\\u00e9.jpg 0\\r\\n".encode("utf-16"))
    >>> read_text(path)
    'caf\xe9.jpg 0\\n'
    """
    named = f"{what} '{path}'" if what else f"'{path}'"
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {named}: {reason}") from None
    encoding, title = "utf-8", "UTF-8"
    for mark, codec, kind in _MARKS:
        if data.startswith(mark):
            encoding, title = codec, kind
            break
    else:
        declared = _DECLARED.match(data) if xml else None
        halves = _empty_half(data)
        if declared:
            name = declared[1].decode("ascii")
            # What declares UTF-16 in single bytes was converted since, and is UTF-8 as a rule.
            if not name.lower().startswith(("utf-16", "utf-32", "ucs", "iso-10646")):
                encoding = title = name
        elif xml and halves:
            encoding = title = halves
        elif halves:
            raise UserError(
                f"{named} cannot be read as text: it is no text in UTF-8 but looks like UTF-16 "
                "without a byte order mark; save it as UTF-8"
            )
    try:
        text = data.decode(encoding)
    except LookupError:
        raise UserError(f"{named} declares the unknown encoding '{title}'") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{named} cannot be read as text: it is no text in {title} (line {line}, byte "
            f"{error.start}: {shown(error.reason)}); save it as UTF-8"
        ) from None
    except (ValueError, UnicodeError) as error:  # codecs that are no text encodings
        raise UserError(f"{named} cannot be read as {title}: {shown(error)}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _empty_half(data: bytes) -> str | None:
    """The likely kind of UTF-16 of a text without mark: every other byte is 0 in Latin text."""
    head = data[:64]
    if len(head) < 4 or not any(head):
        return None
    return "utf-16-be" if not any(head[0::2]) else "utf-16-le" if not any(head[1::2]) else None


def same_form(name: str) -> str:
    """Returns a name in Unicode's composed form (NFC), by which names of classes are compared.

    macOS file systems may store an accent as a letter of its own (NFD), others do not.

    >>> same_form("e\\u0301") == "\\u00e9"
    True
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def same_name_forms(name: str) -> list[str]:
    """Returns a name as given and in Unicode's composed and decomposed form, each once.

    A list or an annotation may come from a system that stores accents in another form.

    >>> len(same_name_forms("e\\u0301")), same_name_forms("e")
    (2, ['e'])
    """
    if name.isascii():
        return [name]
    forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    return list(dict.fromkeys((name, *forms)))


def file_name_to_text(name: str, one_line: bool = False) -> str:
    """Returns a file name as valid Unicode; `file_name_from_text` inverts it.

    File systems on Linux allow any bytes. Those that are no UTF-8 are written `\\xNN`, a byte
    each; a name that needs this, or that has such a sequence itself, has its backslashes doubled.
    All other names are unchanged.

    Args:
        name: as Python returns it from a folder.
        one_line: whether control characters and line separators are written so, too.

    >>> file_name_to_text("a b.jpg"), file_name_to_text("caf\\udce9.jpg")
    ('a b.jpg', 'caf\\\\xe9.jpg')
    """
    if name.isascii() and name.isprintable() and "\\x" not in name:
        return name
    data = os.fsencode(name)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    split = one_line and text is not None and any(map(_splits, text))
    if text is not None and not split and not _ESCAPE.search(text):
        return text
    text = data.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    if not one_line:
        return text
    return "".join(
        "".join(f"\\x{byte:02x}" for byte in c.encode()) if _splits(c) else c for c in text
    )


def one_line(text: str) -> str:
    """Returns text with escapes for what breaks a line or steers a terminal.

    >>> print(one_line("no such folder: 'a\\nb'"))
    no such folder: 'a\\nb'
    """
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if _splits(c) else c for c in text)


def _splits(character: str) -> bool:
    return unicodedata.category(character) in _SPLITTING


def file_name_from_text(text: str) -> str:
    """Returns the file name that `file_name_to_text` wrote, to open the file by.

    >>> file_name_from_text("caf\\\\xe9.jpg")
    'caf\\udce9.jpg'
    """
    if not _ESCAPE.search(text):
        return text

    def byte(match: re.Match[bytes]) -> bytes:
        return b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)])

    return os.fsdecode(re.sub(_ESCAPED.pattern.encode(), byte, text.encode()))
