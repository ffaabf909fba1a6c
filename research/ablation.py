"""The ablations of RFD: what each variant trains, as settings of a pretraining run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from rfd_tf import applications
from rfd_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the ablations.

    Attributes:
        description: what is trained; `{endpoint}` stands for the layer that is split.
        method: a name in `rfd_tf.methods.METHODS`.
        settings: the run's settings that the variant fixes, by name.
        pu: whether the rotation loss is weighted by PU weights.
        from_end: which endpoint of the backbone is the feature, counted from the last, which is 1;
            None for that of the run.
    """

    description: str
    method: str = "rfd"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pu: bool = False
    from_end: int | None = None


_DECOUPLED = {"decoupled": True}
_SPLIT = "decoupled at {endpoint}, with PU weights"

#: The rows of the paper's table 4 (Feng, Xu, Tao, CVPR 2019): rotation, instance, decoupled, and
#: full at conv5, fc6 and fc7. `f1`, `f2` and `coupled` are further ones. AlexNet's endpoints end in
#: conv5, fc6 and fc7; other backbones are split at as many endpoints from the end.
VARIANTS: dict[str, Variant] = {
    "rotation": Variant("rotation only (RotNet)", "rotation"),
    "f1": Variant(
        "rotation only, on f1",
        settings={
            **_DECOUPLED,
            "lambda_distance": 0.0,
            "lambda_instance": 0.0,
            "lambda_contrast": 0.0,
        },
    ),
    # No rotated views, so an image has one crop a step.
    "instance": Variant("instance only, upright views", "instance", {"crops": 1}),
    "f2": Variant(
        "losses of f2 only, rotated views",
        settings={**_DECOUPLED, "lambda_rotation": 0.0, "lambda_distance": 0.0},
    ),
    "coupled": Variant(
        "rotation + instance, not decoupled", settings={"decoupled": False, "lambda_distance": 0.0}
    ),
    "decoupled": Variant("decoupled, without PU weights", settings=_DECOUPLED),
    "full_conv5": Variant(_SPLIT, settings=_DECOUPLED, pu=True, from_end=3),
    "full_fc6": Variant(_SPLIT, settings=_DECOUPLED, pu=True, from_end=2),
    "full": Variant("decoupled, with PU weights", settings=_DECOUPLED, pu=True),
}


def split_at(endpoint: str) -> Variant:
    """Returns the full method split at a layer of any name.

    >>> split_at("block3").settings["feature_endpoint"]
    'block3'
    """
    settings = {**_DECOUPLED, "feature_endpoint": endpoint}
    return Variant(_SPLIT.format(endpoint=endpoint), settings=settings, pu=True)


def resolve(variant: Variant, backbone: keras.Model) -> Variant:
    """Returns a variant with its endpoint by name, checked against a backbone.

    Args:
        variant: an entry of `VARIANTS`, or one by `split_at`.
        backbone: a functional model on images.

    Raises:
        UserError: the backbone has no such layer, or fewer endpoints.

    >>> backbone = applications.build("six_layer", 32)
    >>> resolve(VARIANTS["full_conv5"], backbone).description
    'decoupled at block4, with PU weights'
    """
    if variant.from_end is None:
        endpoint = variant.settings.get("feature_endpoint")
        if endpoint is not None:
            applications.pooled_feature_model(backbone, endpoint)
        return variant
    found = applications.endpoints(backbone)
    if len(found) < variant.from_end:
        raise UserError(
            f"a backbone with the endpoints {', '.join(found)} cannot be split "
            f"{variant.from_end} endpoints from the end; leave the variant out"
        )
    return split_at(found[-variant.from_end])
