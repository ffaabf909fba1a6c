"""Every command takes several folders and lists of images, as the documentation has them."""

import csv
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from script_driver import ROOT, check_mistakes, run_many

import rfd_tf

FOLDERS = {
    "photos": {"cat": 6, "dog": 6},
    "more_photos": {"dog": 5, "elk": 5},
    "test_photos": {"cat": 2, "dog": 2, "elk": 2},
}
SPLITS = {"photos": "train", "more_photos": "val", "test_photos": "test"}
TINY = {
    "pretrain": [
        *("--backbone=six_layer", "--backbone_option=filters=[4,4,4,4,4,8]", "--image_size=16"),
        *("--batch_size=8", "--method=rotation", "--mixed_precision=float32", "--epochs=1"),
        *("--steps_per_epoch=1", "--health_every=0", "--notensorboard", "--monitor_images=20"),
    ],
    "evaluate": ["--task=knn", "--endpoints=block6"],
    "embed": ["--batch_size=8"],
}


def documented():
    """The commands in the first block of the page on images, by command: lists of arguments."""
    block = re.search(
        r"```bash\n(.*?)```", (ROOT / "docs" / "guides" / "data.md").read_text(), re.S
    )[1]
    found = {}
    for line in block.replace("\\\n", " ").splitlines():
        if not (words := shlex.split(line, comments=True)):
            continue
        program, command, *arguments = words
        assert program == "rfd-tf"
        found.setdefault(command, []).append([*arguments, *TINY[command]])
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folders and lists that the documentation names, and its runs, evaluations, vectors."""
    place = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    rows = []
    for folder, classes in FOLDERS.items():
        for name, count in classes.items():
            (place / folder / name).mkdir(parents=True)
            for number in range(count):
                path = f"{folder}/{name}/{number}.png"
                pixels = rng.integers(0, 256, (16, 16, 3)).astype("uint8")
                Image.fromarray(pixels).save(place / path)
                rows.append((path, name, SPLITS[folder]))
    (place / "scans").mkdir()
    for number in range(8):
        scan = Image.fromarray(rng.normal(0, 1e-3, (16, 16)).astype("float32"))
        scan.save(place / "scans" / f"{number}.tif")
    (place / "photos" / "cat" / "empty.png").touch()
    rows.append(("photos/cat/gone.png", "cat", "train"))
    names = ("path", "label", "split")
    (place / "lists").mkdir()
    with open(place / "images.csv", "w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    with open(place / "images.tsv", "w", newline="") as file:
        tests = [row[:2] for row in rows if row[2] == "test"]
        csv.writer(file, delimiter="\t").writerows([names[:2], *tests])
    entries = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    (place / "lists" / "images.jsonl").write_text("\n".join(entries))
    (place / "images.txt").write_text("".join(f"{row[0]}\n" for row in reversed(rows)))
    outputs = {}
    for command, lines in documented().items():
        results = run_many(command, [[*line, *loose(command, line)] for line in lines], at(place))
        for (code, _, error), line in zip(results, lines, strict=True):
            assert code == 0, (command, line, error)
        outputs[command] = [out for _, out, _ in results]
    return place, outputs


def loose(command, line=()):
    """A flag that lets a file be missing, where there are files and a bound."""
    return [] if command == "embed" or "--data=digits" in line else ["--max_skipped=0.2"]


def at(place):
    return f"import os; os.chdir({str(place)!r})"


def flags_of(run):
    return json.loads((run / "run.json").read_text())["flags"]


def test_the_documented_pretrainings_read_what_they_were_given(place):
    place, outputs = place
    folder, folders, listed, jsonl, digits, scans = outputs["pretrain"]
    assert "12 images of photos; 2 classes: cat 6, dog 6" in folder
    assert "22 images of photos,more_photos; 3 classes: cat 6, dog 11, elk 5" in folders
    assert "to evaluate: 6 images of test_photos; 3 classes" in folders
    assert "12 images of images.csv[train]; 3 classes: cat 6, dog 6, elk 0" in listed
    assert "to evaluate: 6 images of images.csv[test]; 3 classes: cat 2, dog 2, elk 2" in listed
    assert "22 images of lists/images.jsonl[train+val]" in jsonl
    assert "1500 images of digits/train" in digits
    assert "8 images of scans" in scans and "scans': 8 grey images of more than 8 bits" in scans
    assert (place / "runs/folders/skipped_files.txt").read_text() == (
        "photos/cat/empty.png\tempty file\n"
    )
    missing = f"line 30: no file '{place}/photos/cat/gone.png'"
    assert (place / "runs/list/skipped_files.txt").read_text() == (
        f"photos/cat/gone.png\t{missing}\n"
    )


def test_a_run_records_its_images_by_absolute_paths(place):
    place, _ = place
    flags = flags_of(place / "runs" / "folders")
    assert flags["data_dir"] == f"{place}/photos,{place}/more_photos"
    assert flags["eval_dir"] == f"{place}/test_photos"
    flags = flags_of(place / "runs" / "scans")
    assert (flags["high_bit_depth"], flags["color_profile"]) == ("stretch", "srgb")
    flags = flags_of(place / "runs" / "jsonl")
    assert (flags["data_dir"], flags["data_root"]) == (f"{place}/lists/images.jsonl", str(place))
    assert flags["train_split"] == "train+val"


def test_the_documented_evaluations_and_embeddings(place):
    place, _ = place
    listed, folder = (
        json.loads((place / "runs" / name / "evaluation.json").read_text())["data"]
        for name in ("list", "folder")
    )
    own = f"{place}/images.csv"
    assert (listed["train"], listed["test"]) == (f"{own}[train]", f"{own}[test]")
    assert (listed["num_train"], listed["num_test"]) == (12, 6)
    assert (folder["train"], folder["num_train"]) == ("photos,more_photos", 22)
    assert (folder["test"], folder["num_test"]) == ("images.tsv", 6)
    names = json.loads((place / "embeddings" / "file_names.json").read_text())
    assert names[0] == "test_photos/elk/1.png" and names[-1] == "photos/cat/0.png"
    assert len(names) == 28 == len(np.load(place / "embeddings" / "f.npy"))
    skipped = (place / "embeddings" / "skipped_files.txt").read_text()
    assert skipped.startswith("photos/cat/gone.png\tline 1: no file")


def test_runs_on_folders_and_lists_resume_and_name_what_changed(place):
    place, _ = place
    every = documented()["pretrain"]
    folders, listed = ([*line, "--epochs=2", "--max_skipped=0.2"] for line in every[1:3])
    swapped = [part.replace("photos,more_photos", "more_photos,photos") for part in folders]
    (place / "other.csv").write_text((place / "images.csv").read_text().replace(",val", ",train"))
    longer = [part.replace("images.csv", "other.csv") for part in listed]
    results = run_many("pretrain", [folders, listed, swapped, longer], at(place))
    for code, out, error in results[:2]:
        assert code == 0 and "resuming after epoch 1" in out, error
    (swap, _, order), (more, _, added) = results[2:]
    assert swap == more == 2
    assert "the images differ: the names are the same, in another order" in order
    assert "the images differ: 10 images new (more_photos/dog/0.png" in added


def test_all_other_commands_find_the_images_of_the_run_and_take_others(place):
    place, _ = place
    listed, folders = (f"{place}/runs/{name}" for name in ("list", "folders"))
    both = "--data=photos,more_photos"
    sources = "print(*(s and f'{s.name} {s.num_images}' for s in script.sources(pathlib.Path("
    stubs = {
        "report": f"{sources}script.FLAGS.run))))",
        "explore": "print(script.images_of(pathlib.Path(script.FLAGS.run)))",
        "export": "print(script.calibration_source())",
        "estimate_pu": "print(script.estimation.load(script.config()))",
        "embed": "print(script.images().data_dir, script.images().train_split)",
    }
    lines = {
        "report": ([f"--run={listed}"], [f"--run={listed}", both, "--val_data=images.tsv"]),
        "explore": ([f"--run={folders}"], [f"--run={folders}", "--data=images.csv", "--split=val"]),
        "export": ([f"--weights={listed}"], [f"--weights={listed}", both]),
        "estimate_pu": ([both], ["--data=lists/images.jsonl", "--data_root=."]),
        "embed": ([f"--weights={listed}"], [f"--weights={listed}", both]),
    }
    wanted = {
        "report": ("images.csv[train] 12 .*images.csv[test] 6", "photos,more_photos 22 images.tsv"),
        "explore": ("'test_photos': 6 images", "'images.csv[val]': 10 images"),
        "export": ("images.csv[train]': 12 images", "'photos,more_photos': 22 images"),
        "estimate_pu": ("photos,more_photos': 22 images", "'lists/images.jsonl[train]': 12"),
        "embed": (f"{place}/images.csv train", "photos,more_photos None"),
    }
    for command, (own, others) in lines.items():
        prelude = f"""
{at(place)}
import pathlib
def main():
    script.data_flags.resolve()
    {stubs[command]}
script.main = main
"""
        more = [*loose(command), *(["--quantize=int8"] if command == "export" else [])]
        results = run_many(command, [[*own, *more], [*others, *more]], prelude)
        for (code, out, error), text in zip(results, wanted[command], strict=True):
            assert code == 0, (command, error)
            assert re.search(re.escape(text).replace(r"\.\*", ".*"), out), (command, out)


def test_mistakes_in_what_is_given_are_one_line(place):
    place, _ = place
    (place / "empty").mkdir()
    output = f"--output_dir={place}/runs/none"
    csv_file = f"--data={place}/images.csv"
    mistakes = {
        "no such folder: 'gone'; give --data an existing folder": ["--data=gone,there"],
        "cannot read the image list 'gone.csv': No such file": ["--data=gone.csv"],
        "line 30: no file": [csv_file],
        "and no such folder; embedded: clothing, digits": ["--data=gone"],
        "no images were given; give --data a folder": [],
        f"'{place}/empty' or below; give --val_data the folder of the images": [
            "--data=digits",
            f"--val_data={place}/empty",
        ],
        "--val_data='gone' is neither a folder nor the dataset of the training images; give": [
            "--data=digits",
            "--val_data=gone",
        ],
        "train_split='x' has no effect without dataset": [f"--data={place}", "--train_split=x"],
        "--data_root='x' has no effect with": [f"--data={place}", "--data_root=x"],
        "has no rows of the split 'x'; its splits are train, validation, test": [
            csv_file,
            "--train_split=x",
        ],
    }
    check_mistakes("pretrain", [output, *TINY["pretrain"]], mistakes)
    assert not (place / "runs" / "none" / "run.json").exists()


def test_python_takes_what_the_commands_take(place, monkeypatch):
    place, _ = place
    monkeypatch.chdir(place)
    rows = [row for row in (place / "lists" / "images.jsonl").read_text().split("\n")[10:-1]]
    (place / "lists" / "clean.jsonl").write_text("\n".join(rows).replace('"val"', '"train"'))
    seen = []

    def evaluate(weights, tasks, train, test, **options):
        seen.append([source and source.num_images for source in (train, test)])
        return {}

    monkeypatch.setattr(rfd_tf.evaluation, "evaluate", evaluate)
    for data, val_data, root in (
        ("more_photos,test_photos", "images.tsv", None),
        (("more_photos", place / "test_photos"), None, None),
        ("lists/clean.jsonl", None, "."),
        (["more_photos"], "lists/clean.jsonl", "."),
        ("digits", None, None),
    ):
        given = {"data": data, "val_data": val_data, "data_root": root}
        rfd_tf.evaluate("six_layer.rfd_cifar10", "knn", verbose=0, **given)
    assert seen == [[16, 6], [16, None], [12, 6], [10, 6], [1500, 297]]
    with pytest.raises(rfd_tf.errors.UserError, match="data_root goes with a list"):
        rfd_tf.evaluate("six_layer.rfd_cifar10", data="photos", data_root=".", verbose=0)
    folders = ["photos", "more_photos"]
    report = rfd_tf.embed("six_layer.rfd_cifar10", folders, place / "vectors", verbose=0)
    assert report["images"] == 22 and report["skipped"] == 1
    digits = rfd_tf.data.digits("test")
    report = rfd_tf.embed("six_layer.rfd_cifar10", digits, place / "digits", verbose=0)
    assert report["images"] == 297
    assert json.loads((place / "digits" / "file_names.json").read_text())[3] == "3"
    with pytest.raises(rfd_tf.errors.UserError, match="data goes with quantize"):
        rfd_tf.export_model("six_layer.rfd_cifar10", place / "exported", data="digits")
