"""Pictures with boxes in COCO's layout: a JSON file of annotations, a folder of pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rfd_tf.data.voc import VocImage, VocSet
from rfd_tf.errors import UserError, shown, unknown
from rfd_tf.paths import absolute, expanded, found_file
from rfd_tf.text import file_name_to_text, read_text, same_form

_MOST_SIDE = 1_000_000  # pixels, more than any picture format but one allows


def coco_file(
    annotations: str | os.PathLike,
    images: str | os.PathLike,
    class_names: Sequence[str] | None = None,
) -> VocSet:
    """Reads the boxes of a COCO annotation file; pictures are searched for, not opened.

    Args:
        annotations: JSON file such as `instances_val2017.json`.
        images: folder that holds the pictures by their `file_name`.
        class_names: keep objects of these classes, and pictures that show one; all if None.

    Returns:
        The pictures that show an object, in the file's order. Crowds count as difficult.

    Raises:
        UserError: a file or folder is missing; no such JSON; no picture with a box; a class that
            the file lacks; a box that is empty or leaves its picture. The message names the file.

    Source: the COCO data format (cocodataset.org), object detection: `bbox` is left, top, width,
    height in pixels, counted from 0.
    """
    path, folder = expanded(annotations), absolute(images)
    if not folder.is_dir():
        raise UserError(f"no such folder: '{folder}'")
    content = _read(path)
    try:
        categories = {int(one["id"]): same_form(str(one["name"])) for one in content["categories"]}
        pictures = {int(one["id"]): one for one in content["images"]}
        objects: dict[int, list[dict]] = {}
        for one in content["annotations"]:
            objects.setdefault(int(one["image_id"]), []).append(one)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"'{path}' is no COCO annotation file of objects: {type(error).__name__} {error}"
        ) from None
    names = tuple(dict.fromkeys(map(same_form, class_names or categories.values())))
    for name in names:
        if name not in categories.values():
            raise unknown("class", name, sorted(set(categories.values())))
    found = []
    for number, picture in pictures.items():
        image = _image(path, folder, picture, objects.get(number, []), categories, names)
        if image is not None:
            found.append(image)
    if not found:
        raise UserError(f"'{path}' holds no box of {shown(', '.join(names[:10]))}")
    return VocSet(file_name_to_text(path.stem), tuple(found), names)


def _read(path: Path) -> dict:
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is no COCO annotation file: it holds a {type(content).__name__}")
    return content


def _image(path, folder, picture, objects, categories, names) -> VocImage | None:
    boxes, labels, crowds = [], [], []
    try:
        name, width, height = (
            str(picture["file_name"]),
            int(picture["width"]),
            int(picture["height"]),
        )
        if not (0 < width <= _MOST_SIDE and 0 < height <= _MOST_SIDE):
            raise ValueError(f"{width:.0e} x {height:.0e} pixels")
        for one in objects:
            label = categories[int(one["category_id"])]
            if label not in names:
                continue
            left, top, across, down = (float(value) for value in one["bbox"])
            boxes.append((left, top, left + across, top + down))
            labels.append(names.index(label))
            crowds.append(bool(one.get("iscrowd", 0)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"'{path}': an entry of the picture '{shown(picture.get('file_name'))}' cannot be "
            f"read: {type(error).__name__} {shown(error)}"
        ) from None
    if not boxes:
        return None
    if Path(name).name != name:
        raise UserError(f"'{path}' names the picture '{shown(name)}', which is no file name")
    found = found_file(folder, name)
    if found is None:
        raise UserError(f"no picture '{shown(folder / name)}', which '{path}' names")
    with np.errstate(over="ignore"):  # what is too large for the type leaves the picture, too
        corners = np.array(boxes, np.float32)
    # (Published boxes leave their pictures by rounding.)
    outside = (corners[:, :2] < -1).any() or (corners[:, 2:] > np.array([width, height]) + 1).any()
    if outside or not (corners[:, 2:] > corners[:, :2]).all():
        raise UserError(
            f"'{path}': a box of '{shown(name)}' is empty or leaves the picture of {width} x "
            f"{height} pixels"
        )
    corners = np.clip(corners, 0, np.array([width, height] * 2, np.float32))
    return VocImage(
        file_name_to_text(Path(name).stem),
        found,
        width,
        height,
        corners,
        np.array(labels, np.int64),
        np.array(crowds, bool),
    )
