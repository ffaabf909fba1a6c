"""A call of the warm interpreter behaves as one of the interpreter itself."""

import os
import signal
import subprocess
import sys
import time

import pytest
import warm_python

SCRIPT = """
import os, sys
print(__name__, os.path.basename(__file__), sys.argv[1:], sys.path[0], os.getcwd())
print(os.environ.get("CUDA_VISIBLE_DEVICES"), sys.stdin.read(), file=sys.stderr)
"""
CALLS = {
    "a script": ["{folder}/script.py", "--a=1", "b"],
    "code": ["-c", "import sys; print(__name__, sys.argv, sys.path[0], sys.stdin.read())", "x"],
    "a module": ["-m", "script", "y"],
    "an exit code": ["-c", "raise SystemExit(3)"],
    "a message": ["-c", "import sys; sys.exit('in short')"],
    "work at the end": ["-c", "import atexit; atexit.register(print, 'bye'); print('hello')"],
    "a thread": ["-c", "import threading; threading.Timer(0.1, print, ['late']).start()"],
    "a signal": ["-c", "import os; os.kill(os.getpid(), 9)"],
    "options": ["-W", "error", "-c", "import warnings; warnings.warn('x')"],
    "an error": ["-c", "1 / 0"],
}
warm = pytest.mark.skipif(not warm_python.FORKS, reason="forks on Linux only")


def run(program, arguments, **options):
    return subprocess.run([*program, *arguments], capture_output=True, text=True, **options)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_does_what_the_interpreter_does(tmp_path, call):
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = [argument.format(folder=tmp_path) for argument in CALLS[call]]
    options = {
        "input": "given", "cwd": tmp_path, "env": {**os.environ, "CUDA_VISIBLE_DEVICES": "7"}
    }  # fmt: skip
    found, wanted = (
        run(program, arguments, **options) for program in (warm_python.command(), [sys.executable])
    )
    assert (found.returncode, found.stdout) == (wanted.returncode, wanted.stdout)
    # (A traceback begins with the frames of `warm_python`.)
    assert found.stderr.splitlines()[-1:] == wanted.stderr.splitlines()[-1:]


@warm
def test_tensorflow_is_imported_unless_the_environment_matters_to_it():
    listed = ["-c", "import sys; print('tensorflow' in sys.modules, 'rfd_tf' in sys.modules)"]
    assert run(warm_python.command(), listed).stdout == "True False\n"
    other = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    assert run(warm_python.command(), listed, env=other).stdout == "False False\n"


@warm
def test_random_numbers_differ_from_call_to_call():
    draw = "import random, keras, numpy as np; print(random.random(), np.random.rand(), "
    draw += "float(keras.random.uniform([])))"
    first, second = (run(warm_python.command(), ["-c", draw]).stdout.split() for _ in range(2))
    assert len({*first, *second}) == 6


def test_signals_and_time_limits_reach_the_process():
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    with subprocess.Popen(
        [*warm_python.command(), "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    with pytest.raises(subprocess.TimeoutExpired) as error:
        run(warm_python.command(), ["-c", code], timeout=2)
    deadline = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(int(error.value.stdout), 0)
            time.sleep(0.05)
