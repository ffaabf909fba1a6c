"""Writes the reference of the library's public names, from their docstrings, as HTML pages.

    pip install '.[docs]'
    python scripts/build_reference.py --output_dir=site

Open site/index.html. Documented is what each package lists in `__all__`.
"""

from __future__ import annotations

import importlib
import types
import warnings
from pathlib import Path

from absl import flags

from rfd_tf.cli import path_flags
from rfd_tf.cli.common import run

path_flags.DEFINE_path(
    "output_dir", "site", "Where the pages go; files of the same name are replaced"
)

FLAGS = flags.FLAGS

PACKAGE = "rfd_tf"


def document(name: str) -> dict:
    """A module and the public modules in it, by full name, as pdoc sees them."""
    import pdoc.doc

    module = importlib.import_module(name)
    public = getattr(module, "__all__", ())
    for attribute in public:
        # Names that are imported on first use, which pdoc would not see.
        setattr(module, attribute, getattr(module, attribute))
    page = pdoc.doc.Module(module)
    # (A module may have the name of a function in it: of those, the function is public.)
    below = [each for each in public if isinstance(getattr(module, each), types.ModuleType)]
    pages = {name: page}
    children = []
    for child in below:
        found = document(f"{name}.{child}")
        children.append(found[f"{name}.{child}"])
        pages.update(found)
    page.submodules = children
    return pages


def main() -> None:
    from rfd_tf import extras
    from rfd_tf.errors import UserError

    pdoc = extras.load("pdoc", "the reference")
    extras.load("pdoc.render", "the reference")
    target = Path(FLAGS.output_dir)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to '{target}' ({error.strerror}); give another --output_dir"
        ) from None
    pdoc.render.configure(docformat="google", include_undocumented=False)
    with warnings.catch_warnings():
        # What pdoc cannot resolve in annotations it shows as it is written.
        warnings.simplefilter("ignore")
        pages = document(PACKAGE)
        texts = {
            f"{name.replace('.', '/')}.html": pdoc.render.html_module(page, pages)
            for name, page in pages.items()
        }
        texts["index.html"] = pdoc.render.html_index(pages)
        texts["search.js"] = pdoc.render.search_index(pages)
    for name, text in texts.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"{len(pages)} pages: {target / 'index.html'}")


if __name__ == "__main__":
    run(main)
