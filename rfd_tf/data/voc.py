"""Pictures with boxes or masks in the layout of PASCAL VOC."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rfd_tf.data import image_files
from rfd_tf.data.subset import index_hash
from rfd_tf.errors import UserError, shown, unknown
from rfd_tf.paths import absolute, found_file
from rfd_tf.text import file_name_to_text, read_text, same_form

#: The classes of PASCAL VOC, in the order of its palette masks (background, 0, comes before them).
VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
#: Value of a mask's pixels that count neither for nor against anything.
IGNORED = 255
_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif"),
    *(".jp2", ".ppm", ".pgm", ".heic", ".heif"),
)
_SUFFIXES += tuple(suffix.upper() for suffix in _SUFFIXES)
_COLUMN = re.compile(r"\s+[-+]?[01]$")  # of a list: whether the picture shows a class
_NAMED = 10  # names listed in a message


@dataclasses.dataclass(frozen=True)
class VocImage:
    """One annotated picture.

    Attributes:
        name: file name without ending.
        image: the picture.
        width, height: in pixels, as annotated; 0 where there is no annotation of boxes.
        boxes: float32 `[n, 4]`: left, top, right, bottom in pixels from the picture's upper left
            corner, right and bottom exclusive.
        labels: int64 `[n]`, places in the class names.
        difficult: bool `[n]`, objects that the protocol neither rewards nor punishes.
        mask: palette PNG whose values are 0 for background and 1 + class, 255 ignored; or None.
    """

    name: str
    image: Path
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    mask: Path | None = None


@dataclasses.dataclass(frozen=True)
class VocSet:
    """Annotated pictures and the names of their classes."""

    name: str
    images: tuple[VocImage, ...]
    class_names: tuple[str, ...]

    def presence(self) -> tuple[np.ndarray, np.ndarray]:
        """Tells which classes a picture shows.

        Returns:
            A pair of bool `[N, C]`: the class is shown by an object that is not difficult; the
            class is shown by difficult objects only, so that the picture does not count for it.
        """
        shape = len(self.images), len(self.class_names)
        clear, unclear = np.zeros(shape, bool), np.zeros(shape, bool)
        for row, image in enumerate(self.images):
            clear[row, image.labels[~image.difficult]] = True
            unclear[row, image.labels[image.difficult]] = True
        return clear, unclear & ~clear


def voc_folder(
    root: str | os.PathLike,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    masks: bool = False,
) -> VocSet:
    """Reads the annotations of a folder; pictures are searched for, not opened.

    Two layouts: that of the VOC development kit (`JPEGImages/`, `Annotations/`,
    `ImageSets/Main/SPLIT.txt`, or with masks `ImageSets/Segmentation/SPLIT.txt` and
    `SegmentationClass/`), and plain `images/` with `annotations/`.

    Args:
        root: the folder.
        split: name of a list in `ImageSets`; None for all annotated pictures.
        class_names: the classes in order; by default VOC's where no other occurs, else those
            that occur, sorted.
        masks: read the pictures that have a mask, of which no boxes are needed.

    Raises:
        UserError: a folder, a list, a picture, an annotation or a mask is missing; an annotation
            cannot be read, declares a document type or entities, holds no object, or a box that is
            empty or leaves the picture; a class that is not among `class_names`. The message
            names the file.

    Source: the PASCAL VOC development kit, file formats of VOC2007 and VOC2012 (1-based boxes with
    inclusive corners).
    """
    root = absolute(root)
    if not root.is_dir():
        raise UserError(f"no such folder: '{root}'")
    pictures = _folder(root, ("JPEGImages", "images"), "pictures")
    names = _names(root, split, masks)
    if masks:
        return _masked(root, pictures, names, tuple(class_names or VOC_CLASSES))
    annotations = _folder(root, ("Annotations", "annotations"), "annotations")
    class_names = None if class_names is None else tuple(map(same_form, class_names))
    read = []
    for path in _listed_files(annotations, names, ".xml", "annotation"):
        read.append((path.stem, path, *_read_xml(path)))
    if not read:
        raise UserError(f"'{annotations}' holds no .xml file")
    found = sorted({label for *_, objects in read for label, _, _ in objects})
    if class_names is None:
        class_names = VOC_CLASSES if set(found) <= set(VOC_CLASSES) else found
    place = {label: number for number, label in enumerate(class_names)}
    images = []
    for name, path, filename, (width, height), objects in read:
        for label, _, _ in objects:
            if label not in place:
                raise UserError(f"'{path}': {unknown('class', label, class_names)}")
        images.append(
            VocImage(
                file_name_to_text(name),
                _picture(pictures, name, filename),
                width,
                height,
                np.array([box for _, box, _ in objects], np.float32).reshape(-1, 4),
                np.array([place[label] for label, _, _ in objects], np.int64),
                np.array([difficult for *_, difficult in objects], bool),
            )
        )
    return VocSet(_name(root, split), tuple(images), tuple(class_names))


def stored_size(path: Path) -> tuple[int, int, int]:
    """Returns a picture's height and width as stored, and its EXIF orientation, 1 to 8.

    Raises:
        UserError: it cannot be read.
    """
    header = image_files.read_header(str(path), stored=True)
    if not isinstance(header, image_files.Header):
        raise UserError(f"the image '{path}' cannot be read: {header or 'no image'}")
    return header.height, header.width, header.orientation


def upright(image: VocImage) -> VocImage:
    """Returns the annotation of a picture as it is seen, its EXIF orientation applied.

    The annotated width and height decide which pixels the boxes were given for. Where they are
    those of the stored pixels, as in VOC and COCO, whose tools ignore EXIF, the boxes are rotated
    with the picture. Where they are those of the rotated picture only, the boxes stay.

    Raises:
        UserError: the picture cannot be read, or the annotated size is neither.
    """
    height, width, orientation = stored_size(image.image)
    seen = (height, width) if orientation >= 5 else (width, height)
    annotated = (image.width, image.height)
    if annotated not in (seen, (width, height)):
        raise UserError(
            f"'{image.image}' has {width} x {height} pixels, but its annotation says "
            f"{image.width} x {image.height}"
        )
    if orientation == 1 or annotated != (width, height):
        return image
    left, top, right, bottom = image.boxes.T
    if orientation >= 5:
        left, top, right, bottom = top, left, bottom, right
    if orientation in (2, 3, 6, 7):
        left, right = seen[0] - right, seen[0] - left
    if orientation in (3, 4, 7, 8):
        top, bottom = seen[1] - bottom, seen[1] - top
    boxes = np.stack([left, top, right, bottom], axis=1)
    return dataclasses.replace(image, width=seen[0], height=seen[1], boxes=boxes)


def upright_mask(mask: np.ndarray, image: VocImage) -> np.ndarray:
    """Returns a mask `[H, W]` as its picture is seen; by its size as `upright` by the annotated.

    Raises:
        UserError: the picture cannot be read, or the mask has another size.
    """
    height, width, orientation = stored_size(image.image)
    if mask.shape == (height, width):
        return image_files.rotate_upright(mask, orientation)
    if orientation >= 5 and mask.shape == (width, height):
        return mask
    size = f"{mask.shape[1]} x {mask.shape[0]} pixels" if mask.ndim == 2 else f"of {mask.shape}"
    raise UserError(
        f"the mask '{image.mask}' is {size}, its image '{image.image}' {width} x {height}"
    )


def split_by_name(voc_set: VocSet, test_share: float = 0.2) -> tuple[VocSet, VocSet]:
    """Splits a set that came without lists into train and test, for good.

    Pictures are sorted by name and those whose place has the lowest hashes are the test set; no
    seed or machine changes the choice.

    Args:
        voc_set: annotated pictures.
        test_share: share of the test set, above 0 and below 1.

    Raises:
        UserError: the share is out of range, or one side would be empty.
    """
    if not 0 < test_share < 1:
        raise UserError(f"the test share is above 0 and below 1, not {test_share}")
    images = sorted(voc_set.images, key=lambda image: image.name)
    count = round(test_share * len(images))
    if not 0 < count < len(images):
        raise UserError(
            f"'{voc_set.name}' has {len(images)} pictures: too few to split into train and test"
        )
    chosen = set(np.argsort(index_hash(np.arange(len(images))), kind="stable")[:count].tolist())
    train = tuple(image for place, image in enumerate(images) if place not in chosen)
    test = tuple(image for place, image in enumerate(images) if place in chosen)
    return (
        VocSet(f"{voc_set.name}, train", train, voc_set.class_names),
        VocSet(f"{voc_set.name}, test", test, voc_set.class_names),
    )


def train_and_test(
    root: str | os.PathLike,
    train_split: str | None = None,
    test_split: str | None = None,
    test_root: str | os.PathLike | None = None,
    masks: bool = False,
) -> tuple[VocSet, VocSet]:
    """Reads both sides of a task, their classes the same.

    Args:
        root: see `voc_folder`.
        train_split, test_split: names of lists; both None split the folder by name.
        test_root: folder of the test pictures, where it is another.
        masks: see `voc_folder`.

    Raises:
        UserError: see `voc_folder`; one split without the other; classes that differ.
    """
    if test_root is None and (train_split is None) != (test_split is None):
        raise UserError("give both splits, or neither to split the folder by name")
    train = voc_folder(root, train_split, masks=masks)
    if test_root is None and train_split is None:
        return split_by_name(train)
    test = voc_folder(test_root or root, test_split, masks=masks)
    if train.class_names != test.class_names:
        here, there = _shown(train), _shown(test)
        raise UserError(
            f"classes differ: only '{train.name}' has {_classes(here, there)}; "
            f"only '{test.name}' has {_classes(there, here)}"
        )
    return train, test


def _shown(voc_set: VocSet) -> dict[str, str]:
    """Class -> name of the first picture that shows it."""
    shown: dict[str, str] = {}
    for image in voc_set.images:
        for label in image.labels:
            shown.setdefault(voc_set.class_names[label], image.name)
    return shown


def _classes(shown: dict[str, str], other: dict[str, str]) -> str:
    return _listed(f"{name} ('{shown[name]}.xml')" for name in shown if name not in other)


def _name(root: Path, split: str | None) -> str:
    name = file_name_to_text(root.name)
    return name if split is None else f"{name}/{split}"


def _listed(names) -> str:
    return ", ".join(sorted(names)[:_NAMED]) or "none"


def _stems(folder: Path, pattern: str) -> list[str]:
    """Sorted names without ending of the files that are not hidden, as macOS' `._x.xml` are."""
    return sorted(path.stem for path in folder.glob(pattern) if not path.name.startswith("."))


def _folder(root: Path, names: Sequence[str], what: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise UserError(f"'{root}' has no folder of {what}: {' or '.join(names)}")


def _names(root: Path, split: str | None, masks: bool) -> list[str] | None:
    if split is None:
        return None
    folder = root / "ImageSets" / ("Segmentation" if masks else "Main")
    path = found_file(folder, f"{split}.txt")
    if path is None:
        lists = _stems(folder, "*.txt") if folder.is_dir() else []
        wanted = shown(folder / f"{split}.txt")
        raise UserError(f"no list '{wanted}'; there {'are' if lists else 'is'} {_listed(lists)}")
    lines = [line.strip() for line in read_text(path, "the list").split("\n")]
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"the list '{path}' is empty")
    for line in lines:
        if Path(line).name != line:
            raise UserError(
                f"the list '{path}' names '{shown(line.split()[0])}', which is no file name"
            )
    return lines


def _listed_files(folder: Path, lines: list[str] | None, suffix: str, what: str) -> Iterator[Path]:
    """Yields the files that a list names; all visible ones of the folder without a list."""
    if lines is None:
        yield from (folder / f"{stem}{suffix}" for stem in _stems(folder, f"*{suffix}"))
    for line in lines or ():
        # Lists of one class carry a second column; a name may hold spaces itself.
        names = dict.fromkeys((line, line.rsplit(maxsplit=1)[0], line.split()[0]))
        found = (found_file(folder, f"{name}{suffix}") for name in names)
        path = next((path for path in found if path is not None), None)
        if path is None:
            wanted = folder / f"{_COLUMN.sub('', line)}{suffix}"
            raise UserError(f"no {what} '{shown(wanted)}' of a picture that is listed")
        yield path


def _masked(
    root: Path, pictures: Path, names: list[str] | None, class_names: tuple[str, ...]
) -> VocSet:
    masks = _folder(root, ("SegmentationClass", "masks"), "masks")
    images = []
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    for mask in _listed_files(masks, names, ".png", "mask"):
        picture = _picture(pictures, mask.stem)
        images.append(VocImage(file_name_to_text(mask.stem), picture, 0, 0, *nothing, mask=mask))
    if not images:
        raise UserError(f"'{masks}' holds no .png file")
    return VocSet(_name(root, None), tuple(images), class_names)


def _picture(folder: Path, name: str, filename: str = "") -> Path:
    # The annotation's own file name goes first, if it is one.
    candidates = [filename] if filename and Path(filename).name == filename else []
    candidates += [name + suffix for suffix in _SUFFIXES]
    for candidate in candidates:
        if (found := found_file(folder, candidate)) is not None:
            return found
    raise UserError(f"no picture of '{shown(name)}' in '{folder}' ({', '.join(_SUFFIXES[:4])})")


def _read_xml(path: Path) -> tuple[str, tuple[int, int], list[tuple[str, tuple, bool]]]:
    """Returns file name, size, and (class, box, difficult) of every object."""
    from xml.etree.ElementTree import ParseError

    import defusedxml
    from defusedxml import ElementTree

    text = read_text(path, xml=True)
    try:
        root = ElementTree.fromstring(text, forbid_dtd=True)
    except defusedxml.DefusedXmlException:
        raise UserError(
            f"'{path}' declares a document type or entities, which is refused"
        ) from None
    except (ParseError, OSError, ValueError, LookupError) as error:
        raise UserError(f"'{path}' cannot be read as XML: {shown(error)}") from None
    width, height = (int(_number(root, f"size/{side}", path)) for side in ("width", "height"))
    if width < 1 or height < 1:
        raise UserError(f"'{path}' gives the picture's size as {width} x {height} pixels")
    objects = []
    for item in root.findall("object"):
        label = same_form((item.findtext("name") or "").strip())
        if not label:
            raise UserError(f"'{path}' has an object without a name")
        left, top, right, bottom = (
            _number(item, f"bndbox/{side}", path) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        if right < left or bottom < top:
            raise UserError(f"'{path}': the box of '{shown(label)}' is empty ({_box(item)})")
        # Corners count from 1 and belong to the box; some tools count from 0.
        left, top = max(left - 1, 0.0), max(top - 1, 0.0)
        if left >= width or top >= height or right > width or bottom > height:
            raise UserError(
                f"'{path}': the box of '{shown(label)}' ({_box(item)}) leaves the picture of "
                f"{width} x {height} pixels"
            )
        if right <= left or bottom <= top:
            raise UserError(f"'{path}': the box of '{shown(label)}' is empty ({_box(item)})")
        difficult = (item.findtext("difficult") or "0").strip() == "1"
        objects.append((label, (left, top, right, bottom), difficult))
    if not objects:
        raise UserError(f"'{path}' holds no object; leave the picture out of the list")
    return (root.findtext("filename") or "").strip(), (width, height), objects


def _number(item, place: str, path: Path) -> float:
    text = item.findtext(place)
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"'{path}': {place} is {'missing' if text is None else repr(shown(text))}")
    return value


def _box(item) -> str:
    sides = ("xmin", "ymin", "xmax", "ymax")
    return " ".join(f"{side}={item.findtext(f'bndbox/{side}')}" for side in sides)
