"""Detection: figures worked by hand, boxes that follow their pictures, a detector that learns."""

import dataclasses
import json
import re

import keras
import keras_cv
import numpy as np
import pytest
from keras_cv import bounding_box
from keras_cv.src.models.object_detection.retinanet import PredictionHead
from PIL import Image, ImageDraw

from rfd_tf import applications
from rfd_tf.data import voc
from rfd_tf.errors import UserError
from rfd_tf.evaluation import detection, detection_data, pyramid, training_state
from rfd_tf.evaluation import detection_metrics as metrics
from rfd_tf.evaluation.average_precision import INTERPOLATED
from rfd_tf.evaluation.base import Settings, Subject
from rfd_tf.evaluation.detection import Detection


def objects(*rows):
    """Objects of (box, class, difficult)."""
    return metrics.Objects(
        np.array([row[0] for row in rows], float).reshape(-1, 4),
        np.array([row[1] for row in rows], int),
        np.array([row[2] for row in rows], bool),
    )


def detections(*rows):
    """Detections of (box, class, score)."""
    return metrics.Detections(
        np.array([row[0] for row in rows], float).reshape(-1, 4),
        np.array([row[1] for row in rows], int),
        np.array([row[2] for row in rows], float),
    )


A, B, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


def test_average_precision_by_hand():
    # Right, wrong, right of 3 objects: precisions 1 at recall 1/3 and 2/3 at recall 2/3.
    right = np.array([True, False, True])
    # Recalls 0 to 0.3 have precision 1 (4 of them), 0.4 to 0.6 have 2/3 (3), the rest 0.
    assert metrics.average_precision(right, 3) == pytest.approx((4 + 3 * 2 / 3) / 11)
    assert metrics.average_precision(right, 3, "all-point interpolated") == pytest.approx(
        (1 + 2 / 3) / 3
    )
    # 3 of 10 is a recall of 0.3: four of the eleven recalls are reached.
    assert metrics.average_precision(np.ones(3, bool), 10) == pytest.approx(4 / 11)
    for method in INTERPOLATED:
        assert metrics.average_precision(np.zeros(0, bool), 3, method) == 0


def test_matching_is_that_of_the_development_kit():
    truth = [objects((A, 0, False), (B, 0, True)), objects((A, 0, False), (A, 1, False))]
    found = [
        detections(
            (B, 0, 0.9),  # on a difficult object: does not count
            (A, 0, 0.8),  # right
            ((1, 0, 10, 10), 0, 0.7),  # found before: wrong
        ),
        detections(
            (FAR, 0, 0.75),  # nothing there: wrong
            ((0, 0, 10, 5), 0, 0.6),  # overlaps by exactly a half: right
            ((0, 0, 10, 4), 1, 0.6),  # by less: wrong
        ),
    ]
    # Class 0, surest first: right, wrong, wrong, right of two objects.
    found_ap = metrics.voc_average_precisions(truth, found, 3, "all-point interpolated")
    np.testing.assert_allclose(found_ap, [(1 + 0.5) / 2, 0, np.nan])
    eleven = metrics.voc_average_precisions(truth, found, 3)
    np.testing.assert_allclose(eleven, [(6 + 5 * 0.5) / 11, 0, np.nan])


def test_without_difficult_objects_vocs_area_is_close_to_cocos():
    draw = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(60):
        shown = [(A, 0, False), (B, 1, False), ((40, 40, 60, 60), 0, False)]
        seen = [
            (tuple(np.array(box) + draw.normal(0, 1.2, 4)), label, draw.random())
            for box, label, _ in shown
        ]
        seen += [(FAR, int(draw.integers(2)), draw.random() * 0.7)]
        truth.append(objects(*shown))
        found.append(detections(*seen))
    coco = metrics.coco_average_precisions(truth, found, [(64, 64)] * 60, 2)
    voc_ap = metrics.voc_average_precisions(truth, found, 2, "all-point interpolated").mean()
    assert 0.3 < voc_ap < 0.95
    assert voc_ap == pytest.approx(coco["COCO AP50"], abs=0.01)  # (COCO samples 101 recalls)
    assert coco["COCO AP50"] > coco["COCO AP"] > 0


def test_coco_scores_by_hand():
    truth = [objects((A, 0, False), (B, 0, True))]
    # Overlaps by 0.8: right at thresholds 0.5 to 0.8, seven of ten.
    found = [detections(((0, 0, 10, 8), 0, 0.5), (B, 0, 0.9))]
    coco = metrics.coco_average_precisions(truth, found, [(40, 40)], 1)
    assert coco["COCO AP"] == pytest.approx(0.7)
    assert coco["COCO AP50"] == pytest.approx(1) and coco["COCO AP75"] == pytest.approx(1)
    none = metrics.coco_average_precisions(truth, [detections()], [(40, 40)], 1)
    assert set(none.values()) == {0.0}
    with pytest.raises(UserError, match="no picture to be evaluated"):
        metrics.coco_average_precisions([objects((A, 0, True))], found, [(40, 40)], 1)


XML = (
    "<annotation><size><width>{}</width><height>{}</height></size><object><name>{}</name>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
    "</annotation>"
)


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory):
    """Eight pictures of 96 x 64 pixels, each with a red or a green rectangle."""
    root = tmp_path_factory.mktemp("voc")
    for name in ("images", "annotations"):
        (root / name).mkdir()
    draw = np.random.default_rng(0)
    for number in range(8):
        left, top = int(draw.integers(0, 48)), int(draw.integers(0, 24))
        box = (left, top, left + 47, top + 35)
        image = Image.new("RGB", (96, 64), (90, 90, 90))
        colour = ("red", "green")[number % 2]
        ImageDraw.Draw(image).rectangle(box, fill=colour)
        image.save(root / "images" / f"{number}.png")
        corners = [side + 1 for side in box]
        (root / "annotations" / f"{number}.xml").write_text(XML.format(96, 64, colour, *corners))
    return root


def subject_of(backbone, folder, image_size=32, **arguments):
    record = {"format": 1, "backbone": backbone, "arguments": arguments, "image_size": image_size}
    network = applications.build(backbone, image_size, **arguments)
    return Subject.pretrained(
        applications.save_backbone(network, folder / "backbone.weights.h5", record)
    )


def test_boxes_follow_resizing_and_mirroring(rectangles):
    images = voc.voc_folder(rectangles).images
    kinds = detection_data.check_pictures(images)
    batches = detection_data.training_batches(images, kinds, 64, 4, 3, range(2), seed=1)
    turned = 0
    for pixels, labels in batches.as_numpy_iterator():
        assert pixels.shape == (4, 64, 64, 3) and labels["boxes"].shape == (4, 3, 4)
        assert (labels["boxes"][:, 1:] == -1).all() and (labels["classes"][:, 1:] == -1).all()
        for picture, boxes, classes in zip(pixels, labels["boxes"], labels["classes"], strict=True):
            left, top, right, bottom = boxes[0]
            seen = np.argwhere(np.abs(picture - 90).max(axis=-1) > 45)
            np.testing.assert_allclose(seen.min(axis=0), (top, left), atol=0.8)
            np.testing.assert_allclose(seen.max(axis=0) + 1, (bottom, right), atol=0.8)
            middle = picture[int(top + bottom) // 2, int(left + right) // 2]
            names = ("green", "red")
            assert names[int(classes[0])] == ("red" if middle[0] > middle[1] else "green")
        stored = {tuple(np.round(image.boxes[0] * [2 / 3, 1, 2 / 3, 1], 3)) for image in images}
        turned += sum(tuple(np.round(b[0], 3)) not in stored for b in labels["boxes"])
    assert 3 <= turned <= 13  # of 16
    again = detection_data.training_batches(images, kinds, 64, 4, 3, range(1, 2), seed=1)
    np.testing.assert_array_equal(list(again.as_numpy_iterator())[-1][0], pixels)


@pytest.mark.parametrize(
    "backbone, size, origins",
    [
        ("six_layer", 64, ["1 new convolution of stride 2 on block6", "on P3", "on P4"]),
        ("resnet18", 64, ["block2", "block3", "block4"]),
        ("alexnet", 256, ["conv", "conv", "1 new convolution of stride 2 on conv5"]),
    ],
)
def test_every_backbone_gets_three_levels(backbone, size, origins, tmp_path):
    if backbone == "alexnet":
        subject = subject_of(backbone, tmp_path, 224, width=0.05)
    else:
        subject = subject_of(backbone, tmp_path, 96)
    found = pyramid.feature_pyramid(subject, size)
    sides = [tensor.shape[1] for tensor in found.model.outputs]
    assert sides == [size // 8, size // 16, size // 32]
    for origin, part in zip(found.origins.values(), origins, strict=True):
        assert part in origin
    # The weights under evaluation are in it, for another image size too.
    first = np.array(subject.network().weights[0])
    assert any(np.array_equal(np.array(weight), first) for weight in found.model.weights)


def test_a_detector_learns_what_it_is_shown_and_goes_on_after_an_interruption(
    rectangles, tmp_path, monkeypatch
):
    subject, evaluate, evaluated = subject_of("six_layer", tmp_path), Detection._evaluate, []

    def interrupted(self, detect):
        monkeypatch.setattr(training_state, "SAVE_AFTER", 0)  # (from here on: it takes a while)
        evaluated.append(1)
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return evaluate(self, detect)

    monkeypatch.setattr(Detection, "_evaluate", interrupted)
    retinanet, traced = keras_cv.models.RetinaNet, []
    step = retinanet.train_step
    monkeypatch.setattr(
        retinanet, "train_step", lambda self, *args: traced.append(1) or step(self, *args)
    )

    def with_short_heads(num_classes, **arguments):
        """One convolution of 256 filters in place of three: most of the time goes into them."""
        rare = keras.initializers.Constant(-np.log(99))
        named = PredictionHead(9 * num_classes, rare, num_conv_layers=1)
        boxed = PredictionHead(9 * 4, "zeros", num_conv_layers=1)
        return retinanet(
            num_classes=num_classes, classification_head=named, box_head=boxed, **arguments
        )

    monkeypatch.setattr(keras_cv.models, "RetinaNet", with_short_heads)
    options = {"batch_size": 6, "learning_rate": 1e-3, "evaluate_every": 29}
    task = Detection(rectangles, image_size=64, epochs=30, **options)
    assert (len(task.train_set.images), len(task.test_set.images)) == (6, 2)
    task.test_set = task.train_set
    task.check(subject, None)
    with pytest.raises(KeyboardInterrupt):
        list(task.run(subject, None, Settings(output=tmp_path / "out")))
    assert list((tmp_path / "out").glob("unfinished*"))
    results = list(task.run(subject, None, Settings(output=tmp_path / "out")))
    assert len(evaluated) == 2 + 1  # the epochs before were not trained again
    assert len(traced) == 2  # once in each call
    assert [result.when for result in results] == ["last epoch", "best epoch"] * 5
    assert [result.metric for result in results[::2]] == [
        "mean AP (11-point)",
        "mean AP (all-point interpolated)",
        "COCO AP",
        "COCO AP50",
        "COCO AP75",
    ]
    found = {result.metric: result.value for result in results[::2]}
    assert found["mean AP (11-point)"] > 0.5
    assert found["COCO AP50"] > 0.5
    written = json.loads((tmp_path / "out" / "detection_pretrained.json").read_text())
    by_class = written["classes"]["mean AP (11-point)"]
    assert sum(by_class.values()) / 2 == pytest.approx(found["mean AP (11-point)"])
    assert set(by_class) == {"green", "red"}
    assert [each["epoch"] for each in written["epochs"]] == [29, 30]
    for last, best in zip(results[::2], results[1::2], strict=True):
        assert best.value == max(each[best.metric] for each in written["epochs"])
        assert last.value == written["epochs"][-1][last.metric]
    assert not list((tmp_path / "out").glob("unfinished*"))
    protocol = json.dumps(task.protocol(None))
    assert "1 new convolution of stride 2 on block6" in protocol and "Fast" in protocol


def test_difficult_objects_are_neither_learnt_nor_background(rectangles, tmp_path):
    image = voc.voc_folder(rectangles).images[0]
    boxes = np.array([[0, 0, 32, 32], [32, 32, 64, 64], [0, 32, 32, 64]], np.float32)
    image = dataclasses.replace(
        image,
        width=64,
        height=64,
        boxes=boxes,
        labels=np.array([1, 0, 1]),
        difficult=np.array([False, True, False]),
    )
    found, labels = detection_data.padded_boxes([image], 64, 1)
    np.testing.assert_array_equal(found, boxes[None, :2])
    np.testing.assert_array_equal(labels, [[1, -2]])

    model, _ = detection.retinanet(subject_of("six_layer", tmp_path), 2, 64)
    encoder = model.label_encoder
    shown = {"boxes": found, "classes": labels}
    shown = bounding_box.convert_format(
        shown, source="xyxy", target=encoder.bounding_box_format, images=np.zeros((1, 64, 64, 3))
    )
    _, classes = encoder(np.zeros((1, 64, 64, 3), "float32"), shown)
    classes = np.array(classes)[0]
    anchors = np.concatenate(
        [np.array(a) for a in encoder.anchor_generator(image_shape=(64, 64, 3)).values()]
    )
    anchors = bounding_box.convert_format(
        anchors, source=encoder.anchor_generator.bounding_box_format, target="xyxy"
    )
    overlaps = metrics.intersection_over_union(np.array(anchors), boxes)
    clear, hard = overlaps[:, 0] >= 0.5, overlaps[:, 1] >= 0.5
    assert clear.any() and (classes[clear] == 1).all()
    assert hard.any() and (classes[hard] == -2).all()
    far = overlaps[:, :2].max(axis=1) < 0.4
    assert far.any() and (classes[far] == -1).all()


def test_mistakes_are_named(rectangles, tmp_path):
    with pytest.raises(UserError, match="needs a folder in VOC's layout"):
        Detection()
    with pytest.raises(UserError, match="multiple of 32, 64 or more; got 100"):
        Detection(rectangles, image_size=100)
    with pytest.raises(UserError, match="epochs are 1 or more; got 0"):
        Detection(rectangles, epochs=0)
    with pytest.raises(UserError, match="max boxes are 1 to 1000; got 0"):
        Detection(rectangles, max_boxes=0)
    with pytest.raises(UserError, match="evaluate_every is 1 or more; got 0"):
        Detection(rectangles, evaluate_every=0)
    with pytest.raises(UserError, match="no such folder"):
        Detection(tmp_path / "gone")


def test_broken_pictures_are_named(rectangles):
    images = list(voc.voc_folder(rectangles).images)
    (path := rectangles / "images" / "broken.png").write_bytes(images[0].image.read_bytes()[:-80])
    try:
        images[3] = dataclasses.replace(images[3], image=path)
        with pytest.raises(UserError, match=re.escape(f"'{path}' cannot be decoded")):
            detection_data.check_pictures(images)
    finally:
        path.unlink()
    images[3] = dataclasses.replace(images[2], width=95)
    with pytest.raises(UserError, match="96 x 64 pixels, but its annotation says 95 x 64"):
        detection_data.check_pictures(images)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP"])
def test_a_detector_sees_rotated_pictures_upright_with_their_boxes(tmp_path, kind):
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[8:24, 60:90] = 255
    nothing = np.zeros(1, np.int64)
    images = []
    for code in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = code
        path = tmp_path / f"{code}"
        Image.fromarray(stored).save(path, kind, exif=exif)
        box = np.array([[60, 8, 90, 24]], np.float32)
        images.append(voc.VocImage(f"{code}", path, 96, 64, box, nothing, nothing.astype(bool)))
    seen = [voc.upright(image) for image in images]
    kinds = detection_data.check_pictures(seen)
    np.testing.assert_array_equal(kinds, detection_data.check_pictures(images))
    batches = detection_data.training_batches(seen, kinds, 64, 8, 1, range(2), seed=0)
    for pixels, targets in batches.as_numpy_iterator():
        for image, (box,) in zip(pixels, targets["boxes"], strict=True):
            left, top, right, bottom = np.rint(box).astype(int)
            assert image[top + 2 : bottom - 2, left + 2 : right - 2].min() > 200
            assert image.sum() < 1.2 * 765 * (right - left) * (bottom - top)
