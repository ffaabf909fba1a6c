"""The images of a TFDS dataset that show objects of given classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rfd_tf.data.base import Source
from rfd_tf.data.subset import subset
from rfd_tf.data.tfds_source import TfdsSource
from rfd_tf.errors import UserError, unknown


def with_objects(source: Source, class_names: Sequence[str]) -> Source:
    """Returns the images that show an object of one of the classes, as a source of its own.

    Reads the objects of all records once, no image.

    Args:
        source: of `rfd_tf.data.tfds`, of a dataset whose features are those of detection, with
            "objects" that have a "label"; such as `coco/2017` or `voc/2007`.
        class_names: names of classes, such as `("cat", "dog")`.

    Returns:
        A part of the source, see `rfd_tf.data.subset.subset`; it has no labels, for an image may
        show several classes.

    Raises:
        UserError: a dataset without such objects, an unknown class, no image that shows one.
    """
    labels = _object_labels(source)
    wanted = []
    for name in class_names:
        if name not in labels.names:
            raise unknown(f"class of '{source.name}'", name, labels.names)
        wanted.append(labels.names.index(name))
    with_one = [
        index for index, found in source.values({"objects": {"label": labels}}) if shows(found)
    ]
