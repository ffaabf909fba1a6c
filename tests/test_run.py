"""The Python call and the run that it returns: the same training as the command's."""

import json
import logging
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from script_driver import run_many

import rfd_tf
from rfd_tf.config import PretrainConfig
from rfd_tf.errors import UserError
from rfd_tf.export import FORMATS
from rfd_tf.methods import METHODS, teacher
from rfd_tf.settings import described, settings_of

FILTERS = [4, 4, 4, 4, 4, 8]
SMALL = {
    "backbone": "six_layer",
    "backbone_option": {"filters": FILTERS},
    "image_size": 16,
    "batch_size": 8,
    "temperature": 0.2,
    "num_negatives": 6,
    "mixed_precision": "float32",
    "tensorboard": False,
}
#: Trains in a third of the time, where the method does not matter.
QUICK = {name: SMALL[name] for name in SMALL if name not in ("temperature", "num_negatives")}
QUICK["method"] = "rotation"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of tiny photographs."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(24):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 128, (20, 24, 3)) + 100 * (number % 2)
        Image.fromarray(pixels.astype("uint8")).save(path)
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return rfd_tf.pretrain(
        folder, output_dir=tmp_path_factory.mktemp("runs") / "run", epochs=2, verbose=0, **SMALL
    )


def test_the_command_trains_the_same_weights(run, folder, tmp_path):
    arguments = [
        f"--data_dir={folder}", f"--output_dir={tmp_path / 'run'}", "--epochs=2",
        f"--backbone_option=filters={FILTERS}",
        *(f"--{name}={value}" for name, value in SMALL.items() if name != "backbone_option"),
    ]  # fmt: skip
    ((code, output, error),) = run_many("pretrain", [arguments])
    assert code == 0, error
    assert "24 images of" in output
    by_command = rfd_tf.Run.open(tmp_path / "run")
    weights = zip(run.backbone().get_weights(), by_command.backbone().get_weights(), strict=True)
    for one, other in weights:
        np.testing.assert_array_equal(one, other)
    ignored = {"output_dir"}
    mine, theirs = run.recorded().flags, by_command.recorded().flags
    assert {n for n in mine if mine[n] != theirs.get(n)} <= ignored
    assert mine.keys() == theirs.keys()


def test_a_run_reads_back(run):
    assert run.config.epochs == 2 and run.config.method_option["temperature"] == 0.2
    assert run.config.backbone_option == {"filters": FILTERS}
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert {"loss", "knn_accuracy", "rotation_accuracy"} <= set(run.history[-1])
    assert run.backbone().output_shape[-1] == 8
    titles = {axes.get_title() for axes in run.plot().axes}
    assert {"loss", "knn_accuracy"} <= titles and "learning_rate" not in titles
    assert {"effective_rank", "f2_leak", "neighbours_kept"} <= titles
    verdict = run.health()
    assert verdict.word in ("learning", "stalled", "collapsed")
    assert "effective_rank" in run.history[0]
    recorded = json.loads((run.directory / "run.json").read_text())
    assert recorded["health"]["word"] == verdict.word
    assert recorded["health"]["before"]["effective_rank"] > 1
    assert recorded["chance_levels"]["f2_leak"] == 0.25
    assert (run.directory / "figures" / "nearest_neighbours.png").is_file()
    card = run._repr_html_()
    assert f"health: {verdict.word}: " in card
    assert "rfd on six_layer: epoch 2 of 2" in card and "knn_accuracy" in card
    assert repr(run) == f"Run('{run.directory}')"


def test_a_run_evaluates_embeds_exports_and_reports(run, folder, tmp_path):
    report = run.evaluate("knn", verbose=0)
    assert {row["task"] for row in report["results"]} == {"knn"}
    assert (run.directory / "evaluation.json").is_file()
    pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3)).astype("uint8")
    f, f1 = (run.embed(pixels, features=[name])[name] for name in ("f", "f1"))
    assert f.shape == (3, 8)
    np.testing.assert_array_equal(f[:, :4], f1)
    written = run.embed(folder, tmp_path / "embeddings", verbose=0)
    assert written["images"] == 24
    card = run.export("onnx")
    assert (run.directory / "export" / "model.onnx").is_file() and "onnx" in card["verification"]
    assert run.report(images=0).name == "report.html"


def test_pixels_are_embedded_by_batches_and_checked(run):
    pixels = np.random.default_rng(1).integers(0, 256, (7, 16, 16, 3)).astype("uint8")
    whole = run.embed(pixels, features="f1")
    assert list(whole) == ["f1"] and whole["f1"].shape == (7, 4)
    for size in (1, 3, 7):
        parts = run.embed(pixels, features=["f1"], batch_size=size)["f1"]
        np.testing.assert_allclose(parts, whole["f1"], rtol=1e-5, atol=1e-6)
    assert run.embed(pixels[:0])["f"].shape == (0, 8)
    for wrong, said in (
        (pixels.astype("float32"), r"got float32 \[7, 16, 16, 3\]"),
        (pixels[0], r"got uint8 \[16, 16, 3\]"),
        (pixels[:, :8], r"must be uint8 \[N, 16, 16, 3\] .*got uint8 \[7, 8, 16, 3\]"),
        (None, "data is None"),
        ([pixels[0]], "data of type list holds no images"),
    ):
        with pytest.raises(UserError, match=said):
            run.embed(wrong)
    with pytest.raises(UserError, match="output_dir: no effect on an array"):
        run.embed(pixels, "embeddings")
    with pytest.raises(UserError, match="nonsense: no effect on an array"):
        run.embed(pixels, nonsense=3)
    with pytest.raises(UserError, match="batch_size must be 1 or more, got 0"):
        run.embed(pixels, batch_size=0)
    with pytest.raises(UserError, match="features is empty"):
        run.embed(pixels, features=[])


def test_one_name_or_callback_is_a_list_of_one(folder, tmp_path):
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    made = rfd_tf.pretrain(
        folder, output_dir=tmp_path / "a", epochs=1, verbose=0, callbacks=callback, **QUICK
    )
    assert seen == [0]
    report = made.evaluate("knn", endpoints="block6", verbose=0)
    assert {row["name"] for row in report["results"]} >= {"block6"}
    assert rfd_tf.evaluation.LowShot(per_class=5).per_class == (5,)
    task = rfd_tf.evaluation.KNearestNeighbours(k=3)
    assert made.evaluate(task, endpoints="block6", verbose=0)["protocol"]["knn"]["k"] == 3
    for none in ([], None):
        with pytest.raises(UserError, match="no task is given; options: knn, linear"):
            made.evaluate(none)
    with pytest.raises(UserError, match="task 3 must be a name or an object of rfd_tf.evaluation"):
        made.evaluate([3])


def test_settings_that_are_arguments_of_the_method_may_stand_among_its_options():
    settings = {"method": "distillation", "method_option": {"teacher": "rfd_cifar10"}}
    config = PretrainConfig.create(settings)
    assert config.teacher == "rfd_cifar10" and config.method_option == {}
    assert "teacher" in config.given
    with pytest.raises(UserError, match="teacher is given twice"):
        PretrainConfig.create({**settings, "teacher": "six_layer.rfd_cifar10"})


def test_a_task_that_the_method_leaves_nothing_for_is_refused_before_training(folder, tmp_path):
    settings = {**QUICK, "method": "instance", "evaluate": ["rotation"], "verbose": 0}
    with pytest.raises(UserError, match="evaluate=rotation needs a rotation_head, and method inst"):
        rfd_tf.pretrain(folder, output_dir=tmp_path / "a", epochs=1, **settings)
    assert not (tmp_path / "a" / "metrics.csv").exists()


def test_a_run_is_the_path_of_its_folder(run, folder, tmp_path):
    assert Path(run) == run.directory
    start = {"init_weights": run, "freeze_until": "block1"}
    started = rfd_tf.pretrain(
        folder, output_dir=tmp_path / "a", epochs=1, verbose=0, **start, **QUICK
    )
    assert started.config.init_weights == str(run.directory / "backbone.weights.h5")
    kernels = [each.backbone().get_layer("block1_conv").kernel for each in (run, started)]
    np.testing.assert_array_equal(*kernels)
    taught = teacher.Teacher(run, image_size=16)
    assert (taught.name, taught.dimensions) == (str(run.directory), 8)


def test_resuming_trains_on(folder, tmp_path):
    first = rfd_tf.pretrain(folder, output_dir=tmp_path / "a", epochs=1, verbose=0, **QUICK)
    seen = []
    resumed = first.resume(
        epochs=3, verbose=0, callbacks=[keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(epoch))],
    )  # fmt: skip
    assert seen == [1, 2] and len(resumed.history) == 3
    with pytest.raises(UserError, match="batch_size 8, and this one has 4"):
        resumed.resume(epochs=4, verbose=0, batch_size=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet18"}, "backbone 'resnet18' is not that of the run .*'six_layer'"),
        ({"backbone": keras.Sequential()}, "backbone Sequential is not that of the run"),
        ({"method": "jigsaw"}, "method 'jigsaw' is not that of the run .*'rfd', which .* keeps"),
        ({"output_dir": "elsewhere"}, "output_dir 'elsewhere' is not that of the run"),
        ({"teacher": "rfd_cifar10"}, "teacher has no meaning for method rfd"),
    ],
)
def test_a_resumed_run_keeps_what_it_is(run, settings, message):
    with pytest.raises(UserError, match=message):
        run.resume(verbose=0, **settings)


def test_options_that_do_not_exist_are_named_with_the_nearest(run, folder, tmp_path):
    for call, message in (
        (lambda: run.evaluate("knn", k=5), "'k'; options: batch_size.*as in KNearestNeigh"),
        (lambda: run.evaluate("knn", progress=True), "unknown option of evaluate 'progress'"),
        (lambda: run.evaluate("knn", batch_size="many"), "batch_size='many' must be a whole num"),
        (lambda: run.evaluate("knn", max_train_images=0.5), "max_train_images=0.5 must be a whole"),
        (lambda: run.embed(folder, tmp_path, feature="f"), "unknown option of embed 'feature'"),
        (lambda: run.export(layout="nchw"), "'layout' .did you mean 'onnx_layout'"),
        (lambda: run.push("a/b", dry=True), "'dry' .did you mean 'dry_run'"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_images_that_do_not_exist_are_named_as_they_were_given(run, folder, tmp_path):
    gone = tmp_path / "gone"
    for images in (gone, [folder, gone]):
        for name in ("data", "val_data"):
            message = f"no such folder or list: '{gone}'; give an existing one as {name}"
            with pytest.raises(UserError, match=message):
                run.evaluate("knn", **{"data": folder, name: images}, verbose=0)
            with pytest.raises(UserError, match=message):
                rfd_tf.pretrain(**{"data": folder, name: images}, output_dir=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_seed_reaches_the_tasks_that_draw(run):
    found = run.evaluate(["invariance", "rotated", "linear"], seed=5, verbose=0)["protocol"]
    seeds = found["invariance"]["seed"], found["rotated"]["linear"]["seed"], found["linear"]["seed"]
    assert seeds == (5, 5, 5)
    own = rfd_tf.evaluation.Invariance(seed=3)
    assert run.evaluate(own, seed=5, verbose=0)["protocol"]["invariance"]["seed"] == 3


def test_int8_is_calibrated_on_the_images_of_the_run(run, folder):
    card = run.export("onnx", quantize=["int8"])
    assert card["quantization"]["int8"]["calibration"] == {"images": 20, "of": folder.name}


def test_arrays_and_sources_are_trained_on(tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (16, 16, 16, 3)).astype("uint8")
    run = rfd_tf.pretrain(images, output_dir=tmp_path / "a", epochs=1, verbose=0, **QUICK)
    assert run.history[0]["loss"] > 0 and "knn_accuracy" not in run.history[0]
    source = rfd_tf.data.ArraySource(images, labels=np.arange(16) % 2, name="mine")
    run = rfd_tf.pretrain(
        source, val_data=source, output_dir=tmp_path / "b", epochs=1, verbose=0, **QUICK
    )
    assert "knn_accuracy" in run.history[0]
    with pytest.raises(UserError, match="data of type list holds no images"):
        rfd_tf.pretrain([1, 2], output_dir=tmp_path / "c", **QUICK)


def test_silence_and_messages(folder, tmp_path, capsys):
    rfd_tf.pretrain(folder, output_dir=tmp_path / "a", epochs=1, verbose=0, **QUICK)
    assert capsys.readouterr().out == ""
    rfd_tf.pretrain(folder, output_dir=tmp_path / "b", epochs=1, steps_per_epoch=1, **QUICK)
    assert "24 images of" in capsys.readouterr().out
    assert not logging.getLogger("rfd_tf").handlers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch' .did you mean 'epochs'"),
        ({"epochs": "many"}, "epochs 'many' must be of type int"),
        ({"epochs": True}, "epochs True must be of type int"),
        ({"crop": "resize"}, "unknown crop 'resize' .did you mean 'resized'"),
        ({"method": "rotation", "temperature": 0.1}, "temperature has no meaning for method"),
        ({"backbone": "resnet"}, "unknown backbone 'resnet'"),
        ({"output_dir": None}, "output_dir"),
        ({"mean": [0.5, 0.5]}, "mean needs three numbers"),
    ],
)
def test_wrong_settings_are_named(settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        rfd_tf.pretrain("digits", **{"output_dir": tmp_path, **SMALL, **settings}, verbose=0)


def test_settings_have_descriptions_and_defaults_of_their_type():
    for name, setting in settings_of(PretrainConfig).items():
        assert setting.help.endswith("."), name
        assert setting.default is None or setting.checked(setting.default) == setting.default
    for kind in METHODS.values():
        assert described(kind.__doc__)
    for name, options in (("method", METHODS), ("export", FORMATS)):
        listed = settings_of(PretrainConfig)[name].help.partition(": ")[2]
        assert set(re.findall(r"\w+", listed)) >= set(options), name


def test_the_command_calls_callbacks_by_name(folder, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import keras\n"
        "class Told(keras.callbacks.Callback):\n"
        "    def __init__(self, words='CALLED', times=1):\n"
        "        super().__init__()\n"
        "        self.words = words * times\n"
        "    def on_epoch_end(self, epoch, logs=None):\n"
        "        print(self.words, epoch, sorted(logs)[0])\n"
    )
    common = [f"--data_dir={folder}", "--epochs=1", f"--backbone_option=filters={FILTERS}"]
    common += [f"--{n}={value}" for n, value in QUICK.items() if n != "backbone_option"]
    prelude = f"import os; os.chdir({str(tmp_path)!r})"
    done = run_many(
        "pretrain",
        [
            [*common, f"--output_dir={tmp_path / name}", f"--callback={callback}"]
            for name, callback in (
                ("a", "mine:Told"),
                ("b", "mine:Other"),
                ("c", "json:JSONDecoder"),
                ("d", "mine:Told,words=AB,times=2"),
                ("e", "mine:Told,word=AB"),
                ("f", "no_such_module:Told"),
            )
        ],
        prelude,
    )
    assert done[0][0] == 0 and "CALLED 0" in done[0][1]
    assert done[1][0] == 2 and "mine:Other" in done[1][2]
    assert done[2][0] == 2 and "no keras.callbacks.Callback" in done[2][2]
    assert done[3][0] == 0 and "ABAB 0" in done[3][1]
    assert done[4][0] == 2 and "'word'" in done[4][2]
    assert done[5][0] == 2 and "cannot be imported (No module named" in done[5][2]


def test_a_keras_model_is_evaluated_embedded_and_exported_as_it_is(tmp_path):
    image = keras.Input((16, 16, 3))
    network = keras.Model(image, keras.layers.Conv2D(4, 5, activation="relu")(image))
    some = rfd_tf.data.digits("test")
    options = {"mean": [0.5] * 3, "std": [0.25] * 3}
    report = rfd_tf.evaluate(network, "knn", data=some, val_data=some, verbose=0, **options)
    assert report["results"][0]["random_init"] is not None
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), "uint8")
    found = rfd_tf.embed(network, pixels, **options)["f"]
    expected = network((pixels / 255 - 0.5).astype("float32") / 0.25)
    np.testing.assert_allclose(found, np.mean(expected, axis=(1, 2)), atol=1e-5)
    card = rfd_tf.export_model(network, tmp_path / "out", "keras", **options)
    assert sorted(card["verification"]) == ["keras"]
    with pytest.raises(UserError, match="mean and std go with a keras.Model"):
        rfd_tf.embed("six_layer.rfd_cifar10", pixels, **options)
    with pytest.raises(UserError, match="mean and std go with a keras.Model"):
        rfd_tf.evaluate("six_layer.rfd_cifar10", "knn", data=some, val_data=some, **options)
