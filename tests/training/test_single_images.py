"""A training step on one image by itself is refused where it could learn nothing."""

import keras
import numpy as np
import pytest

from rfd_tf import applications, data, methods
from rfd_tf.errors import UserError
from rfd_tf.training.pretraining import Augmentation, Optimization, Pretraining

SIZE = 16
BANK = {"num_images": 1500, "num_negatives": 8}


def small(size=SIZE):
    return applications.build("six_layer", size, filters=(4, 4, 4, 4, 4, 8))


def with_dense_normalisation():
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D(4)(inputs))
    x = keras.layers.BatchNormalization(name="fc_bn")(keras.layers.Dense(4)(x))
    return keras.Model(inputs, x)


def session(build_method, batch_size, backbone=small, crops=1):
    return Pretraining(
        build_backbone=backbone,
        build_method=build_method,
        source=data.digits(),
        image_size=SIZE,
        optimization=Optimization(epochs=1, batch_size=batch_size, steps_per_epoch=1),
        augmentation=Augmentation(crops=crops),
    )


def rfd(backbone, **options):
    return methods.RotationFeatureDecoupling(backbone, **BANK, **options)


REFUSED = {
    "contrast": (lambda b: rfd(b, lambda_contrast=1.0, gradient_accumulation=4), 4, small),
    "bigan": (lambda b: methods.BiGAN(b, generator_width=4), 1, small),
    "jigsaw": (lambda b: methods.Jigsaw(b, permutations=4), 1, small),
    "instance": (
        lambda b: methods.InstanceDiscrimination(b, **BANK, gradient_accumulation=3),
        3,
        with_dense_normalisation,
    ),
}
ALLOWED = {
    "contrast": (lambda b: rfd(b, lambda_contrast=1.0, gradient_accumulation=4), 8, small),
    "rfd": (rfd, 1, small),
    "rotation": (methods.RotationPrediction, 1, with_dense_normalisation),
    "instance": (lambda b: methods.InstanceDiscrimination(b, **BANK), 1, small),
    "jigsaw": (lambda b: methods.Jigsaw(b, permutations=4, hidden_units=0), 1, small),
}


@pytest.mark.parametrize("case", REFUSED)
def test_single_images_are_refused_before_training(case):
    build, batch_size, backbone = REFUSED[case]
    with pytest.raises(UserError, match=r"leaves single images, and .*; give a batch_size of \d"):
        session(build, batch_size, backbone)


@pytest.mark.parametrize("case", ALLOWED)
def test_a_single_image_that_can_teach_something_is_taken(case):
    run = session(*ALLOWED[case])
    if case == "rotation":
        run.train()
        assert 0 < float(run.method.logs()["rotation_loss"]) < 5


def test_fit_refuses_them_as_well():
    method = rfd(small(), lambda_contrast=1.0)
    method.compile(optimizer="sgd")
    batch = {"image": np.zeros((1, SIZE, SIZE, 3), "uint8"), "index": np.zeros(1, "int64")}
    with pytest.raises(UserError, match="contrast loss has no views of other images"):
        method.train_step(batch)
