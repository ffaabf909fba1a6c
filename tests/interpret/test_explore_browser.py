"""The explore page in a real browser, where one is installed."""

import json
import shutil

import numpy as np
import pytest
from explore_helpers import HOSTILE, make_explorer, make_images, make_run, serving
from PIL import Image

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")

pytest.importorskip("selenium", reason="selenium is not installed: pip install '.[test]'")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore")
    make_run(folder / "run")
    with serving(make_explorer(folder / "run", make_images(folder / "images", 60))) as server:
        yield server


@pytest.fixture(params=[(1280, 900), (390, 800)], ids=["desktop", "phone"])
def browser(request, server):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    width, height = request.param
    flags = (
        "headless=new no-sandbox disable-gpu disable-dev-shm-usage disable-background-networking"
    )
    for argument in (*flags.split(), f"window-size={width},{height}"):
        options.add_argument(argument)
    if width < 500:  # no window is as narrow as a phone
        metrics = {"width": width, "height": height, "pixelRatio": 1}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.get(server.url)
        wait(driver, lambda: found(driver, "#grid .thumb"))
        yield driver
        complaints = [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"]
        assert not complaints
        assert strangers(driver, server) == []
    finally:
        driver.quit()


def strangers(driver, server):
    """Addresses elsewhere that the page asked for."""
    asked = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    assert server.url in asked
    own = (server.url, "data:,", "chrome:", "about:")
    return [address for address in asked if not address.startswith(own)]


def wait(driver, condition):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    waiting = WebDriverWait(driver, 60, ignored_exceptions=[StaleElementReferenceException])
    return waiting.until(lambda _: condition())


def found(driver, selector):
    return driver.find_elements("css selector", selector)


def one(driver, selector):
    return driver.find_element("css selector", selector)


def looked(driver, angle):
    """Waits for the answer on a picture turned by an angle."""
    start = f"Turned by {angle} degrees"
    wait(driver, lambda: one(driver, "#status").get_attribute("textContent").startswith(start))


def shown_neighbours(driver):
    return {
        row.get_attribute("class").split()[-1]: [
            int(thumb.get_attribute("data-place"))
            for thumb in row.find_elements("css selector", ".thumb")
        ]
        for row in found(driver, "#rows .row")
    }


def values(driver, selector):
    return [bar.text for bar in found(driver, f"{selector} .value")]


def test_click_turn_and_look(browser, server):
    explorer = server.explorer
    thumb = found(browser, "#grid .thumb")[5]
    place = int(thumb.get_attribute("data-place"))
    thumb.click()
    looked(browser, 0)
    expected = explorer.look(explorer.pixels[place], 0, place)["neighbours"]
    assert shown_neighbours(browser) == {
        name: [neighbour["image"] for neighbour in row] for name, row in expected.items()
    }
    assert values(browser, "#distance") == ["0.000"] * 3
    wait(browser, lambda: found(browser, "#curve svg path"))

    browser.execute_script("arguments[0].click()", one(browser, "input[value='90']"))
    looked(browser, 90)
    seen = explorer.look(explorer.pixels[place], 90, place)
    assert values(browser, "#distance") == [f"{seen['distance'][n]:.3f}" for n in ("f1", "f2", "f")]
    assert values(browser, "#rotation") == [f"{100 * share:.1f} %" for share in seen["rotation"]]
    assert list(shown_neighbours(browser)) == ["f1", "f2", "f"]
    wait(browser, lambda: one(browser, "#picture").get_property("naturalWidth") == 16)
    assert "angle=90" in one(browser, "#picture").get_attribute("src")

    # What matters in it.
    one(browser, "#map option[value='f2']").click()
    wait(browser, lambda: one(browser, "#heat").get_property("width") == 16)
    assert "By occlusion" in one(browser, "#map-note").text

    # A neighbour is studied in its turn.
    neighbour = found(browser, "#rows .row.f2 .thumb")[-1]
    follows = int(neighbour.get_attribute("data-place"))
    browser.execute_script("arguments[0].click()", neighbour)
    wait(browser, lambda: explorer.describe()["names"][follows] in one(browser, "#name").text)

    # Nothing is wider than the window.
    width = browser.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert width <= 0


def test_by_keyboard(browser):
    from selenium.webdriver.common.keys import Keys

    places = [thumb.get_attribute("data-place") for thumb in found(browser, "#grid .thumb")]
    one(browser, "#on").send_keys(Keys.TAB)
    active = browser.switch_to.active_element
    assert active.get_attribute("data-place") == places[0]
    active.send_keys(Keys.ARROW_RIGHT)
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    active = browser.switch_to.active_element
    assert active.get_attribute("data-place") == places[2]
    active.send_keys(Keys.ENTER)
    looked(browser, 0)
    assert one(browser, f"#grid [data-place='{places[2]}']").get_attribute("aria-current") == "true"
    one(browser, "input[value='0']").send_keys(Keys.ARROW_RIGHT)
    looked(browser, 90)
    one(browser, "#angle").send_keys(Keys.ARROW_RIGHT)
    looked(browser, 91)
    assert not found(browser, "input[name='quarter']:checked")


def test_names_are_text(browser, server):
    from selenium.webdriver.support.ui import Select

    place = next(
        place for place, name in enumerate(server.explorer.describe()["names"]) if HOSTILE in name
    )
    Select(one(browser, "#class")).select_by_visible_text("<b>zero")
    browser.execute_script("arguments[0].click()", one(browser, f"#grid [data-place='{place}']"))
    looked(browser, 0)
    assert HOSTILE in one(browser, "#name").text and one(browser, "#run").text == "<i>run</i>"
    assert not found(browser, "b, i, img[src='x']")


def test_pictures_of_ones_own(browser, tmp_path):
    picture = tmp_path / "own & <b>.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture)
    one(browser, "#file").send_keys(str(picture))
    looked(browser, 0)
    assert one(browser, "#name").text == "own & <b>.png (30 × 40)"
    assert [len(row) for row in shown_neighbours(browser).values()] == [12] * 3

    large = tmp_path / "large.png"
    large.write_bytes(bytes((8 << 20) + 1))
    one(browser, "#file").send_keys(str(large))
    wait(browser, lambda: "at most 8 MiB" in one(browser, "#problem").text)
    one(browser, "#file").send_keys(str(picture))
    wait(browser, lambda: not one(browser, "#problem").is_displayed())


def test_refused_uploads_are_reported(browser, tmp_path):
    text = tmp_path / "diary.png"
    text.write_text("Dear diary")
    one(browser, "#file").send_keys(str(text))
    wait(browser, lambda: "diary.png: this is not a JPEG" in one(browser, "#problem").text)
    # The browser itself notes the answer's status.
    noted = [entry["message"] for entry in browser.get_log("browser")]
    assert len(noted) == 1 and "status of 400" in noted[0]


def test_light_and_dark(browser):
    shades = []
    for _ in range(2):
        shades.append(one(browser, "body").value_of_css_property("background-color"))
        one(browser, "#theme").click()
    assert shades[0] != shades[1]
