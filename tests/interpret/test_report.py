"""The report of a real run: what is in it, that it loads nothing, and how a browser shows it."""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_driver import forget_flags, parse_flags

from rfd_tf import data
from rfd_tf.applications.weights import sha256
from rfd_tf.cli import pretrain
from rfd_tf.data import pu_weights
from rfd_tf.errors import UserError
from rfd_tf.evaluation.knn import nearest
from rfd_tf.interpret import projector, report
from rfd_tf.interpret.report import embedding_map, network
from rfd_tf.interpret.report.blocks import Map, Pictures, Table

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
HOSTILE = ["</script><script>fired = 1</script>", "<img src=x onerror='fired = 2'>"]


def run_pretraining(*arguments):
    try:
        parse_flags(*arguments)
        pretrain.main()
    finally:
        forget_flags()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of the configuration digits, tiny: two epochs, PU weights, evaluation and export."""
    root = tmp_path_factory.mktemp("runs")
    digits = data.digits()
    probability = np.random.default_rng(0).random((digits.num_images, 4), np.float32)
    pu_weights.write(root / "pu.npz", probability, digits, classifier="softmax")
    config = Path(__file__).parents[2] / "configs" / "digits.cfg"
    run_pretraining(
        f"--flagfile={config}",
        "--backbone_option=filters=[4,4,4,4,4,8]",
        "--image_size=16",
        "--epochs=2",
        "--warmup_epochs=0",
        "--batch_size=150",
        "--export=onnx",
        f"--pu_weights={root / 'pu.npz'}",
        f"--output_dir={root / 'tiny & <run>'}",
    )
    return root / "tiny & <run>"


@pytest.fixture(scope="module")
def run(folder):
    return report.read_run(folder)


@pytest.fixture(scope="module")
def images(run):
    return report.ReportImages(run, data.digits(), data.digits("test"), count=60)


@pytest.fixture(scope="module")
def built(run, images):
    return report.build(run, images)


@pytest.fixture(scope="module")
def page(run, built):
    return report.render(run, *built)


class Elements(HTMLParser):
    """All elements of a page, as (name, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, content):
        self.text.append(content)

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def check_loads_nothing(page):
    elements = Elements(page)
    for tag, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert tag not in ("iframe", "object", "embed", "base", "form")
    assert not re.search(r"@import|url\((?!#)", page)
    assert len([s for s in elements.named("script") if not s.get("type")]) == 1
    return elements


def section(built, name):
    (found,) = [one for one in built[0] if one.name == name]
    return found


def test_every_section_is_present_or_its_absence_explained(built, page):
    made, left_out = built
    assert {one.name for one in made} == set(report.SECTIONS) and left_out == []
    elements = check_loads_nothing(page)
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {*report.SECTIONS} <= set(ids)
    assert len(elements.named("main")) == 1 and len(elements.named("h1")) == 1
    pictures = elements.named("img")
    assert len(pictures) > 100
    assert all("alt" in picture for picture in pictures)
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in elements.named("svg"))


def test_names_are_escaped(page):
    assert "not those that the run was trained on" not in page
    assert "<run>" not in page and "tiny &amp; &lt;run&gt;" in page


def test_curves_show_every_loss_with_its_chance_level(folder, run, built):
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(run.epochs) == 2 and run.unfinished == ""
    assert run.epochs[1]["loss"] == float(rows[1]["loss"])
    recorded = json.loads((folder / "run.json").read_text())["chance_levels"]
    assert run.chance_levels == recorded and recorded["rotation_accuracy"] == 0.25
    charts = section(built, "curves").blocks[1].charts
    captions = " ".join(chart.caption for chart in charts)
    for name in rows[0]:
        assert name in captions or name in ("epoch", "step"), name
    losses = [chart for chart in charts if chart.caption.startswith("rotation_loss")]
    assert "chance 1.386" in losses[0].svg and ">epoch<" in losses[0].svg
    ranks = [chart for chart in charts if chart.caption.startswith("effective_rank")]
    assert f"before training {run.before_training['effective_rank']:.4g}" in ranks[0].svg


def test_chance_levels_of_older_runs_come_from_the_event_files(folder, tmp_path):
    shutil.copytree(folder / "tensorboard", tmp_path / "run" / "tensorboard")
    content = json.loads((folder / "run.json").read_text())
    levels = content.pop("chance_levels")
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    found = report.read_run(tmp_path / "run").chance_levels
    assert found == pytest.approx(levels, rel=1e-6)


def test_neighbours_are_the_nearest(images, built):
    blocks = [b for b in section(built, "neighbours").blocks if isinstance(b, Pictures)]
    assert [label for label, _ in blocks[0].rows] == ["f1", "f2", "f"]
    gallery, gallery_index = images.gallery
    queries, query_index = images.queries
    chosen = images.some_queries(len(blocks))
    # As many classes as there are queries.
    labels = images.data.test.source.labels[query_index[chosen]]
    assert len(set(labels)) == len(chosen)
    for number, name in enumerate(["f1", "f2", "f"]):
        near, _ = nearest(gallery[name], queries[name][chosen], 1)
        for block, label, place in zip(blocks, labels, near[:, 0], strict=True):
            first = block.rows[number][1][0]
            index = gallery_index[place]
            assert f"image {index}," in first.alt
            same = images.data.train.source.labels[index] == label
            assert first.mark == ("same" if same else "other")


def test_confusion_is_of_the_trained_classifier(built):
    tables = [b for b in section(built, "rotations").blocks if isinstance(b, Table)]
    assert [table.caption[:2] for table in tables] == ["f1", "f2"]
    for table in tables:
        for row in table.rows:
            assert sum(map(float, row[1:])) == pytest.approx(100, abs=0.3)


def test_ambiguous_images_are_those_of_the_smallest_weights(folder, run, built):
    probability = pu_weights.read(run.flags["pu_weights"], data.digits())
    weights = 1 - probability[:, 1:] ** 2.0
    order = np.argsort(weights.mean(axis=1))
    rows = dict(next(b for b in section(built, "ambiguity").blocks if b.kind == "pictures").rows)
    assert f"image {order[0]};" in rows["most ambiguous"][0].alt
    assert f"90° {weights[order[0], 0]:.2f}" in rows["most ambiguous"][0].alt
    assert f"image {order[-1]};" in rows["least"][0].alt


def test_the_map_is_coloured_by_class(images, built):
    (block,) = section(built, "map").blocks
    assert isinstance(block, Map)
    _, index = images.queries
    assert [block.group_names[group] for group in block.groups] == [
        str(label) for label in images.data.test.source.labels[index]
    ]
    assert list(block.views) == [
        f"{f}, {how}" for f in ("f", "f1", "f2") for how in ("t-SNE", "PCA")
    ]
    assert all(np.shape(view["points"]) == (60, 2) for view in block.views.values())


def test_a_map_of_images_without_labels_is_coloured_by_cluster(run):
    digits = data.digits()
    bare = data.ArraySource(digits.images[:100])
    images = report.ReportImages(run, bare, None, count=40)
    (block,) = embedding_map.section(run, images).blocks
    assert block.group_names[0] == "cluster 1" and len(set(block.groups)) == len(block.group_names)
    assert not any(p.mark for b in network.neighbours(run, images).blocks[1:] for p in b.rows[0][1])


def test_principal_components_are_scikit_learns_of_unit_rows():
    rows = np.random.default_rng(0).normal(size=(12, 5))
    points = embedding_map.planar(rows)["PCA"][0]
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    units -= units.mean(axis=0)
    values = np.linalg.svd(units, compute_uv=False)[:2]
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), values)


def test_files_are_listed_with_their_checksums(folder, built):
    table = next(b for b in section(built, "files").blocks if isinstance(b, Table))
    listed = {row[0]: row[1:] for row in table.rows}
    assert {"backbone.weights.h5", "heads.npz", "export/model.onnx"} <= set(listed)
    path = folder / "export" / "model.onnx"
    assert listed["export/model.onnx"] == (sha256(path), f"{path.stat().st_size:,}")
    code = [b.code for b in section(built, "files").blocks if b.kind == "code"]
    assert any("onnxruntime.InferenceSession" in piece for piece in code)
    assert any("'" in piece and "--weights=" in piece for piece in code), "the path is quoted"


def test_the_code_that_loads_the_weights_runs(built):
    piece = next(b.code for b in section(built, "files").blocks if b.kind == "code")
    found = {}
    exec(piece, found)
    assert found["embedding"].shape == (1, 8)


def test_an_unfinished_run_is_reported_as_far_as_it_is(folder, tmp_path):
    for name in ("run.json", "metrics.csv"):
        shutil.copy(folder / name, tmp_path / name)
    lines = (tmp_path / "metrics.csv").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.csv").write_text("".join(lines[:2]))
    run = report.read_run(tmp_path)
    left_out = report.write(tmp_path / "report.html", run, no_images="the run has no weights yet.")
    page = (tmp_path / "report.html").read_text()
    assert "1 of 2 epochs are done" in page and "the run has no weights yet." in page
    assert {"neighbours", "map", "files", "evaluation"} <= {name for name, _ in left_out}
    assert dict(left_out)["drawn"] == "no pictures were drawn while training."
    (tmp_path / "metrics.csv").unlink()
    assert "curves" in dict(report.write(tmp_path / "report.html", report.read_run(tmp_path)))


def test_what_a_section_lacks_leaves_only_it_out(run, images, tmp_path):
    run.flags["pu_weights"], kept = str(tmp_path / "moved.npz"), run.flags["pu_weights"]
    try:
        made, left_out = report.build(run, images, ["summary", "ambiguity"])
    finally:
        run.flags["pu_weights"] = kept
    assert [one.name for one in made] == ["summary"]
    assert "no such PU weights file" in dict(left_out)["ambiguity"]


def test_a_report_of_other_figures_says_so(folder, tmp_path):
    for name in ("run.json", "backbone.weights.h5", "evaluation.json"):
        shutil.copy(folder / name, tmp_path / name)
    content = json.loads((tmp_path / "evaluation.json").read_text())
    content["sha256"] = "0" * 64
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    run = report.read_run(tmp_path)
    made, _ = report.build(run, None, ["evaluation"])
    assert "other weights" in made[0].blocks[0].text
    (tmp_path / "evaluation.json").write_text('{"results": [1]}')
    assert report.build(report.read_run(tmp_path), None, ["evaluation"])[1]


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_run_is_a_users_error(tmp_path, content):
    with pytest.raises(UserError, match="holds no run.json"):
        report.read_run(tmp_path)
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read"):
        report.read_run(tmp_path)


@pytest.fixture(scope="module")
def hostile_page(run):
    """The report of images whose classes and names are pieces of HTML."""
    digits = data.digits()
    few = digits.images[:80]
    names = [f"{HOSTILE[i % 2]}{i}" for i in range(len(few))]
    labels = np.arange(len(few)) % 2
    source = data.ArraySource(few, labels, HOSTILE, name=HOSTILE[0], names=names)
    images = report.ReportImages(run, source, None, count=20)
    return report.render(run, *report.build(run, images, ["neighbours", "map", "saliency"]))


def test_hostile_names_stay_text(hostile_page):
    assert "not those that the run was trained on" in hostile_page
    elements = check_loads_nothing(hostile_page)
    assert "<img src=x" not in hostile_page
    assert any(HOSTILE[1] in text for text in elements.text)


def test_tensorboard_shows_embeddings_and_grids(images, tmp_path):
    from urllib.parse import quote
    from urllib.request import urlopen

    from tensorboard import program

    # Twice: what is there is replaced.
    for _ in range(2):
        assert projector.write(tmp_path / "report", images) == ["f1", "f2", "f"]
    assert len(list((tmp_path / "report").glob("events*"))) == 1
    rows = np.loadtxt(tmp_path / "report" / "f.tsv")
    np.testing.assert_allclose(rows, images.queries[0]["f"], rtol=1e-4, atol=1e-6)
    board = program.TensorBoard()
    board.configure(argv=[None, "--logdir", str(tmp_path), "--port", "0", "--load_fast=false"])
    address = board.launch()

    def get(path):
        with urlopen(f"{address}data/plugin/{path}", timeout=240) as answer:
            return answer.read()

    assert "report" in json.loads(get("projector/runs"))
    info = json.loads(get("projector/info?run=report"))
    assert [one["tensorName"] for one in info["embeddings"]] == ["f1", "f2", "f"]
    assert info["embeddings"][2]["tensorShape"] == [60, 8]
    assert get("projector/sprite_image?run=report&name=f")[1:4] == b"PNG"
    assert get("projector/metadata?run=report&name=f").startswith(b"index\tclass\tname\n")
    tags = json.loads(get("images/tags"))
    assert {f"neighbours by {name}" for name in ("f", "f1", "f2")} <= set(tags["report"])
    sample = get(f"images/images?run=report&tag={quote('neighbours by f')}&sample=0")
    with Image.open(
        io.BytesIO(get(f"images/individualImage?{json.loads(sample)[0]['query']}"))
    ) as picture:
        assert picture.size == (8 * 16, 8 * 16)


@pytest.fixture(scope="module")
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium with chromedriver: install both to see the report in a browser")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def opened(browser, path, width, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []


_LIGHTNESS = """
const [r, g, b] = getComputedStyle(arguments[0])[arguments[1]].match(/[\\d.]+/g).map(Number);
return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
"""


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "light"), (390, "dark")])
def test_a_browser_shows_the_report(browser, page, tmp_path, width, scheme):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    opened(browser, path, width, scheme)
    missing = "return [...document.images].filter(one => !one.naturalWidth).map(one => one.alt)"
    assert browser.execute_script(missing) == []
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width
    body, section = (browser.find_element("css selector", name) for name in ("body", "section"))
    back = browser.execute_script(_LIGHTNESS, section, "backgroundColor")
    ink = browser.execute_script(_LIGHTNESS, body, "color")
    axis = browser.find_element("css selector", ".chart svg text")
    drawn = browser.execute_script(_LIGHTNESS, axis, "fill")
    assert (back > 0.9) == (scheme == "light") and abs(back - ink) > 0.6 and abs(back - drawn) > 0.6
    loaded = "return performance.getEntriesByType('resource').map(one => one.name)"
    assert all(name.startswith("data:") for name in browser.execute_script(loaded))


_PAINTED = """
const canvas = arguments[0];
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
return pixels.some((value) => value > 0 && value < 255);
"""


def test_the_map_shows_thumbnails(browser, page, built, tmp_path):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    opened(browser, path, 1200, "light")
    (block,) = section(built, "map").blocks
    plane = browser.find_element("css selector", ".plane")
    shown = plane.find_element("css selector", ".shown")
    assert not shown.is_displayed()
    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plane
    )
    # The dot farthest from the others: nothing covers it.
    points = np.array(block.views["f, t-SNE"]["points"])
    apart = np.linalg.norm(points[:, None] - points, axis=-1) + 9 * np.eye(len(points))
    place = int(apart.min(axis=1).argmax())
    circle = plane.find_elements("css selector", "circle")[place]
    ActionChains(browser).move_to_element(circle).perform()
    assert shown.is_displayed() and shown.text == block.names[place]
    assert browser.execute_script(_PAINTED, shown.find_element("css selector", "canvas"))
    plane.send_keys(Keys.ARROW_RIGHT)
    assert shown.text in block.names and shown.text != block.names[place]
    before = circle.get_attribute("cx")
    Select(browser.find_element("css selector", ".map select")).select_by_index(1)
    assert circle.get_attribute("cx") != before
    assert "variance" in plane.find_element("css selector", ".x").text
    assert browser.get_log("browser") == []


def test_hostile_names_run_nothing(browser, hostile_page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(hostile_page, encoding="utf-8")
    opened(browser, path, 390, "light")
    assert browser.execute_script("return typeof fired") == "undefined"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
