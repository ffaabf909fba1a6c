"""Pooling to a stated output size with PyTorch's bins, which may overlap."""

from __future__ import annotations

from collections.abc import Callable

from keras import ops


def bins(size: int, output_size: int) -> list[tuple[int, int]]:
    """Returns each bin of an axis as `(start, stop)`: `floor(i * H / o), ceil((i + 1) * H / o)`.

    >>> bins(5, 3)
    [(0, 2), (1, 4), (3, 5)]
    """
    return [
        (i * size // output_size, -(-(i + 1) * size // output_size)) for i in range(output_size)
    ]


def adaptive_max_pool(x, output_size: int | tuple[int, int]):
    """Largest value in each of `output_size` bins, as torch.nn.AdaptiveMaxPool2d computes it.

    Bins overlap where the size is not a multiple of the output size, and repeat where the output
    is larger than the input. The result is exact: it only ever selects values.

    Args:
        x: `[batch, height, width, channels]`, height and width known and at least 1.
        output_size: height and width of the result, or one number for both; at least 1.

    Returns:
        `[batch, output height, output width, channels]`, same dtype as `x`.

    Raises:
        ValueError: `x` is not rank 4, has an unknown height or width, or a size is below 1.

    >>> import numpy as np
    >>> x = np.arange(25, dtype="float32").reshape(1, 5, 5, 1)
    >>> np.array(adaptive_max_pool(x, 2))[0, :, :, 0].tolist()
    [[12.0, 14.0], [22.0, 24.0]]
    """
    return _pool(x, output_size, ops.max)


def adaptive_average_pool(x, output_size: int | tuple[int, int]):
    """Mean of each of `output_size` bins, as torch.nn.AdaptiveAvgPool2d computes it.

    Takes, returns and raises what `adaptive_max_pool` does; size 1 is global average pooling.

    >>> import numpy as np
    >>> x = np.arange(25, dtype="float32").reshape(1, 5, 5, 1)
    >>> np.array(adaptive_average_pool(x, 2))[0, :, :, 0].tolist()
    [[6.0, 8.0], [16.0, 18.0]]
    """
    return _pool(x, output_size, ops.mean)


def _pool(x, output_size: int | tuple[int, int], reduce: Callable):
    sizes = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if len(x.shape) != 4 or None in (x.shape[1], x.shape[2]):
        raise ValueError(
            "adaptive pooling takes [batch, height, width, channels] with known height and width; "
            f"got shape {tuple(x.shape)}"
        )
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"output_size is one or two numbers of at least 1; got {output_size!r}")
    # A bin is a rectangle, so rows then columns give the maximum and the mean of all its values.
    for axis, size in zip((1, 2), sizes, strict=True):
        if size == 1:
            x = reduce(x, axis=axis, keepdims=True)
        elif size != x.shape[axis]:
            cuts = [
                x[:, start:stop] if axis == 1 else x[:, :, start:stop]
                for start, stop in bins(x.shape[axis], size)
            ]
            x = ops.stack([reduce(cut, axis=axis) for cut in cuts], axis=axis)
    return x
