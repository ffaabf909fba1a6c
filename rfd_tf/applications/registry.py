"""Every backbone by name."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from rfd_tf.applications import custom
from rfd_tf.applications import weights as weight_files
from rfd_tf.applications.alexnet import AlexNet
from rfd_tf.applications.building import own_defaults
from rfd_tf.applications.keras_applications import DEFAULT_SIZES, constructors
from rfd_tf.applications.network_in_network import NetworkInNetwork
from rfd_tf.applications.preprocessing import IMAGENET_MEAN, IMAGENET_STD, per_channel
from rfd_tf.applications.resnet18 import ResNet18
from rfd_tf.applications.six_layer import SixLayer
from rfd_tf.errors import UserError, unknown

BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "six_layer": SixLayer,
    "network_in_network": NetworkInNetwork,
    "alexnet": AlexNet,
    "resnet18": ResNet18,
    **constructors(),
}


def build(
    name: str,
    image_size: int,
    include_top: bool = False,
    pooling: str | None = None,
    **arguments: Any,
) -> keras.Model:
    """Builds a backbone by name.

    Args:
        name: a key of `BACKBONES`, for example `"alexnet"` or `"mobilenet_v2"`; or the path of a
            `.keras` file, whose architecture is built with new weights.
        image_size: height and width of the images in pixels.
        include_top: whether the classification layer belongs to it.
        pooling: None, `"avg"` or `"max"`, as of the constructor.
        **arguments: further arguments of the constructor. A `.keras` file has `weights` only, the
            path of a `.weights.h5` file.

    Returns:
        A functional `keras.Model`, input `[None, image_size, image_size, 3]`.

    Raises:
        UserError: an unknown name or argument, a size too small for the backbone.

    >>> build("six_layer", 32).output_shape
    (None, 8, 8, 128)
    """
    check_name(name)
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise UserError(f"image_size must be a positive whole number of pixels, not {image_size!r}")
    if custom.is_file(name):
        own, weights = own_arguments(name, {**arguments})
        if include_top or pooling or own:
            raise UserError(f"backbone '{name}' is a Keras model: it has no options")
        model = custom.build(custom.read(name), image_size)
        if weights is not None:
            weight_files.load_exactly(model, weights, name)
        return model
    known = inspect.signature(BACKBONES[name]).parameters
    for argument in arguments:
        if argument not in known or argument in ("input_shape", "input_tensor"):
            options = [*default_arguments(name), "weights", "classes"]
            raise unknown(f"argument of backbone {name}", argument, options)
    return BACKBONES[name](
        include_top=include_top,
        pooling=pooling,
        input_shape=(image_size, image_size, 3),
        **arguments,
    )


def default_arguments(name: str) -> dict[str, Any]:
    """Returns a backbone's own options (those beside the common ones) and their defaults.

    >>> default_arguments("resnet18")
    {'cifar_stem': False, 'width': 1.0, 'sobel': False}
    """
    return {} if custom.is_file(name) else own_defaults(BACKBONES[name])


def check_name(name: str) -> None:
    """Raises `UserError` unless a backbone's name is known, or the path of a `.keras` file."""
    if not isinstance(name, str) or not (name in BACKBONES or custom.is_file(name)):
        if isinstance(name, str) and (
            name.endswith(weight_files.SUFFIX) or (Path(name) / weight_files.RUN_FILE).is_file()
        ):
            raise UserError(
                f"'{name}' holds weights; give it as --init_weights, and as --backbone the name of "
                "its network"
            )
        way_out = "or the path of a .keras file"
        raise UserError(f"{unknown('backbone', name, BACKBONES)}; {way_out}")


def recorded_name(record: dict[str, Any], path: str | os.PathLike) -> str:
    """Returns what `build` takes for the backbone of a weights file's record.

    Args:
        record: of the weights file.
        path: of the weights file; the architecture of a backbone without a name is next to it.

    Raises:
        UserError: a name that this version does not know, or an architecture that is missing or
            is not that of the weights.
    """
    architecture = record.get("architecture")
    if architecture is None:
        if record["backbone"] not in BACKBONES:
            raise UserError(f"'{path}': {unknown('backbone', record['backbone'], BACKBONES)}")
        return record["backbone"]
    file = Path(path).parent / custom.FILE
    if not file.is_file():
        raise UserError(
            f"'{path}' belongs to the Keras model '{architecture['name']}', whose architecture "
            f"must be next to it as {custom.FILE}; copy that from the run folder, too"
        )
    if weight_files.sha256(file) != architecture["sha256"]:
        raise UserError(
            f"'{file}' is not the architecture that '{path}' was trained with (its sha256 differs)"
        )
    return str(file)


def copy_architecture(
    record: dict[str, Any], path: str | os.PathLike, folder: str | os.PathLike
) -> None:
    """Copies the architecture beside a weights file, where its backbone has no name.

    Args:
        record: of the weights file.
        path: of the weights file.
        folder: where its weights are copied to.
    """
    if record.get("architecture") is not None:
        file = recorded_name(record, path)
        if Path(folder).resolve() != Path(file).parent.resolve():
            shutil.copyfile(file, Path(folder) / custom.FILE)


def save_model(
    model: keras.Model,
    folder: str | os.PathLike,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Path:
    """Writes any Keras model as a backbone: its weights with a record, its architecture beside.

    Args:
        model: see `rfd_tf.applications.custom.adapted`.
        folder: where to.
        mean, std: of its pixels / 255, three numbers each; ImageNet's if None.

    Returns:
        The weights file.

    Raises:
        UserError: a model that cannot serve as a backbone.

    >>> import tempfile
    >>> image = keras.Input((8, 8, 3))
    >>> own = keras.Model(image, keras.layers.Conv2D(4, 3)(image))
    >>> load_backbone(save_model(own, tempfile.mkdtemp()))[0].output_shape
    (None, 6, 6, 4)
    """
    model, folder = custom.adapted(model), Path(folder)
    custom.build(model).save(folder / custom.FILE)
    record = {
        "format": 1,
        "backbone": custom.FILE,
        "arguments": {},
        "image_size": custom.side(model),
        "mean": list(per_channel("mean", IMAGENET_MEAN if mean is None else mean)),
        "std": list(per_channel("std", IMAGENET_STD if std is None else std)),
        "architecture": {
            "name": model.name,
            "sha256": weight_files.sha256(folder / custom.FILE),
        },
    }
    return weight_files.save_backbone(model, folder / weight_files.RUN_FILE, record)


def load_backbone(
    path_or_name: str | os.PathLike, image_size: int | None = None
) -> tuple[keras.Model, dict[str, Any]]:
    """Builds the backbone that a weights file belongs to, and loads it.

    Args:
        path_or_name: a `.weights.h5` file, the run folder that holds one, or a shipped name.
        image_size: height and width in pixels; the recorded one by default.

    Returns:
        `(model, record)`: the backbone without top and pooling, and the file's record.

    Raises:
        UserError: no such file or name, a file without record, an architecture that this version
            does not know, weights that do not fit.

    >>> import tempfile
    >>> record = {"format": 1, "backbone": "six_layer", "arguments": {}, "image_size": 32}
    >>> folder = tempfile.mkdtemp()
    >>> path = folder + "/backbone.weights.h5"
    >>> _ = weight_files.save_backbone(SixLayer(include_top=False), path, record)
    >>> model, record = load_backbone(folder)
    >>> model.output_shape, record["backbone"]
    ((None, 8, 8, 128), 'six_layer')
    """
    path = weight_files.find_weights(path_or_name)
    record = weight_files.read_record(path)
    if record is None:
        raise UserError(
            f"'{path}' carries no record of its backbone; name it: "
            "rfd_tf.applications.build(BACKBONE, IMAGE_SIZE, weights=PATH)"
        )
    backbone = recorded_name(record, path)
    weight_files.check_options(record, path, default_arguments(backbone))
    model = build(
        backbone,
        record["image_size"] if image_size is None else image_size,
        weights=str(path),
        **record["arguments"],
    )
    names = {layer.name for layer in model.layers}
    wanted = [*(record.get("endpoints") or [])]
    if record.get("feature"):
        wanted.append(record["feature"]["endpoint"])
    for name in wanted:
        if name not in names:
            raise UserError(
                f"the record in '{path}' names an endpoint '{name}', which "
                f"backbone {record['backbone']} does not have"
            )
    return model, record


def own_arguments(name: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Splits the arguments of a backbone that is to be trained: its own options, and weights.

    Its own options are what its record needs to build it again; the weights that it starts from
    are part of no record's options.

    Args:
        name: a key of `BACKBONES`.
        arguments: of its constructor.

    Returns:
        The options, and the value of `weights`, None where there is none.

    Raises:
        UserError: an argument that is neither, such as `classes`.

    >>> own_arguments("six_layer", {"filters": [4, 4, 4, 4, 4, 8], "weights": "runs/first"})
    ({'filters': [4, 4, 4, 4, 4, 8]}, 'runs/first')
    """
    check_name(name)
    known = default_arguments(name)
    for argument in arguments:
        if argument not in known and argument != "weights":
            raise unknown(f"argument of backbone {name}", argument, [*known, "weights"])
    own = {option: value for option, value in arguments.items() if option != "weights"}
    return own, arguments.get("weights")


def default_image_size(name: str) -> int:
    """Returns the side, in pixels, of the images a backbone was designed for.

    That of a `.keras` file is the side of the model's input, or 224 where it takes any.

    Raises:
        UserError: an unknown name.

    >>> default_image_size("network_in_network"), default_image_size("mobilenet_v2")
    (32, 224)
    """
    check_name(name)
    if custom.is_file(name):
        return custom.side(custom.read(name))
    return 32 if name in ("six_layer", "network_in_network") else DEFAULT_SIZES.get(name, 224)
