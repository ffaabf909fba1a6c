import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from rfd_tf import applications
from rfd_tf.data import ArraySource
from rfd_tf.errors import UserError
from rfd_tf.evaluation import runner
from rfd_tf.evaluation.base import Data, Settings, Subject
from rfd_tf.evaluation.heads import save_heads
from rfd_tf.evaluation.rotation import ALL, DEGREES, Rotation, confusion_figure, confusion_matrix


def found(task, subject, data, output=None):
    results = list(task.run(subject, data, Settings(output=output)))
    return {(r.feature, r.images, r.metric): r.value for r in results}


def test_a_confusion_matrix_worked_out_by_hand():
    truth = np.array([0, 0, 1, 2, 2, 2])
    predicted = np.array([0, 3, 1, 0, 2, 2])
    assert confusion_matrix(truth, predicted).tolist() == [
        [1, 0, 0, 1],
        [0, 1, 0, 0],
        [1, 0, 2, 0],
        [0, 0, 0, 0],
    ]


def test_the_accuracy_is_the_one_that_training_logs(rfd_method, rfd_subject, small_digits):
    results = found(Rotation(), rfd_subject, small_digits)
    images = small_digits.test.images()
    logged = rfd_method({"image": images, "index": np.arange(len(images))}, training=False)
    assert results["f1", ALL, "accuracy"] == pytest.approx(float(logged["rotation_accuracy"]))
    assert results["f2", ALL, "accuracy"] == pytest.approx(float(logged["rotation_accuracy_f2"]))


def test_counts_by_hand_from_the_logits(rfd_method, rfd_subject, small_digits, tmp_path):
    results = found(Rotation(), rfd_subject, small_digits, tmp_path)
    images, labels = small_digits.test.images(), small_digits.test.labels
    matrix = np.zeros((10, 4, 4), int)
    for turns in range(4):
        features = rfd_method.named_features(np.rot90(images, turns, axes=(1, 2)))["f1"]
        answers = np.argmax(rfd_method.rotation_head(features), axis=1)
        np.add.at(matrix, (labels, turns, answers), 1)
    written = json.loads((tmp_path / "rotation_pretrained.json").read_text())["features"]["f1"]
    assert written[ALL] == matrix.sum(axis=0).tolist()
    assert written["7"] == matrix[7].tolist()
    shares = matrix.sum(axis=0) / len(images)
    for turns, degrees in enumerate(DEGREES):
        assert results["f1", degrees, "accuracy"] == pytest.approx(shares[turns, turns])
        for taken, answer in enumerate(DEGREES):
            key = "f1", degrees, f"taken for {answer}"
            assert results[key] == pytest.approx(shares[turns, taken])
    seven = np.trace(matrix[7]) / matrix[7].sum()
    assert results["f1 of 7", ALL, "accuracy"] == pytest.approx(seven)
    assert (tmp_path / "rotation_pretrained.png").stat().st_size > 5000
    table = (tmp_path / "rotation_pretrained.csv").read_text().splitlines()
    assert len(table) == 1 + 2 * 11 * 4
    row = ",".join(str(value) for value in matrix[7, 1])
    assert f"f1,7,90 degrees,{row}" in table


def test_a_fitted_head_is_scikit_learns(rfd_method, rfd_subject, small_digits):
    results = found(Rotation("fitted", fit_images=100), rfd_subject, small_digits)
    assert {feature.split()[0] for feature, _, _ in results} == {"f", "f1", "f2"}
    rows = small_digits.train.rows
    from rfd_tf.evaluation.splits import subset

    chosen = np.isin(rows, subset(rows, 100))

    def views(images):
        turned = [np.rot90(images, turns, axes=(1, 2)) for turns in range(4)]
        features = [np.asarray(rfd_method.named_features(view)["f2"]) for view in turned]
        return np.concatenate(features), np.repeat(np.arange(4), len(images))

    x, y = views(small_digits.train.images()[chosen])
    scaler = StandardScaler().fit(x)
    head = LogisticRegression(max_iter=300).fit(scaler.transform(x), y)
    test, truth = views(small_digits.test.images())
    expected = head.score(scaler.transform(test), truth)
    assert results["f2", ALL, "accuracy"] == pytest.approx(expected, abs=0.01)
    assert expected > 0.5  # even random features tell the turns of digits


def test_the_random_network_has_a_fitted_head_beside(rfd_run, small_digits):
    train, test = small_digits.train.source, small_digits.test.source
    report = runner.evaluate(rfd_run, [Rotation(fit_images=100)], train, test, max_train_images=300)
    rows = {(r["name"], r["images"], r["metric"]): r for r in report["results"]}
    assert rows["f1", ALL, "accuracy"]["random_init"] > 0.4
    assert all(row["random_init"] is not None for row in report["results"])
    text = runner.table(report)
    assert "taken for 90 degrees" in text and "all rotations" in text


def write(method, folder, with_heads, **record):
    record = {"format": 1, "backbone": "six_layer", "arguments": {}, **method.record(), **record}
    applications.save_backbone(method.backbone, folder / "backbone.weights.h5", record)
    (folder / "run.json").write_text("{}")
    if with_heads is not None:
        save_heads(folder, with_heads, 0)
    return Subject.pretrained(folder)


def test_without_a_head_there_is_a_way_out(rfd_method, small_digits, tmp_path):
    subject = write(rfd_method, tmp_path, None)
    with pytest.raises(UserError, match="no rotation head.*resume the run.*rotation_head=fitted"):
        Rotation().check(subject, small_digits)
    Rotation("fitted").check(subject, small_digits)
    subject = write(rfd_method, tmp_path, {"projection": rfd_method.projection})
    with pytest.raises(UserError, match="trained without a rotation head"):
        Rotation().check(subject, small_digits)
    subject = write(rfd_method, tmp_path, {"rotation_head": rfd_method.projection})
    with pytest.raises(UserError, match=r"shape \(64, 128\); feature f1 needs \(64, 4\)"):
        Rotation().check(subject, small_digits)
    with pytest.raises(UserError, match="unknown rotation head 'fited'.*fitted"):
        Rotation("fited")
    with pytest.raises(UserError, match="2 images or more"):
        Rotation(fit_images=1)


def test_a_feature_without_split_is_evaluated_whole(rfd_method, small_digits, tmp_path):
    from rfd_tf.methods import RotationFeatureDecoupling

    method = RotationFeatureDecoupling(
        rfd_method.backbone, 50, num_negatives=8, decoupled=False, feature_endpoint="block4"
    )
    subject = write(method, tmp_path, method.heads())
    Rotation().check(subject, small_digits)
    results = found(Rotation(), subject, small_digits)
    images = small_digits.test.images()
    logged = method({"image": images, "index": np.zeros(len(images), int)}, training=False)
    assert results["f", ALL, "accuracy"] == pytest.approx(float(logged["rotation_accuracy"]))


def test_many_classes_and_no_labels(rfd_run, rfd_subject, small_digits, tmp_path):
    images = small_digits.test.images()
    many = ArraySource(images, np.arange(297) % 30, None, "many")
    results = found(Rotation(), rfd_subject, Data(many, many, 16), tmp_path)
    assert {feature for feature, _, _ in results} == {"f1", "f2"}
    written = json.loads((tmp_path / "rotation_pretrained.json").read_text())["features"]
    assert len(written["f1"]) == 31 and "class 29" in written["f1"]

    bare = ArraySource(images, None, None, "bare")
    report = runner.evaluate(rfd_run, [Rotation(fit_images=50)], bare, bare)
    rows = {(r["name"], r["images"], r["metric"]): r["value"] for r in report["results"]}
    assert rows["f1", ALL, "accuracy"] == results["f1", ALL, "accuracy"]


def test_the_figure_shows_percent_of_each_true_rotation():
    figure = confusion_figure({"f1": np.diag([1, 2, 3, 4]), "f2": np.full((4, 4), 5)})
    assert [text.get_text() for text in figure.axes[1].texts] == ["25"] * 16
    assert figure.axes[1].get_title() == "f2: accuracy 25.0 %"
    assert figure.axes[0].get_ylabel() == "rotated by"
