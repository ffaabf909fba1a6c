"""Trains and probes the paper's ablations of RFD on one dataset, and writes the table.

    python scripts/ablate.py --config=configs/quickstart.cfg --output_dir=runs/ablations
    python scripts/ablate.py --config=configs/cifar10_rfd_six_layer.cfg --data_dir=PATH/train \\
        --eval_dir=PATH/test --seeds=0,1,2 --task=knn,linear --output_dir=runs/ablations

Each variant and seed is a run of scripts/pretrain.py in its own folder, evaluated by
scripts/evaluate.py. The same command again takes up what is missing. ablations.md, .csv and .json
hold the table (Feng et al., CVPR 2019, table 4); over several seeds, means and their spread.

Flags of images, augmentation and network are those of scripts/pretrain.py; where a variant needs PU
weights and no file is given, scripts/estimate_pu.py estimates them with the same.
"""

from __future__ import annotations

import contextlib
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

from absl import flags

from rfd_tf import presets
from rfd_tf.cli import common, data_flags, image_flags, path_flags

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(image_flags)
SCRIPTS = Path(__file__).resolve().parent

path_flags.DEFINE_path(
    "config",
    None,
    "Flag file of pretrain that all variants share, or the name of an installed one.",
)
flags.DEFINE_list(
    "variants",
    ["rotation", "f1", "instance", "f2", "coupled", "decoupled", "full_conv5", "full_fc6", "full"],
    "Which to train. rotation: RotNet. f1: rotation on f1 alone. instance: upright views. f2: "
    "losses of f2 alone. coupled: one feature for all losses. decoupled: without PU weights. full: "
    "with PU weights; full_conv5, full_fc6: split at the third or second last endpoint, AlexNet's "
    "conv5 and fc6.",
)
flags.DEFINE_list(
    "split_endpoints", [], "Further layers at which the full variant is split, such as conv4."
)
path_flags.DEFINE_path("eval_dir", None, "As for scripts/pretrain.py.")
flags.DEFINE_integer("epochs", None, "As for scripts/pretrain.py.")
path_flags.DEFINE_path("pu_weights", None, "PU weights; estimated on the dataset if not given.")
flags.DEFINE_integer("pu_epochs", None, "Epochs of each PU network; estimate_pu.py's if not given.")
flags.DEFINE_integer("pu_folds", None, "Parts of the images for PU; estimate_pu.py's if not given.")
flags.DEFINE_list("seeds", [], "Seeds to train every variant with; the config's own if not given.")
flags.DEFINE_integer(
    "pu_start_epoch", None, "Epoch from which they count; the last seventh if not given."
)
flags.DEFINE_multi_string("pretrain_flag", [], "Further flag for scripts/pretrain.py, repeatable.")
flags.DEFINE_multi_string("evaluate_flag", [], "Further flag for scripts/evaluate.py, repeatable.")
flags.DEFINE_list("task", ["linear"], "Tasks of scripts/evaluate.py.")
path_flags.DEFINE_path("output_dir", None, "Folder of the runs and the table.")


def run(script: str, *arguments: str) -> None:
    """Runs a script; its failure ends this one with its own message."""
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    print("$", "python", f"scripts/{script}", *arguments, flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def configuration(path: Path, arguments: list[str]) -> str:
    """Writes arguments to a flag file, and returns the flag that reads it.

    What a variant has no use for is then left out: it is not what the user gave for that variant.
    """
    path.write_text("".join(f"{argument}\n" for argument in arguments), encoding="utf-8")
    return f"--flagfile={path}"


def shared_arguments() -> list[str]:
    """Returns the arguments of scripts/pretrain.py that are the same for all variants."""
    given = image_flags.given()
    arguments = []
    if FLAGS.config:
        config = image_flags.expanded([f"--flagfile={presets.find(FLAGS.config)}"])
        arguments = common.config_lines(config, given)
    arguments += image_flags.arguments(given)
    for name in ("eval_dir", "epochs"):
        if FLAGS[name].value is not None:
            arguments.append(f"--{name}={FLAGS[name].value}")
    arguments = [*arguments, "--export=", "--evaluate=", *FLAGS.pretrain_flag]
    return image_flags.expanded(arguments)


def setting(arguments: list[str], name: str, default: str | None = None) -> str | None:
    """Returns the last value that a flag is given among expanded arguments."""
    prefix = f"--{name}="
    return next((a[len(prefix) :] for a in reversed(arguments) if a.startswith(prefix)), default)


def suited(arguments: list[str], method: str) -> list[str]:
    """Returns the arguments that a method takes, without those of PU weights.

    `--fidelity` is of RFD's program; other methods take its values as flags of their own.
    """
    from rfd_tf import methods
    from rfd_tf.training import fidelity

    accepted = methods.arguments(method)
    faithful = [a for a in arguments if a.lstrip("-").partition("=")[0] == "fidelity"]
    if method != "rfd" and faithful:
        arguments = [a for a in arguments if a not in faithful]
        if faithful[-1].partition("=")[2].lower() not in ("false", "0"):
            implied = []
            for name, value in fidelity.flag_values().items():
                if value not in (None, []):
                    text = str(value).lower() if isinstance(value, bool) else value
                    implied.append(f"--{name}={text}")
            arguments = [*implied, *arguments]
    unsuited = {name for name in methods.all_arguments() if name not in accepted}
    unsuited |= {"method", "pu_weights", "pu_start_epoch"}
    kept = []
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        option = name == "method_option" and value.partition("=")[0] not in accepted
        if not (option or name in unsuited or name.removeprefix("no") in unsuited):
            kept.append(argument)
    return kept


def plan(shared: list[str], pu_weights: str) -> list[tuple[str, str, bool, list[str]]]:
    """Returns name, description, whether PU weights are needed, and arguments of every variant."""
    from rfd_tf import applications
    from rfd_tf.errors import UserError, unknown
    from rfd_tf.training import ablation

    method = setting(shared, "method", "rfd")
    if method != "rfd":
        raise UserError(f"the ablations are those of the method rfd, not of '{method}'")
    chosen = {}
    for name in FLAGS.variants:
        if name not in ablation.VARIANTS:
            raise unknown("variant", name, ablation.VARIANTS)
        chosen[name] = ablation.VARIANTS[name]
    chosen.update({f"full_{name}": ablation.split_at(name) for name in FLAGS.split_endpoints})
    if any(each.from_end or "feature_endpoint" in each.settings for each in chosen.values()):
        backbone = applications.build(
            FLAGS.backbone, image_flags.config().side(), **common.backbone_options()
        )
        chosen = {name: ablation.resolve(each, backbone) for name, each in chosen.items()}
    epochs = setting(shared, "epochs", "100")
    if not epochs.isdigit():
        raise UserError(f"--epochs '{epochs}' must be a whole number")
    epochs = int(epochs)
    start = setting(shared, "pu_start_epoch", str(epochs - max(1, epochs // 7)))
    if FLAGS.pu_start_epoch is not None:
        start = FLAGS.pu_start_epoch
    rows = []
    for name, variant in chosen.items():
        arguments = [*suited(shared, variant.method), f"--method={variant.method}"]
        for key, value in variant.settings.items():
            arguments.append(f"--{key}={str(value).lower() if isinstance(value, bool) else value}")
        if variant.pu:
            arguments += [f"--pu_weights={pu_weights}", f"--pu_start_epoch={start}"]
        rows.append((name, variant.description, variant.pu, arguments))
    return rows


def estimate_pu_weights(output: Path) -> None:
    """Estimates the PU weights with the images, augmentation and network of the variants."""
    if output.exists():
        return
    arguments = [f"--output={output}"]
    for name, value in (("epochs", FLAGS.pu_epochs), ("folds", FLAGS.pu_folds)):
        if value is not None:
            arguments.append(f"--{name}={value}")
    images = image_flags.arguments(image_flags.given())
    run("estimate_pu.py", configuration(output.with_suffix(".cfg"), images), *arguments)


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
            f"({error!r}); repair it, or run the command with another --output_dir"
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


def trained(folder: Path) -> dict[str, str]:
    """Returns what a run trained: its losses, and the feature with its parts' dimensions."""
    with open(folder / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    feature = json.loads((folder / "run.json").read_bytes())["record"]["feature"]
    split = feature.get("split")
    parts = f" ({' + '.join(str(size) for size in split)})" if split else ""
    losses = [name.removesuffix("_loss") for name in last if name.endswith("_loss") and last[name]]
    return {"losses": ", ".join(losses), "feature": feature["endpoint"] + parts}


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
    names, texts = ["variant", "description", "runs"], ["losses", "feature"]
    found = {name for figures in rows for name in figures}
    texts = [name for name in texts if name in found]
    columns = list(dict.fromkeys([*names, *texts, *(name for one in rows for name in one)]))
    lines = ["| | " + " | ".join(figures["description"] for figures in rows) + " |"]
    lines.append("|---|" + "---:|" * len(rows))
    for column in columns:
        if column in names or column.endswith(" spread"):
            continue
        if column in texts:
            cells = [figures.get(column, "") for figures in rows]
            lines.append(f"| {column} | " + " | ".join(cells) + " |")
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
    data_flags.resolve()
    output = Path(FLAGS.output_dir)
    shared = shared_arguments()
    # From here on, these flags are the runs' own.
    image_flags.adopt(image_flags.settings(shared))
    given = FLAGS.pu_weights or setting(shared, "pu_weights")
    pu_weights = given or str(output / "pu_weights.npz")
    planned = plan(shared, pu_weights)
    RunFolder(output)
    rows, random = [], {}
    for name, description, pu, arguments in planned:
        if pu and not given:
            estimate_pu_weights(Path(pu_weights))
        folders = [output / name]
        if FLAGS.seeds:
            folders = [output / f"{name}_seed{seed}" for seed in FLAGS.seeds]
        for folder, seed in zip(folders, FLAGS.seeds or [None], strict=True):
            if (folder / "evaluation.json").exists():
                continue
            seeded = [] if seed is None else [f"--seed={seed}"]
            config = configuration(output / f"{name}.cfg", arguments)
            run("pretrain.py", config, *seeded, f"--output_dir={folder}")
            task = f"--task={','.join(FLAGS.task)}"
            run("evaluate.py", f"--weights={folder}", task, *seeded, *FLAGS.evaluate_flag)
        figures = row(name, description, [figures_of(folder) for folder in folders])
        rows.append({**figures, **trained(folders[0])})
        # A feature that several variants have is that of the first of them.
        twin = row("random_init", "random init", [random_figures(one) for one in folders])
        random = {**twin, **random}
        table = write_tables([random, *rows], output)
    print(f"\n{table}\nwritten: {output / 'ablations.md'}, .csv and .json")


if __name__ == "__main__":
    common.run(main)
