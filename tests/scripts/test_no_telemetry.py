"""Exporting, embedding and exploring ask for no other machine and keep nothing at home."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_driver import ROOT, SCRIPTS

SHIPPED = ROOT / "exported" / "six_layer_rfd_cifar10"
# Caches of packages: matplotlib's list of fonts, Keras' defaults.
CACHES = {".cache/matplotlib", ".config/matplotlib", ".keras"}
RUN_A_MODEL = f"""
import onnxruntime, time
onnxruntime.InferenceSession({str(SHIPPED / "model.onnx")!r})
"""
# Python's side of the network; onnxruntime's own goes through the proxy that the tests set.
RECORD = """
import sys
LOCAL = ("127.0.0.1", "::1", "localhost")
def record(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        place = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        host = place[0] if isinstance(place, tuple) else place
        if host not in LOCAL:
            print("ASKED", event, place, file=sys.stderr, flush=True)
sys.addaudithook(record)
"""
# Each command in a process of its own, of which one has imported what takes longest to import.
COMMANDS = """
import json, os, runpy, sys
import rfd_tf, tensorflow, keras
*others, command = json.loads(sys.argv[1])
for other in others:
    child = os.fork()
    if not child:
        command = other
        break
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{other[0]} failed")
sys.argv = command
runpy.run_path(command[0], run_name="__main__")
"""


@pytest.fixture
def proxy():
    """A proxy that refuses everyone and remembers who called: `(address, callers)`."""
    server, callers = socket.create_server(("127.0.0.1", 0)), []

    def listen():
        while True:
            try:
                caller, _ = server.accept()
            except OSError:
                return
            caller.settimeout(5)
            try:
                callers.append(caller.recv(200))
            except OSError as error:
                callers.append(error)
            caller.close()

    threading.Thread(target=listen, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", callers
    server.close()


@pytest.fixture
def environment(tmp_path, proxy):
    """Of a user whose home is empty and who set none of the variables that matter."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(RECORD)
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    names = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    return {
        **kept, **dict.fromkeys(names, proxy[0]), "HOME": str(home), "TF_CPP_MIN_LOG_LEVEL": "3",
        "NO_PROXY": "127.0.0.1", "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}",
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip


def written(environment):
    """What lies under the home folder, but for the named caches."""
    home = Path(environment["HOME"])
    files = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    return [str(file) for file in files if not {str(p) for p in file.parents} & CACHES]


def test_export_embed_and_explore_report_nothing(tmp_path, environment, proxy):
    images = tmp_path / "images"
    images.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3))):
        Image.fromarray(pixels.astype(np.uint8)).save(images / f"{number}.png")
    lines = [
        ("export", "--weights=rfd_cifar10", "--format=onnx", "--quantize=int8,float16",
         f"--calibration_dir={images}", f"--output_dir={tmp_path / 'exported'}"),
        ("embed", f"--onnx={tmp_path / 'exported' / 'model.onnx'}", f"--data_dir={images}",
         f"--output_dir={tmp_path / 'embedded'}"),
        ("explore", f"--run={SHIPPED}", f"--data_dir={images}",
         f"--cache_dir={tmp_path / 'cache'}", "--port=0"),
    ]  # fmt: skip
    lines = [[str(SCRIPTS / f"{name}.py"), *line] for name, *line in lines]
    with open(tmp_path / "errors.txt", "w+") as errors:
        commands = subprocess.Popen(
            [sys.executable, "-c", COMMANDS, json.dumps(lines)],
            env=environment, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        try:
            output = iter(commands.stdout.readline, "")
            explored = any("http://127.0.0.1:" in line for line in output)
            commands.send_signal(signal.SIGINT)
            commands.communicate(timeout=240)
        finally:
            commands.kill()
        errors.seek(0)
        found = errors.read()
    assert explored, found
    for path in ("exported/model.onnx", "embedded"):
        assert (tmp_path / path).exists(), found
    assert [line for line in found.splitlines() if "ASKED" in line] == []
    assert proxy[1] == []
    assert written(environment) == []


def test_importing_rfd_tf_switches_telemetry_off_for_a_program(environment, proxy):
    for code, quiet in (("import rfd_tf" + RUN_A_MODEL, True), (RUN_A_MODEL, False)):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        if quiet:
            assert written(environment) == [] and proxy[1] == []
        elif not written(environment):
            pytest.skip("this onnxruntime reports nothing by itself")
