"""Outside training, methods and monitors are given the images as training has them, unaugmented."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf import applications, data, methods
from rfd_tf.data.decode import evaluation_transform, stretch_transform
from rfd_tf.evaluation import NeighbourMonitor
from rfd_tf.training import pu_estimation
from rfd_tf.training.pretraining import Augmentation, Optimization, Pretraining

SIZE, COUNT = 16, 12
EXPECTED = {"stretch": stretch_transform, "resized": evaluation_transform}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Wide photographs, of which a centre crop shows a third."""
    folder = tmp_path_factory.mktemp("wide")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (20, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i}.png")
    return data.load(data_dir=str(folder))


def wanted(source, crop):
    return EXPECTED[crop](tf.constant(source.images), SIZE).numpy()


def backbone(size=SIZE):
    return applications.build("six_layer", size, filters=(4, 4, 4, 4, 4, 8))


def session(source, build_method, crop):
    return Pretraining(
        build_backbone=backbone,
        build_method=build_method,
        source=source,
        image_size=SIZE,
        optimization=Optimization(epochs=1, batch_size=4, steps_per_epoch=1),
        augmentation=Augmentation(crop=crop),
    )


@pytest.mark.parametrize("crop", EXPECTED)
def test_deepcluster_clusters_what_training_shows_unaugmented(source, crop):
    seen = {}

    class Watched(methods.DeepCluster):
        def begin_epoch(self, epoch, images=None):
            for batch in images():
                seen.update(zip(batch["index"].numpy(), batch["image"].numpy(), strict=True))
            super().begin_epoch(epoch, images)

    run = session(source, lambda b: Watched(b, num_images=COUNT, num_clusters=2), crop)
    run.train()
    np.testing.assert_array_equal([seen[i] for i in range(COUNT)], wanted(source, crop))
    # What fills the bank, is checked for collapse and is drawn is the same.
    for batch in run.dataset(augmented=False).take(2):
        rows = wanted(source, crop)[batch["index"].numpy()]
        np.testing.assert_array_equal(batch["image"].numpy(), rows)


@pytest.mark.parametrize("crop", EXPECTED)
def test_the_monitor_and_pu_estimation_see_the_same(source, crop, monkeypatch):
    augmentation = Augmentation(crop=crop)
    network = applications.build("six_layer", SIZE, pooling="avg")
    monitor = NeighbourMonitor(network, source, source, SIZE, stretch=crop == "stretch")
    np.testing.assert_array_equal(monitor.train[0], wanted(source, crop))
    evaluated = []

    def predict(method, batches):
        evaluated.extend(batch for batch in batches.as_numpy_iterator())
        return original(method, batches)

    original = pu_estimation._predict
    monkeypatch.setattr(pu_estimation, "_predict", predict)
    estimation = pu_estimation.Estimation(
        backbone="six_layer",
        backbone_options={"filters": (4, 4, 4, 4, 4, 8)},
        image_size=SIZE,
        num_folds=2,
        optimization=Optimization(epochs=1, batch_size=4, steps_per_epoch=1),
        augmentation=augmentation,
    )
    pu_estimation.estimate(source, estimation)
    for batch in evaluated:
        np.testing.assert_array_equal(batch["image"], wanted(source, crop)[batch["index"]])
