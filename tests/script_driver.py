"""Calls a script several times in one process: most of a call's time goes into its imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"

_DRIVER = """
import contextlib, importlib, io, json, sys
folder, name, lines, prelude = sys.argv[1:]
sys.path.insert(0, folder)
import common
script = importlib.import_module(name)
exec(prelude)
results = []
for line in json.loads(lines):
    # Each time as if from a fresh command line.
    for flag in common.flags.FLAGS:
        common.flags.FLAGS[flag].unparse()
    sys.argv = [name + ".py", *line]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            common.run(script.main)
        except SystemExit as end:
            code = end.code or 0
    results.append([code, out.getvalue(), err.getvalue()])
print("RESULTS" + json.dumps(results))
"""


def run_many(name, lines, prelude=""):
    """Returns [exit code, stdout, stderr] of the script `name` for each command line.

    `prelude` is Python code to run before, with the script's module as `script`.
    """
    lines = [[str(argument) for argument in line] for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(SCRIPTS), name, json.dumps(lines), prelude],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert "RESULTS" in done.stdout, done.stderr
    return json.loads(done.stdout.split("RESULTS")[1])
