"""Progress bars: lines in a terminal, widgets in a notebook."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from typing import Any


def in_notebook() -> bool:
    """Whether the program runs in a Jupyter kernel, whose output cells are read."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


def tqdm(iterable: Iterable | None = None, **options: Any) -> Any:
    """Returns a progress bar of tqdm's: a widget in a notebook that can show it, else text.

    Args:
        iterable: what it counts, or None to call `update`.
        **options: of `tqdm.tqdm`. `disable=None` shows it in a terminal and in a notebook, and not
            in a log file.

    >>> with tqdm(total=3, disable=True) as bar:
    ...     _ = bar.update(3)
    """
    from tqdm import tqdm as bar

    if in_notebook():
        options["disable"] = bool(options.get("disable"))
        if importlib.util.find_spec("ipywidgets"):
            from tqdm.notebook import tqdm as bar

            options.pop("file", None)
    return bar(iterable, **options)
