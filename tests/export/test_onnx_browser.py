"""An exported ONNX file in a browser page, run by onnxruntime-web: agrees with Keras to 1e-4."""

import http.server
import json
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from export_helpers import RECORD, numpy_embedding

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")


def runtime():
    """The folder of onnxruntime-web's files: ONNXRUNTIME_WEB, or where npm installs it."""
    root = Path(__file__).resolve().parents[2]
    named = os.environ.get("ONNXRUNTIME_WEB")
    for place in [Path(named)] if named else [root, root / "tests", Path.home()]:
        for folder in (place, place / "dist", place / "node_modules" / "onnxruntime-web" / "dist"):
            if (folder / "ort.wasm.min.js").is_file():
                return folder
    return None


RUNTIME = runtime()

pytest.importorskip("selenium", reason="selenium is not installed: pip install '.[test]'")
pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"
    ),
    pytest.mark.skipif(
        RUNTIME is None,
        reason="onnxruntime-web is not there: npm install onnxruntime-web, or set ONNXRUNTIME_WEB "
        "to its dist folder",
    ),
]

PAGE = """<!doctype html><title>embedding</title><script src="ort/ort.wasm.min.js"></script>
<script>
async function embed(file, layout, pixels, size) {
  ort.env.wasm.wasmPaths = new URL("ort/", location.href).href;
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(file, {executionProviders: ["wasm"]});
  const images = Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0));
  const batch = images.length / (3 * size * size);
  const shape = layout === "nchw" ? [batch, 3, size, size] : [batch, size, size, 3];
  const given = await session.run({pixels: new ort.Tensor("uint8", images, shape)});
  return Array.from(given.embedding.data);
}
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    # Browsers refuse modules and WebAssembly of another type; not every system knows these.
    extensions_map = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript",
                      ".wasm": "application/wasm", "": "application/octet-stream"}  # fmt: skip

    def log_message(self, *arguments):
        pass


@pytest.fixture
def page(tmp_path):
    """A folder that is served on this machine, with the page and the runtime in it."""
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "ort").symlink_to(RUNTIME)
    handler = partial(Handler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}/index.html"
    server.shutdown()
    server.server_close()


@pytest.fixture
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = (
        "headless=new no-sandbox disable-gpu disable-dev-shm-usage disable-background-networking"
    )
    for argument in flags.split():
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(120)
    yield driver
    driver.quit()


def test_the_browser_gives_the_features_of_keras(page, browser, exported, backbone, pixels):
    import base64

    from rfd_tf.data import digits
    from rfd_tf.export import OnnxModel, deployable, quantize_int8, write_onnx

    folder, address = page
    shutil.copy(exported[0] / "model.onnx", folder / "nhwc.onnx")
    write_onnx(deployable(backbone, RECORD), folder / "nchw.onnx", layout="nchw")
    quantize_int8(folder / "nhwc.onnx", folder / "int8.onnx", digits().images[:32])
    browser.get(address)
    expected = numpy_embedding(backbone, RECORD, pixels)

    def in_browser(file, layout="nhwc"):
        images = pixels if layout == "nhwc" else pixels.transpose(0, 3, 1, 2)
        text = base64.b64encode(images.tobytes()).decode()
        call = f"embed({json.dumps(file)}, {json.dumps(layout)}, {json.dumps(text)}, 32)"
        found = browser.execute_async_script(
            f"const done = arguments[0]; {call}.then(done, (error) => done(String(error)));"
        )
        assert isinstance(found, list), found
        return np.array(found).reshape(len(pixels), -1)

    for layout in ("nhwc", "nchw"):
        np.testing.assert_allclose(in_browser(f"{layout}.onnx", layout), expected, atol=1e-4)
    # In integers, runtimes may round a step otherwise: as near to int8 elsewhere as that is.
    given, elsewhere = in_browser("int8.onnx"), OnnxModel(folder / "int8.onnx")(pixels)["embedding"]
    np.testing.assert_allclose(given, elsewhere, atol=0.05 * np.abs(expected).max())
