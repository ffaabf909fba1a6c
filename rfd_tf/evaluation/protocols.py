"""How the published programs train what they put on frozen features."""

from __future__ import annotations

import dataclasses
import math

from rfd_tf.errors import UserError, unknown

Table = tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Training:
    """A way of supervised training.

    Attributes:
        epochs: passes over the images.
        learning_rate: the highest rate of a cosine that falls to 0, or a table of (end epoch,
            rate), the last rate persisting.
        batch_size: images per step; fewer where there are fewer.
        crop: see `rfd_tf.data.pipeline.training_dataset`; None for "window" from 96 pixels on and
            "pad" below: torchvision's Resize(256) and RandomCrop(224), RandomCrop(32, padding=4).
        horizontal_flip: whether half of the images are mirrored.
        momentum, nesterov, weight_decay: of SGD; the decay is coupled and on every weight.
        pooling: of feature maps, "max" or "average".
        steps_per_epoch: steps that count as an epoch; None for one pass over the images.
        source: where it was published.
    """

    epochs: int
    learning_rate: float | Table
    batch_size: int
    crop: str | None = None
    horizontal_flip: bool = True
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    pooling: str = "max"
    steps_per_epoch: int | None = None
    source: str = ""

    def with_epochs(self, epochs: int | None) -> Training:
        """Returns the same with the schedule stretched or shortened; None changes nothing.

        >>> LINEAR["rfd_imagenet"].with_epochs(13).learning_rate[0]
        (1.0, 0.01)
        """
        if epochs is None:
            return self
        if epochs < 1:
            raise UserError(f"epochs are 1 or more; got {epochs}")
        rate = self.learning_rate
        if not isinstance(rate, float):
            rate = tuple((end * epochs / self.epochs, value) for end, value in rate)
        return dataclasses.replace(self, epochs=epochs, learning_rate=rate)

    def crop_of(self, image_size: int) -> str:
        """Returns how training images of a size are cropped."""
        return self.crop or ("window" if image_size >= 96 else "pad")

    def describe(self) -> dict:
        """Returns what a reader needs to repeat the training, ready for JSON."""
        described = {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if value not in (None, "") and key != "pooling"
        }
        described.setdefault("crop", "window from 96 pixels on, pad below")
        described["optimizer"] = "SGD, coupled weight decay on every weight"
        described["reported"] = "last epoch, and the best of all epochs on the test images"
        if not isinstance(self.learning_rate, float):
            described["learning_rate"] = [list(pair) for pair in self.learning_rate]
            described["schedule"] = "[end epoch, rate], the last rate persisting"
        else:
            described["schedule"] = "cosine to 0"
        return described


#: Linear probes of every endpoint.
LINEAR: dict[str, Training] = {
    "rfd_imagenet": Training(
        65,
        ((5, 0.01), (25, 0.002), (45, 0.0004), (65, 0.00008)),
        192,
        source="Feng et al., CVPR 2019, and its program; the same on Places205",
    ),
    "rotnet_imagenet": Training(
        35,
        ((5, 0.01), (15, 0.002), (25, 0.0004), (35, 0.00008)),
        192,
        source="Gidaris et al., ICLR 2018, and its program",
    ),
    "goyal_imagenet": Training(
        28,
        ((8, 0.01), (16, 0.001), (24, 0.0001), (28, 0.00001)),
        256,
        crop="resized",
        pooling="average",
        source="Goyal et al., ICCV 2019, in VISSL; of PIRL",
    ),
    "goyal_places205": Training(
        14,
        ((4, 0.01), (8, 0.001), (12, 0.0001), (14, 0.00001)),
        256,
        crop="resized",
        pooling="average",
        source="Goyal et al., ICCV 2019, in VISSL; of PIRL",
    ),
    "goyal_inaturalist2018": Training(
        84,
        ((24, 0.01), (48, 0.001), (72, 0.0001), (84, 0.00001)),
        256,
        crop="resized",
        pooling="average",
        source="Goyal et al., ICCV 2019, in VISSL; of PIRL",
    ),
    "rotnet_cifar10": Training(
        100,
        ((20, 0.1), (40, 0.02), (45, 0.004), (50, 0.0008)),
        128,
        source="schedule of RotNet's classifier with two hidden layers on CIFAR-10",
    ),
}

#: Heads with hidden layers.
NONLINEAR: dict[str, Training] = {
    "rfd_imagenet": Training(
        40,
        ((10, 0.01), (20, 0.002), (30, 0.0004), (40, 0.00008)),
        192,
        source="Feng et al., CVPR 2019, and Gidaris et al., ICLR 2018, and their programs",
    ),
    "rotnet_cifar10_hidden": Training(
        100,
        ((20, 0.1), (40, 0.02), (45, 0.004), (50, 0.0008)),
        128,
        source="Gidaris et al., ICLR 2018, and its program: two hidden layers",
    ),
    "rotnet_cifar10_conv": Training(
        100,
        ((35, 0.1), (70, 0.02), (85, 0.004), (100, 0.0008)),
        128,
        source="Gidaris et al., ICLR 2018, and its program: convolutional classifier",
    ),
    **{
        f"aet_cifar10_{head}": Training(
            200,
            ((100, 0.1), (150, 0.01), (200, 0.001)),
            128,
            source=f"Zhang et al., CVPR 2019, and its program: {kind}",
        )
        for head, kind in {
            "linear": "MultLayerFC1",
            "hidden": "MultLayerFC2, one hidden layer",
            "two_hidden": "MultLayer, two hidden layers",
            "conv": "NIN_ConvBlock3, convolutional classifier",
        }.items()
    },
}


def find(kind: str, name: str, table: dict[str, Training]) -> Training:
    """Returns a protocol by name.

    >>> find("linear protocol", "rfd_imagenet", LINEAR).epochs
    65
    """
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]


def pooled_size(channels: int) -> int:
    """Returns the side of a map of so many channels with about 9,000 numbers.

    The published sizes follow from it: 12, 7, 5, 6, 6 for AlexNet's convolutions (RFD, RotNet),
    12, 6, 4, 3, 2 for the stages of ResNet-50 (Goyal et al.).

    >>> [pooled_size(channels) for channels in (64, 192, 384, 256, 256)]
    [12, 7, 5, 6, 6]
    """
    return max(1, round(math.sqrt(9216 / channels)))
