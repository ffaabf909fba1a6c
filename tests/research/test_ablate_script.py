"""scripts/ablate.py trains, evaluates and tabulates a variant, and repeats nothing."""

import csv
import dataclasses
import json
import subprocess

import numpy as np
import pytest
import warm_python
from built_sessions import build
from script_driver import ROOT, forget_flags, parse_flags, run_many, run_script

from rfd_tf import data
from rfd_tf.cli import pretrain
from rfd_tf.data import pu_weights


def test_a_variant_becomes_a_row_beside_random_init(tmp_path):
    config = tmp_path / "small.cfg"
    config.write_text(
        "--dataset=digits\n--backbone=six_layer\n--backbone_option=filters=[4,4,4,4,4,8]\n"
        "--image_size=16\n--batch_size=250\n--monitor_every=0\n--evaluate=knn\n"
    )
    arguments = [
        f"--config={config}",
        "--variants=instance",
        "--epochs=1",
        "--task=knn",
        f"--output_dir={tmp_path}/out",
    ]
    done = run_script("ablate", *arguments)
    assert done.returncode == 0, done.stderr
    flags = json.loads((tmp_path / "out" / "instance" / "run.json").read_text())["flags"]
    assert flags["method"] == "instance"
    assert flags["evaluate"] == []  # the config's own evaluation is left to evaluate.py
    with open(tmp_path / "out" / "ablations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["random_init", "instance"]
    report = json.loads((tmp_path / "out" / "instance" / "evaluation.json").read_text())
    by_name = {(r["name"], r["images"]): r for r in report["results"]}
    found = by_name["block6", "rotated"]
    assert float(rows[1]["knn block6 rotated"]) == round(100 * found["value"], 2)
    assert float(rows[0]["knn block6 rotated"]) == round(100 * found["random_init"], 2)
    text = (tmp_path / "out" / "ablations.md").read_text()
    assert text.startswith("| | random init | instance only, upright views |")
    assert "| losses |  | instance |" in text and "| feature |  | block6 |" in text
    assert (
        f"| knn block6 rotated | {100 * found['random_init']:.1f} | {100 * found['value']:.1f}"
        in text
    )
    again = run_script("ablate", *arguments)
    assert again.returncode == 0 and "$ python" not in again.stdout


def test_an_unknown_variant_is_named(tmp_path):
    done = run_script("ablate", "--variants=jigsaw", f"--output_dir={tmp_path}/out")
    assert done.returncode == 2 and "unknown variant 'jigsaw'" in done.stderr


def test_figures_of_several_seeds_become_mean_and_spread(tmp_path):
    # (In a process of its own: two scripts' flags cannot live together.)
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import pathlib
from research.commands import ablate
row = ablate.row("full", "full", [{{"a": 50.0}}, {{"a": 53.0}}, {{"a": 56.0}}])
assert row["a"] == 53.0 and row["a spread"] == 3.0 and row["runs"] == 3
random = ablate.row("random_init", "random init", [{{"a": 10.0}}])
print(ablate.write_tables([random, row], pathlib.Path({str(tmp_path)!r})))
"""
    done = subprocess.run(
        [*warm_python.command(), "-c", code], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "| a | 10.0 | 53.0 ± 3.0 |"


def test_seeds_are_numbers(tmp_path):
    done = run_script("ablate", "--seeds=0,x", f"--output_dir={tmp_path}/out")
    assert done.returncode == 2 and "not 'x'" in done.stderr


#: Replaces what ablate.py runs by a report of it.
REPORT = """
def report():
    shared = script.shared_arguments()
    script.image_flags.adopt(script.image_flags.settings(shared))
    rows = script.plan(shared, script.FLAGS.pu_weights)
    script.run = lambda name, *arguments: print("ESTIMATE" + json.dumps(arguments))
    script.estimate_pu_weights(script.Path(script.FLAGS.output_dir))
    print("ROWS" + json.dumps({name: arguments for name, _, _, arguments in rows}))
script.main = report
"""


def planned(*arguments):
    """Returns each row's arguments of pretrain.py, and those of estimate_pu.py."""
    ((code, out, error),) = run_many("ablate", [arguments], REPORT)
    assert code == 0, error
    found = {line[:4]: line for line in out.splitlines()}
    return json.loads(found["ROWS"][4:]), json.loads(found["ESTI"][8:])


@pytest.fixture
def session_of(tmp_path):
    def of_arguments(arguments):
        # As the script gives them.
        (tmp_path / "row.cfg").write_text("\n".join(arguments))
        parse_flags(f"--flagfile={tmp_path / 'row.cfg'}", "--output_dir=x")
        source = pretrain.image_flags.load_source()
        return build(source)[1]

    yield of_arguments
    forget_flags()


def test_each_row_builds_what_its_name_says(tmp_path, session_of):
    weights = tmp_path / "pu.npz"
    config = tmp_path / "small.cfg"
    config.write_text(
        "--dataset=digits\n--backbone=six_layer\n--backbone_option=filters=[4,4,4,6,8,10]\n"
        "--image_size=16\n--crops=4\n--lambda_contrast=0.5\n--lambda_instance=0.25\n"
        f"--instance_loss=softmax\n--nodecoupled\n--epochs=14\n--pu_weights={weights}\n"
    )
    rows, _ = planned(
        f"--config={config}",
        "--split_endpoints=block2",
        f"--pu_weights={weights}",
        f"--output_dir={tmp_path}/out",
    )
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
    "digits": "--dataset=digits\n--train_split=test\n--mean=0.1,0.2,0.3\n--std=0.3,0.2,0.1\n"
    "--crop=resized\n--crop_area_min=0.5\n--nohorizontal_flip\n--color_jitter=0.2\n--hue=0.1\n"
    "--grayscale=0.3\n--crops=4\n--batch_norm_momentum=0.8\n",
    "photographs": "--source_images=sklearn:china.jpg\n--source_crops=60\n--source_seed=3\n"
    "--source_shear=0\n--crop=pad\n--padding=1\n--horizontal_flip=false\n",
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_pu_weights_are_estimated_as_the_run_is_trained(tmp_path, kind, session_of):
    config = tmp_path / "small.cfg"
    config.write_text(
        f"{SETTINGS[kind]}--method=rfd\n--backbone=six_layer\n--image_size=16\n--epochs=1\n"
        "--backbone_option=filters=[4,4,4,4,4,8]\n--batch_size=20\n--instance_loss=softmax\n"
    )
    rows, estimate = planned(f"--config={config}", "--pu_weights=x", f"--output_dir={tmp_path}/pu")
    training = [
        f"--flagfile={config}",
        "--steps_per_epoch=1",
        "--monitor_every=0",
        "--tensorboard=false",
        f"--output_dir={tmp_path}/run",
    ]
    ((code, _, error),) = run_many("pretrain", [training])
    assert code == 0, error
    ways = {"ablate": [one for one in estimate if not one.startswith("--output=")]}
    if kind == "digits":
        ways["run"] = [f"--config={tmp_path}/run"]
    else:
        ways["config"] = [f"--config={config}"]
    small = ["--folds=2", "--epochs=1", "--steps_per_epoch=1"]
    lines = [[*way, *small, f"--output={tmp_path}/{name}.npz"] for name, way in ways.items()]
    wrong = [[f"--config={tmp_path}/none", f"--output={tmp_path}/no.npz"]]
    *done, (code, _, error) = run_many("estimate_pu", [*lines, *wrong])
    assert code == 2 and "neither a flag file of scripts/pretrain.py nor" in error
    session = session_of(rows["full"][:-2])
    for name, (code, _, error) in zip(ways, done, strict=True):
        assert code == 0, (name, error)
        path = tmp_path / f"{name}.npz"
        pu_weights.read(path, session.source)  # refuses weights of other images
        settings = pu_weights.read_description(path)["settings"]
        augmentation = json.loads(json.dumps(dataclasses.asdict(session.augmentation)))
        assert settings["augmentation"] == augmentation, name
        assert (tuple(settings["mean"]), tuple(settings["std"])) == (
            session.method.mean,
            session.method.std,
        )
        assert settings["backbone_options"] == {"filters": [4, 4, 4, 4, 4, 8]}
        assert settings["optimization"]["batch_size"] == 20 and settings["image_size"] == 16
        assert settings["batch_norm_momentum"] == (0.8 if kind == "digits" else None)


def test_what_cannot_be_ablated_is_named(tmp_path):
    config = tmp_path / "other.cfg"
    config.write_text("--method=pirl\n--backbone=six_layer\n")
    wrong = tmp_path / "wrong.cfg"
    wrong.write_text("--crop=sideways\n")
    binary = tmp_path / "binary.cfg"
    binary.write_bytes(b"\xff\xfe\x00")
    output = f"--output_dir={tmp_path}/out"
    lines = {
        "the flag file cannot be read": [f"--config={binary}"],
        "those of the method rfd, not of 'pirl'": [f"--config={config}"],
        "unknown endpoint 'conv5'": ["--backbone=six_layer", "--split_endpoints=conv5"],
        "sideways": [f"--config={wrong}"],
    }
    found = run_many("ablate", [[*line, output] for line in lines.values()])
    for message, (code, _, error) in zip(lines, found, strict=True):
        assert code == 2 and message in error and error.count("\n") == 1, (message, error)
    assert not (tmp_path / "out").exists()
