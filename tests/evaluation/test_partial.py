import json

import pytest

from rfd_tf import data
from rfd_tf.errors import UserError
from rfd_tf.evaluation import KNearestNeighbours, runner
from rfd_tf.evaluation.base import Result, Task
from rfd_tf.evaluation.partial import PartialResults


class Fragile(Task):
    """Fails on the random network until it is mended."""

    name = "fragile"
    needs_labels = False
    broken = True

    def __init__(self, scale=1.0):
        self.scale, self.runs = scale, []

    def protocol(self, data):
        return {"scale": self.scale}

    def run(self, subject, data, settings):
        assert data is None
        self.runs.append(subject.title)
        if self.broken and not subject.is_pretrained:
            raise KeyboardInterrupt
        yield Result("f", 0.5 * self.scale, metric="distance", when="")
        if subject.is_pretrained:
            yield Result("g", 0.25, metric="distance", when="", spread=0.1)


def test_finished_parts_are_taken_up(rfd_run, tmp_path):
    digits = data.digits(), data.digits("test")
    fragile, output = Fragile(), tmp_path / "files"
    tasks = [KNearestNeighbours(k=3), fragile]
    options = {"endpoints": ["block6"], "output": output}
    with pytest.raises(KeyboardInterrupt):
        runner.evaluate(rfd_run, tasks, *digits, **options)
    assert fragile.runs == ["pretrained", "random init"]
    fragile.broken = False
    report = runner.evaluate(rfd_run, tasks, *digits, **options)
    assert fragile.runs == ["pretrained", "random init", "random init"]
    assert not output.exists()
    assert report["results"] == runner.evaluate(rfd_run, tasks, *digits, **options)["results"]
    assert {row["task"] for row in report["results"]} == {"knn", "fragile"}
    alone = {row["name"]: row for row in report["results"] if row["task"] == "fragile"}
    assert alone["g"]["random_init"] is None and alone["g"]["spread"] == 0.1
    assert alone["f"]["random_init"] == 0.5


def test_parts_of_another_protocol_are_not(rfd_run, tmp_path):
    first, second = Fragile(), Fragile(scale=2.0)
    with pytest.raises(KeyboardInterrupt):
        runner.evaluate(rfd_run, [first], output=tmp_path)
    second.broken = False
    report = runner.evaluate(rfd_run, [second], output=tmp_path)
    assert second.runs == ["pretrained", "random init"]
    assert report["results"][0]["value"] == 1.0 and report["data"].get("train") is None


def test_a_task_without_images_needs_none(rfd_run):
    task = Fragile()
    task.compares_random = False
    report = runner.evaluate(rfd_run, [task])
    assert [row["random_init"] for row in report["results"]] == [None, None]
    assert "random_init" not in report["data"]
    with pytest.raises(UserError, match="task 'knn' needs images"):
        runner.evaluate(rfd_run, [KNearestNeighbours()])


def test_a_damaged_file_is_started_over(tmp_path):
    parts = PartialResults(tmp_path)
    parts.put("a", [Result("f", 0.5)])
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())
    path.write_text(path.read_text()[:-5])
    assert PartialResults(tmp_path).get("a") is None
    assert parts.get("a") == [Result("f", 0.5)]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        PartialResults(tmp_path / "file" / "x").put("a", [])


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 3}', '{"a": [[]]}', '{"a": [5]}', "null"])
def test_damaged_parts_are_started_over(tmp_path, content):
    (tmp_path / "finished_parts.json").write_text(content)
    parts = PartialResults(tmp_path)
    parts.put("key", [Result("f", 0.5)])
    assert PartialResults(tmp_path).get("key")[0].value == 0.5
