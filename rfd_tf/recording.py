"""The settings in run.json: the values that a run was built with."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from rfd_tf import methods
from rfd_tf.applications import custom
from rfd_tf.config import PHOTO_SETTINGS, PretrainConfig
from rfd_tf.data import given
from rfd_tf.data.photos import SAMPLE
from rfd_tf.methods import RotationFeatureDecoupling
from rfd_tf.methods.base import constructor_arguments
from rfd_tf.settings import named_texts, settings_of
from rfd_tf.training import pretraining

_IMAGES = ("data_dir", "eval_dir", "data_root")
_PATHS = ("tfds_dir", "pu_weights", "output_dir", "cache_dir")
# (The pooling of tokens is part of the architecture.)
_IGNORED = {"resume", "overwrite", "output_dir", "token_pooling"}
# Settings that a new call may change in a complete run; the others are those of its training.
_NOT_OF_TRAINING = (
    *("data_dir", "data_root", "eval_dir", "tfds_dir", "pu_weights", "eval_split"),
    *("cache_dir", "cache_gb"),
    *("evaluate", "export", "output_dir", "resume", "overwrite", "tfds_download"),
)


def flags(config: PretrainConfig, session: pretraining.Pretraining, record: dict) -> dict[str, Any]:
    """Returns every setting with its value in the built session, JSON-able.

    Settings without effect are None. Method options that Rotation Feature Decoupling also has are
    entries of their own; the others are in `method_option`.

    Args:
        config: of the run.
        session: built from it.
        record: of the backbone.
    """
    values = {name: getattr(config, name) for name in settings_of(PretrainConfig)}
    # Later commands may run in another folder.
    for name in _PATHS:
        values[name] = values[name] and os.path.abspath(values[name])
    for name in _IMAGES:
        values[name] = values[name] and given.absolute(values[name])
    values.update(_photographs(config))
    in_use = built(config, session)
    shared = constructor_arguments(RotationFeatureDecoupling)
    named = {*values, *shared} - {"num_images", "method_option"}
    values.update({name: in_use.get(name) for name in _governed() if name in named})
    values["method_option"] = named_texts(
        {name: value for name, value in in_use.items() if name not in named}
    )
    values["backbone_option"] = named_texts(record["arguments"])
    values["init_weights"] = None
    if config.model is not None:
        values["backbone"] = os.path.join(values["output_dir"], custom.FILE)
    if config.init_weights is not None:
        values["init_weights"] = (record.get("started_from") or {}).get("weights")
    if config.include_preprocessing:
        values["mean"] = values["std"] = None
    return values


def changes(before: dict, now: dict, complete: bool) -> list[str]:
    """Returns the settings that a resumed run changes, as texts.

    Args:
        before, now: flags of run.json.
        complete: whether nothing is left to train; settings of training are then not changed.
    """
    found = []
    for name in now:
        if name in before and before[name] != now[name] and name not in _IGNORED:
            after = f"and is now {now[name]!r}"
            if complete and name not in _NOT_OF_TRAINING:
                after = f"and is not changed to {now[name]!r} in a complete run"
            found.append(f"{name} was {before[name]!r} {after}")
    return found


def of_complete_run(before: dict, content: dict) -> dict:
    """Returns the content of run.json for a complete run: the record of its training.

    Args:
        before: the present content.
        content: the content that a run would write that still trains.
    """
    flags = content["flags"]
    new = {name: flags[name] for name in _NOT_OF_TRAINING if name in flags}
    return {
        **content,
        **before,
        "identity": content["identity"],
        "flags": {**flags, **before.get("flags", {}), **new},
    }


def built(config: PretrainConfig, session: pretraining.Pretraining) -> dict[str, Any]:
    """Returns the settings of the built session by name; None for those without effect."""
    settings = session.settings()
    area = settings.pop("crop_area")
    settings["crop_area_min"] = area and area[0]
    settings["fill_bank"] = None if session.method.memory_bank is None else config.fill_bank
    return settings


def _governed() -> set[str]:
    """Returns the settings that a built session has values for, those of all methods included."""
    names = {"image_size", "mean", "std", "feature_endpoint", "gradient_accumulation"}
    names |= {"crop_area_min", "fill_bank", "batch_norm_momentum", "mixed_precision", "jit_compile"}
    names |= {field.name for field in dataclasses.fields(pretraining.Optimization)}
    names |= {field.name for field in dataclasses.fields(pretraining.Augmentation)}
    names |= set(methods.all_arguments()) - {"pu_weights", "num_images"}
    return names - {"crop_area"}


def _photographs(config: PretrainConfig) -> dict[str, Any]:
    """Returns the settings of crops of photographs with their values; None without photographs."""
    if not config.source_images:
        return dict.fromkeys(PHOTO_SETTINGS)
    values = {name: getattr(config, name) for name in PHOTO_SETTINGS}
    values["source_size"] = config.images().photo_options["size"]
    values["source_images"] = [
        one if one.startswith(SAMPLE) else os.path.abspath(one) for one in config.source_images
    ]
    return values
