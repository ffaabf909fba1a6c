"""Any functional Keras model as a backbone: checked, adapted, kept in a file and built again."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras

from rfd_tf.applications.cloning import portable, untrained
from rfd_tf.applications.endpoints import gives
from rfd_tf.applications.image_size import at_size
from rfd_tf.errors import UserError, shown, unknown
from rfd_tf.paths import expanded

#: The architecture of a run's backbone, in the run folder and beside exported weights.
FILE = "architecture.keras"
TOKEN_POOLINGS = ("mean", "class")
DEFAULT_SIZE = 224
_ERRORS = (
    *(ValueError, TypeError, KeyError, AttributeError, NotImplementedError, ImportError),
    *(RuntimeError, OSError, EOFError, zipfile.BadZipFile),
)


def is_file(backbone: Any) -> bool:
    """Whether a backbone is given as the path of a `.keras` file rather than by name.

    >>> is_file("my.keras"), is_file("six_layer")
    (True, False)
    """
    text = os.fspath(backbone)
    return text.endswith(".keras") and not text.startswith("hf://")


def read(path: str | os.PathLike) -> keras.Model:
    """Loads a `.keras` file, without code from it.

    Raises:
        UserError: no such file, no Keras model, or layers that Keras does not know.
    """
    path = expanded(path)
    if not path.is_file():
        raise UserError(f"no such Keras model: '{path}'")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"'{path}' is no Keras model, or is cut off: a .keras file is a zip archive; save the "
            "model again by model.save"
        )
    state = path.stat()
    return _read(path, state.st_mtime_ns, state.st_size)


# (Building, checking and evaluating a run read the same file, and do not change it.)
@functools.lru_cache(maxsize=2)
def _read(path: Path, changed: int, size: int) -> keras.Model:
    del changed, size
    drawn = random.getstate()
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except _ERRORS as error:
        raise UserError(
            f"'{path}' cannot be loaded as a Keras model ({_reason(error)}); layers of your own "
            "must be registered by keras.saving.register_keras_serializable, and their module "
            "imported before"
        ) from None
    finally:
        # Weights are drawn before they are read; what is drawn next must not depend on it.
        random.setstate(drawn)


def adapted(model: keras.Model, token_pooling: str | None = None) -> keras.Model:
    """Returns a copy of a model that serves as a backbone, with the model's weights.

    Its output is a feature map `[B, H, W, C]` or a vector `[B, C]`: token sequences `[B, T, C]` are
    pooled by a layer at the end.

    Args:
        model: a functional or built `Sequential` Keras model, images `[B, H, W, 3]` in, one map,
            vector or token sequence out. It is left as it is.
        token_pooling: of token sequences: `"mean"`, the default, or `"class"` for the first token.

    Raises:
        UserError: a subclassed model, several inputs or outputs, other channels, no weights, or a
            layer that Keras can not copy or load again.

    >>> image = keras.Input((8, 8, 3))
    >>> patches = keras.layers.Conv2D(6, 4, strides=4)(image)
    >>> tokens = keras.layers.Reshape((4, 6))(patches)
    >>> adapted(keras.Model(image, tokens), "class").output_shape
    (None, 6)
    """
    inputs, output = _checked(model)
    called = f"backbone '{model.name}'"
    names = {layer.name for layer in model.layers}
    rank = len(output.shape)
    if token_pooling not in (None, *TOKEN_POOLINGS):
        raise unknown("token_pooling", token_pooling, TOKEN_POOLINGS)
    if token_pooling is not None and rank != 3:
        raise UserError(
            f"token_pooling '{token_pooling}' has no meaning: the output of {called} has shape "
            f"{tuple(output.shape)}, no token sequence [batch, tokens, channels]"
        )
    if rank == 3 and token_pooling == "class":
        if output.shape[1] is None:
            raise UserError(
                f"token_pooling 'class' needs a fixed number of tokens; {called} has outputs of "
                f"shape {tuple(output.shape)}"
            )
        rest = (0, int(output.shape[1]) - 1)
        output = keras.layers.Cropping1D(rest, name=_free("class_token_crop", names))(output)
        output = keras.layers.Reshape(output.shape[2:], name=_free("class_token", names))(output)
    elif rank == 3:
        output = keras.layers.GlobalAveragePooling1D(name=_free("token_mean", names))(output)
    elif not any(gives(layer, output) for layer in model.layers):
        # An operation such as x[:, 0] is no layer, and cannot be named as an endpoint.
        output = keras.layers.Identity(name=_free("features", names))(output)
    try:
        copy = portable(keras.Model(inputs, output, name=model.name))
    except _ERRORS as error:
        raise UserError(f"{called} cannot be copied: {_reason(error)}") from None
    with tempfile.TemporaryDirectory() as folder:
        try:
            copy.save(os.path.join(folder, FILE))
            _read.__wrapped__(Path(folder, FILE), 0, 0)
        except UserError as error:
            reason = str(error).partition("(")[2]
            raise UserError(f"{called} cannot be loaded again ({reason}") from None
        except _ERRORS as error:
            raise UserError(f"{called} cannot be saved: {_reason(error)}") from None
    return copy


def build(model: keras.Model, image_size: int | None = None) -> keras.Model:
    """Builds an adapted model's architecture with new weights, under the dtype policy in force.

    Args:
        model: as `adapted` returns it, or a file of it loads.
        image_size: side of its images, pixels; the model's own if None.

    Raises:
        UserError: the network cannot take images of this size.
    """
    network = untrained(model)
    sized = at_size(network, side(model) if image_size is None else image_size)
    # Its layers are called twice; endpoints are found where each is called once.
    return sized if sized is network else untrained(sized)


def side(model: keras.Model) -> int:
    """Returns the side of a model's images in pixels, 224 where the model leaves it open."""
    return int(model.input_shape[1] or DEFAULT_SIZE)


def rescaling_layer(model: keras.Model) -> str | None:
    """Returns the name of a model's layer that normalises its input, or None.

    >>> image = keras.Input((8, 8, 3))
    >>> pixels = keras.layers.Rescaling(1 / 255, name="to_unit")(image)
    >>> rescaling_layer(keras.Model(image, keras.layers.Conv2D(2, 3)(pixels)))
    'to_unit'
    """
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    return next((layer.name for layer in model.layers if isinstance(layer, kinds)), None)


def digest(model: keras.Model) -> str:
    """Returns a SHA-256 digest of an architecture, whatever its layers are called.

    >>> def network():
    ...     image = keras.Input((8, 8, 3))
    ...     return keras.Model(image, keras.layers.Conv2D(2, 3)(image))
    >>> digest(network()) == digest(network())
    True
    """
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model), default=str))
    names: dict[str, str] = {}

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            inner = value.get("config")
            if "class_name" in value and isinstance(inner, dict) and "name" in inner:
                names.setdefault(inner["name"], f"#{len(names)}")
        for each in _parts(value):
            collect(each)

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [renamed(each) for each in value]
        return names.get(value, value) if isinstance(value, str) else value

    collect(config)
    return hashlib.sha256(json.dumps(renamed(config), sort_keys=True).encode()).hexdigest()


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _checked(model: Any) -> tuple[Any, Any]:
    """Returns input and output of a model that can serve as a backbone."""
    if not isinstance(model, keras.Model):
        raise UserError(
            f"backbone of type {type(model).__name__}: give the name of a network, a functional "
            "keras.Model or the path of a .keras file"
        )
    called = f"backbone '{model.name}'"
    sequential = isinstance(model, keras.Sequential)
    if sequential and not model.built:
        raise UserError(f"{called} has no input shape yet; begin it with keras.Input((S, S, 3))")
    if not sequential and not hasattr(model, "operations"):
        raise UserError(
            f"{called} of class {type(model).__name__} is a subclass of keras.Model, whose layers "
            "Keras cannot list or copy; build it as keras.Model(inputs, outputs)"
        )
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            raise UserError(
                f"{called} has the model '{layer.name}' as a layer, whose own layers cannot be "
                "named; give that model itself, or call its layers one by one"
            )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(
            f"{called} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; "
            "pretraining needs one of each"
        )
    (inputs,), (output,) = model.inputs, model.outputs
    shape = tuple(inputs.shape)
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise UserError(
            f"{called} takes inputs of shape {shape}; pretraining needs square RGB images, "
            "channels last: [batch, size, size, 3]"
        )
    if len(output.shape) not in (2, 3, 4) or output.shape[-1] is None:
        raise UserError(
            f"{called} gives outputs of shape {tuple(output.shape)}; needed are feature maps "
            "[batch, height, width, channels], vectors [batch, channels] or tokens "
            "[batch, tokens, channels]"
        )
    if not model.trainable_weights:
        raise UserError(f"{called} has no trainable weights")
    return inputs, output


def _free(name: str, taken: set[str]) -> str:
    number = 1
    free = name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _reason(error: BaseException) -> str:
    """The first line of an error, without its colours."""
    text = re.sub(r"\x1b\[\d+m", "", str(error)).strip() or type(error).__name__
    return shown(text.splitlines()[0])
