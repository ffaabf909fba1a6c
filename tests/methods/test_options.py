"""Options of methods that cannot be are told in one line."""

import numpy as np
import pytest

from rfd_tf.errors import UserError
from rfd_tf.methods import options


def test_good_values_pass():
    assert options.whole("tiles", np.int64(9), 2, 9) == 9
    assert options.number("share", 1, 0, 1) == 1.0
    assert options.interval("scale", (0.5, 0.5), 0.1) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: options.whole("tiles", "nine", 2), "tiles 'nine' must be a whole number"),
        (lambda: options.whole("tiles", 2.5, 2), "tiles 2.5 must be a whole number"),
        (lambda: options.whole("tiles", True, 0), "tiles True must be a whole number"),
        (lambda: options.whole("tiles", 1, 2), "tiles 1 must be at least 2"),
        (lambda: options.number("share", "half", 0), "share 'half' must be a number"),
        (lambda: options.number("share", float("nan"), 0), "share nan must be a number"),
        (lambda: options.number("share", 1.5, 0, 1), "share 1.5 must be from 0 to 1"),
        (lambda: options.interval("scale", 2, 0.1), r"scale 2 must be two numbers such as"),
        (lambda: options.interval("scale", [2, 1], 0.1), r"scale \[2,1\] must rise"),
        (lambda: options.interval("scale", [0, 1], 0.1), "scale 0 must be at least 0.1"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
