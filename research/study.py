"""The saliency study: three networks that predict rotations, and whether they look at objects."""

from __future__ import annotations

import csv
import functools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rfd_tf
from research import runs
from rfd_tf.data.folder import visible_files
from rfd_tf.data.image_files import has_image_extension
from rfd_tf.data.subset import folds
from rfd_tf.data.voc import split_by_name, voc_folder
from rfd_tf.errors import UserError
from rfd_tf.evaluation.files import folder, write_json, write_text
from rfd_tf.evaluation.subject import Subject
from rfd_tf.interpret import objects, saliency_files
from rfd_tf.paths import expanded

log = logging.getLogger("rfd_tf")

NETWORKS = ("six_layer", "mobilenet_v2", "efficientnet_b0")
STUDIES = ("folder", "lfw", "coco_cats_dogs", "cityscapes")

#: The report's fixed thresholds, another for each network and layer.
THRESHOLDS = {
    "six_layer": {"rotation": 8e-4, "embedding": 8e-4},
    "mobilenet_v2": {"rotation": 8e-3, "embedding": 1e-2},
    "efficientnet_b0": {"rotation": 8e-3, "embedding": 1e-4},
}
_TEST_SHARE = 5  # a fifth is held out
_REPORT = "saliency/saliency.json"  # of each network


def held_out(data_dir: str | os.PathLike, target: str | os.PathLike) -> tuple[Path, Path, bool]:
    """Splits a folder into train and test: two folders of links, the same at every call.

    A fifth of the pictures, chosen by a hash of their place among the sorted names, is the test
    set. Nothing is copied or moved.

    Args:
        data_dir: pictures in VOC's layout (with boxes), or any folder of images.
        target: where `train/` and `test/` are made.

    Returns:
        The folder of training images; the test folder, in VOC's layout where the data are; and
        whether it holds boxes.

    Raises:
        UserError: no such folder, too few images, or a folder that cannot be written.
    """
    source, target = expanded(data_dir).resolve(), expanded(target)
    if not source.is_dir():
        raise UserError(f"no such folder: '{data_dir}'; give --data_dir an existing folder")
    boxes = any((source / name).is_dir() for name in ("Annotations", "annotations"))
    links: dict[Path, Path] = {}
    if boxes:
        annotations = next(
            source / name for name in ("Annotations", "annotations") if (source / name).is_dir()
        )
        for part, chosen in zip(("train", "test"), split_by_name(voc_folder(source)), strict=True):
            for image in chosen.images:
                link = target / part / "images" / image.image.name
                links[link] = image.image
                annotation = f"{image.name}.xml"
                links[target / part / "annotations" / annotation] = annotations / annotation
    else:
        files = [source / name for name in visible_files(source) if has_image_extension(name)]
        if len(files) < _TEST_SHARE:
            raise UserError(
                f"'{data_dir}' holds {len(files)} images, too few to hold out a test set"
            )
        for path, fold in zip(files, folds(len(files), _TEST_SHARE), strict=True):
            part = "test" if fold == 0 else "train"
            links[target / part / "images" / path.relative_to(source)] = path
    for link, path in links.items():
        _link(link, path)
    test = target / "test"
    return target / "train" / "images", test if boxes else test / "images", boxes


def _link(link: Path, path: Path) -> None:
    if link.is_symlink() and os.readlink(link) == str(path):
        return
    folder(link.parent)
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    except OSError as error:
        raise UserError(f"cannot write '{link}': {error.strerror}") from None


def run(
    output: Path,
    settings: Mapping[str, Mapping[str, Any]],
    pictures: Callable[[Path, int], objects.Pictures],
    tested: Mapping[str, Any],
    *,
    options: Mapping[str, Any] | None = None,
    sheet_images: int = 6,
) -> str:
    """Trains the networks, evaluates where they look, and writes the tables.

    Finished networks whose recorded settings agree are reused, interrupted ones resumed.

    Args:
        output: folder of the runs and the tables.
        settings: network -> settings of its `rfd_tf.pretrain`.
        pictures: returns the pictures to evaluate on, of a run's folder and an image size.
        tested: what names these pictures, JSON-able.
        options: of `rfd_tf.interpret.objects.Settings`, for all networks.
        sheet_images: pictures on each figure.

    Returns:
        The tables as Markdown.

    Raises:
        UserError: a run with other settings; networks that failed, after all others.
    """
    ledger, asked = runs.Ledger(output), {"pictures": tested, "sheet_images": sheet_images}
    asked.update(options or {})
    maps = {}
    for name, own in settings.items():
        ledger.check(name, own)
        maps[name] = objects.Settings(**{"thresholds": THRESHOLDS[name], **(options or {})})
    folder(output)

    def train(name: str, own: Mapping[str, Any]) -> None:
        if not own.get("overwrite") and ledger.finished(name, _REPORT, asked):
            log.info(f"{name}: reused")
            return
        log.info(f"{name}: training")
        ledger.begin(name, own)
        rfd_tf.pretrain(**own, output_dir=output / name)
        subject = Subject.pretrained(output / name)
        shown = pictures(output / name, subject.image_size)
        found = objects.measure(subject, shown, maps[name], objects.LAYERS, progress=True)
        target = folder((output / name / _REPORT).parent)
        saliency_files.write(target, shown, found, maps[name], sheet_images)
        log.info(f"\n{saliency_files.summary(shown, found, maps[name])}\n")
        ledger.finish(name, asked)

    failed = runs.each({n: functools.partial(train, n, own) for n, own in settings.items()})
    done = [name for name in settings if name not in failed]
    text = write(output, gather(output, done)) if done else ""
    runs.report_failed(failed)
    return text


def gather(output: Path, networks: Sequence[str]) -> dict[str, Any]:
    """Reads what was found of each network, and returns it as one report.

    Args:
        output: folder of the study; `NETWORK/saliency/saliency.json` and `NETWORK/run.json` in it.
        networks: names.

    Returns:
        "networks": name -> its report, with the run's "training" settings, "shuffled_rotations" and
        "parameters"; "rows": those of all, each with its "backbone".
    """
    reports, rows = {}, []
    for name in networks:
        run = output / name
        try:
            report = json.loads((run / _REPORT).read_bytes())
            flags = json.loads((run / "run.json").read_bytes())["flags"]
            report["training"] = {
                key: flags[key]
                for key in ("epochs", "batch_size", "learning_rate", "decay_rate", "decay_epochs")
            }
            report["shuffled_rotations"] = _shuffled(flags)
            rows += [{"backbone": name, **row} for row in report["rows"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"saliency/saliency.json or run.json in '{run}' is missing or damaged "
                f"({error!r}); repair it, or run the command with another --output_dir"
            ) from None
        report["parameters"] = _parameters(run)
        reports[name] = report
    return {"networks": reports, "rows": rows}


def _shuffled(flags: Mapping[str, Any]) -> bool:
    """Whether a run's rotations were shuffled, by the flags that it recorded."""
    options = dict(one.split("=", 1) for one in flags.get("method_option") or ())
    return options.get("shuffle_rotations", "").lower() == "true"


def _parameters(run: Path) -> int:
    from rfd_tf.applications import load_backbone

    return load_backbone(run / "backbone.weights.h5")[0].count_params()


def accuracy_table(networks: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the rotation accuracies as a Markdown table, in percent.

    >>> told = {"pretrained": 0.5, "random init": 0.25}
    >>> report = {"parameters": 100, "rotation_accuracy": told, "num_images": 7}
    >>> print(accuracy_table({"six_layer": report}).splitlines()[2])
    | six_layer | 100 | 50.0 | 25.0 |
    """
    lines = [
        "| backbone | parameters | pretrained | random init |",
        "|---|---:|---:|---:|",
    ]
    for name, report in networks.items():
        told = report["rotation_accuracy"]
        lines.append(
            f"| {name} | {report['parameters']:,} | {100 * told['pretrained']:.1f} | "
            f"{100 * told['random init']:.1f} |"
        )
    return "\n".join(lines)


def write(output: Path, report: Mapping[str, Any]) -> str:
    """Writes `study.md`, `study.json` and, of Q, `study.csv`; returns the Markdown.

    Raises:
        UserError: they cannot be written.
    """
    networks = report["networks"]
    first = next(iter(networks.values()))
    training = ", ".join(f"{name} {value:g}" for name, value in first["training"].items())
    settings = first["settings"]
    neurons = settings["neurons"] or "all"
    place = "shuffled over an epoch" if first["shuffled_rotations"] else "in one batch"
    lines = [
        f"Rotation prediction, {first['image_size']} x {first['image_size']} pixels; {training}.",
        f"The four rotations of an image are {place}.",
        f"Evaluated on {first['num_images']} pictures of {first['pictures']}, not trained on.",
        "",
        "Rotation accuracy on the four rotations of every picture, percent (chance 25):",
        "",
        accuracy_table(networks),
    ]
    if report["rows"]:
        lines += [
            "",
            "Q = |S and B| / |S or B| in percent, S the salient pixels, B those of the objects; "
            f"mean over the pictures. Neurons of the embedding: {neurons}. Random pixels, central "
            "pixels: as many as are salient.",
            "",
            saliency_files.table(report["rows"], ["backbone"]),
        ]
    else:
        lines += ["", "Where the objects are is not known: no Q."]
    sheets = ", ".join(f"{name}/saliency/saliency.png" for name in networks)
    text = "\n".join([*lines, "", f"Figures: {sheets}", ""])
    with write_text(output / "study.md") as file:
        file.write(text)
    write_json(output / "study.json", report)
    if report["rows"]:
        with write_text(output / "study.csv") as file:
            writer = csv.DictWriter(file, list(report["rows"][0]))
            writer.writeheader()
            writer.writerows(report["rows"])
    return text
