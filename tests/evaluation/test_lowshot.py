import numpy as np
import pytest

from rfd_tf.errors import UserError
from rfd_tf.evaluation import lowshot, rate_sweep, supervised
from rfd_tf.evaluation.base import Result, Settings
from rfd_tf.evaluation.features import extract_features
from rfd_tf.evaluation.linear import Probe
from rfd_tf.evaluation.lowshot import LowShot, draw


def test_draws_are_balanced_nested_and_differ_by_seed():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    small, large = draw(labels, 3, seed=5), draw(labels, 10, seed=5)
    assert (np.bincount(labels[small]) == 3).all() and (np.bincount(labels[large]) == 10).all()
    assert set(small) < set(large) and (np.diff(large) > 0).all()
    assert set(draw(labels, 10, seed=6)) != set(large)


def test_frozen_scores_are_mean_and_spread_over_draws(rfd_subject, small_digits):
    import keras

    task = LowShot(per_class=[2, 5], draws=3, modes=["frozen"], steps=40)
    settings = Settings(endpoints=["block3"], seed=4)
    results = list(task.run(rfd_subject, small_digits, settings))
    found = {(r.feature, r.images): r for r in results if r.when == "last epoch"}
    best = {(r.feature, r.images): r for r in results if r.when == "best epoch"}
    assert len(found) + len(best) == len(results)
    assert all(best[key].value >= last.value for key, last in found.items())
    assert any(best[key].value > last.value for key, last in found.items())
    assert (
        set(found)
        == set(best)
        == {
            (name, f"{number} per class")
            for name in ("block3", "pooled", "f", "f1", "f2")
            for number in (2, 5)
        }
    )
    backbone = rfd_subject.network()
    tensor = rfd_subject.feature_tensors(backbone)["f2"]
    train, test = (
        extract_features(keras.Model(backbone.inputs, tensor), part.images())["features"]
        for part in (small_digits.train, small_digits.test)
    )
    values = []
    for at in range(3):
        rows = draw(small_digits.train.labels, 5, 4000 + at)
        probe = Probe(40, batch_size=50, seed=4)  # one step an epoch
        probe.fit(train[rows], small_digits.train.labels[rows], 10)
        values.append(np.mean(probe.predict(test) == small_digits.test.labels))
    result = found["f2", "5 per class"]
    assert result.value == pytest.approx(np.mean(values), abs=0.01)
    assert result.spread == pytest.approx(np.std(values, ddof=1), abs=0.01)
    assert found["block3", "5 per class"].value > found["block3", "2 per class"].value > 0.2


def test_fine_tuning_takes_each_draw_and_finished_draws_are_kept(
    rfd_subject, small_digits, tmp_path, monkeypatch
):
    calls = []

    def train(model, names, training, subject, data, settings, title, **options):
        if len(calls) == 3:
            calls.append("killed")
            raise KeyboardInterrupt
        rows = options["train_set"].labels
        calls.append((title, np.bincount(rows).tolist(), options["seed"]))
        yield Result("all layers", len(calls) / 10, when="last epoch")
        yield Result("all layers", len(calls) / 5, when="best epoch")

    monkeypatch.setattr(supervised, "train", train)
    task = LowShot(per_class=[2, 4], draws=2, modes=["fine-tuned"], steps=10, learning_rate=0.1)
    settings = Settings(output=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(task.run(rfd_subject, small_digits, settings))
    found = list(task.run(rfd_subject, small_digits, settings))
    assert [call[0] for call in calls if call != "killed"] == [
        "2 per class, draw 1 of 2",
        "2 per class, draw 2 of 2",
        "4 per class, draw 1 of 2",
        "4 per class, draw 2 of 2",
    ]
    assert calls[0][1] == [2] * 10 and calls[2][1] == [4] * 10
    assert calls[0][2] != calls[1][2]
    assert [(r.images, r.when, round(r.value, 3)) for r in found] == [
        ("2 per class", "last epoch", 0.15),
        ("2 per class", "best epoch", 0.3),
        ("4 per class", "last epoch", 0.4),
        ("4 per class", "best epoch", 0.8),
    ]
    assert found[0].spread == pytest.approx(np.std([0.1, 0.2], ddof=1))
    assert not list(tmp_path.glob("*"))


def test_fine_tuning_runs_on_less_than_a_batch(rfd_subject, small_digits):
    task = LowShot(per_class=[1], draws=1, modes=["fine-tuned"], steps=3)
    found = list(task.run(rfd_subject.random_twin(0), small_digits, Settings()))
    assert [(r.feature, r.when) for r in found] == [
        ("all layers", "last epoch"),
        ("all layers", "best epoch"),
        ("chosen rate", ""),
    ]
    assert found[2].value == rate_sweep.FALLBACK  # of one label a class none can be held out
    assert found[0].spread is None and 0 <= found[0].value <= 1


def test_sizes_that_a_class_lacks_are_skipped_and_reported(rfd_subject, small_digits):
    fewest = np.bincount(small_digits.train.labels).min()
    assert "fine-tuned" not in LowShot(modes=["frozen"]).protocol(small_digits)
    protocol = LowShot().protocol(small_digits)
    assert {"frozen", "fine-tuned"} < set(protocol)
    assert protocol["per_class"] == [n for n in (1, 5, 20, 100) if n <= fewest]
    assert 1000 in protocol["left_out"]
    with pytest.raises(UserError, match=f"smallest class of 'digits/train' has {fewest} images"):
        LowShot(per_class=[400]).check(rfd_subject, small_digits)
    with pytest.raises(UserError, match="unknown low-shot mode 'tuned'"):
        LowShot(modes=["tuned"])
    with pytest.raises(UserError, match="1 image a class or more"):
        LowShot(per_class=[0])
    assert lowshot.MODES == ("frozen", "fine-tuned")
