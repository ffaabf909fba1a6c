"""What a network looks at: saliency, class activation, attention, and how far they meet objects.

`saliency` and `activation` make maps of a Keras model, `overlap` compares maps with objects;
`duplicates` finds images that a set has twice; `report` writes a run as one HTML file, `explore`
serves a page to explore a run.
"""

from rfd_tf.lazy import attach

_MODULES = ("activation", "duplicates", "explore", "overlap", "report", "saliency")

__getattr__, __dir__, __all__ = attach(__name__, _MODULES)
