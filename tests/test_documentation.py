"""The documentation names commands, flags, Python names, options and files that exist."""

import ast
import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import rfd_tf
from rfd_tf import evaluation, methods
from rfd_tf.data.given import place_of

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
    # (\w stops at the hyphen of --ntasks-per-node and --gpus-per-task.)
    "slurm": {"nodes", "ntasks", "gpus", "signal", "requeue"},
    "absl": {"help", "version"},
    "docker": {"rm", "build"},
    "jupyter": {"clear", "inplace"},
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


def test_links_anchors_and_files_named_exist():
    wrong = []
    for page in PAGES:
        if page.suffix != ".md":
            continue
        text = re.sub(r"(?s)```.*?```", "", text_of(page))
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
            linked = page.parent / target if target else page
            if "://" in target:
                continue
            if not linked.exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
            elif anchor and anchor not in anchors(linked):
                wrong.append(f"{page.relative_to(ROOT)}: {target} has no heading #{anchor}")
        for target in re.findall(r"`((?:configs|docs|tests|constraints)/[\w./]+\.\w+)`", text):
            if not re.search("[A-Z]{3}", target) and not (ROOT / target).exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong, "\n".join(wrong)


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def guides():
    """README.md and docs/."""
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page):
    """Language and code of the code blocks of a page, in order."""
    return re.findall(r"(?s)```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"))


def test_the_readme_has_at_most_180_lines_and_1500_words():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    assert len(text.split()) <= 1500


def test_prose_lines_have_fewer_than_100_characters():
    wrong = []
    for page in guides():
        text = re.sub(r"(?s)```.*?```", "", page.read_text(encoding="utf-8"))
        long = [line for line in text.splitlines() if len(line) > 99 and not line.startswith("|")]
        # (A command in the text is not broken.)
        wrong += [f"{page.relative_to(ROOT)}: {line}" for line in long if "`" not in line]
    assert not wrong, "\n".join(wrong)


def test_the_table_of_contents_links_to_every_page():
    index = ROOT / "docs" / "index.md"
    links = re.findall(r"\]\(([^)#\s]+)", index.read_text(encoding="utf-8"))
    linked = {(index.parent / target).resolve() for target in links}
    assert {page.resolve() for page in guides()} <= linked | {index}


def test_pictures_are_small_and_shown():
    text = "".join(page.read_text(encoding="utf-8") for page in guides())
    pictures = sorted((ROOT / "docs" / "figures").iterdir())
    assert len(pictures) == 1 + len(methods.METHODS)
    for picture in pictures:
        assert picture.stat().st_size < 150_000
        assert f"figures/{picture.name})" in text


def test_a_guide_has_a_command_its_python_twin_and_what_to_do_when_it_goes_wrong():
    for page in (ROOT / "docs" / "guides").glob("*.md"):
        if page.stem == "troubleshooting":  # tables of messages
            continue
        assert {"bash", "python"} <= {language for language, _ in blocks(page)}, page.name
        headings = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
        assert headings[-1] == "When it goes wrong", page.name


def test_python_blocks_name_what_exists():
    wrong = []
    for page in guides():
        for language, code in blocks(page):
            if language == "python":
                wrong += [f"{page.relative_to(ROOT)}: {found}" for found in unknown_names(code)]
    assert not wrong, "\n".join(wrong)


def unknown_names(code):
    """Yields names of rfd_tf that do not exist, and keywords that a function does not take.

    `run` and what `rfd_tf.Run.open` returns are runs.
    """
    names = {"rfd_tf": rfd_tf, "run": rfd_tf.Run}

    def resolve(node):
        """What an expression is, or None where that is not known."""
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Attribute):
            return getattr(resolve(node.value), node.attr, None)
        if isinstance(node, ast.Call):
            return rfd_tf.Run if resolve(node.func) in (rfd_tf.pretrain, rfd_tf.Run.open) else None
        return None

    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute):
            owner = resolve(node.value)
            if owner is not None and not hasattr(owner, node.attr):
                yield f"{ast.unparse(node)} does not exist"
        elif isinstance(node, ast.Call) and callable(function := resolve(node.func)):
            parameters = inspect.signature(function).parameters
            takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
            for keyword in node.keywords:
                if keyword.arg and not takes_any and keyword.arg not in parameters:
                    yield f"{ast.unparse(node.func)} takes no {keyword.arg}"


def test_a_command_and_the_python_call_after_it_have_the_same_settings():
    """A command and the call beside it are twins, also in the values of their settings."""
    wrong, count = [], 0
    for page in guides():
        found = blocks(page)
        for (first, command), (second, code) in zip(found, found[1:], strict=False):
            if first != "bash" or second != "python":
                continue
            command = command.replace("\\\n", " ").splitlines()[0]
            calls = [
                node
                for node in ast.walk(ast.parse(code))
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "rfd_tf.pretrain"
            ]
            if not command.startswith("rfd-tf pretrain ") or not calls:
                continue
            count += 1
            if settings_of_command(command) != settings_of_call(calls[0]):
                wrong.append(f"{page.relative_to(ROOT)}: {command}")
    assert count >= 4
    assert not wrong, "\n".join(wrong)


def settings_of_command(command):
    values = {}
    for flag in shlex.split(command, comments=True)[2:]:
        name, _, value = flag.removeprefix("--").partition("=")
        if name == "method_option":
            name, _, value = value.partition("=")
        if name == "callback":
            name, value = "callbacks", value.partition(":")[2]
        values.update(place_of(value) if name == "data" else {name: value})
    return values


def settings_of_call(call):
    values = dict(place_of(ast.literal_eval(call.args[0])))
    for keyword in call.keywords:
        if keyword.arg == "callbacks":  # of one class
            (created,) = keyword.value.elts
            values["callbacks"] = ast.unparse(created.func).rpartition(".")[2]
            continue
        # (A model by the name of a variable stands for the file of that name.)
        named = isinstance(keyword.value, ast.Name)
        value = f"{keyword.value.id}.keras" if named else str(ast.literal_eval(keyword.value))
        values[keyword.arg] = value
    return values


def test_every_method_has_a_page_with_options_that_exist():
    overview = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    sections = re.split(r"(?m)^## ", overview)[1:]
    bank = next(each for each in sections if each.startswith("Options of the memory bank"))
    options = {"bank": option_names(bank)}
    pages = ROOT / "docs" / "methods"
    assert {page.stem for page in pages.iterdir()} == set(methods.METHODS)
    for name in methods.METHODS:
        text = (pages / f"{name}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# `{name}`: ") and f"](methods/{name}.md)" in overview
        headings = re.findall(r"(?m)^## (.*)$", re.sub(r"(?s)```.*?```", "", text))
        assert [each for each in headings if each != "PU weights"] == [
            "Loss", "Options", "Good for", "Results", "Paper",
        ], name  # fmt: skip
        assert f"](../figures/views_{name}.webp)" in text
        unknown = option_names(text) - set(methods.arguments(name))
        assert not unknown, f"{name} has no option {unknown}"
        options[name] = option_names(text)
    described = set().union(*options.values()) | {"seed", "num_images"}
    assert set(methods.all_arguments()) <= described
    assert options["bank"] <= set(methods.arguments("instance"))


def option_names(section):
    """The names in the first column of the table of options."""
    rows = re.findall(r"(?m)^\| (`[^|]*) \|", section)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_guide_to_evaluation_names_every_task():
    text = (ROOT / "docs" / "guides" / "evaluate.md").read_text(encoding="utf-8")
    assert set(evaluation.TASKS) == set(re.findall(r"(?m)^\| `(\w+)`", text))


def test_the_architecture_names_every_package():
    page = ROOT / "docs" / "contributing" / "architecture.md"
    text = page.read_text(encoding="utf-8")
    for folder in (ROOT / "rfd_tf").iterdir():
        if (folder / "__init__.py").exists():
            assert f"`rfd_tf/{folder.name}`" in text
