"""Commands in the documentation name commands and flags that exist, links lead somewhere."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("exported/**/*.md"),
        *ROOT.glob("configs/*.cfg"),
        *ROOT.glob("scripts/*.py"),
        *ROOT.glob("rfd_tf/cli/*.py"),
        *ROOT.glob("research/commands/*.py"),
    ]
)
COMMAND = re.compile(
    r"(python scripts/\w+\.py|(?:rfd-tf|python -m rfd_tf) [a-z][\w-]*)((?:[^`\n&]|\\\n)*)"
)
FLAG = re.compile(r"(?<![\w-])--([a-z]\w*)")
#: Flags in the text that are those of other programs.
FOREIGN = {
    "absl": {"help", "version"},
    "pytest": {"dist"},
    "ruff": {"check"},
    "tensorflow_model_server": {"model_base_path"},
    "tensorboard": {"logdir"},
    "tfds": {"file_format"},
}

_LIST_FLAGS = """
import importlib, json, sys
from pathlib import Path
from absl import app, flags, logging
from rfd_tf import cli
sys.path.insert(0, sys.argv[1])
before, found = set(flags.FLAGS), {}
names = {path.stem for path in Path(sys.argv[1]).glob("*.py")}
places = {f"python scripts/{name}.py": name for name in names}
places.update({f"rfd-tf {name}": module for name, module in cli.COMMANDS.items()})
places.update({f"python -m rfd_tf {name}": module for name, module in cli.COMMANDS.items()})
for name, place in sorted(places.items()):
    flags.FLAGS.remove_flag_values([flag for flag in flags.FLAGS if flag not in before])
    for module in [one for one in sys.modules if one in names or one.startswith("rfd_tf.cli.")]:
        del sys.modules[module]
        vars(cli).pop(module.rpartition(".")[2], None)
    importlib.import_module(place)
    found[name] = [
        *flags.FLAGS,
        *("no" + flag for flag in flags.FLAGS if flags.FLAGS[flag].boolean),
    ]
print("FLAGS" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def flags():
    """The flags of every script and of every command of rfd-tf."""
    scripts = str(ROOT / "scripts")
    command = [sys.executable, "-c", _LIST_FLAGS, scripts]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "FLAGS" in done.stdout, done.stderr
    found = json.loads(done.stdout.split("FLAGS")[1])
    # What absl reads before flags are parsed, and what every command has.
    return {name: {*names, "flagfile", "help"} for name, names in found.items()}


def text_of(page):
    # A configuration's header is a comment, and its command goes on in the next one.
    text = page.read_text(encoding="utf-8")
    return re.sub(r"\n# *", "\n", text) if page.suffix == ".cfg" else text


def test_commands_name_scripts_and_flags_that_exist(flags):
    wrong, count = [], 0
    for page in PAGES:
        for script, rest in COMMAND.findall(text_of(page)):
            count += 1
            if script not in flags:
                wrong.append(f"{page.relative_to(ROOT)}: no command {script}")
                continue
            for flag in FLAG.findall(rest.split(" # ")[0]):
                if flag not in flags[script]:
                    wrong.append(f"{page.relative_to(ROOT)}: {script} has no flag --{flag}")
    assert count > 50
    assert not wrong, "\n".join(wrong)


def test_flags_in_the_text_are_some_scripts(flags):
    known = set().union(*flags.values(), *FOREIGN.values())
    wrong = []
    for page in PAGES:
        if page.suffix == ".md":
            # (Lines that install something have pip's flags.)
            lines = [line for line in text_of(page).splitlines() if "pip install" not in line]
            wrong += [
                f"{page.relative_to(ROOT)}: no script has a flag --{flag}"
                for flag in FLAG.findall("\n".join(lines))
                if flag not in known
            ]
    assert not wrong, "\n".join(wrong)


def test_links_and_files_named_exist():
    wrong = []
    for page in PAGES:
        if page.suffix != ".md":
            continue
        text = re.sub(r"(?s)```.*?```", "", text_of(page))
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not (page.parent / target).exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
        for target in re.findall(r"`((?:configs|docs|tests|constraints)/[\w./]+\.\w+)`", text):
            if not re.search("[A-Z]{3}", target) and not (ROOT / target).exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong, "\n".join(wrong)


def test_the_layout_names_every_package():
    layout = (ROOT / "README.md").read_text(encoding="utf-8").split("## Layout")[1]
    for folder in (ROOT / "rfd_tf").iterdir():
        if (folder / "__init__.py").exists():
            assert f"rfd_tf/{folder.name} " in layout
