import json

import keras
import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import Subject
from rfd_tf.evaluation.heads import load_heads, save_heads
from rfd_tf.methods import METHODS, RotationFeatureDecoupling


def method(**options):
    backbone = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 12))
    common = {"num_negatives": 6, "projection_dimensions": 8}
    common = common if options.get("lambda_instance", 1.0) else {}
    return RotationFeatureDecoupling(backbone, 40, split=1 / 3, **common, **options)


def write(made, folder, epoch=2):
    record = {"format": 1, "backbone": "six_layer", "arguments": {"filters": [4, 4, 4, 4, 4, 12]}}
    record = {**record, "epoch": epoch, **made.record()}
    applications.save_backbone(made.backbone, folder / "backbone.weights.h5", record)
    (folder / "run.json").write_text(json.dumps({"flags": {}}))
    save_heads(folder, made.heads(), epoch)


def test_heads_give_what_the_method_gives(tmp_path):
    made = method()
    write(made, tmp_path)
    heads = load_heads(tmp_path)
    assert {name: kernel.shape for name, (kernel, _) in heads.items()} == {
        "rotation_head": (4, 4),
        "projection": (8, 8),
    }
    f = np.random.default_rng(0).random((5, 12), np.float32)
    kernel, bias = heads["rotation_head"]
    np.testing.assert_allclose(f[:, :4] @ kernel + bias, made.rotation_head(f[:, :4]), rtol=1e-4)
    kernel, bias = heads["projection"]
    embedding = f[:, 4:] @ kernel + bias
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    np.testing.assert_allclose(embedding, made.embed(f[:, 4:]), rtol=1e-4, atol=1e-6)

    subject = Subject.pretrained(tmp_path)
    np.testing.assert_array_equal(subject.heads["projection"][0], kernel)
    # Other weights in the folder were not trained with these heads.
    other = applications.save_backbone(made.backbone, tmp_path / "other.weights.h5", subject.record)
    assert Subject.pretrained(other).heads == {}
    random = subject.random_twin(0).heads
    assert random["projection"][0].shape == (8, 8) and (random["projection"][0] != kernel).any()


def test_only_heads_that_are_trained_are_kept(tmp_path):
    assert set(method(lambda_rotation=0.0).heads()) == {"projection"}
    write(method(lambda_instance=0.0), tmp_path)
    assert set(load_heads(tmp_path)) == {"rotation_head"}


def test_nothing_but_the_file_is_left(tmp_path):
    write(method(), tmp_path)
    save_heads(tmp_path, method().heads(), 2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "backbone.weights.h5",
        "heads.npz",
        "run.json",
    }


def test_heads_that_do_not_belong_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no heads.npz; resume the run"):
        load_heads(tmp_path)
    made = method()
    write(made, tmp_path)
    save_heads(tmp_path, made.heads(), epoch=1)
    with pytest.raises(UserError, match="is of epoch 1, the weights beside it of epoch 2"):
        load_heads(tmp_path)
    whole = (tmp_path / "heads.npz").read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"no archive"):
        (tmp_path / "heads.npz").write_bytes(broken)
        with pytest.raises(UserError, match="is damaged"):
            load_heads(tmp_path)
    np.savez(tmp_path / "heads.npz", epoch=2.0, **{"projection/kernel": np.zeros((8, 8))})
    with pytest.raises(UserError, match="is damaged"):
        load_heads(tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        save_heads(tmp_path / "nowhere", made.heads(), 2)


def test_a_head_without_bias_has_one_of_zeros(tmp_path):
    layer = keras.layers.Dense(3, use_bias=False)
    layer.build((None, 5))
    save_heads(tmp_path, {"projection": layer}, epoch=0)
    kernel, bias = load_heads(tmp_path)["projection"]
    np.testing.assert_array_equal(kernel, layer.kernel)
    np.testing.assert_array_equal(bias, np.zeros(3))


@pytest.mark.parametrize("name", ["rfd", "instance", "pirl", "rfd_jigsaw"])
@pytest.mark.parametrize("hidden", [0, 6])
def test_an_embedding_of_a_run_is_the_one_that_was_trained(name, hidden, tmp_path):
    backbone = applications.build("six_layer", 18, filters=[4, 4, 4, 4, 4, 8])
    made = METHODS[name](backbone, 20, projection_dimensions=5, projection_hidden=hidden)
    record = {
        "format": 1,
        "backbone": "six_layer",
        "arguments": {"filters": [4, 4, 4, 4, 4, 8]},
        **made.record(),
    }
    applications.save_backbone(backbone, tmp_path / "backbone.weights.h5", record)
    (tmp_path / "run.json").write_text("{}")
    save_heads(tmp_path, made.heads(), 1)
    subject = Subject.pretrained(tmp_path)
    network = subject.network()
    embed = keras.Model(
        network.inputs, subject.feature_tensors(network, embedding=True)["embedding"]
    )
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, 18, 18, 3)).astype("float32")
    features = made.features(pixels)
    trained = made.embed(features[:, 4:]) if name.startswith("rfd") else made.projection(features)
    found = np.array(embed(pixels))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, trained, rtol=1e-4, atol=1e-5)
