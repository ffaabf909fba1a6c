"""The documentation site builds without a warning and has a page for everything."""

import importlib
import os
import pkgutil
import re
import types
from pathlib import Path
from unittest import mock

import pytest

import rfd_tf

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as `mkdocs build --strict` does."""
    pytest.importorskip("mkdocstrings", reason="the site needs pip install '.[docs]'")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with mock.patch.dict(os.environ):  # the theme sets a variable
        build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    return folder


def test_every_page_of_the_documentation_is_in_the_navigation(site):
    navigation = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        place = str(page.relative_to(ROOT / "docs").with_suffix(".html"))
        place = place.replace("index.html", "contents.html")
        assert (site / place).is_file()
        assert f'href="{place}"' in navigation or page.name == "index.md", place
    for page in ("CHANGELOG.html", "CONTRIBUTING.html", "exported/index.html"):
        assert f'href="{page}"' in navigation


def test_every_public_module_and_name_is_in_the_reference(site):
    packages = [
        "rfd_tf",
        *(each.name for each in pkgutil.walk_packages(rfd_tf.__path__, "rfd_tf.") if each.ispkg),
    ]
    for package in packages:
        text = (site / "reference" / f"{package}.html").read_text(encoding="utf-8")
        module = importlib.import_module(package)
        for name in module.__all__:
            if isinstance(getattr(module, name), types.ModuleType):
                assert (site / "reference" / f"{package}.{name}.html").is_file()
            else:
                assert f"{package}.{name}" in text
    losses = (site / "reference" / "rfd_tf.losses.html").read_text(encoding="utf-8")
    assert 'id="rfd_tf.losses.nce.nce"' in losses and "section 3.2" in losses


def test_examples_of_docstrings_are_code(site):
    for page in (site / "reference").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<blockquote>\s*(<blockquote>\s*)*<p>", text), page.name


def test_pages_load_nothing_from_other_hosts(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img)[^>]* src="https?://[^"]*"', text), page
        assert not re.findall(r'<link[^>]* rel="stylesheet"[^>]*"https?://[^"]*"', text), page
