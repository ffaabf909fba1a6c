"""Everything in which training must follow the published RFD program to be that program."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from rfd_tf.applications import registry
from rfd_tf.applications.cloning import fuse_batch_normalization
from rfd_tf.errors import UserError
from rfd_tf.layers import BatchNormalization
from rfd_tf.layers.batch_norm import batch_normalizations
from rfd_tf.methods import RotationFeatureDecoupling, constructor_arguments
from rfd_tf.training.optimizers import SGD

#: The method whose published program this is, by name.
METHOD = "rfd"

GROUPS = ("method", "memory bank", "batch normalisation", "optimizer", "run")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One choice of the published program.

    Attributes:
        group: one of `GROUPS`: what takes it as an argument.
        original: the published program's value.
        why: where the library's default is another, the reason; else what the choice is.
        default: the library's default, which the preset `paper` takes.
        flag: whether `scripts/pretrain.py` has a flag of this name.
    """

    group: str
    original: Any
    why: str
    default: Any
    flag: bool = True

    @property
    def differs(self) -> bool:
        """Whether the library's default is not the original's value."""
        return self.default != self.original


def _default(owner: Any, name: str) -> Any:
    return inspect.signature(owner).parameters[name].default


def _method(group: str, name: str, original: Any, why: str) -> tuple[str, Setting]:
    default = constructor_arguments(RotationFeatureDecoupling)[name]
    return name, Setting(group, original, why, default)


#: The settings by name: arguments of `RotationFeatureDecoupling` (groups `method` and `memory
#: bank`), `BatchNormalization` and `optimizers.SGD`, and what a run does around them.
FIDELITY: dict[str, Setting] = dict(
    [
        _method("method", "lambda_rotation", 1.0, "the three losses are summed"),
        _method("method", "lambda_distance", 1.0, "the three losses are summed"),
        _method("method", "lambda_instance", 1.0, "the three losses are summed"),
        _method("method", "lambda_contrast", 0.0, "a loss of ours"),
        _method("method", "decoupled", True, "f1 and f2"),
        _method("method", "split", 0.5, "two halves of 2,048 of AlexNet's fc7"),
        _method(
            "method",
            "distance",
            "mean_squared",
            "the paper's formula is `euclidean`; the default follows the program",
        ),
        _method("method", "instance_loss", "nce", "the exact softmax is ours, for small sets"),
        _method("method", "instance_views", "mean", "the mean of f2 recognises the image"),
        _method("method", "temperature", 0.07, "of the similarities"),
        _method("method", "projection_dimensions", 128, "length of an embedding"),
        _method("method", "projection_hidden", 0, "the projection is linear"),
        _method(
            "method",
            "num_negatives",
            4096,
            "the same from 8,192 images on; half as many as there are images on smaller sets",
        ),
        _method(
            "method",
            "negatives",
            "per_image",
            "one set a batch is one matrix product instead of a gather of K rows an image",
        ),
        _method(
            "method",
            "exclude_positive",
            False,
            "an image as its own negative asks for two opposite things; on small sets it is often "
            "drawn",
        ),
        _method(
            "method",
            "normalizer",
            "first_batch",
            "a constant fixed on one batch of random features stays wrong for the whole of a "
            "short run",
        ),
        _method("method", "pu_gamma", 2.0, "exponent of P(upright)"),
        _method("memory bank", "bank_momentum", 0.5, "share of a row kept at an update"),
        _method(
            "memory bank",
            "bank_initialization",
            "uniform",
            "updated rows have length 1, so rows of length 1 are a better start than rows of "
            "length 1 on average",
        ),
        _method("memory bank", "bank_dtype", "float32", "storage of the bank"),
        (
            "fill_bank",
            Setting(
                "memory bank",
                False,
                "with random rows the first epoch compares each image with noise",
                True,
            ),
        ),
        (
            "unbiased_moving_variance",
            Setting(
                "batch normalisation",
                True,
                "Keras' rule, shared with the stock layer; both agree for large batches",
                _default(BatchNormalization, "unbiased_moving_variance"),
                flag=False,
            ),
        ),
        (
            "epsilon",
            Setting("batch normalisation", 1e-5, "of all backbones here", 1e-5, flag=False),
        ),
        (
            "bias_initializer",
            Setting(
                "method",
                "uniform",
                "as Keras; the kernels of all backbones here start as the original's",
                "zeros",
                flag=False,
            ),
        ),
        (
            "batch_norm_momentum",
            Setting(
                "batch normalisation",
                0.9,
                "of all backbones here; 0.1 in PyTorch's way of counting",
                0.9,
                flag=False,
            ),
        ),
        ("optimizer", Setting("optimizer", "sgd", "stochastic gradient descent", "sgd")),
        (
            "weight_decay",
            Setting("optimizer", 5e-4, "coupled: added to the gradient times the weight", 5e-4),
        ),
        ("undecayed", Setting("optimizer", [], "every weight decays, biases and BN too", [])),
        (
            "momentum",
            Setting(
                "optimizer", 0.9, "the buffer is not scaled by the rate", _default(SGD, "momentum")
            ),
        ),
        ("nesterov", Setting("optimizer", True, "looks ahead", _default(SGD, "nesterov"))),
        (
            "schedule",
            Setting("optimizer", "step", "a cosine suits runs of any length", "cosine"),
        ),
        (
            "lr_table",
            Setting(
                "optimizer",
                "rfd_imagenet",
                "made for 245 epochs; the rate goes up again at epoch 210, with the PU weights",
                None,
            ),
        ),
        ("epochs", Setting("run", 245, "210, and 35 more with PU weights", 100)),
        _method("run", "pu_start_epoch", 210, "weights that are given count from the start"),
        ("batch_size", Setting("run", 192, "images; 768 views", 128)),
        ("crop", Setting("run", "resized", "padding keeps small images whole", "pad")),
        ("crop_area_min", Setting("run", 0.08, "smallest share of an image in a crop", 0.08)),
        ("horizontal_flip", Setting("run", True, "before the rotation", True)),
        ("color_jitter", Setting("run", 0.0, "colours stay as they are", 0.0)),
        ("hue", Setting("run", 0.0, "colours stay as they are", 0.0)),
        ("grayscale", Setting("run", 0.0, "colours stay as they are", 0.0)),
        ("crops", Setting("run", 1, "all rotations of one crop", 1)),
        (
            "mixed_precision",
            Setting("run", "float32", "bfloat16 takes less time on much hardware", "auto"),
        ),
    ]
)


def method_arguments(pu_weights: bool = True) -> dict[str, Any]:
    """The published program's arguments of `RotationFeatureDecoupling`.

    Args:
        pu_weights: whether there are some; without, the options that go with them are left out.

    >>> arguments = method_arguments()
    >>> arguments["negatives"], arguments["normalizer"], arguments["exclude_positive"]
    ('per_image', 'first_batch', False)
    """
    known = constructor_arguments(RotationFeatureDecoupling)
    return {
        name: setting.original
        for name, setting in FIDELITY.items()
        if name in known and (pu_weights or not name.startswith("pu_"))
    }


def optimizer_arguments() -> dict[str, Any]:
    """The published program's arguments of `rfd_tf.training.optimizers.SGD`, but the rate.

    >>> SGD(0.01, **optimizer_arguments()).coupled_weight_decay
    0.0005
    """
    return {
        "momentum": FIDELITY["momentum"].original,
        "nesterov": FIDELITY["nesterov"].original,
        "coupled_weight_decay": FIDELITY["weight_decay"].original,
        "undecayed": FIDELITY["undecayed"].original,
    }


def check_method(method: str) -> None:
    """Checks that the published program is one of this method.

    Args:
        method: a name in `rfd_tf.methods.METHODS`.

    Raises:
        UserError: it is another method, whose published values are not these.

    >>> check_method("rfd")
    """
    if method != METHOD:
        raise UserError(
            f"fidelity follows the published program of method {METHOD}, and the method is "
            f"{method}; leave it out: the configurations configs/*_{method}_*.cfg hold the "
            f"published values of {method}, as far as there are any"
        )


def backbone_options(backbone: str) -> dict[str, Any]:
    """Constructor options that give a backbone the published program's epsilon.

    They belong in the weights' record, since the trained network computes with it.

    Args:
        backbone: a key of `rfd_tf.applications.BACKBONES`.

    >>> backbone_options("mobilenet_v2"), backbone_options("alexnet")
    ({'batch_norm_epsilon': 1e-05}, {})
    """
    if "batch_norm_epsilon" not in registry.default_arguments(backbone):
        return {}  # it has this epsilon already
    return {"batch_norm_epsilon": FIDELITY["epsilon"].original}


def apply_batch_normalization(
    backbone: keras.Model, epsilon: float | None = FIDELITY["epsilon"].original
) -> keras.Model:
    """Gives a backbone's batch normalisation the published program's constants.

    Sets momentum 0.9, epsilon 1e-5 and the unbiased moving variance of every layer. Call it before
    the first training step is traced.

    Args:
        backbone: the network, not yet trained.
        epsilon: of every layer; None leaves each its own, as for weights trained with that.

    Returns:
        The backbone itself, changed in place; where it has stock layers, which have no unbiased
        moving variance, a copy with those of `rfd_tf.layers`.

    >>> from rfd_tf import applications
    >>> backbone = apply_batch_normalization(applications.build("six_layer", 32))
    >>> backbone.get_layer("block1_conv_bn").unbiased_moving_variance
    True
    """
    if not all(isinstance(layer, BatchNormalization) for layer in batch_normalizations(backbone)):
        backbone = fuse_batch_normalization(backbone)
    for layer in batch_normalizations(backbone):
        layer.momentum = FIDELITY["batch_norm_momentum"].original
        layer.epsilon = layer.epsilon if epsilon is None else epsilon
        layer.unbiased_moving_variance = FIDELITY["unbiased_moving_variance"].original
    return backbone


def initialize(layers: Iterable[keras.layers.Layer], seed: int) -> None:
    """Draws the weights of convolutions and dense layers as the published program starts.

    It leaves them to PyTorch: kernels and biases from U(-s, s), s = 1 / sqrt(fan in). Other layers
    (batch normalisation starts as in Keras) and layers that are not trained stay as they are.

    Args:
        layers: built layers; those of nested models are drawn too.
        seed: of the weights.

    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 4))
    >>> initialize([layer], seed=0)
    >>> bool(np.abs(layer.bias).max() <= 0.5), bool(np.abs(layer.bias).min() > 0)
    (True, True)
    """
    rng = np.random.default_rng(seed % 2**63)
    for layer in layers:
        if hasattr(layer, "layers"):
            initialize(layer.layers, int(rng.integers(2**31)))
        elif isinstance(layer, _DRAWN) and layer.trainable:
            for weight in layer.weights:
                # (A bias comes last and has the fan in of the kernel before it.)
                if weight.name != "bias":
                    depthwise = isinstance(layer, _DEPTHWISE) or weight.name == "depthwise_kernel"
                    fan_in = math.prod(weight.shape[: 2 if depthwise else -1])
                bound = 1 / math.sqrt(fan_in)
                weight.assign(rng.uniform(-bound, bound, weight.shape).astype("float32"))


_DEPTHWISE = keras.layers.DepthwiseConv2D
_DRAWN = (keras.layers.Conv2D, keras.layers.SeparableConv2D, keras.layers.Dense, _DEPTHWISE)


def flag_values() -> dict[str, Any]:
    """The published program's values by flag of `scripts/pretrain.py`, those for one dataset
    size (`epochs`, `batch_size`) included; a flag given by hand goes before them.

    >>> flag_values()["lr_table"]
    'rfd_imagenet'
    """
    return {name: setting.original for name, setting in FIDELITY.items() if setting.flag}


def table(only_differences: bool = True) -> str:
    """A Markdown table of the settings.

    Args:
        only_differences: leave out what the library does as the original.

    >>> print(table().splitlines()[0])
    | Setting | Original | Default here | Why the default differs |
    """
    last = "Why the default differs" if only_differences else "Remark"
    lines = [f"| Setting | Original | Default here | {last} |", "|---|---|---|---|"]
    for name, setting in FIDELITY.items():
        if setting.differs or not only_differences:
            lines.append(
                f"| `{name}` | {_shown(setting.original)} | {_shown(setting.default)} "
                f"| {setting.why} |"
            )
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
