"""Data-dependent rescaling of a pretrained network's weights before it is fine-tuned."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf.applications.endpoints import check_functional
from rfd_tf.errors import UserError

# Steps through which a positive factor of the input passes unchanged.
_HOMOGENEOUS = (
    keras.layers.InputLayer,
    keras.layers.ReLU,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Flatten,
    keras.layers.Dropout,
)


@dataclasses.dataclass
class _Unit:
    """A convolution or dense layer, and the batch normalisation that follows it, if any."""

    affine: Any
    normalisation: Any = None

    @property
    def output(self) -> Any:
        return (self.normalisation or self.affine).output

    def factors(self) -> np.ndarray:
        """What batch normalisation multiplies each channel by, `[C]`."""
        layer = self.normalisation
        if layer is None:
            return np.ones(self.affine.kernel.shape[-1], np.float32)
        gamma, variance = (
            ops.convert_to_numpy(each) for each in (layer.gamma, layer.moving_variance)
        )
        return gamma / np.sqrt(variance + layer.epsilon)

    def scale(self, output: float, inputs: float) -> None:
        """Multiplies the output, where the input has been multiplied already."""
        kernel, bias = self.affine.kernel, self.affine.bias
        if self.normalisation is None:
            kernel.assign(kernel * (output / inputs))
            if bias is not None:
                bias.assign(bias * output)
            return
        kernel.assign(kernel / inputs)
        for weight in (self.normalisation.gamma, self.normalisation.beta):
            weight.assign(weight * output)


def check_rescalable(model: keras.Model) -> None:
    """Raises `UserError` unless `rescale_weights` can take a network.

    >>> from rfd_tf import applications
    >>> check_rescalable(applications.build("six_layer", 32))
    >>> check_rescalable(applications.build("resnet18", 32))
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: weights are rescaled in networks whose layers form a chain ...
    """
    _units(model)


def rescale_weights(
    model: keras.Model, images: np.ndarray, even_gradients: bool = True, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Rescales the layers of a network by the statistics of a batch, in place.

    Every layer k (a convolution or dense layer with its batch normalisation) gets one positive
    factor, and the layer after it the inverse one: with ReLUs and poolings between them, the
    network computes the same features in inference mode, up to one factor for all of them.

    1. Activations: the output of every layer, before its ReLU, gets the variance 1 over the batch
       (mean over the channels).
    2. Gradients (`even_gradients`): with the weights W_k as inference sees them, batch
       normalisation included, and the gradient of a random linear function of the output, a
       layer's rate of relative change is C_k = sqrt(mean((dl/dW_k)^2) / mean(W_k^2)). The factor
       sqrt(C_k / C), with C the geometric mean of all C_k, makes all rates C. The variance of the
       last layer stays 1; those of the others are then no longer 1.

    Args:
        model: functional, images to features; its layers form a chain. Its weights are changed.
        images: `[N, S, S, 3]`, normalised as the model takes them; some tens are enough.
        even_gradients: whether to take the second step.
        seed: of the random function.

    Returns:
        Layer -> {"factor": of its output, "std": of its output before, "rate": C_k before the
        second step (where it is taken)}.

    Raises:
        UserError: a network with branches or with layers that are not homogeneous, a layer that
            gives the same for all images, or values that are not finite.

    Source: Krähenbühl, Doersch, Donahue, Darrell, "Data-dependent Initializations of
    Convolutional Neural Networks", ICLR 2016 (within-layer and between-layer scales), and its
    program `magic_init`, which has the rates and factors of the second step.

    >>> from rfd_tf import applications
    >>> model = applications.build("six_layer", 16, pooling="avg")
    >>> images = np.random.default_rng(0).normal(size=(8, 16, 16, 3))
    >>> sorted(rescale_weights(model, images)["block1_conv"])
    ['factor', 'rate', 'std']
    """
    units = _units(model)
    images = np.asarray(images, np.float32)
    inner = keras.Model(model.inputs[0], [unit.output for unit in units])
    outputs = inner(images, training=False)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    stds = []
    for unit, output in zip(units, outputs, strict=True):
        values = ops.convert_to_numpy(ops.cast(output, "float32")).astype(np.float64)
        std = float(np.sqrt(values.reshape(-1, values.shape[-1]).var(axis=0).mean()))
        if not np.isfinite(std) or std == 0:
            raise UserError(
                f"layer '{unit.affine.name}' cannot be rescaled: the standard deviation of its "
                f"output over {len(images)} images is {std}"
            )
        stds.append(std)
    _scale(units, [1 / std for std in stds])
    found = {
        unit.affine.name: {"factor": 1 / std, "std": std}
        for unit, std in zip(units, stds, strict=True)
    }
    if even_gradients:
        rates = _rates(model, units, images, seed)
        steps = np.sqrt(rates / np.exp(np.log(rates).mean()))
        factors = np.cumprod(steps)
        _scale(units, factors.tolist())
        for unit, rate, factor in zip(units, rates, factors, strict=True):
            found[unit.affine.name]["rate"] = float(rate)
            found[unit.affine.name]["factor"] *= float(factor)
    return found


def _scale(units: list[_Unit], factors: list[float]) -> None:
    """Multiplies every unit's output by its factor, its inputs being the units before."""
    for unit, output, inputs in zip(units, factors, [1.0, *factors], strict=False):
        unit.scale(output, inputs)


def _rates(model: keras.Model, units: list[_Unit], images: np.ndarray, seed: int) -> np.ndarray:
    """C_k of every unit."""
    import tensorflow as tf

    kernels = [unit.affine.kernel.value for unit in units]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(kernels)
        output = tf.cast(model(images, training=False), tf.float32)
        noise = np.random.default_rng(seed).standard_normal(output.shape).astype(np.float32)
        value = tf.reduce_sum(output * noise)
    rates = []
    for unit, gradient in zip(units, tape.gradient(value, kernels), strict=True):
        factors = unit.factors()
        # Channels that batch normalisation switches off have no weights as inference sees them.
        used = factors != 0
        kernel = ops.convert_to_numpy(unit.affine.kernel)[..., used] * factors[used]
        gradient = ops.convert_to_numpy(gradient)[..., used] / factors[used]
        rate = np.sqrt(np.mean(np.square(gradient)) / np.mean(np.square(kernel)))
        if not np.isfinite(rate) or rate == 0:
            raise UserError(
                f"layer '{unit.affine.name}' cannot be rescaled: its relative gradient is {rate}"
            )
        rates.append(rate)
    return np.array(rates, np.float64)


def _units(model: keras.Model) -> list[_Unit]:
    check_functional(model)
    units: list[_Unit] = []
    before = None
    for step in model.operations:
        if not isinstance(step, keras.layers.InputLayer):
            inputs = keras.tree.flatten(step.input)
            if len(inputs) != 1 or inputs[0] is not before:
                raise _refused(step, "branches")
        before = step.output
        activation = getattr(step, "activation", None)
        linear = activation in (None, keras.activations.linear)
        if isinstance(step, (keras.layers.Conv2D, keras.layers.Dense)) and linear:
            # Filters that are fixed, such as Sobel's, are homogeneous and stay as they are.
            if step.trainable:
                units.append(_Unit(step))
            elif step.bias is not None:
                raise _refused(step, "is fixed and has a bias")
        elif isinstance(step, keras.layers.BatchNormalization):
            last = units[-1] if units else None
            follows = last is not None and step.input is last.affine.output
            if not follows or last.normalisation is not None or not (step.scale and step.center):
                raise _refused(step, "is no batch normalisation right after its layer")
            last.normalisation = step
        elif not isinstance(step, _HOMOGENEOUS) and not _is_relu(step):
            raise _refused(step, "is not homogeneous")
    if not units:
        raise UserError("there is no layer to rescale")
    return units


def _is_relu(step: Any) -> bool:
    activation = getattr(step, "activation", None)
    return isinstance(step, keras.layers.Activation) and activation is keras.activations.relu


def _refused(step: Any, reason: str) -> UserError:
    return UserError(
        "weights are rescaled in networks whose layers form a chain (alexnet, "
        f"network_in_network, six_layer); '{step.name}' {reason}"
    )
