"""Pretrains a backbone on unlabelled images.

    python scripts/pretrain.py --flagfile=configs/quickstart.cfg --output_dir=runs/digits
    python scripts/pretrain.py --data_dir=photos --backbone=mobilenet_v2 --output_dir=runs/photos

Running the same command again resumes the run. SIGTERM and SIGINT (Ctrl-C) save and end it after
the step at hand, with exit code 143 or 130; a mistake or a fault that is told ends with code 2.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import platform
import sys

import common
import photo_flags
import pretrain_flags
from absl import flags

FLAGS = flags.FLAGS
IMAGENET_IMAGES = 1_281_167
COLLAPSE_IMAGES = 256

flags.adopt_module_key_flags(pretrain_flags)


def channel_values(name: str, default) -> tuple[float, ...]:
    """Three numbers of --mean or --std."""
    from rfd_tf.errors import UserError

    given = FLAGS[name].value
    if given is None:
        return tuple(default)
    try:
        values = tuple(float(value) for value in given)
    except ValueError:
        values = ()
    if (
        len(values) != 3
        or not all(map(math.isfinite, values))
        or (name == "std" and min(values) <= 0)
    ):
        raise UserError(f"--{name} needs three numbers such as 0.5,0.5,0.5; got {','.join(given)}")
    return values


def method_arguments(source) -> dict:
    """Arguments of the chosen method besides the backbone: flags of their names, and options.

    A flag that is not given leaves the method its own default.
    """
    from rfd_tf import methods
    from rfd_tf.errors import UserError, unknown

    accepted = methods.arguments(FLAGS.method)
    arguments = {}
    for name in methods.all_arguments():
        if name not in FLAGS or not FLAGS[name].present:
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
    if FLAGS.fidelity:
        follow_the_original()
    check_names()

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
    from rfd_tf import applications, data
    from rfd_tf.evaluation.heads import save_heads
    from rfd_tf.training import run_folder
    from rfd_tf.training import strategy as strategies

    chief = strategies.worker(strategy)[0] == 0
    run = run_folder.RunFolder(FLAGS.output_dir, FLAGS.keep_checkpoints)
    source = data.load(
        FLAGS.dataset,
        FLAGS.data_dir,
        split=FLAGS.train_split,
        tfds_dir=FLAGS.tfds_dir,
        download=FLAGS.tfds_download,
        max_skipped=FLAGS.max_skipped,
        **photo_flags.load_arguments(side_of_images()),
        classes=FLAGS.tfds_classes,
    )
    say(source.summary())
    judged = judged_sources(source) if FLAGS.monitor_every > 0 or FLAGS.evaluate else (source, None)
    tasks = evaluation_tasks(*judged)
    session = make_session(source, strategy)
    record = {
        "format": 1,
        "backbone": FLAGS.backbone,
        "arguments": common.backbone_options(),
        "method": FLAGS.method,
        "dataset": source.name,
        "endpoints": list(applications.endpoints(session.method.backbone)),
        **session.method.record(),
    }
    say(describe(session))

    # From here on files are written.
    start_step, monitor_start = open_run(run, session, record, chief)
    write_skipped(run, source, chief)
    if chief and FLAGS.source_images:
        photo_flags.draw(source, session.image_size, run.path("figures"))
    monitor = None
    if chief and FLAGS.monitor_every > 0:
        monitor = make_monitor(session.method, *judged)
    if monitor and monitor_start is None:
        monitor_start = monitor()
        say(f"kNN accuracy of the random-init feature: {monitor_start:.4f}")
    if start_step == 0 and FLAGS.fill_bank and session.method.memory_bank is not None:
        say("filling the memory bank by one forward pass")
        session.fill_memory_bank()

    def keep(epoch: int) -> None:
        """Writes the files beside the checkpoint of an epoch's end."""
        applications.save_backbone(
            session.method.backbone, run.path("backbone.weights.h5"), {**record, "epoch": epoch}
        )
        save_heads(run.directory, session.method.heads(), epoch)
        write_skipped(run, source, chief)

    if start_step >= FLAGS.epochs * session.steps_per_epoch:
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
        {"knn_accuracy_random_init": monitor_start},
        keep,
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
    """Gives every flag that was not given the published program's value."""
    from rfd_tf.training import fidelity

    values = fidelity.flag_values()
    if FLAGS["schedule"].present and FLAGS.schedule != values["schedule"]:
        # The published table belongs to the published schedule.
        del values["lr_table"]
    for name, value in values.items():
        if not FLAGS[name].present:
            FLAGS[name].value = value


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
    common.backbone_options()


def side_of_images() -> int:
    """Of the training images, pixels."""
    from rfd_tf import applications

    return FLAGS.image_size or applications.default_image_size(FLAGS.backbone)


def make_session(source, strategy):
    """Source, method, optimizer and strategy, put together as the flags say."""
    import keras

    from rfd_tf import applications, methods
    from rfd_tf.training import pretraining
    from rfd_tf.training import strategy as strategies

    image_size = side_of_images()
    options = {field.name for field in dataclasses.fields(pretraining.Optimization)}
    augmentation = {field.name for field in dataclasses.fields(pretraining.Augmentation)}
    common_arguments = {
        "mean": channel_values("mean", applications.IMAGENET_MEAN),
        "std": channel_values("std", applications.IMAGENET_STD),
        "feature_endpoint": FLAGS.feature_endpoint,
        "gradient_accumulation": FLAGS.gradient_accumulation,
        "seed": FLAGS.seed,
        **method_arguments(source),
    }

    def build_backbone():
        backbone = applications.build(FLAGS.backbone, image_size, **common.backbone_options())
        if FLAGS.fidelity:
            from rfd_tf.training import fidelity

            fidelity.apply_batch_normalization(backbone)
        if FLAGS.batch_norm_momentum is not None:
            for layer in backbone.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.momentum = FLAGS.batch_norm_momentum
        return backbone

    return pretraining.Pretraining(
        build_backbone=build_backbone,
        build_method=lambda backbone: methods.METHODS[FLAGS.method](backbone, **common_arguments),
        source=source,
        image_size=image_size,
        optimization=pretraining.Optimization(**{name: FLAGS[name].value for name in options}),
        augmentation=pretraining.Augmentation(
            crop_area=(FLAGS.crop_area_min, 1.0),
            **{name: FLAGS[name].value for name in augmentation - {"crop_area"}},
        ),
        strategy=strategy,
        policy=strategies.precision_policy(FLAGS.mixed_precision),
        seed=FLAGS.seed,
    )


def open_run(run, session, record: dict, chief: bool) -> tuple[int, float | None]:
    """Starts the run, or takes it up again.

    Returns:
        The number of steps already done, and the monitor's figure from before training.
    """
    import keras
    import tensorflow as tf

    from rfd_tf.errors import UserError
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
        "backbone_options": common.backbone_options(),
        "batch_size": FLAGS.batch_size,
        "steps_per_epoch": session.steps_per_epoch,
        "seed": FLAGS.seed,
    }
    own_flags = FLAGS.get_key_flags_for_module(sys.modules[__name__])
    resolved = {flag.name: flag.value for flag in own_flags}
    for name in ("data_dir", "eval_dir", "tfds_dir"):
        # Whoever reads the run later may stand in another folder.
        resolved[name] = resolved[name] and os.path.abspath(os.path.expanduser(resolved[name]))
    resolved["source_images"] = photo_flags.resolved(FLAGS.source_images)
    step = 0
    if chief:
        found = run.start(identity, FLAGS.resume, FLAGS.overwrite, source)
        if found:
            step = int(checkpoint.read_description(found)["step"])
            report_changes((run.read() or {}).get("flags", {}), resolved)
        run.write(
            flags=resolved,
            identity=identity,
            record=record,
            chance_levels=session.method.chance_levels(),
            versions={
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
            },
            started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )
        image_list.write(run.path(image_list.FILE), source)
    strategies.check_same(session.strategy, identity)
    # One process decides, or a worker could resume where another starts afresh.
    step = strategies.agree(session.strategy, step)
    if not step:
        return 0, None
    path = run.checkpoints.path(step)
    if not path.exists():
        raise UserError(f"{path} is not there: --output_dir must be a folder all machines share")
    description = checkpoint.load(path, session.method, session.optimizer)
    say(f"resuming after epoch {step / session.steps_per_epoch:g} from {path}")
    return step, description.get("knn_accuracy_random_init")


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


def report_changes(before: dict, now: dict) -> None:
    """Tells which flags a resumed run changes."""
    ignored = {"resume", "overwrite", "output_dir"}
    changed = [
        name for name in now if name in before and before[name] != now[name] and name not in ignored
    ]
    for name in changed:
        say(f"note: --{name} was {before[name]!r} and is now {now[name]!r}")


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


def judged_sources(source) -> tuple:
    """Labelled images to learn from and to judge; None where a part of the first must do.

    Where the training images have no labels, such as crops of photographs, the test images serve
    as both.
    """
    test = test_source()
    if source.labels is None and test is not None and test.labels is not None:
        return test, None
    return source, test


def test_source():
    """The images that evaluation judges, or None where a part of the training images must do."""
    from rfd_tf import data

    if FLAGS.eval_dir:
        test = data.load(data_dir=FLAGS.eval_dir, max_skipped=FLAGS.max_skipped)
        say(f"to evaluate: {test.summary()}")
        return test
    if FLAGS.dataset:
        return data.load(
            FLAGS.dataset,
            split=FLAGS.eval_split,
            tfds_dir=FLAGS.tfds_dir,
            download=FLAGS.tfds_download,
            classes=FLAGS.tfds_classes,
        )
    return None


def make_monitor(method, source, test):
    """Returns a function that measures the kNN accuracy of the feature, or None without labels."""
    from rfd_tf import evaluation

    if source.labels is None:
        say("no labels, so no kNN monitor: sub-folders named by class would give it some")
        return None
    return evaluation.NeighbourMonitor(
        method.feature_model,
        source,
        test,
        method.image_size,
        method.mean,
        method.std,
        max_train=FLAGS.monitor_images,
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
    from rfd_tf.training.run_folder import write_json

    applications.portable(method.backbone).save(run.path("backbone.keras"))
    say(f"backbone: {run.path('backbone.weights.h5')} and {run.path('backbone.keras')}")
    if tasks:
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
