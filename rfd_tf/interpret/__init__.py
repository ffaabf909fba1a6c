"""What a network looks at: saliency, class activation, attention, and how far they meet objects.

`saliency` and `activation` make maps of a Keras model, `overlap` compares maps with objects;
`report` writes a run as one HTML file, `explore` serves a page to look at a run by hand.
"""

import importlib

__all__ = ["activation", "explore", "overlap", "report", "saliency"]


def __getattr__(name: str):
    if name in __all__:
        return importlib.import_module(f"rfd_tf.interpret.{name}")
    raise AttributeError(f"module 'rfd_tf.interpret' has no attribute '{name}'")


def __dir__():
    return sorted([*globals(), *__all__])
