"""What the documentation site has beside the pages of docs/, for mkdocs.yml.

- Pages that Markdown files link to outside docs/, such as README.md, which is the home page.
- The navigation: the sections of docs/index.md with the pages that they link to.
- The reference: a page for every public package and module, from docstrings.

Links in the Markdown files are those of the files in the repository; here they are rewritten to
the places of the pages in the site.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import posixpath
import pprint
import re
import types
from collections.abc import Mapping
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CONTENTS = DOCS / "index.md"
PACKAGE = "rfd_tf"
#: Places in the site of files that do not keep their place in docs/ or in the repository.
MOVED = {ROOT / "README.md": "index.md", CONTENTS: "contents.md"}

_FENCED = re.compile(r"(?ms)^( *```.*?^ *```)")
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
_EXAMPLE = re.compile(r"(?m)^( *)>>> .*(?:\n\1.*\S.*)*")


def place(path: Path) -> str:
    """Returns the place of a file of the repository in the site."""
    if path in MOVED:
        return MOVED[path]
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()


def links(text: str) -> list[str]:
    """Returns the paths of files that Markdown links to."""
    return _LINK.findall(_FENCED.sub("", text))


def linked_files() -> list[Path]:
    """Returns the files that the pages of the site link to, and which are in the site for that."""
    found, waiting = [], [ROOT / "README.md", *DOCS.rglob("*.md")]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.append(path)
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            waiting += [(path.parent / target).resolve() for target in links(text)]
    return found


def navigation() -> list[dict]:
    """Returns the sections of docs/index.md, with the pages that each links to, and the reference.

    A page's title is the text of its link, or its file's name where the text is a path.
    """
    sections: list[dict] = [{"Home": place(ROOT / "README.md")}]
    text = CONTENTS.read_text(encoding="utf-8")
    for section in re.split(r"(?m)^## ", text)[1:]:
        heading, _, body = section.partition("\n")
        pages: dict[str, str] = {}
        for title, target in re.findall(r"\[([^\]]*)\]\(([^)#\s:]+\.md)\)", body):
            if title.endswith(".md"):
                title = Path(title).stem.replace("_", " ").capitalize()
            pages.setdefault(place((DOCS / target).resolve()), title.strip("`"))
        pages.pop(place(ROOT / "README.md"), None)
        sections.append({heading: [{title: page} for page, title in pages.items()]})
    reference = [{name: f"reference/{name}.md"} for name in public_modules()]
    return [*sections, {"Reference": reference}]


def public_modules() -> dict[str, types.ModuleType]:
    """Returns the package, its packages and the modules that these export, by full name."""
    names = [PACKAGE]
    package = importlib.import_module(PACKAGE)
    names += [
        each.name for each in pkgutil.walk_packages(package.__path__, f"{PACKAGE}.") if each.ispkg
    ]
    found = {name: importlib.import_module(name) for name in names}
    for name in names:
        for each in found[name].__all__:
            value = getattr(found[name], each)
            if isinstance(value, types.ModuleType):
                found[value.__name__] = value
    return dict(sorted(found.items()))


def reference(name: str, module: types.ModuleType) -> str:
    """Returns the page of a public module, which mkdocstrings fills from docstrings."""
    if not hasattr(module, "__path__"):
        options = {"show_root_heading": False, "show_root_toc_entry": False}
        return "\n".join([f"# {name}", "", *block(name, options)])
    lines = [f"# {name}", "", fenced(inspect.getdoc(module) or "")]
    pages, rest = [], []
    for public in module.__all__:
        value = getattr(module, public)
        if isinstance(value, types.ModuleType):
            pages.append(f"- [{value.__name__}]({value.__name__}.md)")
        elif inspect.isclass(value) or inspect.isfunction(value):
            home = f"{value.__module__}.{value.__qualname__}"
            heading = f"{name}.{public}"
            rest += block(home, {"heading": heading, "toc_label": public})
        else:
            value = list(value) if isinstance(value, Mapping) else value
            rest += [f"## {name}.{public} {{: data-toc-label='{public}' }}", ""]
            rest += ["```python", pprint.pformat(value, width=88), "```", ""]
    return "\n".join([*lines, "", *pages, "", *rest])


def block(path: str, options: dict) -> list[str]:
    """Returns what mkdocstrings replaces by the description of a function, class or module."""
    values = [f"      {key}: {json.dumps(value)}" for key, value in options.items()]
    return [f"::: {path}", "    options:", *values, ""]


def fenced(text: str) -> str:
    """Returns a docstring with its examples as blocks of code."""
    return _EXAMPLE.sub(r"\1```pycon\n\g<0>\n\1```", text)


class Examples(griffe.Extension):
    """Shows the examples of docstrings as code."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


# -- called by mkdocs ---------------------------------------------------------------------------


def on_config(config):
    """Sets the navigation."""
    config["nav"] = navigation()
    return config


def on_files(files, config):
    """Adds the linked files from outside docs/ and the reference."""
    files.remove(files.get_file_from_path(CONTENTS.name))
    for path in linked_files():
        if path in MOVED or not path.is_relative_to(DOCS):
            files.append(File.generated(config, place(path), abs_src_path=str(path)))
    for name, module in public_modules().items():
        page = f"reference/{name}.md"
        files.append(File.generated(config, page, content=reference(name, module)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites links to the places of files in the site."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    moved = {target: path for path, target in MOVED.items()}
    inside = DOCS / page.file.src_uri
    path = moved.get(page.file.src_uri, inside if inside.exists() else ROOT / page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def rewritten(match: re.Match) -> str:
        target = (path.parent / match[0]).resolve()
        return posixpath.relpath(place(target), here or ".") if target.exists() else match[0]

    parts = _FENCED.split(markdown)
    return "".join(
        part if _FENCED.fullmatch(part) else _LINK.sub(rewritten, part) for part in parts
    )
