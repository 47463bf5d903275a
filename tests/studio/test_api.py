"""What the studio's addresses answer: the package's own numbers, and a clear no to everything else."""

import json
import math
import os
import socket
import struct
import threading
import xml.etree.ElementTree as ElementTree
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from studio_helpers import as_shown, pixels, png

from halfstride import ConvAutoencoder, diagnose, diagnose_image, load_images, to_float
from halfstride.autoencoder import decode, reconstruct
from halfstride.figures import principal_plane
from halfstride.studio import dependencies, open_run, server
from halfstride.studio.app import create_app
from halfstride.studio.errors import PictureError
from halfstride.studio.explanation import explain
from halfstride.studio.layer import Layer
from halfstride.studio.pages import STATIC, autoencoder, doctor
from halfstride.studio.pictures import read_picture


@pytest.fixture(scope="module")
def digits():
    """The test images that the studio shows, in its order."""
    return load_images("digits").test.sample(1000)


# The layer ------------------------------------------------------------------------------------------------------------


def test_a_layer_is_told_as_explain_tells_it(client):
    answer = client.get("/api/layer", params={"form": "resize", "padding": 1, "input": "1,2,3,4,5,6,7,8,9.5"})
    layer = Layer(form="resize", padding=1, input=(1, 2, 3, 4, 5, 6, 7, 8, 9.5))
    assert answer.json() == json.loads(explain(layer).model_dump_json())


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("padding=9", "`padding` (=9) leaves nothing of the full output (=7): use at most 3."),
        ("stride=-1", "`stride` (='-1'): Input should be greater than or equal to 1"),
        ("input_size=" + "9" * 400, "`input_size`: Input should be"),
        ("input_size=three", "`input_size` (='three'): Input should be a valid integer"),
        ("form=pool", "`form` (='pool'): Input should be 'conv', 'transposed', 'resize' or 'subpixel'"),
        ("input=1,2", "`input` (of 2 numbers) must have 9, row by row."),
        ("kernel=1e999", "`kernel.0` (='1e999'): Input should be a finite number."),
        ("input=<script>", "`input.0` (='<script>'): Input should be a valid number"),
        ("input=1" + ",1" * 20_000, "`input`"),
    ],
)
def test_an_illegal_layer_is_told_why(client, query, message):
    answer = client.get(f"/api/layer?{query}")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(message)


def test_animations_are_files_to_keep(client):
    for kind, begins in (("gif", b"GIF89a"), ("svg", b"<svg"), ("png", b"PK")):
        answer = client.get("/api/layer/animation", params={"format": kind, "dims": "1"})
        assert answer.status_code == 200
        assert answer.content.startswith(begins)
        assert answer.headers["content-disposition"].startswith('attachment; filename="transposed-scatter.')


# Runs -----------------------------------------------------------------------------------------------------------------


def test_the_runs_are_listed_and_links_out_of_the_folder_are_not(client):
    found = {run["name"]: run for run in client.get("/api/runs").json()}
    assert set(found) == {
        *("plane", "deep", "map", "uneven", "imageless"),
        *("damaged", "bad-metrics", "bad-stages", "deep-json", "huge", "wide", "tall"),
    }
    assert found["plane"] == {"name": "plane", "steps_done": 300, "steps_asked": 500, "test_mse": 0.04, "error": None}
    assert "is damaged (stages=[-3])" in found["bad-stages"]["error"]
    assert "metrics.jsonl: 1 validation error" in found["bad-metrics"]["error"]
    assert found["deep-json"]["error"]


def test_a_run_is_described(client, runs):
    answer = client.get("/api/runs/plane").json()
    model = ConvAutoencoder.from_pretrained(runs / "plane")
    assert answer["image_shape"] == [1, 28, 28]
    assert answer["latent_shape"] == [2]
    assert answer["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (answer["source"], answer["not_run"], answer["corruption"], answer["paired"]) == ("digits", None, "", False)
    progress = client.get("/api/runs/plane/progress").json()
    assert [one["test_mse"] for one in progress["metrics"]] == [0.12, 0.06, 0.04]
    assert (progress["steps_asked"], progress["kept"], progress["evaluation"]) == (500, 200, None)


def test_metrics_follow_a_training(client, runs):
    path = runs / "plane" / "metrics.jsonl"
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(
            before + '{"step": 400, "train_mse": 0.01, "test_mse": NaN, "validation_loss": NaN}\n{"step": 500, "tr',
            encoding="utf-8",
        )
        progress = client.get("/api/runs/plane/progress").json()
    finally:
        path.write_text(before, encoding="utf-8")
    assert len(progress["metrics"]) == 4  # what is being written is not there yet
    told = {name: value for name, value in progress["metrics"][-1].items() if value is not None}
    assert told == {"step": 400, "train_mse": 0.01}
    assert progress["kept"] == 200


def test_reconstructions_and_their_errors_are_the_models_own(client, runs, digits):
    model = ConvAutoencoder.from_pretrained(runs / "plane")
    answer = client.get("/api/runs/plane/images", params={"start": 5, "count": 3}).json()
    outputs = reconstruct(model, digits.images[5:8])
    for place, (one, output) in enumerate(zip(answer, outputs, strict=True), 5):
        original = digits.images[place]
        assert one["index"] == place
        assert one["label"] == str(digits.labels[place].item())
        assert (pixels(one["original"]) == as_shown(original)).all()
        assert (pixels(one["reconstruction"]) == as_shown(output)).all()
        assert one["mse"] == pytest.approx((to_float(original[None]) - to_float(output[None])).square().mean().item())
        lightness = pixels(one["difference"]).astype(int).sum(-1).ravel()
        difference = (original.int() - output.int()).abs().ravel().numpy()
        assert lightness[difference.argmax()] == lightness.max()
        assert lightness[difference.argmin()] == lightness.min()


@pytest.mark.parametrize("name", ["plane", "deep", "map"])
def test_the_latent_plane_is_that_of_the_figures_and_decodes_back(client, runs, digits, name):
    model = ConvAutoencoder.from_pretrained(runs / name)
    with torch.inference_mode():
        codes = model.encode(to_float(digits.images)).flatten(1).double().numpy()
    answer = client.get(f"/api/runs/{name}/latent").json()
    assert (len(answer["points"]), answer["test_images"], answer["numbers"]) == (1000, 1000, codes.shape[1])
    np.testing.assert_allclose(answer["points"], principal_plane(codes)[0], atol=1e-4)
    np.testing.assert_allclose(answer["code"], codes.mean(0), atol=1e-4)
    assert answer["labels"] == digits.labels.tolist()
    assert len(answer["sliders"]) == min(32, codes.shape[1])
    # A point of the plane is a code whose point is that point.
    decoded = client.post(f"/api/runs/{name}/decode", json={"point": [0.3, -0.2]}).json()
    np.testing.assert_allclose(decoded["point"], [0.3, -0.2], atol=1e-6)
    with torch.inference_mode():
        latents = torch.tensor([decoded["code"]]).float().reshape(1, *model.latent_shape)
        image = model.decode(latents).mul(255).round().to(torch.uint8)[0]
    assert (pixels(decoded["image"]) == as_shown(image)).all()


def test_a_code_and_an_image_are_decoded(client, digits, runs):
    model = ConvAutoencoder.from_pretrained(runs / "deep")
    decoded = client.post("/api/runs/deep/decode", json={"index": 7}).json()
    with torch.inference_mode():
        code = model.encode(to_float(digits.images[7:8]))
        image = model.decode(code).mul(255).round().to(torch.uint8)[0]
    np.testing.assert_allclose(decoded["code"], code[0].numpy(), atol=1e-5)
    assert np.abs(pixels(decoded["image"]).astype(int) - as_shown(image).astype(int)).max() <= 1
    again = client.post("/api/runs/deep/decode", json={"code": decoded["code"]}).json()
    assert again["image"] == decoded["image"]


def test_a_walk_is_straight_and_begins_and_ends_with_its_images(client):
    steps = client.post("/api/runs/deep/walk", json={"start": 3, "end": 8, "steps": 5}).json()
    codes = np.array([step["code"] for step in steps])
    for index, place in ((3, 0), (8, -1)):
        assert codes[place] == pytest.approx(client.post("/api/runs/deep/decode", json={"index": index}).json()["code"])
    np.testing.assert_allclose(np.diff(codes, axis=0), np.tile((codes[-1] - codes[0]) / 4, (4, 1)), atol=1e-6)


def test_a_picture_of_ones_own_is_brought_to_size_and_reconstructed(client, runs):
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    answer = client.post("/api/runs/plane/reconstruct", content=png(picture)).json()
    model = ConvAutoencoder.from_pretrained(runs / "plane")
    original = decode(png(picture), (1, 28, 28))
    assert (pixels(answer["original"]) == as_shown(original)).all()
    assert (pixels(answer["reconstruction"]) == as_shown(reconstruct(model, original[None])[0])).all()


def test_a_run_that_trained_on_is_loaded_anew(client, runs):
    path = runs / "plane"
    version = client.get("/api/runs/plane/progress").json()["model"]
    assert client.get("/api/runs/plane/progress").json()["model"] == version
    before = client.post("/api/runs/plane/decode", json={"point": [0, 0]}).json()
    kept = (path / "model.safetensors").read_bytes()
    model = ConvAutoencoder.from_pretrained(path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-2)
    try:
        model.save_pretrained(path)
        assert client.get("/api/runs/plane/progress").json()["model"] != version
        assert client.post("/api/runs/plane/decode", json={"point": [0, 0]}).json()["image"] != before["image"]
    finally:
        (path / "model.safetensors").write_bytes(kept)
    assert client.post("/api/runs/plane/decode", json={"point": [0, 0]}).json() == before


def test_a_single_run_can_be_shown_and_so_can_none(runs):
    with TestClient(create_app(runs / "plane"), base_url="http://localhost") as client:
        assert [run["name"] for run in client.get("/api/runs").json()] == ["plane"]
    with TestClient(create_app(), base_url="http://localhost") as client:
        assert client.get("/api/runs").json() == []
        assert client.get("/").status_code == 200


# The doctor -----------------------------------------------------------------------------------------------------------


def as_told(found):
    """What `to_dict` says, as JSON has it: the part of it that the page is told."""
    told = json.loads(json.dumps(found))
    for layer in told.get("layers", []):
        layer["measured"] = layer["measured"] and {k: layer["measured"][k] for k in MEASURED}
    for part in told["output"]:
        part["measured"] = part["measured"] and {k: part["measured"][k] for k in MEASURED}
    return told


MEASURED = ("period", "strength", "evidence", "found", "kinds")


@pytest.fixture(scope="module")
def checkered():
    """A picture of noise whose every fourth pixel is brighter."""
    picture = np.random.default_rng(3).integers(0, 200, (64, 96), dtype=np.uint8)
    picture[::4, ::4] += 55
    return picture


@pytest.mark.parametrize("name", ["plane", "uneven"])
def test_a_runs_checkup_is_the_doctors_own(client, runs, digits, name):
    model = ConvAutoencoder.from_pretrained(runs / name)
    found = diagnose(model, to_float(digits.images[:256]))
    answer = client.get(f"/api/runs/{name}/checkup").json()
    told = as_told(found.to_dict())
    assert answer["conclusion"] == str(found).splitlines()[-1]
    assert answer["found"] == found.found == (name == "uneven")
    for part in ("unreached", "uneven_gradients"):
        assert answer[part] == told[part]
    for part in ("layers", "output"):
        for shown, one in zip(answer[part], told[part], strict=True):
            assert {name: shown[name] for name in shown} == {name: approximately(one[name]) for name in shown}


def approximately(value):
    if isinstance(value, dict):
        return {name: approximately(one) for name, one in value.items()}
    return pytest.approx(value, rel=1e-3, abs=1e-6) if isinstance(value, float) else value


def test_a_model_is_diagnosed_once_until_it_trains_on(client, runs, monkeypatch):
    seen = []
    monkeypatch.setattr(open_run, "diagnose", lambda *given: seen.append(given) or diagnose(*given))
    weights = runs / "map" / "model.safetensors"
    figures = [client.get(f"/api/runs/map/checkup?theme={theme}").json()["figure"] for theme in ("light", "dark")]
    assert len(seen) == 1
    os.utime(weights)
    client.get("/api/runs/map/checkup")
    assert len(seen) == 2
    for figure, ink, other in zip(figures, ("#1d1f23", "#e9e7e2"), ("#e9e7e2", "#1d1f23"), strict=True):
        assert ElementTree.fromstring(figure).tag == "{http://www.w3.org/2000/svg}svg"
        assert ink in figure
        assert other not in figure


def test_a_model_that_cannot_be_diagnosed_says_why(client, runs):
    weights = runs / "deep" / "model.safetensors"
    kept = weights.read_bytes()
    model = ConvAutoencoder.from_pretrained(runs / "deep")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.inf)
    try:
        model.save_pretrained(runs / "deep")
        answer = client.get("/api/runs/deep/checkup")
    finally:
        weights.write_bytes(kept)
    assert answer.status_code == 409
    assert "not finite" in answer.json()["error"]


def test_a_pictures_checkup_is_the_doctors_own(client, checkered):
    found = diagnose_image(checkered / np.float32(255))
    answer = client.post("/api/pictures/checkup", content=png(checkered)).json()
    assert (
        answer["conclusion"]
        == str(found).splitlines()[-1]
        == (f"Pattern found: period 4, {found.strength:.1%} of the standard deviation, additive.")
    )
    assert [part["measured"] for part in answer["output"]] == [
        {name: approximately(one[name]) for name in MEASURED}
        for one in as_told({"output": [], **found.to_dict()})["measured"]
    ]
    assert answer["layers"] == []


def test_of_a_large_picture_the_middle_is_looked_at(client, monkeypatch):
    monkeypatch.setattr(doctor, "_LARGEST", 192)
    plain = np.random.default_rng(4).integers(0, 256, (500, 500), dtype=np.uint8)
    assert not client.post("/api/pictures/checkup", content=png(plain)).json()["found"]
    for place, found in ((slice(0, 128), False), (slice(200, 328), True)):
        picture = plain.copy()
        picture[place, 50:450] //= 2
        picture[place, 50:450][::4, ::4] += 127
        assert client.post("/api/pictures/checkup", content=png(picture)).json()["found"] == found


def test_a_picture_in_which_nothing_can_repeat_is_refused(client):
    answer = client.post("/api/pictures/checkup", content=png(np.zeros((7, 90), np.uint8)))
    assert answer.status_code == 422
    assert answer.json()["error"] == "`image` (of 7×90) is too small: four periods of 2 take 8 pixels along each axis."


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "%2e%2e",
        "../outside",
        "..%2foutside",
        "%2Fetc",
        "linked",
        "leaking-metrics",
        "leaking-evaluation",
        "not%20a%20run",
        "plane%00",
        "unknown",
        "." * 5000,
    ],
)
def test_a_name_that_is_not_one_of_the_runs_leads_nowhere(client, name):
    for rest in ("", "/progress", "/images", "/latent", "/checkup", "/evaluation", "/pictures/losses.png"):
        answer = client.get(f"/api/runs/{name}{rest}")
        assert answer.status_code == 404, answer.text
        assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_static_files_are_those_of_the_folder(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("name", ["damaged", "bad-metrics", "deep-json", "huge", "wide", "tall"])
def test_a_damaged_run_is_a_conflict_and_not_a_crash(client, name):
    answer = client.get(f"/api/runs/{name}/{'progress' if name == 'bad-metrics' else 'latent'}")
    assert answer.status_code == 409
    assert "\n" not in answer.json()["error"]
    assert ("too large to be shown" in answer.json()["error"]) == (name in ("huge", "wide", "tall"))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("decode", {}),
        ("decode", {"point": [0, 0], "index": 1}),
        ("decode", {"point": [0]}),
        ("decode", {"point": [1e300, 0]}),
        ("decode", {"code": [1, 2, 3]}),
        ("decode", {"code": ["x", 1]}),
        ("decode", {"index": 1000}),
        ("decode", {"index": 10**400}),
        ("walk", {"start": 0, "end": 1000}),
        ("walk", {"start": 0, "end": 1, "steps": 10**9}),
        ("walk", {"start": -1, "end": 1}),
        ("decode", [1]),
    ],
)
def test_what_makes_no_sense_is_refused(client, path, body):
    answer = client.post(f"/api/runs/plane/{path}", json=body)
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b'{"point": [NaN, Infinity]}', b"\xff\xfe", b""])
def test_broken_json_is_refused(client, body):
    answer = client.post("/api/runs/plane/decode", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert set(answer.json()) == {"error"}


def bomb(width, height):
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("path", ["/api/runs/plane/reconstruct", "/api/pictures/checkup"])
@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 415, "This file is not a picture that can be read"),
        (b"GIF89a", 415, "This file is not a picture that can be read"),
        (b"%PDF-1.4 no picture", 415, "This file is not a picture that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "This file is not a picture that can be read"),
        (
            png(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8))[:800],
            415,
            "This file is truncated or broken: ",
        ),
        (bomb(10_000, 10_000), 413, "The picture has 100,000,000 pixels: at most 40,000,000 are taken."),
        (bomb(2**31 - 1, 2**31 - 1), 415, "This file has more than 178,956,970 pixels."),
    ],
    ids=["empty", "header", "pdf", "svg", "cut", "bomb", "overflow"],
)
def test_a_bad_upload_is_refused_with_a_reason(client, path, content, status, message):
    answer = client.post(path, content=content)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]


@pytest.mark.parametrize("path", ["/api/runs/plane/reconstruct", "/api/pictures/checkup"])
def test_an_upload_that_is_too_large_is_refused_whether_it_says_so_or_not(client, path):
    answer = client.post(path, content=b"x" * (25 * 2**20 + 1))
    assert answer.status_code == 413

    def drip():
        for _ in range(27):
            yield b"x" * 2**20

    assert client.post(path, content=drip()).status_code in (400, 413)
    assert client.post("/api/runs/plane/decode", content=b" " * (2**20 + 1)).status_code == 413
    assert client.post("/api/runs/plane/decode", headers={"content-length": "-1"}).status_code == 400


def test_a_slow_upload_is_given_up(runs, monkeypatch):
    monkeypatch.setattr(dependencies, "_UPLOAD_SECONDS", 0.05)
    app = create_app(runs)
    sent = []

    async def receive():
        import anyio

        await anyio.sleep(5)
        raise AssertionError("the server waits for ever")

    async def send(message):
        sent.append(message)

    import anyio

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/runs/plane/reconstruct",
        "raw_path": b"",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
    }
    anyio.run(app, scope, receive, send)
    assert sent[0]["status"] == 408


def test_more_pictures_at_once_than_can_wait_are_sent_away(runs, monkeypatch):
    monkeypatch.setattr(dependencies, "_UPLOADS_WAITING", 1)
    picture = png(np.zeros((900, 900), np.uint8))
    with TestClient(create_app(runs), base_url="http://localhost") as client, ThreadPoolExecutor(16) as pool:
        asked = pool.map(lambda _: client.post("/api/runs/plane/reconstruct", content=picture), range(48))
        answers = [(answer.status_code, answer.json().get("error")) for answer in asked]
    assert set(answers) <= {(200, None), (429, "Too many pictures at once: try again in a moment.")}
    assert (200, None) in answers
    assert len(set(answers)) == 2


def test_a_picture_with_too_many_channels_for_the_model_is_refused():
    with pytest.raises(ValueError, match="1 channel"):
        read_picture(png(np.zeros((9, 9, 3), np.uint8)), (5, 8, 8))
    with pytest.raises(PictureError):
        read_picture(b"nothing", (5, 8, 8))


# Who may ask ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8765"}, 200),
        ({"host": "[::1]:8765"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8765"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "10.0.0.5:8765"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://127.0.0.1:8765"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_only_the_page_itself_may_ask(client, headers, status):
    answer = client.get("/api/layer", headers=headers)
    assert answer.status_code == status
    assert client.post("/api/runs/plane/decode", json={"point": [0, 0]}, headers=headers).status_code == status


def test_a_link_from_elsewhere_still_opens_the_page(client):
    """A shared address is for following; the page that it opens then asks by itself."""
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_served_on_all_addresses_it_answers_to_addresses_and_still_not_to_names(runs):
    with TestClient(create_app(runs, "0.0.0.0"), base_url="http://10.0.0.5") as client:
        assert client.get("/api/runs").status_code == 200
        assert client.get("/api/runs", headers={"host": "evil.example"}).status_code == 403


def test_every_answer_forbids_what_the_page_does_not_need(client):
    for path in (
        "/",
        "/autoencoder",
        "/doctor",
        "/static/upsampling.js",
        "/api/runs",
        "/nowhere",
        "/api/layer?stride=x",
    ):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_the_pages_ask_nothing_of_the_outside():
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path
        assert " style=" not in text.replace("svg xmlns", ""), path


def test_there_is_a_description_of_all_addresses(client):
    paths = client.get("/api/openapi.json").json()["paths"]
    assert set(paths) == {
        "/api/layer",
        "/api/layer/animation",
        "/api/layer/schema",
        "/api/runs",
        "/api/runs/{name}",
        "/api/runs/{name}/progress",
        "/api/runs/{name}/evaluation",
        "/api/runs/{name}/pictures/{file}",
        "/api/runs/{name}/images",
        "/api/runs/{name}/latent",
        "/api/runs/{name}/decode",
        "/api/runs/{name}/walk",
        "/api/runs/{name}/reconstruct",
        "/api/runs/{name}/checkup",
        "/api/pictures/checkup",
    }
    assert client.get("/docs").status_code == 404  # FastAPI's own would load scripts from elsewhere


def test_two_hundred_requests_at_once_are_all_answered(client):
    upload = png(np.zeros((500, 500, 3), np.uint8))

    def ask(place):
        kind = place % 4
        if kind == 0:
            return client.get("/api/layer", params={"input_size": 5}).status_code
        if kind == 1:
            return client.post("/api/runs/plane/decode", json={"point": [place, 0]}).status_code
        if kind == 2:
            return client.post("/api/runs/deep/reconstruct", content=upload).status_code
        return client.get("/static/studio.css").status_code

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(ask, range(200))) == {200}
    assert threading.active_count() < 80


def test_pages_and_drags_do_not_wait_for_pictures_and_diagnoses(runs, monkeypatch):
    """Everything that takes long is held up; everything else answers all the same."""
    begun, go_on = threading.Event(), threading.Event()

    def held(*_):
        begun.set()
        go_on.wait(20)
        go_on.set()  # where something did wait, the test ends here, and fails
        raise PictureError(415, "Let go.")

    for page in (autoencoder, doctor):
        monkeypatch.setattr(page, "read_picture", held)
    with TestClient(create_app(runs), base_url="http://localhost") as client, ThreadPoolExecutor(80) as pool:
        slow = [pool.submit(client.post, "/api/runs/plane/reconstruct", content=b"a picture") for _ in range(30)]
        slow += [pool.submit(client.post, "/api/pictures/checkup", content=b"a picture") for _ in range(30)]
        assert begun.wait(60)
        slow += [pool.submit(client.get, "/api/runs/plane/checkup") for _ in range(5)]
        slow += [pool.submit(client.get, "/api/layer/animation") for _ in range(5)]
        for path in ("/", "/static/studio.css", "/api/layer", "/api/runs", "/api/runs/plane/latent"):
            assert client.get(path).status_code == 200
        assert client.post("/api/runs/plane/decode", json={"point": [0, 0]}).status_code == 200
        assert not any(one.done() for one in slow)
        go_on.set()
        answers = [one.result() for one in slow]
    assert [answer.status_code for answer in answers] == [415] * 60 + [200] * 10


def test_a_port_that_is_taken_is_stepped_over():
    with server._listen("127.0.0.1", 18765) as first, server._listen("127.0.0.1", first.getsockname()[1]) as second:
        assert second.getsockname()[1] > first.getsockname()[1]
        assert math.isclose(first.getsockname()[1], 18765, abs_tol=50)


def test_answers_are_sent_at_once_and_by_one_thread_each(monkeypatch):
    """Nagle's algorithm would hold the second half of every answer back until the browser confirms the first."""
    import asyncio

    import uvicorn

    async def answers_at_once(listener):
        accepted = asyncio.get_running_loop().create_future()
        async with await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listener):
            _, client = await asyncio.open_connection(*listener.getsockname())
            writer = await accepted
            option = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for end in (client, writer):
                end.close()
        return option != 0

    seen = []

    def run(_, sockets):
        seen.extend([asyncio.run(answers_at_once(*sockets)), torch.get_num_threads()])

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    threads = torch.get_num_threads()
    try:
        server.serve(None, port=18865, open_browser=False)
    finally:
        torch.set_num_threads(threads)
    assert seen == [True, 1]
