"""Everything in which training must follow the published RFD program to be that program."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import keras

from rfd_tf.layers import BatchNormalization
from rfd_tf.methods import RotationFeatureDecoupling
from rfd_tf.training.optimizers import SGD

GROUPS = ("method", "memory bank", "batch normalisation", "optimizer", "run")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One choice of the published program.

    Attributes:
        group: one of `GROUPS`: what takes it as an argument.
        original: the published program's value.
        why: where the library's default is another, the reason; else what the choice is.
        default: the library's default.
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
    return name, Setting(group, original, why, _default(RotationFeatureDecoupling, name))


#: The settings by name: arguments of `RotationFeatureDecoupling` (groups `method` and `memory
#: bank`), `BatchNormalization` and `optimizers.SGD`, and what a run does around them.
FIDELITY: dict[str, Setting] = dict(
    [
        _method("method", "lambda_rotation", 1.0, "the three losses are summed"),
        _method("method", "lambda_distance", 1.0, "the three losses are summed"),
        _method("method", "lambda_instance", 1.0, "the three losses are summed"),
        _method("method", "decoupled", True, "f1 and f2"),
        _method("method", "split", 0.5, "two halves of 2,048 of AlexNet's fc7"),
        _method(
            "method",
            "distance",
            "mean_squared",
            "the paper's formula is `euclidean`; the default follows the program",
        ),
        _method("method", "instance_loss", "nce", "the exact softmax is ours, for small sets"),
        _method("method", "temperature", 0.07, "of the similarities"),
        _method("method", "projection_dimensions", 128, "length of an embedding"),
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
            "batch_norm_momentum",
            Setting(
                "batch normalisation",
                0.9,
                "of all backbones here; 0.1 in PyTorch's way of counting",
                0.9,
                flag=False,
            ),
        ),
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
        (
            "mixed_precision",
            Setting("run", "float32", "bfloat16 halves the time where the hardware has it", "auto"),
        ),
    ]
)


def method_arguments() -> dict[str, Any]:
    """The published program's arguments of `RotationFeatureDecoupling`.

    >>> arguments = method_arguments()
    >>> arguments["negatives"], arguments["normalizer"], arguments["exclude_positive"]
    ('per_image', 'first_batch', False)
    """
    known = inspect.signature(RotationFeatureDecoupling).parameters
    return {name: setting.original for name, setting in FIDELITY.items() if name in known}


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


def apply_batch_normalization(backbone: keras.Model) -> None:
    """Gives a backbone's batch normalisation the published program's constants, in place.

    Sets momentum 0.9, epsilon 1e-5 and the unbiased moving variance of every
    `rfd_tf.layers.BatchNormalization`. Call it before the first training step is traced.

    >>> from rfd_tf import applications
    >>> backbone = applications.build("six_layer", 32)
    >>> apply_batch_normalization(backbone)
    >>> backbone.get_layer("block1_conv_bn").unbiased_moving_variance
    True
    """
    for layer in backbone.layers:
        if isinstance(layer, BatchNormalization):
            layer.momentum = FIDELITY["batch_norm_momentum"].original
            layer.epsilon = FIDELITY["epsilon"].original
            layer.unbiased_moving_variance = FIDELITY["unbiased_moving_variance"].original


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
