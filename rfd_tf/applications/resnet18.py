"""ResNet18, with the usual stem or the one for CIFAR-sized images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rfd_tf.applications import building
from rfd_tf.applications import weights as weight_files

FILTERS = (64, 128, 256, 512)
MIN_SIZE = 32
MIN_SIZE_CIFAR_STEM = 8
DEFAULT_SIZE = 224
DEFAULT_SIZE_CIFAR_STEM = 32


def ResNet18(
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "resnet18",
    cifar_stem: bool = False,
    width: float = 1.0,
    sobel: bool = False,
) -> keras.Model:
    """Builds ResNet18, layer for layer torchvision's.

    Endpoints: `stem` (after its pooling) and `block1` to `block4`, the ends of the four stages.
    Source: He et al., CVPR 2016; borders are padded on both sides alike, as in torchvision.

    Args:
        include_top: whether to end in global average pooling and a dense layer `predictions`.
        weights: None for random initialisation, the path of a `.weights.h5` file (or of the run
            folder that holds it), or the name of shipped weights.
        input_tensor: Keras tensor `[B, H, W, C]` to build on.
        input_shape: `(height, width, channels)`, at least 32 pixels a side, 8 with `cifar_stem`;
            without it 224 pixels (32 with `cifar_stem`) with the top and `(None, None, 3)`
            otherwise. Values are those of `preprocess_input`.
        pooling: without the top, None for the map `[B, H/32, W/32, 512]` (`H/8, W/8` with
            `cifar_stem`), `"avg"` or `"max"` for its global average or maximum `[B, 512]`.
        classes: outputs of the top.
        classifier_activation: activation of the top, None for logits.
        name: the model's name.
        cifar_stem: a 3x3 convolution of step 1 and no pooling in place of the 7x7 convolution of
            step 2 with max-pooling, for images of about 32 pixels.
        width: multiplies every number of channels.
        sobel: whether fixed Sobel filters come first, so that it sees edges in grey; see
            `building.sobel`.

    Returns:
        A functional `keras.Model`.

    Raises:
        UserError: an option that does not exist, a size too small, weights that do not fit.

    >>> model = ResNet18(include_top=False, cifar_stem=True, input_shape=(32, 32, 3))
    >>> model.output_shape
    (None, 4, 4, 512)
    """
    building.check_top(include_top, pooling, classes)
    x, inputs = building.image_input(
        input_tensor,
        input_shape,
        backbone="resnet18",
        min_size=MIN_SIZE_CIFAR_STEM if cifar_stem else MIN_SIZE,
        default_size=DEFAULT_SIZE_CIFAR_STEM if cifar_stem else DEFAULT_SIZE,
        fixed_size=False if not include_top else input_shape is None,
    )
    if sobel:
        x = building.sobel(x)
    filters = [building.scaled(channels, width) for channels in FILTERS]
    if cifar_stem:
        x = _convolution(x, filters[0], 3, name="stem_conv", output_name="stem")
    else:
        x = _convolution(x, filters[0], 7, name="stem_conv", strides=2, padding=3)
        x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = keras.layers.MaxPooling2D(3, strides=2, name="stem")(x)
    for stage, channels in enumerate(filters, start=1):
        for unit in (1, 2):
            strides = 2 if stage > 1 and unit == 1 else 1
            output_name = f"block{stage}" if unit == 2 else None
            x = _residual_unit(x, channels, strides, f"block{stage}_unit{unit}", output_name)
    x = building.top_or_pooling(
        x,
        include_top=include_top,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
    )
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        arguments = {"cifar_stem": cifar_stem, "width": width, "sobel": sobel}
        defaults = building.own_defaults(ResNet18)
        weight_files.load_into(model, weights, "resnet18", arguments, defaults)
    return model


def _convolution(x: Any, filters: int, kernel_size: int, **options: Any) -> Any:
    # Normal with variance 2 / fan_out, the residual network's own initialisation.
    initializer = keras.initializers.VarianceScaling(
        2.0, mode="fan_out", distribution="untruncated_normal"
    )
    return building.convolution(x, filters, kernel_size, initializer=initializer, **options)


def _residual_unit(x: Any, filters: int, strides: int, name: str, output_name: str | None) -> Any:
    """Adds two 3x3 convolutions and the shortcut round them."""
    shortcut = x
    if strides != 1:
        shortcut = _convolution(
            x,
            filters,
            1,
            name=f"{name}_shortcut",
            strides=strides,
            padding="valid",
            activation=False,
        )
    x = _convolution(
        x,
        filters,
        3,
        name=f"{name}_conv1",
        strides=strides,
        padding=1 if strides != 1 else "same",
    )
    x = _convolution(x, filters, 3, name=f"{name}_conv2", activation=False)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=output_name or f"{name}_relu")(x)
