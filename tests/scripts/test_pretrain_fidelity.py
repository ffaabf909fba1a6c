"""scripts/pretrain.py trains what it records: --fidelity, and the flags of every method."""

import json
import math

import numpy as np
import pytest
from absl import flags
from built_sessions import build
from built_sessions import recorded as recorded_of
from script_driver import forget_flags, parse_flags

from rfd_tf import data, methods
from rfd_tf.cli import pretrain
from rfd_tf.errors import UserError
from rfd_tf.layers.batch_norm import batch_normalizations
from rfd_tf.pretrainer import Pretrainer

TINY = [
    "--dataset=digits",
    "--backbone=six_layer",
    "--backbone_option=filters=[4,4,4,8,8,16]",
    "--image_size=16",
    "--batch_size=8",
    "--epochs=1",
    "--steps_per_epoch=1",
    "--monitor_every=0",
    "--health_every=0",
    "--notensorboard",
    "--mixed_precision=float32",
]


@pytest.fixture(autouse=True)
def fresh_flags():
    yield
    forget_flags()


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the script's main() in this process; returns the session it built and its run.json."""
    built = []
    make = Pretrainer.build
    monkeypatch.setattr(
        Pretrainer, "build", lambda *a, **k: built.append(make(*a, **k)) or built[-1]
    )

    def go(*arguments):
        parse_flags(f"--output_dir={tmp_path}/run", *arguments)
        pretrain.main()
        return built[-1], json.loads((tmp_path / "run" / "run.json").read_text())

    return go


def test_fidelity_builds_the_published_method(run, capsys):
    session, written = run(*TINY, "--fidelity")
    method, recorded = session.method, written["flags"]
    assert method.recognition.shared_negatives is False and recorded["negatives"] == "per_image"
    assert method.recognition.num_negatives == recorded["num_negatives"] == 4096
    assert method.recognition.exclude_positive is recorded["exclude_positive"] is False
    assert method.normalizing_constant.mode == recorded["normalizer"] == "first_batch"
    assert method.memory_bank.initialization == recorded["bank_initialization"] == "uniform"
    assert recorded["pu_start_epoch"] is recorded["pu_gamma"] is None  # no PU weights
    assert recorded["fill_bank"] is False and recorded["crop"] == "resized"
    assert session.augmentation.crop == "resized"
    schedule = written["built"]["optimizer"]["learning_rate"]["config"]
    np.testing.assert_allclose(schedule["values"], [1e-2, 1e-3, 1e-4, 1e-5, 1e-4, 1e-5])
    assert schedule["boundaries"][:3] == [89, 129, 189]
    assert recorded["learning_rate"] is None and recorded["lr_table"] == "rfd_imagenet"
    for layer in batch_normalizations(method.backbone):
        assert (layer.momentum, layer.epsilon) == (0.9, 1e-5) and layer.unbiased_moving_variance
    assert written["built"]["batch_normalization"] == [
        {"momentum": 0.9, "epsilon": 1e-5, "unbiased_moving_variance": True}
    ]
    # PyTorch's initial biases; one step of rate 0.01 hardly moves them.
    assert 0 < np.abs(method.rotation_head.bias.numpy()).max() < 1.1 / math.sqrt(8)
    said = capsys.readouterr().out
    assert "like the published RFD program, except --epochs=1 --batch_size=8\n" in said


def test_without_fidelity_the_record_has_what_the_method_chose(run):
    paper = ["--preset=paper", "--schedule=constant", "--learning_rate=0.01"]
    session, written = run(*TINY, *paper)
    method, recorded = session.method, written["flags"]
    assert method.recognition.num_negatives == recorded["num_negatives"] == 750
    assert recorded["negatives"] == "shared" and method.recognition.shared_negatives
    assert recorded["padding"] == 2 and recorded["image_size"] == 16  # an eighth of the side
    assert recorded["feature_endpoint"] == "block6" and recorded["steps_per_epoch"] == 1
    assert recorded["mean"] == list(method.mean) and recorded["batch_norm_momentum"] == 0.9
    for unused in (
        "source_crops",
        "lr_table",
        "warmup_epochs",
        "decay_rate",
        "crop_area_min",
        "pu_gamma",
    ):
        assert recorded[unused] is None, unused


def test_what_was_chosen_is_reported_in_one_line_and_recorded(run, capsys):
    _, written = run(*TINY, "--color_jitter=0")
    (line,) = (one for one in capsys.readouterr().out.splitlines() if one.startswith("chosen "))
    start, _, listed = line.partition(": ")
    assert start == "chosen (preset small_images, 1,500 images)"
    chosen = dict(item.split("=") for item in listed.split())
    assert chosen["crop"] == written["flags"]["crop"] == "resized"
    assert chosen["instance_loss"] == written["flags"]["instance_loss"] == "softmax"
    assert "color_jitter" not in chosen and written["flags"]["color_jitter"] == 0
    assert "batch_size" not in chosen  # given


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_flags_of_a_method_are_recorded_as_it_was_built(name):
    """Flag by flag: what was chosen or the constructor's default; None for other methods'."""
    teacher = ["--teacher=six_layer.rfd_cifar10"] if name == "distillation" else []
    parse_flags(*TINY, f"--method={name}", *teacher)
    config, session = build(data.digits())
    recorded = recorded_of(config, session)
    own = {**methods.arguments(name), **config.method_option}
    used = session.method.options()
    for flag in set(methods.all_arguments()) & set(flags.FLAGS) - {"pu_weights"}:
        if flag not in own:
            assert recorded[flag] is None, flag
        elif used[flag] is not None and own[flag] is not None:
            assert recorded[flag] == own[flag], flag
    # Typing what is recorded builds the same.
    typed = [f"--method_option={option}" for option in recorded["method_option"]]
    for flag in set(own) & set(flags.FLAGS) - {"pu_weights"}:
        if recorded[flag] is not None:
            typed.append(f"--{flag}={recorded[flag]}")
    parse_flags(*TINY, f"--method={name}", *typed)
    _, again = build(data.digits())
    assert json.dumps(again.settings()) == json.dumps(session.settings())


def test_flags_without_effect_are_refused_or_left_out(run, capsys, tmp_path):
    with pytest.raises(UserError, match="crop_area_min=0.3 has no effect with crop='pad'"):
        run(*TINY, "--crop=pad", "--crop_area_min=0.3")
    assert not list(tmp_path.iterdir())
    (tmp_path / "own.cfg").write_text("--crop_area_min=0.3\n--learning_rate=0.5\n")
    _, written = run(
        f"--flagfile={tmp_path / 'own.cfg'}",
        *TINY,
        "--crop=pad",
        "--schedule=step",
        "--lr_table=1:0.01",
    )
    assert (
        "ignored, no effect here: crop_area_min=0.3, with crop='pad'; learning_rate=0.5, "
        "with schedule='step', whose rates stand in lr_table\n" in capsys.readouterr().out
    )
    assert written["flags"]["learning_rate"] is written["flags"]["crop_area_min"] is None


@pytest.mark.parametrize("method", sorted(set(methods.METHODS) - {"rfd"}))
def test_fidelity_of_another_method_is_refused(method, tmp_path):
    teacher = ["--teacher=six_layer.rfd_cifar10"] if method == "distillation" else []
    given = ["--dataset=digits", "--fidelity", f"--method={method}", *teacher]
    parse_flags(*given, f"--output_dir={tmp_path}/run")
    with pytest.raises(UserError, match=f"program of method rfd, and the method is {method}"):
        pretrain.main()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--pu_start_epoch=1"], ["--fidelity"]])
def test_pu_weights_that_would_never_count_are_refused(run, tmp_path, arguments):
    from rfd_tf.data import pu_weights

    digits = data.digits()
    values = np.full((digits.num_images, 4), 0.5, "float32")
    pu_weights.write(tmp_path / "pu.npz", values, digits, classifier="softmax")
    with pytest.raises(UserError, match=r"never count: pu_start_epoch \d+ is not below epochs 1"):
        run(*TINY, f"--pu_weights={tmp_path}/pu.npz", *arguments)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_warm_up_as_long_as_the_training_is_shortened(run, capsys):
    with pytest.warns(UserWarning, match="warm-up of 1 epochs is shortened to 0.5, half of epochs"):
        session, written = run(*TINY, "--warmup_epochs=1", "--steps_per_epoch=4")
    assert written["flags"]["warmup_epochs"] == 0.5
    assert written["built"]["optimizer"]["learning_rate"]["config"]["warmup_steps"] == 2
