"""Packages that import their modules on first use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def attach(
    package: str, modules: Iterable[str] = (), names: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Returns a package's `__getattr__`, `__dir__` and `__all__`.

    Importing the package is then quick, and packages that are not used need not be installed.

    Args:
        package: its full name.
        modules: those of its modules that are public.
        names: public names -> the module of the package that defines them.

    Source: PEP 562.

    >>> get, _, public = attach("rfd_tf.training", ["schedules"], {"SGD": "optimizers"})
    >>> public, get("SGD").__module__
    (['schedules', 'SGD'], 'rfd_tf.training.optimizers')
    """
    modules, homes = tuple(modules), dict(names or {})
    public = [*modules, *homes]

    def get(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *public})

    return get, listed, public
