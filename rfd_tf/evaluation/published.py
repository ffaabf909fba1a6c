"""Figures that papers report, and the protocol each belongs to.

Only what was read in the papers themselves. A figure is shown beside one's own only where task,
protocol, network and numbers of images and classes are the same (`comparable`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from rfd_tf.applications.registry import default_arguments
from rfd_tf.applications.weights import WITHOUT_WEIGHTS
from rfd_tf.evaluation.base import BEST_EPOCH, LAST_EPOCH

CIFAR10 = {"num_classes": 10, "num_train": 50_000, "num_test": 10_000}
IMAGENET = {"num_classes": 1000, "num_train": 1_281_167, "num_test": 50_000}
PLACES205 = {"num_classes": 205}


@dataclasses.dataclass(frozen=True)
class Published:
    """Figures of one method, network and protocol.

    Attributes:
        method: that was pretrained with.
        network: as the paper calls it.
        source: paper, and table or section.
        task: name in `TASKS`.
        protocol: entries that the task's own protocol must have.
        data: entries that the description of the images must have.
        backbone, arguments: the network, by its name and the options that differ from its own.
        values: feature -> figure, in the metric's unit: accuracies from 0 to 1.
        random_init: feature -> figure of the network with random weights, where it was reported.
        images, metric, when: see `rfd_tf.evaluation.Result`.
    """

    method: str
    network: str
    source: str
    task: str
    protocol: Mapping[str, Any]
    data: Mapping[str, int]
    backbone: str
    values: Mapping[str, float]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    random_init: Mapping[str, float] = dataclasses.field(default_factory=dict)
    images: str = "upright"
    metric: str = "accuracy"
    when: str = BEST_EPOCH


def _layers(prefix: str, *percent: float) -> dict[str, float]:
    """Layer names from 1 on with their figures as shares."""
    return {f"{prefix}{i}": round(value / 100, 6) for i, value in enumerate(percent, start=1)}


def _resnet50(*percent: float) -> dict[str, float]:
    """conv1 and the four stages, by the names that keras.applications gives their ends."""
    ends = "conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out"
    names = (*ends, "conv5_block3_out")
    return {name: round(v / 100, 6) for name, v in zip(names, percent, strict=True)}


_ROTNET = "Gidaris, Singh, Komodakis, ICLR 2018"
_PIRL = "Misra, van der Maaten, CVPR 2020"
# (None: the option must not have been given.)
_HIDDEN = {"protocol": "rotnet_cifar10_hidden", "epochs": 100, "hidden": None}
_CONV = {"protocol": "rotnet_cifar10_conv", "epochs": 100}
_GOYAL = {"protocol": "goyal_imagenet", "epochs": 28}


def _rotnet_blocks(blocks: int, *percent: float) -> Published:
    return Published(
        "RotNet",
        f"NIN, {blocks} blocks",
        f"{_ROTNET}, table 1",
        "nonlinear",
        _HIDDEN,
        CIFAR10,
        "network_in_network",
        _layers("block", *percent),
        {"blocks": blocks},
    )


def _pirl_layers(method: str, *percent: float) -> Published:
    return Published(
        method,
        "ResNet-50",
        f"{_PIRL}, accuracy by layer",
        "linear",
        _GOYAL,
        IMAGENET,
        "resnet50",
        _resnet50(*percent),
        when=LAST_EPOCH,
    )


#: RotNet's program keeps the epoch that is best on the test images, hence "best epoch".
PUBLISHED: tuple[Published, ...] = (
    _rotnet_blocks(3, 85.45, 88.26, 62.09),
    _rotnet_blocks(4, 85.07, 89.06, 86.21, 61.73),
    _rotnet_blocks(5, 85.04, 89.76, 86.82, 74.50, 50.37),
    Published(
        "RotNet",
        "NIN, 4 blocks",
        f"{_ROTNET}, table 3",
        "nonlinear",
        _CONV,
        CIFAR10,
        "network_in_network",
        {"block2": 0.9116},
        {"blocks": 4},
        random_init={"block2": 0.7250},
    ),
    Published(
        "RotNet",
        "AlexNet",
        f"{_ROTNET}, linear classifiers on ImageNet",
        "linear",
        {"protocol": "rotnet_imagenet", "epochs": 35},
        IMAGENET,
        "alexnet",
        _layers("conv", 18.8, 31.7, 38.7, 38.2, 36.5),
    ),
    Published(
        "RotNet",
        "AlexNet",
        f"{_ROTNET}, linear classifiers on Places205",
        "linear",
        {"protocol": "rotnet_imagenet", "epochs": 35},
        PLACES205,
        "alexnet",
        _layers("conv", 21.5, 31.0, 35.1, 34.6, 33.7),
    ),
    Published(
        "RotNet",
        "AlexNet",
        f"{_ROTNET}, non-linear classifiers on ImageNet",
        "nonlinear",
        {"protocol": "rfd_imagenet", "epochs": 40, "hidden": None},
        IMAGENET,
        "alexnet",
        {"conv4": 0.500, "conv5": 0.438},
    ),
    _pirl_layers("PIRL (Jigsaw)", 6.2, 30.0, 40.1, 56.6, 63.6),
    _pirl_layers("Jigsaw", 12.4, 28.0, 39.9, 45.7, 34.2),
    _pirl_layers("NPID++", 6.6, 27.4, 38.5, 53.1, 59.0),
)


def comparable(
    task: str, protocol: Mapping[str, Any], data: Mapping[str, Any], backbone: Mapping[str, Any]
) -> Iterator[Published]:
    """Yields what was published for the same task, protocol, numbers of images and network.

    Args:
        task: name in `TASKS`.
        protocol: of a report, that of the task.
        data: of a report.
        backbone: of a report: "backbone" and "arguments".

    >>> protocol = {"protocol": "rotnet_cifar10_conv", "epochs": 100, "momentum": 0.9}
    >>> network = {"backbone": "network_in_network", "arguments": {}}
    >>> [p.values["block2"] for p in comparable("nonlinear", protocol, CIFAR10, network)]
    [0.9116]
    >>> list(comparable("nonlinear", {**protocol, "epochs": 5}, CIFAR10, network))
    []
    """
    for entry in PUBLISHED:
        if (
            entry.task == task
            and _holds(protocol, entry.protocol)
            and _holds(data, entry.data)
            and backbone.get("backbone") == entry.backbone
            and _architecture(entry.backbone, backbone.get("arguments") or {})
            == _architecture(entry.backbone, entry.arguments)
        ):
            yield entry


def _holds(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(found.get(key) == value for key, value in wanted.items())


def _architecture(backbone: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    complete = {**default_arguments(backbone), **arguments}
    return {key: value for key, value in complete.items() if key not in WITHOUT_WEIGHTS}
