import csv
import json

import numpy as np
import pytest
from sklearn.metrics.pairwise import paired_euclidean_distances
from sklearn.preprocessing import normalize

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation import runner
from rfd_tf.evaluation.base import Data, Settings, Subject
from rfd_tf.evaluation.invariance import Invariance, distances, histogram_figure


def found(task, subject, data, output=None, **settings):
    results = list(task.run(subject, data, Settings(output=output, **settings)))
    values = {(r.feature, r.images): r.value for r in results if r.metric == "distance"}
    for r in results:
        if r.metric != "distance":
            assert r.metric == "ratio to another image" and r.images != "another image"
            expected = values[r.feature, r.images] / values[r.feature, "another image"]
            assert r.value == pytest.approx(expected)
    assert len(results) == 2 * len(values) - len({r.feature for r in results})
    return values


def test_distances_are_scikit_learns():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 30, 7))
    one[3] = 0  # every unit off
    expected = paired_euclidean_distances(normalize(one), normalize(other))
    np.testing.assert_allclose(distances(one, other), expected)
    assert distances(one[3:4], other[3:4]) == pytest.approx(1)
    assert distances(one[:1], -5 * one[:1]) == pytest.approx(2)
    one[2, 1] = np.nan
    with pytest.raises(UserError, match="NaN"):
        distances(one, other)


def test_distances_of_the_methods_own_features(rfd_method, rfd_subject, small_digits):
    results = found(Invariance(["rotation"]), rfd_subject, small_digits)
    images = small_digits.test.images()
    upright = rfd_method.named_features(images)
    for name in ("f", "f1", "f2"):
        expected = []
        for turns in (1, 2, 3):
            turned = rfd_method.named_features(np.rot90(images, turns, axes=(1, 2)))
            one, other = normalize(np.asarray(upright[name])), normalize(np.asarray(turned[name]))
            expected.append(paired_euclidean_distances(one, other))
        assert results[name, "rotation"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert set(results) == {
        (n, t) for n in ("f", "f1", "f2") for t in ("rotation", "another image")
    }


def test_a_network_that_cannot_tell_rotations(rfd_run, rfd_subject, small_digits, tmp_path):
    backbone = rfd_subject.network()
    for layer in backbone.layers:
        if layer.name.endswith("_conv"):
            kernel = np.array(layer.kernel)
            layer.kernel.assign(sum(np.rot90(kernel, k) for k in range(4)) / 4)
    path = applications.save_backbone(backbone, tmp_path / "x.weights.h5", rfd_subject.record)
    results = found(Invariance(), Subject.pretrained(path), small_digits)
    before = found(Invariance(), rfd_subject, small_digits)
    for name in ("f", "f1", "f2"):
        assert results[name, "rotation"] < 1e-3 < before[name, "rotation"]
        assert results[name, "another image"] > 0.05
        assert results[name, "jigsaw"] > 0.01 and results[name, "affine"] > 0.01


def test_histograms_hold_every_image(rfd_subject, small_digits, tmp_path):
    task = Invariance(bins=10, max_images=50)
    results = found(task, rfd_subject, small_digits, tmp_path, endpoints=["block2"])
    written = json.loads((tmp_path / "invariance_pretrained.json").read_text())
    assert written["edges"] == pytest.approx(np.linspace(0, 2, 11))
    assert set(written["counts"]) == {f"pretrained, {n}" for n in ("block2", "f", "f1", "f2")}
    for title, rows in written["counts"].items():
        sums = {name: sum(counts) for name, counts in rows.items()}
        assert sums == {"rotation": 150, "jigsaw": 50, "affine": 50, "another image": 50}
        name = title.removeprefix("pretrained, ")
        assert written["mean"][title]["jigsaw"] == pytest.approx(results[name, "jigsaw"])
        # The mean lies where the histogram says, within half a bin.
        middles = np.linspace(0.1, 1.9, 10)
        middle = np.average(middles, weights=rows["affine"])
        assert middle == pytest.approx(results[name, "affine"], abs=0.1)
    with open(tmp_path / "invariance_pretrained.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4 * 4 * 10 and sum(int(row["images"]) for row in table) == 4 * 300
    assert (tmp_path / "invariance_pretrained.png").stat().st_size > 10_000


def test_a_reference_stands_beside(rfd_method, rfd_run, small_digits, tmp_path):
    # One that splits nothing, takes its feature in the middle, and sees larger images.
    backbone = applications.build("six_layer", 24)
    feature = {"endpoint": "block4", "pooling": "avg"}
    record = {"format": 1, "backbone": "six_layer", "arguments": {}, "image_size": 24}
    path = tmp_path / "rotation.weights.h5"
    applications.save_backbone(backbone, path, {**record, "feature": feature})
    task = Invariance(reference_weights=path, reference_title="rotation only", max_images=40)
    source = small_digits.train.source
    report = runner.evaluate(
        rfd_run, [task], source, small_digits.test.source, output=tmp_path / "out"
    )
    rows = {(r["name"], r["images"]): r for r in report["results"] if r["metric"] == "distance"}
    beside = rows["f of rotation only", "rotation"]
    assert 0 < beside["value"] < 2 and beside["random_init"] is None
    assert rows["f2", "rotation"]["random_init"] > 0
    alone = found(Invariance(max_images=40), Subject.pretrained(path), Data(
        source, small_digits.test.source, 24
    ))  # fmt: skip
    assert beside["value"] == pytest.approx(alone["f", "rotation"])
    assert report["protocol"]["invariance"]["reference"]["title"] == "rotation only"
    assert (tmp_path / "out" / "invariance_random_init.png").exists()
    counts = json.loads((tmp_path / "out" / "invariance_pretrained.json").read_text())["counts"]
    assert "rotation only, f" in counts


def test_scores_do_not_depend_on_the_batch_size(rfd_subject):
    from rfd_tf import data

    small, large = (
        found(
            Invariance(max_images=30),
            rfd_subject,
            Data(data.digits(), data.digits("test"), 16, batch_size=size),
            batch_size=size,
        )
        for size in (7, 64)
    )
    assert small == pytest.approx(large, rel=1e-4)


def test_the_figure_has_axes_and_a_caption():
    edges = np.linspace(0, 2, 5)
    counts = {"pretrained, f1": {"rotation": np.array([1, 2, 3, 4]), "jigsaw": np.ones(4)}}
    figure = histogram_figure(edges, counts, "What is shown.")
    assert [axes.get_xlabel() for axes in figure.axes] == ["distance", "distance"]
    assert figure.axes[0].get_ylabel() == "share of distances"
    assert figure.texts[0].get_text() == "What is shown."
    line = figure.axes[0].patches[0].get_data()
    np.testing.assert_allclose(line.values, [0.1, 0.2, 0.3, 0.4])


def test_mistakes_are_named(rfd_run, rfd_subject, small_digits):
    with pytest.raises(UserError, match="unknown transformation 'rotate'.*rotation"):
        Invariance(["rotate"])
    with pytest.raises(UserError, match="give a transformation"):
        Invariance([])
    with pytest.raises(UserError, match="2 images or more"):
        Invariance(max_images=1)
    with pytest.raises(UserError, match="1 bin or more"):
        Invariance(bins=0)
    with pytest.raises(UserError, match="2 tiles"):
        Invariance(jigsaw_grid=1)
    with pytest.raises(UserError, match="16 pixels are too small for a puzzle of 9 x 9"):
        Invariance(jigsaw_grid=9).check(rfd_subject, small_digits)
    with pytest.raises(UserError, match="unknown weights 'nothing'"):
        Invariance(reference_weights="nothing").check(rfd_subject, small_digits)


def test_the_protocol_holds_what_is_measured_and_nothing_else():
    protocol = Invariance(transformations=["rotation"]).protocol(None)
    assert "rotation" in protocol and not {"jigsaw", "affine"} & set(protocol)
    with pytest.raises(
        UserError, match="jigsaw_grid=2 has no effect .* transformations with 'jigsaw'"
    ):
        Invariance(transformations=["rotation"], jigsaw_grid=2)
    with pytest.raises(
        UserError, match="reference_title='other' has no effect without reference_weights"
    ):
        Invariance(reference_title="other")
