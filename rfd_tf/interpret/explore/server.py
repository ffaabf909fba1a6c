"""The page's server: on this machine only, a fixed list of addresses, JSON for what goes wrong."""

from __future__ import annotations

import contextlib
import io
import json
import math
import secrets
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from rfd_tf.errors import UserError
from rfd_tf.interpret.explore.explorer import Explorer, turn
from rfd_tf.interpret.explore.upload import (
    MOST_BYTES,
    MOST_PIXELS,
    MOST_SIDE,
    Refused,
    read_picture,
)

HOST = "127.0.0.1"
#: Names that a browser on this machine, or behind a forwarded port, calls this server by.
HOST_NAMES = ("127.0.0.1", "localhost")
MOST_UPLOADS = 32
_SECONDS = 30
# Of an upload that is too large so much is read, so that a browser gets to hear why it is refused.
_MOST_DISCARDED = 64 << 20

_PAGE = Path(__file__).with_name("page")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/explore.css": ("explore.css", "text/css; charset=utf-8"),
    "/explore.js": ("explore.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class ExploreServer(ThreadingHTTPServer):
    """Serves the page on 127.0.0.1.

    `serve_forever()` runs it, `shutdown()` from another thread ends it. Only requests that name
    this machine as their host are answered, so that no page from elsewhere reads along by pointing
    a name of its own here. Images are asked for by number, files by one of three fixed names.

    Args:
        explorer: what answers.
        port: port on 127.0.0.1; 0 takes a free one.
        title: of the run, shown on the page.

    Attributes:
        url: of the page.

    Raises:
        UserError: the port is not available.

    >>> import tempfile, urllib.request
    >>> from rfd_tf.data import digits
    >>> from rfd_tf.evaluation import ImageSet
    >>> from rfd_tf.interpret.explore import OnnxNetwork, exported
    >>> network = OnnxNetwork(exported("six_layer.rfd_cifar10", tempfile.mkdtemp()))
    >>> images = ImageSet(digits("test"), np.arange(20), network.image_size)
    >>> server = ExploreServer(Explorer(network, images), port=0)
    >>> thread = threading.Thread(target=server.serve_forever)
    >>> thread.start()
    >>> urllib.request.urlopen(server.url).status
    200
    >>> server.shutdown()
    >>> server.server_close()
    """

    daemon_threads = True

    def __init__(self, explorer: Explorer, port: int = 8000, title: str = "run"):
        if not 0 <= port <= 65535:
            raise UserError(f"port {port} is not among 0 to 65535")
        super().__init__((HOST, port), _Handler, bind_and_activate=False)
        self.explorer, self.title = explorer, title
        # Tells this set of images from that of another server that used this port.
        self.key = secrets.token_urlsafe(6)
        self._uploads: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self._answering, self._closed = 0, False
        self._idle = threading.Condition()
        try:
            self.server_bind()
            self.server_activate()
        except OSError as error:
            self.server_close()
            raise UserError(
                f"port {port} of {HOST} is not available ({error.strerror}); give another --port"
            ) from None
        self.url = f"http://{HOST}:{self.server_address[1]}/"

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Counts an answer under way, for which `server_close` waits."""
        with self._idle:
            if self._closed:
                raise Refused(503, "this page has ended")
            self._answering += 1
        try:
            yield
        finally:
            with self._idle:
                self._answering -= 1
                self._idle.notify_all()

    def server_close(self) -> None:
        """Ends the server when the answers under way are given, or after half a minute."""
        super().server_close()
        # The process would abort if it ended while a thread computes in onnxruntime or TensorFlow.
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._answering, timeout=_SECONDS)

    def keep(self, pixels: np.ndarray) -> str:
        """Remembers an uploaded picture, and returns by what it is asked for."""
        token = secrets.token_urlsafe(12)
        with self._lock:
            self._uploads[token] = pixels
            while len(self._uploads) > MOST_UPLOADS:
                self._uploads.popitem(last=False)
        return token

    def uploaded(self, token: str) -> np.ndarray:
        """Returns the picture that `keep` remembered; `Refused` where it no longer does."""
        with self._lock:
            pixels = self._uploads.get(token)
        if pixels is None:
            raise Refused(404, "this picture is no longer kept here; drop it in again")
        return pixels

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser that no longer waits is no error.
        """Prints what went wrong, unless the browser merely went away."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ExploreServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "rfd_tf", ""
    timeout = _SECONDS

    def do_GET(self) -> None:
        self._answer(
            {
                "/api/set": self._set,
                "/api/image": self._image,
                "/api/look": self._look,
                "/api/curve": self._curve,
                "/api/occlusion": self._occlusion,
                **{path: self._file for path in _FILES},
            }
        )

    def do_POST(self) -> None:
        # Whatever is answered without reading what was sent ends the connection.
        self.close_connection = True
        self._answer({"/api/upload": self._upload})

    def _answer(self, routes: dict[str, Callable[[], None]]) -> None:
        try:
            self._check_host()
            try:
                address = urlsplit(self.path)
                self._path, self._query = address.path, parse_qs(address.query, max_num_fields=8)
            except ValueError:
                raise Refused(400, "this address cannot be read") from None
            if self._path not in routes:
                raise Refused(404, "there is nothing here")
            with self.server.answering():
                routes[self._path]()
        except Refused as refused:
            self._send_json({"error": str(refused)}, refused.status)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:
            traceback.print_exc()
            self._send_json({"error": "an internal error; the terminal has the details"}, 500)

    def _check_host(self) -> None:
        host = self.headers.get_all("Host") or []
        name = host[0].rsplit(":", 1)[0].lower() if len(host) == 1 else ""
        if name not in HOST_NAMES:
            raise Refused(403, f"this page is at {self.server.url} only")
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{host[0].lower()}":
            raise Refused(403, "other pages have no access")

    # -- addresses ----------------------------------------------------------------------------

    def _file(self) -> None:
        name, kind = _FILES[self._path]
        self._send((_PAGE / name).read_bytes(), kind)

    def _set(self) -> None:
        self._send_json(
            {
                **self.server.explorer.describe(),
                "run": self.server.title,
                "key": self.server.key,
                "limits": {"bytes": MOST_BYTES, "pixels": MOST_PIXELS, "side": MOST_SIDE},
            }
        )

    def _image(self) -> None:
        pixels, _ = self._asked_image()
        file = io.BytesIO()
        Image.fromarray(turn(pixels, self._angle())).save(file, "PNG", compress_level=1)
        self._send(file.getvalue(), "image/png", cache="private, max-age=3600")

    def _look(self) -> None:
        pixels, place = self._asked_image()
        self._send_json(self.server.explorer.look(pixels, self._angle(), place))

    def _curve(self) -> None:
        self._send_json(self.server.explorer.curve(self._asked_image()[0]))

    def _occlusion(self) -> None:
        pixels, _ = self._asked_image()
        self._send_json(self.server.explorer.occlusion(pixels, self._angle()))

    def _upload(self) -> None:
        import tensorflow as tf

        from rfd_tf.data.decode import evaluation_transform

        data = self._body()
        kind = self.headers.get_content_type()
        # (Browsers know no type of the rarer formats.)
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise Refused(415, f"only pictures are accepted; this one has the type {kind}")
        picture = read_picture(data, self.server.explorer.images.source.reading)
        size = self.server.explorer.network.image_size
        pixels = evaluation_transform(tf.constant(picture), size).numpy()
        height, width = picture.shape[:2]
        self._send_json({"upload": self.server.keep(pixels), "width": width, "height": height})

    # -- what is asked ------------------------------------------------------------------------

    def _one(self, name: str, otherwise: str | None = None) -> str | None:
        values = self._query.get(name, [otherwise])
        if len(values) != 1:
            raise Refused(400, f"{name} was given {len(values)} times")
        return values[0]

    def _asked_image(self) -> tuple[np.ndarray, int | None]:
        """The image asked for, and its place where it is of the set."""
        token, number = self._one("upload"), self._one("image")
        if (token is None) == (number is None):
            raise Refused(400, "give image, a number, or upload, and not both")
        if token is not None:
            return self.server.uploaded(token), None
        count = len(self.server.explorer.pixels)
        if not (number.isascii() and number.isdigit() and len(number) < 12):
            raise Refused(400, f"image is a number from 0 to {count - 1}")
        if int(number) >= count:
            raise Refused(404, f"images go from 0 to {count - 1}")
        return self.server.explorer.pixels[int(number)], int(number)

    def _angle(self) -> float:
        try:
            angle = float(self._one("angle", "0"))
        except ValueError:
            angle = math.nan
        if not math.isfinite(angle):
            raise Refused(400, "angle is a number of degrees")
        return angle % 360

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding"):
            raise Refused(411, "the length of the picture is missing: send Content-Length")
        length = self.headers.get("Content-Length") or ""
        if not (length.isascii() and length.isdigit() and len(length) < 16):
            raise Refused(411, "the length of the picture is missing: send Content-Length")
        if int(length) > MOST_BYTES:
            left = min(int(length), _MOST_DISCARDED)
            while left > 0 and (part := self.rfile.read(min(left, 1 << 16))):
                left -= len(part)
            raise Refused(413, f"a picture has at most {MOST_BYTES >> 20} MiB")
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise Refused(400, "the picture broke off on its way")
        return data

    # -- what is sent -------------------------------------------------------------------------

    def _send_json(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value, allow_nan=False)
        self._send(text.encode(), "application/json; charset=utf-8", status)

    def _send(self, content: bytes, kind: str, status: int = 200, cache: str = "no-store") -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", cache)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        # What the base class refuses: methods and requests that it cannot read.
        self.close_connection = True
        self._send_json({"error": message or "this request cannot be answered"}, int(code))

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
