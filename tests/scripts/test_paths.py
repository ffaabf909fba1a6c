"""Paths of any name, under the home folder, and relative ones after the folder has changed."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from script_driver import run_many

from rfd_tf.data import digits, image_folder, load
from rfd_tf.errors import UserError
from rfd_tf.export import export_backbone
from rfd_tf.training.checkpoint import CheckpointFolder
from rfd_tf.training.run_folder import RunFolder

ODD = "a [b]* ?%41#x 'q' \"r\" ~"


def fill(folder):
    folder.mkdir(parents=True)
    for number, image in enumerate(digits("test").images[:8]):
        Image.fromarray(image).save(folder / f"{number} [x]#%41.png")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with pictures in ODD, while another folder is the current one."""
    home = tmp_path / "home"
    fill(home / ODD)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(home))
    return home


def test_every_command_takes_paths_of_any_name_below_the_home_folder(home, tmp_path):
    place = f"~/{ODD}"
    tiny = ["--backbone=six_layer", "--backbone_option=filters=[4,4,4,4,4,8]", "--image_size=16",
            "--epochs=1", "--batch_size=4", "--method=rotation",
            "--mixed_precision=float32"]  # fmt: skip
    lines = {
        "pretrain": [*tiny, f"--data_dir={place}", f"--output_dir={place}/run",
                     "--export=saved_model,onnx"],
        "export": [f"--weights={place}/run", "--format=saved_model,onnx,keras", "--quantize=int8",
                   f"--calibration_dir={place}", f"--output_dir={place}/exported"],
        "embed": [f"--onnx={place}/exported/model.onnx", f"--data_dir={place}",
                  f"--output_dir={place}/embedded"],
        "report": [f"--run={place}/run", f"--output={place}/report.html"],
    }  # fmt: skip
    # (`run_many` starts in another folder than this test: `~` must not be looked for there.)
    for name, line in lines.items():
        ((code, _, err),) = run_many(name, [line])
        assert code == 0, (name, err)
    for made in ("run/run.json", "exported/card.json", "embedded/embedding.npy", "report.html"):
        assert (home / ODD / made).is_file(), made
    assert not os.path.exists("~")
    recorded = json.loads((home / ODD / "run" / "run.json").read_text())["flags"]
    assert recorded["data_dir"] == str(home / ODD)
    assert len(np.load(home / ODD / "embedded" / "embedding.npy")) == 8


def test_a_home_folder_that_does_not_exist_is_an_error():
    ((code, _, err),) = run_many("embed", [["--data_dir=~no-such-user/x", "--output_dir=out"]])
    assert code == 2 and "no such home folder" in err and "Traceback" not in err
    with pytest.raises(UserError, match="home folder that does not exist"):
        image_folder("~no-such-user/x")


def test_a_name_with_line_breaks_leaves_its_message_on_one_line():
    common = ["--weights=rfd_cifar10", "--output_dir=out"]
    lines = [[*common, "--data_dir=no\nsuch\u2028folder\x1b[1m"], [*common, "--no\nsuch"], ["a\nb"]]
    messages = (
        r"error: no such folder: 'no\nsuch\u2028folder\x1b[1m'; give --data_dir",
        r"error: Unknown command line flag 'no\nsuch'",
        r"error: unexpected argument 'a\nb'",
    )
    for (code, _, err), message in zip(run_many("embed", lines), messages, strict=True):
        assert code == 2 and err.startswith(message) and len(err.splitlines()) == 1, err


def test_the_library_expands_the_home_folder(home):
    source = image_folder(f"~/{ODD}")
    assert source.num_images == 8
    assert load(data_dir=f"~/{ODD}").fingerprint == source.fingerprint
    card = export_backbone("rfd_cifar10", "~/exported", ["onnx"])
    assert (home / "exported" / "model.onnx").is_file() and card["name"] == "exported"
    for folder in (RunFolder("~/run").directory, CheckpointFolder("~/points").directory):
        assert folder.parent == home
    assert not os.path.exists("~")


def test_relative_paths_are_those_of_the_folder_where_they_were_given(home, monkeypatch):
    monkeypatch.chdir(home)
    source = image_folder(ODD, verify="header", cache_bytes=0)
    run = RunFolder("run")
    monkeypatch.chdir(home.parent)
    assert run.path("x") == home / "run" / "x"
    from rfd_tf.data.pipeline import load_images

    assert load_images(source, 16, np.arange(8)).shape == (8, 16, 16, 3)
