"""Packages of the extras in setup.cfg: imported where they are used, and named where they lack."""

from __future__ import annotations

import importlib
import types

from rfd_tf.errors import UserError

#: Module -> the extra that installs it.
EXTRAS = {
    "ai_edge_litert": "litert",
    "apache_beam": "beam",
    "datasets": "hf",
    "faiss": "faiss",
    "fsspec": "remote",
    "huggingface_hub": "hub",
    "jinja2": "report",
    "keras_cv": "detection",
    "matplotlib": "report",
    "mlflow": "mlflow",
    "pillow_heif": "heif",
    "pycocotools": "detection",
    "tensorflow_datasets": "tfds",
    "torch": "torch",
    "wandb": "wandb",
}


class MissingPackage(UserError):
    """A package that an extra installs cannot be imported.

    >>> str(MissingPackage("the report needs jinja2; pip install 'rfd_tf[report]'"))
    "the report needs jinja2; pip install 'rfd_tf[report]'"
    """


def load(module: str, purpose: str) -> types.ModuleType:
    """Imports a module that only an extra installs.

    Args:
        module: its full name.
        purpose: what needs it, for the message.

    Raises:
        MissingPackage: it cannot be imported. The message names the extra.

    >>> load("jinja2.no_such_module", "the report")
    Traceback (most recent call last):
    ...
    rfd_tf.extras.MissingPackage: the report needs jinja2 (...); pip install 'rfd_tf[report]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPackage(
            f"{purpose} needs {package} ({error}); pip install 'rfd_tf[{EXTRAS[package]}]'"
        ) from None
