"""The optimizers by name; stochastic gradient descent as the published programs run it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from rfd_tf.errors import UserError, unknown

OPTIMIZERS = ("sgd", "adam", "rmsprop")

# Numbers in a weight from which TensorFlow's fused update is worth it. It rounds differently:
# below, a run stays bit for bit what it is by the operations that every backend has.
_FUSED_FROM = 2**20


class _Scaled(keras.optimizers.Optimizer):
    """Gives some weights a share of the learning rate.

    Args:
        scaled: the weights (Keras variables), or their positions among those that are trained.
        scale: their share of the rate, above 0.
        **kwargs: of the optimizer.
    """

    def __init__(self, *args, scaled: Sequence[Any] = (), scale: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        if not scale > 0:
            raise UserError(f"learning-rate scale {scale} must be above 0")
        self.scale = float(scale)
        self.scaled = [each for each in scaled if isinstance(each, int)]
        # (Keras would take weights that are kept here for the optimizer's own.)
        self._slow = frozenset(id(each) for each in scaled if not isinstance(each, int))

    def build(self, variables):
        """Finds the weights among those that are trained; see `keras.optimizers.Optimizer`."""
        if self.built:
            return
        own = {place for place, each in enumerate(variables) if id(each) in self._slow}
        places = own.union(self.scaled)
        self.scaled = sorted(places)
        self._shares = [self.scale if n in places else 1.0 for n in range(len(variables))]
        super().build(variables)

    def share(self, variable) -> float:
        """The share of the learning rate that a weight is trained with."""
        return self._shares[self._get_variable_index(variable)]

    def get_config(self):
        """Returns the arguments that make the optimizer again."""
        return {**super().get_config(), "scaled": list(self.scaled), "scale": self.scale}


class _ScaledDecoupled(_Scaled):
    """The same for an optimizer of Keras, whose decoupled decay would go by the whole rate."""

    def __init__(
        self, *args, decoupled_decay: float = 0.0, undecayed: Sequence[str] = (), **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.decoupled_decay, self.undecayed = float(decoupled_decay), tuple(undecayed)

    def build(self, variables):
        """Finds the weights that decay as well."""
        if not self.built:
            self._decays = [variable.name not in self.undecayed for variable in variables]
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        """Decays and steps by the weight's share of the rate."""
        rate = ops.cast(learning_rate, variable.dtype) * self.share(variable)
        if self.decoupled_decay and self._decays[self._get_variable_index(variable)]:
            self.assign_sub(variable, variable * self.decoupled_decay * rate)
        super().update_step(gradient, variable, rate)

    def get_config(self):
        """Returns the arguments that make the optimizer again."""
        config = {**super().get_config(), "decoupled_decay": self.decoupled_decay}
        return {**config, "undecayed": list(self.undecayed)}


@keras.saving.register_keras_serializable(package="rfd_tf")
class ScaledAdam(_ScaledDecoupled, keras.optimizers.Adam):
    """Keras' AdamW (Adam without decay) with a share of the learning rate for some weights.

    `scaled` and `scale` say which weights have which share; `decoupled_decay` and `undecayed` are
    the decay and the names of weights without it; the other arguments are those of
    `keras.optimizers.Adam`.

    >>> ScaledAdam(0.001, scale=0.1).scale
    0.1
    """


@keras.saving.register_keras_serializable(package="rfd_tf")
class ScaledRMSprop(_ScaledDecoupled, keras.optimizers.RMSprop):
    """Keras' RMSprop with a share of the learning rate for some weights; see `ScaledAdam`.

    >>> ScaledRMSprop(0.001, decoupled_decay=0.01).decoupled_decay
    0.01
    """


@keras.saving.register_keras_serializable(package="rfd_tf", name="CoupledSGD")
class SGD(_Scaled):
    """SGD with momentum and coupled weight decay, PyTorch's rule.

    Keras' SGD differs twice: its `weight_decay` shrinks weights apart from the gradient
    (decoupled), and its momentum buffer holds steps already multiplied by the learning rate, so
    that a drop of the rate takes many steps to act. Here, with gradient g and weight w,

        d = g + weight_decay * w;  v <- momentum * v + d;
        w <- w - learning_rate * (d + momentum * v if nesterov else v).

    Args:
        learning_rate: number or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: 0 to 1.
        nesterov: look ahead along the momentum.
        coupled_weight_decay: added to each gradient as this share of the weight; on every weight,
            batch normalisation's and biases included, as the programs do.
        undecayed: names of weights (last part of the path, such as `gamma`) left out of the decay.
        scaled, scale: weights that are trained with a share of the learning rate, and the share.

    >>> optimizer = SGD(learning_rate=0.1, momentum=0.9, coupled_weight_decay=5e-4)
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum: float = 0.9,
        nesterov: bool = True,
        coupled_weight_decay: float = 0.0,
        undecayed: Sequence[str] = (),
        name: str = "sgd",
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = float(momentum)
        self.nesterov = bool(nesterov)
        self.coupled_weight_decay = float(coupled_weight_decay)
        self.undecayed = tuple(undecayed)
        self.momentums = []

    def build(self, variables):
        """Makes the momentum buffers; see `keras.optimizers.Optimizer`."""
        if self.built:
            return
        super().build(variables)
        self.momentums = self.add_optimizer_variables(variables, "momentum")
        self._decays = [variable.name not in self.undecayed for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        """Applies the rule above to one weight."""
        rate = ops.cast(learning_rate, variable.dtype)
        share = self.share(variable)
        if share != 1.0:
            rate = rate * share
        gradient = ops.cast(gradient, variable.dtype)
        direction = gradient
        position = self._get_variable_index(variable)
        if self.coupled_weight_decay and self._decays[position]:
            direction = gradient + self.coupled_weight_decay * variable
        momentum = self.momentums[position]
        large = math.prod(variable.shape) >= _FUSED_FROM
        if large and keras.backend.backend() == "tensorflow":
            _apply_momentum(variable, momentum, rate, direction, self.momentum, self.nesterov)
            return
        velocity = self.momentum * momentum + direction
        self.assign(momentum, velocity)
        step = direction + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, rate * step)

    def get_config(self):
        """Returns the arguments that make the optimizer again."""
        config = super().get_config()
        for name in ("momentum", "nesterov", "coupled_weight_decay"):
            config[name] = getattr(self, name)
        config["undecayed"] = list(self.undecayed)
        return config


def _apply_momentum(variable, momentum, rate, direction, factor: float, nesterov: bool) -> None:
    """The same rule in one pass over the weights instead of six: tens of millions cost as much as
    a tenth of a step."""
    import tensorflow as tf

    handles = [
        (held.value if isinstance(held, keras.Variable) else held).handle
        for held in (variable, momentum)
    ]
    tf.raw_ops.ResourceApplyMomentum(
        var=handles[0],
        accum=handles[1],
        lr=rate,
        grad=direction,
        momentum=tf.constant(factor, direction.dtype),
        use_nesterov=nesterov,
    )


def last_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate of the last step an optimizer took; before any, that of the first.

    `optimizer.learning_rate` is already that of the next step.

    >>> optimizer = SGD(keras.optimizers.schedules.ExponentialDecay(0.4, 1, 0.5))
    >>> round(last_rate(optimizer), 3)
    0.4
    """
    rate = optimizer.get_config()["learning_rate"]
    if isinstance(rate, dict):
        schedule = keras.optimizers.schedules.deserialize(rate)
        rate = schedule(max(int(ops.convert_to_numpy(optimizer.iterations)) - 1, 0))
    return float(ops.convert_to_numpy(rate))


def build(
    name: str,
    learning_rate,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    undecayed: Sequence[str] = (),
    scaled: Sequence[keras.Variable] = (),
    scale: float = 1.0,
) -> keras.optimizers.Optimizer:
    """Makes an optimizer by name.

    Args:
        name: `sgd` (`SGD` above), `adam` (Keras' AdamW, without decay its Adam) or `rmsprop`
            (Keras' RMSprop).
        learning_rate: number or schedule.
        momentum: of `sgd` and `rmsprop`; the decay of the first moment of `adam`.
        nesterov: of `sgd`.
        weight_decay: coupled for `sgd`; decoupled, times the learning rate, for the others.
        undecayed: names of weights without decay.
        scaled, scale: weights that are trained with a share of the learning rate, such as
            `method.backbone.trainable_variables`, and the share. Their decay is by it as well.

    Raises:
        UserError: an unknown name, or a share that is not above 0.

    >>> type(build("adam", 1e-3, weight_decay=0.05)).__name__
    'AdamW'
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    if name == "sgd":
        share = {} if scale == 1.0 else {"scaled": scaled, "scale": scale}
        return SGD(learning_rate, momentum, nesterov, weight_decay, undecayed, **share)
    if scale != 1.0:
        own = {"decoupled_decay": weight_decay, "undecayed": undecayed}
        if name == "adam":
            return ScaledAdam(learning_rate, beta_1=momentum, scaled=scaled, scale=scale, **own)
        return ScaledRMSprop(learning_rate, momentum=momentum, scaled=scaled, scale=scale, **own)
    decay = weight_decay or None
    if name == "adam":
        # (Keras' AdamW cannot go without a decay.)
        kind = keras.optimizers.AdamW if decay else keras.optimizers.Adam
        optimizer = kind(learning_rate, weight_decay=decay, beta_1=momentum)
    else:
        optimizer = keras.optimizers.RMSprop(learning_rate, momentum=momentum, weight_decay=decay)
    if undecayed and decay:
        optimizer.exclude_from_weight_decay(var_names=list(undecayed))
    return optimizer
