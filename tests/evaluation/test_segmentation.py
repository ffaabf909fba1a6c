import json
import math

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from rfd_tf import applications
from rfd_tf.data.voc import VOC_CLASSES, voc_folder
from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import Settings, Subject
from rfd_tf.evaluation.segmentation import (
    Segmentation,
    count_pixels,
    intersection_over_union,
    pixel_cross_entropy,
    predicted_mask,
    read_mask,
    scored_endpoints,
    segmentation_network,
    training_batches,
)

SIDE = 48
TRAIN = ["a", "b", "c", "d", "e", "f"]
VAL = ["g", "h"]
# 256 entries as VOC has: Pillow would pack fewer into bits that 255 does not fit.
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0] + 253 * [224, 224, 192]


def save_mask(path, mask):
    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette(PALETTE)
    picture.save(path)


@pytest.fixture
def voc(tmp_path):
    """Eight images with a red (class 1) or a blue (class 2) square, borders ignored."""
    root = tmp_path / "VOC"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate(TRAIN + VAL):
        width = SIDE + 8 * (number % 2)  # not all are squares
        pixels = rng.integers(100, 140, (SIDE, width, 3), np.uint8)
        mask = np.zeros((SIDE, width), np.uint8)
        left, top = rng.integers(2, 18, 2)
        mask[top - 1 : top + 27, left - 1 : left + 27] = 255
        mask[top : top + 26, left : left + 26] = 1 + number % 2
        pixels[mask == 1] = 255, 0, 0
        pixels[mask == 2] = 0, 0, 255
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        save_mask(root / "SegmentationClass" / f"{name}.png", mask)
    for split, names in (("train", TRAIN), ("val", VAL)):
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def test_mean_iou_is_scikit_learn_s():
    rng = np.random.default_rng(3)
    truth = rng.choice([0, 1, 3, 255], (2, 9, 7), p=[0.5, 0.2, 0.2, 0.1])
    predicted = np.where(rng.random(truth.shape) < 0.6, truth % 255, rng.integers(0, 4, (2, 9, 7)))
    predicted[predicted == 2] = 0  # class 2 occurs nowhere, class 4 neither
    counts = sum(count_pixels(truth[i], predicted[i], 5) for i in range(2))
    kept = truth != 255
    expected = metrics.confusion_matrix(truth[kept], predicted[kept], labels=range(5))
    np.testing.assert_array_equal(counts, expected)
    found = intersection_over_union(counts)
    assert np.isnan(found[[2, 4]]).all()
    each = metrics.jaccard_score(truth[kept], predicted[kept], average=None)
    np.testing.assert_allclose(found[[0, 1, 3]], each, rtol=1e-12)
    mean = metrics.jaccard_score(truth[kept], predicted[kept], average="macro")
    assert np.nanmean(found) == pytest.approx(mean)


def test_a_class_that_is_predicted_but_never_there_counts_as_zero():
    found = intersection_over_union(count_pixels(np.array([0, 0]), np.array([0, 1]), 3))
    np.testing.assert_array_equal(found, [0.5, 0, np.nan])


def test_ignored_pixels_have_no_part_in_the_loss():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(2, 3, 3, 4)).astype("float32")
    masks = rng.integers(0, 4, (2, 3, 3))
    masks[0, 1:] = 255
    kept = masks != 255
    expected = metrics.log_loss(
        masks[kept],
        np.exp(scores[kept]) / np.exp(scores[kept]).sum(-1, keepdims=True),
        labels=range(4),
    )
    assert float(pixel_cross_entropy(masks, scores)) == pytest.approx(expected, rel=1e-5)
    scores[~kept] = 1e4
    assert float(pixel_cross_entropy(masks, scores)) == pytest.approx(expected, rel=1e-5)
    assert float(pixel_cross_entropy(np.full_like(masks, 255), scores)) == 0


def test_the_head_stands_on_the_trunk_with_its_weights(rfd_subject):
    model = segmentation_network(rfd_subject, 3, SIDE, skips=1)
    assert model.output_shape == (None, SIDE, SIDE, 3)
    backbone = rfd_subject.network()
    assert len(model.trainable_weights) == len(backbone.trainable_weights) + 4
    # At the size of pretraining the trunk gives what the backbone gives.
    model = segmentation_network(rfd_subject, 3, 16)
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    assert not np.array(model(x, training=False)).any()  # score layers start from zero
    trunk = applications.feature_extractor(model, "block6")
    np.testing.assert_allclose(trunk(x)["block6"], backbone(x, training=False), rtol=1e-5)


def test_skips_add_enlarged_scores(rfd_subject):
    model = segmentation_network(rfd_subject, 3, 32, skips=1)
    names = scored_endpoints(applications.build("six_layer", 32), 1)
    rng = np.random.default_rng(0)
    for name in names:
        layer = model.get_layer(f"{name}_score")
        layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    x = rng.normal(size=(1, 32, 32, 3)).astype("float32")
    maps = applications.feature_extractor(model, names)(x)
    last, skip = (
        np.array(maps[name]) @ np.array(layer.kernel)[0, 0] + np.array(layer.bias)
        for name, layer in ((name, model.get_layer(f"{name}_score")) for name in names)
    )
    assert skip.shape[1] > last.shape[1]

    def enlarged(scores, side):
        planes = [
            Image.fromarray(scores[..., c]).resize((side, side), Image.Resampling.BILINEAR)
            for c in range(scores.shape[-1])
        ]
        return np.stack([np.asarray(plane) for plane in planes], -1)

    expected = enlarged(enlarged(last[0], skip.shape[1]) + skip[0], 32)
    np.testing.assert_allclose(np.array(model(x))[0], expected, rtol=1e-4, atol=1e-4)


def test_dense_layers_are_left_behind(tmp_path):
    network = applications.build("alexnet", 63, width=0.1)
    arguments = {"width": 0.1}
    record = {"format": 1, "backbone": "alexnet", "arguments": arguments, "image_size": 63}
    path = applications.save_backbone(network, tmp_path / "backbone.weights.h5", record)
    model = segmentation_network(Subject.pretrained(path), 3, 96, skips=2)
    assert model.output_shape == (None, 96, 96, 3)
    scored = [layer.name for layer in model.layers if layer.name.endswith("_score")]
    assert sorted(scored) == ["conv1_score", "conv2_score", "conv5_score"]
    assert not any(layer.name.startswith("fc") for layer in model.layers)


def test_images_and_masks_are_flipped_together(voc):
    images = voc_folder(voc, "train", masks=True).images
    for pixels, masks in training_batches(images, SIDE, 2, 3, (0, 0)):
        assert pixels.shape == (2, SIDE, SIDE, 3) and masks.shape == (2, SIDE, SIDE)
        assert set(np.unique(masks)) <= {0, 1, 2, 255}
        for image, mask in zip(pixels.astype(int), masks, strict=True):
            red = image[..., 0] - image[..., 2] > 128
            blue = image[..., 2] - image[..., 0] > 128
            assert (mask == 1).any() or (mask == 2).any()
            assert (red[mask == 1]).sum() >= 0.95 * (mask == 1).sum()
            assert (blue[mask == 2]).sum() >= 0.95 * (mask == 2).sum()
    seen = [
        [masks[0].tobytes() for _, masks in training_batches(images[:1], SIDE, 1, 3, (0, epoch))]
        for epoch in range(8)
    ]
    assert len({masks[0] for masks in seen}) == 2  # upright in some epochs, flipped in others
    again = next(training_batches(images[:1], SIDE, 1, 3, (0, 0)))[1].tobytes()
    assert again == seen[0][0]


def test_scores_are_computed_at_the_image_s_own_size():
    scores = np.random.default_rng(0).normal(size=(4, 4, 3)).astype("float32")
    assert predicted_mask(scores, (7, 5)).shape == (7, 5)
    np.testing.assert_array_equal(predicted_mask(scores, (4, 4)), scores.argmax(-1))


def test_training_beats_the_most_frequent_class(rfd_subject, voc, tmp_path):
    keras.utils.set_random_seed(0)
    task = Segmentation(voc, image_size=SIDE, epochs=20, batch_size=3, learning_rate=0.05)
    task.check(rfd_subject, None)
    settings = Settings(output=tmp_path / "out")
    found = {result.when: result for result in task.run(rfd_subject, None, settings)}
    assert {(r.feature, r.metric) for r in found.values()} == {("all layers", "mean IoU")}

    truth = np.concatenate(
        [read_mask(image, 21).ravel() for image in voc_folder(voc, "val", masks=True).images]
    )
    truth = truth[truth != 255]
    majority = np.full_like(truth, np.bincount(truth).argmax())
    baseline = metrics.jaccard_score(truth, majority, average="macro", zero_division=0)
    assert found["last epoch"].value > baseline + 0.2
    assert found["best epoch"].value >= found["last epoch"].value

    report = json.loads((tmp_path / "out" / "segmentation_pretrained.json").read_text())
    assert np.sum(report["counts"]) == len(truth)
    assert report["mean_iou"] == found["last epoch"].value
    assert report["iou"]["person"] is None and report["iou"]["background"] > 0.5
    assert not list((tmp_path / "out").glob("unfinished*"))
    protocol = task.protocol(None)
    assert protocol["num_train"] == 6 and protocol["num_test"] == 2
    assert protocol["classes"] == ["background", *VOC_CLASSES]


def test_an_interrupted_training_goes_on(rfd_subject, voc, tmp_path, monkeypatch):
    monkeypatch.setattr("rfd_tf.evaluation.training_state.SAVE_AFTER", 0.0)
    options = {"image_size": SIDE, "epochs": 6, "batch_size": 3, "learning_rate": 0.05}

    def run(output):
        keras.utils.set_random_seed(0)
        task = Segmentation(voc, **options)
        found = list(task.run(rfd_subject, None, Settings(output=output)))
        report = json.loads((output / "segmentation_pretrained.json").read_text())
        return [result.value for result in found], report["counts"]

    whole, counts = run(tmp_path / "whole")
    assert np.count_nonzero(np.sum(counts, axis=0)) > 1  # it has learnt more than one class
    evaluate = Segmentation._evaluate
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(Segmentation, "_evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken")
    monkeypatch.setattr(Segmentation, "_evaluate", evaluate)
    assert list((tmp_path / "broken").glob("unfinished*"))
    values, counts_again = run(tmp_path / "broken")
    assert values == pytest.approx(whole, abs=0.01)
    np.testing.assert_allclose(counts_again, counts, atol=20)


def test_wrong_masks_are_named(rfd_subject, voc):
    task = {"voc_dir": voc, "image_size": 16, "epochs": 1}
    path = voc / "SegmentationClass" / "g.png"
    right = path.read_bytes()

    def message():
        with pytest.raises(UserError) as error:
            Segmentation(**task).check(rfd_subject, None)
        assert str(path) in str(error.value)
        return str(error.value)

    save_mask(path, np.full((SIDE, SIDE), 21))
    assert "index 21; there are 20 classes" in message()
    save_mask(path, np.zeros((SIDE, SIDE - 1)))
    assert "is 47 x 48 pixels" in message() and "48 x 48" in message()
    Image.new("RGB", (SIDE, SIDE)).save(path)
    assert "mode RGB" in message()
    path.write_bytes(b"no picture")
    assert "cannot be read: broken header" in message()
    path.unlink()
    assert "no mask" in message()
    path.write_bytes(right)
    path = voc / "JPEGImages" / "a.jpg"
    path.write_bytes(b"")
    assert "cannot be read" in message()


def test_mistakes_are_named(rfd_subject, voc):
    with pytest.raises(UserError, match="voc_dir"):
        Segmentation()
    with pytest.raises(UserError, match="epochs are 1 or more"):
        Segmentation(voc, epochs=0)
    with pytest.raises(UserError, match="skips are 0 to 2; got 3"):
        Segmentation(voc, skips=3)
    with pytest.raises(UserError, match="image size is 1 or more"):
        Segmentation(voc, image_size=0)
    with pytest.raises(UserError, match="2 endpoints larger than its last map, too few for 3"):
        scored_endpoints(applications.build("six_layer", 16), 3)
    with pytest.raises(UserError, match="no list .*trainval"):
        Segmentation(voc, train_split="trainval").check(rfd_subject, None)


def test_a_single_class_is_an_error(rfd_subject, voc):
    for name in TRAIN:
        path = voc / "SegmentationClass" / f"{name}.png"
        with Image.open(path) as picture:
            mask = np.asarray(picture)
        save_mask(path, np.where(mask == 255, 255, 0))
    with pytest.raises(UserError, match="SegmentationClass' show background only"):
        Segmentation(voc, image_size=16).check(rfd_subject, None)


def test_masks_without_labelled_pixels_are_an_error(rfd_subject, voc):
    for name in VAL:
        path = voc / "SegmentationClass" / f"{name}.png"
        with Image.open(path) as picture:
            shape = picture.size[::-1]
        save_mask(path, np.full(shape, 255))
    task = Segmentation(voc, image_size=16, epochs=1, skips=0)
    with pytest.raises(UserError, match="every pixel of the test masks"):
        list(task.run(rfd_subject, None, Settings()))


def test_loss_of_a_network_that_knows_nothing():
    masks = np.zeros((1, 2, 2), int)
    assert float(pixel_cross_entropy(masks, np.zeros((1, 2, 2, 21)))) == pytest.approx(math.log(21))
