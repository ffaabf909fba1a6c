"""Finds and checks the images of a folder, as a source for the pipeline."""

from __future__ import annotations

import collections
import errno
import functools
import hashlib
import itertools
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rfd_tf.data import class_folders, image_files, results_folders
from rfd_tf.data.base import ArraySource, PartMixin, Source, fingerprint
from rfd_tf.data.image_files import USUAL, ColorProfile, Header, HighBitDepth, Reading
from rfd_tf.errors import UserError, shown, unknown
from rfd_tf.paths import LISTS, absolute, expanded
from rfd_tf.text import file_name_to_text

if TYPE_CHECKING:
    import tensorflow as tf

    from rfd_tf.data.recipe import Recipe

_log = logging.getLogger("rfd_tf")
_FULL_CHECK_LIMIT = 200_000
_CACHED_SIDE = 256  # larger images stay on disk, however few they are
_NAMED = 10
_REASONS = 5
_PROGRESS_FROM = 2000
_CHUNK = 64
_BLOCK = 4096
_MOST_WAYS = 64
_QUICK = 50e-6  # seconds


class FolderSource(Source):
    """Image files that are read and decoded during training. Created by `image_folder`.

    Attributes:
        directory: the folder.
        paths: bytes `[N]`, the file to decode per index.
        kinds: int32 `[N]`, see `image_files`.
        sizes: int32 `[N, 2]`, height and width as decoded.
        orientations: int32 `[N]`, EXIF orientations 1 to 8; None if all are 1.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = tempfile.mkdtemp()
    >>> for number in range(2):
    ...     image = Image.fromarray(np.full((20, 30, 3), 99 * number, np.uint8))
    ...     image.save(f"{folder}/{number}.png")
    >>> source = image_folder(folder, cache_bytes=0)
    >>> source.names, source.sizes.tolist()
    (['0.png', '1.png'], [[20, 30], [20, 30]])
    """

    def __init__(
        self,
        directory: str,
        paths: Sequence[bytes],
        headers: Sequence[Header],
        **described: Any,
    ):
        super().__init__(num_images=len(paths), **described)
        self.directory = directory
        self.paths = paths
        # (Passing flat numbers takes NumPy half the time and a fraction of the memory.)
        flat = itertools.chain.from_iterable(headers)
        table = np.fromiter(flat, np.int32, 4 * len(headers)).reshape(-1, 4)
        self.kinds = np.ascontiguousarray(table[:, 0])
        self.sizes = np.ascontiguousarray(table[:, 1:3])
        self.orientations = np.ascontiguousarray(table[:, 3]) if (table[:, 3] != 1).any() else None

    def _why(self, index: int) -> str:
        path = os.fsdecode(self.paths[index])
        reading = self.reading._replace(max_megapixels=math.inf)
        return image_files.problem_of(lambda: image_files.read_rgb(path, reading))

    def training_steps(self, recipe: Recipe) -> tf.data.Dataset:
        from rfd_tf.data import streams

        return streams.train_on_files(self, recipe)

    def evaluation_pass(
        self,
        image_size: int,
        batch_size: int,
        indices: np.ndarray | None,
        transform: Callable[..., tf.Tensor],
    ) -> tf.data.Dataset:
        from rfd_tf.data import streams

        return streams.evaluate_files(self, image_size, batch_size, indices, transform)

    def _part(self, indices: np.ndarray, **described: Any) -> FolderSource:
        return _FolderPart(self, indices, labels=self._labels_at(indices), **described)


class _FolderPart(PartMixin, FolderSource):
    def __init__(self, whole: FolderSource, indices: np.ndarray, **described: Any):
        turned = whole.orientations
        headers = np.column_stack(
            [
                whole.kinds[indices],
                whole.sizes[indices],
                np.ones(len(indices), np.int32) if turned is None else turned[indices],
            ]
        )
        super().__init__(whole.directory, [whole.paths[i] for i in indices], headers, **described)
        self.whole, self.indices, self.reading = whole, indices, whole.reading


def image_folder(
    directory: str | os.PathLike | Sequence[str | os.PathLike],
    max_skipped: float = 0.01,
    verify: str = "auto",
    cache_bytes: int = 1 << 30,
    leave_out: Iterable[str | os.PathLike] = (),
    max_megapixels: float = image_files.MAX_MEGAPIXELS,
    high_bit_depth: HighBitDepth = "stretch",
    color_profile: ColorProfile = "ignore",
) -> Source:
    """Returns the images in a folder and the folders below it; or those of several folders.

    Reads JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000 and PPM (the first of several frames or
    pages), and HEIC if pillow-heif is installed. Formats are detected from the content. Grey,
    palette, CMYK, transparent and deeper images (16-bit, floating point) are converted to RGB of 8
    bits, transparency over white. The EXIF orientation is applied. Names that begin with a dot and
    files that are no images are ignored; so are the folders of systems and file servers: thumbnails
    (`@eaDir`, `Thumbs`), recycle bins (`$RECYCLE.BIN`, `#recycle`), `__MACOSX`, `lost+found` and
    others. A warning counts them. The index follows the sorted relative names of the readable
    images.

    If images lie in two or more sub-folders, the name of the sub-folder directly in `directory` is
    an image's label (used for evaluation only). An image next to these folders is labelled -1:
    training uses it, evaluation does not, and a warning names it. If half of the images or more
    are next to the folders, there are no labels. Names of classes that differ in Unicode form only
    are one class. A warning names folders that are splits (`train`, `test`) and not classes.

    Images that are damaged or of another format (SVG, PSD, camera RAW ...) are skipped and listed
    in the source's `skipped`. Folders with results of this package, such as a run's, are ignored,
    with a warning that names them.

    Several folders are one set: the index follows their order, sub-folders of the same name are the
    same class, and image names are relative to the folders' common parent.

    Args:
        directory: the folder, or a sequence of folders.
        max_skipped: the largest fraction of undecodable images to accept, 0 to 1.
        verify: `"full"` decodes every image once beforehand; `"header"` reads only the headers;
            `"auto"` is full for up to 200,000 images. With more, training starts at once, and
            undecodable images are skipped during training.
        cache_bytes: images of one common size, no side above 256, that are all decoded
            beforehand are kept in memory if they take no more than this. 0 turns it off.
        leave_out: further folders to ignore, such as the one that results will be written to.
        max_megapixels: larger images are skipped, before they are decoded. The largest are
            decoded one at a time, using about seven bytes per pixel.
        high_bit_depth: how grey images of more than 8 bits are converted. `"stretch"` maps the 0.1
            and the 99.9 percentile of each image's values to 0 and 255. `"truncate"` keeps the
            upper 8 of 16 bits, and skips 32-bit integers and floating point.
        color_profile: `"srgb"` converts images with a colour profile (ICC) to sRGB, decoding them
            with Pillow; `"ignore"` takes their pixels as they are.

    Returns:
        An `ArraySource` if the images are kept in memory, else a `FolderSource`.

    Raises:
        UserError: a folder does not exist, is not a folder, cannot be read, contains no images, is
            in `leave_out` itself or inside another one; or more than `max_skipped` of the images
            are undecodable.

    >>> image_folder("no/such/folder")
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: no such folder: 'no/such/folder'; give data_dir an existing folder
    """
    given = [directory] if isinstance(directory, str | os.PathLike) else directory
    paths = [os.fspath(expanded(path)) for path in given]
    check_options(max_skipped, verify)
    scans = [_scan(path, leave_out) for path in paths]
    folders = Folders.of(paths, [len(scan.files) for scan in scans])
    files = scans[0].files
    if len(scans) > 1:
        files = [
            (f"{below}/{name}", size)
            for below, scan in zip(folders.below, scans, strict=True)
            for name, size in scan.files
        ]
    source = read_files(
        folders.common,
        files,
        max_skipped,
        verify,
        cache_bytes,
        Reading(max_megapixels, high_bit_depth, color_profile),
        folders=folders,
    )
    for root, scan, names in zip(
        folders.roots(), scans, folders.names_by_folder(source.files[1]), strict=True
    ):
        for remark in (
            class_folders.passed_over(root, scan.system_folders, scan.hidden_pictures),
            class_folders.about_splits(root, scan.splits, names),
        ):
            if remark:
                warnings.warn(remark, stacklevel=2)
    return source


class Folders(NamedTuple):
    """Folders whose files form one set.

    Attributes:
        common: the folder that names are relative to: a single folder itself, or the common parent
            of several.
        below: the path of each folder relative to `common`; `""` for a single one.
        counts: number of files in each folder.

    >>> folders = Folders.of(["/photos/a", "/photos/more/b"], [1, 2])
    >>> folders.common, folders.below, folders.owners().tolist()
    ('/photos', ('a', 'more/b'), [0, 1, 1])
    """

    common: str
    below: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, paths: Sequence[str], counts: Sequence[int]) -> Folders:
        """Returns the folders at these paths, in their order.

        Raises:
            UserError: no folder, or one inside another one, whose images would count twice.
        """
        if not paths:
            raise UserError("no folder was given; give --data_dir an existing folder")
        roots = [os.fspath(absolute(path)) for path in paths]
        if len(roots) == 1:
            return cls(roots[0], ("",), tuple(counts))
        forms = [
            (os.path.join(root, ""), os.path.join(os.path.realpath(root), "")) for root in roots
        ]
        for (one, inner), (other, outer) in itertools.permutations(
            zip(paths, forms, strict=True), 2
        ):
            if any(map(str.startswith, inner, outer)):
                raise UserError(
                    f"the folder '{one}' is '{other}' or inside it: its images would count twice; "
                    "give each folder once"
                )
        common = os.path.commonpath(roots)
        return cls(common, tuple(os.path.relpath(root, common) for root in roots), tuple(counts))

    def roots(self) -> list[str]:
        """The folders' paths."""
        return [os.path.join(self.common, below) if below else self.common for below in self.below]

    def owners(self) -> np.ndarray:
        """The index of each file's folder, int64."""
        return np.repeat(np.arange(len(self.below)), self.counts)

    def inside(self, name: str, owner: int) -> str:
        """A name relative to its own folder."""
        below = self.below[owner]
        return name[len(below) + 1 :] if below else name

    def names_by_folder(self, names: Sequence[str]) -> list[list[str]]:
        """The names of each folder's files, relative to the folder."""
        if len(self.below) == 1:
            return [list(names)]
        return [
            [name[len(below) + 1 :] for name in names if name.startswith(f"{below}/")]
            for below in self.below
        ]


def visible_files(directory: str | os.PathLike) -> list[str]:
    """Returns the relative names of the files that `image_folder` checks, sorted.

    Raises:
        UserError: the folder does not exist, is not a folder or cannot be read.
    """
    return [name for name, _ in _scan(os.fspath(expanded(directory))).files]


def read_files(
    root: str,
    files: Sequence[tuple[str, int | str]],
    max_skipped: float = 0.01,
    verify: str = "auto",
    cache_bytes: int = 1 << 30,
    reading: Reading = USUAL,
    listed: str | None = None,
    folders: Folders | None = None,
    **described: Any,
) -> Source:
    """Creates a source from named files; for other arguments and errors see `image_folder`.

    Args:
        root: the folder that the names are relative to.
        files: `(name, bytes)` of each file, in the order of the index; `(name, reason)` to skip
            one, whatever its content.
        reading: how they are read.
        listed: path of the list that names the files, if any. A file that is no image then counts
            as unreadable; without a list it is ignored.
        folders: the folders of the files, if there are several.
        **described: "name" of the source, and "labels" int64 `[len(files)]` with "class_names", if
            these do not follow from the folders.
    """
    check_options(max_skipped, verify, reading)
    with warnings.catch_warnings():
        # Pillow's own warnings are noise: such files are either read or listed.
        warnings.filterwarnings("ignore", module=r"PIL\b")
        folders = folders or Folders(root, ("",), (len(files),))
        found = _Found(folders, files, reading, listed)
        few = len(found.names) <= _FULL_CHECK_LIMIT
        full = verify == "full" or (verify == "auto" and few)
        pixels = found.check(found.fit(cache_bytes)) if full else None
    return found.source(max_skipped, pixels, **described)


def check_options(max_skipped: float, verify: str, reading: Reading = USUAL) -> None:
    """Raises `UserError` for values of these arguments of `image_folder` that are out of range."""
    if verify not in ("auto", "full", "header"):
        raise unknown("verify", verify, ("auto", "full", "header"))
    if not 0.0 <= max_skipped <= 1.0:
        raise UserError(f"max_skipped is a fraction from 0 to 1, got {max_skipped}")
    reading.check()


class _Scan(NamedTuple):
    """The content of a folder and its sub-folders: relative names with slashes.

    Attributes:
        files: `(name, bytes)` of every visible file, sorted by name.
        system_folders: ignored folders.
        hidden_pictures: hidden files with an image extension, such as `._a.jpg` of macOS.
        splits: folder -> the folders in it, if they look like splits of a dataset.
    """

    files: list[tuple[str, int]]
    system_folders: list[str]
    hidden_pictures: list[str]
    splits: dict[str, list[str]]


def _scan(root: str, leave_out: Iterable[str | os.PathLike] = ()) -> _Scan:
    """Returns the content of a folder, including folders that are links."""
    if not os.path.exists(root):
        raise UserError(f"no such folder: '{root}'; give --data_dir an existing folder")
    if not os.path.isdir(root):
        raise UserError(
            f"not a folder: '{root}'; give --data_dir the folder of the images (unpack archives "
            f"such as .zip), a list of them ({', '.join(f'*{suffix}' for suffix in LISTS)}) or "
            "shards (*.tar, *.tfrecord, *.parquet)"
        )
    files: list[tuple[str, int]] = []
    results = results_folders.identities(root, leave_out)
    left_out: list[str] = []
    system: list[str] = []
    hidden: list[str] = []
    splits: dict[str, list[str]] = {}
    # Each folder is stored with its real parent folders: a link back to one of them is a loop.
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    ways: collections.Counter[tuple[int, int]] = collections.Counter()
    while pending:
        below, above = pending.pop()
        path = os.path.join(root, below)
        try:
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            # Folders full of links to each other can be reached in exponentially many ways.
            ways[identity] += 1
            if ways[identity] > _MOST_WAYS:
                raise UserError(
                    f"links lead to the folder '{shown(path)}' in more than {_MOST_WAYS} ways; "
                    "remove those that go round in circles"
                )
            folders = []
            with os.scandir(path) as entries:
                entries = list(entries)
                names = {entry.name for entry in entries}
                if below and (identity in results or results_folders.holds_results(path, names)):
                    if names:
                        left_out.append(below)
                    continue
                for entry in entries:
                    name = f"{below}/{entry.name}" if below else entry.name
                    if entry.name.startswith(".") and not _is_folder(entry):
                        if image_files.has_image_extension(name):
                            hidden.append(name)
                    elif _is_folder(entry):
                        if class_folders.is_system_folder(entry.name):
                            system.append(name)
                        else:
                            folders.append(entry.name)
                            pending.append((name, above | {identity}))
                    elif not entry.is_symlink():
                        if entry.is_file():
                            files.append((name, entry.stat().st_size))
                    elif os.path.isfile(entry.path):
                        files.append((name, os.stat(entry.path).st_size))
                    elif image_files.has_image_extension(name):
                        files.append((name, 0))  # a broken link: reported, not ignored
            if class_folders.are_splits(folders):
                splits[below] = folders
        except OSError as error:
            raise UserError(f"cannot read folder '{shown(path)}': {error.strerror}") from None
    results_folders.report(root, left_out)
    return _Scan(sorted(files), system, hidden, splits)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link to itself


def progress(total: int, what: str, unit: str = " images", least: int = _PROGRESS_FROM) -> Any:
    """Returns a progress bar, which is shown from `least` on."""
    from rfd_tf.progress import tqdm

    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        file=sys.stderr,
        leave=False,
        disable=True if total < least else None,
    )


def in_threads(work: Callable, items: Sequence, what: str) -> list:
    """Maps `work` over the items in threads, in order, with a progress bar if there are many."""
    results: list = []
    # Threads help most on slow storage, hence more threads than cores. Work of microseconds is
    # faster without threads, so each block begins with a trial.
    workers = min(16, 2 * (os.cpu_count() or 1) + 2)
    with ThreadPoolExecutor(workers) as pool, progress(len(items), what) as bar:

        def some(start: int) -> list:
            return [work(item) for item in items[start : start + _CHUNK]]

        for block in range(0, len(items), _BLOCK):
            starts = range(block, min(block + _BLOCK, len(items)), _CHUNK)
            began = time.perf_counter()
            first = some(block)
            quick = time.perf_counter() - began < _QUICK * len(first)
            for chunk in (first, *(map if quick else pool.map)(some, starts[1:])):
                results.extend(chunk)
                bar.update(len(chunk))
    return results


def fit(headers: Sequence[Header], cache_bytes: int) -> bool:
    """Returns whether images with these headers can be kept in memory as one array."""
    shapes = {header[1:] for header in headers}
    if len(shapes) != 1:
        return False
    height, width, orientation = shapes.pop()
    small = len(headers) * height * width * 3 <= cache_bytes
    return small and max(height, width) <= _CACHED_SIDE and orientation == 1


class _Found:
    """The image files of a folder during the checks.

    Attributes:
        positions: which of the files are images, int64.
        names: relative names.
        lengths: of the files, in bytes.
        headers: per image its header, or the reason why it cannot be read.
    """

    def __init__(
        self,
        folders: Folders,
        files: Sequence[tuple[str, int | str]],
        reading: Reading,
        listed: str | None,
    ):
        self.folders, self.root, self.reading = folders, folders.common, reading
        self.where = class_folders.quoted(folders.roots() if listed is None else [listed])

        def read(file: tuple[str, int | str]) -> Header | str | None:
            name, known = file
            if isinstance(known, str):
                return known
            header = image_files.read_header(os.path.join(self.root, name), reading)
            return f"not a {image_files.formats()} file" if listed and header is None else header

        headers = in_threads(read, files, "Reading headers")
        images = [i for i, header in enumerate(headers) if header is not None]
        owners = folders.owners()
        held = np.bincount(owners[images], minlength=len(folders.counts))
        for number, root in enumerate(folders.roots()):
            if held[number]:
                continue
            others = ""
            if folders.counts[number]:
                first = files[int(np.argmax(owners == number))][0]
                name = shown(file_name_to_text(folders.inside(first, number)))
                others = f"; found {folders.counts[number]} other files, such as '{name}'"
            raise UserError(
                f"no images ({image_files.formats()}) in '{root}' or below{others}; give "
                f"--data_dir the folder of the images"
            )
        self.owners = owners[images]
        self.positions = np.array(images)
        self.names = [files[i][0] for i in images]
        self.lengths = [files[i][1] for i in images]
        # Most of a million headers are equal: they share one object.
        same: dict[Header | str, Header | str] = {}
        self.headers: list[Header | str] = [same.setdefault(headers[i], headers[i]) for i in images]

    def path(self, i: int) -> str:
        return os.path.join(self.root, self.names[i])

    def good(self) -> list[int]:
        return [i for i, header in enumerate(self.headers) if isinstance(header, Header)]

    def fit(self, cache_bytes: int) -> bool:
        """Returns whether the images, by their headers, can be kept in memory as one array."""
        return fit([self.headers[i] for i in self.good()], cache_bytes)

    def check(self, keep: bool) -> np.ndarray | None:
        """Decodes all images. If that fails for one, the reason replaces its header.

        Args:
            keep: whether to keep the pixels.

        Returns:
            uint8 `[N, H, W, 3]` of the good images if `keep`, else None.
        """
        tried = self.good()
        if not tried:
            return None
        from rfd_tf.data import check_files

        files = check_files.Files([os.fsencode(self.path(i)) for i in tried])
        headers = [self.headers[i] for i in tried]
        shape = headers[0][1:3] if keep else None
        settled, pixels = check_files.settle(files, headers, shape, progress)
        for i, header in zip(tried, settled, strict=True):
            self.headers[i] = header
        rows = [row for row, header in enumerate(settled) if isinstance(header, Header)]
        return pixels if pixels is None or len(rows) == len(tried) else pixels[rows]

    def source(
        self, max_skipped: float, pixels: np.ndarray | None, **described_otherwise: Any
    ) -> Source:
        """Creates the source of the readable images, unless too many are unreadable.

        Args:
            max_skipped: largest fraction of unreadable images.
            pixels: of the readable images, if they are kept in memory.
            **described_otherwise: "name", and "labels" of all images, readable or not, with
                "class_names", if they do not follow from the folders.
        """
        good = self.good()
        bad = [i for i, header in enumerate(self.headers) if not isinstance(header, Header)]
        skipped = [
            (file_name_to_text(self.names[i], one_line=True), str(self.headers[i])) for i in bad
        ]
        report_skipped(self.where, skipped, len(bad), len(self.names), len(good), max_skipped)
        if "labels" in described_otherwise:
            labels, class_names = described_otherwise.pop("labels"), None
            labels = None if labels is None else labels[self.positions[good]]
        else:
            several = len(self.folders.below) > 1
            inside = self._inside(range(len(self.names))) if several else self.names
            labels, class_names, remark = class_folders.labels_of(
                self.folders.roots(), inside, good
            )
            if remark:
                warnings.warn(remark, stacklevel=2)
        described = {
            "name": ",".join(
                file_name_to_text(Path(root).resolve().name or root)
                for root in self.folders.roots()
            ),
            "labels": labels,
            "class_names": class_names,
            "fingerprint": self._fingerprint(good),
            "skipped": skipped,
            "names": [file_name_to_text(self.names[i]) for i in good],
            **described_otherwise,
        }
        if pixels is not None:
            source = ArraySource(pixels, **described)
        else:
            paths = [os.fsencode(self.path(i)) for i in good]
            source = FolderSource(self.root, paths, [self.headers[i] for i in good], **described)
        source.lengths = [self.lengths[i] for i in good]
        names = [self.names[i] for i in good]
        source.origins = functools.partial(_ids, self.folders, names)
        source.files = self.root, names
        source.reading = self.reading
        log_conversions(self.where, (self.headers[i].kind for i in good))
        return source

    def _inside(self, indices: Iterable[int]) -> list[str]:
        """Returns names relative to the given folder."""
        return [self.folders.inside(self.names[i], self.owners[i]) for i in indices]

    def _fingerprint(self, good: Sequence[int]) -> str:
        """Returns the digest of names and lengths: folders may be moved or mounted elsewhere."""
        # (Images that earlier versions read as they are now keep their digest.)
        converted = image_files.conversions(self.headers[i].kind for i in good)
        if len(self.folders.below) == 1:
            parts = ((self.names[i], self.lengths[i]) for i in good)
            return fingerprint(["folder", *itertools.chain.from_iterable(parts), *converted])
        names = self._inside(good)
        parts = (
            (int(self.owners[i]), name, self.lengths[i])
            for i, name in zip(good, names, strict=True)
        )
        return fingerprint(["folders", *itertools.chain.from_iterable(parts), *converted])


def folder_ids(paths: Iterable[str | os.PathLike]) -> np.ndarray:
    """Returns the ids of all files in folders, images or not; see `Source.image_ids`."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ignored files have been reported before
        for path in paths:
            root = os.fspath(expanded(path))
            found.append(file_ids(root, [name for name, _ in _scan(root).files]))
    return np.concatenate(found)


def _ids(folders: Folders, names: Sequence[str]) -> np.ndarray:
    each = zip(folders.roots(), folders.names_by_folder(names), strict=True)
    return np.concatenate([file_ids(root, inside) for root, inside in each])


def file_ids(root: str, names: Sequence[str]) -> np.ndarray:
    """Returns an id per file: a hash of its path; for a link, of the target's path."""
    base = os.path.realpath(root)
    found = np.empty(len(names), np.uint64)
    for i, name in enumerate(names):
        path = os.path.join(base, name)
        path = os.path.realpath(path) if os.path.islink(path) else path
        found[i] = int.from_bytes(
            hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "little"
        )
    return found


def log_conversions(where: str, kinds: Iterable[int]) -> None:
    """Logs how many images of these kinds have their values converted, if any."""
    if line := image_files.summary_of(kinds):
        _log.info(f"{where}: {line}")


def report_skipped(
    where: str,
    skipped: list[tuple[str, str]],
    lost: int,
    total: int,
    good: int,
    max_skipped: float,
) -> None:
    """Warns of skipped images.

    Args:
        where: where the images are, for the message.
        skipped: name and reason of each.
        lost: number of skipped images; more than the names if a shard stands for its images.
        total: number of all images, including those skipped.
        good: number of remaining images.
        max_skipped: the largest fraction of images that may be skipped.

    Raises:
        UserError: more images than that are skipped.
    """
    if lost > max_skipped * total or not good:
        named = ", ".join(f"{shown(name)} ({reason})" for name, reason in skipped[:_NAMED])
        more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
        way_out = f", or raise --max_skipped (now {max_skipped:g})" if good else ""
        about = "about " if lost > len(skipped) else ""
        raise UserError(
            f"{about}{lost} of {total} images in {where} cannot be decoded: "
            f"{named}{more}; repair, convert or remove them{way_out}"
        )
    if skipped:
        warnings.warn(_left_out(where, skipped, lost, total), stacklevel=3)


def _left_out(where: str, skipped: list[tuple[str, str]], lost: int, total: int) -> str:
    """Returns a line that counts the skipped images by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped:
        by_reason.setdefault(reason, []).append(name)
    most = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    parts = [
        f"{len(names)} ({names[0]}{', ...' if len(names) > 1 else ''}): {reason}"
        for reason, names in most[:_REASONS]
    ]
    if len(most) > _REASONS:
        parts.append(f"{sum(len(names) for _, names in most[_REASONS:])} for other reasons")
    about = "about " if lost > len(skipped) else ""
    return f"{about}{lost} of {total} images in {where} are skipped: {'; '.join(parts)}"
