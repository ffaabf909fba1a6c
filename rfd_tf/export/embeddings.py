"""The embeddings of a whole folder, in parts: within little memory, and resumed after a kill."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rfd_tf.data import given
from rfd_tf.data.base import Source
from rfd_tf.data.file_list import ALL
from rfd_tf.data.image_files import (
    MAX_MEGAPIXELS,
    ColorProfile,
    HighBitDepth,
    read_rgb,
    reason_of,
)
from rfd_tf.data.remote.cache import CACHE_GB
from rfd_tf.errors import UNREADABLE_NPZ, UserError, chosen
from rfd_tf.evaluation.files import folder as made
from rfd_tf.evaluation.files import write_json, write_text
from rfd_tf.export.embedders import Embedder
from rfd_tf.paths import expanded, replacing
from rfd_tf.text import file_name_to_text
from rfd_tf.training.folder_lock import NAME, FolderLock

_log = logging.getLogger("rfd_tf")
FORMATS = ("parquet", "npy")
PARQUET_FILE, NAMES_FILE = "embeddings.parquet", "file_names.json"
SKIPPED_FILE, REPORT_FILE = "skipped_files.txt", "embeddings.json"
PARTS, IDENTITY_FILE = "parts", "identity.json"
#: Images in a part: what a kill can cost, and what is held in memory.
PART_IMAGES = 4096


def embed_folder(
    embedder: Embedder,
    directory: str | os.PathLike | Sequence[str | os.PathLike] | Source,
    output_dir: str | os.PathLike,
    formats: Iterable[str] = FORMATS,
    *,
    data_root: str | os.PathLike | None = None,
    split: str = ALL,
    batch_size: int = 64,
    part_images: int = PART_IMAGES,
    max_megapixels: float = MAX_MEGAPIXELS,
    high_bit_depth: HighBitDepth = "stretch",
    color_profile: ColorProfile = "ignore",
    cache_dir: str | os.PathLike | None = None,
    cache_gb: float = CACHE_GB,
    overwrite: bool = False,
    progress: bool = False,
    make_parts: Callable[[Parts, list[int]], int] | None = None,
) -> dict[str, Any]:
    """Writes the embeddings of all images in a folder and those below it, or in a list.

    Images are decoded and brought to size as the library's evaluation does it; those that cannot be
    decoded are listed, not fatal. Memory holds one part of the embeddings and the names. A call
    that was killed resumes when repeated: finished parts are in `parts/` until the end.

    Written are, in the order of the index, only images that could be decoded:

    - `embeddings.parquet`: a row an image: `file` (relative name, or the index where images are no
      files), and each feature as a list of float32 of fixed size.
    - `FEATURE.npy` for each feature, float32 `[N, D]`, and `file_names.json`: the rows' names.
    - `skipped_files.txt`: a line for each image left out: name, tab, reason.
    - `embeddings.json`: the report that is returned. Where it is, all is complete.

    Names that are no UTF-8 are written with escapes, in `skipped_files.txt` also those that would
    break the line; `rfd_tf.text.file_name_from_text` gives the name to open the file by.

    Args:
        embedder: of `rfd_tf.export.keras_embedder` or `onnx_embedder`.
        directory: the images: a folder, several or a list, see `rfd_tf.data.load`; or a source.
        output_dir: where to write.
        formats: `"parquet"`, `"npy"`, or both.
        data_root, split: of a list, see `rfd_tf.data.image_list`.
        batch_size: images a step.
        part_images: images a part.
        max_megapixels, high_bit_depth, color_profile: see `rfd_tf.data.image_folder`.
        cache_dir, cache_gb: see `rfd_tf.data.load`.
        overwrite: replace other embeddings in `output_dir`.
        progress: whether to show a bar with images a second.
        make_parts: writes the missing parts in place of this process, and returns how many images
            it embedded; see `rfd_tf.export.beam`.

    Returns:
        `images` (embedded), `skipped` (left out), `dimensions` of each feature, `identity` (of
        network and images), `files`; and of this call `embedded_now`, `seconds` and
        `images_per_second`.

    Raises:
        UserError: an unknown format, a folder without images, an output folder that holds something
            else or cannot be written, a missing package.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (20, 30), "red").save(folder / "red.png")
    >>> mean = Embedder(8, {"features": ["mean"]}, lambda x: {"mean": x.mean((1, 2), "float32")})
    >>> embed_folder(mean, folder, folder / "out", "npy")["dimensions"]
    {'mean': 3}
    >>> np.load(folder / "out" / "mean.npy").tolist()
    [[255.0, 0.0, 0.0]]
    """
    formats = _checked_formats(formats)
    for name, value in (("batch_size", batch_size), ("part_images", part_images)):
        if value < 1:
            raise UserError(f"{name} must be 1 or more, got {value}")
    output = expanded(output_dir)
    _check_output(output)
    source = directory
    if not isinstance(source, Source):
        (place,) = given.place_of(directory).values()
        # (Headers alone: decoding everything twice would double the time.)
        source = listed(
            place,
            output,
            data_root=data_root,
            split=split,
            max_megapixels=max_megapixels,
            high_bit_depth=high_bit_depth,
            color_profile=color_profile,
            cache_dir=cache_dir,
            cache_gb=cache_gb,
        )
    if progress:
        _log.info(source.summary())
    identity = {
        **embedder.identity,
        "images_fingerprint": source.fingerprint,
        "part_images": part_images,
        "formats": list(formats),
    }
    if _complete(output, identity):
        report = json.loads((output / REPORT_FILE).read_text(encoding="utf-8"))
        return {**report, "embedded_now": 0, "seconds": 0.0, "images_per_second": None}
    with _writing(output), FolderLock(made(output), doing="writes embeddings to"):
        parts = Parts(made(output) / PARTS, identity, source.num_images, part_images)
        _start(output, parts, overwrite)
        started = time.monotonic()
        if make_parts is None:
            count = embed_parts(embedder, source, parts, parts.missing(), batch_size, progress)
        else:
            count = make_parts(parts, parts.missing())
        seconds = time.monotonic() - started
        report = _assemble(output, parts, source, formats, identity)
        write_json(output / REPORT_FILE, report)
        shutil.rmtree(parts.folder)
    rate = count / seconds if count else None
    return {**report, "embedded_now": count, "seconds": seconds, "images_per_second": rate}


def listed(place: Any, output: Path, **options: Any) -> Source:
    """Returns the images to embed, checked by their headers alone; options as `embed_folder`'s."""
    return given.read(
        place, max_skipped=1.0, verify="header", cache_bytes=0, leave_out=[output], **options
    )


class Parts:
    """Finished stretches of the index on disk: part k has the images from k * size on."""

    def __init__(self, folder: Path, identity: dict[str, Any], num_images: int, size: int):
        self.folder, self.identity, self.size = folder, identity, size
        self.count = -(-num_images // size)
        self._num_images = num_images

    def path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.npz"

    def rows(self, part: int) -> np.ndarray:
        """The indices that belong to a part."""
        return np.arange(part * self.size, min((part + 1) * self.size, self._num_images))

    def write(
        self, part: int, index: np.ndarray, vectors: dict[str, np.ndarray], skipped: list
    ) -> None:
        text = np.frombuffer(json.dumps(skipped).encode(), np.uint8)
        with replacing(self.path(part)) as writing, open(writing, "wb") as file:
            named = {f"feature_{name}": values for name, values in vectors.items()}
            np.savez(file, index=index, skipped=text, **named)
            file.flush()
            os.fsync(file.fileno())

    def read(self, part: int) -> tuple[np.ndarray, dict[str, np.ndarray], list] | None:
        """Index, vectors and what was left out of a part; None where it is missing or damaged."""
        try:
            # (A zip file has checksums: what is damaged raises.)
            with np.load(self.path(part), allow_pickle=False) as file:
                skipped = json.loads(file["skipped"].tobytes())
                start = len("feature_")
                vectors = {
                    name[start:]: file[name] for name in file.files if name.startswith("feature_")
                }
                return file["index"], vectors, skipped
        except UNREADABLE_NPZ:
            return None

    def missing(self) -> list[int]:
        """The parts that are still to be made."""
        return [part for part in range(self.count) if self.read(part) is None]

    def all(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], list]]:
        for part in range(self.count):
            found = self.read(part)
            if found is None:
                raise UserError(f"'{self.path(part)}' cannot be read: run the same command again")
            yield found


def embed_parts(
    embedder: Embedder,
    source: Source,
    parts: Parts,
    wanted: Sequence[int],
    batch_size: int,
    progress: bool = False,
) -> int:
    """Makes parts; returns how many images that took.

    Args:
        embedder, source, batch_size, progress: see `embed_folder`.
        parts: where they are written.
        wanted: their numbers, in order.
    """
    from rfd_tf.data.pipeline import evaluation_dataset
    from rfd_tf.progress import tqdm

    if not wanted:
        return 0
    wanted = list(wanted)
    missing = np.concatenate([parts.rows(part) for part in wanted])
    batches = evaluation_dataset(
        source, image_size=embedder.image_size, batch_size=batch_size, indices=missing
    )
    gathered: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    embedded = 0
    bar = tqdm(
        total=source.num_images,
        initial=source.num_images - len(missing),
        desc="Embedding",
        unit="img",
        disable=None if progress else True,
    )
    with bar:
        for batch in batches.as_numpy_iterator():
            index = batch["index"]
            gathered.append((index, embedder.embed(batch["image"])))
            embedded += len(index)
            bar.update(len(index))
            # Images come in order: all below the last one are complete.
            while wanted and (wanted[0] + 1) * parts.size <= index[-1]:
                gathered, more = _finish_part(embedder, source, parts, wanted.pop(0), gathered)
                embedded += more
        for part in wanted:
            gathered, more = _finish_part(embedder, source, parts, part, gathered)
            embedded += more
    return embedded


def _finish_part(
    embedder: Embedder,
    source: Source,
    parts: Parts,
    part: int,
    gathered: list[tuple[np.ndarray, dict[str, np.ndarray]]],
) -> tuple[list[tuple[np.ndarray, dict[str, np.ndarray]]], int]:
    """Writes a part of what was gathered; returns the rest, and how many images came late."""
    rows = parts.rows(part)
    names = embedder.identity["features"]
    index = np.concatenate([each for each, _ in gathered] or [np.arange(0)])
    vectors = {
        name: np.concatenate([each[name] for _, each in gathered]) if gathered else None
        for name in names
    }
    inside = index <= rows[-1]
    kept = {name: values[inside] for name, values in vectors.items() if values is not None}
    found, rescued, skipped = index[inside], [], []
    for row in np.setdiff1d(rows, found).tolist():
        if source.files is None:
            skipped.append([_name(source, row), "cannot be decoded"])
            continue
        # A second opinion before an image is given up: Pillow reads some that TensorFlow cannot.
        try:
            pixels = _by_pillow(source, row, embedder.image_size)
        except Exception as error:  # Pillow raises many types on broken files
            skipped.append([_name(source, row), reason_of(error)])
            continue
        rescued.append((row, embedder.embed(pixels)))
    for row, embedded in rescued:
        found = np.append(found, row)
        kept = {
            name: np.concatenate([kept[name], embedded[name]]) if name in kept else embedded[name]
            for name in names
        }
    order = np.argsort(found, kind="stable")
    parts.write(part, found[order], {k: v[order] for k, v in kept.items()}, skipped)
    rest = {name: values[~inside] for name, values in vectors.items() if values is not None}
    return [(index[~inside], rest)] if (~inside).any() else [], len(rescued)


def _name(source: Source, row: int) -> str:
    """An image's name in one line; its index where it has none."""
    if source.files is None:
        return source.names[row] if source.names is not None else str(row)
    return file_name_to_text(source.files[1][row], one_line=True)


def _by_pillow(source: Source, row: int, size: int) -> np.ndarray:
    import tensorflow as tf

    from rfd_tf.data.decode import evaluation_transform

    folder, names = source.files
    reading = source.reading._replace(max_megapixels=math.inf)
    pixels = read_rgb(os.path.join(folder, names[row]), reading)
    return evaluation_transform(tf.constant(pixels), size).numpy()[None]


def _assemble(
    output: Path,
    parts: Parts,
    source: Source,
    formats: tuple[str, ...],
    identity: dict[str, Any],
) -> dict[str, Any]:
    """Makes the files of the parts, one part in memory at a time."""
    count, dimensions, skipped = 0, {}, list(source.skipped)
    for index, vectors, left_out in parts.all():
        count += len(index)
        dimensions.update({name: values.shape[1] for name, values in vectors.items()})
        skipped += [tuple(entry) for entry in left_out]
    with write_text(output / SKIPPED_FILE) as file:
        for name, reason in sorted(skipped):
            file.write(f"{name}\t{_one_line(reason)}\n")
    if not count:
        raise UserError(
            f"none of the {source.num_images} images in "
            f"'{source.files[0] if source.files else source.name}' can be decoded; "
            f"reasons are in '{output / SKIPPED_FILE}'"
        )
    files = [SKIPPED_FILE]
    names = source.names or [str(row) for row in range(source.num_images)]
    if "parquet" in formats:
        _write_parquet(output / PARQUET_FILE, parts, names, dimensions, identity)
        files.append(PARQUET_FILE)
    if "npy" in formats:
        files += _write_npy(output, parts, names, dimensions, count)
    return {
        "images": count,
        "skipped": len(skipped),
        "dimensions": dimensions,
        "identity": identity,
        "files": files,
    }


def _write_parquet(
    path: Path, parts: Parts, names: list[str], dimensions: dict[str, int], identity: dict
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    fields = [pa.field("file", pa.string())]
    fields += [pa.field(name, pa.list_(pa.float32(), size)) for name, size in dimensions.items()]
    schema = pa.schema(fields, metadata={"rfd_tf": json.dumps(identity)})
    with replacing(path) as writing, parquet.ParquetWriter(writing, schema) as writer:
        for index, vectors, _ in parts.all():
            if not len(index):
                continue
            columns = [pa.array([names[row] for row in index], pa.string())]
            columns += [
                pa.FixedSizeListArray.from_arrays(pa.array(vectors[name].ravel()), size)
                for name, size in dimensions.items()
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _write_npy(
    output: Path, parts: Parts, names: list[str], dimensions: dict[str, int], count: int
) -> list[str]:
    written = []
    for name, size in dimensions.items():
        path = output / f"{name}.npy"
        with replacing(path) as writing:
            rows = np.lib.format.open_memmap(writing, "w+", np.float32, (count, size))
            start = 0
            for index, vectors, _ in parts.all():
                rows[start : start + len(index)] = vectors.get(name, np.zeros((0, size)))
                start += len(index)
            rows.flush()
        written.append(path.name)
    with write_text(output / NAMES_FILE) as file:
        separator = "[\n"
        for index, _, _ in parts.all():
            for row in index:
                file.write(f"{separator}{json.dumps(names[row], ensure_ascii=False)}")
                separator = ",\n"
        file.write("\n]\n")
    return [*written, NAMES_FILE]


def _checked_formats(formats: Iterable[str]) -> tuple[str, ...]:
    wanted = chosen("embeddings format", formats, FORMATS)
    if not wanted:
        raise UserError(f"no format asked for; options: {', '.join(FORMATS)}")
    if "parquet" in wanted:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"Parquet needs the package 'pyarrow' ({error}); pip install pyarrow, or ask for "
                "npy alone"
            ) from error
    return wanted


def _complete(output: Path, identity: dict[str, Any]) -> bool:
    try:
        report = json.loads((output / REPORT_FILE).read_text(encoding="utf-8"))
        present = all((output / name).is_file() for name in report["files"])
        return report["identity"] == identity and present
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_output(output: Path) -> None:
    """Tells before any work that the output folder holds other things than embeddings."""
    if output.exists() and not output.is_dir():
        raise UserError(f"output folder '{output}' is a file; give another --output_dir")
    taken = sorted(entry.name for entry in output.iterdir()) if output.exists() else []
    taken = [name for name in taken if name != NAME]
    ours = {REPORT_FILE, PARTS}
    if taken and not ours & set(taken):
        raise UserError(
            f"output folder '{output}' holds other files ({taken[0]}, ...); give another "
            "--output_dir"
        )


def _start(output: Path, parts: Parts, overwrite: bool) -> None:
    """Makes ready for the parts: those of an earlier call of the same kind are kept."""
    known = None
    for path, key in ((parts.folder / IDENTITY_FILE, None), (output / REPORT_FILE, "identity")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            read = json.loads(path.read_text(encoding="utf-8"))
            known = read[key] if key else read
            break
    if known is not None and known != parts.identity and not overwrite:
        other = [key for key, value in parts.identity.items() if known.get(key) != value]
        raise UserError(
            f"'{output}' holds embeddings of another kind (other {', '.join(other)}); give another "
            "--output_dir, or --overwrite to replace them (the ones there are deleted)"
        )
    if known != parts.identity:
        shutil.rmtree(parts.folder, ignore_errors=True)
    # The report goes first: none may stand beside files that it does not describe.
    replaced = _written(output)
    (output / REPORT_FILE).unlink(missing_ok=True)
    for name in replaced:
        (output / name).unlink(missing_ok=True)
    parts.folder.mkdir(exist_ok=True)
    for path in parts.folder.glob(".*.part-*"):
        path.unlink()  # begun by a call that was killed
    write_json(parts.folder / IDENTITY_FILE, parts.identity)


def _written(output: Path) -> list[str]:
    """The names of the files that an earlier call wrote, as its report has them."""
    try:
        names = json.loads((output / REPORT_FILE).read_text(encoding="utf-8"))["files"]
        # (Names alone: a report that was tampered with reaches nothing outside.)
        return [name for name in names if isinstance(name, str) and Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError):
        return []


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to '{output}': {error.strerror or error}; what is finished stays, and "
            "the same command resumes from there"
        ) from error


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).replace("\t", " ")
