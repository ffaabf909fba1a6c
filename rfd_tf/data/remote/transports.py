"""Reads files at addresses: HTTP by the standard library, all else by fsspec's file systems."""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import http.client
import posixpath
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

from rfd_tf import extras
from rfd_tf.errors import UserError, shown

#: Seconds without a byte after which a connection counts as dropped.
TIMEOUT = 30.0
_READ = 1 << 18
_RANGE = 8 << 20
_MD5 = re.compile(r"[0-9a-f]{32}")
_TRANSIENT = {408, 425, 429}
_VERSIONS = ("ETag", "etag", "generation", "LastModified", "last_modified", "updated", "mtime")


class Described(NamedTuple):
    """What a server reports of a file.

    Attributes:
        size: bytes; None if the server does not report them.
        version: changes with the content: an ETag or a time; "" if unknown.
        checksum: `md5` or `sha256` and the hex digest of the content; None if unknown.
        sure: whether another digest means damage. The ETag of an encrypted S3 object looks like
            an MD5 and is none.
    """

    size: int | None = None
    version: str = ""
    checksum: tuple[str, str] | None = None
    sure: bool = True


#: Of a file that no server was asked about.
UNKNOWN = Described()


class Refused(OSError):
    """A request that fails again when it is repeated: a missing file, or one without access."""


def is_http(address: str) -> bool:
    """Returns whether an address is read by HTTP."""
    return address.lower().startswith(("http://", "https://"))


def name_of(address: str) -> str:
    """Returns the file name in an address.

    >>> name_of("https://host/a/b%201.tar?signature=x"), name_of("s3://bucket/a?b.tar")
    ('b 1.tar', 'a?b.tar')
    """
    if not is_http(address):
        return posixpath.basename(address)
    return urllib.parse.unquote(posixpath.basename(urllib.parse.urlsplit(address).path))


def joined(folder: str, name: str) -> str:
    """Returns the address of a file by its name relative to a folder.

    >>> joined("s3://bucket/lists", "../photos/a b.jpg"), joined("https://host/x", "a b.jpg")
    ('s3://bucket/photos/a b.jpg', 'https://host/x/a%20b.jpg')
    """
    protocol, _, rest = folder.partition("://")
    host, _, below = rest.partition("?")[0].partition("/")
    name = urllib.parse.quote(name) if is_http(folder) else name
    path = posixpath.normpath(posixpath.join("/", below, name.lstrip("/")))
    return f"{protocol}://{host}{path}"


def folder_of(address: str) -> str:
    """Returns the address of a file's folder.

    >>> folder_of("https://host/a/b.csv?x=/y")
    'https://host/a'
    """
    if is_http(address):
        address = address.partition("?")[0]
    return posixpath.dirname(address)


def describe(address: str) -> Described:
    """Returns what the server reports of a file.

    Raises:
        Refused: there is no such file, or no access.
        OSError: the server cannot be reached, or has a problem.
        UserError: no file system for such addresses is installed.
    """
    return _http_describe(address) if is_http(address) else _fs_describe(address)


def chunks(address: str, start: int, described: Described) -> Iterator[tuple[int, bytes]]:
    """Yields places and bytes of a file.

    The first place is `start`, or 0 if the server sends files as a whole only.

    Raises:
        OSError: the connection ends early; see `describe`.
    """
    read = _http_chunks if is_http(address) else _fs_chunks
    return read(address, start, described)


def matching(pattern: str) -> dict[str, Described]:
    """Returns the files that match a pattern with `*`, `?` or `[...]`, by their addresses.

    Raises:
        UserError: the server lists no files.
        OSError: see `describe`.
    """
    if is_http(pattern):
        raise UserError(
            f"'{shown(pattern)}': an HTTP server does not list its files; name them, such as "
            "--data='https://host/train-{000..099}.tar'"
        )
    with _fs_errors(pattern):
        system, path = _file_system(pattern)
        # (A bucket with the very name would otherwise be listed from an earlier look.)
        system.invalidate_cache()
        found = system.glob(path, detail=True)
        return {
            _address(pattern, system, name): _of_info(info)
            for name, info in sorted(found.items())
            if info.get("type") != "directory"
        }


# -- HTTP -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _http(address: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
    try:
        request = urllib.request.Request(
            address, headers={"User-Agent": "rfd_tf", "Accept-Encoding": "identity", **headers}
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            yield response
    except urllib.error.HTTPError as error:
        with error:
            message = f"{error.code} {error.reason}"
        if error.code < 500 and error.code not in _TRANSIENT:
            raise Refused(message) from None
        raise OSError(message) from None
    except urllib.error.URLError as error:
        raise OSError(f"cannot connect ({error.reason})") from None
    except TimeoutError:
        raise OSError(f"no answer within {TIMEOUT:g} s") from None
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{type(error).__name__}: {error}") from None


def _http_describe(address: str) -> Described:
    # Not HEAD: an address that is signed for reading refuses it.
    try:
        with _http(address, {"Range": "bytes=0-0"}) as response:
            return _of_headers(response)
    except Refused as error:
        if str(error).startswith("416"):  # no first byte: the file is empty
            return Described(0)
        raise


def _of_headers(response: http.client.HTTPResponse) -> Described:
    headers = response.headers
    size = headers.get("Content-Length")
    if response.status == 206:
        size = (headers.get("Content-Range") or "").rpartition("/")[2]
    checksum = None
    fields = [headers.get(name) or "" for name in ("Repr-Digest", "Digest", "x-goog-hash")]
    for kind, name in (("sha256", "sha-256"), ("md5", "md5")):
        found = re.search(rf"\b{name}=:?([A-Za-z0-9+/]+=*)", ",".join(fields), re.IGNORECASE)
        if found and checksum is None:
            checksum = _checksum(kind, found[1])
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    return Described(int(size) if size and size.isdecimal() else None, version, checksum)


def _checksum(kind: str, encoded: str) -> tuple[str, str] | None:
    try:
        return kind, base64.b64decode(encoded, validate=True).hex()
    except (binascii.Error, ValueError):
        return None


def _http_chunks(address: str, start: int, described: Described) -> Iterator[tuple[int, bytes]]:
    headers = {"Range": f"bytes={start}-"} if start else {}
    with _http(address, headers) as response:
        now = _of_headers(response)
        if described.version and now.version and now.version != described.version:
            raise Refused("it has changed on the server since it was listed")
        place = start if response.status == 206 else 0
        end = None if response.length is None else place + response.length
        while chunk := response.read(_READ):
            yield place, chunk
            place += len(chunk)
        if end is not None and place < end:
            raise OSError(f"the connection dropped after {place:,} of {end:,} bytes")


# -- fsspec ---------------------------------------------------------------------------------------


@functools.cache
def _library() -> Any:
    return extras.load("fsspec", "images at addresses such as s3://bucket/train.tar")


def _file_system(address: str) -> tuple[Any, str]:
    try:
        return _library().core.url_to_fs(address)
    except ImportError as error:
        raise extras.MissingPackage(
            f"'{shown(address)}' needs a package ({error}); pip install 'rfd_tf[remote]'"
        ) from None
    except ValueError as error:
        raise UserError(f"'{shown(address)}': {shown(error)}") from None


def _address(given: str, system: Any, name: str) -> str:
    found = system.unstrip_protocol(name)
    protocol = given.partition("://")[0]
    # (A file system may have several names, such as gs and gcs.)
    return f"{protocol}://{found.partition('://')[2]}"


@contextlib.contextmanager
def _fs_errors(address: str) -> Iterator[None]:
    try:
        yield
    except (UserError, Refused):
        raise
    except FileNotFoundError:
        raise Refused("no such file") from None
    except (PermissionError, IsADirectoryError) as error:
        raise Refused(f"access refused ({_words(error)})") from None
    except Exception as error:  # each file system has errors of its own
        if "credential" in str(error).lower():
            raise Refused(f"access refused ({_words(error)})") from None
        raise OSError(f"{type(error).__name__}: {_words(error)}") from None


def _words(error: BaseException) -> str:
    return shown(" ".join(str(error).split()), 200)


def _fs_describe(address: str) -> Described:
    with _fs_errors(address):
        system, path = _file_system(address)
        info = system.info(path)
        if info.get("type") == "directory":
            raise Refused("it is a folder")
        return _of_info(info)


def _of_info(info: dict[str, Any]) -> Described:
    size = info.get("size")
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    checksum, sure = None, True
    if isinstance(info.get("md5Hash"), str):  # Google's
        checksum = _checksum("md5", info["md5Hash"])
    elif _MD5.fullmatch(version.strip('"')):  # of an S3 object uploaded in one part
        checksum, sure = ("md5", version.strip('"')), False
    return Described(size if isinstance(size, int) else None, version, checksum, sure)


def _fs_chunks(address: str, start: int, described: Described) -> Iterator[tuple[int, bytes]]:
    with _fs_errors(address):
        system, path = _file_system(address)
        if described.size is None:
            yield 0, system.cat_file(path)
            return
        for place in range(start, described.size, _RANGE):
            end = min(place + _RANGE, described.size)
            chunk = system.cat_file(path, start=place, end=end)
            if not chunk:
                raise OSError(f"the file ends after {place:,} of {described.size:,} bytes")
            yield place, chunk
            if len(chunk) < end - place:
                raise OSError(f"{len(chunk):,} bytes were sent instead of {end - place:,}")
