"""What is pinned as oldest is what setup.cfg allows as oldest."""

import configparser
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints" / "oldest.txt"


def test_the_oldest_versions_are_the_lower_bounds():
    settings = configparser.ConfigParser(inline_comment_prefixes="#")
    settings.read(ROOT / "setup.cfg")
    extras = settings["options.extras_require"]
    lines = [
        line
        for text in (
            settings["options"]["install_requires"],
            *(extras[name] for name in ("tfds", "detection", "report", "test")),
        )
        for line in text.splitlines()
    ]
    needed = [Requirement(line) for line in lines if line.strip()]
    pins = {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in map(Requirement, re.findall(r"(?m)^\w.*", CONSTRAINTS.read_text()))
    }
    for requirement in needed:
        lowest = [each.version for each in requirement.specifier if each.operator == ">="]
        name = canonicalize_name(requirement.name)
        # Formatting is a matter of the newest ruff only.
        if lowest and name != "ruff":
            assert f"{pins[name]}.".startswith(f"{lowest[0]}."), requirement
            assert requirement.specifier.contains(pins[name]), requirement
