"""Every method is a plain Keras model: compile, fit, evaluate, predict, save, load, export."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_distillation import tiny
from training_runs import SIZE
from training_runs import shallow_backbone as backbone

from rfd_tf import applications
from rfd_tf.data import ArraySource
from rfd_tf.errors import UserError
from rfd_tf.evaluation import FeatureHealth
from rfd_tf.methods import METHODS, RotationFeatureDecoupling
from rfd_tf.training import optimizers, pretraining

COUNT, BATCH, STEPS = 24, 8, 3
OPTIONS = {
    "deepcluster": {"num_clusters": 4},
    "distillation": {"teacher": tiny()},
    "bigan": {"generator_width": 4, "discriminator_width": 4, "latent_dimensions": 6},
    "jigsaw": {"permutations": 6},
    "rfd_jigsaw": {"permutations": 6},
    "pirl": {"permutations": 6},
}
#: Validation images are compared with rows of the memory bank, or with clusters, by their index.
UNINDEXED = ("rotation", "jigsaw", "aet", "bigan", "distillation")
INDEXED = [name for name in METHODS if name not in UNINDEXED]


@functools.cache
def source():
    images = np.random.default_rng(3).integers(0, 256, (COUNT, SIZE, SIZE, 3)).astype("uint8")
    return ArraySource(images, name="noise")


@functools.cache
def batches():
    """The training stream, which begins anew for everyone who iterates."""
    return source().train_dataset(SIZE, BATCH)


def make(name, seed=0, optimizer=None, **options):
    keras.utils.set_random_seed(seed)
    kind, options = METHODS[name], {**OPTIONS.get(name, {}), **options}
    if name in INDEXED:
        options["num_images"] = COUNT
    method = kind(backbone(), seed=seed, **options)
    method.compile(optimizer=optimizer or optimizers.SGD(0.02))
    return method


every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Where each method is saved after each epoch."""
    return tmp_path_factory.mktemp("saved")


@functools.cache
def trained(name, folder):
    """A method after two epochs of `fit` with validation data, and the history."""
    method = make(name)
    held_out = {"image": source().images[:BATCH], "index": np.arange(BATCH)}
    history = method.fit(
        batches(),
        epochs=2,
        validation_data=held_out,
        callbacks=[
            FeatureHealth(source().images, say=None),
            keras.callbacks.ModelCheckpoint(folder / (name + "-{epoch}.keras")),
        ],
        verbose=0,
    ).history
    return method, history


@every_method
def test_fit_with_validation_trains_as_pretraining_does_without(name, saved):
    by_fit, history = trained(name, saved)
    keras.utils.set_random_seed(0)
    numbered = {"num_images": COUNT} if name in INDEXED else {}
    run = pretraining.Pretraining(
        build_backbone=backbone,
        build_method=lambda made: METHODS[name](made, **OPTIONS.get(name, {}), **numbered),
        source=source(),
        image_size=SIZE,
        optimization=pretraining.Optimization(
            epochs=2, batch_size=BATCH, learning_rate=0.02, schedule="constant", weight_decay=0.0
        ),
    )
    logged = []
    collect = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: logged.append(logs))
    if run.method.memory_bank is not None:
        run.fill_memory_bank()
    run.train(callbacks=[collect])

    for epoch, logs in enumerate(logged):
        for key in by_fit.log_names:
            assert history[key][epoch] == pytest.approx(logs[key], rel=1e-4, abs=1e-5), key
    for a, b in zip(by_fit.trainable_weights, run.method.trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=a.path)
    names = {*by_fit.log_names, *(f"val_{key}" for key in by_fit.log_names)}
    measured = {"feature_spread", "effective_rank", "alignment", "uniformity", "weights_moved"}
    measured.add("neighbours_kept")
    if name.startswith("rfd"):
        measured.add("f2_leak")
    if by_fit.memory_bank is not None:
        measured.add("bank_effective_rank")
    assert set(history) == names | measured
    assert np.isfinite([history[key] for key in names]).all()


@pytest.mark.parametrize("name", ["rotation", "rfd", "deepcluster"])
def test_fit_takes_images_in_memory(name):
    method = make(name)
    history = method.fit(source().images, batch_size=BATCH, epochs=2, verbose=0).history
    assert np.isfinite([history[key] for key in method.log_names]).all()
    assert int(method.optimizer.iterations) == 2 * STEPS


def test_fit_traces_the_training_step_once(monkeypatch):
    method = make("rotation")
    step, traced = method.train_step, []
    monkeypatch.setattr(method, "train_step", lambda data: traced.append(data) or step(data))
    method.fit(batches(), epochs=1, verbose=0)
    assert len(traced) == 1 and int(method.optimizer.iterations) == STEPS


def test_evaluate_is_the_mean_over_the_images():
    method = make("rfd", instance_loss="softmax")
    every = {"image": source().images, "index": np.arange(COUNT)}
    found = method.evaluate(every, batch_size=BATCH, verbose=0, return_dict=True)
    parts = [
        method.evaluate(
            {key: value[i : i + BATCH] for key, value in every.items()},
            batch_size=BATCH,
            verbose=0,
            return_dict=True,
        )
        for i in range(0, COUNT, BATCH)
    ]
    assert set(found) == set(method.log_names)
    for key in found:
        assert found[key] == pytest.approx(np.mean([part[key] for part in parts]), rel=1e-4), key


def test_evaluate_weighs_a_smaller_last_batch_by_its_images():
    method = make("rotation")
    images = source().images[:10]
    whole = method.evaluate(images, batch_size=10, verbose=0, return_dict=True)
    parts = method.evaluate(images, batch_size=8, verbose=0, return_dict=True)
    assert parts["rotation_loss"] == pytest.approx(whole["rotation_loss"], rel=1e-5)


@every_method
def test_predict_returns_features(name, saved):
    method, _ = trained(name, saved)
    images = source().images
    expected = np.asarray(method.named_features(images)["f"])
    for x in (
        images,
        {"image": images, "index": np.arange(COUNT)},
        source().eval_dataset(SIZE, 7),
    ):
        np.testing.assert_allclose(method.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5)


@every_method
def test_a_saved_method_continues_bit_for_bit(name, saved):
    straight, _ = trained(name, saved)
    loaded = keras.models.load_model(saved / f"{name}-1.keras")
    assert type(loaded) is type(straight)
    assert loaded.log_names == straight.log_names
    assert int(loaded.optimizer.iterations) == STEPS
    loaded.fit(batches(), epochs=2, initial_epoch=1, verbose=0)
    for a, b in zip(loaded.trainable_weights, straight.trainable_weights, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    for a, b in zip(loaded.optimizer.variables, straight.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)


@every_method
def test_a_clone_has_the_same_options(name):
    method = make(name, mean=(0.1, 0.2, 0.3))
    clone = keras.models.clone_model(method)
    assert type(clone) is type(method) and clone.mean == method.mean
    assert clone.loss_weights == method.loss_weights
    assert [w.shape for w in clone.weights] == [w.shape for w in method.weights]
    assert clone.backbone is not method.backbone


def test_export_writes_the_network_from_pixels_to_features(tmp_path):
    method = make("rfd")
    method.export(tmp_path / "saved", format="tf_saved_model", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    images = source().images.astype("float32")
    found = served.serve(images)
    np.testing.assert_allclose(found, method.predict(images, verbose=0), rtol=1e-4, atol=1e-5)


def test_pu_weights_count_in_fit_and_in_a_loop_of_ones_own():
    weights = np.full((COUNT, 4), 0.9, "float32")
    discounted = make("rfd", pu_weights=weights, lambda_distance=0.0, lambda_instance=0.0)
    plain = make("rfd", lambda_distance=0.0, lambda_instance=0.0)
    batch = {"image": source().images[:BATCH], "index": np.arange(BATCH)}
    # (1 + 3 * (1 - 0.9 ** 2)) / 4 of the loss, were the four views' losses equal.
    expected = (1 + 3 * (1 - 0.9**2)) / 4
    for method in (discounted, plain):
        method.rotation_head.kernel.assign(np.zeros(method.rotation_head.kernel.shape))
    ratio = float(discounted(batch)["rotation_loss"]) / float(plain(batch)["rotation_loss"])
    assert ratio == pytest.approx(expected, rel=1e-4)
    later = make("rfd", pu_weights=weights, pu_start_epoch=1)
    assert float(later.pu_active) == 0.0
    later.fit(batches(), epochs=2, verbose=0)
    assert float(later.pu_active) == 1.0


def test_clone_keeps_pu_weights():
    weights = np.random.default_rng(0).uniform(size=(COUNT, 4)).astype("float32")
    clone = keras.models.clone_model(make("rfd", pu_weights=weights))
    np.testing.assert_allclose(clone.upright_probability, weights, rtol=1e-6)


@pytest.mark.parametrize("name", ["rfd", "instance", "pirl"])
def test_fit_fills_the_memory_bank_first(name):
    filled, empty = make(name), make(name, fill_bank=False)
    before = np.asarray(filled.memory_bank.bank)
    zero_rate = {"epochs": 1, "verbose": 0}
    for method in (filled, empty):
        method.optimizer.learning_rate = 0.0
        method.memory_bank.momentum = 0.999
        method.fit(batches(), **zero_rate)
    moved = np.linalg.norm(np.asarray(filled.memory_bank.bank) - before, axis=1)
    assert moved.min() > 0.1
    assert np.linalg.norm(np.asarray(empty.memory_bank.bank) - before, axis=1).max() < 0.1
    # A second call continues the training.
    rows = np.asarray(filled.memory_bank.bank)
    filled.fit(batches(), **zero_rate)
    assert np.linalg.norm(np.asarray(filled.memory_bank.bank) - rows, axis=1).max() < 0.1


def test_fit_on_two_replicas_trains_as_on_one():
    results = []
    for count in (1, 2):
        devices = [f"CPU:{i}" for i in range(count)]
        reduction = tf.distribute.ReductionToOneDevice()
        strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)
        with strategy.scope():
            method = make("rfd")
        history = method.fit(batches(), epochs=2, verbose=0).history
        results.append((history["loss"], method.get_weights()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def generator():
    while True:
        yield {"image": source().images[:BATCH], "index": np.arange(BATCH)}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("rotation", {"x": source().images, "y": np.zeros(COUNT)}, "y has no meaning"),
        ("rotation", {"x": source().images, "validation_split": 0.5}, "give validation_data"),
        ("rotation", {"x": np.zeros((4, 9, 9, 3), "uint8")}, "9 pixels wide"),
        ("rfd", {"x": source().images[:8]}, "num_images=24, and there are 8"),
        ("rfd", {"x": generator(), "steps_per_epoch": 2}, "can be read only once"),
        ("rfd", {"x": source().images, "validation_data": source().images[:2]}, "'index'"),
        (
            "rotation",
            {"x": batches(), "validation_data": batches()},
            "no end; give source.eval_dataset.*validation_steps",
        ),
        (
            "rotation",
            {"x": batches(), "validation_data": (source().images, np.zeros(COUNT))},
            "without labels",
        ),
        # Of 24 images a batch of 23 leaves one, on which batch normalisation learns nothing.
        ("bigan", {"x": source().images / 1.0, "batch_size": 23}, "single images"),
        ("rotation", {"x": batches().map(lambda batch: batch)}, "steps_per_epoch"),
        (
            "deepcluster",
            {"x": batches().map(lambda batch: batch), "steps_per_epoch": 2},
            "chooses the images of each epoch",
        ),
    ],
)
def test_what_fit_cannot_do_is_refused(name, arguments, message):
    with pytest.raises(UserError, match=message):
        make(name).fit(**arguments, verbose=0)


def test_evaluate_refuses_a_dataset_without_end_unless_steps_are_given():
    method = make("rotation")
    with pytest.raises(UserError, match="no end; give source.eval_dataset.*steps"):
        method.evaluate(batches(), verbose=0)
    assert np.isfinite(method.evaluate(batches(), steps=2, verbose=0)).all()
    with pytest.raises(UserError, match="without labels"):
        method.evaluate(source().images, np.zeros(COUNT), verbose=0)


@pytest.mark.parametrize("options", [{"steps_per_epoch": 2}, {"shuffle": False}])
def test_deepcluster_takes_an_array_however_it_is_to_be_read(options):
    method = make("deepcluster")
    method.fit(source().images, batch_size=BATCH, verbose=0, **options)
    assert int(method.optimizer.iterations) == options.get("steps_per_epoch", STEPS)


def test_fit_without_an_epoch_to_train_changes_nothing():
    method = make("deepcluster")
    before = method.get_weights()
    history = method.fit(source().images, initial_epoch=1, epochs=1, verbose=0)
    assert not history.history
    for a, b in zip(method.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_steps_run_by_one_call_do_not_change_the_steps_of_an_epoch():
    one, several = make("rfd"), make("rfd")
    # Of three steps an epoch, the second call has one.
    several.compile(optimizer=optimizers.SGD(0.02), steps_per_execution=2)
    for method in (one, several):
        logged = method.fit(batches(), epochs=2, verbose=0).history
        assert len(logged["loss"]) == 2 and int(method.optimizer.iterations) == 2 * STEPS
    for a, b in zip(several.trainable_weights, one.trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=a.path)
    with pytest.raises(UserError, match="steps_per_execution 2 must divide steps_per_epoch 3"):
        several.fit(batches().map(lambda batch: batch), steps_per_epoch=STEPS, verbose=0)


def test_batches_of_unknown_size_are_accumulated_and_checked():
    images = {"image": source().images / np.float32(1), "index": np.arange(COUNT)}
    whole, parts = (make("rotation", gradient_accumulation=count) for count in (1, 2))
    for method in (whole, parts):
        method.fit(images, batch_size=BATCH, shuffle=False, verbose=0)
        assert int(method.optimizer.iterations) == STEPS
    with pytest.raises(UserError, match="gradient_accumulation 2 must divide the 9 images"):
        parts.fit(images, batch_size=9, verbose=0)
    odd = tf.data.Dataset.from_tensor_slices(images).batch(9)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must divide the images of every"):
        parts.fit(odd, verbose=0)
    left = tf.data.Dataset.from_tensor_slices(images).batch(23)
    with pytest.raises(tf.errors.InvalidArgumentError, match="leaves single images"):
        make("bigan").fit(left, verbose=0)


def test_a_dataset_of_ones_own_trains_too():
    own = batches().map(lambda batch: batch)
    method = make("rfd")
    method.fit(own, steps_per_epoch=STEPS, epochs=1, verbose=0)
    tuples = tf.data.Dataset.from_tensor_slices(
        ({"image": source().images, "index": np.arange(COUNT)},)
    ).batch(BATCH)
    make("rfd").fit(tuples, epochs=1, verbose=0)


def test_a_backbone_of_unknown_size_is_refused():
    network = applications.SixLayer(include_top=False, input_shape=(None, None, 3))
    with pytest.raises(UserError, match=r"input_shape=\(size, size, 3\)"):
        RotationFeatureDecoupling(network, 10, num_negatives=2)
