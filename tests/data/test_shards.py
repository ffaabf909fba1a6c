"""Shards: what is written is read back, in order, resumed, damaged, and from other programs."""

import gzip
import io
import itertools
import json
import os
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image
from script_driver import run_many

from rfd_tf.data import (
    ArraySource,
    FolderSource,
    digits,
    given,
    image_folder,
    load,
    load_images,
    run_images,
    training_dataset,
)
from rfd_tf.data.shards import (
    ShardSource,
    lister,
    looks_like_shards,
    order,
    paths,
    shard_source,
    store,
    tar,
)
from rfd_tf.data.shards.listing import Wanted
from rfd_tf.data.shards.write import UniqueNames, write_shard, write_shards
from rfd_tf.errors import UserError

COUNT = 17
AT_OFFSETS = ("tar", "tfrecord")
IN_BLOCKS = ("parquet", "tar.gz", "tfrecord.gz")
FORMATS = AT_OFFSETS + IN_BLOCKS


def _encoded(number, kind="JPEG", mode="RGB", **options):
    """A picture of its own size, colours and format."""
    pixels = np.random.default_rng(number).integers(0, 256, (9 + number, 20, 3), np.uint8)
    pixels[: 4 + number] = 15 * number
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Classes of pictures in formats that TensorFlow reads, and that only Pillow does."""
    root = tmp_path_factory.mktemp("photos")
    (root / "ant").mkdir()
    (root / "bee.s").mkdir()
    odd = {
        3: ("a.png", "PNG", "RGBA", {}),
        6: ("b.webp", "WEBP", "RGB", {}),
        8: ("c d.tif", "TIFF", "RGB", {}),
        11: ("e.jpg", "JPEG", "RGB", _turned()),
        13: ("f.bmp", "BMP", "RGB", {}),
        15: ("g\u00e9.jpg", "JPEG", "CMYK", {}),
    }
    for number in range(COUNT):
        name, kind, mode, options = odd.get(number, (f"{number:02d}.jpg", "JPEG", "RGB", {}))
        path = root / ("ant" if number < 9 else "bee.s") / name
        path.write_bytes(_encoded(number, kind, mode, **options))
    return image_folder(root, cache_bytes=0)


@pytest.fixture(scope="module")
def pixels(folder):
    """The pictures at 16 pixels."""
    return load_images(folder, 16)


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    """Format -> a folder of shards with the same pictures."""
    root = tmp_path_factory.mktemp("shards")
    for format in ("tar", "tfrecord", "parquet"):
        write_shards(folder, root / format, format, images_per_shard=5)
    for format in AT_OFFSETS:
        packed = root / f"{format}.gz"
        shutil.copytree(root / format, packed)
        for path in packed.glob("shard*"):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return {format: root / format for format in FORMATS}


@pytest.fixture(scope="module")
def sources(written):
    return {format: shard_source(written[format]) for format in FORMATS}


def _batches(source, count, **arguments):
    settings = {"image_size": 16, "batch_size": 4, "seed": 3, "crop": "resized"} | arguments
    dataset = training_dataset(source, **settings)
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def _assert_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("format", FORMATS)
def test_shards_hold_the_same_images_labels_and_names_as_the_folder(
    folder, pixels, sources, format
):
    source = sources[format]
    assert isinstance(source, ShardSource) and len(source.shards) == 4
    assert isinstance(folder, FolderSource) and source.num_images == COUNT
    assert list(source.names) == folder.names and not source.skipped
    assert source.class_names == folder.class_names == ("ant", "bee.s")
    np.testing.assert_array_equal(source.labels, folder.labels)
    np.testing.assert_array_equal(load_images(source, 16), pixels)
    some = [1, 6, 11, 16]
    np.testing.assert_array_equal(load_images(source, 16, some), pixels[some])


def test_training_on_shards_read_at_offsets_is_training_on_the_folder(folder, sources):
    for settings in ({}, {"crop": "none", "shard": (1, 2)}):
        from_folder = _batches(folder, 9, **settings)
        for format in AT_OFFSETS:
            _assert_same(_batches(sources[format], 9, **settings), from_folder)


@pytest.mark.parametrize("format", IN_BLOCKS)
def test_an_epoch_over_blocks_visits_each_image_once_in_a_fresh_order(
    pixels, sources, format, monkeypatch
):
    monkeypatch.setattr(order, "WINDOW_BYTES", 1)
    monkeypatch.setattr(order, "LEAST_BLOCKS", 2)
    source = sources[format].subset(np.arange(COUNT))
    whole = _batches(source, 34, batch_size=1, crop="none", horizontal_flip=False)
    seen = np.array([batch["index"][0] for batch in whole])
    first, second = seen[:COUNT], seen[COUNT:]
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert (first != second).any() and (first != np.sort(first)).any()
    # Two shards at a time: the images of the first window are those of two of them.
    assert len(set(first[:10] // 5)) == 2 or len(set(first[:7] // 5)) == 2
    for batch in whole:
        np.testing.assert_array_equal(batch["image"][0], pixels[batch["index"][0]])


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_a_stream_is_taken_up_in_the_middle_and_shared_by_workers(sources, format):
    source = sources[format]
    whole = _batches(source, 10)
    parts = [_batches(source, 5, start_step=5, shard=(worker, 2)) for worker in range(2)]
    joined = [
        {key: np.concatenate([one[key] for one in pair]) for key in pair[0]}
        for pair in zip(*parts, strict=True)
    ]
    _assert_same(joined, whole[5:])
    views = _batches(source, 8, views=2)
    pairs = {(int(i), int(v)) for b in views for i, v in zip(b["index"], b["view"], strict=True)}
    assert len(pairs) == 32
    _assert_same(_batches(source, 4, views=2, start_step=4), views[4:])


def test_a_given_order_visits_blocks_one_after_the_other(sources, monkeypatch):
    monkeypatch.setattr(order, "WINDOW_BYTES", 1)
    monkeypatch.setattr(order, "LEAST_BLOCKS", 1)
    wanted = np.array([0, 16, 0, 7, 12, 3, 16, 8])
    at_offsets = _batches(sources["tar"], 5, order=wanted, order_step=0)
    assert np.concatenate([b["index"] for b in at_offsets]).tolist() == wanted.tolist()
    source = sources["parquet"].subset(np.arange(COUNT))
    in_blocks = _batches(source, 5, order=wanted, order_step=0)
    found = np.concatenate([b["index"] for b in in_blocks])
    assert sorted(found) == sorted(wanted)
    blocks = found // 5
    assert 1 + (np.diff(blocks) != 0).sum() == len(set(blocks))
    _assert_same(_batches(source, 1, order=wanted, order_step=0, start_step=1), in_blocks[1:])


@pytest.mark.parametrize("format", ["tar", "tfrecord", "parquet"])
def test_the_index_beside_shards_stands_for_reading_them(
    written, sources, tmp_path, monkeypatch, format
):
    place = shutil.copytree(written[format], tmp_path / format)
    read = []
    monkeypatch.setattr(lister, "LEAST_INDEXED", 0)
    list_shard = lister.list_shard
    monkeypatch.setattr(
        lister, "list_shard", lambda path, *_: read.append(path) or list_shard(path, *_)
    )
    source = shard_source(place, verify="header")
    assert not read and source.fingerprint == sources[format].fingerprint
    np.testing.assert_array_equal(source.labels, sources[format].labels)
    assert list(source.names) == list(sources[format].names)
    # A shard of another length, and what the index does not have, are read.
    first, second, *_ = sorted(place.glob("shard-*"))
    first.rename(place / second.name.replace("00001", "00009"))
    with open(second, "ab") as file:
        file.write(bytes(16))
    shard_source(place, verify="header", max_skipped=0.9)
    assert len(read) == 2
    (place / "index.jsonl").write_bytes(b"[1, 2]\nx\n" + b"\xff" * 9)
    read.clear()
    shard_source(place, verify="header", max_skipped=0.9)
    assert len(read) == 4


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_a_part_reads_its_own_images(folder, pixels, sources, format):
    indices = [2, 3, 9, 14]
    part = sources[format].subset(indices)
    np.testing.assert_array_equal(load_images(part, 16), pixels[indices])
    np.testing.assert_array_equal(part.labels, folder.labels[indices])
    assert part.names == [folder.names[i] for i in indices]
    np.testing.assert_array_equal(part.image_ids(), sources[format].image_ids()[indices])
    batch = _batches(part, 1)[0]
    assert sorted(batch["index"]) == [0, 1, 2, 3]


def test_the_fingerprint_and_ids_belong_to_the_shards(written, sources, tmp_path):
    moved = shutil.copytree(written["tar"], tmp_path / "moved")
    assert shard_source(moved, verify="header").fingerprint == sources["tar"].fingerprint
    fewer = shard_source([moved / f"shard-0000{n}.tar" for n in (0, 1, 2)])
    assert fewer.fingerprint != sources["tar"].fingerprint
    assert fewer.num_images == 15 and len({source.fingerprint for source in sources.values()}) == 5
    ids = [source.image_ids() for source in sources.values()]
    assert len(np.unique(np.concatenate(ids))) == 5 * COUNT


def test_several_processes_list_the_same(written, monkeypatch):
    for format in ("tar", "parquet"):
        _, found = paths.find(written[format])
        alone = lister.list_all(found, format, Wanted())
        with monkeypatch.context() as patched:
            patched.setattr(lister, "_LEAST_SECONDS", 0.0)
            patched.setattr(lister, "_SECONDS_EACH", 1e-9)
            patched.setattr(lister, "_cores", lambda: 2)
            together = lister.list_all(found, format, Wanted())
            # Mistakes are raised here, and a process that fails is replaced by this one.
            if format == "parquet":
                with pytest.raises(UserError, match="no column 'img'"):
                    lister.list_all(["no such file", *found], format, Wanted("img"))
            patched.setattr(lister, "_PROGRAM", "raise SystemExit")
            again = lister.list_all(found, format, Wanted())
        for one in (together, again):
            assert [each[:2] for each in one] == [each[:2] for each in alone]
            for some, others in zip(one, alone, strict=True):
                assert some.listing.names == others.listing.names
                assert list(some.listing.offsets) == list(others.listing.offsets)
                assert some.listing.labels == others.listing.labels


def test_images_of_one_size_are_kept_in_memory(tmp_path):
    small = digits("test")
    folder = write_shards(small, tmp_path / "digits", "tfrecord", images_per_shard=100)
    source = shard_source(folder)
    assert isinstance(source, ArraySource) and source.class_names == small.class_names
    np.testing.assert_array_equal(source.images, small.images)
    np.testing.assert_array_equal(source.labels, small.labels)
    assert isinstance(shard_source(folder, cache_bytes=0, verify="header"), ShardSource)
    assert load(data_dir=str(folder)).num_images == 297


def test_large_blocks_are_unpacked_to_the_disk(written, pixels, monkeypatch):
    monkeypatch.setattr(store, "MOST_HELD", 1000)
    for format in IN_BLOCKS[:2]:
        source = shard_source(written[format], verify="header")
        np.testing.assert_array_equal(load_images(source, 16), pixels)


def test_shards_of_shards_and_resized_ones(folder, pixels, sources, tmp_path):
    again = write_shards(sources["parquet"], tmp_path / "again", "tar")
    source = shard_source(again)
    assert list(source.names) == folder.names and source.fingerprint != sources["tar"].fingerprint
    np.testing.assert_array_equal(load_images(source, 16), pixels)
    small = shard_source(write_shards(folder, tmp_path / "small", "tar", image_size=12))
    shorter = small._headers[:, 1:3].min(1)
    assert shorter.max() == 12 and shorter.min() == 9  # images that are smaller stay as they are
    difference = load_images(small, 8).astype(int) - load_images(folder, 8)
    assert abs(difference).mean() < 16


# Shards of other programs ------------------------------------------------------------------------


def _tar(path, members, **options):
    with tarfile.open(path, "w", **options) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_web_datasets_of_other_programs(tmp_path, format):
    long = "x" * 120 + "/\u00fc"
    members = [
        ("README.md", b"no sample"),
        ("./a.seg.png", _encoded(1, "PNG")),
        ("./a.jpg", _encoded(2)),
        ("./a.json", b'{"label": "cat", "caption": "c"}'),
        ("./a.txt", b"a cat"),
        ("b.json", b'{"label": "dog"}'),
        ("b.JPEG", _encoded(3)),
        ("._b.jpg", b"of macOS"),
        ("c.png", _encoded(4, "PNG")),
        (f"{long}.webp", _encoded(5, "WEBP")),
        (f"{long}.cls", b"cat\n"),
    ]
    _tar(tmp_path / "a.tar", members, format=format)
    source = shard_source(tmp_path / "a.tar")
    assert list(source.names) == ["a.jpg", "b.JPEG", "c.png", f"{long}.webp"]
    assert source.labels.tolist() == [0, 1, -1, 0] and source.class_names == ("cat", "dog")
    assert source._headers[:, 1].tolist() == [11, 12, 13, 14]
    with pytest.raises(UserError, match="2 of 3 images .*no image beside its label"):
        shard_source(tmp_path / "a.tar", image_feature="seg.png")
    masks = shard_source(
        tmp_path / "a.tar", image_feature="seg.png", label_feature="caption", max_skipped=0.9
    )
    assert masks.class_names == ("c",) and masks.num_images == 1


def test_keys_are_numbered_shards_precede_names_that_occur_twice(tmp_path):
    for shard in "ab":
        _tar(tmp_path / f"{shard}.tar", [("0.jpg", _encoded(1)), ("0.cls", b"7")])
    source = shard_source(tmp_path, cache_bytes=0)
    assert list(source.names) == ["a.tar/0.jpg", "b.tar/0.jpg"]
    assert source.labels.tolist() == [7, 7] and source.class_names is None


def _records(path, features, **options):
    with tf.io.TFRecordWriter(str(path), **options) as writer:
        for each in features:
            feature = {}
            for key, value in each.items():
                one = value[0] if isinstance(value, list) else value
                kind = {bytes: "bytes", int: "int64", float: "float"}[type(one)]
                lists = {
                    "bytes": tf.train.BytesList, "int64": tf.train.Int64List,
                    "float": tf.train.FloatList,
                }  # fmt: skip
                listed = lists[kind](value=value if isinstance(value, list) else [value])
                feature[key] = tf.train.Feature(**{f"{kind}_list": listed})
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def test_examples_of_other_programs(tmp_path):
    rng = np.random.default_rng(0)
    large = io.BytesIO()  # longer than what is looked at in one piece
    Image.fromarray(rng.integers(0, 256, (80, 70, 3), np.uint8)).save(large, "PNG")
    examples = [
        {"image": large.getvalue(), "label": 300, "boxes": [0.5, 0.25], "text": b"a" * 9000},
        {"image": _encoded(2), "label": -5, "k" * 200: 1},
        {"image": _encoded(3), "a": [1, 2, 3]},
    ]
    _records(tmp_path / "x.tfrecord-00000-of-00002", examples)
    _records(tmp_path / "x.tfrecord-00001-of-00002", examples[1:])
    source = shard_source(tmp_path)
    assert source.labels.tolist() == [300, -1, -1, -1, -1]
    assert source.names[0] == "x.tfrecord-00000-of-00002/0"
    assert source._headers[:, 1].tolist() == [80, 11, 12, 11, 12]
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    _records(zipped / "y.tfrecord.gz", examples, options="GZIP")
    np.testing.assert_array_equal(
        load_images(shard_source(zipped), 8), load_images(source, 8, [0, 1, 2])
    )
    # Labels without packing, which old writers leave out, and fields that nobody knows.
    image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[_encoded(4)]))
    example = tf.train.Example(features=tf.train.Features(feature={"image": image}))
    entry = b"\x0a\x05label\x12\x04\x1a\x02\x08\x2a"
    odd = b"\x18\x01\x0a" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry
    with tf.io.TFRecordWriter(str(tmp_path / "odd.tfrecords")) as writer:
        writer.write(example.SerializeToString() + odd)
    assert shard_source(tmp_path / "odd.tfrecords").labels.tolist() == [42]


def _hugging_face(path, images, features, **columns):
    rows = pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    described = json.dumps({"info": {"features": {"pic": {"_type": "Image"}, **features}}})
    table = pa.table({"number": list(range(len(images))), "pic": rows, **columns})
    metadata = {"huggingface": described}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)


def test_parquet_of_other_programs(tmp_path):
    images = [{"bytes": _encoded(n), "path": f"{n}.jpg" if n else None} for n in range(3)]
    named = {"kind": {"_type": "ClassLabel", "names": ["x", "y"]}}
    _hugging_face(tmp_path / "hf.parquet", images, named, kind=[1, 0, -1])
    source = shard_source(tmp_path / "hf.parquet")
    assert source.class_names == ("x", "y") and source.labels.tolist() == [1, 0, -1]
    assert list(source.names) == ["hf.parquet/0", "1.jpg", "2.jpg"]
    plain = pa.table({"jpg": [one["bytes"] for one in images], "label": ["b", None, "a"]})
    pq.write_table(plain, tmp_path / "plain.parquet", compression="zstd")
    source = shard_source(tmp_path / "plain.parquet")
    assert source.class_names == ("a", "b") and source.labels.tolist() == [1, -1, 0]
    assert shard_source(tmp_path / "plain.parquet", label_feature="label").num_images == 3


def test_a_file_beside_the_shards_names_the_classes(tmp_path):
    _tar(tmp_path / "a.tar", [("0.jpg", _encoded(1)), ("0.cls", b"2")])
    (tmp_path / "labels.txt").write_text("0:ant\n2:cow\n")
    source = shard_source(tmp_path / "a.tar")
    assert source.class_names == ("ant", "1", "cow") and source.labels.tolist() == [2]


# What is wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_shard_loses_its_tail_and_is_named(
    folder, pixels, written, tmp_path, format, damage, recwarn
):
    root = shutil.copytree(written[format], tmp_path / "damaged")
    path = sorted(root.glob("shard*"))[1]
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content.rstrip(b"\0")) * 3 // 4 :]
    elif format == "tar":
        place = (
            content.index(b"ant/c d") if b"ant/c d" in content else content.index(b"ustar") - 257
        )
        content[place + 130] ^= 1
    elif format == "tfrecord":
        content[int.from_bytes(content[:8], "little") + 16] ^= 1
    else:
        place = 4 if format == "parquet" else len(content) // 2
        content[place : place + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be decoded: .*raise max_skipped"):
        shard_source(root)
    source = shard_source(root, max_skipped=0.6)
    assert COUNT - 5 <= source.num_images < COUNT
    if format in AT_OFFSETS or damage == "cut":
        ((name, reason),) = source.skipped
        assert name == path.name and (
            "damaged" in reason or "cut off" in reason or "no P" in reason
        )
    kept = [folder.names.index(name) for name in source.names]
    assert set(range(COUNT)) - set(kept) <= set(range(5, 10))
    np.testing.assert_array_equal(load_images(source, 16), pixels[kept])
    assert any(path.name in str(each.message) for each in recwarn) or format in IN_BLOCKS


def test_damaged_empty_and_missing_images_are_left_out_and_named(tmp_path):
    good = [(f"{n}.jpg", _encoded(n)) for n in range(5)]
    bad = [("5.jpg", b""), ("6.jpg", _encoded(6)[:200]), ("7.jpg", b"text"), ("8.cls", b"1")]
    _tar(tmp_path / "a.tar", good + bad)
    with pytest.raises(UserError, match="4 of 9 images .* cannot be decoded.*max_skipped"):
        shard_source(tmp_path / "a.tar")
    with pytest.warns(UserWarning, match="4 of 9 images"):
        source = shard_source(tmp_path / "a.tar", max_skipped=0.5)
    reasons = dict(source.skipped)
    assert reasons["5.jpg"] == "empty file" and reasons["8.cls"] == "no image beside its label"
    assert "not a JPEG" in reasons["7.jpg"] and reasons["6.jpg"]
    assert list(source.names) == [name for name, _ in good] and source.num_images == 5
    _hugging_face(
        tmp_path / "p.parquet", [{"bytes": _encoded(1), "path": "a"}, {"bytes": None}, None], {}
    )
    source = shard_source(tmp_path / "p.parquet", max_skipped=0.7)
    assert source.num_images == 1 and [why for _, why in source.skipped] == ["empty file"] * 2
    _records(tmp_path / "r.tfrecord", [{"image": _encoded(1)}, {"label": 2}, {"image": 3}])
    source = shard_source(tmp_path / "r.tfrecord", max_skipped=0.7)
    assert source.num_images == 1 and "no bytes in the feature" in source.skipped[0][1]


def test_an_image_found_bad_while_training_is_left_out_and_named(tmp_path):
    images = [_encoded(n) for n in range(8)]
    images[3] = b"no image"
    _tar(tmp_path / "a.tar", [(f"{n}.jpg", content) for n, content in enumerate(images)])
    source = shard_source(tmp_path / "a.tar", verify="header", max_skipped=0)
    assert source.num_images == 8 and not source.skipped
    seen = np.concatenate([batch["index"] for batch in _batches(source, 2)])
    assert len(seen) == 8 and set(seen) == {0, 1, 2, 4, 5, 6, 7}
    ((name, reason),) = source.failed_while_reading()
    assert name == "3.jpg" and "not a JPEG" in reason
    with pytest.raises(UserError, match="1 of 8 images .*3.jpg"):
        load_images(source, 8)
    # A shard that changes under way is not read at the offsets of the old one.
    again = shard_source(tmp_path / "a.tar", verify="header", max_skipped=0)
    with open(tmp_path / "a.tar", "ab") as file:
        file.write(bytes(512))
    with pytest.raises(Exception, match="no image of a training step can be read"):
        _batches(again, 1)
    with pytest.raises(OSError, match="changed its length"):
        again.encoded(0)


def test_mistakes_are_named(tmp_path, written):
    _tar(tmp_path / "text.tar", [("a.txt", b"a")])
    pq.write_table(pa.table({"text": ["a"], "size": [1]}), tmp_path / "text.parquet")
    _records(tmp_path / "text.tfrecord", [{"words": b"a", "size": 3}])
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "none").mkdir()
    tars, parquet, records = (written[name] for name in ("tar", "parquet", "tfrecord"))
    for data, options, message in (
        (tmp_path / "text.tar", {}, "no images in the 1 shards .*samples have: txt"),
        (tmp_path / "text.parquet", {}, r"no column of images.*text \(string\), size \(int64\)"),
        (tmp_path / "text.tfrecord", {}, "no bytes in the feature.*samples have: .*words"),
        (tmp_path / "empty.tar", {}, r"damaged: empty.tar \(empty file\)"),
        (tmp_path / "none", {}, "no shards"),
        (tmp_path / "gone.tar", {}, "no such shards: '.*gone.tar'; give data"),
        (tars / "shard-{00000..00012}.tar", {}, r"00004.tar', .* and 4 more \(9 of 13\)"),
        (tars / "shard-{5..2}.tar", {}, "the range {5..2} is empty"),
        (tars / "shard-{0..9999999}.tar", {}, "more than 100,000 shards"),
        (tars / "x-*.tar", {}, "no such shards"),
        ([tars, parquet], {}, r"several formats \(parquet, tar\)"),
        (tars / "labels.txt", {}, "is no shard"),
        (parquet, {"image_feature": "img"}, "no column 'img' of images"),
        (parquet, {"label_feature": "kind"}, "no column 'kind' of labels"),
        (records, {"image_feature": "picture"}, "no bytes in the feature picture.*image/encoded"),
        (tars, {"max_skipped": 2}, "max_skipped"),
        ([], {}, "no shards are given"),
    ):
        with pytest.raises(UserError, match=message):
            shard_source(data, **options)
    with pytest.raises(UserError, match="unknown format 'zip'"):
        write_shards(digits("test"), tmp_path / "new", "zip")
    for images_per_shard, image_size in ((0, None), (1, 0)):
        with pytest.raises(UserError, match="must be 1 or more"):
            write_shards(digits("test"), tmp_path / "new", "tar", images_per_shard, image_size)
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        write_shards(digits("test"), tars)
    assert not (tmp_path / "new").exists()


def test_an_interrupted_writer_leaves_nothing(tmp_path, monkeypatch):
    from rfd_tf.data.shards import write

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(write._Tar, "_member", full)
    with pytest.raises(UserError, match="cannot write to output .*No space left"):
        write_shards(digits("test"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_shards_are_distinguished_from_folders_and_names(written, tmp_path):
    tars = written["tar"]
    assert looks_like_shards(tars) and looks_like_shards(str(tars / "shard-0000[01].tar"))
    assert looks_like_shards([tars / "shard-00000.tar"]) and not looks_like_shards([])
    assert given.place_of("x-{00..09}.tar") == {"data_dir": "x-{00..09}.tar"}
    assert not looks_like_shards(tmp_path) and not looks_like_shards("a\0b")
    shutil.copy(tars / "shard-00000.tar", tmp_path)
    (tmp_path / "a.jpg").write_bytes(_encoded(1))
    assert not looks_like_shards(tmp_path)  # an archive beside images
    choice = shard_source(str(tars / "shard-0000{1,3}.tar"))
    assert choice.num_images == 7
    for split in ("train", "test"):
        shutil.copy(tars / "shard-00000.tar", tars.parent / f"{split}-0.tar")
    with pytest.warns(UserWarning, match="several splits .*train-\\*"):
        shard_source(str(tars.parent / "*.tar"))
    images = run_images.RunImages(data_dir=str(tars))
    np.testing.assert_array_equal(images.train_ids(), images.train().image_ids())


def test_a_header_with_a_wrong_checksum_ends_the_archive(tmp_path, monkeypatch):
    """Headers are checked some at a time."""
    monkeypatch.setattr(tar, "_BATCH", 2)
    _tar(tmp_path / "a.tar", [(f"{n}.jpg", _encoded(n)) for n in range(5)])
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[content.index(b"3.jpg") + 1] = ord("x")
    (tmp_path / "a.tar").write_bytes(content)
    source = shard_source(tmp_path / "a.tar", max_skipped=0.7)
    assert source.num_images == 3 and "damaged after 3 images" in source.skipped[0][1]


def test_the_command_writes_what_the_others_read(folder, tmp_path):
    root, out = folder.directory, tmp_path / "out"
    command = [f"--data={root}", f"--output={out}", "--images_per_shard=10"]
    results = run_many(
        "shard",
        [
            [*command, "--format=parquet"],
            command,
            ["--dataset=digits", "--split=test", f"--output={tmp_path}/d", "--format=tfrecord"],
            [f"--data={root}"],
            [f"--data={root}", "--split=test", f"--output={tmp_path}/e"],
        ],
    )
    (code, told, error), again, other, missing, split = results
    assert code == 0, error
    assert "17 images" in told and "written: 2 shards" in told
    assert list(shard_source(out).names) == folder.names
    assert again[0] == 2 and f"--output '{out}' exists" in again[2]
    assert other[0] == 0 and shard_source(tmp_path / "d").num_images == 297, other
    assert missing[0] == 2 and "--output is missing" in missing[2]
    assert split[0] == 2 and "goes with" in split[2]


@pytest.mark.parametrize("format", ("tar", "tfrecord", "parquet"))
def test_shards_written_one_by_one_are_those_of_one_process(folder, written, tmp_path, format):
    def make(place, numbers):
        for number in [*reversed(numbers), 0]:  # a runner may repeat one
            write_shard(folder, UniqueNames(folder.names, format), place, number, format, 5, None)

    out = write_shards(folder, tmp_path / "out", format, 5, make_shards=make)
    names = sorted(path.name for path in written[format].iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    for name in names:
        if format == "tar" or name.endswith("txt"):
            assert (out / name).read_bytes() == (written[format] / name).read_bytes()
    one, other = shard_source(out), shard_source(written[format])
    assert list(one.names) == list(other.names) and one.fingerprint == other.fingerprint


def test_images_that_are_lost_are_named_by_shards_written_one_by_one(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(6):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(_encoded(number))
    source = image_folder(tmp_path / "images")
    for number in (1, 2, 3):
        (tmp_path / "images" / f"{number}.jpg").unlink()

    def make(place, numbers):
        names = UniqueNames(source.names, "tar")
        for number in numbers:
            write_shard(source, names, place, number, "tar", 2, None)

    with pytest.warns(UserWarning, match="3 of 6 images .* left out: 1.jpg, 2.jpg, 3.jpg"):
        out = write_shards(source, tmp_path / "out", "tar", 2, make_shards=make)
    assert sorted(path.name for path in out.glob("*.tar")) == ["shard-00000.tar", "shard-00002.tar"]


def test_the_command_writes_shards_by_beam(folder, written, tmp_path):
    pytest.importorskip("apache_beam")
    out = tmp_path / "out"
    command = [f"--data={folder.directory}", f"--output={out}", "--images_per_shard=5"]
    ((code, told, error),) = run_many("shard", [[*command, "--runner=DirectRunner"]])
    assert code == 0 and "written: 4 shards" in told, error
    for path in written["tar"].iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
