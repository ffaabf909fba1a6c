"""Learning-rate schedules, counted in optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from rfd_tf.errors import UserError, unknown

SCHEDULES = ("cosine", "step", "exponential", "constant")

#: The published programs' tables: (end epoch, learning rate), the last rate persisting.
LOOKUP_TABLES: dict[str, tuple[tuple[float, float], ...]] = {
    # RFD on ImageNet, 210 epochs and 35 more with PU weights.
    "rfd_imagenet": ((90, 1e-2), (130, 1e-3), (190, 1e-4), (210, 1e-5), (230, 1e-4), (245, 1e-5)),
    # RotNet on CIFAR-10, 200 epochs, and on ImageNet, 50 epochs.
    "rotnet_cifar10": ((60, 0.1), (120, 0.02), (160, 0.004), (200, 0.0008)),
    "rotnet_imagenet": ((15, 1e-2), (30, 1e-3), (45, 1e-4), (50, 1e-5)),
    # AET on CIFAR-10, 1,500 epochs, the last 500 falling linearly from one to the next.
    "aet_cifar10": (
        *((240, 0.1), (480, 0.02), (640, 0.004), (800, 0.0008), (1000, 0.00016)),
        *((epoch + 1, 1.6e-4 - 3e-7 * (epoch - 999)) for epoch in range(1000, 1500)),
    ),
    # AET on ImageNet, 200 epochs.
    "aet_imagenet": ((100, 1e-2), (150, 1e-3), (200, 1e-4)),
}


def parse_lookup_table(text: str) -> tuple[tuple[float, float], ...]:
    """Reads `"90:0.01,130:0.001"`, or the name of a published table, as (end epoch, rate) pairs.

    Raises:
        UserError: not such a list, end epochs not rising, or a rate below 0.

    >>> parse_lookup_table("60:0.1,120:0.02")
    ((60.0, 0.1), (120.0, 0.02))
    """
    if text in LOOKUP_TABLES:
        return LOOKUP_TABLES[text]
    try:
        pairs = [tuple(float(part) for part in item.split(":")) for item in text.split(",")]
        table = tuple((end, rate) for end, rate in pairs)
    except ValueError:
        names = ", ".join(LOOKUP_TABLES)
        raise UserError(
            f"learning-rate table '{text}' must read END_EPOCH:RATE,... as in 60:0.1,120:0.02, "
            f"or be one of {names}"
        ) from None
    ends = [end for end, _ in table]
    if (
        any(b <= a for a, b in zip([0.0, *ends], ends, strict=False))
        or min(rate for _, rate in table) < 0
    ):
        raise UserError(
            f"learning-rate table '{text}' needs rising end epochs and rates of at least 0"
        )
    return table


def from_lookup_table(table: Sequence[tuple[float, float]], steps_per_epoch: int):
    """The rate of the first entry whose end epoch is still ahead; the last one persists.

    Args:
        table: (end epoch, rate) pairs, end epochs rising.
        steps_per_epoch: optimizer steps an epoch.

    >>> schedule = from_lookup_table(((1, 0.1), (2, 0.01)), steps_per_epoch=10)
    >>> [round(float(schedule(step)), 3) for step in (9, 10, 99)]
    [0.1, 0.01, 0.01]
    """
    # Keras gives a step that equals a boundary to the earlier value.
    boundaries = [round(end * steps_per_epoch) - 1 for end, _ in table[:-1]]
    rates = [rate for _, rate in table]
    if not boundaries:
        return constant(rates[0])
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)


def constant(rate: float):
    """The same rate at every step.

    >>> float(constant(0.5)(1000))
    0.5
    """
    return keras.optimizers.schedules.PiecewiseConstantDecay([0], [rate, rate])


def cosine(rate: float, total_steps: int, warmup_steps: int = 0, final_fraction: float = 0.0):
    """Half a cosine from `rate` to `rate * final_fraction`, after a linear warm-up from 0.

    Args:
        rate: the highest learning rate.
        total_steps: optimizer steps in all, the warm-up's included.
        warmup_steps: steps of the warm-up.
        final_fraction: share of `rate` at the end, 0 to 1.

    >>> schedule = cosine(0.5, total_steps=100, warmup_steps=20)
    >>> [round(float(schedule(step)), 3) for step in (0, 10, 20, 60, 100)]
    [0.0, 0.25, 0.5, 0.25, 0.0]
    """
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_steps else rate,
        decay_steps=max(total_steps - warmup_steps, 1),
        alpha=final_fraction,
        warmup_target=rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def exponential(rate: float, decay_rate: float, decay_steps: float):
    """The rate times `decay_rate` for every `decay_steps` steps, a little at each step.

    Args:
        rate: the learning rate at step 0.
        decay_rate: share of the rate that is left after `decay_steps`, above 0 and at most 1.
        decay_steps: optimizer steps, above 0.

    >>> schedule = exponential(0.4, decay_rate=0.25, decay_steps=10)
    >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 20)]
    [0.4, 0.2, 0.1, 0.025]
    """
    return keras.optimizers.schedules.ExponentialDecay(rate, decay_steps, decay_rate)


def build(
    name: str,
    *,
    rate: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
    table: str | None = None,
    decay_rate: float = 0.5,
    decay_epochs: float = 10.0,
):
    """Builds a schedule by name.

    Args:
        name: one of `SCHEDULES`. `step` follows `table`.
        rate: highest learning rate; not used by `step`, whose table holds the rates.
        epochs: epochs in all.
        steps_per_epoch: optimizer steps an epoch.
        warmup_epochs: epochs of linear warm-up, for `cosine`.
        table: for `step`, see `parse_lookup_table`.
        decay_rate: for `exponential`: the share of the rate left after each `decay_epochs`, above
            0 and at most 1.
        decay_epochs: for `exponential`: epochs, above 0.

    Raises:
        UserError: unknown name, missing table, a rate not above 0, a warm-up that fits no schedule,
            a decay out of its range.

    >>> schedule = build("cosine", rate=0.5, epochs=10, steps_per_epoch=10, warmup_epochs=2)
    >>> float(schedule(20))
    0.5
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    if warmup_epochs and name != "cosine":
        raise UserError(f"warm-up goes with the cosine schedule, not with '{name}'")
    if name == "step":
        if not table:
            raise UserError("the step schedule needs a table, as in --lr_table=60:0.1,120:0.02")
        return from_lookup_table(parse_lookup_table(table), steps_per_epoch)
    if table:
        raise UserError(f"a learning-rate table goes with the step schedule, not with '{name}'")
    if not rate > 0:
        raise UserError(f"learning rate {rate} must be above 0")
    if name == "constant":
        return constant(rate)
    if name == "exponential":
        if not 0 < decay_rate <= 1:
            raise UserError(f"decay rate {decay_rate} must be above 0 and at most 1")
        if not decay_epochs > 0:
            raise UserError(f"decay epochs {decay_epochs} must be above 0")
        return exponential(rate, decay_rate, decay_epochs * steps_per_epoch)
    if not 0 <= warmup_epochs < epochs:
        raise UserError(f"{warmup_epochs} warm-up epochs must be fewer than the {epochs} epochs")
    return cosine(rate, epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch))
