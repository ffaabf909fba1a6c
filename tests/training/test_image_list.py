"""Images that have changed are told from those a run began with."""

import gzip

import numpy as np
import pytest
from PIL import Image

from rfd_tf import data
from rfd_tf.errors import UserError
from rfd_tf.training import image_list
from rfd_tf.training.run_folder import RunFolder


def paint(path, seed=0, size=20):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype("uint8")
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_difference_is_named(tmp_path, in_memory):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        paint(photos / f"{number}é.png", number)
    arguments = {} if in_memory else {"cache_bytes": 0}

    def identity():
        source = data.image_folder(photos, **arguments)
        return source, {"fingerprint": source.fingerprint, "num_images": source.num_images}

    source, facts = identity()
    run = RunFolder(tmp_path / "run")
    assert run.start(facts, source=source) is None
    run.write(identity=facts)
    image_list.write(run.path(image_list.FILE), source)
    (photos / "1é.png").unlink()
    (photos / "2é.png").unlink()
    paint(photos / "new.png")
    Image.new("RGB", (20, 20)).save(photos / "3é.png")
    source, facts = identity()
    message = (
        r"had 6 and now there are 5: 2 images removed \(1é.png, 2é.png\), 1 image new \(new.png\), "
        r"1 image of another length \(3é.png\); put them back"
    )
    with pytest.raises(UserError, match=message):
        run.start(facts, source=source)


def test_images_without_names(tmp_path):
    source = data.digits()
    source.names = None
    image_list.write(tmp_path / "list", source)
    assert image_list.difference(tmp_path / "list", source) == "they have no names to compare"


@pytest.mark.parametrize("damage", ["no archive", "cut", "flipped bits", "other content"])
def test_a_damaged_list_of_images_is_named(tmp_path, damage):
    source = data.digits("test")
    source.names = [f"{number * 7919 % 1000}.png" for number in range(source.num_images)]
    path = tmp_path / "list"
    image_list.write(path, source)
    whole = path.read_bytes()
    content = {
        "no archive": b"no archive",
        "cut": whole[:-20],
        "flipped bits": whole[:30] + bytes(value ^ 255 for value in whole[30:60]) + whole[60:],
        "other content": gzip.compress(b'{"names": ["a"], "lengths": [1, 2]}'),
    }[damage]
    path.write_bytes(content)
    with pytest.raises(UserError, match="list', which lists them, cannot be read .*put the images"):
        image_list.difference(path, source)
