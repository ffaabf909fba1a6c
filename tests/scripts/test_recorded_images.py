"""Commands take a run's images as it recorded them, and say which of them it was trained on."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from script_driver import check_mistakes, run_many

TINY = [
    "--backbone=six_layer",
    "--backbone_option=filters=[4,4,4,4,4,8]",
    "--image_size=16",
    "--batch_size=8",
    "--method=rotation",
    "--mixed_precision=float32",
    "--notensorboard",
    "--steps_per_epoch=2",
    "--epochs=1",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on all digits that is evaluated on some of them, and one on crops of a photograph."""
    folder = tmp_path_factory.mktemp("recorded")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / "test" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (18, 18, 3)).astype("uint8")
            Image.fromarray(pixels).save(folder / "test" / name / f"{number}.png")
    own = ["--dataset=digits", "--train_split=all", "--eval_split=train"]
    crops = ["--source_images=sklearn:china.jpg", "--source_crops=16"]
    results = run_many(
        "pretrain",
        [
            [*own, *TINY, "--monitor_images=50", f"--output_dir={folder}/digits"],
            [*crops, *TINY, f"--eval_dir={folder}/test", f"--output_dir={folder}/crops"],
        ],
    )
    for code, _, error in results:
        assert code == 0, error
    return folder, results


def test_pretraining_says_that_it_evaluates_on_images_it_trains_on(runs):
    _, results = runs
    assert "trained on 1500 of the 1500 test images of digits/train" in results[0][1]
    assert "trained on" not in results[1][1]


def test_evaluation_takes_the_recorded_splits_and_folders(runs):
    folder, _ = runs
    lines = [
        [f"--weights={folder}/digits"],
        [f"--weights={folder}/digits", "--eval_split=test", f"--output={folder}/b.json"],
        [f"--weights={folder}/crops"],
    ]
    few = ["--task=knn", "--endpoints=block6"]
    results = run_many("evaluate", [[*line, *few, "--max_train_images=60"] for line in lines])
    for code, _, error in results:
        assert code == 0, error
    paths = (folder / "digits" / "evaluation.json", folder / "b.json")
    first, second = (json.loads(path.read_text())["data"] for path in paths)
    assert (first["train"], first["test"], first["trained_on"]) == ("digits", "digits/train", 1500)
    assert 0 < first["test_in_train"] <= 60
    assert (second["test"], second["trained_on"]) == ("digits/test", 297)
    assert "the network was trained on 1500 of the 1500 test images" in results[0][2]
    assert "Trained on, without labels: 297 of the test images." in results[1][1]
    crops = json.loads((folder / "crops" / "evaluation.json").read_text())["data"]
    assert crops["num_train"] + crops["num_test"] == 12 and "trained_on" not in crops


def test_a_suite_takes_the_recorded_splits(runs):
    from rfd_tf.evaluation import suite

    folder, _ = runs
    images = suite.recorded_images("features", [folder / "digits"])
    assert (images.train_split, images.eval_split) == ("all", "train")
    different = [folder / "digits", folder / "crops"]
    assert suite.recorded_images("cifar10", different).dataset == "cifar10"
    assert not suite.recorded_images("features", different).named


def test_the_report_the_page_and_the_calibration_take_the_recorded_splits(runs):
    folder, _ = runs
    report, page, calibration = (
        run_many(name, [arguments], prelude)[0]
        for name, arguments, prelude in (
            (
                "report",
                [f"--run={folder}/digits", "--images=20", "--sections=neighbours"],
                """
from rfd_tf.interpret import report
original = report.ReportImages
def images(record, train, test, *rest, **options):
    print(train.name, test.name)
    return original(record, train, test, *rest, **options)
report.ReportImages = images
""",
            ),
            (
                "explore",
                [f"--run={folder}/digits"],
                """
import pathlib
script.main = lambda: print(script.images_of(pathlib.Path(script.FLAGS.run)).name)
""",
            ),
            (
                "export",
                [f"--weights={folder}/digits", "--output_dir=x", "--quantize=float16"],
                "script.main = lambda: print(script.calibration_source().name)",
            ),
        )
    )
    assert report[0] == 0 and "digits digits/train" in report[1], report[2]
    assert "trained on 20 of the 20 images looked at" in report[2]
    assert page[0] == 0 and page[1] == "digits/train\n", page[2]
    assert "trained on 1500 of the 1500 images of" in page[2]
    assert calibration[0] == 0 and calibration[1] == "digits\n", calibration[2]


def test_embedding_takes_the_images_of_the_run_but_no_crops(runs):
    folder, _ = runs
    prelude = "script.main = lambda: print(script.images().train().name)"
    ((code, out, error),) = run_many("embed", [[f"--weights={folder}/digits"]], prelude)
    assert code == 0 and out == "digits\n", error
    crops = [f"--weights={folder}/crops", f"--output_dir={folder}/vectors"]
    check_mistakes("embed", crops, {"--data_dir is missing": []})


def test_damaged_images_are_left_out_by_every_command_as_the_run_did(runs, tmp_path):
    folder, _ = runs
    photos = tmp_path / "photos"
    shutil.copytree(folder / "test", photos)
    (photos / "a" / "empty.png").write_bytes(b"")
    Image.new("RGB", (40, 40)).save(photos / "b" / "large.png")
    own = f"--data_dir={photos}"
    limits = ["--max_skipped=0.5", "--max_megapixels=1"]
    ((code, _, error),) = run_many(
        "pretrain", [[*limits, own, *TINY, f"--output_dir={tmp_path}/run"]]
    )
    assert code == 0, error
    given = f"--weights={tmp_path}/run"
    lines = {
        "saliency": [given, own, "--layers=rotation", "--sheet_images=1"],
        "export": [given, f"--calibration_dir={photos}", "--format=onnx", "--quantize=float16"],
        "embed": [given, own],
        "explore": [f"--run={tmp_path}/run", own],
    }
    lines = {name: [*line, f"--output_dir={tmp_path}/{name}"] for name, line in lines.items()}
    lines["explore"].pop()
    for name, line in lines.items():
        small, strict = [*line, "--max_megapixels=0.001"], [*line, "--max_skipped=0"]
        tried = {"embed": [small], "explore": [strict]}.get(name, [strict, small])
        results = run_many(name, tried)
        for (code, _, error), arguments in zip(results, tried, strict=True):
            if arguments is strict:
                assert code == 2 and "or raise --max_skipped (now 0)" in error, error
            else:  # the run's --max_skipped goes on with them
                assert code == 0 and "2 of 14 images" in error, error
                assert "raise --max_megapixels to read it" in error
