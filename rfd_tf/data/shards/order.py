"""The order of training where images lie in blocks that are unpacked as a whole.

An epoch goes through the blocks in a random order, some of them at a time: a window. The images of
a window are shuffled with one another. All follows from the seed, the epoch and the place in it, so
that training resumes anywhere without reading the samples before.
"""

from __future__ import annotations

import collections
import threading

import numpy as np

from rfd_tf.data.shards.store import MOST_HELD, Store
from rfd_tf.data.subset import index_hash

WINDOW_BYTES = 256 << 20
LEAST_BLOCKS = 4
_KEPT_WINDOWS = 4
_MIX = 0x9E3779B97F4A7C15


class BlockOrder:
    """Shuffles images over blocks and within windows of blocks.

    Args:
        blocks: int `[num_images]`, the block that holds each image, not decreasing.
        store: which unpacks the blocks.

    >>> from rfd_tf.data.shards.store import Block, Store
    >>> store = Store([Block("a.parquet", 9, "parquet", group, 9) for group in range(2)])
    >>> order = BlockOrder(np.array([0, 0, 0, 1, 1]), store)
    >>> sorted(order.numbers(0, 0, np.arange(5), prefetch=False).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, blocks: np.ndarray, store: Store):
        self._store = store
        self._blocks, self._starts, self._counts = np.unique(
            blocks, return_index=True, return_counts=True
        )
        sizes = np.array([store.blocks[block].bytes for block in self._blocks], np.int64)
        self._sizes = np.maximum(sizes, 1)
        self._num_images = len(blocks)
        # Files that are fetched are read some at a time, with all of their blocks.
        self._files = None
        if store.places is not None:
            paths = [store.blocks[block].path for block in self._blocks]
            self._files = np.unique(paths, return_inverse=True)[1]
        self._lock = threading.Lock()
        self._epochs: collections.OrderedDict[tuple, tuple] = collections.OrderedDict()
        self._windows: collections.OrderedDict[tuple, np.ndarray] = collections.OrderedDict()

    def numbers(
        self,
        seed: int,
        epoch: int,
        positions: np.ndarray,
        views: int = 1,
        prefetch: bool = True,
    ) -> np.ndarray:
        """Returns which images, or views of them, stand at places of an epoch.

        Args:
            seed, epoch: what the order follows from.
            positions: places, 0 to `num_images * views - 1`.
            views: how many views of an image are examples of their own.
            prefetch: whether the blocks are about to be read.

        Returns:
            int64, `index * views + view` of each place.
        """
        with self._lock:
            shuffled, bounds, firsts = self._epoch(seed, epoch)
            window = np.searchsorted(firsts * views, positions, side="right") - 1
            found = np.empty(len(positions), np.int64)
            for one in np.unique(window):
                here = window == one
                key = (seed, epoch, int(one), views)
                numbers = self._windows.get(key)
                if numbers is None:
                    numbers = self._shuffled(shuffled[bounds[one] : bounds[one + 1]], key)
                    self._windows[key] = numbers
                    if len(self._windows) > _KEPT_WINDOWS:
                        self._windows.popitem(last=False)
                    if prefetch:
                        # This window and the next: reading continues while this one is used.
                        ahead = shuffled[bounds[one] : bounds[min(one + 2, len(bounds) - 1)]]
                        self._store.prefetch(self._blocks[ahead].tolist())
                found[here] = numbers[positions[here] - firsts[one] * views]
            return found

    def sorted(self, seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
        """Returns indices, which may repeat, in the order in which an epoch reads the images."""
        rank = np.empty(self._num_images, np.int64)
        places = np.arange(self._num_images)
        rank[self.numbers(seed, epoch, places, prefetch=False)] = places
        return indices[np.argsort(rank[indices], kind="stable")]

    def _epoch(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the blocks' order, where windows begin in it, and with how many images before."""
        key = (seed, epoch)
        found = self._epochs.get(key)
        if found is None:
            hashed = _hashed(len(self._blocks), seed, epoch, 0)
            shuffled = np.argsort(hashed, kind="stable")
            if self._files is not None:
                first = np.unique(self._files[shuffled], return_index=True)[1]
                rank = np.argsort(np.argsort(first))  # of the files, by their first blocks
                shuffled = np.lexsort((hashed, rank[self._files] // LEAST_BLOCKS))
            bounds, held = [0], 0
            for place, block in enumerate(shuffled):
                filled = held + self._sizes[block] > WINDOW_BYTES
                if filled and place - bounds[-1] >= LEAST_BLOCKS:
                    bounds.append(place)
                    held = 0
                held += self._sizes[block]
            bounds = np.array([*bounds, len(shuffled)])
            held = np.add.reduceat(self._sizes[shuffled], bounds[:-1])
            # (Of the largest blocks none is held in memory.)
            largest = max(int(held.max()), LEAST_BLOCKS * MOST_HELD)
            self._store.most_kept = max(self._store.most_kept, 2 * largest)
            before = np.concatenate([[0], np.cumsum(self._counts[shuffled])])
            found = self._epochs[key] = shuffled, bounds, before[bounds[:-1]]
            if len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return found

    def _shuffled(self, blocks: np.ndarray, key: tuple) -> np.ndarray:
        seed, epoch, window, views = key
        rows = np.concatenate(
            [np.arange(self._starts[b], self._starts[b] + self._counts[b]) for b in blocks]
        )
        order = np.argsort(_hashed(len(rows) * views, seed, epoch, window + 1), kind="stable")
        return rows[order // views] * views + order % views


def _hashed(count: int, *key: int) -> np.ndarray:
    """Returns uint64 `[count]`, random numbers that are the same everywhere."""
    mixed = 0
    for part in key:
        mixed = int(index_hash(np.array([(mixed + part * _MIX) % (1 << 64)], np.uint64))[0])
    return index_hash(np.arange(count, dtype=np.uint64) + np.uint64(mixed))
