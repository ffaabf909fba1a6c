"""The error of an estimated transformation."""

from __future__ import annotations

from keras import ops


def transformation_error(estimated, true):
    """Mean squared error of the parameters of a transformation, over parameters and images.

    Zhang et al. (AET, CVPR 2019, eq. 2) halve the squared distance; their published program takes
    the mean over the parameters, as here.

    Args:
        estimated: `[batch, parameters]`, floating point.
        true: `[batch, parameters]`, floating point.

    Returns:
        A scalar, float32. Chance level: the mean variance of the true parameters.

    >>> float(transformation_error(ops.array([[1.0, 3.0]]), ops.array([[1.0, 1.0]])))
    2.0
    """
    return ops.mean(ops.square(ops.cast(estimated, "float32") - ops.cast(true, "float32")))
