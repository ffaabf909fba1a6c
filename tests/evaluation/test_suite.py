import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from rfd_tf import applications
from rfd_tf.data import ArraySource
from rfd_tf.data.run_images import RunImages
from rfd_tf.errors import UserError
from rfd_tf.evaluation import TASKS, KNearestNeighbours, runner, suite, suite_table
from rfd_tf.evaluation.base import Result

CIFAR10 = {"num_classes": 10, "num_train": 50_000, "num_test": 10_000}
IMAGENET = {"num_classes": 1000, "num_train": 1_281_167, "num_test": 50_000}
OPTIONS = {"rotation": {"fit_images": 50}, "retrieval": {"queries": 2}}


@pytest.fixture(scope="module")
def sources(small_digits):
    train, test = small_digits.train, small_digits.test
    names = train.source.class_names
    part = ArraySource(train.images(), train.labels, names, "digits/part")
    return part, ArraySource(test.images()[:100], test.labels[:100], names, "digits/some")


@pytest.fixture(scope="module")
def evaluated(rfd_run, sources, tmp_path_factory):
    """A suite over two runs, and what it wrote; run a's kNN had been evaluated before."""
    root = tmp_path_factory.mktemp("suite")
    for name in "ab":
        shutil.copytree(rfd_run, root / name)
    (root / "b" / "heads.npz").unlink()
    report = runner.evaluate(root / "a", [KNearestNeighbours()], *sources)
    # What is taken from the file is told from what is computed.
    report["results"][0]["value"] = 0.123
    (root / "a" / "evaluation.json").write_text(json.dumps(report))
    said = []
    comparison = suite.run_suite(
        "features",
        [root / "a", root / "b"],
        *sources,
        output=root / "out",
        only=["knn", "retrieval", "rotation"],
        options=OPTIONS,
        say=said.append,
    )
    return root, comparison, said


def cell(comparison, entry, feature, images="upright", metric="accuracy"):
    wanted = {"entry": entry, "feature": feature, "images": images, "metric": metric}
    (row,) = [r for r in comparison["rows"] if all(r[k] == v for k, v in wanted.items())]
    return row["runs"]


def test_what_is_missing_is_run_and_the_rest_reused(evaluated, sources):
    root, comparison, said = evaluated
    assert "a, knn: reused" in said and "b: knn" in said and "a: retrieval" in said
    report = runner.evaluate(root / "b", [KNearestNeighbours()], *sources)
    for row in report["results"]:
        both = cell(comparison, "knn", row["name"], row["images"])
        assert both["b"]["value"] == row["value"]
        assert both["b"]["random_init"] == both["a"]["random_init"] == row["random_init"]
        # (Its heads, and with them the embedding, are run a's alone.)
        assert both["a"]["value"] in (row["value"], 0.123)
    assert cell(comparison, "knn", report["results"][0]["name"])["a"]["value"] == 0.123
    assert set(cell(comparison, "knn", "embedding")) == {"a"}
    assert set(cell(comparison, "retrieval", "f2", metric="precision@10")) == {"a", "b"}


def test_a_task_that_a_run_does_not_allow_is_noted(evaluated):
    root, comparison, _ = evaluated
    assert set(cell(comparison, "rotation", "f1", "all rotations")) == {"a"}
    (note,) = comparison["notes"]
    assert note.startswith("b, rotation: ") and "has no rotation head" in note
    # Only the overall accuracies are in the table.
    shown = {row["feature"] for row in comparison["rows"] if row["entry"] == "rotation"}
    assert shown == {"f1", "f2"}
    assert note in (root / "out" / "comparison.md").read_text()


def test_files_say_the_same(evaluated):
    root, comparison, _ = evaluated
    assert json.loads((root / "out" / "comparison.json").read_text()) == comparison
    text = (root / "out" / "comparison.md").read_text()
    row = cell(comparison, "knn", "f2", "rotated")
    cells = [f"{100 * row[t]['value']:.1f} ({100 * row[t]['random_init']:.1f})" for t in "ab"]
    assert f"| knn | f2 | rotated | accuracy | {cells[0]} | {cells[1]} |" in text
    assert "100 test images (digits/some), 300 train images (digits/part), 10 classes." in text
    assert "- a: six_layer, 16 px, epoch 0" in text
    with open(root / "out" / "comparison.csv", newline="") as file:
        table = list(csv.DictReader(file))
    (found,) = [
        float(r["value"])
        for r in table
        if (r["task"], r["feature"], r["images"], r["run"], r["network"])
        == ("knn", "f2", "rotated", "b", "random init")
    ]
    assert found == row["b"]["random_init"]
    assert {r["published"] for r in table} == {"no"}
    assert (root / "out" / "comparison.png").stat().st_size > 20_000
    assert (root / "out" / "runs" / "b" / "retrieval" / "retrieval_pretrained_f.png").exists()


def again(root, sources, **changed):
    said = []
    arguments = {"only": ["knn"], "output": root / "out", **changed}
    comparison = suite.run_suite("features", [root / "b"], *sources, say=said.append, **arguments)
    return comparison, said


def test_the_same_call_runs_nothing_and_another_does(evaluated, sources):
    root, comparison, _ = evaluated
    same, said = again(root, sources)
    assert said == ["b, knn: reused"]
    assert cell(same, "knn", "f")["b"] == cell(comparison, "knn", "f")["b"]
    for changed in (
        {"seed": 1},
        {"options": {"knn": {"k": 3}}},
        {"endpoints": ["block2"]},
        {"max_train_images": 200},
    ):
        other, said = again(root, sources, **{**changed, "output": root / "other"})
        assert said == ["b: knn"], changed
    fewer, said = again(root, (sources[0], None))
    assert said == ["b: knn"] and "held out" in fewer["data"]["test"]
    # Other weights in the same folder are not those that were evaluated.
    from rfd_tf import applications

    network = applications.build("six_layer", 16)
    record = applications.read_record(root / "b")
    shutil.copytree(root / "b", root / "c" / "b")
    applications.save_backbone(network, root / "c" / "b" / "backbone.weights.h5", record)
    _, said = again(root / "c", sources, output=root / "out")
    assert said == ["b: knn"]


def test_published_results_stand_beside_what_is_comparable(rfd_subject, tmp_path):
    task = TASKS["nonlinear"](protocol="rotnet_cifar10_conv")
    rows = [
        {"task": "nonlinear", "name": "block2", "images": "upright", "metric": "accuracy",
         "when": when, "value": value, "spread": 0.01, "random_init": 0.6}
        for when, value in (("last epoch", 0.85), ("best epoch", 0.86))
    ]  # fmt: skip
    report = {
        "protocol": task.protocol(None),
        "data": {**CIFAR10, "train": "cifar10/train", "test": "cifar10/test"},
        "backbone": {"backbone": "network_in_network", "arguments": {}},
        "results": rows,
    }
    entries = [e for e in suite.SUITES["cifar10"].entries if e.label == "convolutional"]
    comparison = suite._compare(
        "cifar10",
        suite.SUITES["cifar10"],
        entries,
        {"mine": ("runs/mine", rfd_subject)},
        {"mine": {"convolutional": report}},
        [],
    )
    last, best = comparison["rows"]
    methods = ["RotNet", "AET (affine)", "AET (projective)"]
    assert last["published"] == [] and best["published"][0]["value"] == 0.9116
    assert [other["method"] for other in best["published"]] == methods
    suite_table.write(comparison, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert "| task | feature | when | mine | RotNet (NIN, 4 blocks), published |" in text
    assert "| convolutional | block2 | last epoch | 85.0 ± 1.0 (60.0) |  |" in text
    best_row = "| convolutional | block2 | best epoch | 86.0 ± 1.0 (60.0) | 91.2 (72.5) |"
    assert f"{best_row} 92.0 (72.5) * | 92.2 (72.5) * |" in text
    assert "at second hand, CIFAR-10. * Differs: 200 epochs" in text
    assert "ICLR 2018, table 3" in text and "Published, not measured here" in text
    with open(tmp_path / "comparison.csv", newline="") as file:
        table = list(csv.DictReader(file))
    stars = [r for r in table if r["published"] == "yes"]
    assert [float(r["value"]) for r in stars[:2]] == [0.9116, 0.725]
    assert all("table 3" in r["source"] and not r["differs"] for r in stars[:2])
    assert len(stars) == 6 and len(table) == 10 and all(r["differs"] for r in stars[2:])
    axes = suite_table.figure(comparison).axes[0]
    points = {
        float(np.ravel(line.get_xdata())[0]) for line in axes.lines if line.get_marker() == "*"
    }
    assert sorted(points) == pytest.approx([72.5, 91.16, 91.95, 92.18])


def test_a_result_of_no_stated_epoch_stands_beside_both(rfd_subject):
    rows = [
        {"task": "linear", "name": "conv5", "images": "10 crops", "metric": "accuracy",
         "when": when, "value": 0.4, "spread": None, "random_init": 0.1}
        for when in ("last epoch", "best epoch")
    ]  # fmt: skip
    report = {
        "protocol": TASKS["linear"]("rfd_imagenet", ten_crops=True).protocol(None),
        "data": {**IMAGENET, "train": "imagenet", "test": "imagenet"},
        "backbone": {"backbone": "alexnet", "arguments": {"bigger": True}},
        "results": rows,
    }
    entry = suite.Entry("linear", "linear")
    title = {"mine": ("runs/mine", rfd_subject)}
    found = suite._compare(
        "imagenet", suite.SUITES["imagenet"], [entry], title, {"mine": {"linear": report}}, []
    )
    for row in found["rows"]:
        values = {other["method"]: other["value"] for other in row["published"]}
        assert values == {"RFD": 0.483, "DeepCluster": 0.382}


@pytest.fixture
def voc(tmp_path):
    """Ten pictures of a dark or a light square, annotated."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / "voc" / name).mkdir(parents=True)
    (tmp_path / "voc/ImageSets/Main/train.txt").write_text("\n".join("01234567"))
    (tmp_path / "voc/ImageSets/Main/test.txt").write_text("8\n9\n")
    for number in range(10):
        name, grey = ("cat", 40) if number % 2 else ("dog", 220)
        image = Image.new("RGB", (64, 64), (128, 128, 128))
        image.paste((grey, grey, grey), (8, 8, 56, 56))
        image.save(tmp_path / "voc" / "JPEGImages" / f"{number}.jpg")
        (tmp_path / "voc" / "Annotations" / f"{number}.xml").write_text(
            "<annotation><size><width>64</width><height>64</height></size><object><name>"
            f"{name}</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>56</xmax><ymax>56</ymax>"
            "</bndbox></object></annotation>"
        )
    return tmp_path / "voc"


def test_the_voc_suite_brings_its_own_pictures(voc, rfd_run, tmp_path):
    own = {"voc_dir": voc, "train_split": "train", "test_split": "test"}
    options = {
        "voc_classification": {**own, "protocols": ["svm"], "costs": [1.0]},
        "detection": {**own, "image_size": 64, "epochs": 1},
        "segmentation": own,
    }
    said = []

    def run():
        said.clear()
        return suite.run_suite(
            "voc",
            [rfd_run],
            output=tmp_path / "out",
            only=["classification", "segmentation"],
            options=options,
            endpoints=["block6"],
            say=said.append,
        )

    comparison = run()
    assert {row["entry"] for row in comparison["rows"]} == {"classification"}
    assert said[0].startswith("left out: rfd, segmentation") and "Segmentation" in said[0]
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "- classification: 2 test pictures (voc/test), 8 train pictures (voc/train)" in text
    assert "mean AP (11-point)" in text
    run()
    assert "rfd, classification: reused" in said


def test_what_a_network_s_protocol_says_is_its_own(voc, rfd_run, tmp_path, monkeypatch):
    # The levels of a detector's pyramid are told in the protocol and not the same for all networks.
    network = applications.build("resnet18", 64)
    record = {"format": 1, "backbone": "resnet18", "arguments": {}, "image_size": 64}
    path = applications.save_backbone(network, tmp_path / "other.weights.h5", record)
    monkeypatch.setattr(TASKS["detection"], "run", lambda *_: iter([Result("all layers", 0.5)]))
    said = []
    for _ in range(2):
        said.clear()
        found = suite.run_suite(
            "voc",
            [rfd_run, path],
            output=tmp_path / "out",
            only=["detection"],
            options={"detection": {"voc_dir": voc, "image_size": 64, "epochs": 1}},
            say=said.append,
        )
    assert said == ["rfd, detection: reused", "other, detection: reused"]
    assert "all layers" == found["rows"][0]["feature"]
    reports = [
        json.loads((tmp_path / "out" / "runs" / title / "detection.json").read_text())
        for title in ("rfd", "other")
    ]
    assert [report["protocol"]["pyramid"]["P3"] for report in reports] == [
        "1 new convolution of stride 2 on block6",
        "block2",
    ]


def test_every_suites_tasks_can_be_made():
    for name, found in suite.SUITES.items():
        labels = [entry.label for entry in found.entries]
        assert len(set(labels)) == len(labels), name
        for entry in found.entries:
            if found.needs_images:
                assert suite._task(entry, {}).name == entry.task
            else:
                with pytest.raises(UserError, match="voc_dir"):
                    suite._task(entry, {})


def test_two_runs_of_one_name_are_distinguished(rfd_run):
    found = suite._subjects([rfd_run, rfd_run / "backbone.weights.h5", rfd_run])
    assert list(found) == ["rfd", "backbone", "rfd_2"]


def test_the_runs_own_images_are_taken(evaluated, tmp_path):
    root, _, _ = evaluated
    assert suite.recorded_images("cifar10", [root / "a", root / "b"]).dataset == "digits"
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({"flags": {"dataset": "stl10"}}))
    mixed = [root / "a", other]
    assert suite.recorded_images("cifar10", mixed) == RunImages(dataset="cifar10")
    assert suite.recorded_images("features", mixed) == RunImages()
    # The same dataset by other splits is not the same images.
    (other / "run.json").write_text(
        json.dumps({"flags": {"dataset": "digits", "train_split": "all"}})
    )
    assert suite.recorded_images("features", mixed) == RunImages()


def test_mistakes_are_named(evaluated, sources, tmp_path):
    root, _, _ = evaluated

    def call(name="features", runs=(root / "a",), data=sources, **arguments):
        suite.run_suite(name, runs, *data, output=tmp_path, **arguments)

    with pytest.raises(UserError, match="unknown suite 'cifar'.*cifar10"):
        call("cifar")
    with pytest.raises(UserError, match="unknown task of suite features 'kn'.*knn"):
        call(only=["kn"])
    with pytest.raises(UserError, match="give runs"):
        call(runs=[])
    with pytest.raises(UserError, match="unknown weights 'nothing'"):
        call(runs=["nothing"])
    with pytest.raises(UserError, match="can evaluate none of the runs: a, knn: the tasks need"):
        call(data=(), only=["knn"])
    bare = ArraySource(sources[0].images, None, None, "bare")
    with pytest.raises(UserError, match="none of the runs.*'bare' has no labels"):
        call(data=(bare,), only=["knn"])


def test_options_that_an_entry_has_no_use_for_are_those_of_other_entries():
    (hidden, convolutional) = [e for e in suite.SUITES["cifar10"].entries if e.task == "nonlinear"]
    options = {"nonlinear": {"hidden": 64}, "linear": {"probe_size": 2}}
    assert suite._task(hidden, options).protocol(None)["hidden"] == 64
    assert "hidden" not in suite._task(convolutional, options).protocol(None)
    for entry in suite.SUITES["imagenet"].entries:
        if entry.task == "linear":
            assert suite._task(entry, options).protocol(None)["protocol"]
