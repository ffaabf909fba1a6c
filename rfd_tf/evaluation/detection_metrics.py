"""Average precision of detected boxes, as PASCAL VOC and as COCO count it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rfd_tf import extras
from rfd_tf.errors import UserError
from rfd_tf.evaluation.average_precision import average_precision

_COCO = ("COCO AP", "COCO AP50", "COCO AP75")


class Objects(NamedTuple):
    """What a picture truly shows.

    Attributes:
        boxes: float `[n, 4]`: left, top, right, bottom in pixels, right and bottom exclusive.
        labels: int `[n]`, classes from 0.
        difficult: bool `[n]`, objects that count neither for nor against a detector.
    """

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


class Detections(NamedTuple):
    """What a detector found in a picture.

    Attributes:
        boxes: float `[n, 4]`, as of `Objects`.
        labels: int `[n]`, classes from 0.
        scores: float `[n]`, the higher the surer.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def intersection_over_union(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the shared area over the joint area of every pair of boxes.

    With right and bottom exclusive this is what the VOC development kit computes from inclusive
    corners.

    Args:
        boxes: `[n, 4]`: left, top, right, bottom.
        others: `[m, 4]`, likewise.

    Returns:
        float64 `[n, m]`, 0 to 1; 0 where both boxes are empty.

    >>> intersection_over_union(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 1], [1, 1, 3, 3]]))
    array([[0.5       , 0.14285714]])
    """
    one = np.asarray(boxes, np.float64).reshape(-1, 1, 4)
    other = np.asarray(others, np.float64).reshape(1, -1, 4)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), axis=-1) for box in (one, other)]
    joint = areas[0] + areas[1] - shared
    return np.divide(shared, joint, out=np.zeros_like(shared), where=joint > 0)


def voc_average_precisions(
    truth: Sequence[Objects],
    detections: Sequence[Detections],
    num_classes: int,
    method: str = "11-point",
    threshold: float = 0.5,
) -> np.ndarray:
    """Returns the average precision of every class as the VOC development kit computes it.

    Each detection, surest first, is compared with the object of its class that it overlaps most.
    It is right if they overlap by at least the threshold and the object was not found before; it
    does not count if that object is difficult.

    Args:
        truth: of each picture.
        detections: of each picture, in any order within it.
        num_classes: C.
        method: of `average_precision`.
        threshold: of the intersection over union.

    Returns:
        float64 `[C]`, 0 to 1; NaN for a class without an object that is not difficult.

    Source: `VOCevaldet.m` of the development kit.

    >>> box = np.array([[0, 0, 10, 10]])
    >>> shown = Objects(box, np.array([0]), np.array([False]))
    >>> found = Detections(box, np.array([0]), np.array([0.9]))
    >>> voc_average_precisions([shown], [found], 2)
    array([ 1., nan])
    """
    result = np.full(num_classes, np.nan)
    for label in range(num_classes):
        num_objects = sum(
            int(np.sum((shown.labels == label) & ~shown.difficult)) for shown in truth
        )
        if num_objects:
            right = _right(truth, detections, label, threshold)
            result[label] = average_precision(right, num_objects, method)
    return result


def _right(
    truth: Sequence[Objects], detections: Sequence[Detections], label: int, threshold: float
) -> np.ndarray:
    """Whether each detection of a class is right, surest first, without those that do not count."""
    scores, outcomes = [], []
    for shown, found in zip(truth, detections, strict=True):
        mine, here = found.labels == label, shown.labels == label
        order = np.argsort(-found.scores[mine], kind="stable")
        overlaps = intersection_over_union(found.boxes[mine][order], shown.boxes[here])
        difficult, taken = shown.difficult[here], np.zeros(int(here.sum()), bool)
        for score, row in zip(found.scores[mine][order], overlaps, strict=True):
            right = False
            if len(row) and row.max() >= threshold:
                nearest = int(row.argmax())
                if difficult[nearest]:
                    continue
                right = not taken[nearest]
                taken[nearest] = True
            scores.append(score)
            outcomes.append(right)
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    return np.asarray(outcomes, bool)[order]


def coco_average_precisions(
    truth: Sequence[Objects],
    detections: Sequence[Detections],
    sizes: Sequence[tuple[int, int]],
    num_classes: int,
) -> dict[str, float]:
    """Returns COCO's average precisions, computed by pycocotools.

    Difficult objects are handed over as crowds, which COCO ignores. Classes without any object
    are left out.

    Args:
        truth: of each picture.
        detections: of each picture; COCO takes the 100 surest of a class and picture.
        sizes: (width, height) of each picture in pixels.
        num_classes: C.

    Returns:
        "COCO AP" (mean over intersections over union of 0.50, 0.55, ... 0.95), "COCO AP50" and
        "COCO AP75", 0 to 1.

    Raises:
        UserError: there is no object but difficult ones.

    >>> box = np.array([[0, 0, 10, 10]])
    >>> shown = Objects(box, np.array([0]), np.array([False]))
    >>> found = Detections(box + [0, 0, 0, 4], np.array([0]), np.array([0.9]))
    >>> found = coco_average_precisions([shown], [found], [(20, 20)], 1)
    >>> {name: round(value, 3) for name, value in found.items()}
    {'COCO AP': 0.5, 'COCO AP50': 1.0, 'COCO AP75': 0.0}
    """
    COCO = extras.load("pycocotools.coco", "COCO's average precision").COCO
    COCOeval = extras.load("pycocotools.cocoeval", "COCO's average precision").COCOeval
    if not any((~shown.difficult).any() for shown in truth):
        raise UserError("no picture to be evaluated shows an object that is not difficult")
    annotations, results = [], []
    for image, (shown, found) in enumerate(zip(truth, detections, strict=True), 1):
        for box, label, difficult in zip(*shown, strict=True):
            place = _place(image, box, label)
            # (The number 0 would count as not found.)
            number = len(annotations) + 1
            annotations.append({**place, "id": number, "iscrowd": int(difficult)})
        for box, label, score in zip(*found, strict=True):
            results.append({**_place(image, box, label), "score": float(score)})
    if not results:
        return dict.fromkeys(_COCO, 0.0)
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [
            {"id": image, "width": int(width), "height": int(height)}
            for image, (width, height) in enumerate(sizes, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": label, "name": str(label)} for label in range(num_classes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints whatever it does
        coco.createIndex()
        scored = COCOeval(coco, coco.loadRes(results), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return {name: float(value) for name, value in zip(_COCO, scored.stats, strict=False)}


def _place(image: int, box: np.ndarray, label: int) -> dict:
    left, top, right, bottom = (float(side) for side in box)
    width, height = right - left, bottom - top
    return {
        "image_id": image,
        "category_id": int(label),
        "bbox": [left, top, width, height],
        "area": width * height,
    }
