"""Reads checkpoint files of the published PyTorch programs and writes Keras weights.

PyTorch itself is needed for reading only, and is not a requirement of the package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rfd_tf import extras
from rfd_tf.applications import preprocessing, torch_import
from rfd_tf.applications.endpoints import endpoints
from rfd_tf.applications.weights import SUFFIX, save_backbone
from rfd_tf.errors import UserError, unknown
from rfd_tf.paths import expanded

METHODS = ("rfd", "rotation")
# Earlier versions can be made to run code even when asked for weights only.
OLDEST_TORCH = (2, 6)


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], int | None]:
    """Reads a checkpoint's entries without running code that it may hold.

    Args:
        path: a file of the published RFD or RotNet program, which holds a dict with `epoch` and
            `network`, or a plain state dict.

    Returns:
        `(entries, epoch)`: name -> float32 array (integers stay integers), a leading `module.`
        removed; and the epoch where the file contains it.

    Raises:
        UserError: PyTorch is not installed or too old; no such file, a file that is damaged, holds
            other things than tensors and plain values, or no network.
    """
    torch = _torch()
    path = expanded(path)
    if not path.is_file():
        raise UserError(f"no such checkpoint file: '{path}'")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile or damaged file makes it raise
        reason = str(error)
        if "weights only" in reason.lower() or "unsupported" in reason.lower():
            raise UserError(
                f"'{path}' is refused: it is damaged, or holds other things than tensors and plain "
                "values, and reading those could run code"
            ) from None
        raise UserError(
            f"'{path}' is not a PyTorch checkpoint that can be read: it is damaged or cut off"
        ) from None
    epoch = None
    if isinstance(content, Mapping) and "network" in content:
        epoch = content.get("epoch")
        content = content["network"]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"'{path}' holds no network: neither an entry 'network' nor a state dict")
    entries = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(
                f"'{path}' holds no network: its entry {str(name)[:60]!r} is no tensor with a name"
            )
        plain = name.removeprefix("module.")
        if plain in entries:
            raise UserError(f"'{path}' holds the entry '{plain}' twice")
        entries[plain] = _array(torch, name, value)
    known = isinstance(epoch, int) and not isinstance(epoch, bool) and epoch >= 0
    return entries, epoch if known else None


def import_checkpoint(
    path: str | os.PathLike,
    architecture: str,
    output: str | os.PathLike,
    method: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Turns a checkpoint of the published programs into a Keras weights file with its record.

    Every entry of the checkpoint is used, every weight of the network filled; otherwise nothing is
    written.

    Args:
        path: the checkpoint, see `read_checkpoint`.
        architecture: `alexnet` (RFD's and RotNet's for ImageNet) or `network_in_network` (RotNet's
            for CIFAR-10). Widths, blocks and classes are read off the entries.
        output: the file to write, ending in `.weights.h5`.
        method: `rfd` or `rotation`, the pretraining method; detected from the checkpoint
            when None: an AlexNet without a classification layer is RFD's, all else RotNet's.
        overwrite: whether an existing output may be replaced.

    Returns:
        The record, as `rfd_tf.applications.read_record` gives it.

    Raises:
        UserError: as of `read_checkpoint` and `torch_import.convert_backbone`; unknown names, an
            output that exists or cannot be written.
    """
    if architecture not in torch_import.ENTRY_PLACES:
        raise unknown("architecture", architecture, torch_import.ENTRY_PLACES)
    if method is not None and method not in METHODS:
        raise unknown("method", method, METHODS)
    output = expanded(output)
    if not output.name.endswith(SUFFIX):
        raise UserError(f"the output is a file ending in {SUFFIX}, not '{output}'")
    if output.exists() and not overwrite:
        raise UserError(f"'{output}' exists; give another --output, or --overwrite to replace it")
    entries, epoch = read_checkpoint(path)
    try:
        model = torch_import.network_for(entries, architecture)
    except UserError as error:
        raise UserError(f"'{path}' is not a {architecture}: {error}") from None
    has_top = model.layers[-1].name == "predictions"
    if method is None:
        method = "rfd" if architecture == "alexnet" and not has_top else "rotation"
    record = _record(model, architecture, method)
    if epoch is not None:
        record["epoch"] = epoch
    save_backbone(model, output, record)
    return record


def _record(model: Any, architecture: str, method: str) -> dict[str, Any]:
    cifar = architecture == "network_in_network"
    constants = ("CIFAR10_MEAN", "CIFAR10_STD") if cifar else ("IMAGENET_MEAN", "IMAGENET_STD")
    mean, std = (list(getattr(preprocessing, name)) for name in constants)
    # After rotation training the layers in the middle serve best; RFD's feature is its last.
    endpoint = "fc7" if method == "rfd" else "block2" if cifar else "conv4"
    if method == "rfd" and cifar:
        endpoint = endpoints(model)[-1]
    feature: dict[str, Any] = {"endpoint": endpoint, "pooling": "avg"}
    if method == "rfd":
        channels = int(model.get_layer(endpoint).output.shape[-1])
        feature["split"] = [channels // 2, channels - channels // 2]
    return {
        "format": 1,
        "backbone": architecture,
        "arguments": torch_import.arguments_of(model, architecture),
        "image_size": 32 if cifar else 224,
        "mean": mean,
        "std": std,
        "method": method,
        "dataset": "cifar10" if cifar else "imagenet",
        "feature": feature,
        "endpoints": list(endpoints(model)),
    }


def _array(torch: Any, name: str, value: Any) -> np.ndarray:
    try:
        value = value.detach()
        if value.is_floating_point():
            value = value.to(torch.float32)
        return value.numpy()
    except (TypeError, RuntimeError):
        raise UserError(f"entry '{name}' is not a plain dense tensor") from None


def _torch() -> Any:
    torch = extras.load("torch", "reading a PyTorch checkpoint")
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST_TORCH:
        raise UserError(
            f"PyTorch {torch.__version__} does not read unknown files safely, "
            f"{'.'.join(map(str, OLDEST_TORCH))} does: pip install -U 'rfd_tf[torch]'"
        )
    return torch
