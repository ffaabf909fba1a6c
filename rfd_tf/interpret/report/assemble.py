"""Puts the sections of a report together and writes the page."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from typing import Any

from rfd_tf import extras
from rfd_tf.data.run_images import RunImages, warn_if_trained_on
from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation.files import folder, write_text
from rfd_tf.interpret.report import embedding_map, network, progress
from rfd_tf.interpret.report.blocks import LeftOut, Section, Text
from rfd_tf.interpret.report.images import ReportImages
from rfd_tf.interpret.report.run_record import RunRecord
from rfd_tf.paths import expanded

#: Section -> (what makes it, whether it needs the network and images), in the page's order.
SECTIONS: dict[str, tuple[Callable[..., Section], bool]] = {
    "summary": (progress.summary, False),
    "curves": (progress.curves, False),
    "evaluation": (progress.evaluation, False),
    "neighbours": (network.neighbours, True),
    "map": (embedding_map.section, True),
    "rotations": (network.rotations, True),
    "invariance": (network.invariance, True),
    "ambiguity": (network.ambiguity, True),
    "saliency": (network.saliency_sheet, True),
    "filters": (network.filters, True),
    "drawn": (network.drawn_pictures, False),
    "files": (progress.files, False),
}


_OTHER_IMAGES = (
    "The training images given for this report are not those that the run was trained on."
)


def check_section(name: str) -> None:
    """Raises `UserError` unless there is a section of that name.

    >>> check_section("curve")
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: unknown section 'curve' (did you mean 'curves'?); options: ...
    """
    if name not in SECTIONS:
        raise unknown("section", name, SECTIONS)


def needs_images(sections: Iterable[str]) -> bool:
    """Whether any of the sections looks at images.

    >>> needs_images(["summary", "files"]), needs_images(["map"])
    (False, True)
    """
    return any(SECTIONS[name][1] for name in sections)


def check_output(path: str | os.PathLike) -> None:
    """Finds out before the work whether a report can be written; makes its file's folder.

    Raises:
        UserError: it cannot, or the packages of the extra `report` are not installed.

    >>> import tempfile
    >>> check_output(tempfile.mkdtemp())
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: '...' is a folder; give output a file name
    """
    for package in ("jinja2", "matplotlib"):
        extras.load(package, "the report")
    path = expanded(path)
    if path.is_dir():
        raise UserError(f"'{path}' is a folder; give --output a file name")
    folder(path.parent)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write '{path}': {error.strerror}; choose another --output"
        ) from None


def build(
    run: RunRecord,
    images: ReportImages | None = None,
    sections: Sequence[str] | None = None,
    no_images: str = "no images were given.",
    say: Callable[[str], Any] | None = None,
) -> tuple[list[Section], list[tuple[str, str]]]:
    """Makes the sections of a report.

    Args:
        run: of `read_run`.
        images: what the network is shown; None leaves out the sections that need it.
        sections: only these: summary, curves, evaluation, neighbours, map, rotations, invariance,
            ambiguity, saliency, filters, drawn, files. Default: all that apply.
        no_images: why there are none, as a sentence.
        say: called with the name of each section before it is built.

    Returns:
        The sections, and (name, reason) of those left out because they do not apply.

    Raises:
        UserError: an unknown section.

    >>> import tempfile
    >>> from rfd_tf.interpret.report import read_run
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "run.json").write_text('{"flags": {"method": "rfd", "epochs": 3}}')
    >>> made, left_out = build(read_run(folder), sections=["summary", "map"])
    >>> [section.name for section in made], left_out
    (['summary'], [('map', 'no images were given.')])
    """
    names = list(dict.fromkeys(SECTIONS if sections is None else sections))
    for name in names:
        check_section(name)
    made, left_out = [], []
    notes = []
    trained_on = run.identity.get("fingerprint")
    if images is not None and trained_on not in (None, images.train.fingerprint):
        notes.append(Text(_OTHER_IMAGES, warning=True))
    if images is not None:
        looked_at = images.data.test
        seen = warn_if_trained_on(
            RunImages.of_run(run.folder), looked_at.source, looked_at.rows, "images looked at"
        )
        if seen:
            notes.append(
                Text(
                    f"The network was trained on {seen} of the {len(looked_at)} images looked at, "
                    "without labels."
                )
            )
    for name in names:
        make, needs_images = SECTIONS[name]
        if needs_images and images is None:
            left_out.append((name, no_images))
            continue
        if say:
            say(name)
        try:
            made.append(make(run, images) if needs_images else make(run))
        except (LeftOut, UserError) as error:
            # What one section lacks is no reason to go without the others.
            left_out.append((name, str(error)))
    if notes and made:
        made[0] = dataclasses.replace(made[0], blocks=[*notes, *made[0].blocks])
    return made, left_out


def render(
    run: RunRecord, sections: Sequence[Section], left_out: Sequence[tuple[str, str]] = ()
) -> str:
    """Returns the page: HTML that loads nothing, with all pictures, styles and its script inside.

    Its content security policy forbids the browser every request, and every script but its own.
    Names of files and classes are escaped.

    >>> import tempfile
    >>> from rfd_tf.interpret.report import read_run
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "run.json").write_text('{"flags": {"method": "rfd", "epochs": 3}}')
    >>> render(read_run(folder), []).splitlines()[0]
    '<!DOCTYPE html>'
    """
    script, style = _part("page.js"), _part("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        run=run,
        title=run.folder.resolve().name,
        sections=sections,
        left_out=left_out,
        script=script,
        style=style,
        digest=digest,
    )


def write(
    path: str | os.PathLike,
    run: RunRecord,
    images: ReportImages | None = None,
    sections: Sequence[str] | None = None,
    no_images: str = "no images were given.",
    say: Callable[[str], Any] | None = None,
) -> list[tuple[str, str]]:
    """Writes the report of a run, whole or not at all.

    Args:
        path: of the HTML file.
        run, images, sections, no_images, say: see `build`.

    Returns:
        (name, reason) of the sections left out.

    Raises:
        UserError: an unknown section, or a file that cannot be written.

    >>> import tempfile
    >>> from rfd_tf.interpret.report import read_run
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "run.json").write_text('{"flags": {"method": "rfd", "epochs": 3}}')
    >>> write(folder / "report.html", read_run(folder), sections=["summary"])
    []
    """
    made, left_out = build(run, images, sections, no_images, say)
    text = render(run, made, left_out)
    with write_text(expanded(path)) as file:
        file.write(text)
    return left_out


def _part(name: str) -> str:
    return resources.files("rfd_tf.interpret.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _template() -> Any:
    jinja2 = extras.load("jinja2", "the report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    environment.filters["as_is"] = lambda svg: jinja2.utils.markupsafe.Markup(svg)
    return environment.from_string(_part("page.html"))
