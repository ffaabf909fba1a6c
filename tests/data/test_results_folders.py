"""Pictures among a package's own results are no images of a folder."""

import json

import pytest
from PIL import Image

from rfd_tf.data import image_folder, results_folders
from rfd_tf.errors import UserError


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_folders_of_results_are_left_out_with_one_warning(tmp_path):
    for name in ("a/0.png", "b/1.png", "x_files/2.png"):
        picture(tmp_path / name)
    for marker in results_folders.MARKERS:
        picture(tmp_path / "a" / marker[:-5] / "figures" / "grid.png")
        (tmp_path / "a" / marker[:-5] / marker).write_text("{}")
    picture(tmp_path / "evaluation_files" / "confusion.png")
    report = {"protocol": {}, "results": [], "sha256": ""}
    (tmp_path / "evaluation.json").write_text(json.dumps(report))
    (tmp_path / "x.json").write_text("{}")
    with pytest.warns(UserWarning) as warned:
        source = image_folder(tmp_path)
    assert source.names == ["a/0.png", "b/1.png", "x_files/2.png"]
    (warning,) = warned
    assert "hold results of rfd_tf: 'a/ablations', 'a/card'" in str(warning.message)
    assert f"and {len(results_folders.MARKERS) + 1 - 5} more" in str(warning.message)


def test_the_output_folder_is_left_out_and_is_not_the_folder_itself(tmp_path, recwarn):
    picture(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "out" / "b.png")
    assert image_folder(tmp_path, leave_out=[tmp_path / "none", tmp_path / "empty"]).num_images == 2
    assert not recwarn.list
    with pytest.warns(UserWarning, match="'out'"):
        assert image_folder(tmp_path, leave_out=[tmp_path / "out"]).names == ["a.png"]
    with pytest.raises(UserError, match="is the folder of the images"):
        image_folder(tmp_path, leave_out=[tmp_path / "out" / ".."])


def test_a_folder_of_results_can_be_read_by_its_own_name(tmp_path):
    picture(tmp_path / "figures" / "grid.png")
    (tmp_path / "run.json").write_text("{}")
    assert image_folder(tmp_path).names == ["figures/grid.png"]
