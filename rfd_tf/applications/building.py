"""What every network of this package is built with: input, convolution unit, top."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from rfd_tf import keras_settings
from rfd_tf.errors import UserError, unknown
from rfd_tf.layers import BatchNormalization

POOLINGS = (None, "avg", "max")
#: The arguments that all networks have.
COMMON = (
    "include_top",
    "weights",
    "input_tensor",
    "input_shape",
    "pooling",
    "classes",
    "classifier_activation",
    "name",
)


def own_defaults(constructor: Callable[..., keras.Model]) -> dict[str, Any]:
    """Returns a network's own options (those beside the common ones) and their defaults."""
    return {
        option: parameter.default
        for option, parameter in inspect.signature(constructor).parameters.items()
        if option not in COMMON
    }


def fan_in_uniform() -> keras.initializers.Initializer:
    """Returns the initialiser of PyTorch's convolutions and linear layers.

    Uniform within `1 / sqrt(fan_in)`, which is what the published programs start from; the
    Glorot initialiser of Keras is larger.
    """
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


def fan_out_normal() -> keras.initializers.Initializer:
    """Returns the initialiser N(0, sqrt(2 / fan_out)), as AET's program has it.

    The fan of a convolution is the area of its kernel times its output channels. Source: He et
    al., ICCV 2015, and Zhang et al., CVPR 2019.
    """
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


#: Initialisers of convolutions, by name.
INITIALIZERS = {"fan_in_uniform": fan_in_uniform, "fan_out_normal": fan_out_normal}


def image_input(
    input_tensor: Any,
    input_shape: Sequence[int | None] | None,
    *,
    backbone: str,
    min_size: int,
    default_size: int,
    fixed_size: bool,
) -> tuple[Any, Any]:
    """Checks what the user gave as input and returns what the first layer is called on.

    Args:
        input_tensor: a Keras tensor `[B, H, W, C]` to build on, or None.
        input_shape: `(height, width, channels)` without the batch, or None.
        backbone: the network's name, for error messages.
        min_size: smallest height and width in pixels that leaves at least one value.
        default_size: height and width taken where none is given and one is needed.
        fixed_size: whether the network needs a known height and width.

    Returns:
        `(first, inputs)`: the tensor to call the first layer on, and the model's inputs.

    Raises:
        UserError: the shape is not that of an image, or too small for the network; Keras is set
            to channels_first or to another floatx than float32.
    """
    keras_settings.check_loaded()
    if input_tensor is not None:
        if not isinstance(input_tensor, keras.KerasTensor):
            raise UserError(
                f"input_tensor must be a Keras tensor such as keras.Input(shape=(H, W, 3)), "
                f"not {type(input_tensor).__name__}"
            )
        check_image_shape(input_tensor.shape[1:], backbone, min_size, fixed_size)
        sources = keras.utils.get_source_inputs(input_tensor)
        return input_tensor, sources[0] if len(sources) == 1 else sources
    if input_shape is None:
        size = default_size if fixed_size else None
        input_shape = (size, size, 3)
    check_image_shape(input_shape, backbone, min_size, fixed_size)
    tensor = keras.Input(shape=tuple(input_shape), name="image")
    return tensor, tensor


def check_image_shape(
    shape: Sequence[int | None], backbone: str, min_size: int, fixed_size: bool
) -> None:
    """Raises `UserError` unless `shape` is `(height, width, channels)` and large enough."""
    try:
        height, width, channels = shape
    except (TypeError, ValueError):
        raise UserError(f"input_shape must be (height, width, channels), not {shape!r}") from None
    if not isinstance(channels, int) or channels < 1:
        raise UserError(f"input_shape must end in a number of channels, not {tuple(shape)}")
    if fixed_size and (height is None or width is None):
        raise UserError(
            f"backbone {backbone} needs a known image size here, not {tuple(shape)}: give "
            "input_shape=(height, width, 3)"
        )
    for size in (height, width):
        if size is not None and size < min_size:
            raise UserError(
                f"image_size {size} is too small for backbone {backbone}: at least {min_size}"
            )


def sobel(x: Any) -> Any:
    """Adds the fixed Sobel filters, the first layer of networks that are not to see colours.

    The mean of the channels is filtered for changes from right to left and from bottom to top,
    with zeros around. The layer is called `sobel`; its weights are never trained, and are stored
    with the others. Source: the published program of DeepCluster (Caron et al., ECCV 2018).

    Args:
        x: Keras tensor `[B, H, W, C]`, normalised pixels.

    Returns:
        Keras tensor `[B, H, W, 2]`.
    """
    channels = x.shape[-1]
    across = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]]) / channels
    kernel = np.repeat(np.stack([across, across.T], axis=-1)[:, :, None], channels, axis=2)
    return keras.layers.Conv2D(
        2,
        3,
        padding="same",
        use_bias=False,
        kernel_initializer=keras.initializers.Constant(kernel.tolist()),
        trainable=False,
        name="sobel",
    )(x)


def check_top(include_top: bool, pooling: str | None, classes: int) -> None:
    """Raises `UserError` for a `pooling` or a `classes` that does not exist."""
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, [str(option) for option in POOLINGS])
    if include_top and (not isinstance(classes, int) or classes < 1):
        raise UserError(f"classes must be a positive whole number, not {classes!r}")


def scaled(channels: int, width: float) -> int:
    """Returns `channels` times the width multiplier, at least 1."""
    if not isinstance(width, (int, float)) or isinstance(width, bool) or not 0 < width <= 64:
        raise UserError(f"width must be a number above 0 and at most 64, not {width!r}")
    return max(1, round(channels * width))


def convolution(
    x: Any,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    output_name: str | None = None,
    conv_name: str | None = None,
    strides: int = 1,
    padding: int | str = "same",
    use_bias: bool = False,
    activation: bool = True,
    initializer: Any = None,
) -> Any:
    """Adds convolution, batch normalisation and (unless refused) ReLU.

    Args:
        x: Keras tensor `[B, H, W, C]`.
        filters: output channels.
        kernel_size: height and width of the kernel.
        name: layers are called `<name>` (or `conv_name`), `<name>_bn` and `<name>_relu`.
        output_name: another name for the ReLU, where it is an endpoint.
        conv_name: another name for the convolution, where `<name>` is an endpoint's.
        strides: step of the kernel.
        padding: `"same"`, `"valid"`, or the zeros to put on each side. Where a step is taken,
            `"same"` pads the right and the bottom more; PyTorch's networks pad both sides
            alike, hence the number.
        use_bias: whether the convolution has a bias.
        activation: whether a ReLU follows.
        initializer: of the kernel; `fan_in_uniform` by default.

    Returns:
        Keras tensor `[B, H', W', filters]`.
    """
    if isinstance(padding, int):
        x = keras.layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
        padding = "valid"
    x = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer=initializer or fan_in_uniform(),
        name=conv_name or name,
    )(x)
    x = batch_norm(x, f"{name}_bn")
    if activation:
        x = keras.layers.ReLU(name=output_name or f"{name}_relu")(x)
    return x


def batch_norm(x: Any, name: str) -> Any:
    """Adds batch normalisation with PyTorch's constants (Keras' epsilon is 1e-3)."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def top_or_pooling(
    x: Any,
    *,
    include_top: bool,
    pooling: str | None,
    classes: int,
    classifier_activation: Any,
) -> Any:
    """Ends a network: classification layer, global pooling, or neither.

    Args:
        x: Keras tensor `[B, H, W, C]`, or `[B, D]`, which pooling leaves as it is.
        include_top: global average pooling and a dense layer `predictions`.
        pooling: None, `"avg"` or `"max"`; only read without top.
        classes: outputs of `predictions`.
        classifier_activation: activation of `predictions`; None for logits.

    Returns:
        Keras tensor: `[B, classes]`, `[B, C]`, or `x`.
    """
    is_map = len(x.shape) == 4
    if is_map and (include_top or pooling == "avg"):
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif is_map and pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
    if include_top:
        x = keras.layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=fan_in_uniform(),
            name="predictions",
        )(x)
    return x
