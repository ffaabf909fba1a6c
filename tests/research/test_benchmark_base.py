"""Entries, alternating measurement and the ratio of pairs."""

import time

import pytest

from research.benchmarks import Entry, alternate, paired_ratio
from research.benchmarks.base import milliseconds


def test_things_are_run_in_turn_and_each_timed_by_itself():
    order = []

    def run(name, seconds):
        order.append(name)
        time.sleep(seconds)

    seconds = alternate(
        {"a": lambda: run("a", 0.1), "b": lambda: run("b", 0.001)}, rounds=3, warmup=1
    )
    assert order == ["a", "b"] * 4
    assert all(a >= 0.1 for a in seconds["a"])
    assert min(seconds["b"]) < 0.1


def test_the_ratio_is_the_median_over_pairs_and_not_of_medians():
    # The medians are 2 and 2, the machine having slowed down in between.
    assert paired_ratio([1.0, 2.0, 9.0], [2.0, 4.0, 1.0]) == 0.5
    assert milliseconds([0.003, 0.001, 0.002]) == 2.0


@pytest.mark.parametrize(
    "bars, holds, sense",
    [
        ({"at_most": 1.1}, True, "at most"),
        ({"at_most": 1.0}, False, "at most"),
        ({"at_least": 1.0}, True, "at least"),
        ({"at_least": 1.1}, False, "at least"),
        ({}, None, None),
    ],
)
def test_a_bar_holds_or_not_or_there_is_none(bars, holds, sense):
    entry = Entry("a/b", 1.05, "meaning", details={"x": 1}, **bars)
    assert entry.as_json() == {
        "name": "a/b",
        "value": 1.05,
        "bar": next(iter(bars.values()), None),
        "holds": holds,
        "unit": "",
        "bar_is": sense,
        "meaning": "meaning",
        "details": {"x": 1},
    }


def test_a_measurement_that_failed_is_null():
    assert Entry("a/b", float("nan"), "meaning").as_json()["value"] is None
