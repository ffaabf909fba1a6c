"""What W&B and MLflow record of a pretraining whose callbacks are theirs, without a network."""

import importlib.util
import json
import struct

import pytest
from class_images import write_class_images
from script_driver import run_many

CALLBACKS = {
    "wandb": "wandb.integration.keras:WandbMetricsLogger,log_freq=1",
    "mlflow": "mlflow.keras:MlflowCallback",
}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A folder with a run of the command, tracked by what is installed."""
    installed = [name for name in CALLBACKS if importlib.util.find_spec(name)]
    if not installed:
        pytest.skip("neither wandb nor mlflow is installed")
    folder = tmp_path_factory.mktemp("tracked")
    write_class_images(folder / "images", 20)
    environment = {
        "WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_CONSOLE": "off",
        "WANDB_SILENT": "true", "MLFLOW_TRACKING_URI": f"file:{folder / 'mlruns'}",
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }  # fmt: skip
    common = [
        f"--data={folder / 'images'}", "--backbone=six_layer", "--image_size=16",
        "--backbone_option=filters=[4,4,4,4,4,8]", "--method=rotation", "--batch_size=4",
        "--steps_per_epoch=2", "--notensorboard", f"--output_dir={folder / 'run'}",
        *(f"--callback={CALLBACKS[name]}" for name in installed),
    ]  # fmt: skip
    prelude = f"import os; os.environ.update({environment!r}); os.chdir({str(folder)!r})"
    lines = [[*common, "--epochs=1"], [*common, "--epochs=2", "--evaluate=knn", "--export=keras"]]
    for code, _, error in run_many("pretrain", lines, prelude):
        assert code == 0 and "did not take" not in error, error
    return folder


def wandb_records(path):
    """The records of a run's file: blocks of 32 KiB, in which a record may be split."""
    from wandb.proto import wandb_internal_pb2

    content, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def test_wandb_has_settings_metrics_scores_figures_and_the_export(tracked):
    pytest.importorskip("wandb")
    (path,) = tracked.glob("wandb/offline-run-*/*.wandb")
    records = list(wandb_records(path))

    def values(items):
        return {item.key or ".".join(item.nested_key): item.value_json for item in items}

    config, history, summary = {}, [], {}
    for record in records:
        kind = record.WhichOneof("record_type")
        if kind == "config":
            config.update(values(record.config.update))
        elif kind == "run":
            config.update(values(record.run.config.update))
        elif kind == "history":
            history.append(values(record.history.item))
        elif kind == "summary":
            summary.update(values(record.summary.update))
    assert config["method"] == '"rotation"' and config["epochs"] == "2"
    assert config["batch_size"] == "4"
    epochs = [row for row in history if "epoch/epoch" in row]
    rows = (tracked / "run" / "metrics.csv").read_text().splitlines()
    names = set(rows[0].split(",")) - {"epoch", "step"}
    written = {name for name, value in zip(rows[0].split(","), rows[2].split(","), strict=True)
               if value} & names  # fmt: skip
    assert len(epochs) == 2 and {f"epoch/{name}" for name in written} <= set(epochs[1])
    assert len([row for row in history if "batch/loss" in row]) == 4
    assert 0 <= float(summary["evaluation/knn/block6/upright/accuracy"]) <= 1
    logged = {name for row in history for name in row}
    figures = {f"figures/{file.stem}" for file in (tracked / "run" / "figures").glob("*.png")}
    assert figures and all(any(name.startswith(figure) for name in logged) for figure in figures)
    (artifact,) = [record.request.log_artifact.artifact if record.HasField("request")
                   else record.artifact for record in records
                   if record.HasField("artifact")]  # fmt: skip
    assert artifact.type == "model"


def test_mlflow_has_settings_metrics_scores_figures_and_the_export(tracked):
    pytest.importorskip("mlflow")
    runs = [path.parent for path in tracked.glob("mlruns/*/*/params")]
    (run,) = [run for run in runs if (run / "artifacts" / "export").is_dir()]
    assert len(runs) == 2
    assert (run / "params" / "method").read_text() == "rotation"
    assert (run / "params" / "epochs").read_text() == "2"
    # What the callback itself logs.
    assert (run / "params" / "optimizer_name").is_file()
    assert "rotation" in (run / "artifacts" / "model_summary.txt").read_text().lower()
    written = {path.name for path in (run / "metrics").iterdir()}
    assert {"loss", "rotation_accuracy", "knn_accuracy", "learning_rate"} <= written
    assert (run / "metrics" / "evaluation" / "knn" / "block6" / "upright" / "accuracy").is_file()
    figures = {path.name for path in (run / "artifacts" / "figures").iterdir()}
    assert figures == {path.name for path in (tracked / "run" / "figures").glob("*.png")}
    assert (run / "artifacts" / "export" / "backbone.keras").is_file()
    recorded = json.loads((run / "artifacts" / "run.json").read_bytes())
    assert recorded["flags"]["epochs"] == 2
