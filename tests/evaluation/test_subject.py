import keras
import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import Subject
from rfd_tf.evaluation.heads import load_heads


def test_networks_are_fresh_and_always_the_same(rfd_subject, rfd_method):
    one, other = rfd_subject.network(), rfd_subject.network()
    assert one is not other
    for a, b in zip(one.weights, rfd_method.backbone.weights, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))
    one.layers[1].kernel.assign(one.layers[1].kernel * 0)
    assert np.array(other.layers[1].kernel).any()
    twin = rfd_subject.random_twin(3)
    first, second = (np.array(twin.network().weights[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - np.array(other.weights[0])).max() > 0.01
    assert np.abs(first - np.array(rfd_subject.random_twin(4).network().weights[0])).max() > 0.01
    assert (twin.folder, twin.title, twin.sha256) == (None, "random init", rfd_subject.sha256)


def test_the_embedding_is_the_projection_of_f2(rfd_subject, rfd_run):
    model = rfd_subject.network()
    tensors = rfd_subject.feature_tensors(model, embedding=True)
    assert list(tensors)[-1] == "embedding"
    x = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")
    f2, embedding = keras.Model(model.inputs, [tensors["f2"], tensors["embedding"]])(x)
    kernel, bias = load_heads(rfd_run)["projection"]
    np.testing.assert_allclose(embedding, np.array(f2) @ kernel + bias, rtol=1e-4, atol=1e-5)
    assert "embedding" not in rfd_subject.feature_tensors(model)
    twin = rfd_subject.random_twin(0)
    random = twin.feature_tensors(twin.network(), embedding=True)
    assert random["embedding"].shape == tensors["embedding"].shape
    assert np.abs(twin.heads["projection"][0] - kernel).max() > 0.01


def test_a_weights_file_alone_has_no_embedding(rfd_run, tmp_path):
    path = tmp_path / "alone.weights.h5"
    path.write_bytes((rfd_run / "backbone.weights.h5").read_bytes())
    subject = Subject.pretrained(path)
    assert subject.folder is None and subject.heads == {}
    assert "embedding" not in subject.feature_tensors(subject.network(), embedding=True)
    # The file in its run folder is as good as the folder.
    assert Subject.pretrained(rfd_run / "backbone.weights.h5").folder == rfd_run


def test_an_undivided_feature_is_projected_whole(rfd_run, rfd_subject):
    subject = Subject.pretrained(rfd_run)
    subject.record = {**subject.record, "feature": {"endpoint": "block5", "pooling": "avg"}}
    width = subject.network().get_layer("block5").output.shape[-1]
    subject.heads = {"projection": (np.ones((width, 2), "float32"), np.zeros(2, "float32"))}
    model = subject.network()
    tensors = subject.feature_tensors(model, embedding=True)
    pooled = applications.pooled_feature_model(model, "block5")
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    found = keras.Model(model.inputs, tensors["embedding"])(x)
    np.testing.assert_allclose(found[:, 0], np.array(pooled(x)).sum(axis=1), rtol=1e-4)
    subject.heads = {"projection": (np.ones((7, 2), "float32"), np.zeros(2, "float32"))}
    with pytest.raises(UserError, match="takes 7 numbers, the feature has"):
        subject.feature_tensors(model, embedding=True)
