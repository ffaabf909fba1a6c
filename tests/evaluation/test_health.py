"""Runs that learn, stall and collapse are called so; what is measured, drawn and warned of."""

import json
import warnings

import keras
import numpy as np
import pytest

from rfd_tf import applications, data
from rfd_tf.errors import UserError
from rfd_tf.evaluation import FeatureHealth, health
from rfd_tf.methods import RotationFeatureDecoupling, RotationPrediction
from rfd_tf.training import callbacks

COUNT = 192


@pytest.fixture(scope="module")
def images():
    return data.load_images(data.digits(), 16, np.arange(COUNT))


def make(rate=0.05, kind=RotationFeatureDecoupling, **options):
    keras.utils.set_random_seed(0)
    backbone = applications.build("six_layer", image_size=16, filters=(8, 8, 8, 8, 8, 16))
    if kind is RotationFeatureDecoupling:
        options = {"num_images": COUNT, "projection_dimensions": 16, "temperature": 0.2, **options}
    method = kind(backbone, **options)
    method.compile(optimizer=keras.optimizers.SGD(rate, momentum=0.9))
    return method


def fit(images, rate, epochs=2, **options):
    said = []
    checked = FeatureHealth(images, say=said.append)
    history = make(rate, **options).fit(
        images, batch_size=32, epochs=epochs, callbacks=[checked], verbose=0
    )
    return checked, history.history, said


def test_a_run_that_learns_is_called_so(images):
    checked, history, said = fit(images, 0.05, epochs=4)
    found = checked.verdict
    assert found.word == "learning" and not found.advice
    assert "loss" in found.reason and "effective rank" in found.reason and "f2 leak" in found.reason
    assert said == [f"health: {found}"]
    assert {"feature_spread", "effective_rank", "alignment", "uniformity", "f2_leak"} <= {*history}
    assert len(history["effective_rank"]) == 4 and len(history["neighbours_kept"]) == 3
    assert "neighbours_kept" not in checked.history[0]  # there is no epoch before it
    assert 0 < history["neighbours_kept"][-1] <= 1 and 0 < history["weights_moved"][0] < 1
    assert {"effective_rank", "alignment", "uniformity", "f2_leak"} <= {*checked.before}


@pytest.mark.parametrize("kind", [RotationFeatureDecoupling, RotationPrediction])
def test_a_learning_rate_of_zero_stalls(images, kind):
    checked, history, (said,) = fit(images, 0.0, kind=kind)
    assert history["weights_moved"] == [0, 0]
    assert said.startswith("health: stalled: the backbone's weights have moved by 0 of their")
    assert "raise learning_rate" in said
    assert ("f2_leak" in history) == (kind is RotationFeatureDecoupling)


def test_a_learning_rate_far_too_large_collapses(images):
    with pytest.warns(UserWarning, match="they have collapsed"):
        checked, _, (said,) = fit(images, 1e4)
    assert said.startswith("health: collapsed: ") and "lower learning_rate" in said
    assert checked.verdict.word == "collapsed"


@pytest.fixture
def checked(images):
    """A callback of an untrained method, and a function that ends an epoch."""
    found = FeatureHealth(images[:64], say=None)
    found.set_model(make())
    found.set_params({"epochs": 10, "steps": 6})
    found.on_train_begin()

    def logs(epoch=0):
        logs = {}
        found.on_epoch_end(epoch, logs)
        return logs

    return found, logs


def test_a_collapsed_bank_is_warned_of_once_and_again_after_recovering(checked):
    health_check, logs = checked
    bank = health_check.model.memory_bank.bank
    healthy = np.array(bank)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = logs()
    assert before["feature_spread"] > health.MIN_SPREAD
    assert before["bank_effective_rank"] > 10
    for epoch in (1, 3):
        bank.assign(np.tile(healthy[:1], (len(healthy), 1)))
        with pytest.warns(UserWarning, match=f"memory bank's .* after epoch {epoch + 1}, below"):
            assert logs(epoch)["bank_effective_rank"] == 0
        assert health_check.verdict.word == "collapsed"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            logs(epoch)
            bank.assign(healthy)
            logs(epoch)
    # In one direction but for a little, which singular values show and their squares hide.
    bank.assign(healthy[:1] + 0.3 * np.linspace(-1, 1, len(healthy))[:, None] * healthy[1:2])
    with pytest.warns(UserWarning, match="memory bank's effective rank"):
        assert logs(4)["bank_effective_rank"] < health.MIN_BANK_RANK


def test_collapsed_features_are_warned_of(checked):
    health_check, logs = checked
    # The last convolution gives the same whatever it sees.
    for weight in health_check.model.backbone.weights[-6:]:
        if weight.name == "gamma":
            weight.assign(np.zeros(weight.shape))
        if weight.name == "beta":
            weight.assign(np.ones(weight.shape))
    with pytest.warns(UserWarning, match="the features' spread is .* after epoch 1, below 0.01"):
        found = logs()
    assert found["feature_spread"] == pytest.approx(0, abs=1e-6)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert health_check.verdict.reason.startswith("the features' spread is ")
    health_check._extract = lambda images, **_: {"features": np.full((len(images), 16), np.nan)}
    logs(1)
    assert str(health_check.verdict).startswith("collapsed: the features' spread is nan")


def test_the_state_of_a_checkpoint_continues_the_measures(checked, images):
    health_check, logs = checked
    logs()
    state = json.loads(json.dumps(health_check.state()))
    resumed = FeatureHealth(images[:64], state=state, say=None)
    resumed.set_model(health_check.model)
    resumed.set_params({"epochs": 10, "steps": 6, "start_step": 6})
    resumed.on_train_begin()
    kernel = health_check.model.backbone.trainable_variables[0]
    kernel.assign(1.5 * np.array(kernel))
    again: dict = {}
    resumed.on_epoch_end(1, again)
    assert again == logs(1) and 0 < again["weights_moved"] < 0.5
    assert resumed.before == health_check.before
    # Where nothing is known of the beginning, nothing is compared with it.
    unknown = FeatureHealth(images[:64], say=None)
    unknown.set_model(health_check.model)
    unknown.set_params({"epochs": 10, "steps": 6, "start_step": 6})
    unknown.on_train_begin()
    rest: dict = {}
    unknown.on_epoch_end(1, rest)
    assert {*again} - {*rest} == {"weights_moved", "neighbours_kept"} and not unknown.before


def test_the_sheet_shows_images_beside_their_neighbours(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype("uint8")
    angles = np.arange(20) / 10
    sheet = health.neighbour_sheet(pixels, np.stack([np.cos(angles), np.sin(angles)], 1))
    assert sheet.shape == (8 * 10, 10 + 2 + 7 * 10, 3)
    # The first query is image 0, and image k is its k-th neighbour.
    np.testing.assert_array_equal(sheet[1:9, 1:9], pixels[0])
    for k in range(1, 8):
        start = 12 + 10 * (k - 1) + 1
        np.testing.assert_array_equal(sheet[1:9, start : start + 8], pixels[k])
    titled = health.neighbour_sheet(pixels, np.stack([np.cos(angles), np.sin(angles)], 1), "title")
    np.testing.assert_array_equal(titled[-len(sheet) :], sheet)
    assert 0 < (titled[: -len(sheet)] < 128).mean() < 0.5  # dark letters


def test_sheets_and_the_values_before_training_go_to_tensorboard(images, tmp_path):
    import tensorflow as tf

    board = callbacks.TensorBoard(tmp_path / "tensorboard")
    checked = FeatureHealth(
        images[:32], every=2, directory=tmp_path / "figures", tensorboard=board, say=None
    )
    method = make(num_images=32)
    method.fit(images[:32], batch_size=32, epochs=5, callbacks=[checked, board], verbose=0)
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = {
        (value.tag, event.step)
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    steps = {tag: sorted(step for name, step in events if name == tag) for tag, _ in events}
    assert steps["effective_rank"] == [0, 2, 4, 5]  # the last epoch is always measured
    assert steps["nearest neighbours"] == [2, 4, 5]
    assert steps["loss"] == [1, 2, 3, 4, 5]
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["nearest_neighbours.png"]


def test_verdicts_on_histories():
    measured = {"effective_rank": 9.0, "feature_spread": 0.5, "weights_moved": 0.1}
    levels = {"rotation_accuracy": 0.25, "rotation_accuracy_f2": 0.25, "instance_loss": 5.0}

    def word(*rows, before=None):
        rows = [{**measured, **row} for row in rows]
        found = health.verdict(rows, before or {}, levels)
        return found.word if found else None

    assert health.verdict([], {}, {}) is None
    assert health.verdict([{"loss": 1.0}], {}, {}) is None
    assert word({"loss": 6.0}, {"loss": 5.0}) == "learning"
    assert word({"loss": 6.0}, {"loss": 5.99, "rotation_accuracy": 0.26}) == "stalled"
    # Losses of adversaries and of new clusters need not fall.
    assert word({"loss": 6.0}, {"loss": 6.0, "rotation_accuracy": 0.4}) == "learning"
    assert word({"loss": 6.0}, {"loss": 6.0, "instance_loss": 4.5}) == "learning"
    # A loss that comes down from far above chance has learnt nothing yet.
    levels["rotation_loss"] = 1.39
    fallen = {"loss": 36.0, "rotation_loss": 29.6, "instance_loss": 4.9}
    assert word({"loss": 1955.0, "rotation_loss": 1946.0}, fallen) == "stalled"
    assert (
        word({"loss": 8.7}, {"loss": 8.0, "rotation_loss": 1.6, "instance_loss": 4.5}) == "learning"
    )
    # What has not left chance is named.
    rows = [{**measured, "loss": 8.7}, {**measured, "loss": 8.0, "rotation_accuracy": 0.255}]
    rows[-1] |= {"instance_loss": 4.5, "rotation_loss": 1.6}
    assert str(health.verdict(rows, {}, levels)) == (
        "learning: loss 8.7 to 8, instance loss 4.5 (chance 5), effective rank 9; no better than "
        "chance yet: rotation accuracy 25.5 % (chance 25.0 %), rotation loss 1.6 (chance 1.39)"
    )
    rows[-1] |= {"loss": 1e9, "effective_rank": 1.0}
    assert str(health.verdict(rows, {}, levels)).startswith(
        "collapsed: loss 8.7 to 1e+09, the feat"
    )
    # f2 should not know the rotation.
    assert word({"loss": 6.0}, {"loss": 6.0, "rotation_accuracy_f2": 0.5}) == "stalled"
    # One epoch has nothing to fall from.
    assert word({"loss": 6.0, "rotation_accuracy": 0.4}) == "learning"
    assert word({"loss": 6.0, "rotation_accuracy": 0.25}) == "stalled"
    assert word({"loss": 6.0}, {"loss": 2.0, "weights_moved": 1e-5}) == "stalled"
    assert word({"loss": 6.0}, {"loss": 2.0, "feature_spread": 0.001}) == "collapsed"
    assert word({"loss": 6.0, "feature_spread": 0.001}, {"loss": 2.0}) == "learning"
    learnt = {"loss": 6.0, "rotation_accuracy": 0.9}
    assert word({**learnt, "effective_rank": 3.0}, before={"effective_rank": 16.0}) == "learning"
    assert word({**learnt, "effective_rank": 1.5}, before={"effective_rank": 16.0}) == "collapsed"


def test_images_that_cannot_be_measured_are_refused(images):
    for wrong in (images[:1], images.astype("float32"), images[0]):
        with pytest.raises(UserError, match="FeatureHealth needs 2 images or more, uint8"):
            FeatureHealth(wrong)
    other = FeatureHealth(images[:, :12, :12])
    other.set_model(make())
    with pytest.raises(UserError, match="give images of image_size=16"):
        other.on_train_begin()
