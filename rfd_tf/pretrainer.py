"""Runs a pretraining from its configuration, for the command and for `rfd_tf.pretrain`."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import logging
import math
import os
import platform
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from rfd_tf import applications, evaluation, export, methods, recipes, recording
from rfd_tf.applications import custom, hub
from rfd_tf.applications import start as starts
from rfd_tf.applications.weights import RUN_FILE, sha256
from rfd_tf.config import PretrainConfig
from rfd_tf.data import views
from rfd_tf.data.base import Source
from rfd_tf.data.photos import sheet
from rfd_tf.data.run_images import shared_images
from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation import FeatureHealth, health
from rfd_tf.evaluation.heads import save_heads
from rfd_tf.evaluation.runner import output_locked, save_report
from rfd_tf.evaluation.splits import check_classes
from rfd_tf.evaluation.table import summary
from rfd_tf.interpret.report import read_run
from rfd_tf.layers.batch_norm import batch_normalizations
from rfd_tf.methods.fitting import as_list
from rfd_tf.paths import absolute
from rfd_tf.training import (
    callbacks,
    checkpoint,
    fidelity,
    image_list,
    pretraining,
    trackers,
    workers,
)
from rfd_tf.training import strategy as strategies
from rfd_tf.training.folder_lock import FolderLock
from rfd_tf.training.run_folder import RunFolder, full_disk_reported
from rfd_tf.training.saving import BackgroundSaver
from rfd_tf.training.stopping import StopRequest, TrainingStopped

log = logging.getLogger("rfd_tf")

IMAGENET_IMAGES = 1_281_167


class Pretrainer:
    """Pretrains into a run folder, or resumes the run in it.

    Args:
        config: checked by `PretrainConfig.check`.
        backbone: a functional Keras model that replaces the configured one. Training starts from
            its weights; the model itself is not modified.
        source: images to train on; those of the configuration if None.
        val_source: images to evaluate on; those of the configuration if None.
        callbacks: further Keras callbacks, called after those of the run and before its checkpoint.
        progress: whether to show a progress bar and one line per epoch.

    Raises:
        UserError: names the setting, the value and what to do, before long work starts.
    """

    def __init__(
        self,
        config: PretrainConfig,
        *,
        backbone: keras.Model | None = None,
        source: Source | None = None,
        val_source: Source | None = None,
        callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback] = (),
        progress: bool = True,
    ):
        self.config = config
        if backbone is not None:
            config.take(backbone)
            config.backbone = str(absolute(config.output_dir or ".") / custom.FILE)
        self._called = "the Keras model given as backbone" if backbone is not None else None
        self.callbacks = as_list(callbacks)
        self.progress = progress
        self._given_source, self._given_val_source = source, val_source

    def run(self) -> None:
        """Trains to the last epoch, evaluates and exports.

        Raises:
            TrainingStopped: a signal stopped the training; everything is saved.
        """
        config = self.config
        config.check()
        if config.fidelity:
            own = config.follow_the_published_program()
            but = f", except {' '.join(f'--{each}' for each in own)}" if own else ""
            log.info(f"like the published RFD program{but}")
        if dropped := config.drop_moot():
            log.info(f"ignored, no effect here: {'; '.join(dropped)}")
        if config.deterministic:
            tf.config.experimental.enable_op_determinism()
        if config.strategy == "multiworker":
            log.info(f"waiting up to {workers.START_TIMEOUT:g} s for all workers of TF_CONFIG")
        self.strategy = strategies.build(config.strategy, config.logical_devices)
        worker, num_workers = strategies.worker(self.strategy)
        self.chief = worker == 0
        with workers.lost_workers_reported(num_workers):
            self.folder = RunFolder(config.output_dir, config.keep_checkpoints)
            # The workers of one run share its folder.
            locked = FolderLock(self.folder.directory) if self.chief else contextlib.nullcontext()
            with locked as self.lock:
                self._run_in_folder()

    def _run_in_folder(self) -> None:
        config, folder = self.config, self.folder
        start = self._starting_weights()
        self.images = config.images()
        self.source = self._given_source or config.training_images([folder.directory])
        log.info(self.source.summary())
        self.evaluated: tuple[Source, Source | None] = (self.source, None)
        if config.monitor_every > 0 or config.evaluate:
            self.evaluated = self._sources_to_evaluate()
        tasks = self._evaluation_tasks()
        if config.batch_size is None:
            config.batch_size = self._batch_size_of_run()
        self.session = session = self.build(self.source, self.strategy, start)
        for task in tasks:
            if task.needs_head and task.needs_head not in session.method.heads():
                raise UserError(
                    f"evaluate={task.name} needs a {task.needs_head}, and method {config.method} "
                    f"trains none; leave {task.name} out"
                )
        method = session.method
        self.record = {
            "format": 1,
            "backbone": custom.FILE if config.model is not None else config.backbone,
            "arguments": config.backbone_arguments()[0],
            "method": config.method,
            "dataset": self.source.name,
            "endpoints": list(applications.endpoints(method.backbone)),
            **method.record(),
        }
        if start:
            self.record["started_from"] = start.origin
            log.info(f"starting from the weights of {start.origin['weights']}")
        log.info(self._description())

        # From here on files are written.
        start_step = self._open_run(start)
        self._write_skipped()
        if self.chief and config.source_images:
            path = folder.path("figures")
            path.mkdir(exist_ok=True)
            picture = sheet(self.source, session.image_size)
            Image.fromarray(picture).save(path / "source_crops.png")
        to_do = start_step < config.epochs * session.steps_per_epoch
        with trackers.logged(
            self.callbacks if self.chief else (),
            (folder.read() or {}).get("flags", {}),
            folder.directory,
            evaluated=bool(tasks),
            exported=bool(config.export),
        ):
            self._train_and_finish(start, start_step, to_do, tasks)
        if self.monitor and self.monitor.latest is not None:
            measured = self.monitor.latest, self.monitor.random_init, self.monitor.start
            log.info(evaluation.comparison(*measured, self.monitor.measure.num_test))

    def _train_and_finish(
        self, start: starts.Start | None, start_step: int, to_do: bool, tasks: list
    ) -> None:
        """Trains what is left to do; the first machine evaluates and exports."""
        config, session, method = self.config, self.session, self.session.method
        self.monitor = None
        if self.chief and to_do and config.monitor_every > 0:
            # Created before the checkpoint is loaded (below), because it measures random init.
            self.monitor = self._make_monitor(start)
        state = self._load_checkpoint(start_step)
        if start_step == 0 and config.fill_bank and method.memory_bank is not None:
            log.info("filling the memory bank with one forward pass")
            session.fill_memory_bank()
        if to_do:
            self._train(start_step, state)
        else:
            epoch = start_step / session.steps_per_epoch
            if epoch > config.epochs:
                log.info(
                    f"the run has trained for {epoch:g} epochs, --epochs={config.epochs} is less"
                )
            log.info("the run is complete; raise --epochs to continue training")
            if self.chief:
                self._restore_files(epoch)
        if self.chief:
            self._finish(tasks)

    # -- before training --------------------------------------------------------------------

    def _starting_weights(self) -> starts.Start | None:
        """Returns the weights that the backbone starts from, or None for random ones.

        A resumed run has its weights in the checkpoint: the file that it started from may have
        been changed or removed since.
        """
        config = self.config
        own, weights = config.backbone_arguments()
        resumes = config.resume == "auto" and not config.overwrite
        if resumes and self.folder.checkpoints.latest():
            run = self.folder.read() or {}
            record = run.get("record") or {}
            started = record.get("started_from") or {}
            same = config.model is not None and run["identity"].get("backbone") == self._identity()
            if same:
                # (The given model's layers may have other names now.)
                config.model = custom.read(self.folder.path(custom.FILE))
            path = os.path.abspath(os.path.expanduser(str(weights)))
            known = started.get("weights") in (weights, path, os.path.join(path, RUN_FILE))
            known = known or hub.same(weights, started.get("weights"))
            if started and (known or (same and weights is None)):
                pixels = {name: record[name] for name in ("mean", "std") if name in record}
                return starts.Start(started, pixels or None)
        if weights is None and config.model is None:
            return None
        # Built before images are read, which may take long, to check sizes and weights first.
        network = config.untrained_backbone()
        if config.freeze_until is not None:
            applications.freeze(network, config.freeze_until)
        if weights is not None:
            return starts.load(weights, config.backbone, network, own)
        path = os.path.abspath(os.path.expanduser(config.backbone))
        return starts.of_model(config.model, self._called or config.model_origin or path)

    def _identity(self) -> str:
        """Returns the backbone's name, or a digest of its architecture, to compare on resume."""
        if self.config.model is None:
            return self.config.backbone
        return f"keras.Model {custom.digest(self._architecture)[:16]}"

    @functools.cached_property
    def _architecture(self) -> keras.Model:
        """The given Keras model, untrained, as saved in the run folder."""
        with pretraining.dtype_policy("float32"):
            return applications.portable(self.config.untrained_backbone())

    def _sources_to_evaluate(self) -> tuple[Source, Source | None]:
        """Returns labelled train and test images; test is None to hold out a part of train.

        If the training images have no labels, such as crops of photographs, the test images are
        used for both.
        """
        config, source = self.config, self.source
        test = self._given_val_source
        if test is None and (self._given_source is None or config.eval_dir):
            test = self.images.test(config.tfds_download, leave_out=[config.output_dir])
        if test is not None:
            log.info(f"to evaluate: {test.summary()}")
            if count := shared_images(source, test):
                log.info(
                    f"note: trained on {count} of the {test.num_images} test images of {test.name}"
                )
        if source.labels is None and test is not None and test.labels is not None:
            return test, None
        if test is None and source.labels is not None:
            log.info(
                "no test images: a fifth of the training images is held out for kNN and probes"
            )
        return source, test

    def _evaluation_tasks(self) -> list:
        """Returns the tasks of the setting `evaluate`, checked before training."""
        names = self.config.evaluate
        for name in names:
            if name not in evaluation.TASKS:
                raise unknown("evaluation task", name, evaluation.TASKS)
        if names:
            check_classes(*self.evaluated)
        return [evaluation.TASKS[name]() for name in names]

    def build(
        self, source: Source, strategy: tf.distribute.Strategy, start: starts.Start | None = None
    ) -> pretraining.Pretraining:
        """Creates backbone, method and optimizer from the configuration.

        Args:
            source: the images.
            strategy: the strategy that trains.
            start: the weights that the backbone starts from, or None.
        """
        config = self.config
        self.chosen = config.choose(source.num_images)
        arguments = config.method_arguments(source, start and start.normalization)
        most_momentum = config.most_batch_norm_momentum(source.num_images)
        # (As Keras does: XLA's kernels are not deterministic on GPUs.)
        auto = config.jit_compile == "auto"
        jit_compile = "false" if auto and config.deterministic else config.jit_compile

        def build_backbone():
            own, _ = config.backbone_arguments()
            backbone = config.untrained_backbone()
            given = start is not None and start.values is not None
            if given:
                start.load_into(backbone)
            if config.fidelity:
                if not given:
                    fidelity.initialize(backbone.layers, config.seed)
                # The network is rebuilt from the record's options, including their epsilon.
                epsilon = own.get("batch_norm_epsilon")
                backbone = fidelity.apply_batch_normalization(backbone, epsilon)
            # (A configuration may set it although this network has no batch normalisation.)
            explicit = "batch_norm_momentum" in config.given - config.configured
            if config.batch_norm_momentum is not None and (
                explicit or any(True for _ in batch_normalizations(backbone))
            ):
                pretraining.set_batch_norm_momentum(backbone, config.batch_norm_momentum)
            elif most_momentum is not None:
                self._bound_batch_norm_momentum(backbone, most_momentum)
            if config.freeze_until is not None:
                applications.freeze(backbone, config.freeze_until)
            return backbone

        def build_method(backbone):
            method = methods.METHODS[config.method](backbone, **arguments)
            if config.fidelity:
                fidelity.initialize(method.heads().values(), config.seed + 1)
            return method

        return pretraining.Pretraining(
            build_backbone=build_backbone,
            build_method=build_method,
            source=source,
            image_size=config.side(),
            optimization=config.optimization(),
            augmentation=config.augmentation(),
            strategy=strategy,
            policy=strategies.precision_policy(config.mixed_precision),
            jit_compile=jit_compile,
            seed=config.seed,
        )

    def _bound_batch_norm_momentum(self, backbone: keras.Model, most: float) -> None:
        own = [layer.momentum for layer in batch_normalizations(backbone)]
        if own and max(own) > most:
            pretraining.set_batch_norm_momentum(backbone, most)
            self.chosen["batch_norm_momentum"] = most

    def _choices(self) -> str:
        """Returns the chosen settings that have an effect, in one line, or an empty text."""
        config, built = self.config, recording.built(self.config, self.session)
        if config.fidelity or config.preset == "paper":
            return ""
        listed = " ".join(
            f"{name}={built[name]}" for name in self.chosen if built.get(name) is not None
        )
        preset = recipes.preset_for(config.side()) if config.preset == "auto" else config.preset
        return f"chosen (preset {preset}, {self.source.num_images:,} images): {listed}"

    def _description(self) -> str:
        """Returns a paragraph that describes the run."""
        config, session, method = self.config, self.session, self.session.method
        parameters = sum(math.prod(variable.shape) for variable in method.trainable_variables)
        name = config.backbone if config.model is None else f"Keras model '{config.model.name}'"
        lines = [
            f"{config.method} on {name}: {parameters:,} trainable parameters, feature "
            f"'{method.feature_endpoint}' of {method.feature_dimensions} dimensions",
            f"{session.optimization.epochs} epochs of {session.steps_per_epoch} steps of "
            f"{session.optimization.batch_size} images, "
            f"{session.strategy.num_replicas_in_sync} replica(s), {session.policy}"
            + (" (chosen by --mixed_precision=auto)" if config.mixed_precision == "auto" else "")
            + (", compiled by XLA" if session.jit_compile else ""),
        ]
        if choices := self._choices():
            lines.append(choices)
        bank = method.memory_bank
        if bank is not None:
            row = bank.dimensions * (4 if bank.storage_dtype == "float32" else 2) / 2**20
            lines.append(
                f"memory bank of {bank.num_images:,} x {bank.dimensions} {bank.storage_dtype}: "
                f"{bank.num_images * row:,.1f} MiB ({IMAGENET_IMAGES * row:,.1f} MiB for the "
                f"{IMAGENET_IMAGES:,} images of ImageNet)"
            )
        return "\n".join(lines)

    def _batch_size_of_run(self) -> int | None:
        """Returns the batch size of the run to resume; what is chosen may depend on the epochs."""
        config = self.config
        if config.resume == "never" or config.overwrite or not self.folder.checkpoints.latest():
            return None
        found = (self.folder.read() or {}).get("identity", {}).get("batch_size")
        return found if isinstance(found, int) and found > 0 else None

    def _open_run(self, start: starts.Start | None) -> int:
        """Starts or resumes the run; returns the number of completed steps."""
        config, session, source, folder = self.config, self.session, self.source, self.folder
        identity = {
            "method": config.method,
            "dataset": source.name,
            "fingerprint": source.fingerprint,
            "num_images": source.num_images,
            "image_size": session.image_size,
            "backbone": self._identity(),
            "backbone_options": self.record["arguments"],
            "started_from": (self.record.get("started_from") or {}).get("sha256"),
            "freeze_until": config.freeze_until,
            "batch_size": config.batch_size,
            "steps_per_epoch": session.steps_per_epoch,
            "seed": config.seed,
            **session.method.identity(),
        }
        step = 0
        if self.chief:
            content = {
                "flags": recording.flags(config, session, self.record),
                "identity": identity,
                "built": session.built(),
                "record": self.record,
                "chance_levels": session.method.chance_levels(),
                "versions": {
                    "python": platform.python_version(),
                    "tensorflow": tf.__version__,
                    "keras": keras.__version__,
                },
                "started": datetime.datetime.now(datetime.timezone.utc).isoformat(
                    timespec="seconds"
                ),
            }
            found = folder.start(identity, config.resume, config.overwrite, source)
            if config.model is not None:
                self._write_architecture(found is not None)
            if start is not None and start.values is not None and not found:
                record = {**self.record, "epoch": 0}
                applications.save_backbone(
                    session.method.backbone, folder.path(starts.FILE), record
                )
            if found:
                step = int(checkpoint.read_description(found)["step"])
                before = folder.read() or {}
                # (The rows of metrics.csv stay, also if no accuracy is measured from here on.)
                content["knn_test_images"] = before.get("knn_test_images")
                called = before["identity"].get("dataset")
                if called != source.name:
                    log.info(f"note: the images were named '{called}', now '{source.name}'")
                complete = step >= config.epochs * session.steps_per_epoch
                for change in recording.changes(
                    before.get("flags", {}), content["flags"], complete
                ):
                    log.info(f"note: --{change}")
                if complete:
                    content = recording.of_complete_run(before, content)
            folder.write(**content)
            image_list.write(folder.path(image_list.FILE), source)
        # (Each machine may have mounted the images under another name.)
        strategies.check_same(session.strategy, {**identity, "dataset": None})
        # One process decides, so that no worker resumes while another starts from scratch.
        return strategies.agree(session.strategy, step)

    def _write_architecture(self, resumes: bool) -> None:
        """Writes the given Keras model, untrained, from which later commands build the network.

        Args:
            resumes: whether the run exists already, and its architecture file with it.
        """
        path = self.folder.path(custom.FILE)
        if not resumes or not path.exists():
            self._architecture.save(path)
        self.record["architecture"] = {"name": self.config.model.name, "sha256": sha256(path)}

    def _load_checkpoint(self, step: int) -> dict:
        """Restores the state after `step` steps, unless that is the start.

        Returns:
            The description of the checkpoint.
        """
        if not step:
            return {}
        path = self.folder.checkpoints.path(step)
        if not path.exists():
            raise UserError(
                f"{path} does not exist: --output_dir must be a folder that all machines share"
            )
        description = checkpoint.load(path, self.session.method, self.session.optimizer)
        epoch = step / self.session.steps_per_epoch
        log.info(f"resuming after epoch {epoch:g} from {path}")
        return description

    def _make_monitor(self, start: starts.Start | None) -> callbacks.Monitor | None:
        """Returns the monitor of the feature's kNN accuracy, or None without labels."""
        train, test = self.evaluated
        if train.labels is None:
            log.info(
                "no labels, so no kNN monitor; name sub-folders by class or give labelled val_data"
            )
            return None
        method = self.session.method
        measure = evaluation.NeighbourMonitor(
            method.feature_model,
            train,
            test,
            method.image_size,
            method.mean,
            method.std,
            max_train=self.config.monitor_images,
            stretch=self.session.stream.stretched,
        )
        # The random network of this seed, even if the run starts from weights.
        random_init, started = measure(), None
        if start is not None:
            started = random_init if start.values is not None else None
            config, backbone = self.config, method.backbone
            kept, path = backbone.get_weights(), self.folder.path(starts.FILE)
            keras.utils.set_random_seed(config.seed)
            backbone.set_weights(config.untrained_backbone().get_weights())
            random_init = measure()
            if started is None and path.is_file():  # a resumed run
                backbone.set_weights(applications.load_backbone(path)[0].get_weights())
                started = measure()
            backbone.set_weights(kept)
        log.info(f"kNN accuracy of the random-init feature: {random_init:.4f}")
        if started is not None:
            log.info(f"kNN accuracy of the starting weights: {started:.4f}")
        return callbacks.Monitor(measure, random_init, self.config.monitor_every, started)

    # -- training ---------------------------------------------------------------------------

    def _train(self, start_step: int, state: dict) -> None:
        """Trains and saves.

        Args:
            start_step: steps already done.
            state: description of the checkpoint that training resumes from.

        Raises:
            TrainingStopped: a signal stopped the training.
        """
        session, config, folder = self.session, self.config, self.folder
        if not self.chief:
            session.train(start_step)
            return
        saver, stop = BackgroundSaver(folder.checkpoints), StopRequest()
        checked = self._make_health(state)
        listed = self._make_callbacks(checked)
        checkpoints = callbacks.Checkpoint(
            saver,
            session.method,
            session.optimizer,
            description=lambda: {"health": checked.state()} if checked else {},
            at_epoch_end=self._write_weights,
            every=config.checkpoint_every,
            every_steps=config.checkpoint_every_steps,
            every_minutes=config.checkpoint_every_minutes,
            stop=stop,
        )
        started = time.perf_counter()
        with stop.listening(), full_disk_reported(folder.directory):
            session.train(start_step, [*listed, *self.callbacks, checkpoints])
            saver.wait()
        seconds = time.perf_counter() - started
        folder.add(saving=saver.report(seconds))
        log.info(saver.tell(seconds))
        verdict = read_run(folder.directory).verdict if checked else None
        if verdict:
            folder.add(health={"before": checked.before, **dataclasses.asdict(verdict)})
            log.info(f"health: {verdict}")
        if stop.signal:
            log.info(
                f"stopped by {stop.signal.name} after step {checkpoints.last_step:,} of "
                f"{config.epochs * session.steps_per_epoch:,}; everything is saved; run the same "
                "command again to resume"
            )
            raise TrainingStopped(stop.signal)

    def _make_health(self, state: dict) -> FeatureHealth | None:
        """Returns the callback that measures the features, or None if off or with one image."""
        count = health.number_of_images(self.source.num_images)
        if not self.config.health_every or count < 2:
            return None
        return FeatureHealth(
            self.session.sample(count),
            every=self.config.health_every,
            directory=self.folder.path("figures"),
            state=state.get("health"),
            say=None,
        )

    def _make_callbacks(self, checked: FeatureHealth | None) -> list:
        """Returns the run's callbacks, except the one that saves checkpoints."""
        session, config, folder = self.session, self.config, self.folder
        levels = session.method.chance_levels()
        if checked:
            split = "split" in self.record["feature"]
            levels.update(health.chance_levels(len(checked.images), split))
        listed = [callbacks.Throughput(config.batch_size, session.optimizer)]
        if self.monitor:
            folder.add(knn_test_images=self.monitor.measure.num_test)
            listed.append(self.monitor)
        if checked:
            # The record contains the values before training from the first step on.
            record = keras.callbacks.LambdaCallback(
                on_train_begin=lambda logs: folder.add(
                    chance_levels=levels, health={"before": checked.before}
                )
            )
            listed += [checked, record]
        listed.append(callbacks.MetricsFile(folder.path("metrics.csv")))
        tensorboard = None
        if config.tensorboard:
            rotates = "rotation_loss" in session.method.loss_weights
            shown = self._example_views() if rotates else None
            tensorboard = callbacks.TensorBoard(folder.path("tensorboard"), levels, shown)
            listed.append(tensorboard)
            if checked:
                checked.tensorboard = tensorboard
        if type(session.method).figures is not methods.Method.figures:
            listed.append(
                callbacks.Figures(
                    next(iter(session.dataset(augmented=False)))["image"][:8].numpy(),
                    folder.path("figures"),
                    tensorboard,
                    every=config.monitor_every or config.epochs,
                )
            )
        return [*listed, callbacks.Progress(levels)] if self.progress else listed

    def _example_views(self) -> np.ndarray:
        """Returns the rotated views of the first augmented images, for TensorBoard."""
        batch = next(iter(self.session.dataset()))
        degrees = getattr(self.session.method, "rotations", (0, 90, 180, 270))
        rotated = views.rotate_degrees(batch["image"][:8], degrees)
        return np.asarray(views.flatten_views(rotated)).astype("uint8")

    # -- what is written --------------------------------------------------------------------

    def _write_weights(self, epoch: float) -> None:
        """Writes weights and heads, as at the end of an epoch."""
        self.lock.check()
        backbone, folder = self.session.method.backbone, self.folder
        path = folder.path("backbone.weights.h5")
        applications.save_backbone(backbone, path, {**self.record, "epoch": epoch})
        save_heads(folder.directory, self.session.method.heads(), epoch)
        self._write_skipped()

    def _restore_files(self, epoch: float) -> None:
        """Writes the heads of a complete run again, which may be missing or damaged.

        If the weights beside them are not of its last checkpoint, they are written, too.
        """
        recorded = None
        with contextlib.suppress(UserError):  # missing or damaged
            recorded = applications.read_record(self.folder.directory)
        if recorded and recorded.get("epoch") == epoch:
            save_heads(self.folder.directory, self.session.method.heads(), epoch)
        else:
            self._write_weights(epoch)

    def _write_skipped(self) -> None:
        """Writes the names of the images skipped so far."""
        skipped = [*self.source.skipped, *self.source.failed_while_reading()]
        path = self.folder.path("skipped_files.txt")
        text = "".join(f"{name}\t{reason}\n" for name, reason in skipped)
        if self.chief and (not path.exists() or path.read_text(encoding="utf-8") != text):
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            if skipped:
                log.info(
                    f"{len(skipped)} images cannot be decoded and are skipped; listed in {path}"
                )

    def _finish(self, tasks: list) -> None:
        """Writes the deployable files; evaluates and exports if the configuration asks for it."""
        folder, config = self.folder, self.config
        network = applications.portable(self.session.method.backbone)
        for layer in network.layers:
            layer.trainable = True  # frozen for this run only
        network.save(folder.path("backbone.keras"))
        log.info(
            f"backbone: {folder.path('backbone.weights.h5')} and {folder.path('backbone.keras')}"
        )
        if tasks:
            with output_locked(folder.path("evaluation.json")):
                report = evaluation.evaluate(
                    folder.directory,
                    tasks,
                    *self.evaluated,
                    seed=config.seed,
                    output=folder.path("evaluation_files"),
                )
                save_report(report, folder.path("evaluation.json"), log.info)
            short = summary(report, applications.endpoints(network))
            log.info(
                "\nin percent, on upright and on randomly rotated test images:\n"
                f"{evaluation.table(short)}\n"
            )
            if more := len(report["results"]) - len(short["results"]):
                log.info(
                    f"{more} more scores, of earlier layers and of best epochs: "
                    f"{folder.path('evaluation.json')}"
                )
        if config.export:
            path = folder.path("export")
            export.export_backbone(folder.directory, path, tuple(config.export), overwrite=True)
            log.info(f"exported and verified: {path}")
