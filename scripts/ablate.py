"""Trains and probes the paper's ablations of RFD on one dataset, and writes the table.

    python scripts/ablate.py --config=configs/quickstart.cfg --output_dir=runs/ablations
    python scripts/ablate.py --config=configs/cifar10_rfd_six_layer.cfg --data_dir=PATH/train \\
        --eval_dir=PATH/test --seeds=0,1,2 --task=knn,linear --output_dir=runs/ablations

Each variant and seed is a run of scripts/pretrain.py in its own folder, judged by
scripts/evaluate.py. The same command again takes up what is missing. ablations.md, .csv and .json
hold the table (Feng et al., CVPR 2019, table 4); over several seeds, means and their spread.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import common
from absl import flags

FLAGS = flags.FLAGS
SCRIPTS = Path(__file__).resolve().parent

#: Variant -> what it is, and its flags for scripts/pretrain.py.
VARIANTS = {
    "rotation": (
        "rotation only",
        ["--lambda_distance=0", "--lambda_instance=0", "--lambda_contrast=0"],
    ),
    "instance": ("instance only", ["--lambda_rotation=0", "--lambda_distance=0"]),
    "coupled": (
        "rotation + instance, not decoupled",
        ["--decoupled=false", "--lambda_distance=0"],
    ),
    "decoupled": ("decoupled, without PU weights", []),
    "full": ("decoupled, with PU weights", []),
}

flags.DEFINE_string("config", None, "Flag file of scripts/pretrain.py that all variants share.")
flags.DEFINE_list("variants", list(VARIANTS), "Which to train: " + ", ".join(VARIANTS) + ".")
flags.DEFINE_list(
    "split_endpoints",
    [],
    "Layers at which the full variant is split besides the last one, such as conv5,fc6,fc7.",
)
flags.DEFINE_string("dataset", None, "As for scripts/pretrain.py; the config's if not given.")
flags.DEFINE_string("data_dir", None, "As for scripts/pretrain.py.")
flags.DEFINE_string("eval_dir", None, "As for scripts/pretrain.py.")
flags.DEFINE_integer("epochs", None, "As for scripts/pretrain.py.")
flags.DEFINE_string("pu_weights", None, "PU weights; estimated on the dataset if not given.")
flags.DEFINE_integer("pu_epochs", None, "Epochs of each PU network; estimate_pu.py's if not given.")
flags.DEFINE_integer("pu_folds", None, "Parts of the images for PU; estimate_pu.py's if not given.")
flags.DEFINE_list("seeds", [], "Seeds to train every variant with; the config's own if not given.")
flags.DEFINE_integer(
    "pu_start_epoch", None, "Epoch from which they count; the last seventh if not given."
)
flags.DEFINE_multi_string("pretrain_flag", [], "Further flag for scripts/pretrain.py, repeatable.")
flags.DEFINE_multi_string("evaluate_flag", [], "Further flag for scripts/evaluate.py, repeatable.")
flags.DEFINE_list("task", ["linear"], "Tasks of scripts/evaluate.py.")
flags.DEFINE_string("output_dir", None, "Folder of the runs and the table.")


def run(script: str, *arguments: str) -> None:
    """Runs a script; its failure ends this one with its own message."""
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    print("$", "python", f"scripts/{script}", *arguments, flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def shared_flags() -> list[str]:
    """Flags of scripts/pretrain.py that are the same for all variants."""
    given = [f"--flagfile={FLAGS.config}"] if FLAGS.config else []
    for name in ("dataset", "data_dir", "eval_dir", "epochs"):
        if FLAGS[name].value is not None:
            given.append(f"--{name}={FLAGS[name].value}")
    return [*given, "--export=", "--evaluate=", *FLAGS.pretrain_flag]


def setting(arguments: list[str], name: str) -> list[str]:
    """The values that a flag is given among expanded arguments, in order."""
    prefix = f"--{name}="
    return [item[len(prefix) :] for item in arguments if item.startswith(prefix)]


def estimate_pu_weights(arguments: list[str], output: Path) -> str:
    """Trains the networks that tell how upright a view looks, on the variants' own images."""
    if output.exists():
        return str(output)
    passed = [f"--output={output}"]
    for name in ("dataset", "data_dir", "tfds_dir", "backbone", "image_size", "batch_size"):
        passed += [f"--{name}={value}" for value in setting(arguments, name)[-1:]]
    passed += [f"--backbone_option={value}" for value in setting(arguments, "backbone_option")]
    for name, value in (("epochs", FLAGS.pu_epochs), ("folds", FLAGS.pu_folds)):
        if value is not None:
            passed.append(f"--{name}={value}")
    run("estimate_pu.py", *passed)
    return str(output)


def variants() -> list[tuple[str, str, list[str]]]:
    """(folder, description, flags) of every run."""
    from rfd_tf.errors import unknown

    chosen = []
    for name in FLAGS.variants:
        if name not in VARIANTS:
            raise unknown("variant", name, VARIANTS)
        chosen.append((name, *VARIANTS[name]))
    for endpoint in FLAGS.split_endpoints:
        chosen.append(
            (
                f"full_{endpoint}",
                f"decoupled at {endpoint}, with PU weights",
                [f"--feature_endpoint={endpoint}"],
            )
        )
    return chosen


def figures_of(folder: Path) -> dict[str, float]:
    """A run's figures, flat: "task feature images" -> accuracy in percent."""
    with _whole(folder):
        return _figures_of(folder)


@contextlib.contextmanager
def _whole(folder: Path):
    """Names the run whose files are missing or damaged."""
    from rfd_tf.errors import UserError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"evaluation.json, metrics.csv or run.json in '{folder}' is missing or damaged "
            f"({error!r}); remove the folder and run the same command again"
        ) from None


def _figures_of(folder: Path) -> dict[str, float]:
    report = json.loads((folder / "evaluation.json").read_bytes())
    with open(folder / "metrics.csv", newline="", encoding="utf-8-sig") as file:
        epochs = list(csv.DictReader(file))
    figures = {}
    if epochs[-1].get("rotation_accuracy"):
        figures["rotation accuracy"] = 100 * float(epochs[-1]["rotation_accuracy"])
    figures["training minutes"] = training_minutes(folder, epochs)
    return {**figures, **_flat(report, "value")}


def training_minutes(folder: Path, epochs: list[dict]) -> float:
    """Minutes that the steps of all epochs took; without evaluation and starting."""
    run = json.loads((folder / "run.json").read_bytes())
    batch_size = run["flags"]["batch_size"]
    steps = [int(epoch["step"]) for epoch in epochs]
    seconds = 0.0
    for before, after, epoch in zip([0, *steps], steps, epochs, strict=False):
        seconds += batch_size * (after - before) / float(epoch["images_per_second"])
    return seconds / 60


def random_figures(folder: Path) -> dict[str, float]:
    """The random-init network's figures, as the evaluation of any run gives them."""
    with _whole(folder):
        report = json.loads((folder / "evaluation.json").read_bytes())
        return _flat(report, "random_init")


def _flat(report: dict, key: str) -> dict[str, float]:
    """A report's figures: "task feature images" -> percent, after the last epoch."""
    return {
        f"{result['task']} {result['name']} {result['images']}": 100 * result[key]
        for result in report["results"]
        if result["when"] != "best epoch" and result[key] is not None
    }


def row(name: str, description: str, runs: list[dict[str, float]]) -> dict:
    """A variant's figures: means over its runs and, of several, their sample deviations."""
    figures = {"variant": name, "description": description, "runs": len(runs)}
    for key in runs[0]:
        values = [run[key] for run in runs]
        figures[key] = round(statistics.mean(values), 2)
        if len(values) > 1:
            figures[f"{key} spread"] = round(statistics.stdev(values), 2)
    return figures


def write_tables(rows: list[dict], output: Path) -> str:
    """Writes the table as Markdown, CSV and JSON; returns the Markdown, a column a variant."""
    columns = list(dict.fromkeys(name for figures in rows for name in figures))
    names = ["variant", "description", "runs"]
    lines = ["| | " + " | ".join(figures["description"] for figures in rows) + " |"]
    lines.append("|---|" + "---:|" * len(rows))
    for column in columns:
        if column in names or column.endswith(" spread"):
            continue
        cells = []
        for figures in rows:
            cell = f"{figures[column]:.1f}" if column in figures else ""
            spread = figures.get(f"{column} spread")
            cells.append(cell if spread is None else f"{cell} ± {spread:.1f}")
        lines.append(f"| {column} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    (output / "ablations.md").write_text(text, encoding="utf-8")
    with open(output / "ablations.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    (output / "ablations.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return text


def main() -> None:
    from rfd_tf.errors import UserError
    from rfd_tf.training.run_folder import RunFolder

    if not FLAGS.output_dir:
        raise UserError("give --output_dir, the folder of the runs and the table")
    for seed in FLAGS.seeds:
        if not seed.isdigit():
            raise UserError(f"seeds are whole numbers of at least 0, not '{seed}'")
    if FLAGS.config and not os.path.exists(FLAGS.config):
        raise UserError(f"no such flag file: '{FLAGS.config}'")
    chosen = variants()
    output = RunFolder(FLAGS.output_dir).directory
    shared = shared_flags()
    expanded = FLAGS.read_flags_from_files(shared)
    epochs = int((setting(expanded, "epochs") or ["100"])[-1])
    start = epochs - max(1, epochs // 7) if FLAGS.pu_start_epoch is None else FLAGS.pu_start_epoch
    rows, random = [], None
    for name, description, own in chosen:
        if name.startswith("full"):
            weights = FLAGS.pu_weights or estimate_pu_weights(expanded, output / "pu_weights.npz")
            own = [*own, f"--pu_weights={weights}", f"--pu_start_epoch={start}"]
        folders = [output / name]
        if FLAGS.seeds:
            folders = [output / f"{name}_seed{seed}" for seed in FLAGS.seeds]
        for folder, seed in zip(folders, FLAGS.seeds or [None], strict=True):
            if (folder / "evaluation.json").exists():
                continue
            seeded = [] if seed is None else [f"--seed={seed}"]
            run("pretrain.py", *shared, *own, *seeded, f"--output_dir={folder}")
            task = f"--task={','.join(FLAGS.task)}"
            run("evaluate.py", f"--weights={folder}", task, *seeded, *FLAGS.evaluate_flag)
        rows.append(row(name, description, [figures_of(folder) for folder in folders]))
        if not random:
            random = row("random_init", "random init", [random_figures(one) for one in folders])
        table = write_tables([random, *rows], output)
    print(f"\n{table}\nwritten: {output / 'ablations.md'}, .csv and .json")


if __name__ == "__main__":
    common.run(main)
