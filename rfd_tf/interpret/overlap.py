"""How far a saliency map and the objects in a picture coincide."""

from __future__ import annotations

import numpy as np

from rfd_tf.errors import UserError


def binary_map(
    maps: np.ndarray, threshold: float | None = None, quantile: float | None = None
) -> np.ndarray:
    """Returns which pixels of each map count as salient.

    Args:
        maps: `[..., S, S]`, at least 0.
        threshold: pixels of at least this value count; gradients of different networks differ
            by orders of magnitude, so that one threshold does not suit two of them.
        quantile: 0 to 1; the share of pixels that do not count, in each map by itself. Exactly one
            of the two is given. Ties at the quantile count by their place, so the share is exact.

    Returns:
        bool, shaped as `maps`.

    Raises:
        UserError: neither or both, or values out of range.

    >>> int(binary_map(np.array([[[1.0, 2.0], [3.0, 4.0]]]), quantile=0.75).sum())
    1
    """
    maps = np.asarray(maps)
    if (threshold is None) == (quantile is None):
        raise UserError("give a threshold or a quantile, one of the two")
    if threshold is not None:
        if not threshold > 0:
            raise UserError(f"a saliency threshold is above 0, not {threshold}")
        return maps >= threshold
    if not 0 <= quantile <= 1:
        raise UserError(f"quantile {quantile} is not between 0 and 1")
    flat = maps.reshape(-1, maps.shape[-2] * maps.shape[-1])
    kept = round((1 - quantile) * flat.shape[1])
    chosen = np.zeros(flat.shape, bool)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :kept]
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen.reshape(maps.shape)


def box_mask(boxes: np.ndarray, size: int) -> np.ndarray:
    """Returns the union of boxes as a mask.

    Args:
        boxes: `[n, 4]`: left, top, right, bottom in pixels of a square, right and bottom exclusive.
        size: side S of the square.

    Returns:
        bool `[S, S]`; a pixel is in when its centre is; a box smaller than that takes the pixel it
        lies in.

    >>> box_mask(np.array([[0.0, 0.0, 2.0, 1.0]]), 3).astype(int).tolist()
    [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    """
    mask = np.zeros((size, size), bool)
    for left, top, right, bottom in np.asarray(boxes, np.float64):
        across = _cover(left, right, size)
        down = _cover(top, bottom, size)
        mask[down[0] : down[1], across[0] : across[1]] = True
    return mask


def _cover(low: float, high: float, size: int) -> tuple[int, int]:
    first, last = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
    if last <= first:
        first = min(int(low), size - 1)
        last = first + 1
    return max(first, 0), min(last, size)


def overlap(salient: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Returns Q = |S and B| / |S or B|, the share of what either marks that both mark.

    Args:
        salient, objects: bool, the same shape or ones that broadcast, `[..., S, S]`.

    Returns:
        float64 `[...]`, 0 to 1; 0 where neither marks anything.

    >>> float(overlap(np.array([[True, True]]), np.array([[True, False]])))
    0.5
    """
    both = np.logical_and(salient, objects).sum(axis=(-2, -1))
    either = np.logical_or(salient, objects).sum(axis=(-2, -1))
    return np.divide(both, either, out=np.zeros(both.shape), where=either > 0)


def same_area(salient: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns masks of random pixels, as many in each as are salient.

    Args:
        salient: bool `[..., S, S]`.
        seed: of the choice.

    Returns:
        bool, the same shape.

    >>> int(same_area(np.array([[True, False], [True, False]])).sum())
    2
    """
    flat = salient.reshape(-1, salient.shape[-2] * salient.shape[-1])
    mixed = np.random.default_rng(seed).permuted(flat, axis=1)
    return mixed.reshape(salient.shape)


def central_area(salient: np.ndarray) -> np.ndarray:
    """Returns masks of the pixels nearest to the centre, as many in each as are salient.

    Photographs have their object in the middle, so this is harder to beat than random pixels.

    Args:
        salient: bool `[..., S, S]`.

    Returns:
        bool, the same shape.

    >>> central_area(np.eye(3, dtype=bool) & (np.arange(3) == 0)).astype(int).tolist()
    [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    """
    height, width = salient.shape[-2:]
    rows, columns = np.ogrid[:height, :width]
    away = (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2
    rank = np.empty(height * width, np.int64)
    rank[np.argsort(away, axis=None, kind="stable")] = np.arange(height * width)
    area = salient.sum(axis=(-2, -1), keepdims=True)
    return rank.reshape(height, width) < area
