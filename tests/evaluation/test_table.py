from rfd_tf.evaluation.table import summary, table


def row(task, name, images, value, random, metric="accuracy", when="", spread=None):
    return {
        "task": task, "name": name, "images": images, "metric": metric, "when": when,
        "value": value, "spread": spread, "random_init": random, "random_init_spread": None,
    }  # fmt: skip


def test_columns_of_images_and_rows_of_epochs():
    results = [
        row("linear", "f", "upright", 0.5, 0.25, when="last epoch"),
        row("linear", "f", "upright", 0.625, 0.25, when="best epoch"),
        row("linear", "f", "rotated", 0.125, None, when="last epoch", spread=0.02),
        row("invariance", "f2", "distances", 1.23456, 2.0, metric="distance"),
    ]
    assert table({"results": results}).splitlines() == [
        "task    feature  when        upright  random init     rotated  random init",
        "linear  f        last epoch     50.0         25.0  12.5 ± 2.0",
        "linear  f        best epoch     62.5         25.0",
        "",
        "task        feature  distances  random init",
        "invariance  f2           1.235            2",
    ]


def test_a_summary_leaves_out_earlier_layers_and_best_epochs_of_tasks_that_have_f():
    names = ["block1", "block6", "pooled", "f", "f1", "f2"]
    linear = [
        row("linear", name, images, 0.5, 0.25, when=when)
        for name in names
        for images in ("upright", "rotated")
        for when in ("last epoch", "best epoch")
    ]
    retrained = [row("retrain", name, "upright", 0.5, 0.25) for name in names[:2]]
    short = summary({"results": [*linear, *retrained], "epoch": 3}, ["block1", "block6"])
    lines = table(short).splitlines()
    assert lines[0].split() == "task feature upright random init rotated random init".split()
    found = [line.split()[:2] for line in lines[1:5]]
    assert found == [["linear", name] for name in ("block6", "f", "f1", "f2")]
    assert [one["name"] for one in short["results"] if one["task"] == "retrain"] == names[:2]
    assert short["epoch"] == 3 and len(linear) == 24
