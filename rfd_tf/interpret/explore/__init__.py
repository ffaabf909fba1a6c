"""A local web page to explore a run: neighbours, rotations, distances, occlusion.

`Explorer` answers the questions, from a run's ONNX file and a set of images; `ExploreServer` puts
them and the page on 127.0.0.1.
"""

from rfd_tf.interpret.explore.explorer import Explorer, turn
from rfd_tf.interpret.explore.network import OnnxNetwork, exported
from rfd_tf.interpret.explore.server import ExploreServer
from rfd_tf.interpret.explore.upload import (
    MOST_BYTES,
    MOST_PIXELS,
    MOST_SIDE,
    Refused,
    read_picture,
)

__all__ = [
    "MOST_BYTES",
    "MOST_PIXELS",
    "MOST_SIDE",
    "ExploreServer",
    "Explorer",
    "OnnxNetwork",
    "Refused",
    "exported",
    "read_picture",
    "turn",
]
