"""Tiny pictures in folders of two classes, for tests that only need some to train on."""

import numpy as np
from PIL import Image


def write_class_images(folder, count):
    """Writes `count` PNG files of noise, 20 x 20 pixels, alternately to `a/` and `b/`."""
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(path)
