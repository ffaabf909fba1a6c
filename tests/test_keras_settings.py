"""Keras' settings of a machine or a user, which the commands must not follow blindly."""

import json
import os
import subprocess
import sys

import keras
import pytest
from script_driver import SCRIPTS

from rfd_tf import applications, keras_settings
from rfd_tf.errors import UserError
from rfd_tf.methods import RotationPrediction


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("KERAS_BACKEND", *keras_settings._LIMITS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path


DEFAULTS = {
    "floatx": "float32", "epsilon": 1e-07, "backend": "tensorflow",
    "image_data_format": "channels_last",
}  # fmt: skip


@pytest.mark.parametrize("settings", [None, {}, DEFAULTS, {"nnx_enabled": False}, "no JSON"])
def test_usual_settings_pass(home, settings):
    if settings is not None:
        text = settings if isinstance(settings, str) else json.dumps(settings)
        (home / "keras.json").write_text(text)
    keras_settings.check_environment()


@pytest.mark.parametrize(
    ("name", "value"),
    [("backend", "jax"), ("backend", "torch"), ("floatx", "float16"), ("floatx", "float64"),
     ("image_data_format", "channels_first"), ("epsilon", 1e-3), ("epsilon", 1)],
)  # fmt: skip
def test_other_settings_are_named_with_file_and_value(home, name, value):
    (home / "keras.json").write_text(json.dumps({**DEFAULTS, name: value}))
    with pytest.raises(UserError) as error:
        keras_settings.check_environment()
    message = str(error.value)
    assert f"'{home / 'keras.json'}' sets {name} to {value!r}" in message and "\n" not in message


def test_the_variable_goes_before_the_file(home, monkeypatch):
    (home / "keras.json").write_text(json.dumps({"backend": "jax"}))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    keras_settings.check_environment()
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(UserError, match="KERAS_BACKEND=torch"):
        keras_settings.check_environment()


def test_limits_and_unreadable_files_are_named(home, monkeypatch):
    (home / "keras.json").write_text("[1]")
    with pytest.raises(UserError, match="keras.json' hold no names"):
        keras_settings.check_environment()
    (home / "keras.json").unlink()
    (home / "keras.json").mkdir()
    with pytest.raises(UserError, match="keras.json' cannot be read: Is a directory"):
        keras_settings.check_environment()
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "1")
    with pytest.raises(UserError, match="KERAS_MAX_EPOCHS=1 cuts every training short"):
        keras_settings.check_environment()


def test_the_file_is_the_one_that_keras_reads(home, monkeypatch):
    assert keras_settings.config_path() == str(home / "keras.json")
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(home))
    assert keras_settings.config_path() == str(home / ".keras" / "keras.json")


@pytest.mark.parametrize("script", ["pretrain", "evaluate", "export"])
def test_a_command_stops_with_one_line_before_anything_else(home, script):
    """No JAX is needed for that, and no flag."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{script}.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    assert done.returncode == 2 and done.stderr.startswith("error: KERAS_BACKEND=jax, and")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("image_data_format", "channels_first"), ("floatx", "float16"), ("floatx", "bfloat16")],
)
def test_networks_and_methods_are_refused_under_other_settings(name, value):
    network = applications.build("six_layer", 16)
    change = getattr(keras.config, f"set_{name}")
    before = getattr(keras.config, name)()
    change(value)
    try:
        for build in (
            lambda: applications.build("six_layer", 16),
            lambda: applications.build("mobilenet_v2", 32),
            lambda: RotationPrediction(network),
        ):
            with pytest.raises(UserError, match=f"Keras has {name} .{value}., .*set_{name}"):
                build()
    finally:
        change(before)
