"""Figures that papers report, and the protocol each belongs to.

Figures whose source says "at second hand" were read in notes on the paper or in another paper's
table, the others in the paper itself. A figure is shown beside one's own only where task, protocol,
network and numbers of images and classes are the same (`comparable`); where a part of the protocol
is another, as in detection, `differs` says which.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from rfd_tf.applications.registry import default_arguments
from rfd_tf.applications.weights import WITHOUT_WEIGHTS
from rfd_tf.data.voc import VOC_CLASSES
from rfd_tf.evaluation.base import BEST_EPOCH, LAST_EPOCH

CIFAR10 = {"num_classes": 10, "num_train": 50_000, "num_test": 10_000}
IMAGENET = {"num_classes": 1000, "num_train": 1_281_167, "num_test": 50_000}
PLACES205 = {"num_classes": 205}
INATURALIST2018 = {"num_classes": 8142, "num_train": 437_513, "num_test": 24_426}


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
        images, metric, when: see `rfd_tf.evaluation.Result`; `when` is None where it was not
            said after which epoch, so that the figure belongs beside every one.
        differs: what of the protocol is not the same; empty where all is.
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
    when: str | None = BEST_EPOCH
    differs: str = ""


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
_RFD = "Feng, Xu, Tao, CVPR 2019, at second hand"
_AET = "Zhang, Qi, Wang, Luo, CVPR 2019, at second hand"
_NPID = "Wu, Xiong, Yu, Lin, CVPR 2018, at second hand"
_JIGSAW = "Noroozi, Favaro, ECCV 2016, at second hand"
_DEEP_CLUSTER = "Caron, Bojanowski, Joulin, Douze, ECCV 2018, at second hand"
# (None: the option must not have been given.)
_HIDDEN = {"protocol": "rotnet_cifar10_hidden", "epochs": 100, "hidden": None}
_CONV = {"protocol": "rotnet_cifar10_conv", "epochs": 100}
_AET_HIDDEN = {"protocol": "aet_cifar10_hidden", "epochs": 200, "hidden": None}
_AET_CONV = {"protocol": "aet_cifar10_conv", "epochs": 200}
_GOYAL = {"protocol": "goyal_imagenet", "epochs": 28}
_GOYAL_PLACES = {"protocol": "goyal_places205", "epochs": 14}
_GOYAL_INATURALIST = {"protocol": "goyal_inaturalist2018", "epochs": 84}
_LINEAR = {"protocol": "rfd_imagenet", "epochs": 65}
_VOC2007 = {"num_train": 5011, "num_test": 4952, "classes": list(VOC_CLASSES)}
_VOC2012 = {"num_test": 1449, "classes": ["background", *VOC_CLASSES]}
_OWN_PROBE = "the probe's training, its authors' own"
_BIGAN = "Donahue, Krähenbühl, Darrell, ICLR 2017"
_SOBEL = "edges (Sobel) as input"
_ONE_LAYER = "of one layer, which it is not said"


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


def _alexnet_linear(
    method: str,
    source: str,
    *percent: float,
    data: Mapping[str, int] = IMAGENET,
    bigger: bool = False,
    images: str = "upright",
    differs: str = "",
    random_init: Mapping[str, float] | None = None,
) -> Published:
    return Published(
        method,
        "AlexNet, bigger" if bigger else "AlexNet",
        source,
        "linear",
        _LINEAR,
        data,
        "alexnet",
        _layers("conv", *percent),
        {"bigger": True} if bigger else {},
        random_init or {},
        images,
        when=None,
        differs=differs,
    )


def _voc(
    method: str,
    source: str,
    classification: Mapping[str, float],
    detection: float | None = None,
    segmentation: float | None = None,
    bigger: bool = False,
    differs: str = "",
    random: tuple[Mapping[str, float], float] | None = None,
) -> Iterator[Published]:
    """An AlexNet on VOC2007 (classification, detection) and VOC2012 (segmentation), in percent."""
    random_classification, random_detection = random or ({}, None)
    tasks = (
        (
            "voc_classification",
            _VOC2007,
            classification,
            random_classification,
            "mean AP (11-point)",
            "schedule and crops of its own; which average precision is not said",
        ),
        (
            "detection",
            _VOC2007,
            {"all layers": detection},
            {"all layers": random_detection},
            "mean AP (11-point)",
            "Fast R-CNN, here RetinaNet",
        ),
        (
            "segmentation",
            _VOC2012,
            {"all layers": segmentation},
            {},
            "mean IoU",
            "fc6 and fc7 in the network; training images not known to be the same",
        ),
    )
    for task, protocol, values, random_values, metric, other in tasks:
        if all(value is not None for value in values.values()) and values:
            yield Published(
                method,
                "AlexNet, bigger" if bigger else "AlexNet",
                f"{source}, {task.removeprefix('voc_')} on VOC",
                task,
                protocol,
                {},
                "alexnet",
                _shares(values),
                {"bigger": True} if bigger else {},
                _shares(random_values),
                metric=metric,
                when=None,
                differs="; ".join(filter(None, [other, differs])),
            )


def _shares(percent: Mapping[str, float | None]) -> dict[str, float]:
    return {name: round(v / 100, 6) for name, v in percent.items() if v is not None}


def _resnet50_voc(method: str, svm: float, *coco: float) -> Iterator[Published]:
    yield Published(
        method,
        "ResNet-50",
        f"{_PIRL}, linear SVM on VOC07",
        "voc_classification",
        _VOC2007,
        {},
        "resnet50",
        {"svm, conv5_block3_out": round(svm / 100, 6)},
        metric="mean AP (11-point)",
        when="",
        differs=f"{_ONE_LAYER}, nor which average precision; costs to choose from",
    )
    for metric, value in zip(("COCO AP", "COCO AP50", "COCO AP75"), coco, strict=False):
        yield Published(
            method,
            "ResNet-50",
            f"{_PIRL}, detection on VOC07",
            "detection",
            _VOC2007,
            {},
            "resnet50",
            {"all layers": round(value / 100, 6)},
            metric=metric,
            when=None,
            differs="Faster R-CNN (C4), batch normalisation fixed, here RetinaNet",
        )


def _pirl_table(
    method: str, voc: float, places: float, inaturalist: float | None, *coco: float
) -> Iterator[Published]:
    """A row of PIRL's table of ResNet-50s on other data than ImageNet; last, detection on VOC07."""
    for percent, data, protocol, name in (
        (places, PLACES205, _GOYAL_PLACES, "Places205"),
        (inaturalist, INATURALIST2018, _GOYAL_INATURALIST, "iNaturalist 2018"),
    ):
        if percent is not None:
            yield Published(
                method,
                "ResNet-50",
                f"{_PIRL}, linear classifiers on {name}",
                "linear",
                protocol,
                data,
                "resnet50",
                {"conv5_block3_out": round(percent / 100, 6)},
                when=None,
                differs=_ONE_LAYER,
            )
    yield from _resnet50_voc(method, voc, *coco)


def _neighbours(
    network: str,
    backbone: str,
    percent: float,
    data: Mapping[str, int],
    temperature: float,
    arguments: Mapping[str, Any] | None = None,
) -> Published:
    return Published(
        "NPID",
        network,
        f"{_NPID}, nearest neighbours",
        "knn",
        {"k": 200, "temperature": temperature},
        data,
        backbone,
        {"embedding": round(percent / 100, 6)},
        arguments or {},
        when="",
        differs="the epoch that is best on the test images",
    )


def _aet_nin(method: str, hidden: float, conv: float) -> Iterator[Published]:
    other = "200 epochs, rate 0.1, a tenth of it from 100 and from 150"
    for protocol, value, random, differs in (
        (_AET_HIDDEN, hidden, {}, ""),
        (_AET_CONV, conv, {"block2": 0.7250}, ""),
        (_HIDDEN, hidden, {}, f"one hidden layer as its program has it, here two; {other}"),
        (_CONV, conv, {"block2": 0.7250}, other),
    ):
        yield Published(
            method,
            "NIN, 4 blocks",
            f"{_AET}, CIFAR-10",
            "nonlinear",
            protocol,
            CIFAR10,
            "network_in_network",
            {"block2": round(value / 100, 6)},
            {"blocks": 4},
            random_init=random,
            differs=differs,
        )


def _retrained(method: str, source: str, *percent: float, differs: str = "") -> Published:
    """AlexNet on ImageNet, frozen up to conv1 ... conv5, the rest trained from scratch."""
    return Published(
        method,
        "AlexNet",
        f"{source}, later layers retrained on ImageNet",
        "retrain",
        {},
        IMAGENET,
        "alexnet",
        _layers("conv", *percent),
        {"bigger": True},
        when=None,
        differs="; ".join(filter(None, [differs, "grouped convolutions; Caffe's schedule"])),
    )


def _few_labels(number: int, percent: float, supervised: float) -> Published:
    """RotNet's figure 5b, for one number of images a class."""
    return Published(
        "RotNet",
        "NIN, 4 blocks",
        f"{_ROTNET}, figure 5b",
        "semi_supervised",
        {"endpoint": "block2", "epochs": 100, "epoch_images": 50_000},
        CIFAR10,
        "network_in_network",
        _shares({"block2": percent, "supervised": supervised}),
        {"blocks": 4},
        images=f"{number} per class",
        differs="read off the plot, to about 1.5 points",
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
    _alexnet_linear(
        "RFD",
        f"{_RFD}, linear classifiers on ImageNet",
        *(19.3, 33.3, 40.8, 41.8, 44.3),
        random_init=_layers("conv", 11.6, 17.1, 16.9, 16.3, 14.1),
    ),
    _alexnet_linear(
        "RFD",
        f"{_RFD}, linear classifiers on ImageNet",
        *(20.8, 35.2, 41.8, 44.3, 44.4),
        bigger=True,
    ),
    _alexnet_linear(
        "RFD",
        f"{_RFD}, linear classifiers on ImageNet",
        *(22.2, 38.2, 45.7, 48.7, 48.3),
        bigger=True,
        images="10 crops",
    ),
    *(
        _alexnet_linear(f"RFD, {variant}", f"{_RFD}, table 4", *percent)
        for variant, percent in (
            ("rotation only", (18.8, 31.7, 38.7, 38.2, 36.5)),
            ("instance only", (18.3, 28.6, 33.0, 32.7, 32.9)),
            ("without PU weights", (19.3, 33.0, 40.7, 41.6, 44.0)),
            ("split at conv5", (19.6, 33.4, 40.2, 40.4, 41.0)),
            ("split at fc6", (19.4, 33.5, 40.8, 41.5, 42.6)),
        )
    ),
    _alexnet_linear(
        "RFD",
        f"{_RFD}, linear classifiers on Places205",
        *(22.9, 32.4, 36.6, 37.3, 38.6),
        data=PLACES205,
    ),
    _alexnet_linear(
        "RFD",
        f"{_RFD}, linear classifiers on Places205",
        *(24.0, 33.8, 37.5, 39.3, 38.9),
        data=PLACES205,
        bigger=True,
    ),
    _alexnet_linear(
        "RFD",
        f"{_RFD}, linear classifiers on Places205",
        *(25.5, 36.0, 40.1, 42.2, 41.3),
        data=PLACES205,
        bigger=True,
        images="10 crops",
    ),
    _alexnet_linear(
        "AET",
        f"{_AET}, linear classifiers on ImageNet",
        *(19.2, 32.8, 40.6, 39.7, 37.7),
    ),
    _alexnet_linear(
        "AET",
        f"{_AET}, linear classifiers on ImageNet",
        *(19.3, 35.4, 44.0, 43.6, 42.4),
        images="10 crops",
    ),
    _alexnet_linear(
        "AET",
        f"{_AET}, linear classifiers on Places205",
        *(22.1, 32.9, 37.1, 36.2, 34.7),
        data=PLACES205,
    ),
    Published(
        "AET",
        "AlexNet",
        f"{_AET}, non-linear classifiers on ImageNet",
        "nonlinear",
        {"protocol": "rfd_imagenet", "epochs": 40, "hidden": None},
        IMAGENET,
        "alexnet",
        {"conv4": 0.532, "conv5": 0.470},
        random_init={"conv4": 0.271, "conv5": 0.120},
        when=None,
        differs="50 epochs",
    ),
    *_aet_nin("AET (affine)", 90.23, 91.95),
    *_aet_nin("AET (projective)", 90.59, 92.18),
    _alexnet_linear(
        "NPID",
        f"{_NPID}, in the table of Feng, Xu, Tao, CVPR 2019",
        *(16.8, 26.5, 31.8, 34.1, 35.6),
        differs=_OWN_PROBE,
    ),
    _alexnet_linear(
        "Jigsaw",
        f"{_JIGSAW}, in the table of Feng, Xu, Tao, CVPR 2019",
        *(18.2, 28.8, 34.0, 33.9, 27.1),
        differs=f"grouped convolutions; {_OWN_PROBE}",
    ),
    _alexnet_linear(
        "DeepCluster",
        f"{_DEEP_CLUSTER}, linear classifiers on ImageNet",
        *(12.9, 29.2, 38.2, 39.8, 36.1),
        bigger=True,
        differs=f"{_SOBEL}; {_OWN_PROBE}",
    ),
    _alexnet_linear(
        "DeepCluster",
        f"{_DEEP_CLUSTER}, linear classifiers on ImageNet",
        *(13.4, 32.3, 41.0, 39.6, 38.2),
        bigger=True,
        images="10 crops",
        differs=f"{_SOBEL}; {_OWN_PROBE}",
    ),
    _alexnet_linear(
        "DeepCluster",
        f"{_DEEP_CLUSTER}, linear classifiers on Places205",
        *(18.6, 30.8, 37.0, 37.5, 33.1),
        data=PLACES205,
        bigger=True,
        differs=f"{_SOBEL}; {_OWN_PROBE}",
    ),
    _alexnet_linear(
        "ImageNet labels",
        f"in the table of {_RFD}",
        *(19.3, 36.3, 44.2, 48.3, 50.5),
    ),
    *_voc(
        "RFD",
        _RFD,
        {"fc6-8": 72.3, "all layers": 74.3},
        57.5,
        45.3,
        random=({"all layers": 53.3}, 43.4),
    ),
    *_voc("RFD", _RFD, {"fc6-8": 72.5, "all layers": 74.7}, 58.0, 45.9, bigger=True),
    *_voc("RotNet", _ROTNET, {"fc6-8": 70.87, "all layers": 72.97}, 54.4, 39.1),
    *_voc("AET", _AET, {}, 57.4),
    *_voc("NPID", _NPID, {}, 48.1),
    *_voc("Jigsaw", _JIGSAW, {"all layers": 67.6}, 53.2, 37.6, differs="grouped convolutions"),
    *_voc(
        "DeepCluster",
        _DEEP_CLUSTER,
        {"fc6-8": 72.0, "all layers": 73.7},
        55.4,
        45.1,
        bigger=True,
        differs=_SOBEL,
    ),
    *_voc(
        "ImageNet labels",
        f"in the table of {_RFD}",
        {"fc6-8": 78.9, "all layers": 79.9},
        59.1,
        48.0,
    ),
    *_voc(
        "BiGAN", _BIGAN, {"fc8": 37.5, "fc6-8": 48.7, "all layers": 58.9}, 46.2, 34.9, bigger=True
    ),
    _retrained("BiGAN", _BIGAN, 54.2, 51.9, 47.3, 41.9, 31.1),
    _retrained("BiGAN", _BIGAN, 53.5, 50.9, 47.4, 41.9, 32.2, differs="images of 112 pixels"),
    _retrained("Jigsaw", _JIGSAW, 54.7, 52.8, 49.7, 45.3, 34.6),
    _few_labels(20, 65, 38),
    _few_labels(100, 76, 63.5),
    _few_labels(400, 85, 78.7),
    _few_labels(1000, 86.5, 85.7),
    _few_labels(5000, 91.2, 92.8),
    *_pirl_table("ImageNet labels", 87.5, 51.5, 45.4, 43.8, 74.5, 45.9),
    *_pirl_table("Colorization", 55.6, 37.5, None),
    *_pirl_table("Rotation prediction", 63.9, 41.4, 23.0),
    *_pirl_table("Jigsaw", 64.5, 41.2, 21.3),
    *_pirl_table("NPID++", 76.6, 46.4, 32.4),
    *_pirl_table("PIRL (Rotation)", 77.1, 47.6, 31.2),
    *_pirl_table("PIRL (Jigsaw, 400 epochs)", 79.8, 48.5, 31.2),
    *_pirl_table("PIRL (Rotation + Jigsaw)", 80.3, 49.7, 33.6),
    *_pirl_table("PIRL (Jigsaw)", 81.1, 49.8, 34.1, 44.7, 73.4, 47.0),
    _neighbours("ResNet-18", "resnet18", 80.4, CIFAR10, 0.1, {"cifar_stem": True}),
    _neighbours("ResNet-18", "resnet18", 41.0, IMAGENET, 0.07),
    _neighbours("ResNet-50", "resnet50", 46.8, IMAGENET, 0.07),
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
    [0.9116, 0.9195, 0.9218]
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
