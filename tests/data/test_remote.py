"""Shards and lists at addresses: the same images as on disk, a bounded cache, and faults."""

import contextlib
import errno
import itertools
import json
import os
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from remote_servers import http_server, s3_environment, s3_server, skip_without_s3

from rfd_tf.data import given, image_folder, load, load_images, training_dataset
from rfd_tf.data.remote import cache, transports
from rfd_tf.data.shards import shard_source
from rfd_tf.data.shards.write import write_shards
from rfd_tf.errors import UserError

COUNT = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder `www` of shards, lists and pictures, and the source that was written to it."""
    root = tmp_path_factory.mktemp("www")
    for number in range(COUNT):
        path = root / "photos" / ("ant" if number < 5 else "bee") / f"{number:02d} x.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (12 + number % 3, 14, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    source = image_folder(root / "photos", cache_bytes=0)
    for format in ("tar", "tfrecord", "parquet"):
        write_shards(source, root / format, format, images_per_shard=2)
    shutil.copytree(root / "tar", root / "plain")
    for name in ("tfrecord", "plain"):  # shards of other programs have no index beside them
        (root / name / "index.jsonl").unlink()
    (root / "lists").mkdir()
    rows = [f"../photos/{name},{name[:3]},{'test' if name[4] == '1' else 'train'}"
            for name in source.names]  # fmt: skip
    (root / "lists" / "all.csv").write_text("\n".join(["path,label,split", *rows]))
    return root, source


@pytest.fixture(scope="module")
def server(photos):
    with http_server(photos[0]) as address:
        yield address


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cache, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(transports, "TIMEOUT", 1.0)
    cache.trouble.clear()


@pytest.fixture
def kept(tmp_path):
    return {"cache_dir": tmp_path / "cache", "cache_gb": 1.0}


def faults(photos, **found):
    """Sets what goes wrong from now on: path -> fault and how often."""
    Path(photos[0], "faults.json").write_text(json.dumps(found))


def asked(server):
    """The files that were asked for so far, with their ranges."""
    with urllib.request.urlopen(f"{server}/log") as response:
        return json.load(response)


def batches(source, count, **arguments):
    settings = {"image_size": 12, "batch_size": 4, "seed": 3, "crop": "resized"} | arguments
    dataset = training_dataset(source, **settings)
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def assert_same(source, local, pixels=True):
    assert source.num_images == local.num_images == COUNT
    assert source.class_names == local.class_names
    np.testing.assert_array_equal(source.labels, local.labels)
    if pixels:
        np.testing.assert_array_equal(load_images(source, 12), load_images(local, 12))


# -- shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["tar", "tfrecord", "parquet"])
def test_shards_by_http_are_those_on_disk_and_their_index_is_kept(photos, server, kept, format):
    root, _ = photos
    address = f"{server}/{format}/shard-{{00000..00005}}.{format}"
    local = shard_source(root / format, cache_bytes=0)
    before = len(asked(server))
    source = load(address, **kept)
    fetched = [path for path, range in asked(server)[before:] if "/shard-" in path and not range]
    assert len(fetched) == (6 if format == "tfrecord" else 0)
    assert source.fingerprint == local.fingerprint and list(source.names) == list(local.names)
    assert_same(source, local)
    whole = batches(source, 5)
    seen = np.concatenate([batch["index"] for batch in whole[:3]])
    assert sorted(seen) == list(range(COUNT)) and seen.tolist() != sorted(seen)
    for one, other in zip(whole[3:], batches(source, 2, start_step=3), strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
    # A later run asks for their versions alone; what training needs is fetched again.
    shutil.rmtree(kept["cache_dir"] / "files")
    (kept["cache_dir"] / "files").mkdir()
    before = len(asked(server))
    again = load(address, **kept)
    assert all(range == "bytes=0-0" for path, range in asked(server)[before:] if "/shard-" in path)
    np.testing.assert_array_equal(again.image_ids(), source.image_ids())
    assert_same(again, local)


def bytes_in(folder):
    """The size of the files in a folder from which others may be removed meanwhile."""
    total = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def test_the_cache_keeps_to_its_size_and_the_shards_used_last(photos, server, kept, monkeypatch):
    root, _ = photos
    sizes = [path.stat().st_size for path in sorted((root / "tar").glob("*.tar"))]
    monkeypatch.setattr("rfd_tf.data.shards.source.WINDOW_BYTES", 0)
    monkeypatch.setattr("rfd_tf.data.shards.source.LEAST_BLOCKS", 1)
    kept["cache_gb"] = 3.5 * max(sizes) / 1e9
    source = load(f"{server}/tar/shard-{{00000..00005}}.tar", **kept)
    held = []
    for batch in batches(source, 12, batch_size=2, crop="none", horizontal_flip=False):
        assert len(batch["index"]) == 2
        held.append(bytes_in(kept["cache_dir"] / "files"))  # those that are being fetched, too
    assert 0 < max(held) <= 3.5 * max(sizes)
    assert_same(source, shard_source(root / "tar"))
    assert not source.failed_while_reading()


def test_a_cache_that_is_too_small_is_refused_with_the_size_that_is_needed(server, kept):
    kept["cache_gb"] = 1e-6
    with pytest.raises(UserError, match=r"cache_gb 1e-06 is too small .* give at least 0.01"):
        load(f"{server}/tar/shard-{{00000..00005}}.tar", **kept)


def test_training_begins_while_shards_come(photos, server, kept, monkeypatch):
    address = f"{server}/tar/shard-{{00000..00005}}.tar"
    load(address, **kept)
    shutil.rmtree(kept["cache_dir"] / "files")
    (kept["cache_dir"] / "files").mkdir()
    source = load(address, **kept)
    late = [f"tar/shard-0000{number}.tar" for number in range(6)]
    # The files of the first window come, those of the second are slow.
    order = source.order.numbers(3, 0, np.arange(COUNT), prefetch=False) // 2
    first = list(dict.fromkeys(order.tolist()))[:4]
    faults(photos, **{late[number]: ("slow", 99) for number in range(6) if number not in first})
    monkeypatch.setattr(cache, "_TRIES", 2)  # (The stream ends once those have been given up.)
    assert len(batches(source, 1)) == 1
    faults(photos)


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "times"),
    [("dropped", 3), ("slow", 1), ("500", 3), ("other bytes", 1)],
)
@pytest.mark.parametrize("name", ["ranges/checked.tar", "plain/checked.tar"])
def test_faults_that_pass_are_tried_again(photos, server, tmp_path, name, fault, times):
    root, _ = photos
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(os.urandom(3 << 18))
    faults(photos, **{name: (fault, times)})
    before = len(asked(server))
    found = cache.Cache(tmp_path).latest(f"{server}/{name}")
    assert found.read_bytes() == (root / name).read_bytes()
    assert [path.name for path in found.parent.iterdir()] == [found.name]
    tried = [range for path, range in asked(server)[before:] if range != "bytes=0-0"]
    assert len(tried) == times + 1
    if fault == "dropped":
        again = [3 << 17] * 3 if name.startswith("plain") else [3 << 17, 9 << 16, 21 << 15]
        assert tried == [None, *(f"bytes={start}-" for start in again)]
    faults(photos)


def test_what_fails_for_good_is_one_line_with_the_address(photos, server, kept):
    shard = f"{server}/plain/shard-00001.tar"
    for fault, message in (
        ("404 always", f"cannot read '{shard}': 404 Not Found; give --data"),
        ("403 always", f"cannot read '{shard}': 403 Forbidden"),
    ):
        faults(photos, **{"plain/shard-00001.tar": (fault, 0)})
        with pytest.raises(UserError) as caught:
            load(f"{server}/plain/shard-{{00000..00003}}.tar", **kept)
        assert message in caught.value.marked
    faults(photos, **{"plain/shard-00001.tar": ("500", 99)})
    with pytest.raises(UserError, match=f"cannot read '{shard}' after 8 tries: 500 Internal"):
        load(shard, **kept)
    faults(photos)
    with pytest.raises(UserError, match="HTTP server does not list its files; name them"):
        load(f"{server}/tar/*.tar", **kept)
    with pytest.raises(UserError, match="'.*/photos' is no shard: names end with"):
        load(f"{server}/photos", **kept)
    with pytest.raises(UserError, match="'a.tar' is a path and '.*' an address elsewhere"):
        load(f"a.tar,{shard}", **kept)
    with pytest.raises(UserError, match="cannot connect .*refused"):
        load("http://127.0.0.1:9/x.tar", **kept)
    with pytest.raises(UserError, match="'nosuch://x.tar': Protocol not known"):
        load("nosuch://x.tar", **kept)


def test_a_full_disk_names_the_cache_and_the_way_out(server, kept, monkeypatch):
    real = open

    class Full:
        def __init__(self, file):
            self._file = file

        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name):
            return getattr(self._file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

    def opened(path, mode="r", **options):
        file = real(path, mode, **options)
        return Full(file) if mode == "ab" else file

    monkeypatch.setattr(cache, "open", opened, raising=False)
    with pytest.raises(UserError) as caught:
        load(f"{server}/plain/shard-00000.tar", **kept)
    assert f"cannot write to --cache_dir '{kept['cache_dir']}': No space left" in str(
        caught.value.marked
    )
    assert "a smaller --cache_gb" in caught.value.marked
    assert not list((kept["cache_dir"] / "files").iterdir())


def test_a_shard_that_goes_during_training_is_replaced_and_named(photos, server, kept):
    root, _ = photos
    source = load(f"{server}/tar/shard-{{00000..00005}}.tar", **kept)
    shutil.rmtree(kept["cache_dir"] / "files")
    (kept["cache_dir"] / "files").mkdir()
    faults(photos, **{"tar/shard-00002.tar": ("404 always", 0)})
    seen = np.concatenate([batch["index"] for batch in batches(source, 3)])
    assert not {4, 5} & set(seen.tolist())
    shard = f"{server}/tar/shard-00002.tar"
    assert [why for _, why in source.failed_while_reading()] == [
        f"cannot read '{shard}': 404 Not Found"
    ] * 2
    faults(photos)


# -- lists ----------------------------------------------------------------------------------------


def test_a_list_elsewhere_names_images_relative_to_itself(photos, server, kept):
    root, local = photos
    source = load(f"{server}/lists/all.csv", split="all", **kept)
    assert_same(source, local)
    assert source.names[3] == f"{server}/photos/ant/03%20x.png"
    assert given.splits(f"{server}/lists/all.csv", **kept) == ["train", "test"]
    ids = given.ids(f"{server}/lists/all.csv", split="all", **kept)
    np.testing.assert_array_equal(ids, source.image_ids())
    seen = np.concatenate([batch["index"] for batch in batches(source, 3)])
    assert sorted(seen) == list(range(COUNT))
    # A list here may name addresses, beside files; or be relative to one.
    path = root / "photos" / "here.txt"
    names = [str(name) if number % 2 else f"{server}/photos/{name.replace(' ', '%20')}"
             for number, name in enumerate(local.names)]  # fmt: skip
    path.write_text("".join(f"{name}\n" for name in names))
    np.testing.assert_array_equal(load_images(load(path, **kept), 12), load_images(local, 12))
    path.write_text("".join(f"{name}\n" for name in local.names))
    rooted = load(path, data_root=f"{server}/photos", **kept)
    assert rooted.names[0] == "ant/00%20x.png"
    np.testing.assert_array_equal(load_images(rooted, 12), load_images(local, 12))
    path.unlink()


def test_images_of_a_list_that_cannot_be_fetched(photos, server, kept):
    root, _ = photos
    path = root / "lists" / "gone.txt"
    path.write_text("x.png\ny.png\n")
    with pytest.raises(UserError, match="lists/y.png': 404 Not Found; the other 1 images of"):
        load(f"{server}/lists/gone.txt", **kept)
    rows = [f"../photos/{name}" for name in photos[1].names]
    path.write_text("\n".join([*rows, "gone.png"]))
    source = load(f"{server}/lists/gone.txt", **kept)
    pixels = batches(source, 1, batch_size=13, crop="none")
    assert 12 not in pixels[0]["index"]
    assert source.failed_while_reading() == [
        ("gone.png", f"cannot read '{server}/lists/gone.png': 404 Not Found")
    ]
    path.unlink()
    with pytest.raises(UserError, match="cannot read '.*/lists/none.csv': 404 Not Found"):
        load(f"{server}/lists/none.csv", **kept)


# -- buckets --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(photos):
    skip_without_s3()
    import fsspec

    with s3_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(endpoint).items():
            patch.setenv(name, value)
        system = fsspec.filesystem("s3", skip_instance_cache=False)
        system.mkdir("bucket")
        for name in ("tar", "lists", "photos"):
            system.put(str(photos[0] / name), f"bucket/{name}", recursive=True)
        yield system


@pytest.mark.parametrize(
    "place", ["tar/shard-*.tar", "tar/", "tar", "tar/shard-{00000..00005}.tar"]
)
def test_shards_in_a_bucket_are_those_on_disk(photos, bucket, kept, place):
    local = shard_source(photos[0] / "tar", cache_bytes=0)
    source = load(f"s3://bucket/{place}", **kept)
    assert source.fingerprint == local.fingerprint
    assert_same(source, local, pixels=place == "tar/")


def test_a_list_in_a_bucket_and_what_is_not_there(photos, bucket, kept):
    source = load("s3://bucket/lists/all.csv", split="all", **kept)
    assert_same(source, photos[1])
    assert source.names[3] == "s3://bucket/photos/ant/03 x.png"
    with pytest.raises(UserError, match="cannot read 's3://bucket/x.tar': no such file"):
        load("s3://bucket/x.tar", **kept)
    with pytest.raises(UserError, match="no shards .* in 's3://bucket/photos'; images at"):
        load("s3://bucket/photos", **kept)
    with pytest.raises(UserError, match="no such shards: 's3://bucket/x-.*.tar'"):
        load("s3://bucket/x-*.tar", **kept)


def test_an_object_that_is_sent_wrongly_is_fetched_again(bucket, kept, monkeypatch):
    """The ETag of an object is its MD5, unless the object is encrypted."""
    wrong = [b"other"] * 1
    real = transports.chunks

    def chunks(address, start, described):
        for place, chunk in real(address, start, described):
            yield place, chunk[: -len(wrong[0])] + wrong.pop() if wrong else chunk

    monkeypatch.setattr(transports, "chunks", chunks)
    there = cache.Cache(**{"directory": kept["cache_dir"]})
    found = there.latest("s3://bucket/tar/shard-00000.tar")
    assert found.read_bytes() == bucket.cat_file("bucket/tar/shard-00000.tar") and not wrong
    described = transports.describe("s3://bucket/tar/shard-00001.tar")
    assert described.checksum[0] == "md5" and not described.sure
    encrypted = described._replace(checksum=("md5", "0" * 32), version="x")
    found = there.fetch("s3://bucket/tar/shard-00001.tar", encrypted)
    assert found.read_bytes() == bucket.cat_file("bucket/tar/shard-00001.tar")
