"""A run folder resumes its own run and protects it from others."""

import pytest

from rfd_tf.errors import UserError
from rfd_tf.training.run_folder import RunFolder

IDENTITY = {"method": "rfd", "num_images": 10}


def test_own_run_resumes_and_others_are_refused(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert run.start(IDENTITY) is None
    run.write(identity=IDENTITY, flags={})
    checkpoint = run.checkpoints.path(7)
    checkpoint.parent.mkdir()
    checkpoint.touch()
    with pytest.raises(UserError, match="all 1 checkpoints .* damaged"):
        run.start(IDENTITY)
    with pytest.raises(UserError, match="num_images 10, and this one has 11"):
        run.start({**IDENTITY, "num_images": 11})
    with pytest.raises(UserError, match="already holds a run"):
        run.start(IDENTITY, resume="never")
    assert checkpoint.exists()


@pytest.mark.parametrize(
    ("began", "now", "message"),
    [
        (
            "a" * 64,
            None,
            "the weights '/w.h5' .* give init_weights=/w.h5",
        ),
        ("a" * 64, "b" * 64, "starts from others .* give init_weights=/w.h5"),
        (
            None,
            "b" * 64,
            "from random weights.* leave out init_weights",
        ),
    ],
)
def test_a_run_that_started_from_other_weights_names_the_flag_that_gives_them(
    tmp_path, began, now, message
):
    run = RunFolder(tmp_path)
    started = {"weights": "/w.h5", "sha256": began} if began else None
    run.write(identity={**IDENTITY, "started_from": began}, record={"started_from": started})
    with pytest.raises(UserError, match=message) as error:
        run.start({**IDENTITY, "started_from": now})
    assert "started_from" not in str(error.value).replace(str(tmp_path), "")


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    run = RunFolder(tmp_path)
    run.write(identity=IDENTITY)
    (tmp_path / "notes.txt").write_text("mine")
    run.checkpoints.directory.mkdir()
    assert run.start({"method": "other"}, overwrite=True) is None
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run")


def test_damaged_run_file_is_named(tmp_path):
    run = RunFolder(tmp_path)
    for content in ("{", "[]", '{"identity": 3}', '{"identity": {}, "flags": []}'):
        run.path("run.json").write_text(content)
        with pytest.raises(UserError, match="run.json cannot be read"):
            run.start(IDENTITY)


def test_a_run_file_that_an_editor_saved_is_read(tmp_path):
    for codec in ("utf-8-sig", "utf-16"):
        (tmp_path / "run.json").write_text('{"identity": {}}', encoding=codec)
        assert RunFolder(tmp_path).read() == {"identity": {}}
