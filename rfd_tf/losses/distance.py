"""The distance of each view's feature to the mean over the views."""

from __future__ import annotations

from keras import ops

from rfd_tf.errors import unknown

DISTANCES = ("mean_squared", "euclidean")


def rotation_irrelevance(features, form: str = "mean_squared"):
    """Mean distance of the features of an image's views to their mean.

    The mean is taken as a constant (no gradient), as in the published program. The paper writes a
    Euclidean distance (Feng et al., CVPR 2019, L_r); the program computes the mean squared
    difference over all elements, which for D dimensions is the squared distance divided by D.

    Args:
        features: `[batch, views, dimensions]` floating point.
        form: `mean_squared` (the program) or `euclidean` (the paper).

    Returns:
        A scalar, float32: 0 when the feature does not depend on the rotation.

    >>> float(rotation_irrelevance(ops.ones((2, 4, 8))))
    0.0
    """
    features = ops.cast(features, "float32")
    centre = ops.stop_gradient(ops.mean(features, axis=1, keepdims=True))
    squared = ops.square(features - centre)
    if form == "mean_squared":
        return ops.mean(squared)
    if form == "euclidean":
        total = ops.sum(squared, axis=-1)
        # The square root has no finite gradient at zero; there the gradient is zero.
        positive = total > 0
        return ops.mean(
            ops.where(positive, ops.sqrt(ops.where(positive, total, ops.ones_like(total))), 0.0)
        )
    raise unknown("distance", form, DISTANCES)
