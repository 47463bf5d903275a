"""What the studio's addresses answer: the package's own numbers, and a clear no to everything else."""

import json
import math
import os
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from studio_helpers import as_shown, pixels, png, restored

from halfstride import ConvAutoencoder, diagnose, diagnose_image, to_float
from halfstride.autoencoder import decode, reconstruct
from halfstride.figures import principal_plane
from halfstride.studio import open_run
from halfstride.studio.app import create_app
from halfstride.studio.explanation import explain
from halfstride.studio.layer import Layer
from halfstride.studio.pages import doctor


def test_a_layer_is_told_as_explain_tells_it(client):
    answer = client.get("/api/layer", params={"form": "resize", "padding": 1, "input": "1,2,3,4,5,6,7,8,9.5"})
    layer = Layer(form="resize", padding=1, input=(1, 2, 3, 4, 5, 6, 7, 8, 9.5))
    assert answer.json() == json.loads(explain(layer).model_dump_json())


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("stride=-1", "`stride` (='-1'): Input should be greater than or equal to 1"),
        ("input_size=" + "9" * 400, "`input_size`: Input should be"),
        ("input_size=three", "`input_size` (='three'): Input should be a valid integer"),
        ("form=pool", "`form` (='pool'): Input should be 'conv', 'transposed', 'resize' or 'subpixel'"),
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


def test_the_runs_are_listed_and_links_out_of_the_folder_are_not(client, runs):
    found = {run["name"]: run for run in client.get("/api/runs").json()}
    assert set(found) == {
        *("plane", "deep", "map", "uneven", "imageless"),
        *("damaged", "bad-metrics", "bad-stages", "deep-json", "huge", "wide", "tall"),
    }
    told = {
        "latent": [2], "compression": 392, "loss": "mse", "learning_rate": 0.004, "steps_done": 300, "steps_asked": 500,
        "validation_mse": 0.055, "test_mse": 0.06, "error": None,
    }  # fmt: skip
    assert {name: found["plane"][name] for name in told} == told
    assert found["plane"]["changed"] == pytest.approx((runs / "plane" / "run.json").stat().st_mtime, abs=60)
    assert (found["map"]["latent"], found["map"]["compression"]) == ([2, 4, 4], 784 / 32)
    for name, reason in {
        "bad-stages": "is damaged (stages=[-3])",
        "bad-metrics": "metrics.jsonl` is damaged at line 1: restore it, or train again.",
        "deep-json": "run.json: it is nested too deeply to be read.",
        "damaged": "model.safetensors is damaged or incomplete: restore it, or train this run again.",
        "huge": "is too large to be shown",
    }.items():
        assert reason in found[name]["error"]


def test_runs_that_come_change_and_go_are_listed_as_they_are(runs, tmp_path):
    shutil.copytree(runs / "plane", tmp_path / "one")
    with TestClient(create_app(tmp_path), base_url="http://localhost") as client:

        def listed():
            return [(run["name"], run["steps_done"], run["error"] is None) for run in client.get("/api/runs").json()]

        assert listed() == [("one", 300, True)]
        shutil.copytree(runs / "deep", tmp_path / "two")
        metrics = (tmp_path / "one" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        (tmp_path / "one" / "metrics.jsonl").write_text("\n".join(metrics[:1]), encoding="utf-8")
        assert listed() == [("one", 100, True), ("two", 300, True)]
        (tmp_path / "two" / "config.json").write_text("{", encoding="utf-8")
        assert listed() == [("one", 100, True), ("two", 300, False)]
        assert client.get("/api/runs/one/progress").status_code == 200
        shutil.rmtree(tmp_path / "one")
        assert [name for name, *_ in listed()] == ["two"]
        answer = client.get("/api/runs/one/progress")
        assert (answer.status_code, answer.json()["error"]) == (
            404, "`run` (='one') is not in the runs folder: it was moved, renamed or deleted. Choose another."
        )  # fmt: skip


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
    with restored(path) as before:
        line = {"step": 400, "train_mse": 0.01, "seconds": 2.0}
        line |= dict.fromkeys(("validation_mse", "validation_loss", "test_mse"), math.nan)
        path.write_bytes(before + json.dumps(line).encode() + b'\n{"step": 500, "tr')
        progress = client.get("/api/runs/plane/progress").json()
    assert len(progress["metrics"]) == 4  # what is being written is not there yet
    told = {name: value for name, value in progress["metrics"][-1].items() if value is not None}
    assert told == {"step": 400, "train_mse": 0.01, "seconds": 2.0}
    assert progress["kept"] == 200


def test_reconstructions_and_their_errors_are_the_models_own(client, runs, shown_digits):
    model = ConvAutoencoder.from_pretrained(runs / "plane")
    answer = client.get("/api/runs/plane/images", params={"start": 5, "count": 3}).json()
    outputs = reconstruct(model, shown_digits.images[5:8])
    for place, (one, output) in enumerate(zip(answer, outputs, strict=True), 5):
        original = shown_digits.images[place]
        assert one["index"] == place
        assert one["label"] == str(shown_digits.labels[place].item())
        assert (pixels(one["original"]) == as_shown(original)).all()
        assert (pixels(one["reconstruction"]) == as_shown(output)).all()
        assert one["mse"] == pytest.approx((to_float(original[None]) - to_float(output[None])).square().mean().item())
        lightness = pixels(one["difference"]).astype(int).sum(-1).ravel()
        difference = (original.int() - output.int()).abs().ravel().numpy()
        assert lightness[difference.argmax()] == lightness.max()
        assert lightness[difference.argmin()] == lightness.min()


@pytest.mark.parametrize("name", ["plane", "deep", "map"])
def test_the_latent_plane_is_that_of_the_figures_and_decodes_back(client, runs, shown_digits, name):
    model = ConvAutoencoder.from_pretrained(runs / name)
    with torch.inference_mode():
        codes = model.encode(to_float(shown_digits.images)).flatten(1).double().numpy()
    answer = client.get(f"/api/runs/{name}/latent").json()
    assert (len(answer["points"]), answer["test_images"], answer["numbers"]) == (1000, 1000, codes.shape[1])
    np.testing.assert_allclose(answer["points"], principal_plane(codes)[0], atol=1e-4)
    np.testing.assert_allclose(answer["code"], codes.mean(0), atol=1e-4)
    assert answer["labels"] == shown_digits.labels.tolist()
    assert len(answer["sliders"]) == min(32, codes.shape[1])
    # A point of the plane is a code whose point is that point.
    decoded = client.post(f"/api/runs/{name}/decode", json={"point": [0.3, -0.2]}).json()
    np.testing.assert_allclose(decoded["point"], [0.3, -0.2], atol=1e-6)
    with torch.inference_mode():
        latents = torch.tensor([decoded["code"]]).float().reshape(1, *model.latent_shape)
        image = model.decode(latents).mul(255).round().to(torch.uint8)[0]
    assert (pixels(decoded["image"]) == as_shown(image)).all()


def test_a_code_and_an_image_are_decoded(client, shown_digits, runs):
    model = ConvAutoencoder.from_pretrained(runs / "deep")
    decoded = client.post("/api/runs/deep/decode", json={"index": 7}).json()
    with torch.inference_mode():
        code = model.encode(to_float(shown_digits.images[7:8]))
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
    model = ConvAutoencoder.from_pretrained(path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-2)
    with restored(path / "model.safetensors"):
        model.save_pretrained(path)
        assert client.get("/api/runs/plane/progress").json()["model"] != version
        assert client.post("/api/runs/plane/decode", json={"point": [0, 0]}).json()["image"] != before["image"]
    assert client.post("/api/runs/plane/decode", json={"point": [0, 0]}).json() == before


def test_a_single_run_can_be_shown_and_so_can_none(runs):
    with TestClient(create_app(runs / "plane"), base_url="http://localhost") as client:
        assert [run["name"] for run in client.get("/api/runs").json()] == ["plane"]
    with TestClient(create_app(), base_url="http://localhost") as client:
        assert client.get("/api/runs").json() == []
        assert client.get("/").status_code == 200


@pytest.fixture(scope="module")
def checkered():
    """A picture of noise whose every fourth pixel is brighter."""
    picture = np.random.default_rng(3).integers(0, 200, (64, 96), dtype=np.uint8)
    picture[::4, ::4] += 55
    return picture


@pytest.mark.parametrize("name", ["plane", "uneven"])
def test_a_runs_checkup_is_the_doctors_own(client, runs, shown_digits, name):
    model = ConvAutoencoder.from_pretrained(runs / name)
    found = diagnose(model, to_float(shown_digits.images[:256]))
    answer = client.get(f"/api/runs/{name}/checkup").json()
    assert answer["conclusion"] == str(found).splitlines()[-1]
    assert answer["found"] == found.found == (name == "uneven")
    told = approximately(json.loads(json.dumps(found.to_dict())))
    assert {part: answer[part] for part in told} == told


def approximately(value):
    if isinstance(value, dict):
        return {name: approximately(one) for name, one in value.items()}
    if isinstance(value, list):
        return [approximately(one) for one in value]
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
    model = ConvAutoencoder.from_pretrained(runs / "deep")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.inf)
    with restored(runs / "deep" / "model.safetensors"):
        model.save_pretrained(runs / "deep")
        answer = client.get("/api/runs/deep/checkup")
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
    told = approximately(json.loads(json.dumps(found.to_dict()["measured"])))
    assert [part["measured"] for part in answer["output"]] == told
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


def test_a_picture_in_which_nothing_can_repeat_is_not_judged(client):
    answer = client.post("/api/pictures/checkup", content=png(np.zeros((7, 90), np.uint8))).json()
    assert answer["found"] is None
    assert answer["conclusion"] == (
        "Could not judge: `image` (of 7×90) is too small: four periods of 2 take 8 pixels along each axis."
    )
