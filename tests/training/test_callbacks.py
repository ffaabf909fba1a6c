"""Pictures that methods draw, and the speed and the rate that an epoch logs."""

import keras
import numpy as np
import pytest
from PIL import Image

from rfd_tf.errors import UserError
from rfd_tf.training import callbacks, optimizers, schedules


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


def logged(optimizer, epochs, steps, calls, start_step=0, seconds=1.0, monkeypatch=None):
    """The logs of Throughput after epochs whose calls take so many steps and seconds each."""
    clock = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock[0])
    throughput = callbacks.Throughput(32, optimizer)
    throughput.set_params({"epochs": epochs, "steps": steps, "start_step": start_step})
    found, step = [], start_step
    for epoch in range(start_step // steps, epochs):
        throughput.on_epoch_begin(epoch)
        for taken in calls:
            clock[0] += seconds
            step += taken
            optimizer.iterations.assign(step)
            throughput.on_train_batch_end(step - 1)
        found.append({})
        throughput.on_epoch_end(epoch, found[-1])
    return found


def test_images_per_second_leave_the_first_call_out_unless_there_is_no_other(monkeypatch):
    rates = {}
    for calls in ([1], [4], [1, 1, 1, 1], [2, 1]):
        optimizer = keras.optimizers.SGD(0.1)
        logs = logged(optimizer, 2, sum(calls), calls, monkeypatch=monkeypatch)
        assert len({each["images_per_second"] for each in logs}) == 1
        rates[tuple(calls)] = logs[0]["images_per_second"]
    assert rates == {(1,): 32.0, (4,): 128.0, (1, 1, 1, 1): 32.0, (2, 1): 32.0}
    # Resumed after step 3 of 4: one step is left of that epoch.
    (rest,) = logged(keras.optimizers.SGD(0.1), 1, 4, [1], start_step=3, monkeypatch=monkeypatch)
    assert rest["images_per_second"] == 32.0


def test_the_learning_rate_logged_is_the_one_that_was_used(monkeypatch):
    table = schedules.from_lookup_table(((1, 0.1), (2, 0.01), (3, 0.001)), steps_per_epoch=4)
    cosine = schedules.cosine(0.5, total_steps=8)
    for schedule, expected in (
        (table, [0.1, 0.01, 0.001]),
        (cosine, [float(cosine(3)), float(cosine(7))]),
        (0.2, [0.2, 0.2]),
    ):
        optimizer = optimizers.SGD(schedule)
        found = logged(optimizer, len(expected), 4, [1, 3], monkeypatch=monkeypatch)
        np.testing.assert_allclose([each["learning_rate"] for each in found], expected, rtol=1e-6)
    # Before any step it is the first one's.
    np.testing.assert_allclose(optimizers.last_rate(optimizers.SGD(table)), 0.1)


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
