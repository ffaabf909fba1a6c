"""Pretraining in one call, and the run that it creates."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import inspect
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rfd_tf import extras
from rfd_tf.config import PretrainConfig
from rfd_tf.errors import UserError, unknown
from rfd_tf.paths import absolute

if TYPE_CHECKING:
    import keras
    import matplotlib.figure
    import numpy as np

    from rfd_tf.data.base import Source
    from rfd_tf.data.run_images import RunImages
    from rfd_tf.evaluation import Task, Verdict

_log = logging.getLogger("rfd_tf")
#: Names of images: see `data` of `pretrain`.
Images: TypeAlias = "str | os.PathLike | Sequence[str | os.PathLike]"
_BASELINES = {"_random_init": "random init", "_starting_weights": "starting weights"}
# Logged values that are not drawn: neither losses nor measures.
_NOT_DRAWN = {"epoch", "step", "images_per_second", "learning_rate"}


def pretrain(
    data: Images | Source | np.ndarray | None = None,
    *,
    backbone: str | os.PathLike | keras.Model | None = None,
    method: str = PretrainConfig.method,
    output_dir: str | os.PathLike | None = None,
    val_data: Images | Source | np.ndarray | None = None,
    callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback] = (),
    verbose: int = 1,
    **settings: Any,
) -> Run:
    """Pretrains a backbone on unlabelled images, or resumes the run in `output_dir`.

    The command `pretrain` calls the same code: the same settings train the same weights.

    Args:
        data: images to train on: a folder; several, as a list or with commas between them; a list
            of image files (`.csv`, `.tsv`, `.txt`, `.jsonl`, see `rfd_tf.data.image_list`); shards;
            the address of a list or of shards; `hf:NAME`; an embedded or TFDS dataset by name; a
            `rfd_tf.data.Source`; or uint8 `[N, H, W, 3]`. None
            if `settings` names the images (`source_images`).
        backbone: name of a network, see `rfd_tf.applications.BACKBONES`; the path of a `.keras`
            file; or a functional Keras model, images `[B, H, W, 3]` in, feature maps
            `[B, H, W, C]`, vectors `[B, C]` or tokens `[B, T, C]` out. Training starts from the
            model's weights; the model is not modified. `include_preprocessing` and `token_pooling`
            of `PretrainConfig` apply to it. The configuration's default if None.
        method: name of a method, see `rfd_tf.methods.METHODS`.
        output_dir: folder of the run. An existing run in it is resumed if its settings agree.
        val_data: labelled images for the kNN monitor and evaluation, in the same forms. If None
            and `data` has labels, a part of `data`.
        callbacks: Keras callbacks, called during training.
        verbose: 0 is silent; 1 logs to the standard output what the command prints.
        **settings: see `rfd_tf.config.PretrainConfig`; options of the method, such as
            `temperature`, by their names.

    Returns:
        The run.

    Raises:
        UserError: an unknown setting, with the nearest name, or a wrong value, before long work
            starts.
        KeyboardInterrupt: Ctrl-C, after the current step is finished and everything is saved.

    >>> import tempfile
    >>> run = pretrain("digits", backbone="six_layer", output_dir=tempfile.mkdtemp(), epochs=1,
    ...                steps_per_epoch=1, batch_size=8, num_negatives=8, monitor_every=0, verbose=0)
    >>> len(run.history), run.config.batch_size
    (1, 8)
    """
    given = {"backbone": backbone, "method": method, "output_dir": output_dir, **settings}
    return _pretrain(data, val_data, given, (), callbacks, verbose)


def _pretrain(
    data: Any,
    val_data: Any,
    settings: Mapping[str, Any],
    configured: Collection[str],
    callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback],
    verbose: int,
) -> Run:
    """Pretrains; `configured` are the names of the settings that a run recorded."""
    from rfd_tf.pretrainer import Pretrainer
    from rfd_tf.training.stopping import TrainingStopped

    named, source = images_of(data, "data")
    val_named, val_source = images_of(val_data, "val_data")
    given, model = {**named, **settings}, None
    backbone = given.get("backbone")
    if isinstance(backbone, os.PathLike):
        given["backbone"] = os.fspath(backbone)
    elif backbone is not None and not isinstance(backbone, str):
        model = given.pop("backbone")
    if "data_dir" in val_named:
        given["eval_dir"] = val_named["data_dir"]
    elif "dataset" in val_named and val_named["dataset"] != given.get("dataset"):
        val_source = _load(val_named["dataset"], given.get("eval_split") or "test", given)
        if not given.get("dataset"):
            given.pop("eval_split", None)  # of these images, not of those trained on
    given = {name: value for name, value in given.items() if value is not None}
    config = PretrainConfig.create(given, configured)
    with shown(verbose):
        try:
            Pretrainer(
                config,
                backbone=model,
                source=source,
                val_source=val_source,
                callbacks=callbacks,
                progress=bool(verbose),
            ).run()
        except TrainingStopped as stopped:
            if stopped.signal == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stopped.signal) from None
    return Run.open(config.output_dir)


class Run:
    """A pretraining's folder: its settings, its history, and the network it trained.

    Open one by `Run.open`; `pretrain` returns one. Where the path of a run is taken, as by
    `init_weights` and `teacher` of `pretrain`, a `Run` is taken, too.

    Attributes:
        directory: the folder.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "run.json").write_text('{"flags": {"epochs": 3}}')
    >>> Run.open(folder).config.epochs
    3
    """

    def __init__(self, directory: str | os.PathLike):
        self.directory = absolute(directory)

    def __fspath__(self) -> str:
        return str(self.directory)

    @classmethod
    def open(cls, directory: str | os.PathLike) -> Run:
        """Opens the folder of a run, finished or not.

        Raises:
            UserError: the folder does not exist, or contains no run.

        >>> Run.open("no/such/run")
        Traceback (most recent call last):
        ...
        rfd_tf.errors.UserError: no such run folder: ...
        """
        run = cls(directory)
        run.recorded()
        return run

    def recorded(self):
        """Returns the content of the folder's files, a `rfd_tf.interpret.report.RunRecord`."""
        from rfd_tf.interpret.report import read_run

        return read_run(self.directory)

    @property
    def config(self) -> PretrainConfig:
        """The settings that the run recorded: the values it was built with."""
        return PretrainConfig.of_flags(self.recorded().flags)

    @property
    def history(self) -> list[dict[str, float]]:
        """The logs, one dict per epoch: losses, accuracies, kNN accuracy, learning rate."""
        return self.recorded().epochs

    def health(self) -> Verdict | None:
        """Returns whether the training is learning, stalled or collapsed, with the reason.

        Computed from the epochs so far, without labels; see `rfd_tf.evaluation.FeatureHealth`.

        Returns:
            The verdict, or None before the first measurement.
        """
        return self.recorded().verdict

    def backbone(self, image_size: int | None = None) -> keras.Model:
        """Returns the trained network without top and pooling, like `keras.applications`.

        Its inputs are normalised pixels, see `rfd_tf.applications.preprocess_input` and `mean` and
        `std` of `config`.

        Args:
            image_size: side of its images, pixels; that of the training if None.

        Raises:
            UserError: no weights have been saved yet.
        """
        from rfd_tf import applications

        return applications.load_backbone(self.directory, image_size)[0]

    def plot(self) -> matplotlib.figure.Figure:
        """Draws the logs over the epochs, each quantity with its chance level.

        Returns:
            A Matplotlib figure.

        Raises:
            UserError: no epoch has been finished yet.
        """
        Figure = extras.load("matplotlib.figure", "Run.plot").Figure
        recorded = self.recorded()
        if not recorded.epochs:
            raise UserError(f"the run in '{self.directory}' has not finished an epoch yet")
        names = [
            name
            for name in dict.fromkeys(name for row in recorded.epochs for name in row)
            if name not in _NOT_DRAWN and not name.endswith(tuple(_BASELINES))
        ]
        columns = min(3, len(names))
        rows = -(-len(names) // columns)
        figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
        for name, axes in zip(
            names, figure.subplots(rows, columns, squeeze=False).flat, strict=False
        ):
            points = [(row["epoch"], row[name]) for row in recorded.epochs if name in row]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3)
            chance = recorded.chance_levels.get(name)
            last = recorded.epochs[-1]
            baselines = [(last.get(name + end), label) for end, label in _BASELINES.items()]
            start = (recorded.before_training.get(name), "before training")
            for level, label in ((chance, "chance"), *baselines, start):
                if level is not None:
                    axes.axhline(level, linestyle=":", color="grey", label=label)
                    axes.legend()
            axes.set_title(name)
            axes.set_xlabel("epoch")
        for axes in figure.axes[len(names) :]:
            axes.remove()
        return figure

    def evaluate(
        self,
        tasks: str | Task | Sequence[str | Task] = ("knn", "linear"),
        *,
        data: Images | Source | None = None,
        val_data: Images | Source | None = None,
        data_root: str | os.PathLike | None = None,
        verbose: int = 1,
        **options: Any,
    ) -> dict[str, Any]:
        """Evaluates the network and a random one, on the run's images or on others.

        Args:
            tasks: a name in `rfd_tf.evaluation.TASKS`, a task created with options, or several.
            data, val_data: labelled images to train and to evaluate probes on, see `pretrain`;
                those that the run recorded if None. If `data` is a list of files and `val_data`
                is None, its test rows are used for evaluation.
            data_root: the folder that the paths in a list are relative to; the list's own if None.
            verbose: 0 is silent.
            **options: `endpoints`, `batch_size`, `max_train_images`, `seed`, `cache_features`: see
                `rfd_tf.evaluation.evaluate`.

        Returns:
            The report, which is also written to `evaluation.json` in the run folder.

        Raises:
            UserError: an unknown task, or images without labels.
        """
        return evaluate(
            self.directory,
            tasks,
            data=data,
            val_data=val_data,
            data_root=data_root,
            verbose=verbose,
            **options,
        )

    def embed(
        self,
        data: Images | Source | np.ndarray,
        output_dir: str | os.PathLike | None = None,
        features: str | Sequence[str] = ("f",),
        *,
        verbose: int = 1,
        **options: Any,
    ) -> dict[str, Any]:
        """Embeds images: a folder or a list into files, pixels into arrays.

        Args:
            data: a folder of images, a list of folders, a list of files, the name of a dataset (its
                train split) or a `Source`, see `pretrain`; or pixels, uint8 `[N, S, S, 3]` of the
                run's image size.
            output_dir: folder to write; see `rfd_tf.export.embed_folder`. For images in files only.
            features: `f`, `f1`, `f2`, or layers by name.
            verbose: 0 is silent.
            **options: of `rfd_tf.export.embed_folder`; for pixels `batch_size` alone.

        Returns:
            For files, a report of what was written; for pixels, float32 `[N, D]` by feature.

        Raises:
            UserError: an unknown feature, a folder without `output_dir`, pixels of another type or
                shape, or options without effect on them.
        """
        return embed(self.directory, data, output_dir, features, verbose=verbose, **options)

    def export(
        self,
        formats: str | Sequence[str] = ("saved_model", "onnx"),
        output_dir: str | os.PathLike | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Exports the network with its preprocessing, each file checked against Keras.

        Args:
            formats: `saved_model`, `onnx`, `keras`.
            output_dir: folder to write; `export` in the run folder if None.
            **options: see `rfd_tf.export.export_backbone`; `data`, `data_root`: see
                `rfd_tf.export_model`.

        Returns:
            The model card, as in `card.json`.

        Raises:
            UserError: an unknown format.
            rfd_tf.export.ExportMismatch: a file gives other values than Keras; nothing is written.
        """
        if output_dir is None:
            output_dir = self.directory / "export"
            options.setdefault("overwrite", True)
        return export_model(self.directory, output_dir, formats, **options)

    def push(self, to: str, **options: Any) -> dict[str, Any]:
        """Exports the network with a model card and uploads it to the Hugging Face Hub.

        Args:
            to: the repository, `USER/REPO`.
            **options: see `rfd_tf.export.push`.

        Returns:
            The card; `card["hub"]` is the `hf://` place of what was uploaded, with its commit.
        """
        from rfd_tf import export

        _check_options("push", options, _options_of(export.push, "weights", "to"))
        return export.push(self.directory, to, **options)

    def report(
        self,
        output: str | os.PathLike | None = None,
        *,
        images: int = 1000,
        data: Images | Source | None = None,
        val_data: Images | Source | None = None,
        data_root: str | os.PathLike | None = None,
    ) -> Path:
        """Writes the report of the run: one self-contained HTML file.

        Args:
            output: the file; `report.html` in the run folder if None.
            images: largest number of test images; 0 omits the sections that need images.
            data, val_data, data_root: see `evaluate`.

        Returns:
            The path of the file.
        """
        from rfd_tf.data.run_images import RunImages
        from rfd_tf.interpret import report

        recorded = self.recorded()
        path = absolute(output) if output is not None else self.directory / "report.html"
        report.check_output(path)
        shown_images = None
        if images and recorded.has_weights:
            recorded_images = RunImages.of_run(self.directory)
            train, test = _sources(recorded_images, data, val_data, data_root)
            if train is None:
                raise UserError("the run does not record its images; give data, or images=0")
            shown_images = report.ReportImages(recorded, train, test, images, 128, 0)
        report.write(
            path, recorded, shown_images, no_images="the report was requested without images."
        )
        return path

    def resume(
        self,
        epochs: int | None = None,
        *,
        callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback] = (),
        verbose: int = 1,
        **settings: Any,
    ) -> Run:
        """Resumes training from the last checkpoint, with the settings that the run recorded.

        Args:
            epochs: total number of epochs; that of the run if None.
            callbacks, verbose: see `pretrain`.
            **settings: further settings to change.

        Raises:
            UserError: a setting differs that a resumed run must not change.
        """
        from rfd_tf.applications import custom

        config = self.config
        self._check_kept(config, settings)
        kept = {name: getattr(config, name, None) for name in config.given}
        kept.update(config.method_option)
        for name in ("overwrite", "resume", "method_option"):
            kept.pop(name, None)
        if "architecture" in self.recorded().record:
            # (It includes the pooling of tokens.)
            kept.pop("token_pooling", None)
            kept["backbone"] = self.directory / custom.FILE
        if epochs is not None:
            settings["epochs"] = epochs
        kept["output_dir"] = self.directory
        data, val_data = (settings.pop(name, None) for name in ("data", "val_data"))
        if data is not None or settings.keys() & {"data_dir", "dataset"}:
            for name in ("data_dir", "dataset", "data_root"):
                kept.pop(name, None)
        configured = kept.keys() - settings.keys()
        return _pretrain(data, val_data, {**kept, **settings}, configured, callbacks, verbose)

    def _check_kept(self, config: PretrainConfig, settings: Mapping[str, Any]) -> None:
        """Raises `UserError` for what a resumed run keeps, before other settings are checked."""
        from rfd_tf.methods.teacher import IN_PYTHON

        for name in ("output_dir", "method", "backbone", "teacher"):
            value, known = settings.get(name), getattr(config, name)
            if None in (value, known) or str(known).startswith(IN_PYTHON):
                continue
            if name == "output_dir":
                known = str(self.directory)
            elif name == "backbone" and "architecture" in self.recorded().record:
                continue  # compared by architecture
            text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
            if text is None or known not in (text, str(absolute(text))):
                called = type(value).__name__ if text is None else f"'{text}'"
                raise UserError(
                    f"{name} {called} is not that of the run in '{self.directory}', '{known}', "
                    f"which a resumed run keeps; leave {name} out, or start a new run by pretrain "
                    "with this one as init_weights"
                )

    def __repr__(self) -> str:
        return f"Run('{self.directory}')"

    def _repr_html_(self) -> str:
        """Returns a small card for notebooks: model, epochs done, and the last values."""
        recorded = self.recorded()
        flags, last = recorded.flags, recorded.epochs[-1] if recorded.epochs else {}
        head = (
            f"{flags.get('method')} on {flags.get('backbone')}: epoch {recorded.epochs_done} of "
            f"{flags.get('epochs')}"
        )
        verdict = recorded.verdict
        health = f"<br>health: {html.escape(str(verdict))}" if verdict else ""
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value:.4g}</td></tr>"
            for name, value in last.items()
            if name not in ("epoch", "step")
        )
        return (
            f"<b>{html.escape(head)}</b><br><code>{html.escape(str(self.directory))}</code>"
            f"{health}<table>{rows}</table>"
        )


@contextlib.contextmanager
def _place(
    network: str | os.PathLike | Run | keras.Model,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Iterator[str | os.PathLike]:
    """Yields the folder, file or name of a network; a temporary folder for a Keras model."""
    if isinstance(network, str | os.PathLike):
        if mean is not None or std is not None:
            raise UserError("mean and std go with a keras.Model; other networks record their own")
        yield network
        return
    from rfd_tf.applications import registry

    with tempfile.TemporaryDirectory() as folder:
        yield registry.save_model(network, folder, mean, std)


def evaluate(
    weights: str | os.PathLike | Run | keras.Model,
    tasks: str | Task | Sequence[str | Task] = ("knn", "linear"),
    *,
    data: Images | Source | None = None,
    val_data: Images | Source | None = None,
    data_root: str | os.PathLike | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    verbose: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Evaluates a network and a random one; see `Run.evaluate`.

    Args:
        weights: a run, its folder, a `.weights.h5` file, a shipped name, or a `keras.Model` (see
            `backbone` of `pretrain`). The report of a run is written to its folder.
        tasks, data, val_data, data_root, verbose, **options: see `Run.evaluate`. Images are
            required if `weights` is not a run.
        mean, std: of a `keras.Model`'s pixels / 255, three numbers each; ImageNet's if None.

    Returns:
        The report.

    >>> from rfd_tf import data
    >>> some = data.digits("test")
    >>> report = evaluate("six_layer.rfd_cifar10", "knn", data=some, val_data=some, verbose=0)
    >>> report["results"][0]["task"]
    'knn'
    """
    with _place(weights, mean, std) as place:
        return _evaluate(place, tasks, data, val_data, data_root, verbose, options)


def _evaluate(
    weights: str | os.PathLike,
    tasks: str | Task | Sequence[str | Task],
    data: Any,
    val_data: Any,
    data_root: str | os.PathLike | None,
    verbose: int,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    from rfd_tf import evaluation
    from rfd_tf.data.run_images import RunImages
    from rfd_tf.evaluation.runner import output_locked, save_report

    own = ("weights", "tasks", "train", "test", "progress", "output", "say")
    try:
        _check_options("evaluate", options, _options_of(evaluation.evaluate, *own))
    except UserError as error:
        raise UserError(f"{error}; a task takes its own, as in KNearestNeighbours(k=5)") from None
    folder = absolute(weights) if absolute(weights).is_dir() else None
    chosen = []
    for task in [tasks] if isinstance(tasks, str | evaluation.Task) else tasks or ():
        if isinstance(task, str):
            if task not in evaluation.TASKS:
                raise unknown("task", task, evaluation.TASKS)
            made = evaluation.TASKS[task]
            task = made(**{k: options[k] for k in {"seed"} & options.keys() & _options_of(made)})
        if not isinstance(task, evaluation.Task):
            raise UserError(f"task {task!r} must be a name or an object of rfd_tf.evaluation")
        chosen.append(task)
    if not chosen:
        raise UserError(f"no task is given; options: {', '.join(evaluation.TASKS)}")
    train = test = None
    if any(task.needs_labels for task in chosen):
        recorded = RunImages() if folder is None else RunImages.of_run(folder)
        train, test = _sources(recorded, data, val_data, data_root)
        if train is None:
            raise UserError("give data, the labelled images that probes are trained on")
    output = None if folder is None else folder / "evaluation.json"
    with shown(verbose), contextlib.nullcontext() if output is None else output_locked(output):
        report = evaluation.evaluate(
            weights,
            chosen,
            train,
            test,
            progress=bool(verbose),
            output=None if output is None else output.with_name("evaluation_files"),
            say=_log.info,
            **options,
        )
        if output is not None:
            report = save_report(report, output, _log.info)
    return report


def embed(
    weights: str | os.PathLike | Run | keras.Model,
    data: Images | Source | np.ndarray,
    output_dir: str | os.PathLike | None = None,
    features: str | Sequence[str] = ("f",),
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    verbose: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Embeds images with a pretrained network; see `Run.embed`.

    Args:
        weights, mean, std: see `evaluate`.
        data, output_dir, features, verbose, **options: see `Run.embed`.

    >>> import numpy as np
    >>> pixels = np.zeros((2, 32, 32, 3), "uint8")
    >>> embed("six_layer.rfd_cifar10", pixels)["f"].shape
    (2, 128)
    """
    from rfd_tf import export
    from rfd_tf.data.run_images import RunImages

    with _place(weights, mean, std) as place:
        embedder = export.keras_embedder(place, features)
        if hasattr(data, "shape"):
            without_effect = [name for name in options if name != "batch_size"]
            without_effect += ["output_dir"] if output_dir is not None else []
            if without_effect:
                raise UserError(
                    f"{', '.join(without_effect)}: no effect on an array of pixels, whose features "
                    "are returned; leave it out, or give a folder of images"
                )
            return export.embed_pixels(embedder, data, **options)
        recorded = RunImages.of_run(place)
    own = ("embedder", "directory", "output_dir", "make_parts")
    _check_options("embed", options, _options_of(export.embed_folder, *own))
    if data is None:
        raise UserError("data is None; give the images to embed")
    named, _ = images_of(data, "data")
    if output_dir is None:
        raise UserError("give output_dir, the folder that the embeddings are written to")
    if "dataset" in named:
        data = _load(named["dataset"], "train", {})
    with shown(verbose):
        options = {**recorded.reading(), "progress": bool(verbose), **options}
        return export.embed_folder(embedder, data, output_dir, **options)


def export_model(
    weights: str | os.PathLike | Run | keras.Model,
    output_dir: str | os.PathLike,
    formats: str | Sequence[str] = ("saved_model", "onnx"),
    *,
    data: Images | Source | np.ndarray | None = None,
    data_root: str | os.PathLike | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Exports a pretrained network with its preprocessing; see `Run.export`.

    Args:
        weights, mean, std: see `evaluate`.
        output_dir: folder to write.
        data: images to calibrate `quantize` on, in the forms of `pretrain`; those that the run
            was trained on if None.
        data_root: the folder that the paths in a list are relative to; the list's own if None.
        formats, **options: see `Run.export`.

    >>> import tempfile
    >>> card = export_model("six_layer.rfd_cifar10", tempfile.mkdtemp(), "keras")
    >>> sorted(card["verification"])
    ['keras']
    """
    from rfd_tf import export
    from rfd_tf.data.run_images import RunImages

    _check_options("export", options, _options_of(export.export_backbone, "weights", "output_dir"))
    calibrates = bool(options.get("quantize"))
    if data is not None:
        if options.get("calibration") is not None:
            raise UserError("data and calibration are the same images; give one of them")
        if not calibrates:
            raise UserError("data goes with quantize=int8 or float16")
    formats = (formats,) if isinstance(formats, str) else tuple(formats)
    with _place(weights, mean, std) as place:
        if calibrates and options.get("calibration") is None:
            named, source = images_of(data, "data")
            images = RunImages.of_run(place).replaced(**named, data_root=data_root)
            if source is None and (images.dataset or images.data_dir or images.photos):
                source = images.train()
            options["calibration"] = source
        return export.export_backbone(place, output_dir, formats, **options)


def _options_of(function: Callable[..., Any], *but: str) -> set[str]:
    """Returns the names of a function's arguments except some."""
    return set(inspect.signature(function).parameters) - set(but)


def _check_options(of: str, options: Iterable[str], known: Collection[str]) -> None:
    """Raises `UserError` for an option that is not known."""
    for name in options:
        if name not in known:
            raise unknown(f"option of {of}", name, sorted(known))


@contextlib.contextmanager
def shown(verbose: int) -> Iterator[None]:
    """Shows the package's log on the standard output, a message per line, unless `verbose` is 0.

    Does nothing if the program has set up logging for `rfd_tf` itself.
    """
    if not verbose or _log.handlers:
        yield
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level, propagate = _log.level, _log.propagate
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        _log.propagate = propagate


def images_of(data: Any, name: str) -> tuple[dict[str, Any], Source | None]:
    """Returns settings that name images, or the images themselves; see `pretrain`."""
    import numpy as np

    from rfd_tf.data.base import ArraySource, Source
    from rfd_tf.data.given import missing, place_of

    if data is None or isinstance(data, Source):
        return {}, data
    if isinstance(data, str | os.PathLike) or (
        isinstance(data, list | tuple) and all(isinstance(one, str | os.PathLike) for one in data)
    ):
        named = place_of(data)
        gone = missing(named.get("data_dir", ""))
        if gone:
            raise UserError(f"no such folder or list: '{gone}'; give an existing one as {name}")
        return named, None
    if hasattr(data, "shape"):
        return {}, ArraySource(np.asarray(data), name=name)
    raise UserError(
        f"{name} of type {type(data).__name__} holds no images; give a folder, a list of folders, "
        "a list of image files, a dataset's name, a Source or a uint8 array [N, height, width, 3]"
    )


def _load(dataset: str, split: str, settings: Mapping[str, Any]) -> Source:
    from rfd_tf import data

    names = ("tfds_dir", "max_skipped", "max_megapixels")
    options = {name: settings[name] for name in names if settings.get(name) is not None}
    return data.load(dataset=dataset, split=split, **options)


def _sources(
    recorded: RunImages, data: Any, val_data: Any, data_root: str | os.PathLike | None
) -> tuple[Source | None, Source | None]:
    """Returns train and test images of an evaluation; those that the run recorded by default."""
    named, train = images_of(data, "data")
    val_named, test = images_of(val_data, "val_data")
    images = recorded.replaced(**named)
    if "data_dir" in val_named:
        images = dataclasses.replace(images, eval_dir=val_named["data_dir"])
    elif val_named and val_named["dataset"] != images.dataset:
        test = _load(val_named["dataset"], "test", {})
    images = images.replaced(data_root=data_root and os.fspath(data_root))
    if train is None and images.named:
        train, held_out = images.evaluation()
        return train, held_out if test is None else test
    return train, images.test() if test is None and val_named else test
