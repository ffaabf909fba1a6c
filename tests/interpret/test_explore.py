"""The explore page's answers, asked over HTTP."""

import http.client
import io
import json
import shutil
import socket
import struct
import urllib.error
import urllib.request
import zlib

import numpy as np
import pytest
from explore_helpers import (
    SIZE,
    keras_features,
    make_explorer,
    make_images,
    make_run,
    serving,
)
from PIL import Image

from rfd_tf.errors import UserError
from rfd_tf.evaluation.heads import load_heads
from rfd_tf.evaluation.image_set import ImageSet
from rfd_tf.interpret.explore import (
    MOST_BYTES,
    Explorer,
    ExploreServer,
    OnnxNetwork,
    Refused,
    exported,
    read_picture,
    turn,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore") / "run"
    return folder, *make_run(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def server(run, source):
    with serving(make_explorer(run[0], source, neighbours=5)) as server:
        yield server


def ask(server, address, **options):
    """Status, headers and content of an answer."""
    request = urllib.request.Request(server.url + address, **options)
    try:
        with urllib.request.urlopen(request, timeout=240) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def get(server, address):
    status, headers, content = ask(server, address)
    assert status == 200, content
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    return json.loads(content)


def send(server, content, kind="image/png"):
    status, _, answer = ask(server, "api/upload", data=content, headers={"Content-Type": kind})
    return status, json.loads(answer)


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def cosines(rows, query):
    return rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)


# -- answers ----------------------------------------------------------------------------------


def test_the_set_is_described(server, source):
    told = get(server, "api/set")
    assert told["num_images"] == told["num_in_set"] == 40 and told["image_size"] == SIZE
    assert told["names"] == [str(name) for name in source.names]
    assert told["labels"] == source.labels.tolist()
    assert told["class_names"] == list(source.class_names)
    assert [entry["name"] for entry in told["features"]] == ["f1", "f2", "f"]
    assert told["rotation"] == "trained" and told["rotation_feature"] == "f1"
    for entry in told["features"]:
        rows = server.explorer.embeddings[entry["name"]].astype(float)
        distances = [
            1 - cosines(np.delete(rows, place, axis=0), row) for place, row in enumerate(rows)
        ]
        assert entry["spread"] == pytest.approx(np.mean(distances), abs=1e-6)


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_answers_agree_with_keras_and_numpy(server, run, angle):
    folder, model, record = run
    pixels = server.explorer.pixels
    place = 7
    seen = get(server, f"api/look?image={place}&angle={angle}")
    of_set = keras_features(model, record, pixels)
    turned = np.rot90(pixels[place], angle // 90)
    own = {name: rows[0] for name, rows in keras_features(model, record, turned[None]).items()}
    for name, rows in of_set.items():
        similarity = cosines(rows, own[name])
        order = [one for one in np.argsort(-similarity, kind="stable") if angle or one != place]
        found = seen["neighbours"][name]
        assert len(found) == 5
        np.testing.assert_allclose(
            [one["similarity"] for one in found], similarity[order[:5]], atol=1e-5
        )
        # (Where two are equally near to five digits, either may come first.)
        for one in found:
            assert one["similarity"] == pytest.approx(similarity[one["image"]], abs=1e-5)
        distance = 1 - cosines(rows[place][None], own[name])[0]
        assert seen["distance"][name] == pytest.approx(distance, abs=1e-5)
    kernel, bias = load_heads(folder)["rotation_head"]
    logits = own["f1"] @ kernel + bias
    chances = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(seen["rotation"], chances, atol=1e-5)


def test_an_upright_image_is_not_its_own_neighbour(server):
    found = get(server, "api/look?image=3")["neighbours"]
    assert all(one["image"] != 3 for row in found.values() for one in row)


def test_the_curve_is_what_single_turns_give(server):
    curve = get(server, "api/curve?image=5")
    assert curve["degrees"] == list(range(0, 360, 15))
    for angle in (0, 45, 270):
        seen = get(server, f"api/look?image=5&angle={angle}")
        for name, distance in seen["distance"].items():
            at = curve["degrees"].index(angle)
            assert curve["distance"][name][at] == pytest.approx(distance, abs=1e-5)


def test_pictures_are_given_as_the_network_sees_them(server):
    for angle in (0, 180, 33):
        status, headers, content = ask(server, f"api/image?image=2&angle={angle}")
        assert (status, headers["Content-Type"]) == (200, "image/png")
        found = np.asarray(Image.open(io.BytesIO(content)))
        np.testing.assert_array_equal(found, turn(server.explorer.pixels[2], angle))


def test_turns_in_between_keep_the_middle_and_empty_no_corner():
    down, right = np.mgrid[0:31, 0:31] - 15
    image = np.full((31, 31, 3), 200, np.uint8)
    image[(np.abs(down) <= 1) & (right > 5)] = 0  # a hand that points right
    for angle in (30, 90, 200, -45, 359.5):
        turned = turn(image, angle)
        assert turned.shape == image.shape and turned.dtype == np.uint8
        radians = np.deg2rad(angle)
        row, column = round(15 - 10 * np.sin(radians)), round(15 + 10 * np.cos(radians))
        assert turned[row, column, 0] < 60
    assert turn(np.full((20, 20, 3), 99, np.uint8), 45).min() == 99


def test_occlusion_finds_what_the_feature_depends_on(server, run):
    """Each map by hand: the effect of every square, averaged over those that cover a pixel."""
    explorer = server.explorer
    found = get(server, "api/occlusion?image=9&angle=90")
    assert found["size"] == SIZE and set(found["maps"]) == {"f1", "f2", "f", "rotation"}
    image = np.rot90(explorer.pixels[9])
    _, model, record = run
    side = SIZE // 4
    starts = [int(round(start)) for start in np.linspace(-side / 2, SIZE - side / 2, 11)]
    total, count = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    plain = keras_features(model, record, image[None])["f2"][0]
    for top in starts:
        for left in starts:
            where = np.s_[max(0, top) : top + side, max(0, left) : left + side]
            covered = image.copy()
            covered[where] = np.rint(np.array(record["mean"]) * 255)
            moved = keras_features(model, record, covered[None])["f2"][0]
            total[where] += 1 - cosines(moved[None], plain)[0]
            count[where] += 1
    assert count.min() > 0
    expected = total / count
    result = found["maps"]["f2"]
    assert result["largest"] == pytest.approx(expected.max(), rel=1e-3)
    values = np.reshape(result["values"], (SIZE, SIZE)) / 255 * result["largest"]
    np.testing.assert_allclose(values, expected, atol=0.01 * expected.max())


# -- pictures of one's own --------------------------------------------------------------------


def test_an_uploaded_picture_is_one_of_the_set_as_far_as_the_network_goes(server):
    status, kept = send(server, encoded(server.explorer.pixels[4]))
    assert status == 200 and (kept["width"], kept["height"]) == (SIZE, SIZE)
    own = get(server, f"api/look?upload={kept['upload']}&angle=180")
    assert own == get(server, "api/look?image=4&angle=180")
    nearest = get(server, f"api/look?upload={kept['upload']}")["neighbours"]["f"][0]
    assert nearest["image"] == 4 and nearest["similarity"] == pytest.approx(1, abs=1e-5)
    assert get(server, f"api/curve?upload={kept['upload']}") == get(server, "api/curve?image=4")


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_kinds_and_sizes_of_pictures(server, kind):
    wide = np.random.default_rng(0).integers(0, 256, (30, 70, 3), dtype=np.uint8)
    status, kept = send(server, encoded(wide, kind), f"image/{kind.lower()}")
    assert status == 200 and (kept["width"], kept["height"]) == (70, 30)
    _, _, content = ask(server, f"api/image?upload={kept['upload']}")
    assert Image.open(io.BytesIO(content)).size == (SIZE, SIZE)


def test_what_is_no_picture_is_refused(server):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    photo = encoded(noise, "JPEG", quality=90)
    refused = {
        "text": (b"Dear diary", "text/plain", 415, "this one has the type text/plain"),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 400, "SVG is a"),
        "text as PNG": (b"Dear diary", "image/png", 400, "this is not a JPEG, PNG"),
        "nothing": (b"", "image/png", 400, "empty"),
        "half a JPEG": (photo[: len(photo) // 2], "image/jpeg", 400, "damaged"),
        "half a PNG": (encoded(noise)[:4000], "image/png", 400, "damaged"),
        "wide PNG": (flat_png(20_000, 1), "image/png", 400, "20000 x 1 pixels are too many"),
        "large PNG": (flat_png(9_000, 9_000), "image/png", 400, "9000 x 9000 pixels are too many"),
        "bomb": (flat_png(60_000, 60_000, 1), "image/png", 400, "at most 40 million pixels"),
        "too large": (bytes(MOST_BYTES + 1), "image/png", 413, "at most 8 MiB"),
    }
    for name, (content, kind, expected, message) in refused.items():
        status, answer = send(server, content, kind)
        assert (status, list(answer)) == (expected, ["error"]), name
        assert message in answer["error"] and "\n" not in answer["error"], (name, answer)


def flat_png(width, height, rows=None):
    """A PNG of one colour; with `rows` it breaks off after so many."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(width + 1)) for _ in range(rows or height))
    parts = [(b"IHDR", header), (b"IDAT", packed + packer.flush()), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_the_largest_file_allowed_is_read():
    # Bytes behind a picture's end do no harm.
    picture = encoded(np.zeros((3, 3, 3), np.uint8))
    assert read_picture(picture + bytes(MOST_BYTES - len(picture))).shape == (3, 3, 3)
    with pytest.raises(Refused, match="8 MiB"):
        read_picture(picture + bytes(MOST_BYTES + 1 - len(picture)))


def test_only_the_last_uploads_are_kept(server):
    pictures = [np.full((2, 2, 3), shade, np.uint8) for shade in range(33)]
    tokens = [send(server, encoded(picture))[1]["upload"] for picture in pictures]
    status, _, content = ask(server, f"api/look?upload={tokens[0]}")
    assert status == 404 and b"no longer kept" in content
    assert ask(server, f"api/look?upload={tokens[-1]}")[0] == 200


# -- requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("api/look", 400, "give image, a number, or upload"),
        ("api/look?image=40", 404, "images go from 0 to 39"),
        ("api/look?image=-1", 400, "a number from 0 to 39"),
        ("api/look?image=../../run.json", 400, "a number from 0 to 39"),
        ("api/look?image=%C2%B2", 400, "a number from 0 to 39"),
        ("api/look?image=1&image=2", 400, "image was given 2 times"),
        ("api/look?image=1&upload=x", 400, "not both"),
        ("api/look?upload=x", 404, "no longer kept"),
        ("api/look?image=1&angle=nan", 400, "angle is a number"),
        ("api/look?image=1&angle=east", 400, "angle is a number"),
        ("api/look?" + "&".join(f"x{i}=1" for i in range(20)), 400, "cannot be read"),
        ("explore.py", 404, "nothing here"),
        ("../server.py", 404, "nothing here"),
        ("..%2fserver.py", 404, "nothing here"),
        ("page/../../server.py", 404, "nothing here"),
        ("/etc/passwd", 404, "nothing here"),
        ("api/upload", 404, "nothing here"),
    ],
)
def test_addresses_that_do_not_exist(server, address, status, message):
    found, headers, content = ask(server, address)
    assert found == status and message in json.loads(content)["error"]
    assert headers["Content-Type"].startswith("application/json")


def raw(server, lines, body=b""):
    with socket.create_connection(server.server_address, timeout=240) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


def test_only_requests_for_this_machine_are_answered(server):
    port = server.server_address[1]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST:9999", "localhost"):
        assert raw(server, ["GET / HTTP/1.1", f"Host: {host}"])[0] == 200
    for hosts in (
        ["evil.example"],
        [f"evil.example:{port}"],
        ["127.0.0.1.evil.example"],
        ["localhost@evil.example"],
        [""],
        [],
        ["localhost", "evil.example"],
    ):
        for path in ("/", "/api/set", "/api/image?image=0"):
            lines = [f"GET {path} HTTP/1.1", *(f"Host: {host}" for host in hosts)]
            status, content = raw(server, lines)
            assert status == 403 and "only" in json.loads(content)["error"], hosts


def test_other_pages_cannot_send_pictures(server):
    picture = encoded(np.zeros((3, 3, 3), np.uint8))
    host = f"127.0.0.1:{server.server_address[1]}"
    sent = ["POST /api/upload HTTP/1.1", f"Host: {host}", "Content-Type: image/png",
            f"Content-Length: {len(picture)}"]  # fmt: skip
    assert raw(server, [*sent, f"Origin: http://{host}"], picture)[0] == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert raw(server, [*sent, f"Origin: {origin}"], picture)[0] == 403
    assert raw(server, ["OPTIONS /api/upload HTTP/1.1", f"Host: {host}"])[0] == 501


def test_requests_without_a_length_or_of_another_kind(server):
    host = f"Host: 127.0.0.1:{server.server_address[1]}"
    chunked = ["POST /api/upload HTTP/1.1", host, "Transfer-Encoding: chunked"]
    assert raw(server, chunked, b"0\r\n\r\n")[0] == 411
    for length in ("x", "-1", "1" * 30):
        lines = ["POST /api/upload HTTP/1.1", host, f"Content-Length: {length}"]
        assert raw(server, lines)[0] == 411
    status, content = raw(server, ["DELETE / HTTP/1.1", host])
    assert status == 501 and "error" in json.loads(content)


def test_every_answer_carries_the_rules(server):
    for address in ("", "explore.js", "explore.css", "api/set", "api/image?image=0", "nothing"):
        _, headers, _ = ask(server, address)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
        assert "Python" not in headers["Server"]


def test_the_page_asks_for_nothing_from_elsewhere(server):
    for address in ("", "explore.js", "explore.css"):
        status, _, content = ask(server, address)
        text = content.decode().replace("http://www.w3.org/2000/svg", "")
        assert status == 200 and "//" not in text.replace("// ", "")


def test_it_is_bound_to_this_machine_only(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    with pytest.raises(UserError, match=r"port \d+ of 127.0.0.1 is not available"):
        ExploreServer(server.explorer, server.server_address[1])
    with pytest.raises(UserError, match="port 70000 is not among"):
        ExploreServer(server.explorer, 70000)


# -- what is made at the start ----------------------------------------------------------------


def test_file_and_embeddings_are_made_once(run, source, monkeypatch):
    folder = run[0]
    path = exported(folder, folder / "explore")
    before = path.stat().st_mtime_ns
    first = make_explorer(folder, source, cache="these")
    assert exported(folder, folder / "explore").stat().st_mtime_ns == before

    def never(self, pixels):
        raise AssertionError("taken again")

    with monkeypatch.context() as patched:
        patched.setattr(OnnxNetwork, "__call__", never)
        second = make_explorer(folder, source, cache="these")
    for name, rows in first.embeddings.items():
        np.testing.assert_array_equal(second.embeddings[name], rows)


def test_other_weights_are_exported_again(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    old = OnnxNetwork(exported(folder, folder / "explore")).sha256
    assert old == OnnxNetwork(exported(run[0], run[0] / "explore")).sha256
    (folder / "heads.npz").unlink()
    without = OnnxNetwork(exported(folder, folder / "explore"))
    assert without.outputs == {"f", "f1", "f2"} and without.sha256 == old


def test_without_a_trained_classifier_one_is_fitted(source, tmp_path, monkeypatch):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folder = tmp_path / "run"
    model, record = make_run(folder, heads=False)
    explorer = make_explorer(folder, source, cache="these")
    told = explorer.describe()
    assert (told["rotation"], told["fitted_to"]) == ("fitted", 40)
    views = [np.rot90(explorer.pixels, turns, axes=(1, 2)) for turns in range(4)]
    f1 = np.concatenate([keras_features(model, record, view)["f1"] for view in views])
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    pipeline.fit(f1, np.repeat(range(4), 40))
    expected = pipeline.predict_proba(f1[[3, 43]])
    found = [explorer.look(explorer.pixels[3], angle)["rotation"] for angle in (0, 90)]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    again = make_explorer(folder, source, cache="these")
    assert again.look(explorer.pixels[3])["rotation"] == found[0]


def test_a_feature_that_is_not_split_is_shown_alone(source, tmp_path):
    from rfd_tf import applications

    folder = tmp_path / "run"
    model, record = make_run(folder, heads=False)
    record = {**record, "feature": {"endpoint": "block6", "pooling": "avg"}}
    applications.save_backbone(model, folder / "backbone.weights.h5", record)
    seen = make_explorer(folder, source).look(np.zeros((SIZE, SIZE, 3), np.uint8))
    assert list(seen["neighbours"]) == list(seen["distance"]) == ["f"]


def test_user_errors_are_reported(run, source, tmp_path):
    with pytest.raises(UserError, match="holds no backbone.weights.h5"):
        exported(tmp_path, tmp_path / "explore")
    bad = tmp_path / "model.onnx"
    bad.write_bytes(b"not a graph")
    with pytest.raises(UserError, match="is not an ONNX file of rfd_tf"):
        OnnxNetwork(bad)
    network = OnnxNetwork(exported(run[0], run[0] / "explore"))
    with pytest.raises(UserError, match="takes images of 16 pixels a side, not of 32"):
        Explorer(network, ImageSet(source, None, 32))
    with pytest.raises(UserError, match="neighbours and fit_images are 1 or more"):
        Explorer(network, ImageSet(source, None, 16), neighbours=0)
