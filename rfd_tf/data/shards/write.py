"""Shards written from any source."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rfd_tf import paths
from rfd_tf.data import image_files
from rfd_tf.data.base import ArraySource, Source
from rfd_tf.data.file_heads import HEAD_BYTES, sniff
from rfd_tf.data.folder import FolderSource, progress
from rfd_tf.data.shards import lister, parquet
from rfd_tf.data.shards.index import write_index
from rfd_tf.data.shards.listing import Wanted
from rfd_tf.data.shards.names import LABELS_FILE, class_names_file
from rfd_tf.data.shards.paths import format_of
from rfd_tf.data.shards.source import ShardSource
from rfd_tf.errors import UserError, shown, unknown
from rfd_tf.paths import absolute
from rfd_tf.text import file_name_from_text, file_name_to_text

_QUALITY = 95
_AT_ONCE = 64
_ROW_GROUP = 256
_NAMED = 5
_EXTENSIONS = {
    "JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WEBP": "webp", "TIFF": "tif",
    "AVIF": "avif", "JPEG2000": "jp2", "PPM": "ppm", "HEIF": "heic",
}  # fmt: skip

FORMATS = ("tar", "tfrecord", "parquet")


def write_shards(
    source: Source,
    output: str | os.PathLike,
    format: str = "tar",
    images_per_shard: int = 10_000,
    image_size: int | None = None,
    make_shards: Callable[[Path, list[int]], None] | None = None,
) -> Path:
    """Writes the images of a source into shards, in the order of the index, with their labels.

    `shard_source` reads what is written: the same images, labels and names. Files are copied byte
    for byte; images that are in memory are written as PNG. `index.jsonl` beside the shards holds
    what each contains, so that large sets need not be read through before training.

    Args:
        source: the images.
        output: folder to write; it must not exist, or be empty. It appears when all is written.
        format: `"tar"` (WebDataset), `"tfrecord"` (`tf.train.Example` with the features of
            TensorFlow's ImageNet files) or `"parquet"` (as Hugging Face's datasets write it).
        images_per_shard: images in a file; the last one holds what is left.
        image_size: pixels; larger images are resized until their shorter side is that long, and
            written as JPEG of quality 95. Images are copied as they are if None.
        make_shards: writes the shards of these numbers to a folder in place of this process, each
            by `write_shard`; see `rfd_tf.data.shards.beam`.

    Returns:
        The folder, for `shard_source`.

    Raises:
        UserError: the folder exists and is not empty or cannot be written, there is no such
            format, or the images of this kind of source can only be written with `image_size`.

    >>> import tempfile
    >>> from rfd_tf import data
    >>> folder = write_shards(data.digits("test"), tempfile.mkdtemp(), images_per_shard=200)
    >>> sorted(path.name for path in folder.iterdir())
    ['index.jsonl', 'labels.txt', 'shard-00000.tar', 'shard-00001.tar']
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if images_per_shard < 1:
        raise UserError(f"images_per_shard must be 1 or more, got {images_per_shard}")
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size must be 1 or more pixels, got {image_size}")
    output = absolute(output)
    check_output(output)
    # (Refuses a kind of source before anything is written.)
    images = _images(source, image_size, range(source.num_images))
    with _new_folder(output) as folder:
        if make_shards is None:
            lost = _write(source, images, folder, format, images_per_shard, image_size)
        else:
            numbers = list(range(-(-source.num_images // images_per_shard)))
            make_shards(folder, numbers)
            lost = [index for number in numbers for index in _taken_lost(folder, number)]
        _finish(source, folder, format, lost)
    return output


def check_output(output: str | os.PathLike) -> None:
    """Makes sure that a folder to write does not exist, or is empty.

    Raises:
        UserError: it holds something, is no folder, or cannot be read.
    """
    output = absolute(output)
    try:
        taken = output.exists() and (not output.is_dir() or any(output.iterdir()))
    except OSError as error:
        raise UserError(f"cannot write to --output '{output}': {error.strerror}") from None
    if taken:
        raise UserError(
            f"--output '{output}' exists and is not an empty folder; give another one, or remove it"
        )


@contextlib.contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Gives a folder to write to, which takes its name when all has been written."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        writing = output.with_name(f".{os.getpid()}.{output.name}")
        writing.mkdir()
    except OSError as error:
        raise UserError(f"cannot write to --output '{output}': {error.strerror}") from None
    try:
        yield writing
        if output.exists():
            output.rmdir()
        os.replace(writing, output)
    except OSError as error:
        raise UserError(f"cannot write to --output '{output}': {error}") from None
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _write(
    source: Source,
    images: Iterator[tuple[int, bytes | None]],
    folder: Path,
    format: str,
    images_per_shard: int,
    image_size: int | None,
) -> list[int]:
    """Writes all shards; returns the indices of the images that cannot be read."""
    names = UniqueNames(source.names, format)
    lost: list[int] = []
    with progress(source.num_images, "Writing shards") as bar:

        def counted() -> Iterator[tuple[int, bytes | None]]:
            for row in _resized(images, image_size, source.reading):
                yield row
                bar.update(1)

        for number, rows in itertools.groupby(counted(), lambda row: row[0] // images_per_shard):
            path = folder / _shard_name(source, number, images_per_shard, format)
            lost += _write_rows(source, names, rows, path, format)
    return lost


def write_shard(
    source: Source,
    names: UniqueNames,
    folder: Path,
    number: int,
    format: str,
    images_per_shard: int,
    image_size: int | None,
) -> None:
    """Writes one shard of `write_shards`, whole or not at all; the images lost go to a file beside.

    Args:
        source, format, images_per_shard, image_size: see `write_shards`.
        names: `UniqueNames(source.names, format)`, which takes a pass over all names.
        folder: of the shards.
        number: of the shard.
    """
    start = number * images_per_shard
    index = range(start, min(start + images_per_shard, source.num_images))
    rows = _resized(_images(source, image_size, index), image_size, source.reading)
    path = folder / _shard_name(source, number, images_per_shard, format)
    # (There is no file if none of its images can be read.)
    with contextlib.suppress(FileNotFoundError), paths.replacing(path) as writing:
        lost = _write_rows(source, names, rows, writing, format)
    with paths.replacing(folder / _lost_name(number)) as writing:
        writing.write_text(json.dumps(lost))


def _taken_lost(folder: Path, number: int) -> list[int]:
    """Returns what `write_shard` noted beside a shard, and removes the note."""
    path = folder / _lost_name(number)
    lost = json.loads(path.read_bytes())
    path.unlink()
    return lost


def _lost_name(number: int) -> str:
    return f"lost-{number}.json"


def _shard_name(source: Source, number: int, images_per_shard: int, format: str) -> str:
    last = (source.num_images - 1) // images_per_shard
    return f"shard-{number:0{max(5, len(str(last)))}d}.{format}"


def _write_rows(
    source: Source,
    names: UniqueNames,
    rows: Iterable[tuple[int, bytes | None]],
    path: Path,
    format: str,
) -> list[int]:
    """Writes the file of a shard, if any image can be read; returns the indices of the others."""
    labels = source.labels
    lost, writer = [], None
    with contextlib.ExitStack() as stack:
        for index, content in rows:
            if content is None:
                lost.append(index)
                continue
            if writer is None:
                writer = _WRITERS[format](path, source)
                stack.callback(writer.close)
            found = sniff(content[:HEAD_BYTES]) or ""
            label = -1 if labels is None else int(labels[index])
            writer.add(names.of(index, _EXTENSIONS.get(found, "jpg")), content, label)
    return lost


def _finish(source: Source, folder: Path, format: str, lost: list[int]) -> None:
    """Writes the names of the classes, and warns of images that are left out."""
    if len(lost) == source.num_images:
        raise UserError(f"no image of '{source.name}' can be read")
    if source.class_names is not None and format != "parquet":
        text = class_names_file(source.class_names)
        (folder / LABELS_FILE).write_text(text, encoding="utf-8")
    shards = sorted(str(path) for path in folder.iterdir() if format_of(path.name))
    write_index(folder, lister.list_all(shards, format, Wanted()))
    if lost:
        names = [str(i) if source.names is None else source.names[i] for i in lost[:_NAMED]]
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        warnings.warn(
            f"{len(lost)} of {source.num_images} images of '{source.name}' cannot be read and are "
            f"left out: {', '.join(map(shown, names))}{more}",
            stacklevel=3,
        )


class UniqueNames:
    """Names of samples, each once; in tar files of a form that WebDataset splits as is meant."""

    def __init__(self, names: Sequence[str] | None, format: str):
        self._names, self._in_tar = names, format == "tar"
        #: Keys of the images whose own key another one before has, by index.
        self._renamed: dict[int, str] = {}
        taken: set[str] = set()
        for index in range(len(names or ()) if self._in_tar else 0):
            key = unused = self._key(index)[0]
            count = 1
            while unused in taken:
                count += 1
                unused = f"{key}-{count}"
            taken.add(unused)
            if unused != key:
                self._renamed[index] = unused

    def of(self, index: int, extension: str) -> str:
        """Returns the name of an image, or one that is made for it, with its extension."""
        if self._names is None:
            return f"{index:08d}.{extension}"
        if not self._in_tar:
            return file_name_from_text(self._names[index])
        key, ending = self._key(index)
        return f"{self._renamed.get(index, key)}.{ending or extension}"

    def _key(self, index: int) -> tuple[str, str | None]:
        """Returns the part of a name that WebDataset groups by, and its ending, if an image's."""
        name = file_name_from_text(self._names[index])
        folder, slash, base = name.lstrip("/").rpartition("/")
        stem, dot, ending = base.rpartition(".")
        if not dot or not image_files.has_image_extension(base):
            stem, ending = base, None
        # (A key ends at the first dot; one that begins with a dot is hidden.)
        return f"{folder}{slash}{stem.replace('.', '_') or '_'}", ending


# Images ------------------------------------------------------------------------------------------


def _images(
    source: Source, image_size: int | None, rows: range
) -> Iterator[tuple[int, bytes | None]]:
    """Returns encoded images of a source with their index; None where one cannot be read.

    Args:
        source: the images.
        image_size: see `write_shards`.
        rows: their indices; all of a source that has no places, see `has_places`.
    """
    if source.files is not None:
        root, files = source.files
        return _read(rows, lambda index: Path(root, files[index]).read_bytes())
    if isinstance(source, FolderSource):
        return _read(rows, lambda index: Path(os.fsdecode(source.paths[index])).read_bytes())
    if isinstance(source, ShardSource):
        return _read(rows, source.encoded)
    if isinstance(source, ArraySource):
        return _read(rows, lambda index: _encoded(source.images[index], "PNG"))
    if hasattr(source, "records"):
        return _recorded(source)
    size = image_size or getattr(source, "size", None)
    if size is None:
        raise UserError(
            f"images of a {type(source).__name__} have no files to copy; give --image_size"
        )
    return _evaluated(source, size)


def has_places(source: Source) -> bool:
    """Whether any image of a source can be read by itself, for `write_shard`."""
    return source.files is not None or isinstance(source, FolderSource | ShardSource | ArraySource)


def _read(rows: range, content: Callable[[int], bytes]) -> Iterator[tuple[int, bytes | None]]:
    def one(index: int) -> tuple[int, bytes | None]:
        try:
            return index, content(index)
        except OSError:
            return index, None

    return map(one, rows)


def _recorded(source: Any) -> Iterator[tuple[int, bytes | None]]:
    """The images of records, which are read in the order of the index."""
    for index, content in source.records().as_numpy_iterator():
        yield int(index), content


def _evaluated(source: Source, size: int) -> Iterator[tuple[int, bytes | None]]:
    done = 0
    for batch in source.eval_dataset(size, _AT_ONCE).as_numpy_iterator():
        for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
            yield from ((missing, None) for missing in range(done, index))
            yield index, _encoded(image, "PNG")
            done = index + 1
    yield from ((missing, None) for missing in range(done, source.num_images))


def _encoded(pixels: np.ndarray, format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def _resized(
    images: Iterator[tuple[int, bytes | None]], image_size: int | None, reading: image_files.Reading
) -> Iterator[tuple[int, bytes | None]]:
    """Resizes images in threads, some ahead of what is asked for, in order."""
    if image_size is None:
        yield from images
        return

    reading = reading._replace(max_megapixels=math.inf)

    def one(row: tuple[int, bytes | None]) -> tuple[int, bytes | None]:
        index, content = row
        try:
            return index, None if content is None else _smaller(content, image_size, reading)
        except Exception:  # Pillow raises many types on broken files
            return index, None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        pending: list = []
        for row in images:
            pending.append(pool.submit(one, row))
            if len(pending) >= _AT_ONCE:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()


def _smaller(content: bytes, image_size: int, reading: image_files.Reading) -> bytes:
    """Returns an image as JPEG with the shorter side of this length; as it is if it is shorter."""
    header = image_files.header_of_bytes(content, reading)
    if isinstance(header, image_files.Header) and min(header[1:3]) <= image_size:
        return content
    image = Image.fromarray(image_files.read_rgb(content, reading))
    shorter = min(image.size)
    size = tuple(max(image_size, side * image_size // shorter) for side in image.size)
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


# Formats -----------------------------------------------------------------------------------------


class _Tar:
    def __init__(self, path: Path, source: Source):
        del source
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, content: bytes, label: int) -> None:
        self._member(name, content)
        if label >= 0:
            self._member(f"{name.rpartition('.')[0]}.cls", str(label).encode())

    def _member(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))

    def close(self) -> None:
        self._tar.close()


class _TFRecord:
    def __init__(self, path: Path, source: Source):
        import tensorflow as tf

        self._tf, self._class_names = tf, source.class_names
        self._writer = tf.io.TFRecordWriter(str(path))

    def add(self, name: str, content: bytes, label: int) -> None:
        train = self._tf.train
        texts = {
            "image/encoded": content,
            "image/format": (sniff(content[:HEAD_BYTES]) or "").encode(),
            "image/filename": os.fsencode(name),
        }
        if label >= 0 and self._class_names is not None:
            texts["image/class/text"] = self._class_names[label].encode()
        features = {
            key: train.Feature(bytes_list=train.BytesList(value=[value]))
            for key, value in texts.items()
        }
        if label >= 0:
            features["image/class/label"] = train.Feature(int64_list=train.Int64List(value=[label]))
        example = train.Example(features=train.Features(feature=features))
        self._writer.write(example.SerializeToString())

    def close(self) -> None:
        self._writer.close()


class _Parquet:
    def __init__(self, path: Path, source: Source):
        import pyarrow.parquet as pq

        self._labelled = source.labels is not None
        names = None if source.class_names is None else list(source.class_names)
        self._schema = parquet.schema_of(names, self._labelled)
        # (Images are compressed already.)
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="none", use_dictionary=["label"]
        )
        self._rows: list[dict[str, Any]] = []

    def add(self, name: str, content: bytes, label: int) -> None:
        row: dict[str, Any] = {"image": {"bytes": content, "path": file_name_to_text(name)}}
        if self._labelled:
            row["label"] = label
        self._rows.append(row)
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


_WRITERS = {"tar": _Tar, "tfrecord": _TFRecord, "parquet": _Parquet}
