"""Pictures that methods draw, on disk and in TensorBoard."""

import numpy as np
import pytest
from PIL import Image

from rfd_tf.errors import UserError
from rfd_tf.training import callbacks


class Drawing:
    """Draws the first image, darker by the number of pictures drawn before."""

    drawn = 0

    def figures(self, images):
        self.drawn += 1
        return {"first_image": images[0] - np.uint8(self.drawn)}


def test_figures_are_drawn_every_so_many_epochs_and_at_the_end(tmp_path):
    import tensorflow as tf

    images = np.full((2, 4, 4, 3), 100, "uint8")
    tensorboard = callbacks.TensorBoard(tmp_path / "tensorboard")
    figures = callbacks.Figures(images, tmp_path / "figures", tensorboard, every=2)
    drawing = Drawing()
    for each in (tensorboard, figures):
        each.set_params({"epochs": 3, "steps": 1, "start_step": 0})
        each._model = drawing
        each.on_train_begin()
    for epoch in range(3):
        figures.on_epoch_end(epoch, {})
    assert drawing.drawn == 2
    picture = np.asarray(Image.open(tmp_path / "figures" / "first_image.png"))
    np.testing.assert_array_equal(picture, images[0] - 2)
    tensorboard.on_train_end()
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = [
        (event.step, value.tag)
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    ]
    assert events == [(2, "first image"), (3, "first image")]


@pytest.mark.parametrize("content", [b"epoch,step\nx,1\n", b"a,b\n1,2\n", b"\xff\xfe"])
def test_a_damaged_metrics_file_is_named_when_a_run_resumes(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    metrics = callbacks.MetricsFile(tmp_path / "metrics.csv")
    metrics.set_params({"epochs": 3, "steps": 1, "start_step": 1})
    with pytest.raises(UserError, match="metrics.csv' is damaged"):
        metrics.on_train_begin()


def test_a_metrics_file_that_a_spreadsheet_saved_is_read(tmp_path):
    """With a byte order mark."""
    (tmp_path / "metrics.csv").write_text("epoch,step\n1,7\n2,14\n", encoding="utf-8-sig")
    metrics = callbacks.MetricsFile(tmp_path / "metrics.csv")
    metrics.set_params({"epochs": 3, "steps": 7, "start_step": 7})
    metrics.on_train_begin()
    assert metrics.rows == [{"epoch": "1", "step": "7"}]
