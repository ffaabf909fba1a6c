import numpy as np
import pytest

from rfd_tf.data import ArraySource
from rfd_tf.data.subset import index_hash
from rfd_tf.errors import UserError
from rfd_tf.evaluation.splits import check_classes, held_out, subset


def source(labels, class_names=None, name="set"):
    images = np.zeros((3 if labels is None else len(labels), 4, 4, 3), np.uint8)
    return ArraySource(images, labels, class_names, name)


def test_a_fifth_of_every_class_is_held_out():
    labels = np.repeat([0, 1, 2, 3], [100, 50, 4, 1])
    chosen = held_out(labels)
    assert [int(chosen[labels == c].sum()) for c in range(4)] == [20, 10, 1, 0]
    np.testing.assert_array_equal(chosen, held_out(labels))


def test_the_hash_scatters():
    hashes = index_hash(np.arange(10_000))
    assert len(np.unique(hashes)) == 10_000
    low = np.sort(np.argsort(hashes)[:2000])
    counts = np.bincount(low // 1000, minlength=10)
    assert counts.min() > 150 and counts.max() < 250


def test_subset_keeps_order_and_is_fixed():
    rows = np.arange(0, 100, 2)
    chosen = subset(rows, 10)
    assert len(chosen) == 10 and (np.diff(chosen) > 0).all() and set(chosen) <= set(rows)
    np.testing.assert_array_equal(subset(rows, 50), rows)


def test_classes_are_checked():
    two = source([0, 1, 1], ["cat", "dog"], "two")
    assert check_classes(two, source([1, 1, 0], ["cat", "dog"])) == 2
    assert check_classes(two, None) == 2
    assert check_classes(source([0, 4, 5]), source([5])) == 6
    with pytest.raises(UserError, match="'other' has images of class 3, 5, of which 'set' has no"):
        check_classes(source([0, 4]), source([5, 3, 4], name="other"))
    with pytest.raises(UserError, match="'plain' has no labels"):
        check_classes(source(None, name="plain"), None)
    with pytest.raises(UserError, match="'plain' has no labels"):
        check_classes(two, source(None, name="plain"))
    with pytest.raises(UserError, match="one class only \\('dog'\\)"):
        check_classes(source([1, 1], ["cat", "dog"]), None)
    with pytest.raises(UserError, match="'two' has cat, dog; 'other' has cat, fox"):
        check_classes(two, source([0, 1], ["cat", "fox"], "other"))
    many = source([0, 1], [str(i) for i in range(50)], "many")
    with pytest.raises(UserError, match="'two' has cat, dog; 'many' has 50, 50 of them its own"):
        check_classes(two, many)
