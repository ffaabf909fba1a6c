"""rfd-tf pretrain --init_weights=PLACE: what a run starts from, to its last use."""

import json

import keras
import numpy as np
import pytest
from built_sessions import build
from PIL import Image
from script_driver import forget_flags, parse_flags, run_many

import rfd_tf
from rfd_tf import applications, data
from rfd_tf.applications import start
from rfd_tf.applications.weights import origin
from rfd_tf.cli import pretrain
from rfd_tf.errors import UserError

FILTERS = [4, 4, 4, 8, 8, 16]
SMALL = [
    "--dataset=digits",
    "--method=rotation",
    "--backbone=six_layer",
    "--backbone_option=filters=[4,4,4,8,8,16]",
    "--image_size=16",
    "--batch_size=8",
    "--steps_per_epoch=1",
    "--schedule=constant",
    "--learning_rate=1e-9",
    "--momentum=0",
    "--weight_decay=0",
    "--monitor_every=0",
    "--health_every=0",
    "--notensorboard",
    "--mixed_precision=float32",
]


@pytest.fixture(autouse=True)
def fresh_flags():
    yield
    forget_flags()


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A weights file with a record, as a run folder holds it."""
    folder = tmp_path_factory.mktemp("first")
    keras.utils.set_random_seed(7)
    model = applications.build("six_layer", 16, filters=FILTERS)
    record = {
        "format": 1,
        "backbone": "six_layer",
        "arguments": {"filters": FILTERS},
        "image_size": 16,
    }
    applications.save_backbone(model, folder / "backbone.weights.h5", record)
    return folder, model


def kernels(model):
    return {weight.path: weight.numpy() for weight in model.trainable_weights}


def starting(weights, backbone, size, own):
    return start.load(weights, backbone, applications.build(backbone, size, **own), own)


def test_a_run_that_starts_from_weights_is_evaluated_exported_and_embedded(first, tmp_path):
    place, model = first
    run = tmp_path / "run"
    begin = [*SMALL, f"--init_weights={place}", f"--output_dir={run}"]
    lines = [
        [*begin, "--epochs=1", "--evaluate=knn", "--export=keras", "--monitor_every=1"],
        [*begin, "--epochs=2"],
        [*SMALL, "--epochs=1", "--monitor_every=1", f"--output_dir={tmp_path}/random"],
    ]
    (trained, resumed, plain) = run_many("pretrain", lines)
    assert trained[0] == plain[0] == 0, trained[2] + plain[2]
    # The accuracy beside it is that of a random network, not that of the weights it started from.
    baseline = "kNN accuracy of the random-init feature: "
    (of_plain,) = [line for line in plain[1].splitlines() if baseline in line]
    assert of_plain in trained[1].splitlines()
    verdict = trained[1].splitlines()[-1]
    assert verdict.startswith("kNN accuracy ") and "than the starting weights" in verdict
    verdict_of_plain = plain[1].splitlines()[-1]
    assert "than random init" in verdict_of_plain and "starting" not in verdict_of_plain
    assert "random init  starting weights" in trained[1]
    assert resumed[0] == 0 and "resuming after epoch 1" in resumed[1], resumed[2]
    written = json.loads((run / "run.json").read_text())
    expected = origin(place, "six_layer")
    assert written["record"]["started_from"] == expected
    assert written["record"]["arguments"] == {"filters": FILTERS}
    assert written["flags"]["init_weights"] == expected["weights"]
    loaded, record = applications.load_backbone(run)
    assert record["started_from"] == expected
    for path, value in kernels(loaded).items():
        np.testing.assert_allclose(value, kernels(model)[path], atol=1e-6, err_msg=path)
    # In evaluation, report and model card they stand beside random init.
    report = json.loads((run / "evaluation.json").read_text())
    assert report["data"]["starting_weights"] == expected
    for row in report["results"]:
        # (All that has moved are batch normalisation's statistics.)
        assert abs(row["value"] - row["starting_weights"]) < 0.1 and "random_init" in row
    assert "| starting weights |" in (run / "export" / "README.md").read_text()
    path = rfd_tf.Run.open(run).report(images=0)
    assert "starting weights" in path.read_text() and verdict in path.read_text()
    last = rfd_tf.Run.open(run).history[0]
    assert last["knn_accuracy_starting_weights"] == pytest.approx(last["knn_accuracy"], abs=0.1)
    assert "from the weights `backbone.weights.h5`" in (run / "export" / "README.md").read_text()
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (80 * number, 9, 9)).save(images / f"{number}.png")
    (embedded,) = run_many(
        "embed",
        [
            [
                f"--data_dir={images}",
                f"--weights={run}",
                f"--output_dir={tmp_path}/out",
                "--format=npy",
            ]
        ],
    )
    assert embedded[0] == 0, embedded[2]


def test_a_run_resumes_when_the_weights_it_started_from_are_gone(first, tmp_path):
    place, model = first
    moved = tmp_path / "start.weights.h5"
    moved.write_bytes((place / "backbone.weights.h5").read_bytes())
    # (The earlier spelling of --init_weights.)
    arguments = [*SMALL, f"--backbone_option=weights={moved}", f"--output_dir={tmp_path}/run"]
    parse_flags(*arguments, "--epochs=1")
    pretrain.main()
    moved.unlink()
    parse_flags(*arguments, "--epochs=2")
    pretrain.main()
    loaded, record = applications.load_backbone(tmp_path / "run")
    assert record["started_from"]["weights"] == str(moved) and record["epoch"] == 2
    parse_flags(*arguments, "--epochs=2", "--overwrite")
    with pytest.raises(UserError, match="no such weights file"):
        pretrain.main()


def test_backbone_options_and_normalisation_are_those_of_the_weights(first, tmp_path):
    place, _ = first
    record = applications.read_record(place)
    model, _ = applications.load_backbone(place)
    pixels = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    path = applications.save_backbone(model, tmp_path / "a.weights.h5", {**record, **pixels})
    settings = {"method": "rotation", "dataset": "digits", "batch_size": 8, "steps_per_epoch": 1,
                "monitor_every": 0, "mixed_precision": "float32", "image_size": 16}  # fmt: skip
    common = {**settings, "init_weights": str(path), "epochs": 1, "verbose": 0}
    run = rfd_tf.pretrain(
        output_dir=tmp_path / "run",
        freeze_until="block2",
        backbone_learning_rate_scale=0.1,
        learning_rate=0.5,
        **common,
    )
    assert run.config.backbone == "six_layer" and run.config.mean == pixels["mean"]
    found = applications.read_record(run.directory)
    assert found["arguments"] == {"filters": FILTERS} and found["std"] == pixels["std"]
    written = json.loads((run.directory / "run.json").read_text())
    assert written["flags"]["backbone_learning_rate_scale"] == 0.1
    trained = run.backbone()
    for weight, before in zip(trained.weights, model.get_weights(), strict=True):
        frozen = weight.path.startswith(("block1", "block2"))
        assert np.array_equal(np.array(weight), before) is frozen, weight.path
    assert keras.models.load_model(run.directory / "backbone.keras").get_layer("block1").trainable
    path.unlink()
    assert len(run.resume(epochs=2, verbose=0).history) == 2
    with pytest.raises(UserError, match="freeze_until 'block2', and this one has None"):
        rfd_tf.pretrain(output_dir=run.directory, **common)


def test_shipped_weights_are_a_start():
    parse_flags("--method=rotation", "--backbone=six_layer", "--init_weights=rfd_cifar10")
    own, weights = pretrain.config().backbone_arguments()
    _, session = build(data.digits(), starting(weights, "six_layer", 32, own))
    shipped, _ = applications.load_backbone("six_layer.rfd_cifar10")
    for path, value in kernels(shipped).items():
        np.testing.assert_array_equal(value, kernels(session.method.backbone)[path])
    assert own == {} and origin(weights, "six_layer")["weights"] == "six_layer.rfd_cifar10"


def test_a_network_of_keras_starts_from_weights_and_its_record_builds_it(tmp_path):
    options = {"alpha": 0.35, "batch_norm_epsilon": 1e-5}
    model = applications.build("mobilenet_v2", 32, **options)
    record = {"format": 1, "backbone": "mobilenet_v2", "arguments": options, "image_size": 32}
    path = applications.save_backbone(model, tmp_path / "a.weights.h5", record)
    given = [f"--backbone_option={name}={value}" for name, value in options.items()]
    parse_flags(
        "--method=rotation",
        "--backbone=mobilenet_v2",
        "--image_size=32",
        f"--init_weights={path}",
        *given,
    )
    own, weights = pretrain.config().backbone_arguments()
    assert own == options
    _, session = build(data.digits(), starting(weights, "mobilenet_v2", 32, own))
    for name, value in kernels(model).items():
        np.testing.assert_array_equal(value, kernels(session.method.backbone)[name])
    assert session.method.backbone.get_layer("bn_Conv1").epsilon == 1e-5
    applications.save_backbone(
        session.method.backbone, tmp_path / "b.weights.h5", {**record, "arguments": own}
    )
    again, _ = applications.load_backbone(tmp_path / "b.weights.h5")
    assert again.get_layer("bn_Conv1").epsilon == 1e-5


BAD = {
    "missing": ("weights=nowhere.weights.h5", "no such weights file: 'nowhere.weights.h5'"),
    "no such name": ("weights=rfd_cifar100", "unknown weights 'rfd_cifar100'"),
    "imagenet": ("weights=imagenet", "'imagenet' is for the networks of keras.applications"),
    "not a weights file": ("weights={folder}/text.weights.h5", "is not a weights file"),
    "another network": ("weights=rfd_cifar10", "holds backbone six_layer, not six_layer"),
    "no text": ("weights=3", "weights must be None, a path or a name"),
    "classes": ("classes=3", "unknown argument of backbone six_layer 'classes'"),
    "top": ("include_top=true", "unknown argument of backbone six_layer 'include_top'"),
    "pooling": ("pooling=avg", "unknown argument of backbone six_layer 'pooling'"),
    "name": ("name=mine", "unknown argument of backbone six_layer 'name'"),
}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--freeze_until=block1"], "would keep random layers: give init_weights"),
        (["--init_weights=rfd_cifar10", "--backbone_option=weights=x"], "give one of them"),
        (["--backbone_learning_rate_scale=0"], "must be above 0; freeze_until keeps layers"),
        (["--include_preprocessing"], "goes with a Keras model as backbone, not with six_layer"),
        (["--backbone=none.keras"], "backbone_option goes with a backbone by name|no such Keras"),
    ],
)
def test_what_goes_with_no_start_is_refused(flags, message, tmp_path):
    parse_flags(*SMALL, *flags, f"--output_dir={tmp_path}/run")
    with pytest.raises(UserError, match=message):
        pretrain.main()


@pytest.mark.parametrize("case", BAD)
def test_a_bad_start_is_named_before_images_are_read(case, tmp_path, monkeypatch):
    option, message = BAD[case]
    (tmp_path / "text.weights.h5").write_text("no weights")
    monkeypatch.setattr(data, "load", lambda *a, **k: pytest.fail("images were read"))
    option = option.format(folder=tmp_path)
    parse_flags(*SMALL, f"--backbone_option={option}", f"--output_dir={tmp_path}/run")
    with pytest.raises(UserError, match=message):
        pretrain.main()
    assert not list(tmp_path.glob("run/*"))
