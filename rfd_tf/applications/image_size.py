"""The same network on images of another size."""

from __future__ import annotations

import re
from typing import Any

import keras

from rfd_tf.applications.endpoints import check_functional
from rfd_tf.errors import UserError


def at_size(model: keras.Model, size: int) -> keras.Model:
    """Returns a model that applies the layers of `model` to images of another size.

    Args:
        model: a functional model on images `[B, H, W, C]`; its layers, and so its weights, are
            shared.
        size: side of the square images that the new model takes, pixels.

    Returns:
        A functional model, input `[B, size, size, C]`.

    Raises:
        UserError: layers that need the original size, such as dense ones on a whole map, or an
            image too small for the network.

    >>> from rfd_tf.applications import SixLayer
    >>> model = SixLayer(include_top=False, input_shape=(32, 32, 3))
    >>> small = at_size(model, 8)
    >>> small.output_shape, small.get_layer("block1_conv") is model.get_layer("block1_conv")
    ((None, 2, 2, 128), True)
    """
    check_functional(model)
    before = model.inputs[0]
    if before.shape[1] == before.shape[2] == size:
        return model
    inputs = keras.Input((size, size, before.shape[-1]), dtype=before.dtype)

    def same(layer: Any) -> Any:
        return layer

    def checked(layer: Any, *arguments: Any, **options: Any) -> Any:
        outputs = layer(*arguments, **options)
        # (Keras 3.12 says nothing of convolutions that leave no pixel.)
        if any(0 in tensor.shape for tensor in keras.tree.flatten(outputs)):
            raise ValueError(f"the size of {layer.name}'s map would be zero or negative")
        return outputs

    try:
        return keras.models.clone_model(
            model, input_tensors=inputs, clone_function=same, call_function=checked
        )
    except ValueError as error:
        raise UserError(
            f"{model.name} cannot take images of {size} x {size} pixels ({reason(error)}); choose "
            "larger ones, or an earlier endpoint (--feature_endpoint)"
        ) from None


def reason(error: Exception) -> str:
    """Returns the line of one of Keras' errors that says what is wrong, without its colours."""
    message = str(error)
    lines = [re.sub(r"\x1b\[\d+m", "", line).strip() for line in message.splitlines()]
    reasons = [line for line in lines if line and not line.startswith("Exception encountered")]
    return reasons[0] if reasons else message
