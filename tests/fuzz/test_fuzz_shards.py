"""Shards that somebody else wrote."""

import gzip
import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from fuzzing import anything, refused
from hypothesis import example, given
from PIL import Image

from rfd_tf.data import load
from rfd_tf.data.shards import lister, looks_like_shards, shard_source
from rfd_tf.data.shards.index import write_index
from rfd_tf.data.shards.listing import Wanted
from rfd_tf.data.shards.names import class_names_beside


def _picture(number):
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def _tar(format):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for number in range(3):
            members = {
                f"{'x' * 60 * number}/{number}.png": _picture(number),
                f"{'x' * 60 * number}/{number}.cls": b"1",
                f"{'x' * 60 * number}/{number}.json": b'{"label": "a"}',
            }
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _records(tmp):
    with tf.io.TFRecordWriter(str(tmp)) as writer:
        for number in range(3):
            feature = {
                "image/encoded": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[_picture(number)])
                ),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number, 7])),
                "score": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    return tmp.read_bytes()


def _parquet():
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": _picture(number), "path": f"{number}.png"} for number in range(4)]
    table = pa.table({"image": pa.array(rows, kind), "label": ["a", "b", None, "a"]})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=2)
    return file.getvalue()


def _check(path, content):
    path.write_bytes(content)
    source = refused(lambda: shard_source(path, max_skipped=0.9, cache_bytes=0), path.parent)
    if source is not None:
        assert source.num_images and source.names is not None and source.fingerprint
        contents, headers = source.fetch(np.arange(source.num_images))
        assert all(contents) and (headers[:, 1:3] > 0).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tar_files(tmp_path, format):
    good = _tar(format)

    @given(content=anything(good))
    @example(content=good[:512])
    @example(content=good.replace(b"0000001", b"7777777"))
    @example(content=good[:124] + b"\xff" * 12 + good[136:])
    @example(content=good.replace(b"path=", b"size=9"))
    @example(content=good.replace(b'{"label": "a"}', b'{"label": [1]}'))
    def check(content):
        _check(tmp_path / "a.tar", content)

    check()


@pytest.mark.filterwarnings("ignore")
def test_tfrecord_files(tmp_path):
    good = _records(tmp_path / "good")

    @given(content=anything(good))
    @example(content=b"\xff" * 40)
    @example(content=good.replace(b"image/encoded", b"image/\xff\xfecoded"))
    def check(content):
        _check(tmp_path / "a.tfrecord", content)

    check()


@pytest.mark.filterwarnings("ignore")
def test_the_content_of_records(tmp_path):
    """With lengths and checksums that are right, so that the content is read."""
    path = tmp_path / "a.tfrecord"
    good = next(iter(tf.data.TFRecordDataset(_path(tmp_path)))).numpy()

    @given(content=anything(good))
    @example(content=b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
    def check(content):
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(content)
            writer.write(good)
        _check(path, path.read_bytes())

    check()


def _path(folder):
    _records(folder / "good")
    return str(folder / "good")


@pytest.mark.filterwarnings("ignore")
def test_arrow_files(tmp_path):
    file = io.BytesIO()
    table = pq.read_table(io.BytesIO(_parquet()))
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    good = file.getvalue()

    @given(content=anything(good))
    @example(content=good[:-40])
    @example(content=b"ARROW1" * 9)
    def check(content):
        _check(tmp_path / "a.arrow", content)

    check()


@pytest.mark.filterwarnings("ignore")
def test_the_index_beside_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(lister, "LEAST_INDEXED", 0)
    (tmp_path / "a.tar").write_bytes(_tar(tarfile.PAX_FORMAT))
    write_index(tmp_path, lister.list_all([str(tmp_path / "a.tar")], "tar", Wanted()))
    good = (tmp_path / "index.jsonl").read_bytes()

    @given(content=anything(good))
    @example(content=good.replace(b"[512", b"[-512"))
    @example(content=good.replace(b"[512", b"[1e99"))
    def check(content):
        (tmp_path / "index.jsonl").write_bytes(content)
        _check(tmp_path / "a.tar", _tar(tarfile.PAX_FORMAT))

    check()


@pytest.mark.filterwarnings("ignore")
def test_folders_of_saved_datasets(tmp_path):
    good = b'{"splits": ["train"], "_data_files": [{"filename": "a.arrow"}]}'
    (tmp_path / "train").mkdir()

    @given(content=anything(good))
    @example(content=b'{"splits": [{}]}')
    def check(content):
        for path in ("dataset_dict.json", "train/state.json"):
            (tmp_path / path).write_bytes(content)
        refused(lambda: load(f"hf:{tmp_path}"), tmp_path)

    check()


@pytest.mark.filterwarnings("ignore")
def test_parquet_files(tmp_path):
    good = _parquet()

    @given(content=anything(good))
    @example(content=b"PAR1" * 9)
    @example(content=good[:-12] + b"\xff\xff\xff\x7fPAR1")
    def check(content):
        _check(tmp_path / "a.parquet", content)

    check()


@pytest.mark.filterwarnings("ignore")
def test_gzip_files(tmp_path):
    good = gzip.compress(_tar(tarfile.PAX_FORMAT))

    @given(content=anything(good))
    @example(content=good + good)
    def check(content):
        _check(tmp_path / "a.tar.gz", content)

    check()


def test_names_of_classes_and_of_shards(tmp_path):
    @given(content=anything(b"0:ant\n1:bee\n7:c:d\n"))
    @example(content=b"9999999:a\n")
    @example(content="\u0663:a\n".encode())
    def check(content):
        (tmp_path / "labels.txt").write_bytes(content)
        names = refused(lambda: class_names_beside(str(tmp_path / "a.tar")))
        assert names is None or all(isinstance(name, str) for name in names)

    @given(text=anything(b"a-{000..012}.tar", b"{a,b}/*.tar", b"a[0-9]?.tfrecord-00000-of-00001"))
    @example(text=b"{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}.tar")
    @example(text=b"{a,b}" * 40 + b".tar")
    def patterns(text):
        path = f"{tmp_path}/{text.decode('utf-8', 'replace')}"
        looks_like_shards(path)
        refused(lambda: shard_source(path))

    check()
    patterns()
