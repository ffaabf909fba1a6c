"""Servers in processes of their own: HTTP with faults, and S3.

As a program (`python remote_servers.py FOLDER`) it serves a folder by HTTP, with byte ranges and
ETags, and prints its port. A file FOLDER/faults.json says what is to go wrong: path -> fault, or
fault and how often.
"""

import contextlib
import hashlib
import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    counts = {}
    log = []

    def do_GET(self):
        path = urllib.parse.unquote(self.path).partition("?")[0].lstrip("/")
        wanted = self.headers.get("Range")
        whole = wanted != "bytes=0-0"
        if path == "log":
            return self._send(200, json.dumps(self.log).encode(), {})
        self.log.append([path, wanted])
        fault = self._fault(path) if whole else None
        if fault in ("403", "500"):
            return self._send(int(fault), b"", {})
        if self._fault(path, counted=False) in ("403 always", "404 always"):
            return self._send(int(self._fault(path, counted=False)[:3]), b"", {})
        file = Path(sys.argv[1], path)
        if not file.is_file():
            return self._send(404, b"", {})
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if path.endswith("checked.tar"):
            headers["x-goog-hash"] = f"md5={_md5(content)}"
        if fault == "other bytes":
            content = bytes(len(content))
        status, size = 200, len(content)
        if wanted and not path.startswith("plain/"):
            start, end = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()
            start, end = int(start), int(end or size - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{size}"
            content, status = content[start : end + 1], 206
        if fault == "slow":
            time.sleep(3)
        drop = len(content) // 2 if fault == "dropped" else None
        return self._send(status, content, headers, drop)

    def _fault(self, path, counted=True):
        with contextlib.suppress(OSError, ValueError):
            faults = json.loads(Path(sys.argv[1], "faults.json").read_text())
            fault, times = faults.get(path, (None, 0))
            if not counted:
                return fault
            self.counts[path, fault] = self.counts.get((path, fault), 0) + 1
            return fault if self.counts[path, fault] <= times else None
        return None

    def _send(self, status, content, headers, drop=None):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(content[:drop])
        if drop is not None:
            self.wfile.flush()
            self.connection.close()

    def log_message(self, *_):
        pass


def _md5(content):
    import base64

    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


@contextlib.contextmanager
def http_server(folder):
    """Gives the address of a folder that a process serves."""
    with _process([sys.executable, __file__, str(folder)]) as port:
        yield f"http://127.0.0.1:{port}"


_S3 = """
import logging, sys
logging.disable(logging.CRITICAL)
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def skip_without_s3():
    """Skips the test where a package of the S3 server or of `s3://` is not installed."""
    import pytest

    for package in ("s3fs", "moto", "flask", "flask_cors"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@contextlib.contextmanager
def s3_server():
    """Gives the endpoint of an S3 server in a process of its own."""
    with _process([sys.executable, "-c", _S3]) as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _process(command):
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def s3_environment(endpoint):
    """The environment in which `s3://` is that server."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
