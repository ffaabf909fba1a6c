"""The benchmark script: its table, its file, and what it refuses."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import warm_python

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return subprocess.run(
        [*warm_python.command(), str(ROOT / "scripts" / "benchmark.py"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
    )


def test_table_and_file(tmp_path):
    path = tmp_path / "figures.json"
    done = run(
        "--tiny",
        "--rounds=1",
        "--only=overhead,reference",
        "--reference_step_ms=1600,840",
        "--markdown",
        f"--output={path}",
    )
    assert done.returncode == 0, done.stderr
    entries = json.loads(path.read_text())
    names = ["overhead/six_layer", "reference/float32", "reference/bfloat16"]
    assert [entry["name"] for entry in entries] == names
    for entry in entries:
        assert entry["bar"] > 0
        keeps = (
            entry["value"] <= entry["bar"]
            if entry["bar_is"] == "at most"
            else entry["value"] >= entry["bar"]
        )
        assert entry["holds"] is keeps
    assert entries[1]["value"] == pytest.approx(1600 / entries[1]["details"]["ours_ms"], rel=1e-6)
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(lines) == 5
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == names
    assert {line.count("|") for line in lines} == {6}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--only=overhed"], "unknown benchmark 'overhed' (did you mean 'overhead'?)"),
        (["--only=reference"], "needs the other program's time: --reference_step_ms"),
        (["--reference_step_ms=fast"], "--reference_step_ms takes milliseconds above 0"),
        (["--reference_step_ms=1,2,3"], "--reference_step_ms takes milliseconds above 0"),
        (["--rounds=0"], "--rounds=0 must be at least 1"),
        (["--output=/no/such/folder/x.json"], "cannot write --output=/no/such/folder/x.json"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
