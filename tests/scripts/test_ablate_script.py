"""scripts/ablate.py trains, judges and tabulates a variant, and repeats nothing."""

import csv
import json
import subprocess
import sys
from pathlib import Path

from script_driver import run_script

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ablate.py"


def test_a_variant_becomes_a_row_beside_random_init(tmp_path):
    config = tmp_path / "small.cfg"
    config.write_text(
        "--dataset=digits\n--backbone=six_layer\n--backbone_option=filters=[4,4,4,4,4,8]\n"
        "--image_size=16\n--batch_size=250\n--monitor_every=0\n--evaluate=knn\n"
    )
    arguments = [
        f"--config={config}",
        "--variants=instance",
        "--epochs=1",
        "--task=knn",
        f"--output_dir={tmp_path}/out",
    ]
    done = run_script("ablate", *arguments)
    assert done.returncode == 0, done.stderr
    flags = json.loads((tmp_path / "out" / "instance" / "run.json").read_text())["flags"]
    assert flags["lambda_rotation"] == 0 and flags["lambda_distance"] == 0
    assert flags["evaluate"] == []  # the config's own evaluation is left to evaluate.py
    with open(tmp_path / "out" / "ablations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["random_init", "instance"]
    report = json.loads((tmp_path / "out" / "instance" / "evaluation.json").read_text())
    by_name = {(r["name"], r["images"]): r for r in report["results"]}
    found = by_name["f2", "rotated"]
    assert float(rows[1]["knn f2 rotated"]) == round(100 * found["value"], 2)
    assert float(rows[0]["knn f2 rotated"]) == round(100 * found["random_init"], 2)
    text = (tmp_path / "out" / "ablations.md").read_text()
    assert text.startswith("| | random init | instance only |")
    assert (
        f"| knn f2 rotated | {100 * found['random_init']:.1f} | {100 * found['value']:.1f}" in text
    )
    again = run_script("ablate", *arguments)
    assert again.returncode == 0 and "$ python" not in again.stdout


def test_an_unknown_variant_is_named(tmp_path):
    done = run_script("ablate", "--variants=jigsaw", f"--output_dir={tmp_path}/out")
    assert done.returncode == 2 and "unknown variant 'jigsaw'" in done.stderr


def test_figures_of_several_seeds_become_mean_and_spread(tmp_path):
    # (In a process of its own: two scripts' flags cannot live together.)
    code = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import ablate, pathlib
row = ablate.row("full", "full", [{{"a": 50.0}}, {{"a": 53.0}}, {{"a": 56.0}}])
assert row["a"] == 53.0 and row["a spread"] == 3.0 and row["runs"] == 3
random = ablate.row("random_init", "random init", [{{"a": 10.0}}])
print(ablate.write_tables([random, row], pathlib.Path({str(tmp_path)!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "| a | 10.0 | 53.0 ± 3.0 |"


def test_seeds_are_numbers(tmp_path):
    done = run_script("ablate", "--seeds=0,x", f"--output_dir={tmp_path}/out")
    assert done.returncode == 2 and "not 'x'" in done.stderr
