"""The random numbers of crops of photographs: functions of the seed and the number of the crop."""

from __future__ import annotations

import functools
import statistics

import numpy as np

from rfd_tf.data.subset import index_hash

DRAWS = 40  # uniform numbers set apart for each crop; 33 are in use
GOLDEN = 0x9E3779B97F4A7C15
_NOISE = 0x4E4F495345  # the stream of the noise


def key_of(seed: int) -> int:
    """Returns where a seed's stream of random numbers begins, 0 to 2^64 - 1."""
    return int(index_hash(np.array([seed % (1 << 64)], np.uint64))[0])


def uniform_draws(seed: int, numbers: np.ndarray) -> np.ndarray:
    """Returns the random numbers of crops: float32 `[n, 40]`, uniform in [0, 1).

    Number k of crop i is output 40 i + k of the SplitMix64 generator, its highest 24 bits.

    Args:
        seed: of the crops, any integer.
        numbers: integers `[n]`, 0 or more.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    >>> uniform_draws(0, [5]).shape
    (1, 40)
    """
    with np.errstate(over="ignore"):
        counters = np.asarray(numbers).astype(np.uint64)[:, None] * np.uint64(DRAWS)
        counters = counters + np.arange(DRAWS, dtype=np.uint64)
        bits = index_hash(np.uint64(key_of(seed)) + counters * np.uint64(GOLDEN))
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def noise_key(seed: int) -> int:
    """Returns where the stream of the noise of a seed's crops begins, 0 to 2^64 - 1."""
    return int(index_hash(np.array([key_of(seed) ^ _NOISE], np.uint64))[0])


@functools.cache
def normal_quantiles() -> np.ndarray:
    """Returns 65,536 equally likely values of N(0, 1), increasing: float32 `[65536]`.

    Looked up, noise is the same on any machine, whose logarithms may differ in their last bits.

    >>> values = normal_quantiles()
    >>> round(float(values.std()), 3), round(float(values.max()), 2)
    (1.0, 4.32)
    """
    count = 1 << 16
    inverse = statistics.NormalDist().inv_cdf
    upper = np.array([inverse((k + 0.5) / count) for k in range(count // 2, count)], np.float32)
    return np.concatenate([-upper[::-1], upper])


def normal_draws(seed: int, numbers: np.ndarray, count: int) -> np.ndarray:
    """Returns the noise of crops before it is scaled: float32 `[n, count]`, from N(0, 1).

    Value k of crop i is the quantile that the highest 16 bits of output `count` i + k of the
    SplitMix64 generator number.

    Args:
        seed: of the crops, any integer.
        numbers: integers `[n]`, 0 or more.
        count: values of a crop, pixels times channels.

    >>> normal_draws(0, [5], 48).shape
    (1, 48)
    """
    with np.errstate(over="ignore"):
        counters = np.asarray(numbers).astype(np.uint64)[:, None] * np.uint64(count)
        counters = counters + np.arange(count, dtype=np.uint64)
        bits = index_hash(np.uint64(noise_key(seed)) + counters * np.uint64(GOLDEN))
    return normal_quantiles()[(bits >> np.uint64(48)).astype(np.int64)]
