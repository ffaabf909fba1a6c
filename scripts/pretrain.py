"""Pretrains a backbone on unlabelled images.

    python scripts/pretrain.py --flagfile=configs/quickstart.cfg --output_dir=runs/digits
    python scripts/pretrain.py --data_dir=photos --backbone=mobilenet_v2 --output_dir=runs/photos

Running the same command again resumes the run. SIGTERM and SIGINT (Ctrl-C) save and end it after
the step at hand, with exit code 143 or 130; a mistake or a fault that is told ends with code 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import os
import platform
import sys

import common
import image_flags
import photo_flags
import pretrain_flags
from absl import flags

FLAGS = flags.FLAGS
IMAGENET_IMAGES = 1_281_167
COLLAPSE_IMAGES = 256
# What a complete run takes of a new command; the other flags were those of its training.
_NOT_OF_TRAINING = (
    *("data_dir", "eval_dir", "tfds_dir", "pu_weights", "eval_split"),
    *("evaluate", "export", "output_dir", "resume", "overwrite", "tfds_download"),
)

flags.adopt_module_key_flags(pretrain_flags)


def method_arguments(source) -> dict:
    """Arguments of the chosen method besides the backbone: flags of their names, and options.

    A flag that nothing has set, neither the user nor --fidelity, leaves the method its own default.
    """
    from rfd_tf import methods
    from rfd_tf.errors import UserError, unknown

    accepted = methods.arguments(FLAGS.method)
    arguments = {}
    for name in methods.all_arguments():
        if name not in FLAGS or FLAGS[name].using_default_value:
            continue
        if name not in accepted:
            raise UserError(f"--{name} has no meaning for method {FLAGS.method}")
        arguments[name] = FLAGS[name].value
    for name, value in common.named_values("method_option").items():
        if name not in accepted or name in FLAGS:
            given = ("num_images", "pu_weights")
            options = [option for option in accepted if option not in FLAGS and option not in given]
            raise unknown(f"option of method {FLAGS.method}", name, options)
        arguments[name] = value
    if "num_images" in accepted:
        arguments["num_images"] = source.num_images
    if FLAGS.pu_weights and "pu_weights" in accepted:
        from rfd_tf.data import pu_weights

        arguments["pu_weights"] = pu_weights.read(FLAGS.pu_weights, source)
    return arguments


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    check_names()
    if FLAGS.fidelity:
        follow_the_original()

    import tensorflow as tf

    from rfd_tf.training import strategy as strategies
    from rfd_tf.training import workers

    if FLAGS.deterministic:
        tf.config.experimental.enable_op_determinism()
    if FLAGS.strategy == "multiworker":
        say(f"waiting up to {workers.START_TIMEOUT:g} s for all workers of TF_CONFIG")
    strategy = strategies.build(FLAGS.strategy, FLAGS.logical_devices)
    with workers.lost_workers_reported(strategies.worker(strategy)[1]):
        pretrain(strategy)


def pretrain(strategy) -> None:
    """Everything after the choice of the devices."""
    from rfd_tf.training import run_folder
    from rfd_tf.training import strategy as strategies
    from rfd_tf.training.folder_lock import FolderLock

    chief = strategies.worker(strategy)[0] == 0
    run = run_folder.RunFolder(FLAGS.output_dir, FLAGS.keep_checkpoints)
    # The workers of one run share its folder.
    with FolderLock(run.directory) if chief else contextlib.nullcontext() as lock:
        pretrain_in(run, strategy, lock)


def pretrain_in(run, strategy, lock) -> None:
    """Trains in a run folder; `lock` is the chief's, None for other workers."""
    from rfd_tf import applications
    from rfd_tf.evaluation.heads import save_heads
    from rfd_tf.training import strategy as strategies

    chief = strategies.worker(strategy)[0] == 0
    weights, started = starting_weights(run)
    images = run_images()
    source = images.train(FLAGS.tfds_download, leave_out=[run.directory])
    say(source.summary())
    judged = source, None
    if FLAGS.monitor_every > 0 or FLAGS.evaluate:
        judged = judged_sources(images, source)
    tasks = evaluation_tasks(*judged)
    session = make_session(source, strategy, weights)
    record = {
        "format": 1,
        "backbone": FLAGS.backbone,
        "arguments": backbone_arguments()[0],
        "method": FLAGS.method,
        "dataset": source.name,
        "endpoints": list(applications.endpoints(session.method.backbone)),
        **session.method.record(),
    }
    if started:
        record["started_from"] = started
    say(describe(session))
    if unused := unused_flags(session):
        say(f"note: without effect in this run: {', '.join(unused)}")

    # From here on files are written.
    start_step = open_run(run, session, record, chief)
    write_skipped(run, source, chief)
    if chief and FLAGS.source_images:
        photo_flags.draw(source, session.image_size, run.path("figures"))
    to_do = start_step < FLAGS.epochs * session.steps_per_epoch
    monitor, monitor_start = None, None
    if chief and to_do and FLAGS.monitor_every > 0:
        monitor = make_monitor(session, *judged)
    if monitor:
        # A session begins before its checkpoint, also where a run is resumed: that is loaded below.
        monitor_start = random_init_accuracy(monitor, session.method.backbone, started)
        say(f"kNN accuracy of the random-init feature: {monitor_start:.4f}")
    load_checkpoint(run, session, start_step)
    if start_step == 0 and FLAGS.fill_bank and session.method.memory_bank is not None:
        say("filling the memory bank by one forward pass")
        session.fill_memory_bank()

    def keep(epoch: int) -> None:
        """Writes the files beside the checkpoint of an epoch's end."""
        lock.check()
        applications.save_backbone(
            session.method.backbone, run.path("backbone.weights.h5"), {**record, "epoch": epoch}
        )
        save_heads(run.directory, session.method.heads(), epoch)
        write_skipped(run, source, chief)

    if not to_do:
        say("the run is complete; give more --epochs to train on")
        if chief:  # runs of older versions lack the file
            epoch = start_step / session.steps_per_epoch
            save_heads(run.directory, session.method.heads(), epoch)
    else:
        train(run, session, start_step, monitor, monitor_start, keep, chief)
    if chief:
        finish(run, session.method, *judged, tasks)


def train(run, session, start_step: int, monitor, monitor_start, keep, chief: bool) -> None:
    """Trains and saves; ends the program where a signal asks for it."""
    import time

    from rfd_tf.training import callbacks, run_folder
    from rfd_tf.training.saving import BackgroundSaver
    from rfd_tf.training.stopping import StopRequest

    if not chief:
        session.train(start_step)
        return
    saver, stop = BackgroundSaver(run.checkpoints), StopRequest()
    listed = make_callbacks(run, session, monitor, monitor_start)
    checkpoints = callbacks.Checkpoint(
        saver,
        session.method,
        session.optimizer,
        at_epoch_end=keep,
        every=FLAGS.checkpoint_every,
        every_steps=FLAGS.checkpoint_every_steps,
        every_minutes=FLAGS.checkpoint_every_minutes,
        stop=stop,
    )
    started = time.perf_counter()
    with stop.listening(), run_folder.full_disk_reported(run.directory):
        session.train(start_step, [*listed, checkpoints])
        saver.wait()
    seconds = time.perf_counter() - started
    run.add(saving=saver.report(seconds))
    say(saver.tell(seconds))
    if stop.signal:
        say(
            f"stopped by {stop.signal.name} after step {checkpoints.last_step:,} of "
            f"{FLAGS.epochs * session.steps_per_epoch:,}; all is saved, and the same command "
            "goes on from there"
        )
        raise SystemExit(128 + stop.signal)


def follow_the_original() -> None:
    """Gives every flag that was not given the published value, and reports the others."""
    from rfd_tf.training import fidelity

    fidelity.check_method(FLAGS.method)
    values = fidelity.flag_values()
    if FLAGS["schedule"].present and FLAGS.schedule != values["schedule"]:
        # The published table belongs to the published schedule.
        del values["lr_table"]
    own = []
    for name, value in values.items():
        if not FLAGS[name].present:
            setattr(FLAGS, name, value)
        elif FLAGS[name].value != value:
            own.append(FLAGS[name].serialize())
    say("as the published RFD program" + (f", but for {' '.join(own)}" if own else ""))


def check_names() -> None:
    """Refuses what is wrong on the face of it, before images are read."""
    from rfd_tf import applications, methods
    from rfd_tf.errors import UserError, unknown

    if not FLAGS.output_dir:
        raise UserError("give --output_dir, the folder of the run")
    if FLAGS.method not in methods.METHODS:
        raise unknown("method", FLAGS.method, methods.METHODS)
    if FLAGS.backbone not in applications.BACKBONES:
        raise unknown("backbone", FLAGS.backbone, applications.BACKBONES)
    from rfd_tf import export

    for kind in FLAGS.export:
        if kind not in export.FORMATS:
            raise unknown("export format", kind, export.FORMATS)
    backbone_arguments()


def backbone_arguments() -> tuple[dict, str | None]:
    """The backbone's own options, and the weights it starts from or None."""
    from rfd_tf.applications import registry

    own, weights = registry.own_arguments(FLAGS.backbone, common.backbone_options())
    if FLAGS.fidelity and weights is None:
        from rfd_tf.training import fidelity

        own = {**fidelity.backbone_options(FLAGS.backbone), **own}
    return own, weights


def starting_weights(run) -> tuple[str | None, dict | None]:
    """The weights that the backbone is to load, and what the run's record says of its start.

    A run that is taken up again has its weights in the checkpoint: the file that it started from
    may have changed since, or be gone.
    """
    from rfd_tf import applications
    from rfd_tf.applications.weights import RUN_FILE, origin

    own, weights = backbone_arguments()
    if weights is None:
        return None, None
    if FLAGS.resume == "auto" and not FLAGS.overwrite and run.checkpoints.latest():
        record = (run.read() or {}).get("record") or {}
        path = os.path.abspath(os.path.expanduser(str(weights)))
        started = record.get("started_from") or {}
        if started.get("weights") in (weights, path, os.path.join(path, RUN_FILE)):
            return None, started
    # Built once before images are read, which may take long: weights may not fit.
    applications.build(FLAGS.backbone, image_flags.image_size(), weights=weights, **own)
    return weights, origin(weights, FLAGS.backbone)


def random_init_accuracy(monitor, backbone, started: dict | None) -> float:
    """The monitor's accuracy of the seed's random network, also where the run starts from weights.

    Args:
        monitor: measures the backbone as it is.
        backbone: not yet trained; it is left as it is.
        started: what the run starts from, or None for random weights.
    """
    import keras

    from rfd_tf import applications

    if started is None:
        return monitor()
    kept = backbone.get_weights()
    keras.utils.set_random_seed(FLAGS.seed)
    random = applications.build(FLAGS.backbone, image_flags.image_size(), **backbone_arguments()[0])
    backbone.set_weights(random.get_weights())
    accuracy = monitor()
    backbone.set_weights(kept)
    return accuracy


def make_session(source, strategy, weights: str | None = None):
    """Source, method, optimizer and strategy, put together as the flags say.

    Args:
        source: the images.
        strategy: the strategy that trains.
        weights: those that the backbone starts from, or None.
    """
    from rfd_tf import applications, methods
    from rfd_tf.training import fidelity, pretraining
    from rfd_tf.training import strategy as strategies

    image_size = image_flags.image_size()
    options = {field.name for field in dataclasses.fields(pretraining.Optimization)}
    common_arguments = {
        **image_flags.normalization(),
        "feature_endpoint": FLAGS.feature_endpoint,
        "gradient_accumulation": FLAGS.gradient_accumulation,
        "seed": FLAGS.seed,
        **method_arguments(source),
    }

    def build_backbone():
        own, _ = backbone_arguments()
        backbone = applications.build(FLAGS.backbone, image_size, weights=weights, **own)
        if FLAGS.fidelity:
            if weights is None:
                fidelity.initialize(backbone.layers, FLAGS.seed)
            # The record's options build the network again, with the epsilon that they have.
            epsilon = own.get("batch_norm_epsilon")
            backbone = fidelity.apply_batch_normalization(backbone, epsilon)
        if FLAGS.batch_norm_momentum is not None:
            pretraining.set_batch_norm_momentum(backbone, FLAGS.batch_norm_momentum)
        return backbone

    def build_method(backbone):
        method = methods.METHODS[FLAGS.method](backbone, **common_arguments)
        if FLAGS.fidelity:
            fidelity.initialize(method.heads().values(), FLAGS.seed + 1)
        return method

    return pretraining.Pretraining(
        build_backbone=build_backbone,
        build_method=build_method,
        source=source,
        image_size=image_size,
        optimization=pretraining.Optimization(**{name: FLAGS[name].value for name in options}),
        augmentation=image_flags.augmentation(),
        strategy=strategy,
        policy=strategies.precision_policy(FLAGS.mixed_precision),
        seed=FLAGS.seed,
    )


def open_run(run, session, record: dict, chief: bool) -> int:
    """Starts the run or finds where to resume it; returns the number of steps already done."""
    import keras
    import tensorflow as tf

    from rfd_tf.training import checkpoint, image_list
    from rfd_tf.training import strategy as strategies

    source = session.source
    identity = {
        "method": FLAGS.method,
        "dataset": source.name,
        "fingerprint": source.fingerprint,
        "num_images": source.num_images,
        "image_size": session.image_size,
        "backbone": FLAGS.backbone,
        "backbone_options": record["arguments"],
        "started_from": (record.get("started_from") or {}).get("sha256"),
        "batch_size": FLAGS.batch_size,
        "steps_per_epoch": session.steps_per_epoch,
        "seed": FLAGS.seed,
    }
    resolved = recorded_flags(session, record)
    step = 0
    if chief:
        found = run.start(identity, FLAGS.resume, FLAGS.overwrite, source)
        if found:
            step = int(checkpoint.read_description(found)["step"])
            before = run.read() or {}
            called = before["identity"].get("dataset")
            if called != source.name:
                say(f"note: the images were called '{called}' and are now '{source.name}'")
        content = {
            "flags": resolved,
            "identity": identity,
            "built": session.built(),
            "record": record,
            "chance_levels": session.method.chance_levels(),
            "versions": {
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
            },
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }
        if found:
            complete = step >= FLAGS.epochs * session.steps_per_epoch
            trained_with = before.get("flags", {})
            report_changes(trained_with, resolved, complete)
            if complete:
                # Nothing is trained: the record stays that of the training.
                new = {name: resolved[name] for name in _NOT_OF_TRAINING if name in resolved}
                content = {**content, **before, "identity": identity}
                content["flags"] = {**resolved, **trained_with, **new}
        run.write(**content)
        image_list.write(run.path(image_list.FILE), source)
    # (Each machine may have mounted the images under another name.)
    strategies.check_same(session.strategy, {**identity, "dataset": None})
    # One process decides, or a worker could resume where another starts afresh.
    return strategies.agree(session.strategy, step)


def load_checkpoint(run, session, step: int) -> None:
    """Restores the state after `step` steps, unless that is the start."""
    from rfd_tf.errors import UserError
    from rfd_tf.training import checkpoint

    if not step:
        return
    path = run.checkpoints.path(step)
    if not path.exists():
        raise UserError(f"{path} is not there: --output_dir must be a folder all machines share")
    checkpoint.load(path, session.method, session.optimizer)
    say(f"resuming after epoch {step / session.steps_per_epoch:g} from {path}")


def recorded_flags(session, record: dict) -> dict:
    """Every flag with the value that the built session has; None for one without effect."""
    values = {name: flag.value for name, flag in own_flags().items()}
    for name in ("data_dir", "eval_dir", "tfds_dir", "pu_weights"):
        # Whoever reads the run later may stand in another folder.
        values[name] = values[name] and os.path.abspath(values[name])
    values.update(photo_flags.resolved(session.image_size))
    settings = settings_by_flag(session)
    options = {name: value for name, value in settings.items() if name not in values}
    values.update({name: settings.get(name) for name in governed_flags()})
    values["method_option"] = named(options)
    values["backbone_option"] = named(record["arguments"])
    if "started_from" in record:
        values["backbone_option"].append(f"weights={record['started_from']['weights']}")
    return values


def own_flags() -> dict:
    """The flags of this script by name."""
    return {flag.name: flag for flag in FLAGS.get_key_flags_for_module(sys.modules[__name__])}


def named(options: dict) -> list[str]:
    """Options as --method_option and --backbone_option take them, without those of no effect."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in options.items()
        if value is not None
    }
    return [f"{name}={text}" for name, text in texts.items()]


def settings_by_flag(session) -> dict:
    """What the session was built with, by the names of the flags where there are flags."""
    settings = session.settings()
    area = settings.pop("crop_area")
    settings["crop_area_min"] = area and area[0]
    settings["fill_bank"] = None if session.method.memory_bank is None else FLAGS.fill_bank
    return settings


def governed_flags() -> set[str]:
    """The flags whose values a built session knows, those of other methods included."""
    from rfd_tf import methods
    from rfd_tf.training import pretraining

    names = {"image_size", "mean", "std", "feature_endpoint", "gradient_accumulation"}
    names |= {"crop_area_min", "fill_bank", "batch_norm_momentum", "mixed_precision"}
    names |= {field.name for field in dataclasses.fields(pretraining.Optimization)}
    names |= {field.name for field in dataclasses.fields(pretraining.Augmentation)}
    names |= set(methods.all_arguments()) - {"pu_weights"}
    return names & own_flags().keys()


def unused_flags(session) -> list[str]:
    """The flags that were given and have no effect beside the others."""
    settings = settings_by_flag(session)
    return [
        f"--{name}"
        for name in sorted(governed_flags())
        if FLAGS[name].present and FLAGS[name].value and settings.get(name) is None
    ]


def write_skipped(run, source, chief: bool) -> None:
    """Writes the names of the images left out so far."""
    skipped = [*source.skipped, *source.failed_while_reading()]
    path = run.path("skipped_files.txt")
    text = "".join(f"{name}\t{reason}\n" for name, reason in skipped)
    if chief and (not path.exists() or path.read_text(encoding="utf-8") != text):
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        if skipped:
            say(f"{len(skipped)} images cannot be decoded and are left out; named in {path}")


def make_callbacks(run, session, monitor, monitor_start) -> list:
    """What happens beside training, but for saving."""
    from rfd_tf.training import callbacks, collapse

    levels = session.method.chance_levels()
    listed = [callbacks.Throughput(FLAGS.batch_size, session.optimizer)]
    if monitor:
        listed.append(callbacks.Monitor(monitor, monitor_start, FLAGS.monitor_every))
    if FLAGS.collapse_check:
        listed.append(collapse.CollapseCheck(session.sample(COLLAPSE_IMAGES)))
    listed.append(callbacks.MetricsFile(run.path("metrics.csv")))
    tensorboard = None
    if FLAGS.tensorboard:
        turns = "rotation_loss" in session.method.loss_weights
        views = example_views(session) if turns else None
        tensorboard = callbacks.TensorBoard(run.path("tensorboard"), levels, views)
        listed.append(tensorboard)
    if drawing(session.method):
        listed.append(
            callbacks.Figures(
                next(iter(session.dataset(augmented=False)))["image"][:8].numpy(),
                run.path("figures"),
                tensorboard,
                every=FLAGS.monitor_every or FLAGS.epochs,
            )
        )
    return [*listed, callbacks.Progress(levels)]


def evaluation_tasks(source, test) -> list:
    """The evaluators that --evaluate names, checked before training."""
    from rfd_tf.errors import unknown
    from rfd_tf.evaluation import TASKS
    from rfd_tf.evaluation.splits import check_classes

    for name in FLAGS.evaluate:
        if name not in TASKS:
            raise unknown("evaluation task", name, TASKS)
    if FLAGS.evaluate:
        check_classes(source, test)
    return [TASKS[name]() for name in FLAGS.evaluate]


def report_changes(before: dict, now: dict, complete: bool) -> None:
    """Tells which flags a resumed run changes; those of training change no complete one."""
    ignored = {"resume", "overwrite", "output_dir"}
    changed = [
        name for name in now if name in before and before[name] != now[name] and name not in ignored
    ]
    for name in changed:
        after = f"and is now {now[name]!r}"
        if complete and name not in _NOT_OF_TRAINING:
            after = f"and stays so in a complete run, not {now[name]!r}"
        say(f"note: --{name} was {before[name]!r} {after}")


def describe(session) -> str:
    """One paragraph on what is about to run."""
    method = session.method
    parameters = sum(math.prod(variable.shape) for variable in method.trainable_variables)
    lines = [
        f"{FLAGS.method} on {FLAGS.backbone}: {parameters:,} trainable parameters, feature "
        f"'{method.feature_endpoint}' of {method.feature_dimensions} dimensions",
        f"{session.optimization.epochs} epochs of {session.steps_per_epoch} steps of "
        f"{session.optimization.batch_size} images, "
        f"{session.strategy.num_replicas_in_sync} replica(s), {session.policy}"
        + (" (chosen by --mixed_precision=auto)" if FLAGS.mixed_precision == "auto" else ""),
    ]
    bank = method.memory_bank
    if bank is not None:
        row = bank.dimensions * (4 if bank.storage_dtype == "float32" else 2) / 2**20
        lines.append(
            f"memory bank of {bank.num_images:,} x {bank.dimensions} {bank.storage_dtype}: "
            f"{bank.num_images * row:,.1f} MiB ({IMAGENET_IMAGES * row:,.1f} MiB for the "
            f"{IMAGENET_IMAGES:,} images of ImageNet)"
        )
    return "\n".join(lines)


def run_images():
    """The images that the flags name."""
    from rfd_tf.data.run_images import RunImages

    names = ("dataset", "data_dir", "eval_dir", "train_split", "eval_split", "tfds_dir")
    given = {
        name: FLAGS[name].value
        for name in (*names, "tfds_classes", "max_skipped", "max_megapixels")
    }
    photos = photo_flags.load_arguments(image_flags.image_size())
    return RunImages(**{**given, **photos, "tfds_classes": tuple(FLAGS.tfds_classes)})


def judged_sources(images, source) -> tuple:
    """Labelled images to learn from and to judge; None where a part of the first must do.

    Where the training images have no labels, such as crops of photographs, the test images serve
    as both.
    """
    from rfd_tf.data.run_images import shared

    test = images.test(FLAGS.tfds_download, leave_out=[FLAGS.output_dir])
    if test is not None:
        say(f"to evaluate: {test.summary()}")
    if test is not None and (count := shared(source.image_ids(), test)):
        say(f"note: trained on {count} of the {test.num_images} test images of {test.name}")
    if source.labels is None and test is not None and test.labels is not None:
        return test, None
    if test is None and source.labels is not None:
        say("no test images: a fifth of the training images is held out from kNN and probes")
    return source, test


def make_monitor(session, source, test):
    """Returns a function that measures the kNN accuracy of the feature, or None without labels."""
    from rfd_tf import evaluation

    if source.labels is None:
        say("no labels, so no kNN monitor: sub-folders named by class would give it some")
        return None
    method = session.method
    return evaluation.NeighbourMonitor(
        method.feature_model,
        source,
        test,
        method.image_size,
        method.mean,
        method.std,
        max_train=FLAGS.monitor_images,
        stretch=session.stream.stretched,
    )


def drawing(method) -> bool:
    """Whether a method draws pictures of what it does."""
    from rfd_tf.methods import Method

    return type(method).figures is not Method.figures


def example_views(session):
    """The rotated views of the first few augmented images, for TensorBoard."""
    import numpy as np

    from rfd_tf.data import views

    batch = next(iter(session.dataset()))
    degrees = getattr(session.method, "rotations", (0, 90, 180, 270))
    turned = views.rotate_degrees(batch["image"][:8], degrees)
    return np.asarray(views.flatten_views(turned)).astype("uint8")


def finish(run, method, source, test, tasks: list) -> None:
    """Writes the deployable files, and evaluates and exports where asked."""
    from rfd_tf import applications, evaluation, export
    from rfd_tf.evaluation.runner import output_locked
    from rfd_tf.training.run_folder import write_json

    applications.portable(method.backbone).save(run.path("backbone.keras"))
    say(f"backbone: {run.path('backbone.weights.h5')} and {run.path('backbone.keras')}")
    if tasks:
        with output_locked(run.path("evaluation.json")):
            report = evaluation.evaluate(
                run.directory,
                tasks,
                source,
                test,
                seed=FLAGS.seed,
                output=run.path("evaluation_files"),
            )
            write_json(run.path("evaluation.json"), report)
        say(
            f"\nin percent, on upright and on randomly rotated test images:\n"
            f"{evaluation.table(report)}\n"
        )
    if FLAGS.export:
        export.export_backbone(
            run.directory, run.path("export"), tuple(FLAGS.export), overwrite=True
        )
        say(f"exported and verified: {run.path('export')}")


if __name__ == "__main__":
    common.run(main)
