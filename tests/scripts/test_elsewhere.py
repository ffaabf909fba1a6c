"""The documented commands on images at addresses and on datasets of Hugging Face."""

import json
import re
import shlex

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from remote_servers import http_server, s3_environment, s3_server, skip_without_s3
from script_driver import ROOT, run_many

from rfd_tf.data import image_folder
from rfd_tf.data.shards.write import write_shards

TINY = [
    *("--backbone=six_layer", "--backbone_option=filters=[4,4,4,4,4,8]", "--image_size=16"),
    *("--batch_size=8", "--mixed_precision=float32"),
    *("--health_every=0", "--notensorboard", "--monitor_every=0", "--steps_per_epoch=1"),
]
CLASSES = {"cat": 6, "dog": 6}


def documented(heading):
    """The commands in the first block below a heading of the page on images."""
    page = (ROOT / "docs" / "guides" / "data.md").read_text()
    block = re.search(rf"## {heading}\n.*?```bash\n(.*?)```", page, re.S)[1]
    return [shlex.split(line)[2:] for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with shards, a list and a saved dataset."""
    place = tmp_path_factory.mktemp("elsewhere")
    for name, count in CLASSES.items():
        for number in range(count):
            path = place / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([len(name), number, name == "cat"])
            Image.fromarray(pixels.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    source = image_folder(place / "photos", cache_bytes=0)
    write_shards(source, place / "shards", images_per_shard=3)
    for path in (place / "shards").glob("shard-*"):
        path.rename(path.with_name(path.name.replace("shard", "train")))
    rows = [f"../photos/{name},{name[:3]},{('train', 'test')[name[4] == '5']}"
            for name in source.names]  # fmt: skip
    (place / "lists").mkdir()
    (place / "lists" / "images.csv").write_text("\n".join(["path,label,split", *rows]))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [
        {"bytes": (place / "photos" / name).read_bytes(), "path": name} for name in source.names
    ]
    table = pa.table({"image": pa.array(images, kind), "label": source.labels})
    (place / "saved").mkdir()
    with pa.ipc.new_stream(str(place / "saved" / "data.arrow"), table.schema) as writer:
        writer.write_table(table)
    (place / "saved" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    return place


def pretrained(place, lines):
    """Exit code, output and errors of the pretrainings in the folder."""
    at = f"import os; os.chdir({str(place)!r})"
    return run_many("pretrain", [[*line, *TINY] for line in lines], at)


def test_the_documented_pretrainings_on_addresses_and_datasets(place):
    web, saved = documented("Lists and shards elsewhere")[1], documented("Datasets of H.*?")[0]
    with http_server(place) as address:
        web = [part.replace("https://images.example.org", address) for part in web]
        lines = [[*line, f"--epochs={count}"] for line in (web, saved) for count in (1, 2)]
        # (A short graph: how the images are read has no part in it.)
        found = pretrained(place, [[*line, "--method=rotation"] for line in lines])
    assert [code for code, _, _ in found] == [0] * 4, found
    listed, longer, whole, again = (out for _, out, _ in found)
    assert f"10 images of {address}/lists/images.csv[train]; 2 classes: cat 5, dog 5" in listed
    assert "12 images of saved; 2 classes" in whole
    assert "resuming after epoch 1" in longer and "resuming after epoch 1" in again
    flags = json.loads((place / "runs" / "web" / "run.json").read_text())["flags"]
    assert flags["data_dir"] == f"{address}/lists/images.csv"
    assert flags["cache_dir"] == str(place / "cache")
    flags = json.loads((place / "runs" / "saved" / "run.json").read_text())["flags"]
    assert flags["data_dir"] == f"hf:{place}/saved"


def test_the_documented_pretraining_on_a_bucket(place, monkeypatch):
    skip_without_s3()
    import fsspec

    line = [*documented("Lists and shards elsewhere")[0], "--method=rfd", "--num_negatives=8"]
    mistakes = {
        "cannot read 's3://bucket/gone.tar': no such file": "--data=s3://bucket/gone.tar",
        "--cache_gb 1e-07 is too small for shards": "--cache_gb=1e-7",
    }
    lines = [[*line, "--epochs=1"], [*line, "--epochs=2"]]
    lines += [[*line, "--output_dir=runs/none", flag] for flag in mistakes.values()]
    with s3_server() as endpoint:
        for name, value in s3_environment(endpoint).items():
            monkeypatch.setenv(name, value)
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("bucket")
        for path in sorted((place / "shards").iterdir()):
            system.put(str(path), f"bucket/{path.name}")
        first, second, *wrong = pretrained(place, lines)
    assert first[0] == second[0] == 0, (first, second)
    assert "12 images of bucket; 2 classes: cat 6, dog 6" in first[1]
    assert "memory bank of 12 x" in first[1] and "resuming after epoch 1" in second[1]
    for message, (code, _, error) in zip(mistakes, wrong, strict=True):
        assert code == 2 and message in error and "Traceback" not in error, error
