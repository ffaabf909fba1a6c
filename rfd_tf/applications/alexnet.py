"""AlexNet with batch normalisation, as Rotation Feature Decoupling and RotNet train it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rfd_tf.applications import building
from rfd_tf.applications import weights as weight_files
from rfd_tf.errors import UserError

FILTERS = (64, 192, 384, 256, 256)
BIGGER_FILTERS = (96, 256, 384, 384, 256)
KERNEL_SIZES = (11, 5, 3, 3, 3)
MIN_SIZE = 63
DEFAULT_SIZE = 224


def AlexNet(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "alexnet",
    bigger: bool = False,
    fully_connected: bool = True,
    width: float = 1.0,
    sobel: bool = False,
) -> keras.Model:
    """Builds the AlexNet of Rotation Feature Decoupling.

    Five convolutions with bias, batch normalisation and ReLU (no groups, no local response
    normalisation, no dropout), 3x3 max-pooling of step 2 after the first, second and fifth, then
    two dense layers of 4,096 without bias, with batch normalisation and ReLU. Endpoints: `conv1`
    to `conv5` (after the ReLU, before any pooling), `fc6`, `fc7`. Source: Feng, Xu, Tao, CVPR
    2019, and its published program.

    Args:
        include_top: whether to end in a dense layer `predictions` on `fc7`.
        weights: None for random initialisation, the path of a `.weights.h5` file (or of the run
            folder that holds it), or the name of shipped weights.
        input_tensor: Keras tensor `[B, H, W, C]` to build on.
        input_shape: `(height, width, channels)`, at least 63 pixels a side, known unless
            `fully_connected=False`; `(224, 224, 3)` without it (`(None, None, 3)` for the
            convolutions alone). Values are those of `preprocess_input`.
        pooling: None, `"avg"` or `"max"`; reads the map of the last pooling, and therefore has an
            effect only with `include_top=False, fully_connected=False`: `fc7` is a vector already.
        classes: outputs of the top.
        classifier_activation: activation of the top, None for logits.
        name: the model's name.
        bigger: 96-256-384-384-256 channels instead of 64-192-384-256-256.
        fully_connected: whether `fc6` and `fc7` belong to the network. The output without top is
            then `fc7` `[B, 4096]`, otherwise the last pooling `[B, 6, 6, 256]` (224 pixels).
        width: multiplies the channels of the convolutions and the size of `fc6` and `fc7`.
        sobel: whether fixed Sobel filters come first, so that it sees edges in grey; see
            `building.sobel`.

    Returns:
        A functional `keras.Model`.

    Raises:
        UserError: an option that does not exist, a size too small, weights that do not fit.

    >>> model = AlexNet(include_top=False, fully_connected=False, input_shape=(224, 224, 3))
    >>> model.output_shape
    (None, 6, 6, 256)
    """
    if include_top and not fully_connected:
        raise UserError("AlexNet's top takes fc7: include_top=True needs fully_connected=True")
    building.check_top(include_top, pooling, classes)
    x, inputs = building.image_input(
        input_tensor,
        input_shape,
        backbone="alexnet",
        min_size=MIN_SIZE,
        default_size=DEFAULT_SIZE,
        fixed_size=fully_connected,
    )
    if sobel:
        x = building.sobel(x)
    filters = BIGGER_FILTERS if bigger else FILTERS
    for number, (channels, kernel_size) in enumerate(
        zip(filters, KERNEL_SIZES, strict=True), start=1
    ):
        conv = f"conv{number}"
        x = building.convolution(
            x,
            building.scaled(channels, width),
            kernel_size,
            name=conv,
            conv_name=f"{conv}_conv",
            output_name=conv,
            strides=4 if number == 1 else 1,
            padding=2 if number == 1 else "same",
            use_bias=True,
        )
        if number in (1, 2, 5):
            x = keras.layers.MaxPooling2D(3, strides=2, name=f"pool{number}")(x)
    if fully_connected:
        x = keras.layers.Flatten(name="flatten")(x)
        for dense in ("fc6", "fc7"):
            x = keras.layers.Dense(
                building.scaled(4096, width),
                use_bias=False,
                kernel_initializer=building.fan_in_uniform(),
                name=f"{dense}_dense",
            )(x)
            x = building.batch_norm(x, f"{dense}_bn")
            x = keras.layers.ReLU(name=dense)(x)
    x = building.top_or_pooling(
        x,
        include_top=include_top,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
    )
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        arguments = {
            "bigger": bigger,
            "fully_connected": fully_connected,
            "width": width,
            "sobel": sobel,
        }
        defaults = building.own_defaults(AlexNet)
        weight_files.load_into(model, weights, "alexnet", arguments, defaults)
    return model
