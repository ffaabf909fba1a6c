"""scripts/pretrain.py as a user runs it, on a folder of all sorts of images."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from script_driver import forget_flags, parse_flags, run_script

import rfd_tf
from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation.heads import load_heads

TINY = [
    "--backbone=six_layer",
    "--backbone_option=filters=[4,4,4,8,8,16]",
    "--image_size=16",
    "--batch_size=8",
    "--num_negatives=8",
    "--learning_rate=0.01",
    "--schedule=constant",
    "--mixed_precision=float32",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of ten images: many formats, modes and sizes; one file is damaged."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    kinds = [
        ("RGB", "jpg"),
        ("L", "jpg"),
        ("RGB", "png"),
        ("RGBA", "png"),
        ("P", "png"),
        ("L", "png"),
        ("RGB", "bmp"),
        ("P", "gif"),
        ("RGB", "jpeg"),
        ("P", "bmp"),
    ]
    for name, level in (("dark", 0), ("light", 128)):
        (folder / name).mkdir()
        for number, (mode, extension) in enumerate(kinds):
            size = (int(rng.integers(18, 50)), int(rng.integers(18, 50)))
            pixels = rng.integers(level, level + 128, (size[1], size[0], 3)).astype("uint8")
            image = Image.fromarray(pixels).convert(mode)
            image.save(folder / name / f"{number}.{extension}")
    (folder / "light" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def runs(photos, tmp_path_factory):
    """One run of two epochs, and one of one epoch taken up again by the same command."""
    folder = tmp_path_factory.mktemp("runs")
    common = [f"--data_dir={photos}", "--max_skipped=0.1", "--deterministic", *TINY]
    straight = run_script("pretrain", *common, "--epochs=2", f"--output_dir={folder}/straight")
    assert straight.returncode == 0, straight.stderr
    first = run_script("pretrain", *common, "--epochs=1", f"--output_dir={folder}/resumed")
    assert first.returncode == 0, first.stderr
    second = run_script("pretrain", *common, "--epochs=2", f"--output_dir={folder}/resumed")
    assert second.returncode == 0, second.stderr
    return folder, straight, second


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_mixed_images_trains(runs, photos):
    folder, straight, _ = runs
    assert "20 images of" in straight.stdout
    assert (folder / "straight" / "skipped_files.txt").read_text().startswith("light/broken.jpg")
    metrics = rows(folder / "straight" / "metrics.csv")
    assert [row["epoch"] for row in metrics] == ["1", "2"]
    assert [row["step"] for row in metrics] == ["2", "4"]
    for name in (
        "loss",
        "rotation_loss",
        "distance_loss",
        "instance_loss",
        "rotation_accuracy",
        "rotation_accuracy_f2",
        "knn_accuracy",
        "images_per_second",
        "learning_rate",
    ):
        assert np.isfinite([float(row[name]) for row in metrics]).all(), name
    written = json.loads((folder / "straight" / "run.json").read_text())
    assert written["flags"]["data_dir"] == str(photos) and written["flags"]["batch_size"] == 8
    assert list((folder / "straight" / "tensorboard").iterdir())
    heads = load_heads(folder / "straight")
    assert heads["rotation_head"][0].shape == (8, 4) and heads["projection"][0].shape == (128, 64)


def test_resuming_gives_what_the_uninterrupted_run_gives(runs):
    folder, _, second = runs
    assert "resuming after epoch 1 " in second.stdout
    assert "--epochs was 1 and is now 2" in second.stdout
    straight, resumed = (rows(folder / name / "metrics.csv") for name in ("straight", "resumed"))
    for a, b in zip(straight, resumed, strict=True):
        a.pop("images_per_second"), b.pop("images_per_second")
        assert a == b
    states = [
        np.load(folder / name / "checkpoints" / "step-000000004.npz")
        for name in ("straight", "resumed")
    ]
    assert set(states[0].files) == set(states[1].files)
    for name in set(states[0].files) - {"description"}:
        np.testing.assert_array_equal(states[0][name], states[1][name], name)


def test_a_complete_run_started_again_writes_the_heads_it_lacks(call, runs, photos):
    folder, _, _ = runs
    path = folder / "resumed" / "heads.npz"
    before = load_heads(path.parent)
    path.unlink()
    call(
        f"--data_dir={photos}",
        "--max_skipped=0.1",
        "--epochs=2",
        "--monitor_every=0",
        f"--output_dir={path.parent}",
        *TINY,
    )
    for name, (kernel, _) in load_heads(path.parent).items():
        np.testing.assert_array_equal(kernel, before[name][0])


def test_a_complete_run_started_again_writes_weights_of_its_last_checkpoint(call, runs, photos):
    """A run stopped within an epoch has a checkpoint that is ahead of its weights."""
    folder, _, _ = runs
    folder = shutil.copytree(folder / "resumed", folder / "ahead")
    path = folder / "backbone.weights.h5"
    (network, _), record = applications.load_backbone(path), applications.read_record(path)
    before = [value.copy() for value in network.get_weights()]
    network.set_weights([0 * value for value in before])
    applications.save_backbone(network, path, {**record, "epoch": 1})
    with pytest.raises(UserError, match="is of epoch 2, the weights beside it of epoch 1"):
        load_heads(folder)
    flags = ["--max_skipped=0.1", "--epochs=2", "--monitor_every=0", f"--output_dir={folder}"]
    call(f"--data_dir={photos}", *flags, *TINY)
    assert load_heads(folder) and applications.read_record(path)["epoch"] == 2
    after = applications.load_backbone(path)[0].get_weights()
    for one, other in zip(after, before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_backbone_loads_as_keras_applications_do(runs):
    folder, _, _ = runs
    model = rfd_tf.applications.SixLayer(
        weights=str(folder / "straight" / "backbone.weights.h5"),
        include_top=False,
        pooling="avg",
        input_shape=(16, 16, 3),
        filters=(4, 4, 4, 8, 8, 16),
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3))
    features = model(rfd_tf.applications.preprocess_input(images))
    import keras

    portable = keras.models.load_model(folder / "straight" / "backbone.keras")
    maps = portable(rfd_tf.applications.preprocess_input(images))
    np.testing.assert_allclose(features, np.mean(maps, (1, 2)), rtol=1e-4, atol=1e-6)


def test_a_mistake_ends_in_one_line_and_code_2(tmp_path):
    done = run_script(
        "pretrain", "--data_dir=nowhere", f"--output_dir={tmp_path}/run", *TINY, cwd=tmp_path
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "nowhere" in lines[0]
    assert "Traceback" not in done.stderr


@pytest.fixture
def call():
    """Runs the script's main() in this process."""
    from rfd_tf.cli import pretrain

    def go(*arguments):
        parse_flags(*arguments)
        pretrain.main()

    yield go
    forget_flags()


BAD = {
    "too few images": (["--num_negatives=20"], "20 images are too few for 20 negatives"),
    "unknown backbone": (["--backbone=vgg"], "unknown backbone 'vgg'.*vgg19"),
    "unknown option": (["--backbone_option=depth=3"], "unknown argument of backbone six_layer"),
    "unknown method": (["--method=simclr"], "unknown method 'simclr'.*options: .*rfd"),
    "unknown endpoint": (["--feature_endpoint=block9"], "unknown endpoint 'block9'.*block6"),
    "size too small": (["--image_size=2"], "image_size 2 is too small for backbone six_layer"),
    "batch too large": (["--batch_size=21"], "batch_size 21 is more than the 20 images"),
    "unknown dataset": (["--dataset=nosuch", "--data_dir="], "unknown dataset 'nosuch'"),
    "too many bad files": (["--max_skipped=0.01"], "broken.jpg"),
    "unknown task": (["--evaluate=retrieve"], "unknown evaluation task"),
    "unknown export": (["--export=tflite"], "unknown export format"),
    "mean of two": (["--mean=0.5,0.5"], "mean needs three numbers"),
    "parts": (["--gradient_accumulation=3"], "cannot be split evenly"),
    "no epochs": (["--epochs=0"], "epochs 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_named_before_training(call, photos, tmp_path, case):
    arguments, message = BAD[case]
    data = [] if case == "unknown dataset" else [f"--data_dir={photos}"]
    arguments = [argument for argument in arguments if argument != "--data_dir="]
    with pytest.raises(UserError, match=message):
        call(*data, "--max_skipped=0.1", f"--output_dir={tmp_path}/run", *TINY, *arguments)
    assert not list(tmp_path.glob("run/*"))


def test_another_datasets_run_is_not_resumed(call, runs, photos):
    folder, _, _ = runs
    arguments = ["--max_skipped=0.1", f"--output_dir={folder}/straight", "--epochs=3", *TINY]
    with pytest.raises(UserError, match="holds a run with dataset"):
        call(f"--data_dir={photos}/dark", *arguments)
    with pytest.raises(UserError, match="holds a run with image_size 16, and this one has 20"):
        call(f"--data_dir={photos}", *arguments, "--image_size=20")
    with pytest.raises(UserError, match="already holds a run"):
        call(f"--data_dir={photos}", *arguments, "--resume=never")


def test_an_empty_folder_is_named(call, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        call(f"--data_dir={tmp_path}/empty", f"--output_dir={tmp_path}/run", *TINY)


def test_fidelity_gives_the_published_values_to_flags_that_are_not_given(call, photos, tmp_path):
    call(
        f"--data_dir={photos}",
        "--max_skipped=0.1",
        f"--output_dir={tmp_path}/run",
        "--fidelity",
        "--epochs=1",
        "--monitor_every=0",
        *TINY,
    )
    used = json.loads((tmp_path / "run" / "run.json").read_text())["flags"]
    for name, value in {
        "negatives": "per_image",
        "exclude_positive": False,
        "normalizer": "first_batch",
        "bank_initialization": "uniform",
        "fill_bank": False,
        "crop": "resized",
        "num_negatives": 8,
        "schedule": "constant",
        "lr_table": None,
    }.items():
        assert used[name] == value, name
