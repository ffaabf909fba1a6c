"""Photographs to measure with, where none are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

HEIGHT, WIDTH = 375, 500


def synthetic_photograph(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """An image with the detail of a photograph: structure at every scale, soft and hard edges.

    Args:
        seed: another number, another image.
        height, width: of the image, pixels.

    Returns:
        uint8 `[height, width, 3]`.

    >>> synthetic_photograph(0).shape
    (375, 500, 3)
    """
    draw = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), "float32")
    cells = 2
    while cells < min(height, width):
        # Natural images have contrast in inverse proportion to the spatial frequency.
        noise = draw.normal(0.0, 1.0, (cells, cells, 3)).astype("float32")
        for channel in range(3):
            layer = Image.fromarray(noise[..., channel] + noise[..., 0]).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            pixels[..., channel] += np.asarray(layer) / cells**0.6
        cells *= 2
    rows, columns = np.mgrid[:height, :width]
    for _ in range(12):
        y, x = draw.uniform(0, height), draw.uniform(0, width)
        radius = draw.uniform(0.03, 0.25) * height
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        pixels[inside] += draw.normal(0.0, 0.8, 3).astype("float32")
    pixels += draw.normal(0.0, 0.08 * pixels.std(), pixels.shape).astype("float32")
    low, high = np.percentile(pixels, (1, 99))
    return np.clip((pixels - low) / (high - low) * 255, 0, 255).astype("uint8")


def write_photographs(folder: Path, count: int = 96, quality: int = 90) -> None:
    """Writes synthetic photographs and scikit-learn's two real ones, as JPEG files.

    Args:
        folder: where to write; it must exist.
        count: synthetic photographs, 500 x 375 pixels each.
        quality: of the JPEG files.
    """
    images = [synthetic_photograph(seed) for seed in range(count)]
    for number, image in enumerate([*images, *load_sample_images().images]):
        Image.fromarray(image).save(folder / f"photo_{number:04d}.jpg", quality=quality)
