"""The ablations of RFD: what each variant trains, and the table of all of them."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import json
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

import rfd_tf
from research import runs
from rfd_tf import applications, estimation, methods
from rfd_tf.config import IMAGE_SETTINGS, PretrainConfig
from rfd_tf.errors import UserError, unknown
from rfd_tf.training import fidelity
from rfd_tf.training.run_folder import RunFolder

log = logging.getLogger("rfd_tf")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the ablations.

    Attributes:
        description: what is trained; `{endpoint}` stands for the layer that is split.
        method: a name in `rfd_tf.methods.METHODS`.
        settings: the run's settings that the variant fixes, by name.
        pu: whether the rotation loss is weighted by PU weights.
        from_end: which endpoint of the backbone is the feature, counted from the last, which is 1;
            None for that of the run.
    """

    description: str
    method: str = "rfd"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pu: bool = False
    from_end: int | None = None


_DECOUPLED = {"decoupled": True}
_SPLIT = "decoupled at {endpoint}, with PU weights"

#: The rows of the paper's table 4 (Feng, Xu, Tao, CVPR 2019): rotation, instance, decoupled, and
#: full at conv5, fc6 and fc7. `f1`, `f2` and `coupled` are further ones. AlexNet's endpoints end in
#: conv5, fc6 and fc7; other backbones are split at as many endpoints from the end.
VARIANTS: dict[str, Variant] = {
    "rotation": Variant("rotation only (RotNet)", "rotation"),
    "f1": Variant(
        "rotation only, on f1",
        settings={
            **_DECOUPLED,
            "lambda_distance": 0.0,
            "lambda_instance": 0.0,
            "lambda_contrast": 0.0,
        },
    ),
    # No rotated views, so an image has one crop a step.
    "instance": Variant("instance only, upright views", "instance", {"crops": 1}),
    "f2": Variant(
        "losses of f2 only, rotated views",
        settings={**_DECOUPLED, "lambda_rotation": 0.0, "lambda_distance": 0.0},
    ),
    "coupled": Variant(
        "rotation + instance, not decoupled", settings={"decoupled": False, "lambda_distance": 0.0}
    ),
    "decoupled": Variant("decoupled, without PU weights", settings=_DECOUPLED),
    "full_conv5": Variant(_SPLIT, settings=_DECOUPLED, pu=True, from_end=3),
    "full_fc6": Variant(_SPLIT, settings=_DECOUPLED, pu=True, from_end=2),
    "full": Variant("decoupled, with PU weights", settings=_DECOUPLED, pu=True),
}


def split_at(endpoint: str) -> Variant:
    """Returns the full method split at a layer of any name.

    >>> split_at("block3").settings["feature_endpoint"]
    'block3'
    """
    settings = {**_DECOUPLED, "feature_endpoint": endpoint}
    return Variant(_SPLIT.format(endpoint=endpoint), settings=settings, pu=True)


def resolve(variant: Variant, backbone: keras.Model) -> Variant:
    """Returns a variant with its endpoint by name, checked against a backbone.

    Args:
        variant: an entry of `VARIANTS`, or one by `split_at`.
        backbone: a functional model on images.

    Raises:
        UserError: the backbone has no such layer, or fewer endpoints.

    >>> backbone = applications.build("six_layer", 32)
    >>> resolve(VARIANTS["full_conv5"], backbone).description
    'decoupled at block4, with PU weights'
    """
    if variant.from_end is None:
        endpoint = variant.settings.get("feature_endpoint")
        if endpoint is not None:
            applications.pooled_feature_model(backbone, endpoint)
        return variant
    found = applications.endpoints(backbone)
    if len(found) < variant.from_end:
        raise UserError(
            f"a backbone with the endpoints {', '.join(found)} cannot be split "
            f"{variant.from_end} endpoints from the end; leave the variant out"
        )
    return split_at(found[-variant.from_end])


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant with the settings of its runs.

    Attributes:
        name, description: of the variant.
        pu: whether it needs PU weights.
        settings: of `rfd_tf.pretrain`, by name.
    """

    name: str
    description: str
    pu: bool
    settings: Mapping[str, Any]


def plan(
    settings: Mapping[str, Any],
    variants: Sequence[str] = tuple(VARIANTS),
    split_endpoints: Sequence[str] = (),
    pu_weights: str | None = None,
) -> list[Row]:
    """Returns the variants with the settings of each.

    Args:
        settings: of `rfd_tf.pretrain`, which all variants share; of the method rfd.
        variants: names in `VARIANTS`.
        split_endpoints: further layers at which the full variant is split.
        pu_weights: file of PU weights for the variants that have them.

    Raises:
        UserError: an unknown variant, another method, or a network without such a layer.

    >>> (row,) = plan({"backbone": "six_layer", "epochs": 7, "temperature": 0.1}, ["rotation"])
    >>> row.settings
    {'backbone': 'six_layer', 'epochs': 7, 'evaluate': [], 'export': [], 'method': 'rotation'}
    """
    config = _config(settings)
    if config.method != fidelity.METHOD:
        raise UserError(f"the ablations are those of the method rfd, not of '{config.method}'")
    if config.strategy == "multiworker":
        raise UserError("the ablations run on one machine; strategy is multiworker")
    chosen = {}
    for name in variants:
        if name not in VARIANTS:
            raise unknown("variant", name, VARIANTS)
        chosen[name] = VARIANTS[name]
    chosen.update({f"full_{name}": split_at(name) for name in split_endpoints})
    if any(each.from_end or "feature_endpoint" in each.settings for each in chosen.values()):
        own, _ = config.backbone_arguments()
        backbone = applications.build(config.backbone, config.side(), **own)
        chosen = {name: resolve(each, backbone) for name, each in chosen.items()}
    start = settings.get("pu_start_epoch")
    if start is None and any(each.pu for each in chosen.values()):
        if config.epochs is None:
            config.choose(config.images().train(config.tfds_download).num_images)
        start = config.epochs - max(1, config.epochs // 7)
    rows = []
    for name, variant in chosen.items():
        pu = {"pu_weights": pu_weights, "pu_start_epoch": start} if variant.pu else {}
        own = {**_suited(settings, variant.method), "evaluate": [], "export": []}
        fixed = {"method": variant.method, **variant.settings, **pu}
        own.update(fixed)
        # What the variant makes moot is no setting of it.
        configured = {*own, *own.get("method_option", ())} - fixed.keys()
        own = runs.effective(name, own, configured)
        rows.append(Row(name, variant.description, variant.pu, own))
    return rows


def _config(settings: Mapping[str, Any]) -> PretrainConfig:
    config = PretrainConfig.create(settings)
    if config.fidelity:
        config.follow_the_published_program()
    return config


def _suited(settings: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The settings that a method takes, without those of PU weights.

    `fidelity` is of RFD's program; other methods take its values as settings of their own.
    """
    settings = dict(settings)
    if method != fidelity.METHOD and settings.pop("fidelity", False):
        implied = {n: v for n, v in fidelity.flag_values().items() if v not in (None, [])}
        settings = {**implied, **settings}
    accepted = methods.arguments(method)
    unsuited = {name for name in methods.all_arguments() if name not in accepted}
    unsuited |= {"method", "pu_weights", "pu_start_epoch"}
    kept = {name: value for name, value in settings.items() if name not in unsuited}
    if "method_option" in kept:
        options = kept["method_option"].items()
        kept["method_option"] = {name: value for name, value in options if name in accepted}
    return kept


def ablate(
    settings: Mapping[str, Any],
    output: Path,
    variants: Sequence[str] = tuple(VARIANTS),
    *,
    split_endpoints: Sequence[str] = (),
    seeds: Sequence[int] = (),
    tasks: Sequence[str] = ("linear",),
    options: Mapping[str, Any] | None = None,
    pu_epochs: int | None = None,
    pu_folds: int | None = None,
    callbacks: Callable[[], Sequence[keras.callbacks.Callback]] = list,
) -> str:
    """Trains and evaluates the variants, and writes `ablations.md`, `.csv` and `.json`.

    Finished runs whose recorded settings agree are reused, interrupted ones resumed.

    Args:
        settings, variants, split_endpoints: see `plan`. PU weights are estimated where
            `pu_weights` is not among the settings.
        output: folder of the runs and the tables.
        seeds: to train every variant with; the seed of `settings` alone if none.
        tasks, options: of the evaluation, see `research.runs.tasks`.
        pu_epochs, pu_folds: see `pu_config` and `estimate_pu_weights`.
        callbacks: returns Keras callbacks for a run.

    Returns:
        The table as Markdown.

    Raises:
        UserError: what `plan` refuses, a run with other settings, or variants that failed, after
            all others.
    """
    given, options = settings.get("pu_weights"), dict(options or {})
    runs.tasks(tasks, options, 0)
    pu_weights = Path(given or output / "pu_weights.npz")
    rows = plan(settings, variants, split_endpoints, str(pu_weights))
    ledger = runs.Ledger(output)
    named: dict[str, dict[str, dict[str, Any]]] = {}  # variant -> folder's name -> settings
    for row in rows:
        own = dict(row.settings)
        seeded = {f"{row.name}_seed{seed}": {**own, "seed": seed} for seed in seeds}
        named[row.name] = seeded or {row.name: own}
        for name, each in named[row.name].items():
            ledger.check(name, each)
    RunFolder(output)

    def train(name: str, pu: bool, own: dict[str, Any]) -> None:
        # The draws of an evaluation follow the seeds, and are the same for all without them.
        seed = own["seed"] if seeds else 0
        evaluation = {"tasks": list(tasks), **options, "seed": seed}
        if not own.get("overwrite") and ledger.finished(name, "evaluation.json", evaluation):
            log.info(f"{name}: reused")
            return
        if pu and not given and not pu_weights.exists():
            estimate_pu_weights(pu_weights, settings, pu_epochs, pu_folds)
        log.info(f"{name}: training")
        ledger.begin(name, own)
        run = rfd_tf.pretrain(**own, output_dir=output / name, callbacks=callbacks())
        chosen, shared = runs.tasks(tasks, options, seed)
        run.evaluate(chosen, seed=seed, **shared)
        ledger.finish(name, evaluation)

    table, found, random, failed = "", [], {}, {}
    for row in rows:
        jobs = {
            name: functools.partial(train, name, row.pu, own)
            for name, own in named[row.name].items()
        }
        failed.update(runs.each(jobs))
        folders = [output / name for name in jobs if name not in failed]
        if folders:
            figures = mean_row(row.name, row.description, [figures_of(one) for one in folders])
            found.append({**figures, **trained(folders[0])})
            # A feature that several variants have is that of the first of them.
            twin = mean_row("random_init", "random init", [random_figures(f) for f in folders])
            random = {**twin, **random}
            table = write_tables([random, *found], output)
    runs.report_failed(failed)
    return table


def pu_config(settings: Mapping[str, Any], epochs: int | None = None) -> PretrainConfig:
    """Returns the images, augmentation, network and training that PU weights are estimated with.

    Args:
        settings: see `plan`.
        epochs: of each fold's network; those of `rfd_tf.estimate_pu_weights` if None.
    """
    implied = fidelity.flag_values() if settings.get("fidelity") else {}
    own = {**implied, **settings}
    own = {name: value for name, value in own.items() if name in IMAGE_SETTINGS}
    own.update(estimation.TRAINING, **({} if epochs is None else {"epochs": epochs}))
    return PretrainConfig.create(own, configured=own)


def estimate_pu_weights(
    output: Path, settings: Mapping[str, Any], epochs: int | None, folds: int | None
) -> None:
    """Estimates the PU weights of the variants; `folds` None for the usual number."""
    config = pu_config(settings, epochs)
    source = estimation.load(config)
    parts = {} if folds is None else {"num_folds": folds}
    how = estimation.estimation(config, source.num_images, **parts)
    estimation.run(source, how, output, progress=True)


def figures_of(folder: Path) -> dict[str, float]:
    """A run's figures, flat: "task feature images" -> accuracy in percent."""
    with _whole(folder):
        return _figures_of(folder)


@contextlib.contextmanager
def _whole(folder: Path):
    """Names the run whose files are missing or damaged."""
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


def mean_row(name: str, description: str, found: list[dict[str, float]]) -> dict:
    """A variant's figures: means over its runs and, of several, their sample deviations."""
    figures = {"variant": name, "description": description, "runs": len(found)}
    for key in found[0]:
        values = [run[key] for run in found]
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
