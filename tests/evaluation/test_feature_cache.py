import numpy as np
import pytest

from rfd_tf import applications, data
from rfd_tf.errors import UserError
from rfd_tf.evaluation import KNearestNeighbours, LinearProbes, frozen, runner
from rfd_tf.evaluation.base import Data, Settings, Subject
from rfd_tf.evaluation.feature_cache import FeatureCache, RowFile


@pytest.fixture
def weights(tmp_path):
    record = {"format": 1, "backbone": "six_layer", "arguments": {}, "image_size": 16}
    network = applications.build("six_layer", 16)
    return applications.save_backbone(network, tmp_path / "six.weights.h5", record)


def test_scores_from_disk_are_those_from_memory(weights, tmp_path, monkeypatch):
    tasks = [KNearestNeighbours(k=5), LinearProbes(epochs=2)]
    digits = data.digits(), data.digits("test")
    options = {"endpoints": ["block3"], "max_train_images": 200}
    expected = runner.evaluate(weights, tasks, *digits, **options)
    options |= {"output": tmp_path / "out", "cache_features": True}
    assert runner.evaluate(weights, tasks, *digits, **options)["results"] == expected["results"]
    files = sorted((tmp_path / "out" / "features").rglob("*.npy"))
    # Three sets of images (train, test, test rotated), two networks, block3 twice, pooled twice.
    assert len(files) == 3 * 2 * 4

    def never(*_, **__):
        raise AssertionError("the images were gone through again")

    monkeypatch.setattr(frozen.FeatureExtractor, "__call__", never)
    assert runner.evaluate(weights, tasks, *digits, **options)["results"] == expected["results"]


def test_another_network_has_a_cache_of_its_own(weights, tmp_path):
    subject = Subject.pretrained(weights)
    images = Data(data.digits("test"), None, 16)
    settings = Settings(output=tmp_path, cache_features=True, endpoints=["block3"])
    task = KNearestNeighbours(k=5)
    mine = list(frozen.evaluate([task], subject, images, settings))
    random = list(frozen.evaluate([task], subject.random_twin(5), images, settings))
    assert [r.value for _, r in mine] != [r.value for _, r in random]


def test_rows_become_wider_where_half_precision_does_not_do(tmp_path):
    rows = RowFile(tmp_path / "x.npy", 5)
    parts = [np.full((2, 3), 0.5, np.float16), np.full((2, 3), 1e6, np.float32)]
    rows.append(parts[0])
    rows.append(parts[1])
    assert not (tmp_path / "x.npy").exists()
    found = rows.close()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.concatenate(parts))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="features cannot be kept in"):
        FeatureCache(tmp_path / "file", {}).rows("f", 3)
    with pytest.raises(UserError, match="output folder"):
        runner.evaluate(tmp_path, [], cache_features=True)
