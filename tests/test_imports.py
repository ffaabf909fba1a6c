"""Imports, read from the code: no circles, and none against the order of the packages."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import research
import rfd_tf

#: A module imports from its own line and those above it; see "How it is built" in CONTRIBUTING.md.
ORDER = (
    [
        *(
            "errors",
            "rules",
            "progress",
            "paths",
            "text",
            "lazy",
            "extras",
            "keras_settings",
            "kernels",
            "system",
        ),
        *("losses", "layers", "applications"),
    ],
    ["data"],
    ["methods"],
    ["training"],
    ["evaluation"],
    ["export"],
    ["interpret"],
    ["settings", "config", "presets", "recipes"],
    ["recording", "pretrainer", "run", "estimation"],
    ["cli", "__main__"],
    ["research"],
)


class Code:
    """The modules of packages and what each of them imports of the others.

    Imports inside functions count, those for type checkers alone do not. A name that a package
    passes on counts as an import of the package and of the module that defines the name, whether
    the package imports that module at once or on first use.
    """

    def __init__(self, *packages: Path):
        self.paths = {}
        for package in packages:
            for path in sorted(package.rglob("*.py")):
                parts = path.relative_to(package.parent).with_suffix("").parts
                self.paths[".".join(parts).removesuffix(".__init__")] = path
        self.trees = {name: ast.parse(path.read_text()) for name, path in self.paths.items()}
        self.passed_on = {
            name: dict(self._passed_on(name))
            for name, path in self.paths.items()
            if path.name == "__init__.py"
        }
        self.graph = {name: dict(self._imports(name)) for name in self.paths}

    def _passed_on(self, package: str) -> Iterator[tuple[str, str]]:
        for node in ast.walk(self.trees[package]):
            if isinstance(node, ast.ImportFrom) and node.module in self.paths:
                for alias in node.names:
                    yield alias.asname or alias.name, node.module
            if isinstance(node, ast.Dict):  # what `rfd_tf.lazy.attach` takes
                pairs = zip(node.keys, node.values, strict=True)
                for key, home in pairs:
                    if isinstance(key, ast.Constant) and isinstance(home, ast.Constant):
                        if f"{package}.{home.value}" in self.paths:
                            yield key.value, f"{package}.{home.value}"

    def _resolved(self, dotted: str) -> Iterator[str]:
        """The modules that the value of `a.b.c` comes from."""
        parts = dotted.split(".")
        for end in range(len(parts), 0, -1):
            module = ".".join(parts[:end])
            if module in self.paths:
                yield module
                home = self.passed_on.get(module, {}).get(parts[end]) if end < len(parts) else None
                if home:
                    yield home
                return

    def _imports(self, module: str) -> Iterator[tuple[str, int]]:
        """Each module that a module imports, with the line."""
        names = {}  # of this package's modules, as they are called here
        found = []
        for node in _executed(self.trees[module]):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found.append((alias.name, node.lineno))
                    top = alias.name.split(".")[0]
                    names[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{module}:{node.lineno}: a relative import"
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    found.append((full, node.lineno))
                    names[alias.asname or alias.name] = full
        for node in _executed(self.trees[module]):
            if isinstance(node, ast.Attribute):
                first, _, rest = ast.unparse(node).partition(".")
                if names.get(first) in self.paths:
                    found.append((f"{names[first]}.{rest}", node.lineno))
        for dotted, line in found:
            for target in self._resolved(dotted):
                if target != module:
                    yield target, line


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children = node.orelse
    for child in children:
        yield from _executed(child)


def circle(graph: dict) -> list[str] | None:
    """The modules of a circle of imports, each importing the next; None where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1][::-1]
    return None


def place(module: str) -> int:
    package, _, inside = module.partition(".")
    top = "research" if package == "research" else inside.split(".")[0]
    if not top:
        return 0  # the package itself holds its version and imports the others on first use
    places = [number for number, names in enumerate(ORDER) if top in names]
    assert places, f"'{top}' has no place in the order of packages"
    return places[0]


@pytest.fixture(scope="module")
def code():
    return Code(*(Path(package.__file__).parent for package in (rfd_tf, research)))


def test_no_circle(code):
    assert len(code.graph) > 200 and code.graph["rfd_tf.data.sources"]
    assert "rfd_tf.cli.common" in code.graph["research.commands.study"]
    found = circle(code.graph)
    steps = [
        f"{code.paths[one]}:{code.graph[one][other]} imports {other}"
        for one, other in zip(found or [], (found or [])[1:], strict=False)
    ]
    assert not found, "\n".join(steps)


def test_no_import_against_the_order(code):
    wrong = [
        f"{code.paths[module]}:{line} imports {other}"
        for module, imported in code.graph.items()
        for other, line in imported.items()
        if place(other) > place(module)
    ]
    assert not wrong, "\n".join(wrong)


def test_all_kinds_of_imports_are_seen(tmp_path):
    package = tmp_path / "p"
    package.mkdir()
    files = {
        "__init__": "NAMES = {'late': 'd'}\nfrom p.a import early",
        "a": "def early():\n    import p.b",
        "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import a\n",
        "c": "from p import late, early",
        "d": "import p\n\ndef late():\n    return p.c.early",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    graph = {name: set(imported) for name, imported in Code(package).graph.items()}
    assert graph == {
        "p": {"p.a"},
        "p.a": {"p.b"},
        "p.b": set(),
        "p.c": {"p", "p.a", "p.d"},
        "p.d": {"p", "p.c"},
    }
    assert circle(graph) in (["p.c", "p.d", "p.c"], ["p.d", "p.c", "p.d"])
