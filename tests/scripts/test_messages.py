"""Messages name flags that the running command has, and the flag that was given the value."""

import ast
import functools
import json
import re
import subprocess
import sys

import pytest
from script_driver import CLI, RESEARCH, ROOT, SCRIPTS, run_many, source

FLAG = re.compile(r"(?<![\w-])--(\w+)")
# Of other programs: CSS, TFDS, TensorBoard; and of absl.
FOREIGN = {"faint", "s", "file_format", "logdir", "help", "helpfull", "flagfile", "version"}


def texts(path):
    """The strings of a module but for its docstrings, with their lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in docstrings:
                yield node.lineno, node.value


@functools.cache
def all_defined():
    """The flags of each command, as they are when it runs, and those of absl that it has."""
    program = """
import importlib, json, subprocess, sys
name, folder = sys.argv[1:]
sys.path.insert(0, folder)
importlib.import_module(name)
from absl import flags
print("FLAGS" + json.dumps(list(flags.FLAGS)))
"""
    found = {}
    for command in COMMANDS:
        module = f"rfd_tf.cli.{command}" if source(command).parent == CLI else command
        done = subprocess.run(
            [sys.executable, "-c", program, module, str(SCRIPTS)], capture_output=True, text=True
        )
        assert "FLAGS" in done.stdout, done.stderr
        found[command] = set(json.loads(done.stdout.split("FLAGS")[1]))
    return found


def defined(script):
    """The flags of a command."""
    return all_defined()[script]


def shared(script):
    """The modules of flags that a command imports."""
    for node in ast.parse(source(script).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("rfd_tf.cli"):
            names = [alias.name for alias in node.names] + [node.module.rpartition(".")[2]]
            yield from (n for n in names if n in ("common", "pretrain") or n.endswith("_flags"))


COMMANDS = sorted(
    path.stem
    for folder in (SCRIPTS, CLI, RESEARCH)
    for path in folder.glob("*.py")
    if re.search(r"\brun\(main\)", path.read_text())
)


def test_every_flag_that_the_library_names_is_one_of_a_command():
    known = FOREIGN.union(*map(defined, COMMANDS))
    unknown = [
        f"{path.relative_to(ROOT)}:{line} --{flag}"
        for path in sorted((ROOT / "rfd_tf").rglob("*.py"))
        for line, text in texts(path)
        for flag in FLAG.findall(text)
        if flag not in known
    ]
    assert unknown == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_its_flags_and_mistakes_by_flags_that_it_has(command):
    own = defined(command) | FOREIGN
    modules = set(shared(command)) - {"common"}
    wrong = [
        f"{name}.py:{line} --{flag}"
        for name in {command, *modules}
        for line, text in texts(source(name))
        # (Command lines that start other commands are not for the eye.)
        if not re.match(r"\s*--\w+=|.*scripts/\w+\.py|.*rfd-tf [a-z]", text)
        for flag in FLAG.findall(text)
        if flag not in own
    ]
    assert wrong == []


def test_errors_of_the_library_name_the_flags_of_the_command(tmp_path):
    missing, taken = tmp_path / "missing", tmp_path / "taken"
    taken.mkdir()
    (taken / "x.txt").write_text("something else")
    bare = ["--weights=rfd_cifar10"]
    cases = {
        "export": [
            ([*bare, "--quantize=int8", f"--calibration_dir={missing}", "--output_dir=x"],
             "--calibration_dir"),
            ([*bare, f"--output_dir={taken}"], "--output_dir"),
        ],
        "embed": [([*bare, f"--data_dir={missing}", f"--output_dir={tmp_path / 'o'}"],
                   "--data_dir")],
        "explore": [([f"--run={ROOT / 'exported' / 'six_layer_rfd_cifar10'}",
                      f"--data_dir={missing}"], "--data_dir")],
        "evaluate": [([*bare, "--dataset=digits", "--eval_dir=no/such"], None),
                     ([*bare, "--task=detection", "--dataset=digits"], "--voc_dir")],
        "pretrain": [(["--dataset=digits", f"--eval_dir={missing}",
                       f"--output_dir={tmp_path / 'run'}"], "--eval_dir")],
        "report": [([f"--run={missing}"], "--run"), ([f"--run={taken}"], "--run")],
        "estimate_pu": [([f"--data_dir={missing}", f"--output={tmp_path / 'x.npz'}"],
                         "--data_dir")],
    }  # fmt: skip
    for command, lines in cases.items():
        known = defined(command) | FOREIGN
        found = run_many(command, [arguments for arguments, _ in lines])
        for (code, _, err), (arguments, flag) in zip(found, lines, strict=True):
            error = [line for line in err.splitlines() if line.startswith("error:")]
            assert code == 2 and len(error) == 1, (command, arguments, err)
            assert set(FLAG.findall(error[0])) <= known, (command, error)
            assert flag is None or flag in error[0], (command, arguments, error)


def test_flags_that_a_command_lacks_become_related_ones_or_arguments():
    prelude = """
from rfd_tf.errors import UserError
def fail():
    raise UserError("'x' is taken; give another --output_dir, or --overwrite, not --image_size; "
                    "scripts/export.py --calibration_dir=X makes it")
script.main = fail
"""
    ((_, _, err),) = run_many("report", [[]], prelude)
    assert (
        "give another --output, or overwrite, not image_size; "
        "scripts/export.py --calibration_dir=X makes it" in err
    )
