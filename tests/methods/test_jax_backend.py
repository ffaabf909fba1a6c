"""Under Keras' JAX backend methods compute the same losses as under TensorFlow's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("jax", reason="the JAX backend needs the package jax")

SIZE, COUNT, BATCH, STEPS = 16, 24, 8, 3
METHODS = ("rfd", "rotation", "instance")


def train(name, weights, gradient_accumulation=1):
    """Trains a tiny method for three steps.

    Args:
        name: of the method.
        weights: arrays for `set_weights`, or None for the initial ones.
        gradient_accumulation: see `Method`.

    Returns:
        The method, its initial weights, and what `fit` logged in the epoch of three steps.
    """
    from rfd_tf import applications
    from rfd_tf import methods as kinds

    keras.utils.set_random_seed(2)
    whole = applications.build("six_layer", image_size=SIZE, filters=(4, 8, 8, 8, 8, 8))
    # (Its first two blocks: most of the time goes into JAX's compilation.)
    backbone = keras.Model(whole.input, whole.get_layer("block2").output)
    options = {"gradient_accumulation": gradient_accumulation}
    if name != "rotation":
        options.update(num_images=COUNT, temperature=0.2, num_negatives=6, fill_bank=False)
    method = kinds.METHODS[name](backbone, **options)
    method.compile(optimizer=keras.optimizers.SGD(0.02, momentum=0.9))
    method.optimizer.build(method.trainable_variables)
    if weights is not None:
        method.set_weights(weights)
    initial, untouched = method.get_weights(), [np.array(v) for v in method.optimizer.variables]
    rng = np.random.default_rng(1)
    batches = [
        {
            "image": rng.integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype("uint8"),
            "index": np.arange(BATCH * step, BATCH * (step + 1)),
            # The backends draw other random numbers.
            "negatives": rng.integers(0, COUNT, (BATCH, 6)),
        }
        for step in range(STEPS)
    ]
    losses = [method.train_on_batch(batch, return_dict=True)["loss"] for batch in batches]
    # (Back to the start without `compile`, after which JAX would compile the step anew.)
    method.set_weights(initial)
    for variable, value in zip(method.optimizer.variables, untouched, strict=True):
        variable.assign(value)
    data = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    history = method.fit(data, batch_size=BATCH, shuffle=False, verbose=0).history
    evaluated = method.evaluate(data, batch_size=BATCH, verbose=0, return_dict=True)
    predicted = method.predict(data, verbose=0)
    return initial, {
        "running means of the loss": [float(loss) for loss in losses],
        "history": {key: float(values[0]) for key, values in history.items()},
        "evaluated": {key: float(value) for key, value in evaluated.items()},
        "predicted": np.asarray(predicted, "float64").tolist(),
    }


def main(folder):
    found = {}
    for name in METHODS:
        with np.load(f"{folder}/{name}.npz") as weights:
            _, found[name] = train(name, [weights[f"arr_{i}"] for i in range(len(weights.files))])
    try:
        train("rotation", None, gradient_accumulation=2)
    except ValueError as error:
        found["gradient_accumulation"] = str(error)
    assert keras.backend.backend() == "jax"
    print(json.dumps(found))


def test_losses_of_three_steps_agree(tmp_path):
    expected = {}
    for name in METHODS:
        weights, expected[name] = train(name, None)
        np.savez(tmp_path / f"{name}.npz", *weights)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "gradient_accumulation 2 needs" in found.pop("gradient_accumulation")
    for name in METHODS:
        for kind, values in expected[name].items():
            if isinstance(values, dict):
                assert found[name][kind] == pytest.approx(values, rel=1e-4, abs=1e-4), (name, kind)
            else:
                np.testing.assert_allclose(
                    found[name][kind], values, rtol=1e-4, atol=1e-4, err_msg=f"{name} {kind}"
                )


if __name__ == "__main__":
    main(sys.argv[1])
