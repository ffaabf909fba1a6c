"""Settings as both command line and Python API have them: read from signatures and docstrings."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import json
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rfd_tf.errors import UserError, shown, unknown
from rfd_tf.paths import expanded, is_address


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting, shared by the command line and the Python API.

    Attributes:
        name: name of the argument.
        kind: `bool`, `int`, `float`, `str`, `Path`, `list` or `dict`; `None` for any JSON value.
        default: value if not given.
        choices: allowed values, or None for any.
        help: description, from the docstring of the class that takes it.
        bounds: smallest and largest value, each None if unbounded.
        item: type of the items of a list.

    >>> Setting("epochs", int, 100, None, "passes over the images.").checked(3)
    3
    """

    name: str
    kind: type | None
    default: Any
    choices: tuple[str, ...] | None
    help: str
    bounds: tuple[float | None, float | None] = (None, None)
    item: type = str

    def checked(self, value: Any) -> Any:
        """Returns the value, converted to the setting's type.

        Raises:
            UserError: the value has another type, is out of bounds or is not among the choices.
        """
        if value is None or self.kind is None:
            if value is None and self.default is not None and self.kind is not None:
                raise UserError(f"{self.name} must not be None")
            return value
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if self.kind is Path:
            if not isinstance(value, str):
                raise UserError(f"{self.name} {shown(repr(value))} must be a path")
            if is_address(value):
                return value
            return os.fspath(expanded(value))
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            value = value.item()
        if self.kind is list and isinstance(value, str):
            value = [part for part in value.split(",") if part]
        elif self.kind is list and isinstance(value, (tuple, set, frozenset)):
            value = list(value)
        elif self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        elif isinstance(value, bool) and "true" in (self.choices or ()):
            value = str(value).lower()
        wrong = self.kind is not bool and isinstance(value, bool)
        if wrong or not isinstance(value, Mapping if self.kind is dict else self.kind):
            raise UserError(
                f"{self.name} {shown(repr(value))} must be of type {self.kind.__name__}"
            )
        if self.choices and value not in self.choices:
            raise unknown(self.name, value, self.choices)
        least, most = self.bounds
        if (least is not None and value < least) or (most is not None and value > most):
            limits = [f"at least {least:g}"] if least is not None else []
            limits += [f"at most {most:g}"] if most is not None else []
            raise UserError(f"{self.name} {value} must be {' and '.join(limits)}")
        return dict(value) if self.kind is dict else value


def described(text: str | None) -> dict[str, str]:
    """Returns the descriptions of arguments from the `Args:` or `Attributes:` of a docstring.

    >>> described('''Does it.
    ...
    ...     Args:
    ...         first, second: two numbers,
    ...             in pixels.
    ...
    ...     Returns:
    ...         Nothing.
    ...     ''')
    {'first': 'two numbers, in pixels.', 'second': 'two numbers, in pixels.'}
    """
    lines = inspect.cleandoc(text or "").splitlines()
    found: dict[str, list[str]] = {}
    names: list[str] = []
    inside = False
    for line in lines:
        if re.fullmatch(r"(Args|Attributes):", line):
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        elif inside and line.strip():
            entry = re.match(r" {4}(\*{0,2}\w+(?:,\s+\w+)*),?(?::\s+(.*)|\s*)$", line)
            if entry and not line.startswith("     "):
                pending = names if names and names[-1] == "" else []
                names = [name for name in (*pending, *re.split(r",\s+", entry[1])) if name]
                for name in names:
                    found[name] = [entry[2]] if entry[2] else []
                if not entry[2]:
                    names.append("")  # the list of names continues in the next line
            else:
                for name in names:
                    found[name].append(line.strip())
    return {name: " ".join(parts) for name, parts in found.items() if parts}


# Names in annotations of arguments; an argument with another annotation takes any value.
_ANNOTATIONS = {
    "Any": Any,
    "Callable": Callable,
    "Iterable": Iterable,
    "Literal": Literal,
    "Mapping": Mapping,
    "Sequence": Sequence,
    "os": os,
}


def _item_of(annotation: Any) -> type:
    """The type of a list's items."""
    for part in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(part) in (Sequence, Iterable):
            return typing.get_args(part)[0]
    return str


def _kind_of(annotation: Any) -> tuple[type | None, tuple[str, ...] | None]:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        if os.PathLike in parts:
            return Path, None
        return _kind_of(parts[0]) if len(parts) == 1 else (None, None)
    if typing.get_origin(annotation) is Literal:
        return str, typing.get_args(annotation)
    origin = typing.get_origin(annotation) or annotation
    if origin in (Sequence, Iterable):
        return list, None
    return (origin if origin in (bool, int, float, str, Path, list, dict) else None), None


@functools.cache
def settings_of(config: type) -> dict[str, Setting]:
    """Returns the settings of a configuration dataclass, by name.

    Args:
        config: dataclass whose docstring describes the fields. Its `chosen` names those that are
            chosen if not given, its `bounds` has the smallest and largest value of others.
    """
    hints, texts = typing.get_type_hints(config), described(config.__doc__)
    found = {}
    for field in dataclasses.fields(config):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        kind, choices = _kind_of(hints[field.name])
        if field.name in config.chosen:
            texts[field.name] += " Chosen if not given, see --preset."
        bounds = config.bounds.get(field.name, (None, None))
        found[field.name] = Setting(field.name, kind, default, choices, texts[field.name], bounds)
    return found


@functools.cache
def signature_settings(module: str, owner: str) -> dict[str, Setting]:
    """Returns the arguments with defaults of a class's constructor or of a function, by name.

    They are parsed from the source: importing the module would import TensorFlow, which takes
    seconds that `--help` need not wait for.

    Args:
        module: module of the package, such as `evaluation.knn`.
        owner: name of the class or function.

    >>> signature_settings("evaluation.knn", "KNearestNeighbours")["temperature"].default
    0.07
    """
    constants = _constants(module)
    (found,) = [n for n in constants.body if getattr(n, "name", None) == owner]
    texts = described(ast.get_docstring(found))
    settings = {}
    for name, annotation, default in _parameters(found):
        kind, choices, item = None, None, str
        with contextlib.suppress(NameError, TypeError, AttributeError):  # of another module
            annotation = eval(annotation, _ANNOTATIONS)
            (kind, choices), item = _kind_of(annotation), _item_of(annotation)
        value = None
        with contextlib.suppress(NameError):
            value = eval(default, {"__builtins__": {}}, constants)
        settings[name] = Setting(name, kind, value, choices, texts.get(name, ""), item=item)
    return settings


class _Constants(dict):
    """The constants of a module by name, parsed from its source, including imported ones."""

    def __init__(self, path: Path):
        self.body = ast.parse(path.read_text(encoding="utf-8")).body

    def __missing__(self, name: str) -> Any:
        for node in self.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return eval(ast.unparse(node.value), {"__builtins__": {}}, self)
            if isinstance(node, ast.ImportFrom) and node.module.startswith("rfd_tf"):
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        home = node.module.removeprefix("rfd_tf").strip(".")
                        inside = f"{home}.{alias.name}".strip(".")
                        if _path_of(inside).is_file():
                            return _Module(inside)
                        return _constants(home)[alias.name]
        raise NameError(name)


class _Module:
    def __init__(self, module: str):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return _constants(self._module)[name]


def _path_of(module: str) -> Path:
    path = Path(__file__).parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def _constants(module: str) -> _Constants:
    return _Constants(_path_of(module))


def _parameters(node: ast.ClassDef | ast.FunctionDef) -> Iterator[tuple[str, str, str]]:
    """Yields name, annotation and default of arguments or of a dataclass' fields that have both."""
    if isinstance(node, ast.ClassDef):
        constructors = [n for n in node.body if getattr(n, "name", None) == "__init__"]
        if not constructors:
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and field.value is not None:
                    yield (
                        ast.unparse(field.target),
                        *map(ast.unparse, (field.annotation, field.value)),
                    )
            return
        node = constructors[0]
    named = node.args.args[len(node.args.args) - len(node.args.defaults) :]
    defaults = [*node.args.defaults, *node.args.kw_defaults]
    for argument, default in zip([*named, *node.args.kwonlyargs], defaults, strict=True):
        if argument.annotation is not None and default is not None:
            yield argument.arg, ast.unparse(argument.annotation), ast.unparse(default)


@functools.cache
def method_settings() -> dict[str, Setting]:
    """Returns the options of Rotation Feature Decoupling, which other methods share, by name.

    >>> method_settings()["temperature"].default
    0.07
    """
    found = {
        **signature_settings("methods.recognition", "MemoryBankMethod"),
        **signature_settings("methods.rotation_feature_decoupling", "RotationFeatureDecoupling"),
    }
    return {name: setting for name, setting in found.items() if name != "seed"}


def named_values(items: Any, setting: str) -> dict[str, Any]:
    """Returns options given as `name=value` texts as a dict; values are parsed as JSON if valid.

    Raises:
        UserError: a text without a name or a value.

    >>> named_values(["width=0.5", "transform=both"], "method_option")
    {'width': 0.5, 'transform': 'both'}
    >>> named_values(["teacher_mean=0.5,0.5,0.5"], "method_option")
    {'teacher_mean': [0.5, 0.5, 0.5]}
    """
    if isinstance(items, Mapping):
        return dict(items)
    options = {}
    for item in items or ():
        name, equals, text = str(item).partition("=")
        if not equals or not name:
            raise UserError(f"--{setting} '{item}' must read name=value")
        options[name] = text == "True" if text in ("True", "False") else text
        # One value, or several with commas between them.
        for form in (text, f"[{text}]")[: 2 if "," in text else 1]:
            with contextlib.suppress(ValueError):
                options[name] = json.loads(form)
                break
    return options


def named_texts(options: Mapping[str, Any]) -> list[str]:
    """Returns options as `name=value` texts, except those that are None; see `named_values`.

    >>> named_texts({"width": 0.5, "transform": "both", "grid": None})
    ['width=0.5', 'transform=both']
    """
    return [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in options.items()
        if value is not None
    ]
