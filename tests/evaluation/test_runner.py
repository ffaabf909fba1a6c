import json

import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.data import ArraySource, FolderSource, image_folder
from rfd_tf.errors import UserError
from rfd_tf.evaluation import KNearestNeighbours, frozen, image_set, runner
from rfd_tf.evaluation.base import Result
from rfd_tf.evaluation.frozen import Evaluator
from rfd_tf.evaluation.lowshot import LowShot


class Spy(Evaluator):
    """An evaluator of one's own: remembers what it was given."""

    name = "spy"
    pooling = ("average", 2)

    def __init__(self):
        self.fits, self.scores = [], []

    def settings(self, num_train):
        return {"num_train": num_train}

    def fit(self, train, labels, num_classes):
        self.fits.append((train, labels, num_classes))

    def score(self, test, labels):
        self.scores.append((test, labels))
        for name in test:
            yield Result(name, 0.5, when="")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    backbone = applications.build("six_layer", 8)
    record = {"format": 1, "backbone": "six_layer", "arguments": {}, "image_size": 8}
    path = tmp_path_factory.mktemp("weights") / "six.weights.h5"
    return applications.save_backbone(backbone, path, record)


def source(num, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    images = rng.integers(0, 256, (num, 8, 8, 3), np.uint8)
    return ArraySource(images, labels, ["a", "b", "c"], f"set{seed}")


def test_what_evaluators_are_given(weights):
    spy = Spy()
    train, test = source(40), source(10, seed=1)
    report = runner.evaluate(weights, [spy], train, test, endpoints=["block1"], batch_size=16)
    (features, labels, num_classes), (random_features, _, _) = spy.fits
    assert set(features) == {"block1", "pooled"} and num_classes == 3
    np.testing.assert_array_equal(labels, train.labels)
    assert features["block1"].shape == (40, 4 * 16)
    assert np.abs(features["block1"] - random_features["block1"]).max() > 0

    # The rotated pass is the upright one of images that were turned by the seed's turns.
    (upright, labels), (rotated, _) = spy.scores[:2]
    np.testing.assert_array_equal(labels, test.labels)
    turns = np.random.default_rng(0).integers(0, 4, 10)
    assert len(set(turns)) > 1
    turned = [np.rot90(image, k) for image, k in zip(test.images, turns, strict=True)]
    runner.evaluate(
        weights, [spy], train, ArraySource(np.stack(turned), test.labels, test.class_names)
    )
    np.testing.assert_allclose(spy.scores[4][0]["block1"], rotated["block1"], rtol=1e-4, atol=1e-5)
    assert np.abs(upright["block1"] - rotated["block1"]).max() > 0.01

    assert report["protocol"] == {"spy": {"num_train": 40}}
    row = {"task": "spy", "name": "block1", "metric": "accuracy", "when": "", "value": 0.5}
    row = {**row, "spread": None, "random_init": 0.5, "random_init_spread": None}
    assert {**row, "images": "rotated"} in report["results"]
    table = runner.table(report).splitlines()
    assert table[0].split() == "task feature upright random init rotated random init".split()
    assert table[1].split() == ["spy", "block1", "50.0", "50.0", "50.0", "50.0"]


@pytest.mark.parametrize(
    "option",
    [{"seed": -1}, {"batch_size": 0}, {"batch_size": "8"}, {"max_train_images": 0}, {"seed": 0.5}],
)
def test_impossible_settings_are_refused(weights, option):
    (name, value), *_ = option.items()
    with pytest.raises(UserError, match=f"{name}={value!r} must be a whole number from"):
        runner.evaluate(weights, [Spy()], source(40), source(10, seed=1), **option)


def test_probes_are_not_trained_on_held_out_images(weights):
    spy = Spy()
    everything = source(60)
    report = runner.evaluate(weights, [spy], everything, max_train_images=20)
    assert len(spy.fits[0][1]) == 20 and len(spy.scores[0][1]) == 12
    train = {row.tobytes() for row in spy.fits[0][0]["block1"]}
    test = {row.tobytes() for row in spy.scores[0][0]["block1"]}
    assert len(train) == 20 and len(test) == 12 and not train & test
    assert report["data"]["num_train"] == 20 and "held out" in report["data"]["test"]


def test_scores_are_reproducible(weights):
    train, test = source(60), source(30, seed=1)
    reports = [runner.evaluate(weights, [KNearestNeighbours(k=5)], train, test) for _ in range(2)]
    assert reports[0]["results"] == reports[1]["results"]


def test_scores_that_take_long_are_logged_as_soon_as_they_are_known(weights, monkeypatch):
    monkeypatch.setattr(runner, "_SLOW", 0.0)
    lines = []
    task = LowShot(per_class=[2, 4], draws=1, modes=["frozen"], steps=4)
    train, test = source(30), source(10, seed=1)
    tasks = [task, KNearestNeighbours(k=5)]
    report = runner.evaluate(weights, tasks, train, test, endpoints=["block1"], say=lines.append)
    assert "30 images" in lines[0] and "10 images" in lines[1]
    scores = [row for row in report["results"] if row["task"] == "lowshot"]
    assert len(lines) == 2 + 2 * len(scores)  # not those of kNN, which come all at once
    for name, column in (("pretrained", "value"), ("random init", "random_init")):
        for row in scores:
            what = (
                f"{row['name']}, {row['images']}, {row['when']}: accuracy {100 * row[column]:.1f}"
            )
            assert f"lowshot, {name}: {what}" in lines


def test_large_sets_are_streamed_to_the_same_scores(weights, tmp_path, monkeypatch):
    from PIL import Image

    images = source(60)
    for index, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        folder = tmp_path / "abc"[label]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    streamed = image_folder(tmp_path, cache_bytes=0)
    assert isinstance(streamed, FolderSource)
    kept, spied = Spy(), Spy()
    runner.evaluate(weights, [kept], streamed, batch_size=16)
    monkeypatch.setattr(image_set, "_KEEP_BYTES", 0)
    runner.evaluate(weights, [spied], streamed, batch_size=16)
    for (a, labels, _), (b, streamed_labels, _) in zip(kept.fits, spied.fits, strict=True):
        np.testing.assert_array_equal(labels, streamed_labels)
        np.testing.assert_allclose(a["block1"], b["block1"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        kept.scores[1][0]["block1"], spied.scores[1][0]["block1"], rtol=1e-4, atol=1e-5
    )


def test_features_that_cannot_fit_are_refused_beforehand(weights, monkeypatch):
    real = frozen.os.sysconf
    monkeypatch.setattr(
        frozen.os, "sysconf", lambda name: 1 if name == "SC_PHYS_PAGES" else real(name)
    )
    with pytest.raises(UserError, match="max_train_images"):
        runner.evaluate(weights, [KNearestNeighbours()], source(60))


def test_scores_of_other_tasks_on_the_same_images_stay():
    def report(task, **changes):
        rows = [{"task": task, "value": 0.5}]
        base = {"sha256": "a", "endpoints": None, "versions": {}, "data": {"test": "t"}}
        return {**base, "protocol": {task: {"k": 1}}, "results": rows, **changes}

    both = runner.with_earlier(report("linear"), report("knn"))
    assert list(both["protocol"]) == ["knn", "linear"]
    assert [row["task"] for row in both["results"]] == ["knn", "linear"]
    again = runner.with_earlier(report("knn", results=[{"task": "knn", "value": 0.7}]), both)
    assert [(row["task"], row["value"]) for row in again["results"]] == [
        ("linear", 0.5),
        ("knn", 0.7),
    ]
    new = report("linear")
    for other in ({"sha256": "b"}, {"data": {"test": "u"}}, {"endpoints": ["block1"]}):
        assert runner.with_earlier(new, report("knn", **other)) == new
    assert runner.with_earlier(new, None) == new
    assert runner.with_earlier(new, {"sha256": "a"}) == new


def test_scores_on_other_images_are_kept_in_another_file(tmp_path):
    def report(task, test, sha256="a"):
        about = {"sha256": sha256, "endpoints": None, "versions": {}, "data": {"test": test}}
        return {**about, "protocol": {task: {}}, "results": [{"task": task, "value": 0.5}]}

    path, said = tmp_path / "scores.json", []

    def save(*arguments):
        return runner.save_report(report(*arguments), path, said.append)

    save("knn", "t")
    both = save("linear", "t")
    assert list(both["protocol"]) == ["knn", "linear"] and not said
    assert save("knn", "u") == json.loads(path.read_text()) == report("knn", "u")
    assert json.loads((tmp_path / "scores_1.json").read_text()) == both
    save("knn", "v")
    assert json.loads((tmp_path / "scores_2.json").read_text()) == report("knn", "u")
    assert len(said) == 2
    assert "scores_1.json" in said[0] and "scores_2.json" in said[1]
    save("knn", "v", "b")  # scores of other weights: the run was trained on
    path.write_text("{")  # no report
    save("knn", "v")
    assert len(said) == 2 and len(list(tmp_path.iterdir())) == 3


def test_tasks_evaluated_before_a_folder_was_renamed_stay_in_the_report():
    data = {"train": "photos", "train_fingerprint": "a", "num_test": 3}
    earlier = {"sha256": "x", "endpoints": None, "versions": {}, "data": data}
    earlier.update(protocol={"knn": {}}, results=[{"task": "knn"}])
    report = {**earlier, "data": {**data, "train": "moved"}}
    report.update(protocol={"linear": {}}, results=[{"task": "linear"}])
    merged = runner.with_earlier(report, earlier)
    assert list(merged["protocol"]) == ["knn", "linear"] and merged["data"]["train"] == "moved"
    other = {**report, "data": {**data, "train_fingerprint": "b"}}
    assert runner.with_earlier(other, earlier) == other
