"""SixLayer: a small convolutional network for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rfd_tf.applications import building
from rfd_tf.applications import weights as weight_files
from rfd_tf.errors import UserError

FILTERS = (16, 32, 32, 48, 48, 128)
MIN_SIZE = 4
DEFAULT_SIZE = 32


def SixLayer(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: Any = "softmax",
    name: str = "six_layer",
    filters: Sequence[int] = FILTERS,
    sobel: bool = False,
) -> keras.Model:
    """Builds six 3x3 convolutions with batch normalisation and ReLU, about 105k parameters.

    For 32-pixel images and a CPU: 2x2 max-pooling after the second and the fourth convolution
    leaves a map of a quarter of the image's side. Endpoints are `block1` to `block6`; those of
    blocks 2 and 4 are taken after the pooling.

    Args:
        include_top: whether to end in global average pooling and a dense layer `predictions`.
        weights: None for random initialisation, the path of a `.weights.h5` file (or of the run
            folder that holds it), or the name of shipped weights.
        input_tensor: Keras tensor `[B, H, W, C]` to build on.
        input_shape: `(height, width, channels)`, at least 4 pixels a side; without it
            `(32, 32, 3)` with the top and `(None, None, 3)` otherwise. Values are those of
            `preprocess_input`.
        pooling: without the top, None for the map `[B, H/4, W/4, 128]`, `"avg"` or `"max"` for
            its global average or maximum `[B, 128]`.
        classes: outputs of the top.
        classifier_activation: activation of the top, None for logits.
        name: the model's name.
        filters: the six numbers of output channels.
        sobel: whether fixed Sobel filters come first, so that it sees edges in grey; see
            `building.sobel`.

    Returns:
        A functional `keras.Model`.

    Raises:
        UserError: an option that does not exist, a size too small, weights that do not fit.

    >>> model = SixLayer(include_top=False, pooling="avg", input_shape=(32, 32, 3))
    >>> model.output_shape, model.count_params()
    ((None, 128), 105328)
    """
    if (
        not isinstance(filters, (list, tuple))
        or len(filters) != 6
        or not all(isinstance(n, int) and n > 0 for n in filters)
    ):
        raise UserError(f"filters must be six positive whole numbers, not {filters!r}")
    building.check_top(include_top, pooling, classes)
    x, inputs = building.image_input(
        input_tensor,
        input_shape,
        backbone="six_layer",
        min_size=MIN_SIZE,
        default_size=DEFAULT_SIZE,
        fixed_size=False if not include_top else input_shape is None,
    )
    if sobel:
        x = building.sobel(x)
    for number, channels in enumerate(filters, start=1):
        block = f"block{number}"
        pooled = number in (2, 4)
        x = building.convolution(
            x, channels, 3, name=f"{block}_conv", output_name=None if pooled else block
        )
        if pooled:
            x = keras.layers.MaxPooling2D(2, name=block)(x)
    x = building.top_or_pooling(
        x,
        include_top=include_top,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
    )
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        arguments = {"filters": list(filters), "sobel": sobel}
        defaults = building.own_defaults(SixLayer)
        weight_files.load_into(model, weights, "six_layer", arguments, defaults)
    return model
