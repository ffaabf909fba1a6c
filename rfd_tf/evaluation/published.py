"""Results that papers report, and the protocol each belongs to.

Results whose source says "at second hand" were read in notes on the paper or in another paper's
table, the others in the paper itself. A result is shown beside one's own only where task, protocol,
network and numbers of images and classes are the same (`comparable`); where a part of the protocol
is another, as in detection, `differs` says which.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rfd_tf.applications.registry import default_arguments
from rfd_tf.applications.weights import WITHOUT_WEIGHTS
from rfd_tf.paths import shared_folders


@dataclasses.dataclass(frozen=True)
class Published:
    """Results of one method, network and protocol.

    Attributes:
        method: that was pretrained with.
        source: paper, and table or section.
        task: name in `TASKS`.
        protocol: entries that the task's own protocol must have; None: the option must not have
            been given.
        network: as the paper calls it.
        backbone, arguments: the network, by its name and the options that differ from its own.
        when: after which epoch, see `rfd_tf.evaluation.Result`; None where the paper does not say,
            so that the result belongs beside every one.
        values: feature -> result, in the metric's unit: accuracies from 0 to 1.
        random_init: feature -> that of the network with random weights, where it was reported.
        data: entries that the description of the images must have.
        images, metric: see `rfd_tf.evaluation.Result`.
        differs: what of the protocol is not the same; empty where all is.
    """

    method: str
    source: str
    task: str
    protocol: Mapping[str, Any]
    network: str
    backbone: str
    when: str | None
    values: Mapping[str, float]
    random_init: Mapping[str, float] = dataclasses.field(default_factory=dict)
    data: Mapping[str, int] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    images: str = "upright"
    metric: str = "accuracy"
    differs: str = ""


@functools.cache
def published() -> tuple[Published, ...]:
    """Returns the results in `research/published.json`; none where the file is not installed.

    >>> published()[0].method
    'RotNet'
    """
    for folder in shared_folders("research"):
        if (folder / "published.json").is_file():
            groups = json.loads((folder / "published.json").read_bytes())
            return tuple(_entries(groups))
    return ()


def _entries(groups: list[dict[str, Any]]) -> Iterator[Published]:
    for group in groups:
        for row in group.pop("results"):
            values = _shares(row.pop("percent"))
            random_init = _shares(row.pop("random_init", {}))
            yield Published(values=values, random_init=random_init, **row, **group)


def _shares(percent: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value / 100, 6) for name, value in percent.items()}


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
    >>> cifar10 = {"num_classes": 10, "num_train": 50_000, "num_test": 10_000}
    >>> network = {"backbone": "network_in_network", "arguments": {}}
    >>> [p.values["block2"] for p in comparable("nonlinear", protocol, cifar10, network)]
    [0.9116, 0.9195, 0.9218]
    >>> list(comparable("nonlinear", {**protocol, "epochs": 5}, cifar10, network))
    []
    """
    for entry in published():
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
