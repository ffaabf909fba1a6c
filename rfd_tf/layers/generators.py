"""Random generators that training alone moves."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator

import keras
from keras import ops

# The name that Keras gives to the state of every `keras.random.SeedGenerator`.
_STATE = "seed_generator_state"


def states(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the states of all seed generators of a layer and of the layers in it.

    >>> [tuple(state.shape) for state in states(keras.layers.Dropout(0.5))]
    [(2,)]
    """
    # (`weights` leaves out the states of generators; `variables` has metrics besides.)
    weights = {id(weight) for weight in layer.weights}
    return [v for v in layer.variables if id(v) not in weights and v.path.endswith(_STATE)]


@contextlib.contextmanager
def kept(layer: keras.Layer) -> Iterator[None]:
    """Restores a layer's seed generators at the end to what they were at the beginning.

    >>> dropout = keras.layers.Dropout(0.5, seed=0)
    >>> with kept(dropout):
    ...     _ = dropout(ops.ones((2, 3)), training=True)
    >>> [state.numpy().tolist() for state in states(dropout)]
    [[0, 0]]
    """
    variables = states(layer)
    # Multiplied, since converting may return the variable itself.
    before = [ops.convert_to_tensor(variable) * 1 for variable in variables]
    yield
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


def kept_outside_training(function: Callable) -> Callable:
    """Decorates a layer's method so that it moves the layer's generators only in training.

    Outside training, what the method draws follows from the generators' present states: the same
    call draws the same numbers again.

    Args:
        function: a method with an argument `training`.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(self, *args, **kwargs):
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        if given.arguments["training"]:
            return function(self, *args, **kwargs)
        with kept(self):
            return function(self, *args, **kwargs)

    return wrapped
