"""NetworkInNetwork: the network that RotNet trains on CIFAR images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rfd_tf.applications import building
from rfd_tf.applications import weights as weight_files
from rfd_tf.errors import UserError, unknown

MIN_SIZE = 4
DEFAULT_SIZE = 32


def NetworkInNetwork(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: Any = "softmax",
    name: str = "network_in_network",
    blocks: int = 4,
    width: float = 1.0,
    sobel: bool = False,
    initialization: str = "fan_in_uniform",
) -> keras.Model:
    """Builds RotNet's network-in-network for 32-pixel images.

    Every block is a spatial convolution and two 1x1 convolutions, each without bias and with
    batch normalisation and ReLU. A 3x3 max-pooling of step 2 ends block 1, a 3x3 average
    pooling of step 2 (which counts the zeros of its border) ends block 2; further blocks stay
    at a quarter of the image's side. Endpoints are `block1` to `block4`, those of blocks 1 and 2
    after the pooling. The features of block 2, 192 x 8 x 8 values for a 32-pixel image, serve
    best after rotation training. Source: Gidaris et al., ICLR 2018, arXiv 1803.07728, and its
    published program.

    Args:
        include_top: whether to end in global average pooling and a dense layer `predictions`.
        weights: None for random initialisation, the path of a `.weights.h5` file (or of the run
            folder that holds it), or the name of shipped weights.
        input_tensor: Keras tensor `[B, H, W, C]` to build on.
        input_shape: `(height, width, channels)`, at least 4 pixels a side; without it
            `(32, 32, 3)` with the top and `(None, None, 3)` otherwise. Values are those of
            `preprocess_input`.
        pooling: without the top, None for the map `[B, H/4, W/4, 192]`, `"avg"` or `"max"` for
            its global average or maximum `[B, 192]`.
        classes: outputs of the top.
        classifier_activation: activation of the top, None for logits.
        name: the model's name.
        blocks: 3, 4 or 5.
        width: multiplies every number of channels.
        sobel: whether fixed Sobel filters come first, so that it sees edges in grey; see
            `building.sobel`.
        initialization: of the convolutions: "fan_in_uniform", PyTorch's, which RotNet's program
            begins with; or "fan_out_normal", N(0, sqrt(2 / (kernel area * filters))), as AET's.

    Returns:
        A functional `keras.Model`.

    Raises:
        UserError: an option that does not exist, a size too small, weights that do not fit.

    >>> model = NetworkInNetwork(include_top=False, input_shape=(32, 32, 3))
    >>> model.output_shape
    (None, 8, 8, 192)
    """
    if blocks not in (3, 4, 5):
        raise UserError(f"blocks must be 3, 4 or 5, not {blocks!r}")
    if initialization not in building.INITIALIZERS:
        raise unknown("initialization", initialization, building.INITIALIZERS)
    building.check_top(include_top, pooling, classes)
    x, inputs = building.image_input(
        input_tensor,
        input_shape,
        backbone="network_in_network",
        min_size=MIN_SIZE,
        default_size=DEFAULT_SIZE,
        fixed_size=False if not include_top else input_shape is None,
    )
    if sobel:
        x = building.sobel(x)
    for number in range(1, blocks + 1):
        block = f"block{number}"
        channels = (192, 160, 96) if number == 1 else (192, 192, 192)
        kernel_size = 5 if number <= 2 else 3
        for step, filters in enumerate(channels, start=1):
            x = building.convolution(
                x,
                building.scaled(filters, width),
                kernel_size if step == 1 else 1,
                name=f"{block}_conv{step}",
                output_name=block if step == 3 and number > 2 else None,
                initializer=building.INITIALIZERS[initialization](),
            )
        # Zeros all round, then a pooling without padding: the same for the maximum, since a
        # ReLU came before, and what PyTorch's average does.
        if number <= 2:
            x = keras.layers.ZeroPadding2D(1, name=f"{block}_pad")(x)
        if number == 1:
            x = keras.layers.MaxPooling2D(3, strides=2, name=block)(x)
        elif number == 2:
            x = keras.layers.AveragePooling2D(3, strides=2, name=block)(x)
    x = building.top_or_pooling(
        x,
        include_top=include_top,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
    )
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        arguments = {"blocks": blocks, "width": width, "sobel": sobel}
        defaults = building.own_defaults(NetworkInNetwork)
        weight_files.load_into(model, weights, "network_in_network", arguments, defaults)
    return model
