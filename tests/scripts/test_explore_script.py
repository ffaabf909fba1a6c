import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
import warm_python
from script_driver import ROOT, SCRIPTS, run_many

from rfd_tf import applications


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    filters = [4, 4, 4, 4, 4, 8]
    record = {
        "format": 1, "backbone": "six_layer", "arguments": {"filters": filters},
        "image_size": 16, "feature": {"endpoint": "block6", "pooling": "avg", "split": [4, 4]},
    }  # fmt: skip
    model = applications.build("six_layer", 16, filters=filters)
    applications.save_backbone(model, folder / "backbone.weights.h5", record)
    (folder / "run.json").write_text(json.dumps({"flags": {"dataset": "digits"}}))
    return folder


def ask(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=240) as answer:
        answer.read()


def test_user_errors_are_one_line(run_folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (tmp_path / "file").write_text("in the way")
    run = f"--run={run_folder}"
    lines = [
        ([], "give --run a run folder"),
        (["--run=no/such"], "no such run folder: 'no/such'"),
        ([f"--run={bare}"], "give --data a folder of images or the name of a dataset"),
        ([f"--run={bare}", "--dataset=digits"], f"folder '{bare}' holds no backbone.weights.h5"),
        ([run, f"--data_dir={tmp_path}/none"], "no such folder"),
        ([run, "--max_images=-1"], "--max_images is 0 or more; got -1"),
        ([run, f"--cache_dir={tmp_path}/file/x"], "cannot write to"),
        ([run, "--port=70000"], "flag --port=70000: 70000 is not an integer in the range"),
    ]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lines.append((
            [run, f"--cache_dir={tmp_path}/cache", f"--port={port}"],
            f"port {port} of 127.0.0.1 is not available (Address already in use); give another",
        ))  # fmt: skip
        found = run_many("explore", [arguments for arguments, _ in lines])
    for (code, _, err), (arguments, message) in zip(found, lines, strict=True):
        told = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(told) == 1 and "Traceback" not in err, (arguments, err)
        assert told[0].startswith(f"error: {message}"), arguments
    assert (tmp_path / "cache" / "model" / "model.onnx").exists()
    assert not (run_folder / "explore").exists()


@pytest.mark.parametrize("busy", [False, True])
def test_the_page_is_served_until_ctrl_c(busy, run_folder):
    """By default the images are those of the run. Requests in flight do not abort the process."""
    command = [*warm_python.command(), str(SCRIPTS / "explore.py"), f"--run={run_folder}",
               "--port=0", "--max_images=20"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        first = process.stdout.readline()
        assert first.startswith("20 of 297 images of digits/test: http://127.0.0.1:"), first
        with urllib.request.urlopen(first.split()[-1] + "api/set", timeout=240) as answer:
            told = json.load(answer)
        assert (told["run"], told["num_images"], told["rotation"]) == ("small", 20, "fitted")
        if busy:
            for number in range(8):
                path = f"api/occlusion?image={number}&angle=10"
                threading.Thread(target=ask, args=(first.split()[-1] + path,), daemon=True).start()
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0 and out.endswith("ended\n") and "Traceback" not in err
