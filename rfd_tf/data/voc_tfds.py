"""Detection datasets of TFDS, written out in PASCAL VOC's layout."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from rfd_tf.data import record_files
from rfd_tf.errors import UserError, unknown
from rfd_tf.paths import expanded
from rfd_tf.text import read_text

_DONE = "complete"


def unpack(
    dataset: str,
    folder: str | os.PathLike,
    tfds_dir: str | os.PathLike | None = None,
    download: bool = False,
    class_names: Sequence[str] | None = None,
) -> dict[str, int]:
    """Writes the pictures, boxes and splits of a TFDS dataset as files, once.

    `ImageSets/Main` gets a list for each split, without the pictures that show no object. A
    folder that was filled before is left as it is.

    Args:
        dataset: name of a TFDS dataset whose features are those of detection: "image", and
            "objects" with "bbox" and "label"; such as `voc/2007`.
        folder: where to write; made if need be.
        tfds_dir: where TFDS keeps its datasets; its own default if None.
        download: whether TFDS may fetch and prepare the dataset.
        class_names: write objects of these classes, and pictures that show one; all if None.

    Returns:
        Split -> number of pictures in its list.

    Raises:
        UserError: no such dataset, not prepared, without boxes; a folder that cannot be written.

    The result is for `rfd_tf.data.voc.voc_folder`.
    """
    import tensorflow as tf

    from rfd_tf.data.tfds_source import open_builder
    from rfd_tf.progress import tqdm

    folder = expanded(folder)
    lists = folder / "ImageSets" / "Main"
    if (lists / _DONE).is_file():
        return {
            path.stem: len(read_text(path, "the list").split())
            for path in lists.glob("*.txt")
            if not path.name.startswith(".")
        }
    builder = open_builder(dataset, None if tfds_dir is None else str(tfds_dir), download)
    import tensorflow_datasets

    splits = sorted(builder.info.splits)
    try:
        labels = builder.info.features["objects"].feature["label"].names
    except (KeyError, AttributeError, TypeError):
        raise UserError(f"TFDS dataset '{dataset}' has no objects with boxes") from None
    for name in class_names or ():
        if name not in labels:
            raise unknown("class", name, labels)
    wanted = set(labels if class_names is None else class_names)
    counts = {}
    files = record_files.of_splits(builder.info)
    record_files.check(dataset, files)
    watched = record_files.Watched(dataset, files)
    record_files.watch(watched)
    try:
        for part in (folder / "JPEGImages", folder / "Annotations", lists):
            part.mkdir(parents=True, exist_ok=True)
        for split in splits:
            examples = builder.as_dataset(
                split=split, decoders={"image": tensorflow_datasets.decode.SkipDecoding()}
            )
            names = []
            for number, example in enumerate(tqdm(examples, desc=split, disable=None)):
                name = _name(example, split, number)
                if _write(folder, name, example, labels, wanted):
                    names.append(name)
            (lists / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
            counts[split] = len(names)
        (lists / _DONE).write_text("")
    except OSError as error:
        raise UserError(f"cannot write to '{folder}': {error.strerror}") from None
    except tf.errors.DataLossError as error:
        raise record_files.explained(error) or error from None
    return counts


def _name(example: dict, split: str, number: int) -> str:
    if "image/filename" in example:
        # A file's name, and nothing that leads out of the folder.
        return Path(example["image/filename"].numpy().decode("utf-8", "backslashreplace")).stem
    return f"{split}_{number:07}"


def _write(folder: Path, name: str, example: dict, labels: list[str], wanted: set[str]) -> bool:
    """Writes one picture and its annotation; False where it shows no object that is wanted."""
    import tensorflow as tf

    objects = example["objects"]
    kept = [n for n, label in enumerate(objects["label"].numpy()) if labels[label] in wanted]
    if not kept:
        return False
    contents = example["image"].numpy()
    height, width, _ = tf.io.decode_image(contents, expand_animations=False).shape
    (folder / "JPEGImages" / f"{name}.jpg").write_bytes(contents)
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"{name}.jpg"
    size = ElementTree.SubElement(root, "size")
    for side, value in (("width", width), ("height", height)):
        ElementTree.SubElement(size, side).text = str(value)
    difficult = objects.get("is_difficult")
    for place in kept:
        label = int(objects["label"][place])
        top, left, bottom, right = (float(value) for value in objects["bbox"][place])
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = labels[label]
        hard = difficult is not None and bool(difficult[place])
        ElementTree.SubElement(item, "difficult").text = str(int(hard))
        box = ElementTree.SubElement(item, "bndbox")
        corners = {
            "xmin": left * width + 1,
            "ymin": top * height + 1,
            "xmax": right * width,
            "ymax": bottom * height,
        }
        for corner, value in corners.items():
            ElementTree.SubElement(box, corner).text = f"{value:.3f}"
    ElementTree.ElementTree(root).write(folder / "Annotations" / f"{name}.xml")
    return True
