"""Pushing to the Hub and reading from it, against a server on this machine."""

import base64
import hashlib
import http.server
import json
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from script_driver import run_many

import rfd_tf
from rfd_tf import applications
from rfd_tf.applications import hub
from rfd_tf.config import PretrainConfig
from rfd_tf.errors import UserError
from rfd_tf.export import push

REPOSITORY = "user/network"


class Hub(http.server.BaseHTTPRequestHandler):
    """Repositories of files by commit: what `huggingface_hub` asks for."""

    protocol_version = "HTTP/1.1"
    #: Repository -> its commits, first to last: `(sha, files)`.
    repositories: dict = {}

    def log_message(self, *arguments):
        pass

    def answer(self, content=b"", code=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def found(self, repository, revision):
        commits = self.repositories.get(repository)
        if not commits:
            return None
        if revision == "main":
            return commits[-1]
        return next((commit for commit in commits if commit[0] == revision), None)

    def do_GET(self):
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            commit = self.found("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
            if commit is None:
                return self.answer({"error": "Repository not found"}, 404,
                                   X_Error_Code="RepoNotFound")  # fmt: skip
            sha, files = commit
            if "tree" in parts:
                tree = [{"type": "file", "path": name, "size": len(content), "oid": sha}
                        for name, content in files.items()]  # fmt: skip
                return self.answer(tree)
            siblings = [{"rfilename": name} for name in files]
            named = {"id": "/".join(parts[2:4]), "sha": sha, "siblings": siblings}
            return self.answer({**named, "private": False, "tags": [], "downloads": 0})
        if len(parts) > 4 and parts[2] == "resolve":
            commit = self.found("/".join(parts[:2]), parts[3])
            content = commit and commit[1].get("/".join(parts[4:]))
            if content is None:
                return self.answer(b"", 404, X_Error_Code="EntryNotFound")
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(content, ETag=etag, X_Repo_Commit=commit[0])
        return self.answer({"error": self.path}, 404)

    do_HEAD = do_GET

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = self.path.partition("?")[0].strip("/").split("/")
        if self.headers.get("Authorization") != "Bearer secret":
            return self.answer({"error": "Invalid token"}, 401)
        if parts[1:] == ["repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'user'}/{asked['name'].split('/')[-1]}"
            self.repositories.setdefault(name, [("0" * 40, {})])
            return self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        if parts[1:] == ["validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        repository = "/".join(parts[2:4])
        if "preupload" in parts:
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return self.answer({"files": modes})
        if "commit" in parts:
            files = dict(self.repositories[repository][-1][1])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
            self.repositories[repository].append((sha, files))
            url = f"http://{self.headers['Host']}/{repository}/commit/{sha}"
            return self.answer({"commitUrl": url, "commitOid": sha, "success": True})
        return self.answer({"error": self.path}, 404)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A network that `rfd-tf push` uploaded to a server, and what the command printed."""
    pytest.importorskip("huggingface_hub")
    Hub.repositories = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("hub")
    network = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8))
    record = {
        "format": 1, "backbone": "six_layer", "arguments": {"filters": [4, 4, 4, 4, 4, 8]},
        "image_size": 16, "mean": [0.5] * 3, "std": [0.25] * 3, "method": "rotation",
    }  # fmt: skip
    applications.save_backbone(network, folder / "run" / "backbone.weights.h5", record)
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_TOKEN": "secret",
        "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    common = [f"--weights={folder / 'run'}", f"--to={REPOSITORY}", "--format=keras"]
    # (Keras imports the package before a command runs.)
    prelude = (
        f"import importlib, os; os.environ.update({environment!r})"
        "; importlib.reload(importlib.import_module('huggingface_hub.constants'))"
    )
    done = run_many(
        "push",
        [
            [*common, "--dry_run", f"--output={folder / 'out'}", "--license_id=mit"],
            [*common, "--license_id=mit"],
            [*common[:1], "--to=network"],
            [*common, "--dry_run"],
        ],
        prelude,
    )
    yield folder, network, done, prelude
    server.shutdown()


def test_a_dry_run_writes_what_keras_and_rfd_tf_load(pushed):
    folder, network, done, _ = pushed
    code, out, error = done[0]
    assert code == 0 and "nothing was uploaded" in out, error
    text = (folder / "out" / "README.md").read_text(encoding="utf-8")
    _, front, rest = text.split("---\n", 2)
    assert 'license: "mit"' in front and 'library_name: "keras"' in front and "rotation" in front
    assert 'load_backbone("hf://user/network")' in rest
    card = json.loads((folder / "out" / "card.json").read_text(encoding="utf-8"))
    written = {path.name for path in (folder / "out").iterdir()}
    assert written == {*card["files"], "README.md", "card.json"} >= {*hub.KERAS_FILES}
    alone = keras.saving.load_model(str(folder / "out"))
    mine, record = applications.load_backbone(folder / "out")
    assert record["method"] == "rotation"
    pixels = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    for other in (alone, mine):
        np.testing.assert_allclose(other(pixels), network(pixels), atol=1e-5)


def test_push_uploads_the_same_files(pushed):
    folder, _, done, _ = pushed
    code, out, error = done[1]
    assert code == 0, error
    sha, files = Hub.repositories[REPOSITORY][-1]
    assert f"uploaded: hf://user/network@{sha}" in out
    assert set(files) == {path.name for path in (folder / "out").iterdir()}
    assert files["backbone.weights.h5"] == (folder / "out" / "backbone.weights.h5").read_bytes()
    # (A .keras file has the time it was written, and the card its digest.)
    cards = files["README.md"], (folder / "out" / "README.md").read_bytes()
    assert cards[0].partition(b"## Files")[0] == cards[1].partition(b"## Files")[0]
    assert done[2][0] == 2 and "--to 'network' must read USER/REPO" in done[2][2]
    assert done[3][0] == 2 and "give --output, the folder to write" in done[3][2]


def test_a_run_starts_from_the_hub_and_records_commit_and_digest(pushed):
    folder, network, _, prelude = pushed
    sha, files = Hub.repositories[REPOSITORY][-1]
    keras_only = {name: files[name] for name in hub.KERAS_FILES}
    Hub.repositories["user/keras"] = [("f" * 40, {**keras_only, "README.md": b"x"})]
    common = [
        "--data=digits", "--image_size=16", "--batch_size=4", "--steps_per_epoch=1",
        "--method=rotation", "--monitor_every=0", "--health_every=0", "--notensorboard",
        "--learning_rate=0.000001",
    ]  # fmt: skip
    first = [*common, f"--output_dir={folder / 'first'}"]
    lines = [
        [*first, f"--init_weights=hf://{REPOSITORY}", "--epochs=1"],
        [*first, f"--init_weights=hf://{REPOSITORY}", "--epochs=2"],
        [*common, f"--output_dir={folder / 'second'}", "--backbone=hf://user/keras", "--epochs=1"],
        [*common, f"--output_dir={folder / 'third'}", "--backbone=hf://user/none", "--epochs=1"],
        [*common, f"--output_dir={folder / 'third'}", "--backbone=hf://user", "--epochs=1"],
    ]
    done = run_many("pretrain", lines, prelude)
    assert [code for code, _, _ in done] == [0, 0, 0, 2, 2], done
    weights = hashlib.sha256(files["backbone.weights.h5"]).hexdigest()
    place = f"hf://{REPOSITORY}@{sha}"
    run = rfd_tf.Run.open(folder / "first").recorded()
    assert run.record["started_from"] == {"weights": place, "sha256": weights}
    assert run.record["mean"] == [0.5] * 3 and run.flags["init_weights"] == place
    assert "resuming after epoch 1" in done[1][1] and "note: --init_weights" not in done[1][1]
    second = rfd_tf.Run.open(folder / "second")
    assert second.recorded().record["started_from"]["weights"] == f"hf://user/keras@{'f' * 40}"
    for one, other in zip(second.backbone().get_weights(), network.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.2)
    assert "'hf://user/none' cannot be downloaded" in done[3][2]
    assert "must read hf://USER/REPO" in done[4][2]


def test_a_resumed_run_keeps_its_commit_and_needs_no_server(pushed, monkeypatch):
    folder, *_ = pushed
    place = rfd_tf.Run.open(folder / "first").recorded().record["started_from"]["weights"]
    asked = []

    def unreachable(place, keras_model=False):
        asked.append(place)
        raise UserError("no connection")

    monkeypatch.setattr(hub, "fetch", unreachable)
    given = {"init_weights": f"hf://{REPOSITORY}", "output_dir": folder / "first"}
    config = PretrainConfig.create(given)
    config.check()
    assert config.init_weights == place and set(asked) == {place}
    assert config.backbone == "six_layer" and config.backbone_option["filters"][0] == 4
    with pytest.raises(UserError, match="no connection"):
        PretrainConfig.create({**given, "output_dir": folder / "new"}).check()


def test_places_on_the_hub_are_pinned():
    assert hub.same("hf://a/b", "hf://a/b@1") and not hub.same("hf://a/b", "hf://a/bc@1")
    assert not hub.same("hf://a/b@2", "hf://a/b@1") and not hub.same("runs/a", "runs/a")
    for wrong in ("hf://a", "hf://a/b/c", "hf://a/b@", "hf:///b"):
        with pytest.raises(UserError, match="must read hf://USER/REPO"):
            hub.split(wrong)
    with pytest.raises(UserError, match="to 'ab' must read USER/REPO"):
        push("runs/a", "ab")
    file = Path("x") / ("a" * 40) / "model.keras"
    assert hub.pinned("hf://a/b", file) == f"hf://a/b@{'a' * 40}"
