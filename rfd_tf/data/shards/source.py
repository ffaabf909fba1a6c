"""Shards as a source: listed, checked, and read at random or block by block."""

from __future__ import annotations

import collections
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfd_tf.data import folder, image_files
from rfd_tf.data.base import ArraySource, PartMixin, Source, fingerprint, image_ids
from rfd_tf.data.image_files import ColorProfile, Header, HighBitDepth, Reading
from rfd_tf.data.remote.cache import CACHE_GB, opened
from rfd_tf.data.shards import lister, paths
from rfd_tf.data.shards.listing import Wanted
from rfd_tf.data.shards.names import Labels, Names, class_names_beside
from rfd_tf.data.shards.order import LEAST_BLOCKS, WINDOW_BYTES, BlockOrder
from rfd_tf.data.shards.store import ARROW, READ_AT_ONCE, WHOLE, Block, Places, Store
from rfd_tf.errors import UserError, shown
from rfd_tf.paths import is_address
from rfd_tf.text import file_name_from_text, file_name_to_text

if TYPE_CHECKING:
    import tensorflow as tf

    from rfd_tf.data.recipe import Recipe

_FULL_CHECK_LIMIT = 200_000
_CHECKED_AT_ONCE = 64
#: In headers: not read yet.
UNKNOWN = -1
# Of an image whose header is broken: its bytes are withheld, so that decoding fails.
_UNREADABLE = (image_files.PILLOW, 1, 1, 1)
_ALL_KINDS = (
    image_files.JPEG,
    image_files.PNG,
    image_files.TRANSPARENT_PNG,
    image_files.BMP,
    image_files.WEBP,
    *sorted(image_files.BY_PILLOW),
)


class ShardSource(Source):
    """Images in shards that are read and decoded while training. Made by `shard_source`.

    The index counts the images shard by shard, in the order of the shards' sorted names.

    Attributes:
        shards: paths of the shards.
        order: None where any image can be read at its offset; else what the order of training
            follows from, see `rfd_tf.data.shards.order`.

    >>> import tempfile
    >>> from rfd_tf import data
    >>> from rfd_tf.data import shards
    >>> written = shards.write_shards(data.digits("test"), tempfile.mkdtemp() + "/digits")
    >>> source = shards.shard_source(written, cache_bytes=0)
    >>> source.num_images, len(source.shards), source.labels[:3].tolist()
    (297, 1, [1, 7, 4])
    """

    def __init__(
        self,
        shards: Sequence[str],
        store: Store,
        blocks: np.ndarray,
        offsets: np.ndarray,
        lengths: np.ndarray,
        headers: np.ndarray,
        reading: Reading,
        **described: Any,
    ):
        super().__init__(num_images=len(blocks), **described)
        self.shards = tuple(shards)
        self._store, self.reading = store, reading
        self._blocks, self._offsets, self._lengths = blocks, offsets, lengths
        self._headers = headers
        # (Files that are images are read as those of a folder, wherever they are.)
        fetched = store.places is not None and any(b.packed != WHOLE for b in store.blocks)
        unpacked = any(b.packed not in READ_AT_ONCE for b in store.blocks)
        self.order = BlockOrder(blocks, store) if fetched or unpacked else None

    def fetch(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the encoded images and their headers.

        Args:
            index: int64 `[n]`.

        Returns:
            bytes `[n]`, as an array of objects, empty where an image cannot be read; and int32
            `[n, 4]`: kind, height, width, orientation, see `rfd_tf.data.image_files.Header`.
        """
        rows = (part[index].tolist() for part in (self._blocks, self._offsets, self._lengths))
        contents = self._store.read_many(*rows)
        headers = self._headers[index]
        for place in np.flatnonzero(headers[:, 0] == UNKNOWN):
            header = image_files.header_of_bytes(contents[place], self.reading)
            if isinstance(header, Header):
                headers[place] = self._headers[index[place]] = header
            else:
                headers[place], contents[place] = _UNREADABLE, b""
        return _objects(contents), headers

    def headers_of(self, index: np.ndarray) -> np.ndarray:
        """Returns the headers of images that have been fetched: int32 `[n, 4]`."""
        headers = self._headers[index]
        headers[headers[:, 0] == UNKNOWN] = _UNREADABLE
        return headers

    def occurring(self) -> tuple[tuple[int, ...], bool]:
        """Returns which kinds can occur, and whether an orientation may be other than 1."""
        if (self._headers[:, 0] == UNKNOWN).any():
            return _ALL_KINDS, True
        kinds = tuple(np.unique(self._headers[:, 0]).tolist())
        return kinds, bool((self._headers[:, 3] != 1).any())

    def encoded(self, index: int) -> bytes:
        """Returns the bytes of an image as its shard has them.

        Raises:
            OSError: the shard cannot be read, or has changed.
        """
        row = (self._blocks[index], self._offsets[index], self._lengths[index])
        return self._store.read(*map(int, row))

    def _why(self, index: int) -> str:
        return image_files.problem_of(
            lambda: image_files.read_rgb(self.encoded(index), self.reading)
        )

    def training_steps(self, recipe: Recipe) -> tf.data.Dataset:
        from rfd_tf.data import streams

        return streams.train_on_shards(self, recipe)

    def evaluation_pass(
        self,
        image_size: int,
        batch_size: int,
        indices: np.ndarray | None,
        transform: Callable[..., tf.Tensor],
    ) -> tf.data.Dataset:
        from rfd_tf.data import streams

        return streams.evaluate_shards(self, image_size, batch_size, indices, transform)

    def _part(self, indices: np.ndarray, **described: Any) -> ShardSource:
        return _ShardPart(self, indices, labels=self._labels_at(indices), **described)


class _ShardPart(PartMixin, ShardSource):
    def __init__(self, whole: ShardSource, indices: np.ndarray, **described: Any):
        super().__init__(
            whole.shards,
            whole._store,
            whole._blocks[indices],
            whole._offsets[indices],
            whole._lengths[indices],
            whole._headers[indices],
            whole.reading,
            **described,
        )
        self.whole, self.indices = whole, indices


def shard_source(
    data: paths.Shards,
    *,
    max_skipped: float = 0.01,
    max_megapixels: float = image_files.MAX_MEGAPIXELS,
    high_bit_depth: HighBitDepth = "stretch",
    color_profile: ColorProfile = "ignore",
    image_feature: str | None = None,
    label_feature: str | None = None,
    verify: str = "auto",
    cache_bytes: int = 1 << 30,
    cache_dir: str | os.PathLike | None = None,
    cache_gb: float = CACHE_GB,
    called: str | None = None,
) -> Source:
    """Returns the images in shards: WebDataset tar files, TFRecord or Parquet files.

    - `.tar`: neighbouring files of one key are a sample: an image (`.jpg`, `.png`, `.webp` ...) and
      its label, `.cls` or "label" in `.json`.
    - `.tfrecord`: `tf.train.Example` with the image in `image/encoded` or `image`, the label in
      `image/class/label` or `label`.
    - `.parquet`: a column of bytes, or of Hugging Face's structs of bytes and path, and a label: a
      number, a name, or Hugging Face's `ClassLabel`.
    - `.arrow`: the same columns; files of Hugging Face's `save_to_disk`.

    `.tar.gz`, `.tgz` and `.tfrecord.gz` are read, too. Images are of any format that `image_folder`
    reads, and give the same pixels. A file `labels.txt` beside the shards, lines of "NUMBER:NAME",
    names the classes where shards do not.

    Any image of a tar or TFRecord file is read at its offset: an epoch is one random permutation,
    as of a folder. Row groups of Parquet and compressed files are unpacked as a whole; an epoch
    goes through them in random order, several at a time (256 MiB, or four), and shuffles their
    images with one another.

    Shards at addresses (`https://`, `s3://`, `gs://` and the others of fsspec) are fetched into a
    local cache: once to list them, unless the cache has their index, and again while training
    where the cache does not hold all of them. An epoch goes through them as through compressed
    files, and those needed next are fetched ahead. They are not decoded beforehand.

    Damaged, empty or missing images are left out and listed in the source's `skipped`. A shard that
    is damaged loses what follows the damage; `skipped` names it, and about as many images
    as are lost count towards `max_skipped`.

    Args:
        data: a shard, a folder of shards, a pattern (`"train-*.tar"`), a range
            (`"train-{000..099}.tar"`), or several of these.
        max_skipped: the largest fraction of unreadable images to accept, 0 to 1.
        max_megapixels: larger images are left out.
        high_bit_depth, color_profile: see `rfd_tf.data.image_folder`.
        image_feature: the feature or column of the image; of tar files the extension.
        label_feature: the feature or column of the label; of tar files an extension, or a key of
            the JSON object.
        verify: `"full"` decodes every image once beforehand; `"header"` lists the shards only;
            `"auto"` is full for up to 200,000 images. With more, what turns out undecodable while
            training is left out on the way.
        cache_bytes: images of one common size, no side above 256, that are all decoded
            beforehand are kept in memory if they take no more than this. 0 turns it off.
        cache_dir: the folder of the cache; `rfd_tf` in the user's folder of caches if None.
        cache_gb: the largest total length of the files in it, 10^9 bytes each.
        called: what to call them in messages; what was given if None.

    Returns:
        An `ArraySource` where the images are kept in memory, else a `ShardSource`.

    Raises:
        UserError: no such shards, shards of several formats, no images in them, no such feature, or
            more than `max_skipped` of the images are unreadable.

    >>> shard_source("no-such-{00..01}.tar")
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: no such shards: '...no-such-00.tar', '...no-such-01.tar' (2 of 2); ...
    """
    reading = Reading(max_megapixels, high_bit_depth, color_profile)
    folder.check_options(max_skipped, verify, reading)
    items = [data] if isinstance(data, str | os.PathLike) else data
    places = None
    if any(map(is_address, items)):
        cache = opened(cache_dir, cache_gb)
        format, described = paths.find_remote(data, cache)
        places, found = Places(cache, described), list(described)
        _check_room(places)
    else:
        format, found = paths.find(data)
    place = called or paths.place_of(data, found)
    if called is None:
        paths.warn_of_splits(place, found)
    table = _Table(format, found, place, Wanted(image_feature, label_feature), places)
    few = len(table) <= _FULL_CHECK_LIMIT and places is None
    pixels = None
    if verify == "full" or (verify == "auto" and few):
        with warnings.catch_warnings():
            # What Pillow finds odd, and reads or refuses, is noise here.
            warnings.filterwarnings("ignore", module=r"PIL\b")
            pixels = table.check(reading, cache_bytes)
    return table.source(max_skipped, reading, pixels)


def _check_room(places: Places) -> None:
    """Makes sure that the shards of an epoch's present and next window fit into the cache."""
    sizes = sorted((one.size or 0 for one in places.described.values()), reverse=True)
    needed = min(sum(sizes), max(sum(sizes[: 2 * LEAST_BLOCKS]), 2 * (WINDOW_BYTES + sizes[0])))
    if needed > places.cache.limit:
        raise UserError(
            f"--cache_gb {places.cache.limit / 1e9:g} is too small for shards of up to "
            f"{sizes[0] / 1e9:.3g} GB, of which several are used at a time; give at least "
            f"{math.ceil(needed / 1e7) / 100:g}"
        )


def shard_ids(data: paths.Shards, **options: Any) -> np.ndarray:
    """Returns the ids of the images in shards, readable or not, see `Source.image_ids`.

    Args:
        data, **options: see `shard_source`.

    Raises:
        UserError: see `shard_source`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is left out has been named before
        return shard_source(data, max_skipped=1.0, verify="header", **options).image_ids()


def _damaged(listed: Sequence[lister.Listed]) -> list[tuple[str, str, int]]:
    """Returns of each damaged shard its name, what is wrong, and about how many images are lost.

    It is read from what is left of the file, or from the other shards.
    """
    whole = [one for one in listed if not one.listing.damage]
    usual = int(np.median([len(one.listing) for one in whole])) if whole else 0
    images = sum(len(one.listing) for one in listed)
    read = sum(one.file_bytes - one.listing.lost_bytes for one in listed)
    rate = images / max(1, read)
    found = []
    for path, _, listing in listed:
        if listing.damage:
            by_bytes = round(listing.lost_bytes * rate)
            lost = max(1, listing.lost, by_bytes, usual - len(listing))
            found.append((file_name_to_text(Path(path).name, one_line=True), listing.damage, lost))
    return found


class _Table:
    """All samples of some shards, while they are being checked.

    Attributes:
        headers: int32 `[N, 4]` of each sample; `UNKNOWN` where it has not been read.
        reasons: sample -> why it is left out.
    """

    def __init__(
        self,
        format: str,
        found: Sequence[str],
        place: str,
        wanted: Wanted,
        places: Places | None = None,
    ):
        self.place, self.paths = place, found
        if places is None:
            listed = lister.list_all(found, format, wanted)
        else:
            listed = lister.list_fetched(found, format, wanted, places)
        listings = [one.listing for one in listed]
        self.damaged = _damaged(listed)
        counts = np.array([len(one) for one in listings])
        self.shards = np.repeat(np.arange(len(listed), dtype=np.int32), counts)
        self.rows = _joined([np.arange(count) for count in counts], np.int64)
        self.offsets = _joined([one.offsets for one in listings], np.int64)
        self.lengths = _joined([one.lengths for one in listings], np.int64)
        self.names = [name for one in listings for name in one.names]
        blocks: list[Block] = []
        numbers = []
        for one in listed:
            if one.listing.groups is None:
                numbers.append(np.full(len(one.listing), len(blocks), np.int32))
                packed = "gzip" if lister.is_compressed(one.path) else ""
                packed = ARROW if format == "arrow" else packed
            else:
                numbers.append(one.listing.groups + np.int32(len(blocks)))
                packed = "parquet"
            blocks += [
                Block(one.path, one.file_bytes, packed, group, size)
                for group, size in enumerate(one.listing.bytes_of_groups)
            ]
        self.blocks = _joined(numbers, np.int32)
        self.store = Store(blocks, wanted.image, places)
        labels = Labels()
        for one in listings:
            labels.add(one.labels)
            one.names, one.labels = [], []
        class_names = next((one.class_names for one in listings if one.class_names), None)
        self.labels, self.class_names = labels.numbered(
            class_names or class_names_beside(found[0], places), place
        )
        self.headers = np.full((len(self), 4), UNKNOWN, np.int32)
        firsts = np.cumsum(counts) - counts
        self.reasons = {
            int(first) + row: reason
            for first, one in zip(firsts, listings, strict=True)
            for row, reason in one.missing.items()
        }
        if len(self.reasons) == len(self):
            raise self._no_images([name for one in listings for name in one.columns])

    def __len__(self) -> int:
        return len(self.offsets)

    def _no_images(self, columns: Sequence[str]) -> UserError:
        damaged = [f"{shown(name)} ({why})" for name, why, _ in self.damaged]
        reasons = collections.Counter(self.reasons.values())
        parts = [f"all {count} samples: {reason}" for reason, count in reasons.most_common(3)]
        if damaged:
            parts.append(f"damaged: {', '.join(damaged[:5])}")
        if columns:
            parts.append(f"samples have: {shown(', '.join(dict.fromkeys(columns)), 1000)}")
        why = f": {'; '.join(parts)}" if parts else ""
        return UserError(
            f"no images in the {len(self.paths)} shards of '{shown(self.place)}'{why}; name the "
            "image by image_feature"
        )

    def good(self) -> np.ndarray:
        """Returns which samples are not left out, int64."""
        kept = np.ones(len(self), bool)
        kept[list(self.reasons)] = False
        return np.flatnonzero(kept)

    def check(self, reading: Reading, cache_bytes: int) -> np.ndarray | None:
        """Decodes all images; what cannot be decoded is left out, with the reason.

        Returns:
            uint8 `[N, H, W, 3]` of the good images where they fit into memory, else None.
        """
        rows = self.good()
        with folder.progress(len(rows), "Reading headers") as bar:
            for start in range(0, len(rows), _CHECKED_AT_ONCE):
                some = rows[start : start + _CHECKED_AT_ONCE]
                for row, content in zip(some.tolist(), self.contents(some), strict=True):
                    header = image_files.header_of_bytes(content, reading)
                    if isinstance(header, Header):
                        self.headers[row] = header
                    else:
                        self.reasons[row] = header if content else self._why_empty(row)
                bar.update(len(some))
        rows = self.good()
        if not len(rows):
            return None
        from rfd_tf.data import check_files

        headers = [Header(*header) for header in self.headers[rows].tolist()]
        shape = headers[0][1:3] if folder.fit(headers, cache_bytes) else None
        files = _Samples(self, rows)
        settled, pixels = check_files.settle(files, headers, shape, folder.progress)
        good = []
        for place, (row, header) in enumerate(zip(rows.tolist(), settled, strict=True)):
            if isinstance(header, Header):
                self.headers[row] = header
                good.append(place)
            else:
                self.reasons[row] = header
        return pixels if pixels is None or len(good) == len(rows) else pixels[good]

    def contents(self, rows: np.ndarray) -> list[bytes]:
        """Returns the bytes of samples, b"" where they cannot be read."""
        columns = (part[rows].tolist() for part in (self.blocks, self.offsets, self.lengths))
        return self.store.read_many(*columns)

    def _why_empty(self, row: int) -> str:
        try:
            self.content(row)
        except OSError as error:
            return image_files.reason_of(error)
        return "empty file"

    def content(self, row: int) -> bytes:
        """Returns the bytes of a sample; raises OSError where they cannot be read."""
        columns = (part[row] for part in (self.blocks, self.offsets, self.lengths))
        return self.store.read(*map(int, columns))

    def names_of(self, rows: np.ndarray) -> Names:
        """Returns the display names of some samples."""
        names = [self.names[row] for row in rows.tolist()]
        shard_names = [Path(path).name for path in self.paths]
        if len(set(shard_names)) < len(shard_names):  # of several folders
            shard_names = ["/".join(Path(path).parts[-2:]) for path in self.paths]
        return Names(names, self.shards[rows], self.rows[rows], shard_names)

    def source(self, max_skipped: float, reading: Reading, pixels: np.ndarray | None) -> Source:
        """Makes the source of the good images, unless too many are not."""
        good = self.good()
        bad = np.array(sorted(self.reasons), np.int64)
        names = (file_name_from_text(name) for name in self.names_of(bad))
        skipped = [
            (file_name_to_text(name, one_line=True), self.reasons[row])
            for name, row in zip(names, bad.tolist(), strict=True)
        ]
        skipped += [(name, damage) for name, damage, _ in self.damaged]
        lost = sum(count for *_, count in self.damaged)
        folder.report_skipped(
            f"'{self.place}'", skipped, len(bad) + lost, len(self) + lost, len(good), max_skipped
        )
        keys = [
            (os.path.basename(path), self.store.blocks[block].file_bytes)
            for path, block in self._first_blocks()
        ]
        described = {
            "name": file_name_to_text(os.path.basename(self.place.rstrip("/")) or self.place),
            "labels": None if self.labels is None else self.labels[good],
            "class_names": self.class_names,
            "fingerprint": fingerprint(
                [
                    "shards",
                    *(part for key in keys for part in key),
                    self.shards[good].tobytes(),
                    self.rows[good].tobytes(),
                    *self._conversions(good, reading),
                ]
            ),
            "skipped": skipped,
            "names": self.names_of(good),
        }
        if pixels is not None:
            source = ArraySource(pixels, **described)
        else:
            source = ShardSource(
                self.paths,
                self.store,
                self.blocks[good],
                self.offsets[good],
                self.lengths[good],
                self.headers[good],
                reading,
                **described,
            )
        source.reading = reading
        folder.log_conversions(f"'{self.place}'", self.headers[good, 0].tolist())
        shards, rows, found = self.shards[good], self.rows[good], self.paths
        source.origins = lambda: _ids(found, shards, rows)
        return source

    def _conversions(self, good: np.ndarray, reading: Reading) -> list[str]:
        """Returns what a digest of the images says of how their values are converted."""
        kinds = np.unique(self.headers[good, 0]).tolist()
        return reading.unusual() if UNKNOWN in kinds else image_files.conversions(kinds)

    def _first_blocks(self) -> list[tuple[str, int]]:
        firsts: dict[str, int] = {}
        for number, block in enumerate(self.store.blocks):
            firsts.setdefault(block.path, number)
        return [(path, firsts[path]) for path in self.paths if path in firsts]


class _Samples:
    """Images of shards, as `check_files.settle` reads them."""

    def __init__(self, table: _Table, rows: np.ndarray):
        self._table, self._rows = table, rows

    def name(self, row: int) -> str:
        return self._table.names_of(self._rows[[row]])[0]

    def content(self, row: int) -> bytes:
        return self._table.contents(self._rows[[row]])[0]

    def dataset(self, rows: Sequence[int]) -> tf.data.Dataset:
        import tensorflow as tf

        chosen = self._rows[np.asarray(rows, np.int64)]

        def read(rows: tf.Tensor) -> tf.Tensor:
            contents = tf.numpy_function(
                lambda rows: _objects(self._table.contents(rows)), [rows], tf.string, stateful=False
            )
            return tf.ensure_shape(contents, [None])

        batches = tf.data.Dataset.from_tensor_slices(chosen).batch(_CHECKED_AT_ONCE)
        return batches.map(read).prefetch(1).unbatch()

    def read(self, origin: tf.Tensor) -> tf.Tensor:
        return origin


def _objects(contents: list[bytes]) -> np.ndarray:
    """Returns bytes as NumPy holds them whole: its own strings lose zeros at the end."""
    found = np.empty(len(contents), object)
    found[:] = contents
    return found


def _joined(parts: Sequence, dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype) for part in parts])


def _ids(found: Sequence[str], shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """An image is known by the path of its shard and its number there."""
    ids = np.empty(len(rows), np.uint64)
    for number, path in enumerate(found):
        here = shards == number
        if here.any():
            known_by = path if is_address(path) else os.path.realpath(path)
            every = image_ids(known_by, 0, int(rows[here].max()) + 1)
            ids[here] = every[rows[here]]
    return ids
