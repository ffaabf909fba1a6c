"""The sweep of learning rates: what it chooses, and what it may not look at."""

import copy
import dataclasses

import keras
import numpy as np
import pytest

from rfd_tf import data
from rfd_tf.data import ArraySource
from rfd_tf.evaluation import rate_sweep, supervised
from rfd_tf.evaluation.base import Data, ImageSet, Result, Settings
from rfd_tf.evaluation.finetune import FineTuning, classifier
from rfd_tf.evaluation.lowshot import LowShot
from rfd_tf.evaluation.partial import PartialResults
from rfd_tf.evaluation.protocols import Training
from rfd_tf.evaluation.splits import held_out

LOW, HIGH = 1e-5, 0.1
TRAINING = Training(9, rate_sweep.FALLBACK, 30)


@pytest.fixture
def two_rates(monkeypatch):
    monkeypatch.setattr(rate_sweep, "RATES", (LOW, HIGH))


def choose(subject, digits, settings=None):
    return rate_sweep.choose(
        lambda: classifier(subject, 10),
        TRAINING,
        subject,
        digits,
        digits.train,
        settings or Settings(),
        "trial",
        PartialResults(None),
    )


def test_the_better_rate_is_chosen_whatever_the_test_labels_say(
    rfd_subject, small_digits, two_rates, monkeypatch
):
    compiled, compile_one = [], keras.Model.compile
    monkeypatch.setattr(
        keras.Model,
        "compile",
        lambda *args, **options: compiled.append(compile_one(*args, **options)),
    )
    choice = choose(rfd_subject, small_digits)
    assert choice.rate == HIGH and len(compiled) == 1
    assert choice.accuracies[HIGH] > choice.accuracies[LOW] + 0.2
    images = small_digits.test.source
    poisoned = copy.copy(small_digits)
    wrong = (images.labels + 1) % 10
    source = ArraySource(np.zeros((len(wrong), 16, 16, 3), "uint8"), labels=wrong, name="wrong")
    poisoned.test = ImageSet(source, image_size=16)
    assert choose(rfd_subject, poisoned) == choice
    # The second trial is that of a network of its own.
    held = held_out(small_digits.train.labels)
    alone = copy.copy(small_digits)
    alone.train, alone.test = (
        small_digits.train.some(np.flatnonzero(part)) for part in (~held, held)
    )
    training = dataclasses.replace(rate_sweep.short(TRAINING), learning_rate=HIGH)
    network = classifier(rfd_subject, 10)
    (last, _) = supervised.train(
        network, ["x"], training, rfd_subject, alone, Settings(), "alone", images=("upright",)
    )
    assert last.value == choice.accuracies[HIGH]


def test_the_report_states_the_rates_and_the_one_chosen(rfd_subject, small_digits, two_rates):
    task = FineTuning(epochs=3, batch_size=60)
    said = task.protocol(small_digits)["learning_rate"]
    assert said["rates"] == [LOW, HIGH] and said["epochs_of_each"] == 1
    found = list(task.run(rfd_subject, small_digits, Settings()))
    rows = {result.feature: result for result in found}
    tried = [f"held out, rate {rate:g}" for rate in (LOW, HIGH)]
    assert list(rows) == ["all layers", *tried, "chosen rate"]
    # Of equal accuracies the higher of two.
    assert rows["chosen rate"].value == max((HIGH, LOW), key=lambda r: rows[tried[r == HIGH]].value)
    assert rows["chosen rate"].metric == "learning rate"


@pytest.mark.parametrize("task", [FineTuning, LowShot])
def test_a_given_rate_is_used_as_it_is(task, rfd_subject, small_digits, monkeypatch):
    rates = []

    def train(model, names, training, *arguments, **options):
        rates.append(training.learning_rate)
        yield Result("all layers", 0.5)

    monkeypatch.setattr(supervised, "train", train)
    options = {"per_class": [2], "draws": 1, "modes": ["fine-tuned"]} if task is LowShot else {}
    made = task(learning_rate=0.02, **options)
    found = list(made.run(rfd_subject, small_digits, Settings()))
    assert rates == [0.02] and {result.feature for result in found} == {"all layers"}
    protocol = made.protocol(small_digits)
    assert protocol.get("fine-tuned", protocol)["learning_rate"] == 0.02
    assert made.training.learning_rate == 0.02


def test_low_shot_sweeps_on_the_labels_of_each_draw(rfd_subject, small_digits, monkeypatch):
    seen = []

    def train(model, names, training, subject, data, settings, title, **options):
        images = options.get("train_set") or data.train
        seen.append((title, training.learning_rate, training.epochs, len(images), len(data.test)))
        # The second draw's best rate is another.
        best = 0.01 if "draw 1" in title else 0.3
        yield Result("all layers", float(training.learning_rate == best))

    monkeypatch.setattr(supervised, "train", train)
    task = LowShot(per_class=[5], draws=2, modes=["fine-tuned"], steps=60)
    found = {r.feature: r for r in task.run(rfd_subject, small_digits, Settings())}
    finals = [call for call in seen if "rate" not in call[0]]
    assert [call[1] for call in finals] == [0.01, 0.3]
    assert [call[3:] for call in finals] == [(50, len(small_digits.test))] * 2
    trials = [call for call in seen if "rate" in call[0]]
    assert [call[1] for call in trials] == [*rate_sweep.RATES] * 2
    # One of five labels of every class is held out, in a third of the epochs.
    assert {call[2:] for call in trials} == {(3, 40, 10)}
    assert found["chosen rate"].value == pytest.approx(0.155)
    assert found["chosen rate"].images == "5 per class" and found["chosen rate"].spread
    assert found["held out, rate 0.01"].value == 0.5


def test_every_class_has_labels_held_out_or_the_rate_is_fixed(rfd_subject):
    labels = np.repeat(np.arange(4), [2, 4, 5, 20])
    assert np.bincount(labels[held_out(labels)]).tolist() == [1, 1, 1, 4]
    single = Data(data.digits(), data.digits("test"), 16)
    first = [np.flatnonzero(single.train.labels == label)[0] for label in range(10)]
    single.train = single.train.some(np.sort(first))
    assert choose(rfd_subject, single) == rate_sweep.Choice(rate_sweep.FALLBACK, {})


def test_a_rate_that_diverges_is_not_chosen(rfd_subject, small_digits, monkeypatch, tmp_path):
    monkeypatch.setattr(rate_sweep, "RATES", (1e30, HIGH))
    choice = choose(rfd_subject, small_digits, settings=Settings(output=tmp_path))
    assert choice.rate == HIGH and choice.accuracies[1e30] == 0
    assert choice.accuracies[HIGH] > 0.2  # it began anew
    assert not list(tmp_path.glob("*"))


def test_an_interrupted_sweep_keeps_finished_trials(
    rfd_subject, small_digits, monkeypatch, tmp_path
):
    tried = []

    def train(model, names, training, *arguments, **options):
        tried.append(training.learning_rate)
        if len(tried) == 3:
            raise KeyboardInterrupt
        yield Result("all layers", 0.1 * len(tried))

    monkeypatch.setattr(supervised, "train", train)
    task = FineTuning(epochs=3)
    settings = Settings(output=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(task.run(rfd_subject, small_digits, settings))
    assert list(tmp_path.iterdir())
    list(task.run(rfd_subject, small_digits, settings))
    first, second, third, *later = rate_sweep.RATES
    assert tried == [first, second, third, third, *later, rate_sweep.RATES[-1]]
    assert not list(tmp_path.glob("*"))
