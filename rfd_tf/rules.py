"""Which options have an effect only beside certain values of others: rules, and their check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rfd_tf.errors import UserError, shown
from rfd_tf.paths import HUGGING_FACE, LISTS, is_address

__all__ = [
    "ABSENT", "ABSENT_OR_SPLITS", "A_LIST", "ELSEWHERE", "GIVEN", "ON", "WITH_SPLITS", "AllBut",
    "Including", "Rule", "is_off", "moot", "refusal", "refuse_moot",
]  # fmt: skip


def is_off(value: Any) -> bool:
    """Whether a value switches something off: None, False, 0 or empty.

    >>> is_off(0.0), is_off([]), is_off("nce")
    (True, True, False)
    """
    if value is None or hasattr(value, "shape"):
        return value is None
    return not value


@dataclasses.dataclass(frozen=True)
class _State:
    """A condition on an option, and how a message asks for it."""

    holds: Callable[[Any], bool]
    wanted: str

    def __contains__(self, value: Any) -> bool:
        return self.holds(value)

    def asked(self, name: str) -> str:
        return self.wanted.format(name=name)


#: Switched on: not 0, not False, not empty.
ON = _State(lambda value: value is None or not is_off(value), "{name} other than 0 or false")
#: Given at all.
GIVEN = _State(lambda value: not is_off(value), "{name}")
#: The path of a list of images.
A_LIST = _State(
    lambda value: str(value).lower().endswith(LISTS), f"a list ({', '.join(LISTS)}) as {{name}}"
)
#: Images that may have splits.
WITH_SPLITS = _State(
    lambda value: value in A_LIST or str(value).startswith(HUGGING_FACE),
    f"a list ({', '.join(LISTS)}) or {HUGGING_FACE}NAME as {{name}}",
)
#: Files at an address, or a list, whose images may be.
ELSEWHERE = _State(
    lambda value: is_address(value) or value in A_LIST, "an address or a list as {name}"
)
#: Left out.
ABSENT = _State(is_off, "no {name}")
#: Left out, or images that may have splits.
ABSENT_OR_SPLITS = _State(lambda value: value in ABSENT or value in WITH_SPLITS, "no {name}")


class AllBut(tuple):
    """Every value but these."""

    def __contains__(self, value: Any) -> bool:
        return not super().__contains__(value)

    def asked(self, name: str) -> str:
        """How a message asks for such a value."""
        return f"another {name}"


class Including(tuple):
    """Lists that hold one of these at least."""

    def __contains__(self, value: Any) -> bool:
        return value is None or any(tuple.__contains__(self, each) for each in value)

    def asked(self, name: str) -> str:
        """How a message asks for such a list."""
        return f"{name} with {' or '.join(map(repr, self))}"


@dataclasses.dataclass(frozen=True)
class Rule:
    """Options that have an effect only beside certain values of other options.

    Attributes:
        options: names of the options.
        beside: name of another option -> its values with which they have an effect: a tuple, or
            `ON`, `GIVEN`, `ABSENT`, `AllBut`, `Including`. One of several suffices; without any,
            the options never have an effect. A value of None that is not asked for is one not
            chosen yet, and passes.
        why: the reason, as the end of "... has no effect with schedule='step', ".

    >>> Rule(("warmup_epochs",), {"schedule": ("cosine",)}).effective({"schedule": "step"})
    False
    """

    options: tuple[str, ...]
    beside: Mapping[str, Any]
    why: str = ""

    def effective(self, values: Mapping[str, Any]) -> bool:
        """Whether the options have an effect beside values; beside unknown ones, they have."""
        return any(
            name not in values or _passes(values[name], allowed)
            for name, allowed in self.beside.items()
        )

    def reason(self, values: Mapping[str, Any]) -> str:
        """Returns what keeps the options from having an effect, such as `with schedule='step'`."""
        states = [
            f"without {name}" if values[name] is None else f"with {name}={_text(values[name])}"
            for name in self.beside
        ]
        return ", ".join(filter(None, [" and ".join(states), self.why]))

    def way_out(self) -> str:
        """Returns what would give the options an effect, such as `schedule='cosine'`."""
        wanted = [
            allowed.asked(name)
            if hasattr(allowed, "asked")
            else f"{name}={' or '.join(map(repr, allowed))}"
            for name, allowed in self.beside.items()
        ]
        return " or ".join(wanted)


def _passes(value: Any, allowed: Any) -> bool:
    return value in allowed or (value is None and isinstance(allowed, tuple))


def moot(rules: Iterable[Rule], values: Mapping[str, Any]) -> Iterator[tuple[str, Rule]]:
    """Yields the options that have no effect beside the values of others, each with the rule.

    Args:
        rules: of the options.
        values: the options' values by name, those left to their defaults included.

    >>> rules = [Rule(("padding",), {"crop": ("pad",)})]
    >>> [name for name, _ in moot(rules, {"crop": "none", "padding": 4})]
    ['padding']
    """
    seen = set()
    for rule in rules:
        if not rule.effective(values):
            for name in rule.options:
                if name not in seen:
                    seen.add(name)
                    yield name, rule


def refuse_moot(
    rules: Iterable[Rule], defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Raises `UserError` for an argument of a constructor that has no effect beside the others.

    Args:
        rules: of the arguments.
        defaults: of all arguments.
        given: arguments of the call. One that is its default asks for nothing.
    """
    values = {**defaults, **given}
    for name, rule in moot(rules, values):
        value = given.get(name)
        if not is_off(value) and (hasattr(value, "shape") or value != defaults.get(name)):
            raise refusal(name, rule, values)


def refusal(name: str, rule: Rule, values: Mapping[str, Any]) -> UserError:
    """Returns the error for an option that was given and has no effect.

    >>> rule = Rule(("padding",), {"crop": ("pad",)})
    >>> print(refusal("padding", rule, {"crop": "none", "padding": 4}))
    padding=4 has no effect with crop='none'; leave it out, or give crop='pad'
    """
    ending = f", or give {rule.way_out()}" if rule.beside else ""
    return UserError(
        f"{name}={_text(values[name])} has no effect {rule.reason(values)}; leave it out{ending}"
    )


def _text(value: Any) -> str:
    return "..." if hasattr(value, "shape") else shown(repr(value), 60)
