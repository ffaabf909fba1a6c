from rfd_tf.evaluation.table import table


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
