"""What a resumed run reports, and which images it accepts as its own."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from script_driver import run_many

from rfd_tf.evaluation.subject import Subject

TINY = [
    "--backbone=six_layer",
    "--backbone_option=filters=[4,4,4,4,4,8]",
    "--image_size=16",
    "--batch_size=8",
    "--method=rotation",
    "--mixed_precision=float32",
    "--notensorboard",
    "--steps_per_epoch=2",
]


def paint(folder, count=6, classes=("dark", "light")):
    rng = np.random.default_rng(0)
    for level, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(100 * level, 100 * level + 120, (18, 18, 3)).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def column(run, name):
    with open(run / "metrics.csv", newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def monitored(tmp_path_factory):
    """Runs on digits: always monitored; monitored from the second epoch on; from given weights."""
    folder = tmp_path_factory.mktemp("monitored")
    common = ["--dataset=digits", "--schedule=constant", *TINY]
    common += ["--steps_per_epoch=40", "--batch_size=32"]
    start = "weights={}".format((folder / "late" / "backbone.weights.h5").as_posix())
    lines = [
        [*common, "--epochs=2", f"--output_dir={folder}/always"],
        [*common, "--epochs=1", "--monitor_every=0", f"--output_dir={folder}/late"],
        [*common, "--epochs=2", f"--output_dir={folder}/late"],
        [*common, "--epochs=1", f"--backbone_option={start}", f"--output_dir={folder}/given"],
        [*common, "--epochs=1", "--learning_rate=0.7", f"--output_dir={folder}/always"],
    ]
    results = run_many("pretrain", lines)
    for code, _, error in results:
        assert code == 0, error
    return folder, [out for _, out, _ in results]


def test_random_init_accuracy_of_a_resumed_run_is_that_of_the_untrained_network(monitored):
    folder, _ = monitored
    always = column(folder / "always", "knn_accuracy_random_init")
    assert always[0] == always[1] != ""
    assert column(folder / "always", "knn_accuracy")[0] != always[0]
    assert column(folder / "late", "knn_accuracy_random_init") == ["", always[0]]


def test_a_complete_run_keeps_the_record_of_its_training(monitored):
    folder, out = monitored
    run = json.loads((folder / "always" / "run.json").read_text())
    assert run["flags"]["epochs"] == 2 and run["flags"]["learning_rate"] == 0.05
    schedule = run["built"]["optimizer"]["learning_rate"]["config"]
    assert schedule["values"] == pytest.approx([0.05, 0.05])
    assert run["saving"]["checkpoints"] == 2 and "the run is complete" in out[4]
    assert "--learning_rate was 0.05 and is not changed to 0.7 in a complete run" in out[4]


def test_random_init_accuracy_of_a_run_from_weights_is_that_of_the_seeds_network(monitored):
    folder, texts = monitored
    always = column(folder / "always", "knn_accuracy_random_init")
    assert column(folder / "given", "knn_accuracy_random_init") == always[:1]
    assert float(column(folder / "given", "knn_accuracy")[0]) > 0
    given = Subject.pretrained(folder / "given")
    trained, twin = (each.network().get_weights()[0] for each in (given, given.random_twin(0)))
    assert np.abs(trained - twin).max() > 0.01
    assert f"random-init feature: {float(always[0]):.4f}" in texts[3]


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run on a folder that is renamed, then loses an image; each time resumed."""
    folder = tmp_path_factory.mktemp("moved")
    paint(folder / "photos")
    common = ["--monitor_every=0", f"--output_dir={folder}/run", *TINY]
    move = f"""
import pathlib
folder = pathlib.Path({str(folder)!r})
original, calls = script.main, []
def main():
    calls.append(1)
    if len(calls) == 2:
        (folder / "photos").rename(folder / "mounted elsewhere")
    if len(calls) == 4:
        (folder / "mounted elsewhere" / "dark" / "1.png").unlink()
    original()
script.main = main
"""
    there = f"--data_dir={folder}/mounted elsewhere"
    lines = [
        [f"--data_dir={folder}/photos", "--epochs=1", *common],
        [there, "--epochs=2", *common],
        [there, "--epochs=3", "--seed=5", *common],
        [there, "--epochs=3", *common],
    ]
    return folder, run_many("pretrain", lines, move)


def test_a_folder_of_another_name_with_the_same_images_resumes(moved):
    folder, results = moved
    code, out, error = results[1]
    assert code == 0, error
    assert "resuming after epoch 1 " in out
    assert "the images were named 'photos', now 'mounted elsewhere'" in out
    assert column(folder / "run", "epoch") == ["1", "2"]


def test_other_images_and_settings_are_refused_and_deletion_is_no_first_advice(moved):
    _, results = moved
    for (code, _, error), way_out in zip(
        results[2:], ["give --seed=0", "1 image removed"], strict=True
    ):
        assert code == 2 and way_out in error, error
        assert error.index("another --output_dir") < error.index("--overwrite")
        assert "--overwrite deletes" in error


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """A run within the folder of its images, resumed, and commands that read that folder after."""
    folder = paint(tmp_path_factory.mktemp("inside") / "photos")
    run, out = folder / "run", folder / "results"
    common = [f"--data_dir={folder}", "--monitor_every=0", *TINY]
    common += ["--method=rfd", "--num_negatives=4"]
    crops = ["--source_images=sklearn:china.jpg", "--source_crops=16", "--epochs=1"]
    results = run_many(
        "pretrain",
        [
            [*common, "--epochs=1", f"--output_dir={run}"],
            [*TINY, "--monitor_every=0", *crops, f"--output_dir={folder}/crops"],
            [*common, "--epochs=2", f"--output_dir={run}"],
            [*common, "--epochs=2", f"--output_dir={folder}"],
        ],
    )
    results += run_many(
        "evaluate",
        [
            [f"--weights={run}", "--task=knn,rotation", f"--output={out}.json"],
            [f"--weights={run}", "--task=knn"],
        ],
    )
    return folder, results


def test_a_run_does_not_train_on_pictures_of_runs_in_the_folder_of_its_images(inside):
    folder, results = inside
    assert list((folder / "crops" / "figures").glob("*.png"))
    first, _, second = results[:3]
    assert first[0] == 0 and "12 images of photos" in first[1], first[2]
    assert second[0] == 0 and "12 images of photos" in second[1], second[2]
    assert "left out of the images in" in second[2] and "'crops', 'run'" in second[2]


def test_the_folder_of_the_images_is_refused_as_the_output_folder(inside):
    folder, results = inside
    code, _, error = results[3]
    assert code == 2 and f"'{folder}' is the folder of the images" in error
    assert not (folder / "run.json").exists()


def test_no_command_reads_the_results_of_another_as_images(inside):
    folder, results = inside
    for code, _, error in results[4:]:
        assert code == 0, error
    assert list((folder / "results_files").glob("*.png"))
    report = json.loads((folder / "run" / "evaluation.json").read_text())
    assert report["data"]["num_train"] + report["data"]["num_test"] == 12
    assert "'crops', 'results_files', 'run'" in results[-1][2]
