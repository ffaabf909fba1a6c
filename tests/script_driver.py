"""Runs scripts: in a process each, as a user does, or several times in one.

Most of a short call's time goes into its imports, so processes start from `warm_python`, and
what needs no process of its own shares one.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import warm_python
from absl import flags

from rfd_tf.cli import common

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
CLI = ROOT / "rfd_tf" / "cli"
RESEARCH = ROOT / "research" / "commands"

_DRIVER = """
import contextlib, importlib, io, json, sys
folder, module, name, lines, prelude = sys.argv[1:]
sys.path.insert(0, folder)
from rfd_tf.cli import common
script = importlib.import_module(module)
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


def parse_flags(*arguments):
    """Parses pretrain's command line in this process, as if nothing had been parsed before."""
    forget_flags()
    common.parse(["pretrain.py", *map(str, arguments)])


def forget_flags():
    """Gives all flags their defaults again."""
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()


def source(name):
    """The file that a command, or a module of flags, is written in."""
    paths = (folder / f"{name}.py" for folder in (CLI, RESEARCH, SCRIPTS))
    return next(path for path in paths if path.exists())


def run_script(name, *arguments, cwd=None):
    """Runs the script `name` in a process of its own; returns the completed process."""
    return subprocess.run(
        [*warm_python.command(), str(SCRIPTS / f"{name}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=cwd,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def run_many(name, lines, prelude="", python=None):
    """Returns [exit code, stdout, stderr] of the command `name` for each command line.

    `prelude` is Python code to run before, with the command's module as `script`. `python` is
    the interpreter, `warm_python` if None.
    """
    lines = [[str(argument) for argument in line] for line in lines]
    packages = {CLI: "rfd_tf.cli.", RESEARCH: "research.commands."}
    module = packages.get(source(name).parent, "") + name
    done = subprocess.run(
        [
            *([python] if python else warm_python.command()),
            *("-c", _DRIVER, str(SCRIPTS), module, name, json.dumps(lines), prelude),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert "RESULTS" in done.stdout, done.stderr
    return json.loads(done.stdout.split("RESULTS")[1])


def check_mistakes(name, common, mistakes):
    """Asserts that each command line ends with code 2 and one message, without a stack trace.

    `mistakes` maps the message (or a part of it) to the arguments that follow `common`.
    """
    found = run_many(name, [[*common, *arguments] for arguments in mistakes.values()])
    for message, (code, _, error) in zip(mistakes, found, strict=True):
        assert code == 2 and message in error, (message, error)
        assert "Traceback" not in error


def check_resuming(common, folder):
    """Pretrains two epochs of two steps, straight and in two parts; both end bit for bit alike.

    Returns the names of the arrays in the last checkpoint.
    """
    lines = [("straight", 2), ("resumed", 1), ("resumed", 2)]
    common = [*common, "--steps_per_epoch=2", "--deterministic", "--health_every=0"]
    done = run_many(
        "pretrain", [[*common, f"--epochs={n}", f"--output_dir={folder / to}"] for to, n in lines]
    )
    for code, _, error in done:
        assert code == 0, error
    straight, resumed = (
        np.load(folder / name / "checkpoints" / "step-000000004.npz")
        for name in ("straight", "resumed")
    )
    assert straight.files == resumed.files
    for name in set(straight.files) - {"description"}:
        np.testing.assert_array_equal(straight[name], resumed[name], err_msg=name)
    return straight.files
