"""Datasets of Hugging Face: saved ones are read without its package, others through it."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from rfd_tf.data import given, image_folder, load, load_images
from rfd_tf.data.run_images import RunImages
from rfd_tf.errors import UserError


def picture(number):
    return Image.fromarray(np.full((8, 9, 3), 20 * number, np.uint8))


def encoded(number):
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


def save(folder, numbers, classes=("cat", "dog"), batches=2):
    """Writes what `Dataset.save_to_disk` writes, as far as it is read."""
    folder.mkdir(parents=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"picture": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": classes}}
    schema = pa.schema(
        [("kind", pa.int64()), ("picture", kind)],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [
        {"kind": number % 2, "picture": {"bytes": encoded(number), "path": f"{number}.png"}}
        for number in numbers
    ]
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), schema) as writer:
        for start in range(0, len(rows), batches):
            writer.write_table(pa.Table.from_pylist(rows[start : start + batches], schema))
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))


@pytest.fixture
def saved(tmp_path):
    """A folder `both` with splits, and a folder `one` without."""
    save(tmp_path / "both" / "train", range(6))
    save(tmp_path / "both" / "validation", range(6, 9))
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    save(tmp_path / "one", range(5), batches=3)
    return tmp_path


def test_a_saved_dataset_has_images_classes_and_splits(saved):
    data = f"hf:{saved}/both"
    source = load(data)
    assert source.name == "both[train]" and source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 1] * 3 and list(source.names)[:2] == ["0.png", "1.png"]
    assert load_images(source, 8)[:, 0, 0, 0].tolist() == [0, 20, 40, 60, 80, 100]
    assert given.splits(data) == ["train", "validation"] and given.has_splits(data)
    assert load(data, split="val").num_images == 3 and load(data, split="all").num_images == 9
    assert load(data, split="train+val").fingerprint != source.fingerprint
    with pytest.raises(UserError, match="has no split 'dev2'; its splits are train, validation"):
        load(data, split="dev2")
    images = RunImages(data_dir=data, train_split="train")
    with pytest.warns(UserWarning, match="dataset 'hf:.*' has no split 'test' .*'validation'"):
        train, test = images.evaluation()
    assert (train.num_images, test.num_images) == (6, 3)
    np.testing.assert_array_equal(images.train_ids(), train.image_ids())


def test_a_dataset_without_splits_is_all_for_training(saved, monkeypatch):
    images = RunImages(data_dir=f"hf:{saved}/one", train_split="train")
    assert images.train().num_images == 5 and images.test() is None
    monkeypatch.chdir(saved)
    assert given.absolute("hf:one") == f"hf:{saved}/one" and given.missing("hf:one") is None
    assert given.absolute("hf:user/set") == "hf:user/set"
    assert given.place_of("hf:user/set") == {"data_dir": "hf:user/set"}
    with pytest.raises(UserError, match="'hf:a', 'hf:b' are several datasets"):
        load("hf:a,hf:b")


def test_images_are_read_at_random_and_from_the_files_they_name(saved):
    path = saved / "one" / "data-00000-of-00001.arrow"
    source = load(path)
    whole = load(path).num_images
    assert source.num_images == whole == 5
    picture(9).save(saved / "outside.png")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [(encoded(1), "a"), (None, str(saved / "outside.png")), (None, None), (b"x", "bad")]
    column = pa.array([{"bytes": content, "path": name} for content, name in rows], kind)
    table = pa.table({"image": column})
    with pa.ipc.new_file(str(saved / "mixed.arrow"), table.schema) as writer:
        writer.write_table(table)
    source = load(saved / "mixed.arrow", max_skipped=0.5)
    assert load_images(source, 8)[:, 0, 0, 0].tolist() == [20, 180]
    assert [reason for _, reason in source.skipped][0] == "no bytes" and len(source.skipped) == 2


def test_what_is_damaged_is_named(saved):
    path = saved / "one" / "data-00000-of-00001.arrow"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="data-00000-of-00001.arrow .*no Arrow file"):
        load(f"hf:{saved}/one")
    (saved / "one" / "state.json").write_text("{")
    with pytest.raises(UserError, match="one' is damaged .* save it again with save_to_disk"):
        load(f"hf:{saved}/one")


def test_datasets_of_the_package_are_read_like_those_it_saved(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    columns = {"image": [picture(n) for n in range(5)], "label": [0, 1, 1, 0, 1]}
    part = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(train=part, test=part.select([1, 3])).save_to_disk(tmp_path / "saved")
    source = load(f"hf:{tmp_path}/saved")
    assert source.labels.tolist() == [0, 1, 1, 0, 1] and source.class_names == ("cat", "dog")
    assert load_images(source, 8)[:, 0, 0, 0].tolist() == [0, 20, 40, 60, 80]
    test = load(f"hf:{tmp_path}/saved", split="test")
    assert load_images(test, 8)[:, 0, 0, 0].tolist() == [20, 60]
    # A folder that the package loads itself: of its images it keeps the paths.
    for number in range(4):
        place = tmp_path / "photos" / ("cat" if number < 2 else "dog") / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(place)
    source = load(f"hf:{tmp_path}/photos")
    folder = image_folder(tmp_path / "photos")
    assert source.class_names == folder.class_names
    np.testing.assert_array_equal(load_images(source, 8), load_images(folder, 8))
    with pytest.raises(UserError, match="cannot load the dataset 'hf:no/such': "):
        load("hf:no/such")
