"""The program rfd-tf and its flags: help, configurations, images by one name."""

import doctest
import json
import subprocess
import sys

import pytest
from PIL import Image
from script_driver import ROOT, SCRIPTS, run_many, run_script

from rfd_tf import cli, presets, system
from rfd_tf.cli import data_flags, info

SETTLED = """
def main():
    script.data_flags.resolve()
    names = ("data", "data_dir", "dataset", "eval_dir", "epochs", "method_option", "config")
    print(json.dumps([script.FLAGS[name].value for name in names]))
script.main = main
"""


def test_examples_of_the_program_hold():
    assert doctest.testmod(cli, optionflags=doctest.ELLIPSIS).failed == 0


def test_the_library_never_imports_its_commands():
    for path in (ROOT / "rfd_tf").rglob("*.py"):
        if path.parent.name != "cli" and path.name != "__main__.py":
            text = path.read_text(encoding="utf-8")
            assert "rfd_tf.cli" not in text and "rfd_tf import cli" not in text, path


def test_every_command_but_info_is_a_script_too():
    for name, module in cli.COMMANDS.items():
        script = SCRIPTS / f"{module.rpartition('.')[2]}.py"
        assert script.exists() == (name != "info")


def test_help_shows_what_a_command_does_and_its_own_flags():
    for done in (
        run_script("pretrain", "--help"),
        subprocess.run(
            [sys.executable, "-m", "rfd_tf", "pretrain", "--help"],
            capture_output=True, text=True, cwd=ROOT,
        ),
    ):  # fmt: skip
        assert done.returncode == 0 and done.stderr == ""
        assert done.stdout.startswith("Pretrains a backbone on unlabelled images.\n")
        assert "--crop: <pad|resized|window|stretch|none>: How images" in done.stdout
        assert "--epochs: Passes over the images. Chosen if not given, see --preset." in done.stdout
        assert "--verbosity" not in done.stdout
    assert "--[no]verbosity" not in run_script("pretrain", "--helpshort").stdout
    assert "--verbosity" in run_script("pretrain", "--helpfull").stdout


def settled(*lines):
    """The values of flags, or the error, after each command line of pretrain."""
    found = []
    for code, out, error in run_many("pretrain", lines, SETTLED):
        found.append(json.loads(out) if code == 0 else error)
    return found


def test_flags_win_over_the_configuration_wherever_they_stand(tmp_path):
    config = tmp_path / "x.cfg"
    config.write_text(
        "--dataset=digits\n--train_split=all\n--epochs=7\n--eval_dir=test\n"
        "--method_option=a=1\n--nohorizontal_flip\n"
    )
    (tmp_path / "config.cfg").write_text("--config=digits\n")
    (tmp_path / "images").mkdir()
    plain, before, after, images, data, folder, nested = settled(
        [f"--config={config}"],
        ["--epochs=3", f"--config={config}"],
        ["--config", config, "--epochs", "3", "--method_option=a=2"],
        [f"--config={config}", "--data_dir=photos"],
        ["--data=cifar10", f"--config={config}"],
        [f"--config={config}", f"--data={tmp_path}/images", f"--val_data={tmp_path}/images"],
        [f"--config={tmp_path}/config.cfg"],
    )
    assert plain == [None, None, "digits", "test", 7, ["a=1"], None]
    assert before == [None, None, "digits", "test", 3, ["a=1"], None]
    assert after == [None, None, "digits", "test", 3, ["a=1", "a=2"], None]
    # Images that are given replace all that names the configuration's.
    assert images == [None, "photos", None, None, 7, ["a=1"], None]
    assert data == [None, None, "cifar10", None, 7, ["a=1"], None]
    assert folder[1:4] == [f"{tmp_path}/images", None, f"{tmp_path}/images"]
    assert "names another configuration" in nested


def test_data_is_a_folder_or_the_name_of_a_dataset(tmp_path):
    (tmp_path / "digits").mkdir()
    named, folder, missing, same, two, other = settled(
        ["--data=digits"],
        [f"--data={tmp_path}/digits"],
        ["--data=./missing"],
        ["--data=digits", "--val_data=digits"],
        ["--data=digits", "--data_dir=x"],
        ["--data=digits", "--val_data=cifar10"],
    )
    assert named[1:3] == same[1:3] == [None, "digits"] and same[3] is None
    assert folder[1:3] == [f"{tmp_path}/digits", None] and missing[1:3] == ["./missing", None]
    assert "--data='digits' and --data_dir='x' both name the images" in two
    assert "--val_data='cifar10' is neither a folder nor the dataset" in other


def test_data_is_several_folders_or_a_list(tmp_path):
    for name in ("a", "b,c"):
        (tmp_path / name).mkdir()
    (tmp_path / "l.csv").touch()
    two, comma, listed, remote, both = settled(
        [f"--data={tmp_path}/a,{tmp_path}/b,c", f"--val_data={tmp_path}/a,{tmp_path}/b,c"],
        [f"--data={tmp_path}/b,c"],
        [f"--data={tmp_path}/l.csv", "--val_data=test.txt"],
        ["--data=gone.jsonl", "--config=quickstart"],
        ["--data=x.csv", "--data_dir=y"],
    )
    assert two[1:4] == [f"{tmp_path}/a,{tmp_path}/b,c", None, f"{tmp_path}/a,{tmp_path}/b,c"]
    assert comma[1] == f"{tmp_path}/b,c"
    assert listed[1:4] == [f"{tmp_path}/l.csv", None, "test.txt"]
    assert remote[1:3] == ["gone.jsonl", None]
    assert "--data='x.csv' and --data_dir='y' both name the images" in both


def test_a_flag_replaces_only_the_images_of_a_configuration():
    kept = [
        name
        for name in ("dataset", "source_crops", "eval_dir", "epochs", "tfds_dir")
        if not data_flags.replaced(name, {"source_images"})
    ]
    assert kept == ["source_crops", "epochs", "tfds_dir"]
    assert data_flags.replaced("eval_dir", {"val_data"})
    assert not data_flags.replaced("dataset", {"epochs"})


def test_estimate_pu_and_ablate_take_an_installed_configuration(tmp_path):
    report = """
def run(source, how, *arguments, **options):
    print(source.name, how.backbone, how.image_size)
    return type("Found", (), {"upright_probability": None, "unread": ()})
script.estimation.run = run
"""
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (40, 40)).save(images / "one.png")
    rest = [f"--output={tmp_path}/x.npz", "--backbone=resnet18"]
    named, folder, wrong = run_many(
        "estimate_pu",
        [
            ["--config=digits", *rest],
            ["--config=digits", f"--data={images}", *rest],
            ["--config=quikstart", *rest],
        ],
        report,
    )
    assert named[0] == 0 and named[1].endswith("digits/train resnet18 32\n"), named
    assert folder[0] == 0 and folder[1].endswith("images resnet18 32\n"), folder
    assert wrong[0] == 2 and "nor an installed configuration" in wrong[2]
    prelude = """
def main():
    print(script.pretrain.given())
script.main = main
"""
    ((code, out, _),) = run_many("ablate", [["--config=digits", "--data_dir=x"]], prelude)
    assert code == 0 and "'batch_size': 50" in out and "'dataset'" not in out


def test_a_file_comes_before_the_name_of_a_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert presets.find("quickstart") == ROOT / "configs" / "quickstart.cfg"
    (tmp_path / "quickstart").write_text("--epochs=1\n")
    assert presets.find("quickstart").resolve() == tmp_path / "quickstart"
    for wrong in ("configs", "x" * 5000, "a\0b", ""):
        with pytest.raises(ValueError, match="neither a file nor an installed configuration"):
            presets.find(wrong)


@pytest.mark.parametrize(
    ("state", "reason", "remedy"),
    [
        ({"visible": ""}, "CUDA_VISIBLE_DEVICES='' hides it", "unset"),
        ({"visible": "-1"}, "hides it", "unset"),
        ({"with_cuda": False}, "built for processors only", "tensorflow[and-cuda]==2.21.0"),
        ({"driver_error": "no libcuda"}, "no libcuda", "driver"),
        ({"missing": ["libcudnn.so.9"]}, "libcudnn.so.9", "tensorflow[and-cuda]==2.21.0"),
        ({}, "own log", "TF_CPP_MIN_LOG_LEVEL=0"),
    ],
)
def test_why_a_gpu_is_unseen(state, reason, remedy):
    usual = {"with_cuda": True, "visible": None, "driver_error": None, "missing": []}
    found = system.why_gpu_unseen(**{**usual, **state}, version="2.21.0")
    assert reason in found[0] and remedy in found[1]


def test_gpus_that_the_driver_lists_are_reported_as_unseen(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA T4 (UUID: GPU-1)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert system.nvidia_gpus() == ["NVIDIA T4"]
    monkeypatch.setattr(system, "_DEVICES", tmp_path / "dev")
    program.write_text("#!/bin/sh\nexit 9\n")
    monkeypatch.setattr(system, "_DRIVER", tmp_path / "driver")
    assert system.nvidia_gpus() == []
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert system.nvidia_gpus() == ["NVIDIA GPU"] * 2
    folder = tmp_path / "driver" / "gpus" / "0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Model: \t NVIDIA L4\nIRQ: 1\n")
    assert system.nvidia_gpus() == ["NVIDIA L4"]


def test_info_lists_gpus_and_what_auto_means_on_them():
    names = ["/physical_device:CPU:0", "/physical_device:GPU:0"]
    new = {"device_name": "NVIDIA H200", "compute_capability": (9, 0)}
    lines = list(info.devices(names, [new], [], ("", "")))
    assert lines[1] == ("device", "GPU:0, NVIDIA H200, compute capability 9.0") and len(lines) == 2
    assert list(info.devices(names[:1], [], [], ("", "")))[1][0] == "GPU"
    unseen = dict(info.devices(names[:1], [], ["NVIDIA T4"], ("no driver", "install it")))
    assert "T4" in unseen["unseen GPU"] and "no driver" in unseen["unseen GPU"]
    found = [dict(info.training(gpus)) for gpus in ([new], [new, new], [])]
    assert ["does not compile" in each["XLA"] for each in found] == [False, True, True]
    assert found[0]["precision"].endswith("bfloat16")
    old = dict(info.training([{"compute_capability": (7, 5)}]))
    assert old["precision"].endswith("float32") and "does not" not in old["XLA"]


def test_info_says_what_to_do_about_an_unseen_gpu_and_refused_settings(tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: NVIDIA T4 (UUID: GPU-1)'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    prelude = f"""
import os
os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_ENABLE_ONEDNN_OPTS="0")
os.environ["PATH"] = {str(tmp_path)!r} + ":" + os.environ["PATH"]
run = common.run
common.run = lambda main: run(main, check_keras=False)
os.environ["KERAS_BACKEND"] = "jax"
"""
    # (TensorFlow reads these variables as it is imported.)
    ((code, out, error),) = run_many("info", [[]], prelude, python=sys.executable)
    assert code == 0, error
    assert "NVIDIA T4: TensorFlow does not see it, because CUDA_VISIBLE_DEVICES='-1'" in out
    assert "to use it: unset CUDA_VISIBLE_DEVICES" in out
    assert "backend jax" in out and "commands refuse these settings: KERAS_BACKEND=jax" in out
    assert "off (TF_ENABLE_ONEDNN_OPTS=0): TF_ENABLE_ONEDNN_OPTS=1 in the environment" in out
    assert "--mixed_precision=auto trains in" in out and "CPU:0" in out
    assert "--jit_compile=auto does not compile training steps" in out
