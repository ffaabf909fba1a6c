"""PU weights as one call, for the networks and images that a user has."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

import rfd_tf
from rfd_tf import applications
from rfd_tf.data import ArraySource, image_folder, pu_weights
from rfd_tf.errors import UserError

SIDE = 16
QUICK = {"num_folds": 2, "epochs": 1, "batch_size": 4, "steps_per_epoch": 1, "verbose": 0}
FILTERS = [4, 4, 4, 4, 4, 4]


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)


def network():
    return applications.build("six_layer", SIDE, filters=FILTERS)


def test_a_weights_file_and_a_model_give_the_architecture(pixels, tmp_path):
    record = {
        "format": 1, "backbone": "six_layer", "arguments": {"filters": FILTERS},
        "image_size": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3,
    }  # fmt: skip
    path = applications.save_backbone(network(), tmp_path / "x.weights.h5", record)
    output = tmp_path / "pu.npz"
    found = rfd_tf.estimate_pu_weights(path, pixels, output, **QUICK)
    assert found.upright_probability.shape == (8, 4)
    source = ArraySource(pixels, name="data")
    np.testing.assert_array_equal(pu_weights.read(output, source), found.upright_probability)
    settings = pu_weights.read_description(output)["settings"]
    assert settings["backbone"] == "six_layer" and settings["mean"] == [0.5] * 3
    assert settings["backbone_options"] == {"filters": FILTERS}
    assert not output.with_name("pu.npz.folds").exists()

    again = rfd_tf.estimate_pu_weights(network(), pixels, classifier="binary", **QUICK)
    assert again.upright_probability.shape == (8, 4)


def test_a_run_gives_images_and_augmentation_too(pixels, tmp_path):
    (tmp_path / "images").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    flags = {
        "data_dir": str(tmp_path / "images"), "backbone": "six_layer", "image_size": SIDE,
        "backbone_option": [f"filters={FILTERS}"], "crop": "resized", "crop_area_min": 0.5,
        "train_split": "train",
    }  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"flags": flags}))
    output = tmp_path / "pu.npz"
    rfd_tf.estimate_pu_weights(rfd_tf.Run(tmp_path / "run"), output=output, **QUICK)
    assert pu_weights.read(output, image_folder(tmp_path / "images")).shape == (8, 4)
    augmentation = pu_weights.read_description(output)["settings"]["augmentation"]
    assert augmentation["crop"] == "resized" and augmentation["crop_area"] == [0.5, 1.0]
    other = rfd_tf.estimate_pu_weights(tmp_path / "run", pixels[::-1], **QUICK)
    assert other.upright_probability.shape == (8, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": {"batchsize": 3}}, "unknown setting 'batchsize' .did you mean 'batch_size'"),
        ({"settings": {"padding": 2, "crop": "resized"}}, "padding=2 has no effect with crop"),
        ({"output": "pu.txt"}, "'pu.txt' must end in .npz or .dat"),
        ({"network": 3}, "network of type int"),
        ({"network": "six_layer.rfd_cifar100"}, "did you mean 'six_layer.rfd_cifar10'"),
        ({"network": keras.Sequential, "settings": {"image_size": 32}}, "image_size 32 is not"),
        ({"data": None}, "no images were given"),
    ],
)
def test_what_cannot_be_estimated_is_refused_first(arguments, message, pixels):
    given = {"network": None, "data": pixels, **arguments}
    settings = given.pop("settings", {})
    if given["network"] is keras.Sequential:
        given["network"] = network()
    with pytest.raises(UserError, match=message):
        rfd_tf.estimate_pu_weights(**given, **{"backbone": "six_layer", **QUICK, **settings})
