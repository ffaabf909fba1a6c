"""Q, masks and thresholds by hand."""

import numpy as np
import pytest

from rfd_tf.errors import UserError
from rfd_tf.interpret import overlap
from rfd_tf.interpret.objects import scale_boxes


def _mask(text):
    return np.array([[cell == "x" for cell in row] for row in text.split()])


def test_q_by_hand():
    boxes = _mask("xx. xx. ...")
    assert overlap.overlap(_mask("xx. xx. ..."), boxes) == 1
    assert overlap.overlap(_mask(".xx ... ..."), boxes) == pytest.approx(1 / 5)
    assert overlap.overlap(_mask("... ... xxx"), boxes) == 0
    assert overlap.overlap(_mask("xxx xxx xxx"), boxes) == pytest.approx(4 / 9)
    nothing = _mask("... ... ...")
    assert overlap.overlap(nothing, boxes) == 0 and overlap.overlap(nothing, nothing) == 0


def test_q_as_the_study_writes_it():
    rng = np.random.default_rng(0)
    salient, boxes = rng.random((2, 5, 8, 8)) < 0.3
    s, b = salient.astype(float), boxes.astype(float)
    written = (s * b).sum((1, 2)) / (b.sum((1, 2)) + np.maximum(s - b, 0).sum((1, 2)))
    np.testing.assert_allclose(overlap.overlap(salient, boxes), written)


def test_several_maps_meet_the_same_boxes():
    salient = np.stack([_mask("x. .."), _mask(".x ..")])[None]
    found = overlap.overlap(salient, _mask("x. x.")[None, None])
    np.testing.assert_allclose(found, [[0.5, 0]])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 2, 1], "xx.. .... .... ...."),
        ([1, 1, 3, 3], ".... .xx. .xx. ...."),
        # Pixels whose centre is inside.
        ([0.4, 0.6, 2.6, 2.4], ".... xxx. .... ...."),
        # Smaller than a pixel.
        ([2.6, 3.7, 2.8, 3.9], ".... .... .... ..x."),
        ([3.9, 3.9, 4.0, 4.0], ".... .... .... ...x"),
    ],
)
def test_boxes_cover_pixels_by_their_centres(box, expected):
    np.testing.assert_array_equal(overlap.box_mask([box], 4), _mask(expected))


def test_boxes_unite():
    found = overlap.box_mask([[0, 0, 2, 2], [1, 1, 3, 3]], 4)
    np.testing.assert_array_equal(found, _mask("xx.. xxx. .xx. ...."))
    assert not overlap.box_mask(np.zeros((0, 4)), 4).any()


def test_boxes_follow_their_picture_to_a_square():
    # The right half of a picture twice as wide as high.
    boxes = scale_boxes([[100, 0, 200, 50]], (200, 100), 4)
    np.testing.assert_array_equal(overlap.box_mask(boxes, 4), _mask("..xx ..xx .... ...."))


def test_a_quantile_keeps_its_share_of_each_map():
    maps = np.arange(32.0).reshape(2, 4, 4) ** 2
    found = overlap.binary_map(maps, quantile=0.75)
    assert found.sum(axis=(1, 2)).tolist() == [4, 4]
    assert found[0, 3].all() and found[1, 3].all()
    # Also where all pixels are the same.
    assert overlap.binary_map(np.zeros((3, 4, 4)), quantile=0.75).sum() == 12


def test_a_threshold_keeps_what_reaches_it():
    found = overlap.binary_map(np.array([[[1.0, 2.0], [3.0, 0.0]]]), threshold=2.0)
    np.testing.assert_array_equal(found[0], _mask(".x x."))


@pytest.mark.parametrize(
    "arguments", [{}, {"threshold": 1.0, "quantile": 0.5}, {"threshold": 0}, {"quantile": 1.5}]
)
def test_thresholds_out_of_range_are_refused(arguments):
    with pytest.raises(UserError, match="threshold|quantile"):
        overlap.binary_map(np.ones((1, 2, 2)), **arguments)


def test_baselines_have_the_same_area():
    salient = np.random.default_rng(1).random((3, 2, 8, 8)) < 0.2
    for mask in (overlap.same_area(salient, 0), overlap.central_area(salient)):
        np.testing.assert_array_equal(mask.sum(axis=(2, 3)), salient.sum(axis=(2, 3)))
    assert (overlap.same_area(salient, 0) != overlap.same_area(salient, 1)).any()
    centre = overlap.central_area(_mask("xxxx .... .... ...."))
    np.testing.assert_array_equal(centre, _mask(".... .xx. .xx. ...."))


def test_random_pixels_reach_what_chance_gives():
    salient = np.zeros((400, 16, 16), bool)
    salient[:, :8] = True  # half of all pixels
    boxes = np.zeros((16, 16), bool)
    boxes[:4] = True  # a quarter
    found = overlap.overlap(overlap.same_area(salient), boxes).mean()
    # Of 64 box pixels 32 are met, of 128 + 64 - 32 marked.
    assert found == pytest.approx(32 / 160, abs=0.005)
