"""Classification of pictures that show several classes, in VOC's layout."""

import numpy as np
import pytest
from PIL import Image

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation import Settings, Subject
from rfd_tf.evaluation.average_precision import ALL_POINT, ELEVEN_POINT
from rfd_tf.evaluation.voc_classification import VocClassification, _loss

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


def test_every_protocol_tells_the_classes(folder, subject):
    task = VocClassification(
        folder,
        "trainval",
        "test",
        epochs=12,
        learning_rate=0.05,
        batch_size=10,
        test_crops=3,
        costs=(1.0, 10.0),
    )
    task.check(subject, None)
    results = list(task.run(subject, None, Settings(endpoints=["block6"])))
    by_name = {(r.feature, r.metric): r.value for r in results}
    assert {name for name, _ in by_name} >= {"svm, block6", "fc8", "all layers"}
    assert not any(name == "fc6-8" for name, _ in by_name)
    for metric in (ELEVEN_POINT, ALL_POINT):
        # Chance is about the share of positives, a half.
        assert by_name["svm, block6", metric] > 0.75
        assert by_name["all layers", metric] > 0.75
    assert task.protocol(None)["classes"][7] == "cat"


def test_the_loss_leaves_out_what_does_not_count():
    logits = np.array([[2.0, -1.0, 5.0]], np.float32)
    targets = np.array([[1.0, 0.0, -1.0]], np.float32)
    expected = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0))
    np.testing.assert_allclose(np.asarray(_loss(targets, logits)), [expected], rtol=1e-5)


def test_what_cannot_be_done_is_told(folder, subject):
    with pytest.raises(UserError, match="--voc_dir"):
        VocClassification()
    with pytest.raises(UserError, match="options: svm, fc8, fc6-8, all layers"):
        VocClassification(folder, "trainval", "test", protocols=["fc7"])
    with pytest.raises(UserError, match="no layers fc6 and fc7"):
        VocClassification(folder, "trainval", "test", protocols=["fc6-8"]).check(subject, None)
    with pytest.raises(UserError, match="costs are numbers above 0"):
        VocClassification(folder, "trainval", "test", costs=[0.0])
