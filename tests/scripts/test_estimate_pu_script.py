"""scripts/estimate_pu.py as a user runs it: files, resuming, one line for a mistake."""

import numpy as np
import pytest
from PIL import Image
from script_driver import run_many

from rfd_tf.data import image_folder, pu_weights


@pytest.fixture
def photos(tmp_path):
    """Two folders of pictures, alike but for one."""
    rng = np.random.default_rng(0)
    for name in ("photos", "others"):
        (tmp_path / name).mkdir()
    for i in range(16):
        pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
        if i:
            Image.fromarray(pixels).save(tmp_path / "others" / f"{i}.png")
    return tmp_path


def test_weights_are_estimated_converted_and_drawn_and_user_errors_reported(photos):
    output, grid, text = (photos / "new" / name for name in ("pu.npz", "pu.png", "prob.dat"))
    data = f"--data_dir={photos / 'photos'}"
    small = [
        data,
        "--backbone=six_layer",
        "--backbone_option=filters=[4,4,4,4,4,4]",
        "--image_size=16",
        "--epochs=1",
        "--batch_size=4",
        "--folds=2",
        "--mixed_precision=float32",
    ]
    binary = [*small, "--classifier=binary"]
    back = photos / "back.npz"
    (photos / "file").write_text("mine")
    (photos / "file.npz").write_text("mine")
    pictures = [
        f"--data_dir={photos / 'others'}",
        f"--input={output}",
        f"--grid={photos / 'o.png'}",
    ]
    good = [
        [*binary, f"--output={output}", f"--grid={grid}"],
        [data, f"--input={output}", f"--output={text}"],
        [data, f"--input={text}", f"--output={back}"],
    ]
    fresh = f"--output={photos / 'fresh.npz'}"
    mistakes = {
        "give --output": small,
        "--output 'pu.json' must end in .npz or .dat": [*small, "--output=pu.json"],
        f"'{output}' exists; give another --output, or --overwrite": [*small, f"--output={output}"],
        f"'{grid}' exists; give another --grid, or --overwrite": [*small, fresh, f"--grid={grid}"],
        "must end in .png": [*small, fresh, "--grid=x.jpg"],
        "cannot write": [*small, f"--output={photos / 'file' / 'x.npz'}"],
        "1 folds are too few": [*small, fresh, "--folds=1"],
        "17 folds are more than the 16 images": [*small, fresh, "--folds=17"],
        "unknown classifier 'sofmax' (did you mean 'softmax'?)": [
            *small,
            fresh,
            "--classifier=sofmax",
        ],
        "unknown backbone 'six'": [*small, fresh, "--backbone=six"],
        "must read name=value": [*small, fresh, "--backbone_option=filters"],
        "no such weights file": [*small, fresh, "--backbone_option=weights=no.weights.h5"],
        "unknown argument of backbone six_layer 'classes'": [
            *small,
            fresh,
            "--backbone_option=classes=3",
        ],
        "batch_size 9 is more than the 8 images": [*small, fresh, "--batch_size=9"],
        "--positive_prior=0.3 has no effect with --classifier='softmax'": [
            *small,
            fresh,
            "--positive_prior=0.3",
        ],
        "--epochs has no effect with --input": [data, f"--input={output}", fresh, "--epochs=7"],
        "--folds has no effect with --input": [data, f"--input={output}", fresh, "--folds=9"],
        "positive prior 0.0 must be": [*small, fresh, "--positive_prior=0"],
        "no images were given; give --data a folder": [
            fresh,
            "--backbone=six_layer",
        ],
        "made from 'photos' (16 images": pictures,
        "is no .npz file": [data, f"--input={photos / 'file.npz'}", fresh],
        "no such PU weights file": [data, "--input=none.npz", fresh],
    }
    found = run_many("estimate_pu", [*good, *mistakes.values()])

    for code, _, err in found[: len(good)]:
        assert code == 0, err
    source = image_folder(photos / "photos")
    probability = pu_weights.read(output, source)
    for other in (text, back):
        np.testing.assert_array_equal(pu_weights.read(other, source), probability)
    about = pu_weights.read_description(output)
    assert about["classifier"] == "binary" and about["dataset"] == "photos"
    assert about["settings"]["num_folds"] == 2 and about["settings"]["backbone"] == "six_layer"
    assert Image.open(grid).size[0] > 100
    # The folds that were kept are gone.
    assert {path.name for path in output.parent.iterdir()} == {"pu.npz", "pu.png", "prob.dat"}
    out = found[0][1]
    for number in (1, 2):
        assert f"fold {number}/2: rotation accuracy" in out
    assert "out-of-fold rotation accuracy" in out and "of 48 rotated views" in out
    assert "100%" in found[0][2]

    for message, (code, _, err) in zip(mistakes, found[len(good) :], strict=True):
        assert code == 2, (message, err)
        last = err.splitlines()[-1]
        assert message in last and last.startswith("error: "), (message, err)
        assert "Traceback" not in err
    assert not (photos / "fresh.npz").exists() and not (photos / "o.png").exists()
    assert (photos / "file.npz").read_text() == "mine"
