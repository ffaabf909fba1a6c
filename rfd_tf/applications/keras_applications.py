"""The convolutional networks of `keras.applications`, by name, under this package's convention."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from rfd_tf.applications import building
from rfd_tf.applications import weights as weight_files
from rfd_tf.applications.cloning import with_stable_names
from rfd_tf.applications.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from rfd_tf.errors import UserError
from rfd_tf.layers.batch_norm import batch_normalizations

# Smallest side in pixels; the others take 32.
MIN_SIZES = {"inception_resnet_v2": 75, "inception_v3": 75, "xception": 71}
DEFAULT_SIZES = {
    "inception_resnet_v2": 299, "inception_v3": 299, "xception": 299, "nasnet_large": 331,
    "efficientnet_b1": 240, "efficientnet_b2": 260, "efficientnet_b3": 300,
    "efficientnet_b4": 380, "efficientnet_b5": 456, "efficientnet_b6": 528,
    "efficientnet_b7": 600, "efficientnet_v2_b1": 240, "efficientnet_v2_b2": 260,
    "efficientnet_v2_b3": 300, "efficientnet_v2_s": 384, "efficientnet_v2_m": 480,
    "efficientnet_v2_l": 480,
}  # fmt: skip

# What networks with scaling inside make of pixels 0-255: (divisor, offset).
INNER_SCALING = {
    "efficientnet_v2_s": (128.0, -1.0),
    "efficientnet_v2_m": (128.0, -1.0),
    "efficientnet_v2_l": (128.0, -1.0),
    "mobilenet_v3_large": (127.5, -1.0),
    "mobilenet_v3_small": (127.5, -1.0),
}


def snake_case(name: str) -> str:
    """Returns the snake-case name of a network of `keras.applications`.

    >>> [snake_case(n) for n in ("MobileNetV2", "ResNet50V2", "EfficientNetV2B0", "ConvNeXtXLarge")]
    ['mobilenet_v2', 'resnet50_v2', 'efficientnet_v2_b0', 'convnext_xlarge']
    """
    name = re.sub(r"(?<=[A-Za-z])Ne(X)?t", lambda m: "next" if m[1] else "net", name)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def constructors() -> dict[str, Callable[..., keras.Model]]:
    """Returns every network of the installed `keras.applications`, snake-case name -> constructor.

    Each takes the arguments of the Keras function of its name, `fused_batch_norm=True` and
    `batch_norm_epsilon=None` (the network's own); unlike there, `weights` is None by default or
    the path of a `.weights.h5` file, and the input is what `preprocess_input` of this package
    gives, also for the networks that scale pixels inside.
    """
    return {name: _constructor(name, function) for name, function in _functions().items()}


def has_imagenet(backbone: str) -> bool:
    """Whether a backbone is a network of `keras.applications`.

    >>> has_imagenet("mobilenet_v2"), has_imagenet("six_layer")
    (True, False)
    """
    return backbone in _functions()


def imagenet(
    backbone: str, network: keras.Model, options: dict[str, Any]
) -> tuple[list[np.ndarray], dict[str, list[float]] | None]:
    """Returns the ImageNet weights of a network of `keras.applications`, which Keras downloads.

    Networks whose weights expect BGR have their first kernels mirrored, so that they take RGB.

    Args:
        backbone: its name in `BACKBONES`.
        network: the network as this package builds it.
        options: the options it was built with.

    Returns:
        The arrays in the order of `network.get_weights()`, and `mean` and `std` of the pixels that
        they expect; None where those are this package's own.

    Raises:
        UserError: Keras cannot download them, or has none for these options.
    """
    function = _functions()[backbone]
    known = inspect.signature(function).parameters
    given = {name: value for name, value in options.items() if name in known}
    if "include_preprocessing" in known:
        given["include_preprocessing"] = False
    theirs = downloaded(backbone, network.input_shape[1:], "give init_weights a file", **given)
    values = theirs.get_weights()
    if [value.shape for value in values] != [tuple(w.shape) for w in network.weights]:
        raise UserError(f"the ImageNet weights of Keras do not fit backbone {backbone} as built")
    mirrored, normalization = _expected_pixels(function)
    if mirrored:
        place = next(i for i, v in enumerate(values) if v.ndim == 4 and v.shape[2] == 3)
        values[place] = values[place][:, :, ::-1]
    return values, normalization


def downloaded(
    backbone: str, input_shape: tuple[int, int, int], way_out: str, **options: Any
) -> keras.Model:
    """Returns a network of `keras.applications` as Keras builds it, with its ImageNet weights.

    Args:
        backbone: its name in `BACKBONES`.
        input_shape: of its images.
        way_out: what else to do, for the error.
        **options: of the function of `keras.applications`.

    Raises:
        UserError: Keras cannot download the weights, or has none for these options.
    """
    function = _functions()[backbone]
    try:
        return function(include_top=False, weights="imagenet", input_shape=input_shape, **options)
    # (Keras raises a plain Exception where a download fails.)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the ImageNet weights of {backbone} cannot be loaded ({reason}); Keras downloads them "
            "once to ~/.keras/models: check the connection and the options of the network, or "
            f"{way_out}"
        ) from error


def preprocessing(backbone: str) -> Callable[..., Any]:
    """Returns Keras' own preprocessing of pixels for a network of `keras.applications`."""
    return _preprocessing_of(_functions()[backbone])


def _preprocessing_of(function: Callable[..., Any]) -> Callable[..., Any]:
    return sys.modules[function.__module__].preprocess_input


def _functions() -> dict[str, Callable[..., keras.Model]]:
    return {
        snake_case(name): function
        for name, function in inspect.getmembers(keras.applications, inspect.isfunction)
        if name[0].isupper() and "input_shape" in inspect.signature(function).parameters
    }


def _expected_pixels(function: Callable[..., Any]) -> tuple[bool, dict[str, list[float]] | None]:
    """Whether a network's weights expect BGR, and the mean and std of what they expect.

    Both are measured on the network's own `preprocess_input`, which is affine.
    """
    preprocess = _preprocessing_of(function)

    def of(pixel: np.ndarray) -> np.ndarray:
        return np.asarray(preprocess(pixel.astype("float64").reshape(1, 1, 1, 3))).reshape(3)

    offset = of(np.zeros(3))
    slopes = np.stack([(of(255 * row) - offset) / 255 for row in np.eye(3)])
    if np.array_equal(slopes, np.eye(3)) and not offset.any():
        return False, None  # normalisation is inside, and built for this package's pixels
    order = np.abs(slopes).argmax(axis=1)
    scale, offset = slopes[range(3), order], offset[order]
    std = 1 / (255 * scale)
    return bool(order[0]), {"mean": (-offset * std).tolist(), "std": std.tolist()}


def _constructor(backbone: str, function: Callable[..., Any]) -> Callable[..., keras.Model]:
    parameters = inspect.signature(function).parameters
    defaults = {
        option: parameter.default
        for option, parameter in parameters.items()
        if option not in (*building.COMMON, "include_preprocessing")
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }

    def construct(
        include_top: bool = True,
        weights: str | None = None,
        input_tensor: Any = None,
        input_shape: Sequence[int | None] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: Any = "softmax",
        name: str | None = None,
        fused_batch_norm: bool = True,
        batch_norm_epsilon: float | None = None,
        **options: Any,
    ) -> keras.Model:
        for option in options:
            if option not in defaults:
                known = ", ".join(["fused_batch_norm", "batch_norm_epsilon", *defaults])
                raise UserError(f"{backbone} has no option '{option}'; options: {known}")
        options = {**defaults, **options}
        building.check_top(include_top, pooling, classes)
        if weights == "imagenet":
            raise UserError(
                "weights='imagenet' is not offered: those weights expect Keras' own scaling of "
                f"pixels; use keras.applications.{function.__name__} for them, or give the path "
                "of a .weights.h5 file (a pretraining starts from them by init_weights='imagenet')"
            )
        image, inputs = building.image_input(
            input_tensor,
            input_shape,
            backbone=backbone,
            min_size=MIN_SIZES.get(backbone, 32),
            default_size=DEFAULT_SIZES.get(backbone, 224),
            fixed_size=include_top,
        )
        if image.shape[-1] != 3:
            raise UserError(f"backbone {backbone} takes 3 channels, not {image.shape[-1]}")
        keras_options = dict(options)
        if name is not None and "name" in parameters:
            keras_options["name"] = name
        if "include_preprocessing" in parameters:
            keras_options["include_preprocessing"] = False
        try:
            model = function(
                include_top=include_top,
                weights=None,
                input_tensor=_undo_normalization(image, backbone),
                input_shape=tuple(image.shape[1:]),
                pooling=pooling,
                classes=classes,
                classifier_activation=classifier_activation,
                **keras_options,
            )
        except (ValueError, TypeError) as error:
            raise UserError(f"{backbone}: {' '.join(str(error).split())}") from error
        # Keras puts the one input into a list there, and then expects a list.
        model = keras.Model(inputs, model.output, name=model.name)
        model = with_stable_names(model, inputs, fused_batch_norm)
        if batch_norm_epsilon is not None:
            _set_epsilon(model, batch_norm_epsilon)
        if weights is not None:
            own = {**options, "batch_norm_epsilon": batch_norm_epsilon}
            weight_files.load_into(model, weights, backbone, own, building.own_defaults(construct))
        else:
            _set_inner_normalization(model)
        return model

    construct.__name__ = construct.__qualname__ = function.__name__
    construct.__doc__ = (
        f"Builds `keras.applications.{function.__name__}` for input from `preprocess_input`.\n\n"
        f"The arguments of the Keras function; `weights` is None or a path,\n"
        f"`fused_batch_norm=False` keeps the stock batch normalisation and dropout, and\n"
        f"`batch_norm_epsilon` (above 0) replaces the epsilon of each one where it is not None. At "
        f"least "
        f"{MIN_SIZES.get(backbone, 32)} pixels a side."
    )
    signature = inspect.signature(construct)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    extra = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=value)
        for option, value in defaults.items()
    ]
    construct.__signature__ = signature.replace(parameters=[*named, *extra])
    return construct


def _undo_normalization(image: Any, backbone: str) -> Any:
    """Turns normalised input back into what the network takes, where it scales pixels itself.

    A network whose inside normalises by the same constants is built without that part instead;
    then there is nothing to undo. Either way `network(preprocess_input(pixels))` is what the Keras
    function of the same weights makes of the pixels.
    """
    if backbone.startswith("efficientnet_b"):
        divisor, offset = 1.0, 0.0
    elif backbone in INNER_SCALING:
        divisor, offset = INNER_SCALING[backbone]
    else:
        return image
    return keras.layers.Rescaling(
        scale=[255 * std / divisor for std in IMAGENET_STD],
        offset=[255 * mean / divisor + offset for mean in IMAGENET_MEAN],
        name="undo_normalization",
    )(image)


def _set_epsilon(model: keras.Model, epsilon: Any) -> None:
    number = isinstance(epsilon, (int, float)) and not isinstance(epsilon, bool)
    if not (number and 0 < epsilon < 1):
        raise UserError(f"batch_norm_epsilon must be a number above 0 and below 1, not {epsilon!r}")
    for layer in batch_normalizations(model):
        layer.epsilon = float(epsilon)


def _set_inner_normalization(model: keras.Model) -> None:
    """Gives EfficientNet's own normalisation its constants, where Keras leaves 0 and 1."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            mean = np.asarray(IMAGENET_MEAN, "float32")
            variance = np.square(np.asarray(IMAGENET_STD, "float32"))
            layer.set_weights([mean, variance, np.asarray(0, "int32")])
            layer.finalize_state()
