"""Rotated-PASCAL: several classes a picture, every picture rotated."""

import keras
import numpy as np
import pytest
from PIL import Image

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation import Settings, Subject, multi_label, training_state
from rfd_tf.evaluation.average_precision import ELEVEN_POINT, NON_INTERPOLATED
from rfd_tf.evaluation.multi_label import Pictures
from rfd_tf.evaluation.rotated_voc import RotatedVocClassification

COLOURS = {"dog": (250, 10, 10), "cat": (10, 250, 10)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with a patch of the colour of each class shown, at the left."""
    root = tmp_path_factory.mktemp("voc")
    for name in ("images", "annotations"):
        (root / name).mkdir()
    rng = np.random.default_rng(0)
    for number in range(50):
        image = Image.fromarray(rng.integers(90, 150, (24, 24, 3)).astype(np.uint8))
        objects = ""
        for place, label in enumerate(list(COLOURS)[number % 2 : 1 + number % 3]):
            image.paste(COLOURS[label], (0, 12 * place, 12, 12 * place + 12))
            objects += (
                f"<object><name>{label}</name><bndbox><xmin>1</xmin><ymin>{12 * place + 1}</ymin>"
                f"<xmax>12</xmax><ymax>{12 * place + 12}</ymax></bndbox></object>"
            )
        if not objects:
            continue
        image.save(root / "images" / f"{number:02}.png")
        (root / "annotations" / f"{number:02}.xml").write_text(
            f"<annotation><size><width>24</width><height>24</height></size>{objects}</annotation>"
        )
    return root


def subject_of(backbone, size, folder, feature=None, **arguments):
    keras.utils.set_random_seed(2)
    network = applications.build(backbone, size, **arguments)
    record = {"format": 1, "backbone": backbone, "arguments": arguments, "image_size": size}
    record |= {"feature": feature} if feature else {}
    path = applications.save_backbone(network, folder / "backbone.weights.h5", record)
    return Subject.pretrained(path)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """Narrow, its fc7 split as RFD splits it."""
    feature = {"endpoint": "fc7", "pooling": "avg", "split": [20, 21]}
    return subject_of("alexnet", 67, tmp_path_factory.mktemp("weights"), feature, width=0.01)


def task_on(folder, **options):
    options = {"epochs": 1, "batch_size": 10, "test_crops": 2, **options}
    return RotatedVocClassification(folder, **options)


def test_results_are_of_the_feature_and_of_both_halves_alone(folder, alexnet):
    task = task_on(folder, protocols=["fc6-8"])
    task.check(alexnet, None)
    results = list(task.run(alexnet, None, Settings()))
    assert {r.feature for r in results} == {"fc6-8, f", "fc6-8, f1", "fc6-8, f2"}
    assert {r.metric for r in results} == {ELEVEN_POINT, NON_INTERPOLATED}
    assert {r.images for r in results} == {"rotated"}
    assert len(results) == 3 * 2 * 2 and all(0 <= r.value <= 1 for r in results)
    protocol = task.protocol(None)
    assert "svm" not in protocol and "drawn once" in protocol["rotated"]


@pytest.mark.parametrize(("feature", "columns"), [("f1", slice(0, 20)), ("f2", slice(20, None))])
@pytest.mark.parametrize("protocol", ["fc8", "fc6-8"])
def test_the_classifier_stands_on_a_half(alexnet, feature, columns, protocol):
    model = multi_label.classifier(alexnet, protocol, 3, feature)
    dense = next(layer for layer in model.layers if layer.name.startswith("dense"))
    kernel = np.random.default_rng(0).normal(size=dense.kernel.shape)
    dense.kernel.assign(kernel)
    x = np.random.default_rng(1).normal(size=(2, 67, 67, 3)).astype("float32")
    fc7 = np.array(applications.pooled_feature_model(alexnet.network(), "fc7")(x))
    np.testing.assert_allclose(model(x), fc7[:, columns] @ kernel, rtol=1e-4, atol=1e-5)
    names = {weight.path.split("/")[0] for weight in model.trainable_weights}
    trained = {name for name in names if name.startswith("fc")}
    expected = {"fc6_dense", "fc6_bn", "fc7_dense", "fc7_bn"} if protocol == "fc6-8" else set()
    assert trained == expected and not any(name.startswith("conv") for name in names)


def test_pictures_are_rotated_alike_in_training_and_by_crops(folder):
    upright = Pictures.of(task_on(folder).train_set)
    turned = upright.turned([7, 0])
    assert set(turned.turns) == {0, 1, 2, 3}
    streams = [multi_label._stream(side, 24, 10, 3, 0) for side in (upright, turned)]
    for (images, targets), (rotated, same) in zip(*[s.take(3) for s in streams], strict=True):
        np.testing.assert_array_equal(targets, same)
        turns = [
            [np.array_equal(one, np.rot90(plain, k)) for k in range(4)].index(True)
            for one, plain in zip(rotated.numpy(), images.numpy(), strict=True)
        ]
        assert len(set(turns)) > 1

    class Corner:
        """Logits that repeat the mean colour of the upper left quarter, 20 numbers."""

        input_shape = (None, 24, 24, 3)

        def predict_on_batch(self, images):
            colours = images[:, :12, :12].astype("float32").mean(axis=(1, 2))
            return np.tile(colours, 7)[:, :20]

    plain = multi_label.crop_scores(Corner(), upright, 3, 0)
    rotated = multi_label.crop_scores(Corner(), turned, 3, 0)
    still = turned.turns == 0
    np.testing.assert_array_equal(plain[still], rotated[still])
    assert (plain[~still] != rotated[~still]).any(axis=1).all()


def test_colours_are_classified_in_any_orientation(folder, tmp_path):
    subject = subject_of("six_layer", 16, tmp_path, filters=[8, 8, 8, 8, 8, 16])
    task = task_on(folder, epochs=15, learning_rate=0.05, evaluate_every=15)
    found = {r.feature: r.value for r in task.run(subject, None, Settings()) if "11" in r.metric}
    # No fc6, fc7, no halves; classes are shown by half of the pictures or more.
    assert set(found) == {"fc8, pooled"} and found["fc8, pooled"] > 0.85


def test_an_interrupted_task_takes_up_what_it_finished(folder, alexnet, tmp_path, monkeypatch):
    monkeypatch.setattr(training_state, "SAVE_AFTER", 0)
    train, trained = multi_label.train, []

    def interrupted(*arguments):
        trained.append(arguments[6])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(multi_label, "train", interrupted)
    task, settings = task_on(folder, protocols=["fc8"]), Settings(output=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        list(task.run(alexnet, None, settings))
    results = list(task.run(alexnet, None, settings))
    titles = [f"rotated_voc fc8, {name}" for name in ("f", "f1", "f2")]
    assert trained == [*titles, titles[2]] and len(results) == 12
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_done_is_named(folder, tmp_path):
    with pytest.raises(UserError, match="task rotated_voc needs a folder in VOC's layout"):
        RotatedVocClassification()
    subject = subject_of("six_layer", 16, tmp_path)
    with pytest.raises(UserError, match="no layers fc6 and fc7"):
        task_on(folder, protocols=["fc6-8"]).check(subject, None)
