"""Every public name is described, with an example."""

import importlib
import inspect
import pkgutil
import types

import pytest

import rfd_tf

PACKAGES = ["rfd_tf"] + [
    module.name for module in pkgutil.walk_packages(rfd_tf.__path__, "rfd_tf.") if module.ispkg
]


def described(name, thing):
    """What is wrong with the docstring of a function or class, and of a class's methods."""
    text = thing.__doc__ or ""
    summary = text.strip().split("\n\n")[0]
    if not summary:
        yield f"{name} has no docstring"
    elif "\n" in summary:
        yield f"the docstring of {name} does not begin with one line and an empty one"
    if ">>>" not in text:
        yield f"{name} has no example"
    if inspect.isclass(thing):
        for attribute in vars(thing):
            member = inspect.getattr_static(thing, attribute)
            member = getattr(member, "fget", None) or getattr(member, "func", member)
            member = getattr(member, "__func__", member)
            # (Where it overrides, the description is that of what it overrides.)
            if inspect.isfunction(member) and not attribute.startswith("_"):
                if not inspect.getdoc(getattr(thing, attribute)):
                    yield f"{name}.{attribute} has no docstring"


@pytest.mark.parametrize("package", [*PACKAGES, "research.benchmarks"])
def test_public_names_are_described(package):
    module = importlib.import_module(package)
    assert module.__doc__ and getattr(module, "__all__", None), f"{package} says nothing of itself"
    wrong = []
    for name in module.__all__:
        found = getattr(module, name)
        modules = [found] if isinstance(found, types.ModuleType) else []
        if inspect.isclass(found) or inspect.isfunction(found):
            wrong += described(f"{package}.{name}", found)
        for public in modules:
            if not public.__doc__:
                wrong.append(f"{package}.{name} has no docstring")
            for each, thing in vars(public).items():
                mine = getattr(thing, "__module__", None) == public.__name__
                if mine and not each.startswith("_"):
                    if inspect.isclass(thing) or inspect.isfunction(thing):
                        wrong += described(f"{package}.{name}.{each}", thing)
    assert not wrong, "\n".join(wrong)
