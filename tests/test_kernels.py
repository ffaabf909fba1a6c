"""TensorFlow's oneDNN kernels: who turns them on, and when it is too late."""

import os
import platform
import subprocess
import sys

import pytest

from rfd_tf import kernels, system
from rfd_tf.training import strategy

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="not an x86-64 processor"
)


def run(code, **variables):
    """Runs code in a process of its own; returns the two things it prints and its warnings."""
    environment = {**os.environ, **variables}
    if not variables:
        environment.pop(kernels.VARIABLE, None)
    show = "import os; print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'), 'tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; {show}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split(), done.stderr


def test_importing_the_package_turns_them_on_and_starts_nothing():
    assert run("import rfd_tf") == (["1", "False"], "")


def test_the_users_own_setting_wins():
    assert run("import rfd_tf", TF_ENABLE_ONEDNN_OPTS="0") == (["0", "False"], "")


def test_a_late_import_warns_once_where_they_are_off():
    code = (
        "import os; os.environ['TF_ENABLE_ONEDNN_OPTS'] = '0'; import tensorflow; "
        "from tensorflow.python.util import _pywrap_util_port as port; port.IsMklEnabled(); "
        "del os.environ['TF_ENABLE_ONEDNN_OPTS']; import rfd_tf; from rfd_tf import errors"
    )
    printed, warned = run(code)
    assert printed == ["None", "True"]
    assert warned.count("TensorFlow was imported before rfd_tf, without its oneDNN kernels") == 1


@pytest.mark.skipif(sys.platform == "darwin", reason="TensorFlow for macOS has no oneDNN kernels")
def test_tensorflow_follows():
    code = "import rfd_tf; from rfd_tf import kernels; import tensorflow; print(kernels.is_on())"
    assert run(code)[0][0] == "True"


@pytest.mark.parametrize(
    ("flags", "vendor", "kernels_on", "policy"),
    [
        ({"avx512_bf16"}, "AuthenticAMD", True, "mixed_bfloat16"),
        ({"avx512_bf16"}, "AuthenticAMD", False, "float32"),
        # Measured: training in bfloat16 takes 1.4 to 2.4 times as long as in float32.
        ({"avx512_bf16"}, "GenuineIntel", True, "float32"),
        ({"avx512_bf16", "amx_bf16"}, "GenuineIntel", True, "mixed_bfloat16"),
        ({"avx2"}, "AuthenticAMD", True, "float32"),
    ],
)
def test_a_processor_trains_in_bfloat16_where_that_is_faster(
    monkeypatch, flags, vendor, kernels_on, policy
):
    monkeypatch.setattr(strategy.tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(system, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(system, "cpu_vendor", lambda: vendor)
    monkeypatch.setattr(kernels, "is_on", lambda: kernels_on)
    assert strategy.precision_policy("auto") == policy
