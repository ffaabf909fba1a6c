"""The pretrained weights that come with the project: one record each."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from rfd_tf.errors import UserError
from rfd_tf.paths import shared_folders

#: Folders in which the files may lie: a checkout's, and where an installed package keeps its data.
PLACES = shared_folders("exported")


@dataclass(frozen=True)
class PretrainedWeights:
    """A weights file that comes with the project, and what is needed to use it.

    Attributes:
        name: `<backbone>.<tag>`.
        file: path below the folder of exported models.
        sha256: hexadecimal digest of the file, compared before it is read.
        preprocessing: `image_size` in pixels, and `mean` and `std` of the channels of pixels / 255.
        config: the flag file it was trained with.
        scores: name of a figure -> its value in percent, of the file as it is.
        licence: terms of use of the weights, and what is known of the images they come from.
    """

    name: str
    file: str
    sha256: str
    preprocessing: dict = field(default_factory=dict)
    config: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    licence: str = ""

    @property
    def backbone(self) -> str:
        """Key of `rfd_tf.applications.BACKBONES` that the weights belong to."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """The name without the backbone: what was trained on what."""
        return self.name.partition(".")[2]


_IMAGENET_NORMALIZATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

_CIFAR10_LICENCE = (
    "The weights are free to use under the project's MIT licence. They were trained on CIFAR-10 "
    "(Krizhevsky, 2009), whose images were collected from the web for research; their authors' "
    "rights are not settled."
)

_ALL: tuple[PretrainedWeights, ...] = (
    PretrainedWeights(
        name="six_layer.rfd_cifar10",
        file="six_layer_rfd_cifar10/backbone.weights.h5",
        sha256="d009cc9503acc357b16080bc1d5dca05272e17c885ac0b5a48ab1ded2298e34f",
        preprocessing={"image_size": 32, **_IMAGENET_NORMALIZATION},
        config="configs/cifar10_rfd_six_layer_24.cfg",
        # Trained on 25,000 train images; random init: 34.2, 40.5, 51.1, 25.6.
        scores={
            "knn f upright": 59.0,
            "linear f upright": 65.4,
            "linear block6 upright": 72.1,
            "linear f2 rotated": 58.7,
        },
        licence=_CIFAR10_LICENCE,
    ),
    PretrainedWeights(
        name="network_in_network.rfd_cifar10",
        file="network_in_network_rfd_cifar10/backbone.weights.h5",
        sha256="4f65ff63d2c3c52b91580ae79b6d8ddb30f8cbe559cf3234e8ed0151e014d4b5",
        preprocessing={"image_size": 32, **_IMAGENET_NORMALIZATION},
        config="configs/cifar10_rfd_nin.cfg",
        # Trained on 25,000 train images; random init: 37.3, 43.3, 58.8, 26.2.
        scores={
            "knn f upright": 56.8,
            "linear f upright": 64.3,
            "linear block2 upright": 76.9,
            "linear f2 rotated": 63.2,
        },
        licence=_CIFAR10_LICENCE,
    ),
)

#: Every shipped file by its full name. Of a tag that several backbones have, the first counts.
WEIGHTS: dict[str, PretrainedWeights] = {entry.name: entry for entry in _ALL}


def tags() -> list[str]:
    """Returns the tags that there are, each once."""
    return list(dict.fromkeys(entry.tag for entry in WEIGHTS.values()))


def find(name: str | os.PathLike, backbone: str | None = None) -> PretrainedWeights | None:
    """Returns the record of shipped weights, or None where no shipped weights have that name.

    Args:
        name: a full name (`six_layer.rfd_cifar10`) or a tag (`rfd_cifar10`).
        backbone: key of `BACKBONES`, for which the weights are wanted; for a tag without one, the
            first backbone in `WEIGHTS` that has the tag is taken.

    Raises:
        UserError: the tag exists, but not for this backbone.
    """
    if not isinstance(name, str):
        return None
    if name in WEIGHTS:
        return WEIGHTS[name]
    tagged = [entry for entry in WEIGHTS.values() if entry.tag == name]
    if not tagged or backbone is None:
        return tagged[0] if tagged else None
    for entry in tagged:
        if entry.backbone == backbone:
            return entry
    having = ", ".join(entry.backbone for entry in tagged)
    raise UserError(f"weights '{name}' ship for {having}, not for {backbone}")


def path_of(file: str) -> Path:
    """Returns the path of a shipped file.

    Raises:
        UserError: it is in none of the places.
    """
    for place in PLACES:
        if (place / file).is_file():
            return place / file
    places = " or ".join(f"'{place}'" for place in PLACES)
    raise UserError(f"the shipped file {file} is missing: it is not in {places}")
