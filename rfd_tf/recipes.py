"""Values for the settings that are left open: what was found to learn, by method and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Sides of training images up to which they are small, pixels.
SMALL = 64

#: How many images are shown in a training: 15 epochs of the 50,000 images of CIFAR-10.
IMAGES_SHOWN = 750_000
FEWEST_EPOCHS, MOST_EPOCHS = 10, 200
#: Batches are halved until an epoch has so many steps,
STEPS_AN_EPOCH = 4
#: and until a short training has so many, as long as a batch keeps so many views.
FEWEST_STEPS, FEWEST_VIEWS = 3_000, 64

#: Largest dataset whose memory bank the exact softmax takes whole.
SOFTMAX_IMAGES = 200_000

#: Options of noise-contrastive estimation: who gives one wants it.
NCE_OPTIONS = ("num_negatives", "negatives", "normalizer", "exclude_positive")

_COLORS = {"color_jitter": 0.4, "grayscale": 0.2}
_EMBEDDING = {"temperature": 0.2, "projection_hidden": 128, "projection_dimensions": 64}
_INSTANCE = {"crop": "resized", "crop_area_min": 0.2, **_COLORS, **_EMBEDDING}
_ROTATION = {"crop": "resized", "crops": 4, "batch_size": 64, **_COLORS}

# By method; the others have the common values. The experiments: docs/results/recipes.md.
_METHODS: dict[str, dict[str, Any]] = {
    "aet": {"transformation": "projective", "normalization": "measured"},
    "bigan": {
        "crop": "none",
        "optimizer": "adam",
        "momentum": 0.5,
        "learning_rate": 2e-4,
        "schedule": "constant",
        "weight_decay": 0.0,
        "latent_dimensions": 100,
        "latent_normalization": True,
    },
    "deepcluster": {
        "crop": "resized",
        "crop_area_min": 0.3,
        "learning_rate": 0.05,
        "schedule": "constant",
    },
    "distillation": {"crop": "resized", "batch_size": 64, **_COLORS},
    "instance": _INSTANCE,
    "jigsaw": {"crop": "resized", "crop_area_min": 0.2, "horizontal_flip": False},
    "pirl": {**_INSTANCE, "crops": 2},
    "rfd": {**_ROTATION, **_EMBEDDING},
    "rfd_jigsaw": {**_ROTATION, **_EMBEDDING, "crop_area_min": 0.2, "lambda_jigsaw": 0.3},
    "rotation": _ROTATION,
}
# What small images want beside it.
_SMALL_METHODS: dict[str, dict[str, Any]] = {
    "bigan": {"generator_width": 32, "discriminator_width": 32},
    "deepcluster": {"pca_dimensions": 64},
    "jigsaw": {
        "grid": 2,
        "tile_normalization": False,
        "permutations": 24,
        "permutations_per_image": 4,
        "tile_units": 64,
    },
}
# Learning rates for batches of 128 images, by optimizer; some methods take twice SGD's.
_RATES = {"sgd": 0.1, "adam": 0.004, "rmsprop": 0.001}
_TWICE = ("distillation", "rfd", "rfd_jigsaw", "rotation")


def preset_for(image_size: int) -> str:
    """Returns the preset that `auto` stands for.

    >>> preset_for(32), preset_for(128)
    ('small_images', 'photographs')
    """
    return "small_images" if image_size <= SMALL else "photographs"


def epochs_for(num_images: int) -> int:
    """Returns how many epochs show about `IMAGES_SHOWN` images, from 10 to 200.

    >>> [epochs_for(count) for count in (500, 10_000, 50_000, 1_281_167)]
    [200, 75, 15, 10]
    """
    return max(FEWEST_EPOCHS, min(MOST_EPOCHS, round(IMAGES_SHOWN / num_images)))


def batch_norm_momentum(steps_per_epoch: int) -> float:
    """Returns the largest momentum with which moving statistics settle within an epoch.

    Networks of Keras have up to 0.999: after 780 steps, half of a moving average is its initial
    value. It is bounded by a tenth of an epoch's steps, and by 0.9 and 0.99.

    >>> [batch_norm_momentum(steps) for steps in (53, 195, 20_000)]
    [0.9, 0.949, 0.99]
    """
    return round(max(0.9, min(0.99, 1 - 10 / steps_per_epoch)), 3)


def recommended(
    method: str,
    *,
    image_size: int,
    num_images: int,
    preset: str = "auto",
    cut_photographs: bool = False,
    given: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """Returns settings of a pretraining, and options of its method, that were found to learn.

    Args:
        method: a name in `rfd_tf.methods.METHODS`.
        image_size: side of the training images, pixels.
        num_images: how many there are.
        preset: `small_images`, `photographs`, `auto` (the one of them that suits `image_size`), or
            `paper`, which leaves every setting to the default of the class that takes it.
        cut_photographs: whether the images are crops of a few photographs, whose colours are
            changed as they are cut.
        given: settings and options that the user chose. They are not repeated; values that depend
            on one, such as the learning rate on the batch size, follow it.

    Returns:
        Name -> value; empty for the preset `paper`.

    >>> found = recommended("rfd", image_size=32, num_images=50_000, given={"batch_size": 128})
    >>> found["learning_rate"], found["epochs"], found["instance_loss"], found["crop_area_min"]
    (0.2, 15, 'softmax', 0.5)
    """
    if preset == "auto":
        preset = preset_for(image_size)
    if preset == "paper":
        return {}
    small = preset == "small_images"
    decoupling = method in ("rfd", "rfd_jigsaw")
    found: dict[str, Any] = {"batch_size": 128, "crops": 1, "epochs": epochs_for(num_images)}
    found.update(_METHODS.get(method, {}))
    if small and not {"grid", "tile_size", "permutations"} & set(given):
        found.update(_SMALL_METHODS.get(method, {}))
    if method in ("distillation", "rfd", "rotation"):
        found["crop_area_min"] = 0.5 if small else 0.3
    if "padding" in given:
        found["crop"] = "pad"
    if cut_photographs:
        found.update(crop="pad", color_jitter=0.0, grayscale=0.0)
    if method == "rotation":
        angles = given.get("rotations") or (0, 90, 180, 270)
        found["crops"] = 1 if given.get("shuffle_rotations") else len(angles)
    found.update(given)
    if "batch_size" not in given:
        found["batch_size"] = _batch_size(found, num_images)
    if "temperature" in found and "instance_loss" not in given:
        few = num_images <= SOFTMAX_IMAGES and not any(name in given for name in NCE_OPTIONS)
        found["instance_loss"] = "softmax" if few else "nce"
    if decoupling:
        # Crops of their own let the views of an image be contrasted within the batch.
        contrast = found["crops"] > 1
        found.setdefault("lambda_contrast", 1.0 if contrast else 0.0)
        if method == "rfd" and contrast and "lambda_contrast" not in given:
            found.setdefault("lambda_rotation", 3.0)
        bank_weight = 0.1 if method == "rfd" and found["lambda_contrast"] else 0.3
        found.setdefault("lambda_instance", bank_weight)
    if "learning_rate" not in found:
        optimizer = found.get("optimizer", "sgd")
        rate = _RATES[optimizer] * (2 if optimizer == "sgd" and method in _TWICE else 1)
        found["learning_rate"] = float(f"{rate * found['batch_size'] / 128:.3g}")
    if found.get("schedule", "cosine") == "cosine":
        found.setdefault("warmup_epochs", min(found["epochs"] / 10, 10.0))
    return {name: value for name, value in found.items() if name not in given}


def _batch_size(found: Mapping[str, Any], num_images: int) -> int:
    """Returns the batch size found for large sets, or a smaller one that leaves enough steps."""
    size = found["batch_size"]
    shown = num_images * found["epochs"]
    fewest_images = FEWEST_VIEWS // max(1, found["crops"])
    while size > max(8, num_images // STEPS_AN_EPOCH) or (
        size > fewest_images and shown / size < FEWEST_STEPS
    ):
        size //= 2
    return size
