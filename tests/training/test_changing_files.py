"""Files that go or change while training reads them: what is trained on, and what is told."""

import numpy as np
import pytest
from PIL import Image

from rfd_tf import data
from rfd_tf.data import image_folder, training_dataset


def paint(path, colour, size, kind):
    Image.new("RGB", size, colour).save(path, kind)


@pytest.mark.parametrize("extension,kind,other", [("png", "PNG", "JPEG"), ("jpg", "JPEG", "PNG")])
def test_gone_and_unfit_files_give_way_to_others_and_fitting_ones_are_read_as_they_are(
    tmp_path, extension, kind, other
):
    paths = [tmp_path / f"{number}.{extension}" for number in range(8)]
    for number, path in enumerate(paths):
        paint(path, (0, 0, 200), (40 + number, 40), kind)  # blue, and too unlike to be cached
    source = image_folder(tmp_path)
    assert isinstance(source, data.FolderSource)
    batches = iter(training_dataset(source, image_size=16, batch_size=8, seed=0, crop="resized"))
    assert sorted(next(batches)["index"].numpy()) == list(range(8))
    paths[0].unlink()
    paths[1].write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    paint(paths[3], (200, 0, 0), (3, 3), kind)  # smaller than any window of the old image
    paint(paths[4], (0, 200, 0), (80, 80), kind)  # larger
    paint(paths[5], (0, 200, 0), (45, 40), other)  # of another format and the old size
    for _ in range(8):  # those read ahead are over by then
        batch = next(batches)
    assert {4, 6, 7} <= set(batch["index"].numpy()) <= {4, 5, 6, 7}
    colours = dict(zip(batch["index"].numpy(), batch["image"].numpy().mean((1, 2)), strict=True))
    assert np.argmax(colours[4]) == 1 and np.argmax(colours[6]) == 2
    told = [name for name, _ in source.failed_while_reading()]
    assert told[:4] == [path.name for path in paths[:4]]
