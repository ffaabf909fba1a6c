import json

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from rfd_tf.data import ArraySource
from rfd_tf.errors import UserError
from rfd_tf.evaluation import frozen, runner
from rfd_tf.evaluation.base import Data, Settings, Subject
from rfd_tf.evaluation.knn import KNearestNeighbours, nearest
from rfd_tf.evaluation.retrieval import Retrieval, precision, sheet
from rfd_tf.evaluation.splits import subset


def found(task, subject, data, output=None, **settings):
    results = list(task.run(subject, data, Settings(output=output, **settings)))
    return {(r.feature, r.metric): r.value for r in results}


def test_nearest_rows_are_scikit_learns():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(200, 5)), rng.normal(size=(30, 5))
    distance, rows = NearestNeighbors(n_neighbors=7, metric="cosine").fit(train).kneighbors(test)
    for memory in (1 << 29, 1 << 12):
        ours, similarity = nearest(train, test, 7, memory)
        np.testing.assert_array_equal(ours, rows)
        np.testing.assert_allclose(similarity, 1 - distance, atol=1e-5)
    with pytest.raises(UserError, match="201 neighbours out of 200"):
        nearest(train, test, 201)


def test_precision_worked_out_by_hand():
    labels = np.array([0, 1])
    near = np.array([[0, 1, 0, 0], [2, 2, 1, 2]])
    assert [precision(labels, near, k) for k in (1, 2, 4)] == [0.5, 0.25, 0.5]


def test_precision_is_that_of_scikit_learns_neighbours(rfd_method, rfd_subject, small_digits):
    task = Retrieval(k=[1, 4, 20])
    results = found(task, rfd_subject, small_digits, endpoints=["block3"])
    assert {name for name, _ in results} == {"block3", "pooled", "f", "f1", "f2", "embedding"}
    train, test = (
        {name: np.asarray(v) for name, v in rfd_method.named_features(s.images()).items()}
        for s in (small_digits.train, small_digits.test)
    )
    for features in (train, test):
        features["embedding"] = np.asarray(rfd_method.embed(features["f2"]))
    for name in ("f", "f1", "f2", "embedding"):
        search = NearestNeighbors(n_neighbors=20, metric="cosine").fit(train[name])
        rows = search.kneighbors(test[name], return_distance=False)
        same = small_digits.train.labels[rows] == small_digits.test.labels[:, None]
        for k in (1, 4, 20):
            expected = same[:, :k].mean()
            assert results[name, f"precision@{k}"] == pytest.approx(expected, abs=0.004)
    assert results["f", "precision@1"] > 0.6


def test_an_image_finds_itself_and_the_sheet_names_it(rfd_subject, small_digits, tmp_path):
    # A gallery that holds the queries: each one's nearest image is itself.
    source = small_digits.test.source
    data = Data(source, source, 16)
    results = found(Retrieval(k=[1], queries=4, neighbours=3), rfd_subject, data, tmp_path)
    assert results["f2", "precision@1"] > 0.99
    assert {path.name for path in tmp_path.iterdir()} == {
        "retrieval_pretrained.json",
        *(f"retrieval_pretrained_{name}.png" for name in ("f", "f1", "f2")),
    }
    listed = json.loads((tmp_path / "retrieval_pretrained.json").read_text())
    rows = listed["f1"]
    assert [row["query"] for row in rows] == subset(np.arange(297), 4).tolist()
    for row in rows:
        assert len(row["neighbours"]) == len(row["similarity"]) == 3
        assert row["neighbours"][0] == row["query"]
        assert row["similarity"][0] == pytest.approx(1, abs=1e-3)
        assert row["similarity"] == sorted(row["similarity"], reverse=True)
    assert (tmp_path / "retrieval_pretrained_f2.png").stat().st_size > 5000


def test_sheets_of_chosen_features(rfd_subject, small_digits, tmp_path):
    task = Retrieval(sheets=["block1", "embedding"], queries=2)
    task.check(rfd_subject, small_digits)
    found(task, rfd_subject, small_digits, tmp_path)
    written = sorted(path.name for path in tmp_path.glob("*.png"))
    assert written == ["retrieval_pretrained_block1.png", "retrieval_pretrained_embedding.png"]


def test_frames_tell_the_class():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 8, 8, 3), np.uint8)
    labels = np.array([0, 1])
    near = np.array([[0, 1, 1], [1, 1, 0]])
    figure = sheet(pixels[:, 0], labels, pixels, near, "f", ["cat", "dog"])
    colours = [patch.get_edgecolor() for patch in figure.axes[0].patches]
    green = [colour[1] > colour[0] for colour in colours]
    assert green == [True, False, False, True, True, False]
    assert {"cat", "dog"} <= {text.get_text() for text in figure.axes[0].texts}
    canvas = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(canvas[2:10, 2:10], pixels[0, 0])
    np.testing.assert_array_equal(canvas[12:20, 34:42], pixels[1, 2])


def test_a_network_without_split_shows_its_last_feature(rfd_subject, small_digits, tmp_path):
    from rfd_tf import applications

    record = {key: value for key, value in rfd_subject.record.items() if key != "feature"}
    path = applications.save_backbone(rfd_subject.network(), tmp_path / "x.weights.h5", record)
    found(Retrieval(queries=2), Subject.pretrained(path), small_digits, tmp_path / "out")
    assert (tmp_path / "out" / "retrieval_pretrained_block6.png").exists()


def test_mistakes_are_named(rfd_subject, small_digits):
    with pytest.raises(UserError, match="k of 1 or more; got \\[0, 3\\]"):
        Retrieval(k=[0, 3])
    with pytest.raises(UserError, match="1 query and 1 neighbour"):
        Retrieval(queries=0)
    with pytest.raises(UserError, match="no feature 'f3' for a sheet; this network has block1"):
        Retrieval(sheets=["f3"]).check(rfd_subject, small_digits)
    with pytest.raises(UserError, match="precision@301 needs as many train images"):
        Retrieval(k=[301]).check(rfd_subject, small_digits)


def test_a_gallery_that_cannot_fit_is_refused(rfd_subject, small_digits, monkeypatch):
    real = frozen.os.sysconf
    monkeypatch.setattr(
        frozen.os, "sysconf", lambda name: 1 if name == "SC_PHYS_PAGES" else real(name)
    )
    with pytest.raises(UserError, match="features of 597 images.*max_train_images"):
        found(Retrieval(), rfd_subject, small_digits)


def test_pictures_without_labels_have_a_sheet(rfd_run, small_digits, tmp_path):
    pictures = ArraySource(small_digits.test.images()[:40], None, None, "pictures")
    report = runner.evaluate(
        rfd_run, [Retrieval(k=[1], queries=3)], pictures, output=tmp_path / "out"
    )
    assert report["results"] == [] and report["data"]["num_test"] == 8
    assert (tmp_path / "out" / "retrieval_pretrained_f.png").exists()
    # One class is as good as none; of two kinds of classes the user is told.
    one = ArraySource(pictures.images, np.zeros(40, int), ["all"], "one")
    task, subject = Retrieval(k=[1]), Subject.pretrained(rfd_run)
    one = Data(one, None, 16, labels_optional=True)
    task.check(subject, one)
    assert found(task, subject, one) == {}
    names = [ArraySource(pictures.images, np.arange(40) % 2, list(n), n) for n in ("ab", "cd")]
    with pytest.raises(UserError, match="different classes"):
        task.check(subject, Data(*names, 16, labels_optional=True))
    with pytest.raises(UserError, match="has no labels"):
        runner.evaluate(rfd_run, [Retrieval(k=[1]), KNearestNeighbours()], pictures)
