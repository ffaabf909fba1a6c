"""The weights that ship: whole, as recorded, and loadable by name."""

import json

import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.applications import pretrained
from rfd_tf.applications.weights import find_weights, sha256

LARGEST = 30_000_000
ENTRIES = list(pretrained.WEIGHTS.values())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_shipped_file_is_what_its_record_and_its_card_say(entry):
    path = find_weights(entry.name)
    assert sha256(path) == entry.sha256
    record = applications.read_record(path)
    assert record["backbone"] == entry.backbone
    for name, value in entry.preprocessing.items():
        np.testing.assert_allclose(record[name], value)
    card = json.loads((path.parent / "card.json").read_text())
    assert card["weights_sha256"] == entry.sha256
    assert card["licence"] == entry.licence and entry.licence
    scores = {
        (row["task"], row["name"], row["images"]): row["value"]
        for row in card["scores"]["results"]
        if row["when"] != "best epoch"
    }
    for name, value in entry.scores.items():
        task, feature, images = name.split()
        assert round(100 * scores[task, feature, images], 1) == value


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_shipped_weights_load_by_tag_into_their_network(entry):
    size = entry.preprocessing["image_size"]
    by_tag = applications.build(entry.backbone, size, weights=entry.tag)
    by_name, _ = applications.load_backbone(entry.name)
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")
    np.testing.assert_array_equal(by_tag(images), by_name(images))
    random = applications.build(entry.backbone, size)
    assert np.abs(np.asarray(random(images)) - np.asarray(by_tag(images))).max() > 1e-3


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_network_with_a_top_keeps_its_new_classification_layer(entry):
    constructor = applications.BACKBONES[entry.backbone]
    with pytest.warns(UserWarning, match="`predictions` is new and has to be trained"):
        model = constructor(weights=entry.tag)
    trunk = constructor(weights=entry.tag, include_top=False, input_shape=model.input_shape[1:])
    for layer in trunk.layers:
        for ours, theirs in zip(model.get_layer(layer.name).weights, layer.weights, strict=True):
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert model.output_shape == (None, 10)
    assert np.abs(np.asarray(model.get_layer("predictions").kernel)).max() > 0


def test_all_that_ships_is_small():
    folder = pretrained.PLACES[0]
    if not folder.is_dir():
        pytest.skip("no checkout: the exported files do not come with an installed package")
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert total < LARGEST
