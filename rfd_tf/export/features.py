"""The model that is exported: pixels in, named float32 features out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from rfd_tf.applications import feature_extractor, portable, preprocess_input
from rfd_tf.errors import UserError, unknown

FEATURES = ("f", "f1", "f2")
EMBEDDING = "embedding"
#: Outputs that trained heads give: name -> (head in heads.npz, half of the feature it is on).
HEAD_OUTPUTS = {"rotation_logits": ("rotation_head", "f1"), "projection": ("projection", "f2")}
OUTPUTS = (*FEATURES, *HEAD_OUTPUTS)


def feature_range(record: dict[str, Any], feature: str = "f") -> tuple[int, int | None]:
    """Returns where a feature begins and ends among the channels of the feature endpoint.

    Args:
        record: what `rfd_tf.applications.read_record` gives.
        feature: `"f"` for all of it, `"f1"` (rotation-related) or `"f2"` (rotation-unrelated)
            for a half of a decoupled feature.

    Returns:
        `(start, stop)`; stop None means to the end.

    Raises:
        UserError: a name that does not exist, or a half of a feature that is not split.

    >>> feature_range({"feature": {"endpoint": "block6", "split": [64, 64]}}, "f2")
    (64, 128)
    """
    if feature not in FEATURES:
        raise unknown("feature", feature, FEATURES)
    if feature == "f":
        return 0, None
    split = record["feature"].get("split")
    if not split:
        raise UserError(
            f"feature '{feature}' does not exist: these weights "
            f"({record.get('method') or 'method unknown'}) have no decoupled feature; options: f"
        )
    first, second = split
    return (0, first) if feature == "f1" else (first, first + second)


def head_range(record: dict[str, Any], output: str) -> tuple[int, int | None]:
    """Returns which channels of the feature a head's output is made from, as `feature_range`.

    A head is on its half of a decoupled feature, and on the whole of one that is not split.

    >>> head_range({"feature": {"split": [64, 64]}}, "projection")
    (64, 128)
    >>> head_range({"feature": {}}, "projection")
    (0, None)
    """
    return feature_range(record, HEAD_OUTPUTS[output][1] if record["feature"].get("split") else "f")


def check_outputs(
    record: dict[str, Any], outputs: Iterable[str], heads: Mapping[str, Any]
) -> tuple[str, ...]:
    """Returns the further outputs asked for, each once.

    Args:
        record: of the backbone.
        outputs: some of `OUTPUTS`.
        heads: the trained heads there are: name -> (kernel, bias).

    Raises:
        UserError: an unknown output, a half of a feature that is not split, a head that was not
            trained with these weights.

    >>> check_outputs({"feature": {"split": [64, 64]}}, ["f2", "f", "f2"], {})
    ('f2', 'f')
    """
    outputs = tuple(dict.fromkeys(outputs))
    for output in outputs:
        if output not in OUTPUTS:
            raise unknown("output", output, OUTPUTS)
        if output in FEATURES:
            feature_range(record, output)
        elif HEAD_OUTPUTS[output][0] not in heads:
            raise UserError(
                f"output '{output}' needs the head '{HEAD_OUTPUTS[output][0]}', which is not among "
                f"the trained heads of these weights ({', '.join(heads) or 'none'}); methods rfd "
                "and rotation train one, in heads.npz of the run folder, which resuming a run "
                "writes again"
            )
    return outputs


def deployable(
    model: keras.Model,
    record: dict[str, Any],
    *,
    feature: str = "f",
    endpoints: Iterable[str] = (),
    outputs: Iterable[str] = (),
    heads: Mapping[str, tuple[Any, Any]] | None = None,
) -> keras.Model:
    """Builds the model to deploy from a backbone: float32, stock layers, preprocessing inside.

    Args:
        model: a backbone as `rfd_tf.applications.load_backbone` gives it, on normalised images
            `[batch, S, S, 3]`; its weights are copied.
        record: the backbone's record; read are `mean`, `std` and `feature`.
        feature: which part of the pooled feature `embedding` is: `"f"`, `"f1"` or `"f2"`.
        endpoints: names of layers whose outputs are given as well.
        outputs: further outputs, some of `OUTPUTS`: `"f"`, `"f1"`, `"f2"`, and what the heads that
            were trained with the backbone give, `"rotation_logits"` and `"projection"`.
        heads: those heads, as `rfd_tf.evaluation.heads.load_heads` gives them.

    Returns:
        A functional model. Input: pixels, float32 from 0 to 255, RGB, `[batch, S, S, 3]`. Output:
        a dict of float32 tensors: `embedding` `[batch, D]` (a map is pooled over its pixels, a
        vector is taken as it is), each endpoint by its name, unpooled, and each further output by
        its name: a feature `[batch, D]`, `rotation_logits` `[batch, 4]` (before the softmax, by
        0, 90, 180 and 270 degrees counter-clockwise), `projection` `[batch, P]` (before it is
        brought to length 1).

    Raises:
        UserError: an unknown feature, endpoint or output, or a head that is missing or does not
            fit.

    >>> from rfd_tf.applications import SixLayer
    >>> backbone = SixLayer(include_top=False, input_shape=(32, 32, 3))
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg", "split": [64, 64]}}
    >>> model = deployable(backbone, record, feature="f1", endpoints=["block2"])
    >>> features = model(keras.ops.zeros((1, 32, 32, 3)))
    >>> features["embedding"].shape, features["block2"].shape
    (TensorShape([1, 64]), TensorShape([1, 16, 16, 32]))
    """
    endpoints = list(endpoints)
    wanted = check_outputs(record, outputs, heads or {})
    start, stop = feature_range(record, feature)
    place = record["feature"]["endpoint"]
    extractor = feature_extractor(portable(model), list(dict.fromkeys([place, *endpoints])))

    pixels = keras.Input(model.input_shape[1:], dtype="float32", name="pixels")
    images = preprocess_input(pixels, mean=record["mean"], std=record["std"])
    maps = extractor(images, training=False)
    whole = maps[place]
    if len(whole.shape) > 2:
        pool = keras.ops.max if record["feature"].get("pooling") == "max" else keras.ops.mean
        whole = pool(whole, axis=tuple(range(1, len(whole.shape) - 1)))
    given = {EMBEDDING: whole[:, start:stop] if stop is not None else whole}
    given.update({name: maps[name] for name in endpoints})
    for name in wanted:
        if name in FEATURES:
            first, last = feature_range(record, name)
        else:
            first, last = head_range(record, name)
        part = whole[:, first:last] if last is not None else whole
        given[name] = part if name in FEATURES else _linear(part, name, heads)
    return keras.Model(pixels, given, name=f"{model.name}_deployable")


def _linear(part: Any, output: str, heads: Mapping[str, tuple[Any, Any]]) -> Any:
    name = HEAD_OUTPUTS[output][0]
    if f"{name}_hidden" in heads:
        part = keras.layers.ReLU(dtype="float32")(_dense(part, f"{name}_hidden", heads))
    return _dense(part, name, heads)


def _dense(part: Any, name: str, heads: Mapping[str, tuple[Any, Any]]) -> Any:
    kernel, bias = heads[name]
    if kernel.shape[0] != part.shape[-1]:
        raise UserError(
            f"the trained head '{name}' takes {kernel.shape[0]} numbers, the feature has "
            f"{part.shape[-1]}"
        )
    layer = keras.layers.Dense(kernel.shape[1], dtype="float32", name=name)
    result = layer(part)
    layer.set_weights([kernel, bias])
    return result
