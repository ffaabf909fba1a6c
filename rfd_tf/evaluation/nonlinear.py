"""Heads with hidden layers on frozen feature maps, as RotNet and RFD report them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from rfd_tf import applications
from rfd_tf.applications.endpoints import endpoint_output
from rfd_tf.errors import UserError
from rfd_tf.evaluation import supervised
from rfd_tf.evaluation.base import Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.protocols import NONLINEAR, find

# The first hidden layer of wider maps would have hundreds of millions of weights.
_WIDEST = 65_536
# Hidden dense layers of each protocol; the others are convolutional.
_HIDDEN_LAYERS = {
    "rfd_imagenet": 2,
    "rotnet_cifar10_hidden": 2,
    "aet_cifar10_linear": 0,
    "aet_cifar10_hidden": 1,
    "aet_cifar10_two_hidden": 2,
}


class NonlinearProbes(Task):
    """Task: accuracy of heads with hidden layers on frozen maps, all trained together.

    The protocols, each without bias before batch normalisation and with ReLU after it:

    - "rfd_imagenet", on `conv4` and `conv5` of AlexNet: a 3x3 convolution of as many channels
      (`conv4` only), 3x3 max-pooling of step 2, two dense layers of 4,096, a dense layer.
    - "rotnet_cifar10_hidden", on `block2`: two dense layers of 20 times the classes (2,048 at
      most), a dense layer.
    - "rotnet_cifar10_conv", on `block2`: convolutions 3x3, 1x1, 1x1 of 192 channels, global
      average pooling, a dense layer.
    - "aet_cifar10_hidden", on `block2`: one dense layer of 20 times the classes, a dense layer;
      "aet_cifar10_two_hidden" and "aet_cifar10_conv" are the heads of RotNet, trained as AET's
      program trains them; "aet_cifar10_linear" is batch normalisation without scale and shift
      and a dense layer.

    Sources: Gidaris et al., ICLR 2018, Feng et al., CVPR 2019, and Zhang et al., CVPR 2019, and
    their programs (`NonLinearClassifier`).

    Args:
        protocol: one of the above, such as rfd_imagenet or aet_cifar10_conv; see
            `rfd_tf.evaluation.protocols.NONLINEAR`.
        epochs: None for the protocol's own; its schedule is stretched or shortened.
        hidden: units of the dense layers, in protocols that have them; None for the protocol's own.
        endpoints: feature maps instead of those above.

    >>> NonlinearProbes("rotnet_cifar10_conv").protocol(None)["batch_size"]
    128
    """

    name = "nonlinear"

    def __init__(
        self,
        protocol: str = "rotnet_cifar10_conv",
        epochs: int | None = None,
        hidden: int | None = None,
        endpoints: Sequence[str] | None = None,
    ):
        self.training = find("nonlinear protocol", protocol, NONLINEAR).with_epochs(epochs)
        if hidden is not None and hidden < 1:
            raise UserError(f"hidden layers have 1 unit or more; got {hidden}")
        if hidden is not None and not _HIDDEN_LAYERS.get(protocol):
            choices = ", ".join(name for name, layers in _HIDDEN_LAYERS.items() if layers)
            raise UserError(
                f"hidden {hidden} has no effect in nonlinear protocol '{protocol}', which has no "
                f"hidden dense layer; leave it out, or choose one of {choices}"
            )
        self.protocol_name, self.hidden = protocol, hidden
        usual = ("conv4", "conv5") if protocol == "rfd_imagenet" else ("block2",)
        self.endpoints = tuple(endpoints or usual)

    def protocol(self, data: Data | None) -> dict:
        described = {"protocol": self.protocol_name, "endpoints": list(self.endpoints)}
        if self.hidden is not None:
            described["hidden"] = self.hidden
        return {**described, **self.training.describe()}

    def check(self, subject: Subject, data: Data | None) -> None:
        backbone = subject.network()
        layers = {layer.name for layer in backbone.layers}
        for name in self.endpoints:
            if name not in layers:
                raise UserError(
                    f"nonlinear protocol '{self.protocol_name}' is to look at '{name}', which this "
                    "network lacks; choose --endpoints out of "
                    f"{', '.join(applications.endpoints(backbone))}"
                )
            shape = endpoint_output(backbone, name).shape
            if len(shape) != 4:
                raise UserError(
                    f"endpoint '{name}' gives vectors; nonlinear heads take feature maps"
                )
            numbers = shape[1] * shape[2] * shape[3]
            dense = _HIDDEN_LAYERS.get(self.protocol_name) and self.protocol_name != "rfd_imagenet"
            if dense and numbers > _WIDEST:
                raise UserError(
                    f"endpoint '{name}' has {numbers} numbers, too many for dense layers; choose "
                    f"later --endpoints or protocol rotnet_cifar10_conv"
                )

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        backbone = subject.network()
        names = list(self.endpoints)
        tensors = {name: endpoint_output(backbone, name) for name in names}
        x, maps = supervised.frozen_features(backbone, tensors)
        logits = []
        for number, name in enumerate(names):
            seeds = iter(range(settings.seed + 100 * number, settings.seed + 100 * (number + 1)))
            logits.append(self._head(maps[name], name, data.num_classes, seeds))
        yield from supervised.train(
            keras.Model(x, ops.stack(logits, axis=1)),
            names,
            self.training,
            subject,
            data,
            settings,
            f"nonlinear {self.protocol_name}",
        )

    def _head(self, x: Any, name: str, classes: int, seeds: Iterator[int]) -> Any:
        layers = _HIDDEN_LAYERS.get(self.protocol_name)
        if layers is None:
            return convolutional_head(x, classes, seeds)
        hidden = self.hidden or min(20 * classes, 2048)
        if self.protocol_name == "rfd_imagenet":
            hidden = self.hidden or 4096
            if name == "conv4":
                x = _convolution(x, x.shape[-1], 3, seeds)
            x = keras.layers.MaxPooling2D(3, strides=2)(x)
        if not layers:
            x = supervised.batch_norm(x, affine=False)
        x = keras.layers.Flatten()(x)
        for _ in range(layers):
            x = keras.layers.Dense(
                hidden,
                use_bias=False,
                kernel_initializer=supervised.fan_out_normal(hidden, next(seeds)),
            )(x)
            x = ops.relu(supervised.batch_norm(x))
        return _classifier(x, classes, seeds)


def convolutional_head(x: Any, classes: int, seeds: Iterator[int]) -> Any:
    """Returns the logits of RotNet's convolutional classifier on a feature map.

    Convolutions 3x3, 1x1, 1x1 of 192 channels (the third block of its network-in-network), global
    average pooling, a dense layer.

    Args:
        x: Keras tensor `[B, H, W, C]`.
        classes: number of logits.
        seeds: of the initial weights, four of them.

    Returns:
        Keras tensor `[B, classes]`.
    """
    for kernel_size in (3, 1, 1):
        x = _convolution(x, 192, kernel_size, seeds)
    return _classifier(ops.mean(x, axis=(1, 2)), classes, seeds)


def _classifier(x: Any, classes: int, seeds: Iterator[int]) -> Any:
    initializer = supervised.fan_out_normal(classes, next(seeds))
    return keras.layers.Dense(classes, kernel_initializer=initializer)(x)


def _convolution(x: Any, channels: int, kernel_size: int, seeds: Iterator[int]) -> Any:
    initializer = supervised.fan_out_normal(kernel_size**2 * channels, next(seeds))
    x = keras.layers.Conv2D(
        channels, kernel_size, padding="same", use_bias=False, kernel_initializer=initializer
    )(x)
    return ops.relu(supervised.batch_norm(x))
