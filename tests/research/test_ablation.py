"""The ablations train, evaluate and tabulate variants in one process, and repeat nothing."""

import csv
import dataclasses
import gc
import json

import numpy as np
import pytest
import tensorflow as tf
from script_driver import run_many

import rfd_tf
from research import ablation
from rfd_tf import data, estimation
from rfd_tf.config import PretrainConfig
from rfd_tf.data import pu_weights
from rfd_tf.errors import UserError
from rfd_tf.pretrainer import Pretrainer

SMALL = {
    "dataset": "digits",
    "backbone": "six_layer",
    "backbone_option": {"filters": [4, 4, 4, 4, 4, 8]},
    "image_size": 16,
    "batch_size": 50,
    "steps_per_epoch": 2,
    "num_negatives": 8,
    "epochs": 1,
    "monitor_every": 0,
    "tensorboard": False,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two variants: the first cannot write its folder; and how many methods stay in memory."""
    output = tmp_path_factory.mktemp("ablations")
    (output / "coupled").write_text("in the way")
    before = live_methods()
    with pytest.raises(UserError) as failed:
        ablation.ablate(SMALL, output, ["coupled", "instance"], tasks=["knn"])
    return output, str(failed.value), live_methods() - before


def live_methods():
    gc.collect()
    return sum(isinstance(each, rfd_tf.methods.Method) for each in gc.get_objects())


def test_a_variant_becomes_a_row_beside_random_init(small):
    output = small[0]
    flags = json.loads((output / "instance" / "run.json").read_text())["flags"]
    assert flags["method"] == "instance" and flags["evaluate"] == []
    with open(output / "ablations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["random_init", "instance"]
    report = json.loads((output / "instance" / "evaluation.json").read_text())
    by_name = {(r["name"], r["images"]): r for r in report["results"]}
    found = by_name["block6", "rotated"]
    assert float(rows[1]["knn block6 rotated"]) == round(100 * found["value"], 2)
    assert float(rows[0]["knn block6 rotated"]) == round(100 * found["random_init"], 2)
    text = (output / "ablations.md").read_text()
    assert text.startswith("| | random init | instance only, upright views |")
    assert "| losses |  | instance |" in text and "| feature |  | block6 |" in text
    assert (
        f"| knn block6 rotated | {100 * found['random_init']:.1f} | {100 * found['value']:.1f}"
        in text
    )


def test_a_variant_that_fails_is_named_and_the_others_go_on(small):
    output, message, left = small
    assert message.startswith("1 of the runs failed") and "coupled" in message
    assert (output / "instance" / "evaluation.json").exists()
    assert left == 0  # what a variant held in memory is freed


def test_a_variant_trains_the_weights_of_a_run_of_its_own(small, tmp_path):
    settings = ablation.plan(SMALL, ["instance"])[0].settings
    alone = rfd_tf.pretrain(**settings, output_dir=tmp_path / "alone", verbose=0)
    beside = rfd_tf.Run.open(small[0] / "instance")
    for one, other in zip(
        alone.backbone().get_weights(), beside.backbone().get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_finished_runs_are_reused_only_where_the_settings_agree(small, monkeypatch):
    output = small[0]
    monkeypatch.setattr(rfd_tf, "pretrain", lambda **_: pytest.fail("it trained again"))
    assert "instance" in ablation.ablate(SMALL, output, ["instance"], tasks=["knn"])
    changed = {**SMALL, "learning_rate": 0.1}
    with pytest.raises(UserError, match="learning_rate was None and is now 0.1.*overwrite"):
        ablation.ablate(changed, output, ["instance"], tasks=["knn"])
    (output / "settings.json").unlink()
    with pytest.raises(UserError, match="settings are not in settings.json"):
        ablation.ablate(SMALL, output, ["instance"], tasks=["knn"])


def test_scores_of_several_seeds_become_mean_and_spread(tmp_path):
    row = ablation.mean_row("full", "full", [{"a": 50.0}, {"a": 53.0}, {"a": 56.0}])
    assert row["a"] == 53.0 and row["a spread"] == 3.0 and row["runs"] == 3
    random = ablation.mean_row("random_init", "random init", [{"a": 10.0}])
    table = ablation.write_tables([random, row], tmp_path)
    assert table.splitlines()[-1] == "| a | 10.0 | 53.0 ± 3.0 |"


def session_of(settings):
    config = PretrainConfig.create({**settings, "output_dir": "x"})
    config.check()
    return Pretrainer(config).build(config.images().train(), tf.distribute.get_strategy())


def test_each_row_builds_what_its_name_says(tmp_path):
    weights = tmp_path / "pu.npz"
    settings = {
        "dataset": "digits", "backbone": "six_layer", "image_size": 16, "crops": 4, "epochs": 14,
        "backbone_option": {"filters": [4, 4, 4, 6, 8, 10]}, "lambda_contrast": 0.5,
        "lambda_instance": 0.25, "instance_loss": "softmax", "decoupled": False,
        "pu_weights": str(weights),
    }  # fmt: skip
    rows = {
        row.name: row.settings
        for row in ablation.plan(settings, split_endpoints=["block2"], pu_weights=str(weights))
    }
    source = data.digits()
    probability = np.full((source.num_images, 4), 0.5, "float32")
    pu_weights.write(weights, probability, source, classifier="softmax", settings={})
    rotation, instance = {"rotation_loss": 1.0}, {"instance_loss": 0.25, "contrast_loss": 0.5}
    every = {**rotation, "distance_loss": 1.0, **instance}
    # Losses, endpoint, dimensions of f1 and f2 (None: one feature), crops, PU weights from epoch.
    expected = {
        "rotation": (rotation, "block6", None, 4, None),
        "f1": (rotation, "block6", (5, 5), 4, None),
        "instance": ({"instance_loss": 1.0}, "block6", None, 1, None),
        "f2": (instance, "block6", (5, 5), 4, None),
        "coupled": ({**rotation, **instance}, "block6", None, 4, None),
        "decoupled": (every, "block6", (5, 5), 4, None),
        "full_conv5": (every, "block4", (3, 3), 4, 12),
        "full_fc6": (every, "block5", (4, 4), 4, 12),
        "full_block2": (every, "block2", (2, 2), 4, 12),
        "full": (every, "block6", (5, 5), 4, 12),
    }
    assert set(rows) == set(expected)
    for name, (losses, endpoint, split, crops, start) in expected.items():
        session = session_of(rows[name])
        method = session.method
        assert method.loss_weights == losses, name
        assert method.feature_endpoint == endpoint, name
        assert (method.split if getattr(method, "decoupled", False) else None) == split, name
        assert session.augmentation.crops == crops, name
        weighted = getattr(method, "upright_probability", None) is not None
        assert (method.pu_start_epoch if weighted else None) == start, name
        assert views_seen(method, next(iter(session.dataset()))) == (
            1 if name == "instance" else 4
        ), name


def views_seen(method, batch):
    """Returns how many images the network sees for each image of a batch."""
    seen, original = [], method.features

    def features(images, training=False):
        seen.append(images.shape[0])
        return original(images, training=training)

    method.features = features
    method(batch)
    return sum(seen) / batch["index"].shape[0]


SETTINGS = {
    "digits": {
        "dataset": "digits", "train_split": "test", "mean": [0.1, 0.2, 0.3],
        "std": [0.3, 0.2, 0.1], "crop": "resized", "crop_area_min": 0.5, "horizontal_flip": False,
        "color_jitter": 0.2, "hue": 0.1, "grayscale": 0.3, "crops": 4, "batch_norm_momentum": 0.8,
    },
    "photographs": {
        "source_images": ["sklearn:china.jpg"], "source_crops": 60, "source_seed": 3,
        "source_shear": 0.0, "crop": "pad", "padding": 1, "horizontal_flip": False,
        "dataset": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", SETTINGS)
def test_pu_weights_are_estimated_as_the_run_is_trained(kind):
    settings = {**SMALL, **SETTINGS[kind], "batch_size": 20}
    settings = {name: value for name, value in settings.items() if value is not None}
    session = session_of(ablation.plan(settings, ["decoupled"])[0].settings)
    config = ablation.pu_config(settings, epochs=3)
    found = estimation.estimation(config, 200, num_folds=2).settings()
    assert found["augmentation"] == json.loads(json.dumps(dataclasses.asdict(session.augmentation)))
    assert (tuple(found["mean"]), tuple(found["std"])) == (session.method.mean, session.method.std)
    assert found["backbone_options"] == SMALL["backbone_option"]
    assert found["optimization"]["batch_size"] == 20 and found["optimization"]["epochs"] == 3
    assert found["image_size"] == 16 and found["num_folds"] == 2
    assert found["batch_norm_momentum"] == (0.8 if kind == "digits" else None)


def test_pu_weights_are_estimated_where_none_are_given(tmp_path):
    settings = {**SMALL, "steps_per_epoch": 1, "epochs": 2}
    ablation.ablate(
        settings, tmp_path, ["full"], tasks=["knn"], seeds=[3], pu_epochs=1, pu_folds=2,
        options={"max_train_images": 100},
    )  # fmt: skip
    flags = json.loads((tmp_path / "full_seed3" / "run.json").read_text())["flags"]
    assert flags["pu_weights"] == str(tmp_path / "pu_weights.npz") and flags["seed"] == 3
    assert flags["pu_start_epoch"] == 1
    report = json.loads((tmp_path / "full_seed3" / "evaluation.json").read_text())
    assert report["data"]["num_train"] == 100
    asked = json.loads((tmp_path / "settings.json").read_text())["full_seed3"]
    assert asked["evaluate"] == {"tasks": ["knn"], "max_train_images": 100, "seed": 3}


def test_the_command_takes_the_flags_of_pretrain(tmp_path):
    other = tmp_path / "other.cfg"
    other.write_text("--method=pirl\n--backbone=six_layer\n")
    wrong = tmp_path / "wrong.cfg"
    wrong.write_text("--crop=sideways\n")
    binary = tmp_path / "binary.cfg"
    binary.write_bytes(b"\xff\xfe\x00")
    output = f"--output_dir={tmp_path}/out"
    lines = {
        "the flagfile": [f"--config={binary}"],
        "those of the method rfd, not of 'pirl'": [f"--config={other}"],
        "unknown endpoint 'conv5'": ["--backbone=six_layer", "--split_endpoints=conv5"],
        "sideways": [f"--config={wrong}"],
        "unknown variant 'jigsaw'": ["--variants=jigsaw"],
        "not 'x'": ["--seeds=0,x"],
        "unknown option of task linear 'epoch'": ["--evaluate_option=linear.epoch=3"],
        "unknown option of the evaluation": ["--evaluate_option=probes=3"],
        "unknown task 'knm'": ["--task=knm"],
    }
    prelude = """
from research import ablation
def planned(settings, output, *arguments, **options):
    print("ASKED", settings, options["options"], flush=True)
    return real(settings, output, *arguments, **options)
real, ablation.ablate = ablation.ablate, planned
"""
    asked = ["--config=digits", "--epochs=7", "--variants=jigsaw"]
    asked += ["--evaluate_option=max_train_images=25", "--evaluate_option=linear.epochs=6"]
    *found, (_, out, _) = run_many(
        "ablate", [*([*line, output] for line in lines.values()), [*asked, output]], prelude
    )
    for message, (code, _, error) in zip(lines, found, strict=True):
        assert code == 2 and message in error and error.count("\n") == 1, (message, error)
    assert "'epochs': 7" in out and "'dataset': 'digits'" in out and "'batch_size': 50" in out
    assert "{'max_train_images': 25, 'linear.epochs': 6}" in out
    assert not (tmp_path / "out").exists()
