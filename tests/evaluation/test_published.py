import numpy as np
import pytest
from PIL import Image

from rfd_tf.evaluation import TASKS
from rfd_tf.evaluation.base import LAST_EPOCH
from rfd_tf.evaluation.published import comparable, published

PUBLISHED = published()
CIFAR10 = {"num_classes": 10, "num_train": 50_000, "num_test": 10_000}
IMAGENET = {"num_classes": 1000, "num_train": 1_281_167, "num_test": 50_000}

NIN = {"backbone": "network_in_network", "arguments": {}}
HIDDEN = TASKS["nonlinear"](protocol="rotnet_cifar10_hidden")


def found(task="nonlinear", protocol=None, data=CIFAR10, network=NIN):
    return list(comparable(task, protocol or HIDDEN.protocol(None), data, network))


@pytest.fixture(scope="module")
def voc_protocols(tmp_path_factory, rfd_subject):
    """What VOC's tasks say of a small folder, as they would of VOC itself."""
    root = tmp_path_factory.mktemp("voc")
    lists = "ImageSets/Main", "ImageSets/Segmentation"
    for name in ("JPEGImages", "Annotations", "SegmentationClass", *lists):
        (root / name).mkdir(parents=True)
    for name in lists:
        (root / name / "train.txt").write_text("0\n1\n2\n3\n")
        (root / name / "val.txt").write_text("4\n5\n")
    for number in range(6):
        Image.new("RGB", (64, 64)).save(root / "JPEGImages" / f"{number}.jpg")
        mask = np.full((64, 64), number % 2, np.uint8)
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{number}.png")
        (root / "Annotations" / f"{number}.xml").write_text(
            "<annotation><size><width>64</width><height>64</height></size><object><name>"
            f"{'cat' if number % 2 else 'dog'}</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
        )
    found = {}
    for name in ("voc_classification", "detection", "segmentation"):
        task = TASKS[name](root, train_split="train", test_split="val")
        task.check(rfd_subject, None)
        found[name] = task.protocol(None)
    return found


def protocol_of(entry, voc_protocols):
    if entry.task in voc_protocols:
        counts = {key: entry.protocol[key] for key in entry.protocol if key.startswith("num_")}
        assert set(counts) <= set(voc_protocols[entry.task])
        return {**voc_protocols[entry.task], **counts}
    if entry.task == "knn":
        return TASKS["knn"](**entry.protocol).settings(50_000)
    if entry.task == "retrain":
        return TASKS["retrain"]().protocol(None)
    if entry.task == "semi_supervised":
        # (With the images, which None has not.)
        return {**TASKS["semi_supervised"]().protocol(None), "epoch_images": 50_000}
    return TASKS[entry.task](protocol=entry.protocol["protocol"]).protocol(None)


def test_each_result_belongs_to_a_protocol_that_there_is(voc_protocols):
    for entry in PUBLISHED:
        # The task, run as published, must lead to its figures.
        protocol = protocol_of(entry, voc_protocols)
        metrics = protocol.get("average_precision")
        assert metrics is None or entry.metric in metrics or entry.metric.startswith("COCO")
        network = {"backbone": entry.backbone, "arguments": dict(entry.arguments)}
        assert entry in list(comparable(entry.task, protocol, entry.data, network)), entry
        shares = [*entry.values.values(), *entry.random_init.values()]
        assert shares and all(0 < share < 1 for share in shares), entry


def test_layers_are_those_of_the_network():
    from rfd_tf import applications

    sizes = {"network_in_network": 32, "alexnet": 224, "resnet50": 64, "resnet18": 32}
    layers = {}
    for entry in PUBLISHED:
        key = entry.backbone, tuple(entry.arguments.items())
        if key not in layers:
            network = applications.build(entry.backbone, sizes[entry.backbone], **entry.arguments)
            layers[key] = {layer.name for layer in network.layers}
        heads = {"fc8", "fc6-8", "all layers", "embedding", "supervised"}
        values = {name.removeprefix("svm, ") for name in entry.values}
        assert values <= layers[key] | heads, entry
        assert set(entry.random_init) <= set(entry.values), entry


def test_rfds_tables():
    values = {
        (
            entry.network,
            entry.task,
            entry.images,
            entry.data.get("num_classes"),
            entry.metric,
        ): entry
        for entry in PUBLISHED
        if entry.method == "RFD"
    }
    assert len(values) == sum(entry.method == "RFD" for entry in PUBLISHED)
    linear = values["AlexNet", "linear", "upright", 1000, "accuracy"]
    assert list(linear.values.values()) == [0.193, 0.333, 0.408, 0.418, 0.443]
    assert linear.random_init["conv5"] == 0.141
    crops = values["AlexNet, bigger", "linear", "10 crops", 205, "accuracy"]
    assert crops.values["conv4"] == 0.422
    detection = values["AlexNet", "detection", "upright", None, "mean AP (11-point)"]
    assert detection.values == {"all layers": 0.575} and "Fast R-CNN" in detection.differs
    assert detection.random_init == {"all layers": 0.434}


def test_rfds_table_4():
    rows = {
        entry.method.removeprefix("RFD, "): [round(100 * v, 1) for v in entry.values.values()]
        for entry in PUBLISHED
        if entry.source.endswith("table 4")
    }
    assert rows == {
        "rotation only": [18.8, 31.7, 38.7, 38.2, 36.5],
        "instance only": [18.3, 28.6, 33.0, 32.7, 32.9],
        "without PU weights": [19.3, 33.0, 40.7, 41.6, 44.0],
        "split at conv5": [19.6, 33.4, 40.2, 40.4, 41.0],
        "split at fc6": [19.4, 33.5, 40.8, 41.5, 42.6],
    }


def test_pirls_probes_on_inaturalist_2018():
    protocol = TASKS["linear"](protocol="goyal_inaturalist2018").protocol(None)
    assert protocol["epochs"] == 84 and protocol["batch_size"] == 256
    assert protocol["learning_rate"] == [[24, 0.01], [48, 0.001], [72, 1e-4], [84, 1e-5]]
    assert protocol["crop"] == "resized" and "average-pooled" in protocol["features"]
    data = {"num_classes": 8142, "num_train": 437_513, "num_test": 24_426}
    network = {"backbone": "resnet50", "arguments": {}}
    percent = {
        entry.method: round(100 * entry.values["conv5_block3_out"], 1)
        for entry in found("linear", protocol, data, network)
    }
    assert percent == {
        "ImageNet labels": 45.4,
        "Rotation prediction": 23.0,
        "Jigsaw": 21.3,
        "NPID++": 32.4,
        "PIRL (Rotation)": 31.2,
        "PIRL (Jigsaw, 400 epochs)": 31.2,
        "PIRL (Rotation + Jigsaw)": 33.6,
        "PIRL (Jigsaw)": 34.1,
    }


def test_rotnets_table_1():
    (entry,) = [entry for entry in found() if entry.method == "RotNet"]
    assert entry.network == "NIN, 4 blocks"
    assert entry.values == {"block1": 0.8507, "block2": 0.8906, "block3": 0.8621, "block4": 0.6173}
    (three,) = found(network={**NIN, "arguments": {"blocks": 3, "fused_batch_norm": False}})
    assert three.values["block3"] == 0.6209


def test_only_what_is_comparable_is_shown():
    assert found() != []
    assert found(network={"backbone": "six_layer", "arguments": {}}) == []
    assert found(network={**NIN, "arguments": {"width": 0.5}}) == []
    assert found(data={**CIFAR10, "num_train": 5000}) == []
    assert found(data=IMAGENET) == []
    assert found(task="linear") == []
    shorter = TASKS["nonlinear"](protocol="rotnet_cifar10_hidden", epochs=5)
    assert found(protocol=shorter.protocol(None)) == []
    narrower = TASKS["nonlinear"](protocol="rotnet_cifar10_hidden", hidden=50)
    assert found(protocol=narrower.protocol(None)) == []


def test_sources_are_named():
    for entry in PUBLISHED:
        assert any(place in entry.source for place in ("ICLR 20", "CVPR 20", "ECCV 20")), entry
        # Another detector, or another's probe, is told.
        assert entry.differs or entry.task in ("linear", "nonlinear"), entry
    own = [e for e in PUBLISHED if e.method == "RotNet" and e.task in ("linear", "nonlinear")]
    assert {entry.when for entry in own} == {"best epoch"}
    assert LAST_EPOCH == "last epoch"


def test_aet_s_own_heads_are_comparable_without_a_difference():
    for protocol, values in (
        ("aet_cifar10_hidden", [0.9023, 0.9059]),
        ("aet_cifar10_conv", [0.9195, 0.9218]),
    ):
        entries = found(protocol=TASKS["nonlinear"](protocol=protocol).protocol(None))
        assert [entry.values["block2"] for entry in entries] == values
        assert not any(entry.differs for entry in entries)
