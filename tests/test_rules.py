"""Options without effect: refused where the user gave them, dropped where a configuration did."""

import keras
import pytest
from script_driver import forget_flags, parse_flags

from rfd_tf import applications, presets
from rfd_tf.cli import pretrain
from rfd_tf.config import PretrainConfig
from rfd_tf.errors import UserError
from rfd_tf.evaluation import TASKS, suite
from rfd_tf.methods import METHODS
from rfd_tf.settings import settings_of
from rfd_tf.training import pretraining

FOLDER = {"data_dir": "photos", "output_dir": "x"}
DIGITS = {"dataset": "digits", "output_dir": "x"}
TFDS = {"dataset": "cifar10", "output_dir": "x"}
# What the user gives, the option without effect first; what the message names beside it.
MOOT = [
    (dict(learning_rate=0.1, schedule="step", lr_table="rfd_imagenet"), "schedule='step'"),
    (dict(lr_table="rfd_imagenet"), "schedule='cosine'"),
    (dict(warmup_epochs=1.0, schedule="constant"), "schedule='constant'"),
    (dict(decay_rate=0.3), "schedule='cosine'"),
    (dict(decay_epochs=3.0, schedule="constant"), "schedule='constant'"),
    (dict(nesterov=True, optimizer="adam"), "optimizer='adam'"),
    (dict(nesterov=True, momentum=0.0), "momentum=0.0"),
    (dict(undecayed=["gamma"], weight_decay=0.0), "weight_decay=0.0"),
    (dict(padding=4, crop="resized"), "crop='resized'"),
    (dict(crop_area_min=0.3, crop="pad"), "crop='pad'"),
    (dict(fill_bank=True, method="rotation"), "there is no memory bank"),
    (dict(fill_bank=True, lambda_instance=0.0), "lambda_instance=0.0"),
    (dict(pu_weights="pu.npz", lambda_rotation=0.0), "lambda_rotation=0.0"),
    (dict(pu_weights="pu.npz", method="rotation"), "no meaning for method rotation"),
    (dict(pu_gamma=3.0), "without pu_weights"),
    (dict(pu_start_epoch=3), "without pu_weights"),
    (dict(num_negatives=16, instance_loss="softmax"), "instance_loss='softmax'"),
    (dict(normalizer="analytic", instance_loss="softmax"), "instance_loss='softmax'"),
    (dict(negatives="shared", method="instance", instance_loss="softmax"), "'softmax'"),
    (dict(bank_momentum=0.3, lambda_instance=0.0), "lambda_instance=0.0"),
    (
        dict(temperature=0.2, lambda_instance=0.0, lambda_contrast=0.0),
        "lambda_instance=0.0 and with lambda_contrast",
    ),
    (dict(distance="euclidean", lambda_distance=0.0), "lambda_distance=0.0"),
    (dict(split=0.4, decoupled=False), "decoupled=False"),
    (dict(lambda_contrast=1.0, crops=1), "crops=1"),
    (dict(normalizer="running", method="pirl"), "nce_form='ratio'"),
    (dict(grid=2, method="pirl", transform="rotation"), "transform='rotation'"),
    (dict(criterion="min", method="rfd_jigsaw"), "permutations=0"),
    (dict(shear=3.0, method="aet"), "transformation='projective'"),
    (dict(corner_shift=0.1, method="aet", transformation="affine"), "transformation='affine'"),
    (dict(temperature=0.1, method="jigsaw"), "no meaning for method jigsaw"),
    (dict(monitor_images=100, monitor_every=0), "monitor_every=0"),
    (dict(logical_devices=2, strategy="none"), "strategy='none'"),
    (dict(train_split="train[:50%]"), "without dataset"),
    (dict(eval_split="test"), "without dataset"),
    (dict(tfds_classes=["cat"]), "without dataset"),
    (dict(tfds_download=True, **DIGITS), "dataset='digits'"),
    (dict(max_skipped=0.1, **DIGITS), "dataset='digits'"),
    (dict(high_bit_depth="truncate", **DIGITS), "without data_dir"),
    (dict(eval_split="test", eval_dir="x", **TFDS), "eval_dir='x'"),
    (dict(source_crops=100), "without source_images"),
    (dict(source_aspect=2.0, source_scale=False, source_images=["a.jpg"]), "source_scale=False"),
    (
        dict(source_hue=0.1, source_color_probability=0.0, source_images=["a.jpg"]),
        "source_color_probability=0.0",
    ),
]


def complete(settings):
    images = {} if settings.keys() & {"dataset", "source_images"} else FOLDER
    return {**images, **settings}


@pytest.mark.parametrize(("settings", "beside"), MOOT, ids=lambda value: str(value)[:50])
def test_an_option_without_effect_is_refused_and_dropped_from_a_configuration(settings, beside):
    name = next(iter(settings))
    with pytest.raises(UserError) as error:
        PretrainConfig.create(complete(settings)).drop_moot()
    assert name in str(error.value) and beside in str(error.value)
    assert "leave it out" in str(error.value)
    config = PretrainConfig.create(complete(settings), configured=[name])
    config.drop_moot()
    assert name not in config.given and name not in config.method_option
    known = settings_of(PretrainConfig)
    assert name not in known or getattr(config, name) == known[name].default
    assert config.drop_moot() == []


def test_dropped_options_are_listed_once_with_the_reason():
    given = {"lr_table": "rfd_imagenet", "warmup_epochs": 1.0, "schedule": "constant"}
    config = PretrainConfig.create({**FOLDER, **given}, configured=["lr_table", "warmup_epochs"])
    assert config.drop_moot() == [
        "lr_table='rfd_imagenet', with schedule='constant'",
        "warmup_epochs=1.0, with schedule='constant'",
    ]
    given = {"temperature": 0.2, "lambda_contrast": 1.0, "crops": 4, "method": "rotation"}
    config = PretrainConfig.create({**FOLDER, **given}, configured=set(given) - {"method"})
    dropped = ["temperature, lambda_contrast, of other methods than rotation"]
    assert config.drop_moot() == dropped


def test_switching_off_what_has_no_effect_is_allowed():
    off = dict(warmup_epochs=0.0, schedule="step", lr_table="1:0.1", crops=1, lambda_contrast=0.0)
    more = dict(fill_bank=False, lambda_instance=0.0, nesterov=False, optimizer="adam")
    assert PretrainConfig.create({**FOLDER, **off, **more}).drop_moot() == []


def test_the_published_values_that_an_option_makes_moot_are_dropped():
    given = {**FOLDER, "fidelity": True, "schedule": "cosine", "crop": "pad"}
    config = PretrainConfig.create(given)
    config.follow_the_published_program()
    assert config.drop_moot() == [
        "crop_area_min=0.08, with crop='pad'",
        "lr_table='rfd_imagenet', with schedule='cosine'",
    ]
    assert config.lr_table is None and "pu_start_epoch" not in config.method_option


@pytest.mark.parametrize("name", presets.configurations())
def test_installed_configurations_hold_nothing_without_effect(name):
    text = presets.find(name).read_text()
    images = ["--source_images=a.jpg" if "--source_crops" in text else "--data_dir=photos"]
    if "\n--dataset=" in text or "\n--source_images" in text:
        images = []
    parse_flags(f"--config={name}", "--output_dir=x", *images)
    try:
        config = pretrain.config()
        assert config.configured
        if config.fidelity:
            config.follow_the_published_program()
        assert config.drop_moot() == []
    finally:
        forget_flags()


def test_the_command_line_goes_before_flag_files(tmp_path):
    (tmp_path / "own.cfg").write_text("--crop_area_min=0.5\n--learning_rate=0.2\n--nesterov\n")
    common = [f"--flagfile={tmp_path / 'own.cfg'}", "--dataset=digits", "--output_dir=x"]
    table = ["--schedule=step", "--lr_table=1:0.1"]
    for arguments, dropped in (
        ([*common, "--crop=pad"], ["crop_area_min=0.5, with crop='pad'"]),
        ([*common, "--crop=resized", *table], ["learning_rate=0.2, with schedule='step', whose "
                                               "rates stand in lr_table"]),
    ):  # fmt: skip
        parse_flags(*arguments)
        assert pretrain.config().drop_moot() == dropped
    parse_flags(*common, "--crop=pad", "--crop_area_min=0.5")
    with pytest.raises(UserError, match="crop_area_min=0.5 has no effect with crop='pad'"):
        pretrain.config().drop_moot()
    parse_flags(*common, "--crop=resized", *table, "--learning_rate=0.2")
    with pytest.raises(UserError, match="learning_rate=0.2 has no effect with schedule='step'"):
        pretrain.config().drop_moot()
    forget_flags()


def test_constructors_refuse_options_without_effect():
    backbone = applications.build("six_layer", image_size=32)
    for method, options, message in (
        ("rfd", {"instance_loss": "softmax", "num_negatives": 5}, "instance_loss='softmax'"),
        ("rfd", {"pu_start_epoch": 5}, "pu_start_epoch=5 has no effect without pu_weights"),
        ("rfd", {"decoupled": False, "split": 0.4}, "split=0.4 has no effect with decoupled=False"),
        ("aet", {"shear": 5.0}, "shear=5.0 has no effect with transformation='projective'"),
        ("rotation", {"fill_bank": True}, "there is no memory bank; leave it out$"),
    ):
        images = {} if method in ("aet", "rotation") else {"num_images": 20}
        with pytest.raises(UserError, match=message):
            METHODS[method](backbone, **images, **options)
    # A default that is written out asks for nothing.
    METHODS["aet"](backbone, shear=30.0)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("knn", {"temperature": 0.1, "distances": ["euclidean"]}, "distances with 'cosine'"),
        ("lowshot", {"learning_rate": 0.1, "modes": ["frozen"]}, "modes with 'fine-tuned'"),
        ("lowshot", {"probe_size": 2, "modes": ["fine-tuned"]}, "modes with 'frozen'"),
        ("invariance", {"reference_title": "other"}, "without reference_weights"),
        ("invariance", {"jigsaw_grid": 2, "transformations": ["rotation"]}, "with 'jigsaw'"),
        ("voc_classification", {"costs": [1.0], "protocols": ["fc8"]}, "protocols with 'svm'"),
        ("rotated_voc", {"epochs": 3, "protocols": []}, "'fc8' or 'fc6-8' or 'all layers'"),
        ("linear", {"probe_size": 2, "protocol": "rfd_imagenet"}, "probe_size 2 has no effect"),
        ("nonlinear", {"hidden": 9, "protocol": "aet_cifar10_linear"}, "hidden 9 has no effect"),
    ],
)
def test_tasks_refuse_options_without_effect(task, options, message):
    with pytest.raises(UserError, match=message):
        TASKS[task](**options)


def test_an_option_of_one_entry_of_a_suite_is_not_refused_by_another():
    entry = suite.Entry("frozen", "lowshot", {"modes": ["frozen"], "per_class": [1]})
    task = suite._task(entry, {"lowshot": {"learning_rate": 0.5, "probe_size": 2}})
    assert task.probe_size == 2


def test_momentum_of_batch_normalisation_needs_some():
    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)], name="plain")
    with pytest.raises(UserError, match="on backbone 'plain', which has no batch normalisation"):
        pretraining.set_batch_norm_momentum(network, 0.9)
