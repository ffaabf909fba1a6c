"""Classification of pictures that show several classes, in VOC's layout."""

import re
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from rfd_tf import applications
from rfd_tf.data import voc
from rfd_tf.data.pipeline import load_images
from rfd_tf.errors import UserError
from rfd_tf.evaluation import Settings, Subject, multi_label, training_state, voc_classification
from rfd_tf.evaluation.average_precision import ELEVEN_POINT, NON_INTERPOLATED
from rfd_tf.evaluation.voc_classification import VocClassification

COLOURS = {"dog": (250, 10, 10), "cat": (10, 250, 10), "cow": (10, 10, 250)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with a patch of each class's colour; every tenth patch is difficult."""
    root = tmp_path_factory.mktemp("voc")
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"{i:03}" for i in range(60)]
    for number, name in enumerate(names):
        image = Image.fromarray(rng.integers(90, 150, (24, 24, 3)).astype(np.uint8))
        shown = rng.permutation(list(COLOURS))[: 1 + number % 2]
        objects = ""
        for place, label in enumerate(shown):
            left = 12 * place
            image.paste(COLOURS[label], (left, 4, left + 11, 20))
            objects += (
                f"<object><name>{label}</name><difficult>{int(number % 10 == 9 and place)}"
                f"</difficult><bndbox><xmin>{left + 1}</xmin><ymin>5</ymin><xmax>{left + 11}</xmax>"
                "<ymax>20</ymax></bndbox></object>"
            )
        image.save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><size><width>24</width><height>24</height></size>{objects}</annotation>"
        )
    (root / "ImageSets/Main/trainval.txt").write_text("\n".join(names[:40]))
    (root / "ImageSets/Main/test.txt").write_text("\n".join(names[40:]))
    return root


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    arguments = {"filters": [8, 8, 8, 8, 8, 16]}
    network = applications.build("six_layer", 16, **arguments)
    record = {"format": 1, "backbone": "six_layer", "arguments": arguments, "image_size": 16}
    path = tmp_path_factory.mktemp("weights") / "backbone.weights.h5"
    return Subject.pretrained(applications.save_backbone(network, path, record))


def test_every_protocol_separates_the_classes(folder, subject):
    task = VocClassification(
        folder,
        "trainval",
        "test",
        epochs=12,
        learning_rate=0.05,
        batch_size=10,
        test_crops=3,
        evaluate_every=5,
        costs=(1.0, 10.0),
    )
    task.check(subject, None)
    results = list(task.run(subject, None, Settings(endpoints=["block6"])))
    assert len({(r.feature, r.metric, r.when) for r in results}) == len(results)
    for name in ("fc8", "all layers"):
        whens = [r.when for r in results if r.feature == name]
        assert whens == ["last epoch", "best epoch"] * 2
    assert {r.when for r in results if r.feature.startswith("svm")} == {""}
    best = {(r.feature, r.metric): r.value for r in results if r.when == "best epoch"}
    by_name = {(r.feature, r.metric): r.value for r in results if r.when != "best epoch"}
    assert all(best[key] >= by_name[key] for key in best)
    assert {name for name, _ in by_name} >= {"svm, block6", "fc8", "all layers"}
    assert not any(name == "fc6-8" for name, _ in by_name)
    for metric in (ELEVEN_POINT, NON_INTERPOLATED):
        # Chance is about the share of positives, a half.
        assert by_name["svm, block6", metric] > 0.75
        assert by_name["all layers", metric] > 0.75
    assert task.protocol(None)["classes"][7] == "cat"


def test_machines_learn_from_pooled_maps_of_length_1(folder, subject, monkeypatch):
    seen = []

    def scores(features, positive, ignored, test_features, costs):
        seen.append(features)
        return np.zeros(len(test_features))

    monkeypatch.setattr(voc_classification, "_svm_scores", scores)
    task = VocClassification(folder, "trainval", "test", protocols=["svm"])
    found = list(task.run(subject, None, Settings(endpoints=["block2", "block6"])))
    assert [r.feature for r in found[::2]] == ["svm, block2", "svm, block6", "svm, pooled"]
    # Maps below round(sqrt(9216 / channels)) stay whole.
    shapes = [subject.network().get_layer(name).output.shape for name in ("block2", "block6")]
    widths = [int(np.prod(shape[1:])) for shape in shapes] + [16]
    assert [features.shape for features in seen[:: len(voc.VOC_CLASSES)]] == [
        (40, width) for width in widths
    ]
    np.testing.assert_allclose(np.linalg.norm(seen[0], axis=1), 1, rtol=1e-5)


def test_an_interrupted_task_takes_up_what_it_finished(folder, subject, tmp_path, monkeypatch):
    monkeypatch.setattr(training_state, "SAVE_AFTER", 0)
    crop_scores, machine = multi_label.crop_scores, voc_classification._svm_scores
    evaluated, fitted = [], []

    def counted(*arguments):
        evaluated.append(arguments)
        if len(evaluated) == stop:
            raise KeyboardInterrupt
        return crop_scores(*arguments)

    monkeypatch.setattr(multi_label, "crop_scores", counted)
    monkeypatch.setattr(
        voc_classification, "_svm_scores", lambda *a: fitted.append(a) or machine(*a)
    )

    def run(output):
        task = VocClassification(
            folder,
            "trainval",
            "test",
            protocols=["svm", "fc8", "all layers"],
            epochs=3,
            learning_rate=0.05,
            batch_size=10,
            test_crops=1,
            evaluate_every=1,
            costs=[1.0],
        )
        return list(task.run(subject, None, Settings(output=output, endpoints=["block6"])))

    stop = None
    expected = run(tmp_path / "whole")
    machines = len(fitted)
    assert len(evaluated) == 6 and not (tmp_path / "whole").exists()
    evaluated.clear()
    stop = 6  # in the last epoch of "all layers"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    evaluated.clear()
    fitted.clear()
    found = run(tmp_path / "cut")
    assert len(evaluated) == 1 and not fitted and machines
    assert [r[:1] + r[2:] for r in found] == [r[:1] + r[2:] for r in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.value == pytest.approx(theirs.value, abs=0.02)
    assert not (tmp_path / "cut").exists()


def test_training_starts_from_rescaled_weights(folder, subject, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(
        multi_label, "train", lambda model, *_: built.append(model) or [(1, {ELEVEN_POINT: 0.5})]
    )
    for rescale in (False, True):
        task = VocClassification(
            folder, "trainval", "test", protocols=["all layers"], rescale=rescale
        )
        task.check(subject, None)
        list(task.run(subject, None, Settings()))
        assert ("rescaled" in task.protocol(None)["trained"]) == rescale
    names = [layer.name for layer in built[1].layers]
    last = next(name for name in reversed(names) if name.endswith("_bn"))
    sources = voc_classification.Pictures.of(task.train_set).source
    images = applications.preprocess_input(load_images(sources, 16, np.arange(32)))
    stds = []
    for model in built:
        outputs = keras.Model(model.inputs[0], model.get_layer(last).output)(images)
        stds.append(float(np.sqrt(np.array(outputs).reshape(-1, 16).var(axis=0).mean())))
    assert stds[1] == pytest.approx(1, rel=0.02) and abs(stds[0] - 1) > 0.1
    network = applications.build("resnet18", 16, width=0.1, cifar_stem=True)
    record = {"format": 1, "backbone": "resnet18", "image_size": 16}
    record["arguments"] = {"width": 0.1, "cifar_stem": True}
    path = applications.save_backbone(network, tmp_path / "other.weights.h5", record)
    with pytest.raises(UserError, match="form a chain"):
        task.check(Subject.pretrained(path), None)


def test_pictures_that_all_show_the_same_are_refused(folder, subject, tmp_path):
    shutil.copytree(folder, tmp_path / "same")
    for path in (tmp_path / "same" / "Annotations").iterdir():
        text = re.sub("dog|cat|cow", "raccoon", path.read_text())
        path.write_text(text.replace("<difficult>1", "<difficult>0"))
    task = VocClassification(tmp_path / "same", "trainval", "test")
    with pytest.raises(UserError, match="same/trainval' and in .*same/test' .shown: raccoon."):
        task.check(subject, None)


def test_the_loss_leaves_out_what_does_not_count():
    logits = np.array([[2.0, -1.0, 5.0]], np.float32)
    targets = np.array([[1.0, 0.0, -1.0]], np.float32)
    expected = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0))
    np.testing.assert_allclose(np.asarray(multi_label.loss(targets, logits)), [expected], rtol=1e-5)


def test_invalid_arguments_are_reported(folder, subject):
    with pytest.raises(UserError, match="voc_dir"):
        VocClassification()
    with pytest.raises(UserError, match="options: svm, fc8, fc6-8, all layers"):
        VocClassification(folder, "trainval", "test", protocols=["fc7"])
    with pytest.raises(UserError, match="no layers fc6 and fc7"):
        VocClassification(folder, "trainval", "test", protocols=["fc6-8"]).check(subject, None)
    with pytest.raises(UserError, match="evaluate_every is 1 or more; got 0"):
        VocClassification(folder, "trainval", "test", evaluate_every=0)
    with pytest.raises(UserError, match="costs are numbers above 0"):
        VocClassification(folder, "trainval", "test", costs=[0.0])
