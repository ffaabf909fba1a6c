"""Saliency against objects: pictures as squares, networks side by side, tables and figures."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image

from rfd_tf import applications, data
from rfd_tf.data.voc import VocImage, VocSet, voc_folder
from rfd_tf.errors import UserError
from rfd_tf.evaluation.subject import Subject
from rfd_tf.interpret import objects, overlap, saliency_files
from rfd_tf.interpret.activation import attention_map
from rfd_tf.interpret.objects import Maps, Settings, layer_model, measure, read_pictures


@pytest.fixture(scope="module")
def subject(rotation_run):
    return Subject.pretrained(rotation_run)


@pytest.fixture(scope="module")
def pictures(voc):
    return read_pictures(voc_folder(voc), 16)


def test_pictures_and_boxes_are_stretched_together(pictures):
    assert pictures.images.shape == (10, 16, 16, 3) and pictures.objects.shape == (10, 16, 16)
    # The white squares are what the boxes mark, but for the blend at their border.
    white = pictures.images.min(axis=-1) > 180
    assert (white & ~pictures.objects).sum() == 0
    assert overlap.overlap(white, pictures.objects).min() > 0.5


def test_masks_are_read_too(tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    values = np.zeros((20, 40), np.uint8)
    values[:10, :20], values[:10, 20:] = 7, 255
    Image.fromarray(values).save(tmp_path / "mask.png")
    nothing = np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool)
    one = VocImage("a", tmp_path / "a.png", 0, 0, *nothing, mask=tmp_path / "mask.png")
    found = read_pictures(VocSet("set", (one,), ()), 4).objects[0]
    assert found.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]


def test_a_picture_of_another_size_than_its_annotation_is_named(tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    boxes = np.array([[0, 0, 5, 5]]), np.zeros(1), np.zeros(1, bool)
    one = VocImage("a", tmp_path / "a.png", 20, 40, *boxes)
    with pytest.raises(UserError, match="a.png' has 40 x 20 pixels.*20 x 40"):
        read_pictures(VocSet("set", (one,), ()), 4)


def test_layers_are_the_classifiers_outputs_and_the_feature(subject, pictures):
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    feature = np.asarray(layer_model(subject, "embedding")(x))
    kernel, bias = subject.heads["rotation_head"]
    outputs = np.asarray(layer_model(subject, "rotation")(x))
    np.testing.assert_allclose(outputs, feature @ kernel + bias, rtol=1e-4, atol=1e-5)
    some = np.asarray(layer_model(subject, "embedding", neurons=3)(x))
    np.testing.assert_allclose(some, feature[:, [0, 4, 7]], rtol=1e-5)
    with pytest.raises(UserError, match="unknown layer 'fc7'; options: rotation, embedding"):
        layer_model(subject, "fc7")


def test_networks_and_baselines_side_by_side(subject, pictures):
    settings = Settings(quantile=0.75, thresholds={"rotation": 1e9})
    found = measure(subject, pictures, settings)
    rows = {(row["layer"], row["salient"], row["network"]): row for row in found["rows"]}
    quarter, fixed = "strongest 25 %", "at least 1e+09"
    assert {key[1] for key in rows} == {quarter, fixed} and len(rows) == 2 * 3
    row = rows["embedding", quarter, "pretrained"]
    maps = Maps(subject, "embedding", settings)(pictures.images)
    salient = overlap.binary_map(maps[:, 0], quantile=0.75)
    expected = overlap.overlap(salient, pictures.objects)
    np.testing.assert_allclose(row["per_image"], expected)
    assert row["q"] == pytest.approx(expected.mean()) and row["share"] == 0.25
    centre = overlap.overlap(overlap.central_area(salient), pictures.objects)
    assert row["central_pixels"] == pytest.approx(centre.mean())
    assert 0 < row["random_pixels"] < 1
    twin = rows["embedding", quarter, "random init"]
    assert (twin["per_image"] != row["per_image"]).any() and twin["share"] == 0.25
    # A threshold above all gradients marks nothing.
    assert rows["rotation", fixed, "random init"]["q"] == 0
    assert set(found["rotation_accuracy"]) == {"pretrained", "random init"}


@pytest.mark.parametrize("combine", ["mean", "maximum"])
def test_overlaps_of_several_maps_are_combined(subject, pictures, combine):
    few = dataclasses.replace(
        pictures, names=pictures.names[:5], images=pictures.images[:5], objects=pictures.objects[:5]
    )
    settings = Settings(group="each", combine=combine)
    row = measure(subject, few, settings, ["rotation"])["rows"][0]
    maps = Maps(subject, "rotation", settings)(few.images)
    each = overlap.overlap(overlap.binary_map(maps, quantile=0.8), few.objects[:, None])
    assert maps.shape[1] == 4
    expected = each.mean(axis=1) if combine == "mean" else each.max(axis=1)
    np.testing.assert_allclose(row["per_image"], expected)


def test_rotation_accuracy_counts_all_four_rotations(subject, pictures):
    model = layer_model(subject, "rotation")
    mean, std = np.array(subject.mean), np.array(subject.std)
    right = 0
    for image in pictures.images:
        for turns in range(4):
            x = (np.rot90(image, turns)[None] / 255 - mean) / std
            right += int(np.asarray(model(x.astype("float32"))).argmax() == turns)
    assert objects.rotation_accuracy(subject, pictures.images) == right / 40


@pytest.mark.parametrize("kind", ["smooth", "grad_cam", "attention"])
def test_every_kind_of_map_is_measured_and_drawn(subject, pictures, kind, tmp_path):
    settings = Settings(map=kind, draws=2, power=2, layer=None if kind == "smooth" else "block4")
    found = measure(subject, pictures, settings, ["rotation"])
    assert len(found["rows"]) == 2 and 0 <= found["rows"][0]["q"] <= 1
    saliency_files.write(tmp_path, pictures, found, settings, 2)
    assert (tmp_path / "saliency.png").read_bytes()[1:4] == b"PNG"


def test_a_supervised_network_stands_beside(subject, pictures, tmp_path):
    keras.utils.set_random_seed(9)
    record = {**subject.record, "method": "supervised"}
    network = applications.build("six_layer", 16, **record["arguments"])
    path = applications.save_backbone(network, tmp_path / "other" / "x.weights.h5", record)
    other = Subject.pretrained(path)
    settings = Settings(map="attention", layer="block2", power=4)
    beside = {"reference": other, "reference_title": "supervised"}
    found = measure(subject, pictures, settings, ["rotation"], **beside)
    names = ["pretrained", "random init", "supervised"]
    assert [row["network"] for row in found["rows"]] == names
    shown = found["shown"]["rotation"]["supervised"][1]
    x = (pictures.images / 255.0 - np.array(other.mean)) / np.array(other.std)
    maps = attention_map(network, x.astype("float32"), 4, "block2")
    np.testing.assert_allclose(shown, maps, rtol=1e-3, atol=1e-6)
    assert set(found["rotation_accuracy"]) == {"pretrained", "random init"}
    figure = saliency_files.sheet(pictures, found["shown"], settings, 2)
    assert figure.axes[5].get_title() == "rotation\nsupervised" and len(figure.axes) == 2 * 7
    # Gradients of a classifier that it does not have are left out.
    found = measure(subject, pictures, Settings(neurons=2), **beside)
    assert [row["network"] for row in found["rows"]] == names[:2] + names
    with pytest.raises(UserError, match="reference network has no rotation classifier"):
        measure(subject, pictures, Settings(), ["rotation"], **beside)
    with pytest.raises(UserError, match="unknown layer with a map 'fc7'"):
        objects.check_reference(
            subject, other, Settings(map="grad_cam", layer="fc7"), ["embedding"]
        )
    large = {**record, "image_size": 32}
    applications.save_backbone(network, tmp_path / "large.weights.h5", large)
    with pytest.raises(UserError, match="takes images of 32 pixels.*of 16"):
        large = Subject.pretrained(tmp_path / "large.weights.h5")
        measure(subject, pictures, settings, ["rotation"], reference=large)


def test_tables_hold_what_was_measured(subject, pictures, tmp_path):
    settings = Settings(thresholds={"rotation": 1e-3})
    found = measure(subject, pictures, settings)
    saliency_files.write(tmp_path, pictures, found, settings, 3)
    report = json.loads((tmp_path / "saliency.json").read_text())
    assert report["num_images"] == 10 and report["settings"]["thresholds"] == {"rotation": 1e-3}
    with open(tmp_path / "saliency.csv") as file:
        rows = list(csv.DictReader(file))
    column = "embedding, strongest 20 %, pretrained"
    mean = np.mean([float(row[column]) for row in rows])
    (same,) = [
        row["q"]
        for row in report["rows"]
        if (row["layer"], row["network"]) == ("embedding", "pretrained")
    ]
    assert mean == pytest.approx(same, abs=1e-5)
    text = (tmp_path / "saliency.md").read_text()
    assert "maps carry no information" in text and "random init" in text
    figure = saliency_files.sheet(pictures, found["shown"], settings, 3)
    assert len(figure.axes) == 3 * 9
    assert figure.axes[1].get_title() == "rotation\npretrained"
    assert figure.axes[2].get_title() == "salient"
    assert "20 % of pixels" in figure.get_supxlabel() and "Red" in figure.get_supxlabel()
    quality = found["shown"]["rotation"]["pretrained"][2][0]
    assert figure.axes[2].get_xlabel() == f"Q {100 * quality:.0f} %"


def test_without_boxes_maps_are_drawn_and_nothing_is_measured(subject, tmp_path):
    pictures = objects.without_objects(data.digits("test"), 16, 5)
    found = measure(subject, pictures, Settings())
    assert found["rows"] == [] and "pretrained" in found["rotation_accuracy"]
    saliency_files.write(tmp_path, pictures, found, Settings(), 2)
    assert "no Q" in (tmp_path / "saliency.md").read_text()
    assert not (tmp_path / "saliency.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"map": "lime"}, "kind of map"),
        ({"combine": "sum"}, "options: mean, maximum"),
        ({"quantile": -0.1}, "quantile"),
        ({"thresholds": {"rotation": 0}}, "above 0"),
        ({"thresholds": {"fc": 1}}, "options: rotation, embedding"),
        ({"neurons": -1}, "neurons"),
        ({"draws": 0}, "1 draw"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        Settings(**arguments)
