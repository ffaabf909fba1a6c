import json
import re
from pathlib import Path

import numpy as np
import pytest
from export_helpers import RECORD, numpy_embedding
from PIL import Image

import rfd_tf
from rfd_tf import applications
from rfd_tf.applications.weights import sha256
from rfd_tf.export import export_backbone, find_saved_model, hub, model_card

ROOT = Path(__file__).resolve().parents[2]


def pieces_of_code(readme):
    return re.findall(r"([^\n]*)\n\n```python\n(.*?)```", readme, re.DOTALL)


def test_the_card_says_what_the_export_is(exported):
    folder, card = exported
    assert json.loads((folder / "card.json").read_text()) == card
    assert card["name"] == "small" and card["backbone"] == "six_layer"
    assert card["arguments"] == RECORD["arguments"]
    assert (card["method"], card["dataset"], card["epoch"]) == ("rfd", "digits", 3)
    assert card["preprocessing"]["mean"] == RECORD["mean"]
    assert card["feature"]["channels"] == [0, 64] and card["feature"]["endpoint"] == "block6"
    assert card["outputs"]["embedding"]["shape"] == ["batch", 64]
    assert card["outputs"]["block2"]["shape"] == ["batch", 16, 16, 12]
    pixels = {"dtype": "uint8", "shape": ["batch", 32, 32, 3]}
    assert card["inputs"]["onnx"] == {"pixels": pixels}
    assert card["inputs"]["saved_model"]["serving_default"] == {"pixels": pixels}
    assert card["inputs"]["saved_model"]["image_bytes"]["image_bytes"]["dtype"] == "string"
    assert card["versions"]["rfd_tf"] == rfd_tf.__version__
    assert {"tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx"} <= set(card["versions"])


def test_every_file_is_listed_with_its_digest(exported):
    folder, card = exported
    files = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    assert set(card["files"]) == set(files) - {"README.md", "card.json"}
    for name, entry in card["files"].items():
        assert entry == {"bytes": files[name].stat().st_size, "sha256": sha256(files[name])}
    assert card["weights_sha256"] == card["files"]["backbone.weights.h5"]["sha256"]


def test_the_readme_contains_the_cards_text(exported):
    folder, card = exported
    text = (folder / "README.md").read_text()
    assert text.startswith("# small\n\nA 64-dimensional embedding of a 32 x 32 RGB image")
    for part in ("## Use", "## Inputs and outputs", "## Preprocessing", "## Scores",
                 "## Compared with Keras", "## Files", "## Licence", "## Limits"):  # fmt: skip
        assert f"\n{part}\n" in text
    assert "| knn | `f2` | rotated | accuracy | 90.5 | 50.0 |" in text
    assert "297 test images (digits test)" in text
    assert card["weights_sha256"] in text
    for row in re.findall(r"^\|.*", text, re.MULTILINE):
        assert row.endswith("|")


@pytest.mark.parametrize("kind", ["Keras file", "Weights"])
def test_the_code_for_keras_runs_as_it_stands(
    kind, exported, backbone, tmp_path, monkeypatch, capsys
):
    folder, _ = exported
    (code,) = [
        code for title, code in pieces_of_code((folder / "README.md").read_text())
        if title.startswith(kind)
    ]  # fmt: skip
    photo = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=95)
    for name in ("backbone.keras", "backbone.weights.h5"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert capsys.readouterr().out.strip() == "(1, 64)"
    pixels = np.asarray(Image.open("photo.jpg"))[None]
    expected = numpy_embedding(backbone, RECORD, pixels)
    np.testing.assert_allclose(names["embedding"], expected, atol=1e-5)


def test_the_code_for_large_images_and_halves_runs(tmp_path, monkeypatch):
    # 96 pixels and more: with a margin around the centre crop.
    model = applications.build("alexnet", 96, width=0.02)
    record = {
        **RECORD, "backbone": "alexnet", "arguments": {"width": 0.02}, "image_size": 96,
        "feature": {"endpoint": "fc7", "pooling": None, "split": [40, 42]}, "endpoints": [],
    }  # fmt: skip
    path = applications.save_backbone(model, tmp_path / "a.weights.h5", record)
    out = tmp_path / "out"
    card = export_backbone(path, out, ["keras", "onnx"], feature="f2", onnx_layout="nchw",
                           onnx_input="float32")  # fmt: skip
    assert card["scores"] is None and card["feature"]["channels"] == [40, 82]
    photo = Image.fromarray(np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    photo.resize((300, 220), Image.Resampling.BICUBIC).save(out / "photo.jpg", quality=95)
    monkeypatch.chdir(out)
    found = []
    for _, code in pieces_of_code((out / "README.md").read_text()):
        names = {}
        exec(code, names)
        found.append(np.asarray(names["embedding"]))
    assert len(found) == 3 and found[0].shape == (1, 42)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5 * np.abs(found[0]).max() + 1e-7)


def test_scores_of_other_weights_are_left_out(run_folder, tmp_path):
    for name in ("backbone.weights.h5", "evaluation.json"):
        (tmp_path / name).write_bytes((run_folder / name).read_bytes())
    weights = tmp_path / "backbone.weights.h5"
    assert len(model_card.scores_of(weights)["results"]) == 4
    report = json.loads((tmp_path / "evaluation.json").read_text())
    for stale in ({**report, "sha256": "0" * 64}, {**report, "results": [1]}, [], "x"):
        (tmp_path / "evaluation.json").write_text(json.dumps(stale))
        assert model_card.scores_of(weights) is None
    (tmp_path / "evaluation.json").write_text("{")
    assert model_card.scores_of(weights) is None


def test_scores_that_are_too_high_are_called_so():
    row = {"task": "linear", "name": "f", "images": "upright", "metric": "accuracy"}
    rows = [
        {**row, "when": when, "value": value, "random_init": 0.1}
        for when, value in (("last epoch", 0.5), ("best epoch", 0.6))
    ]
    data = {"num_test": 6, "test": "held out", "num_train": 30, "train": "photos"}
    scores = {"data": {**data, "trained_on": 4}, "results": rows}
    text = model_card._scores_text(scores)
    assert "pretraining has seen 4 test images without labels" in text
    assert "Best epoch: chosen on the test images, so its score is too high." in text
    front = hub.front_matter({"name": "n", "scores": scores})
    assert "pretraining has seen 4 of the test images" in front
    assert "last epoch" in front and "best epoch" not in front
    text = model_card._scores_text({"data": data, "results": rows[:1]})
    assert "seen" not in text and "Best epoch" not in text


def test_differences_from_the_papers_are_reported():
    row = {"task": "detection", "name": "all layers", "images": "upright", "metric": "COCO AP",
           "when": "last epoch", "value": 0.3, "random_init": 0.2}  # fmt: skip
    protocol = {"published": "papers report Fast R-CNN", "epochs": 8}
    text = model_card._scores_text({"results": [row], "protocol": {"detection": protocol}})
    assert text.endswith("| 30.0 | 20.0 |\n\n`detection`: papers report Fast R-CNN.")
    assert "`detection`" not in model_card._scores_text({"results": [row]})


def test_the_shipped_folders_are_what_their_cards_say():
    shipped = sorted((ROOT / "exported").glob("*/card.json"))
    assert shipped
    for path in shipped:
        card = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in card["files"].items():
            file = path.parent / name
            assert (file.stat().st_size, sha256(file)) == (entry["bytes"], entry["sha256"]), file
        assert (path.parent / "README.md").read_text(encoding="utf-8") == model_card.readme(card)
        assert find_saved_model(path.parent) == path.parent / "saved_model" / "1"
