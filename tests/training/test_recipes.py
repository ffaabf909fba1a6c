"""What is chosen for the settings that a user leaves open."""

from types import SimpleNamespace

import pytest
from built_sessions import build, recorded
from script_driver import forget_flags, parse_flags

from rfd_tf import methods, recipes
from rfd_tf.config import CHOSEN, PretrainConfig
from rfd_tf.layers.batch_norm import batch_normalizations


def chosen(num_images=50_000, **given):
    config = PretrainConfig.create({"backbone": "six_layer", **given})
    config.choose(num_images)
    return config


def test_defaults_of_rfd_are_those_that_the_experiments_found():
    config = chosen()
    assert (config.crop, config.crop_area_min, config.crops) == ("resized", 0.5, 4)
    assert (config.color_jitter, config.hue, config.grayscale) == (0.4, 0.0, 0.2)
    assert (config.batch_size, config.learning_rate, config.schedule) == (64, 0.1, "cosine")
    assert (config.epochs, config.warmup_epochs, config.weight_decay) == (15, 1.5, 5e-4)
    assert config.method_option == {
        "temperature": 0.2, "projection_hidden": 128, "projection_dimensions": 64,
        "instance_loss": "softmax", "lambda_contrast": 1.0, "lambda_instance": 0.1,
        "lambda_rotation": 3.0,
    }  # fmt: skip
    assert config.given == {"backbone"}


@pytest.mark.parametrize("method", methods.METHODS)
@pytest.mark.parametrize("image_size", [32, 128])
def test_every_recommended_name_is_a_setting_or_an_option_of_the_method(method, image_size):
    found = recipes.recommended(method, image_size=image_size, num_images=5_000)
    settings = set(vars(PretrainConfig())) | set(methods.arguments(method))
    assert set(found) <= settings
    assert found["batch_size"] and found["epochs"] and found["learning_rate"] > 0


def test_what_is_given_stays_and_what_depends_on_it_follows():
    assert chosen(batch_size=256).learning_rate == pytest.approx(0.4)
    assert chosen(optimizer="adam").learning_rate == pytest.approx(0.002)
    assert chosen(epochs=200).warmup_epochs == 10
    one = chosen(crops=1).method_option
    assert "lambda_contrast" not in one and one["lambda_instance"] == 0.3
    assert chosen(lambda_contrast=0).method_option["lambda_instance"] == 0.3
    # Its weight belongs to that of the contrast.
    assert "lambda_rotation" not in {**one, **chosen(lambda_contrast=0.3).method_option}
    assert chosen(padding=4).crop == "pad"
    rotation = dict(lambda_instance=0, lambda_distance=0, lambda_contrast=0)
    assert chosen(**rotation).method_option == rotation
    assert chosen(num_negatives=8).method_option["instance_loss"] == "nce"
    assert chosen(2_000_000).method_option["instance_loss"] == "nce"
    assert chosen(method="rotation", rotations=[0, 180]).crops == 2
    assert chosen(method="rotation", shuffle_rotations=True).crops == 1
    assert "grid" not in chosen(method="jigsaw", permutations=100).method_option
    assert chosen(source_images=["sklearn:china.jpg"]).crop == "pad"
    assert chosen(image_size=128).crop_area_min < chosen(image_size=64).crop_area_min
    assert chosen(image_size=128, preset="small_images").crop_area_min == 0.5


def test_small_sets_keep_several_steps_an_epoch():
    sizes = [chosen(count, epochs=1_000).batch_size for count in (20, 64, 100, 256)]
    assert sizes == [8, 16, 16, 64]


def test_short_trainings_take_smaller_batches_for_more_steps():
    # 3,000 steps of 16 images, or as many as 64 views in a batch allow.
    assert [chosen(3_409, epochs=count).batch_size for count in (15, 30, 60)] == [16, 32, 64]
    assert chosen(3_409, epochs=1).batch_size == 16
    assert chosen(3_409, epochs=15).learning_rate == pytest.approx(0.025)
    assert chosen(3_409, epochs=15, method="instance").batch_size == 64
    assert chosen(3_409, epochs=15, method="rotation").batch_size == 16
    assert chosen(3_409, epochs=15, batch_size=64).batch_size == 64


def test_the_paper_and_the_published_program_are_left_as_they_are():
    config = chosen(preset="paper")
    assert (config.crop, config.batch_size, config.epochs) == ("pad", 128, 100)
    assert config.method_option == {}
    config = PretrainConfig.create({"fidelity": True, "backbone": "six_layer"})
    config.follow_the_published_program()
    before = dict(config.method_option)
    config.choose(50_000)
    assert config.method_option == before and before["temperature"] == 0.07
    assert (config.crop, config.crops, config.color_jitter) == ("resized", 1, 0.0)


@pytest.mark.parametrize(
    ("flags", "momentum"),
    [
        ([], 0.968),
        (["--batch_norm_momentum=0.999"], 0.999),
        (["--preset=paper"], 0.99),  # the network's own
        (["--steps_per_epoch=50"], 0.9),
    ],
)
def test_moving_statistics_settle_within_an_epoch(flags, momentum):
    try:
        parse_flags("--backbone=mobilenet", "--backbone_option=alpha=0.25", "--image_size=32",
                    "--epochs=1", "--batch_size=64", "--output_dir=x", *flags)  # fmt: skip
        config, session = build(SimpleNamespace(num_images=20_000, name="images"))
    finally:
        forget_flags()
    found = {layer.momentum for layer in batch_normalizations(session.method.backbone)}
    assert found == {momentum}
    assert recorded(config, session)["batch_norm_momentum"] == momentum


def test_what_may_be_left_open_is_what_is_chosen():
    assert {name for name in CHOSEN if getattr(PretrainConfig(), name) is not None} == set()
    config = chosen(preset="paper")
    assert None not in [getattr(config, name) for name in CHOSEN]
