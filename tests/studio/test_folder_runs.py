"""Runs on folders of pictures, of every kind: that they open, and show what goes in, what comes out, and how good."""

import json
import math
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from making_runs import CLASSES, change
from studio_helpers import as_shown, pixels, png, restored

from halfstride import ConvAutoencoder, TrainingOptions, to_float
from halfstride.autoencoder import ImageOptions, Run, decode, reconstruct
from halfstride.autoencoder.training import corruption_of
from halfstride.studio import open_run, run_files
from halfstride.studio.app import create_app
from halfstride.studio.errors import ForeignSourceError, StudioError
from halfstride.studio.runs_folder import RunsFolder

KINDS = ["grey", "classes", "photographs", "pairs", "denoising", "variational"]


def images_of(run):
    return ImageOptions.from_record(Run(run).record["data"]).load()


@pytest.mark.parametrize("name", KINDS)
def test_a_run_on_a_folder_opens(folder_client, folder_runs, name):
    model = Run(folder_runs / name).load_model()
    split = images_of(folder_runs / name).test
    details = folder_client.get(f"/api/runs/{name}").json()
    assert details["image_shape"] == [model.channels, *model.image_size]
    assert details["latent_shape"] == list(model.latent_shape)
    assert details["variational"] == model.variational
    latent = folder_client.get(f"/api/runs/{name}/latent").json()
    assert len(latent["points"]) == latent["test_images"] == len(split)
    assert len(latent["code"]) == math.prod(model.latent_shape)
    shown = folder_client.get(f"/api/runs/{name}/images").json()
    assert len(shown) == min(12, len(split))
    for one in shown:
        went_in = one["input"] or one["original"]
        image = torch.from_numpy(np.moveaxis(pixels(went_in), -1, 0)[: model.channels].copy())
        assert (pixels(one["reconstruction"]) == as_shown(reconstruct(model, image[None])[0])).all()
    steps = folder_client.post(f"/api/runs/{name}/walk", json={"start": 0, "end": 1}).json()
    assert len(steps) == 9
    np.testing.assert_allclose(steps[0]["point"], latent["points"][0], atol=1e-5)
    picture = png(np.full((20, 30, 3), (10, 200, 30), np.uint8))
    answer = folder_client.post(f"/api/runs/{name}/reconstruct", content=picture).json()
    assert pixels(answer["original"]).shape == (*model.image_size, 3)


@pytest.mark.parametrize("name", ["classes", "photographs"])
def test_a_run_on_a_folder_is_examined_for_checkerboards(folder_client, name):
    assert folder_client.get(f"/api/runs/{name}/checkup").json()["layers"]


def test_classes_have_their_names_and_come_in_turns(folder_client, folder_runs):
    latent = folder_client.get("/api/runs/classes/latent").json()
    assert sorted(latent["classes"]) == sorted(CLASSES)
    labels = [one["label"] for one in folder_client.get("/api/runs/classes/images").json()]
    assert set(labels[:3]) == set(labels[3:6]) == set(CLASSES)
    assert folder_client.get("/api/runs/grey/latent").json()["classes"] is None


def test_the_images_shown_are_a_sample_of_all(folder_runs, monkeypatch):
    monkeypatch.setattr(open_run, "_IMAGES_SHOWN", 4)
    split = images_of(folder_runs / "classes").test
    with TestClient(create_app(folder_runs), base_url="http://localhost") as client:
        latent = client.get("/api/runs/classes/latent").json()
        shown = client.get("/api/runs/classes/images").json()
        assert client.get("/api/runs/classes/images?start=4").status_code == 422
    assert (len(latent["points"]), latent["test_images"]) == (4, len(split))
    for one, image in zip(shown, split.sample(4).images, strict=True):
        assert (pixels(one["original"]) == as_shown(image)).all()


def test_what_goes_into_a_denoising_run_is_the_corrupted_image(folder_client, folder_runs):
    run = Run(folder_runs / "denoising")
    assert folder_client.get("/api/runs/denoising").json()["corruption"] == "gaussian:0.2"
    clean = images_of(run.path).test.sample(1000).images
    corrupt = corruption_of(TrainingOptions.from_record(run.record["training"]))
    noisy = corrupt(to_float(clean), 0).mul(255).round().to(torch.uint8)
    for place, one in enumerate(folder_client.get("/api/runs/denoising/images").json()):
        assert (pixels(one["original"]) == as_shown(clean[place])).all()
        assert (pixels(one["input"]) == as_shown(noisy[place])).all()
    with torch.inference_mode():
        codes = run.load_model().encode(to_float(noisy)).numpy()
    code = folder_client.post("/api/runs/denoising/decode", json={"index": 1}).json()["code"]
    np.testing.assert_allclose(code, codes[1], atol=1e-5)


def test_pairs_show_the_noisy_image_and_its_clean_twin(folder_client, folder_runs):
    assert folder_client.get("/api/runs/pairs").json()["paired"]
    pairs = images_of(folder_runs / "pairs").test.sample(1000).images
    for pair, one in zip(pairs, folder_client.get("/api/runs/pairs/images").json(), strict=True):
        assert (pixels(one["input"]) == as_shown(pair[0])).all()
        assert (pixels(one["original"]) == as_shown(pair[1])).all()
        error = (
            to_float(pair[1:]) - torch.from_numpy(pixels(one["reconstruction"]).copy()).movedim(-1, 0) / 255
        ).square()
        assert one["mse"] == pytest.approx(error.mean().item(), rel=1e-4)


def test_codes_too_long_for_the_page_stay_with_the_server(folder_runs, monkeypatch):
    monkeypatch.setattr(open_run, "_CODE_NUMBERS", 100)
    with TestClient(create_app(folder_runs), base_url="http://localhost") as client:
        latent = client.get("/api/runs/photographs/latent").json()
        assert (latent["numbers"], latent["code"], latent["sliders"]) == (128, [], [])
        decoded = client.post("/api/runs/photographs/decode", json={"point": [0.2, 0.1]}).json()
        assert decoded["code"] == []
        np.testing.assert_allclose(decoded["point"], [0.2, 0.1], atol=1e-5)


@pytest.mark.parametrize("bound", ["_SHOWN_BYTES", "_SHOWN_CELLS", "_SHOWN_NUMBERS"])
def test_large_images_features_and_codes_leave_fewer_images(folder_runs, monkeypatch, bound):
    run = RunsFolder(folder_runs).open("photographs")
    taken = {"_SHOWN_BYTES": 2 * 3 * 64 * 64, "_SHOWN_CELLS": run.model.cells, "_SHOWN_NUMBERS": 128}[bound]
    for most in (3, 0):
        monkeypatch.setattr(open_run, bound, most * taken)
        assert len(RunsFolder(folder_runs).open("photographs").latent().points) == max(most, 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"latent": "map", "latent_dim": 2, "image_size": (37, 53), "downscale": 16},
        {"image_size": 64, "channels": 3, "width": 16},
        {"downsampling": "pool", "upsampling": "resize"},
        {"latent": "map", "latent_dim": 2, "channels": 3, "downscale": 2, "upsampling": "transposed"},
        {"width": 2, "channels": 3, "downsampling": "pool"},
    ],
)
def test_the_largest_features_are_known_without_running_the_model(options):
    model = ConvAutoencoder(**{"image_size": 28, **options})
    seen = [0]
    for module in model.modules():
        module.register_forward_hook(lambda *given: seen.append(given[2].numel()))
    with torch.inference_mode():
        model(torch.rand(1, model.channels, *model.image_size))
    cells = run_files._cells(model, model.image_size, pools=options.get("downsampling") == "pool")
    assert max(seen) <= cells <= 2 * max(seen)


def test_a_map_trained_on_images_of_another_size_shows_theirs(folder_runs, tmp_path):
    shutil.copytree(folder_runs / "photographs", tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text(encoding="utf-8")), "image_size": 32}), encoding="utf-8"
    )
    folder = RunsFolder(tmp_path)
    folder.allow("other", [str(folder_runs / "pictures" / "фото")])
    run = folder.open("other")
    assert (run.model.image_size, run.model.latent_shape) == ((64, 64), (2, 8, 8))
    assert run.reconstructions(0, 1) == RunsFolder(folder_runs).open("photographs").reconstructions(0, 1)
    assert run.decode_image(0).image.height == 64


@pytest.mark.parametrize("name", ["classes", "photographs"])
def test_the_evaluation_is_the_runs_own(folder_client, folder_runs, name):
    found = Run(folder_runs / name).evaluation
    told = folder_client.get(f"/api/runs/{name}/evaluation").json()
    assert told["verdict"] == found.verdict._asdict()
    for one, row in zip(told["rows"], found.rows, strict=True):
        assert one == row._asdict()
    for part in ("train", "validation", "test"):
        assert told[part] == getattr(found, part)._asdict()
    assert (told["used"], told["numbers"], told["compared"]) == (found.used, found.numbers, found.compared)
    assert told["neighbours"] == (found.neighbours and found.neighbours._asdict())
    assert (told["neighbours"] is not None) == (name == "classes")
    assert not told["outdated"]


def test_a_run_without_an_evaluation_has_none(folder_client):
    answer = folder_client.get("/api/runs/grey/evaluation")
    assert (answer.status_code, answer.json()) == (200, None)


def test_an_evaluation_of_a_model_that_trains_on_is_called_outdated(folder_client, folder_runs):
    assert folder_client.get("/api/runs/classes/progress").json()["evaluation"] is not None
    with restored(folder_runs / "classes" / "run.json"):
        change(folder_runs / "classes", stages=[2, 5])
        assert folder_client.get("/api/runs/classes/evaluation").json()["outdated"]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "{}", '{"verdict": NaN}', "[1]"])
def test_a_damaged_evaluation_is_told_in_one_line(folder_client, folder_runs, text):
    path = folder_runs / "classes" / "evaluation.json"
    with restored(path):
        path.write_text(text, encoding="utf-8")
        answer = folder_client.get("/api/runs/classes/evaluation")
    assert answer.status_code == 409
    assert re.search(
        r"^evaluation\.json: (`.*evaluation.json` is damaged|`evaluation` has|it is nested too deeply)",
        answer.json()["error"],
    )
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "digits"}, "`data` in run.json: `record` (='digits') must be a mapping"),
        (
            {"data": {"source": "digits", "colour": 3}},
            "`data` in run.json: `record` (={'source': 'digits', 'colour': 3}) must",
        ),
        ({"data": {"size": [16, 16]}}, "`data` in run.json: `record`"),
        ({"data": {"source": "/nowhere"}}, "The run's images cannot be read: `source` (=/nowhere) does not exist"),
        ({"data": None}, "The run's images were passed as arrays"),
        ({"training": {"corruption": "fog:9"}}, "The run's images cannot be read: "),
        ({"training": None}, "The run's images cannot be read: `training` of the run's record"),
        ({"data": {"source": "digits"}}, "The run's images have another size than its model takes"),
    ],
)
def test_a_damaged_record_costs_the_images_and_says_so_in_one_line(folder_runs, tmp_path, changes, message):
    shutil.copytree(folder_runs / "grey", tmp_path / "run")
    change(tmp_path / "run", **changes)
    with TestClient(create_app(tmp_path), base_url="http://localhost") as client:
        assert client.get("/api/runs/run").status_code == 200
        answer = client.get("/api/runs/run/latent")
        if answer.status_code == 403:
            client.post("/api/runs/run/allow", json={"sources": answer.json()["sources"]})
            answer = client.get("/api/runs/run/latent")
    assert answer.status_code == 409
    assert answer.json()["error"].startswith(message)
    assert "\n" not in answer.json()["error"]


def test_a_run_with_an_encoder_of_ones_own_shows_its_figures_and_is_not_run(folder_client, folder_runs, monkeypatch):
    monkeypatch.syspath_prepend(folder_runs / "own-encoder")
    (folder_runs / "own-encoder" / "mine.py").write_text("raise AssertionError('it was imported')", encoding="utf-8")
    details = folder_client.get("/api/runs/own-encoder").json()
    assert (details["encoder"], details["image_shape"], details["parameters"]) == ("mine:encoder", [1, 16, 16], None)
    assert details["pictures"] == ["reconstructions.png"]
    progress = folder_client.get("/api/runs/own-encoder/progress").json()
    assert progress["model"] is not None
    assert progress["metrics"][-1]["step"] == progress["steps_asked"] == 2
    assert folder_client.get("/api/runs/own-encoder/evaluation").json()["verdict"]["sentence"]
    picture = folder_client.get("/api/runs/own-encoder/pictures/reconstructions.png")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert picture.content == (folder_runs / "own-encoder" / "reconstructions.png").read_bytes()
    for method, path, body in (
        ("GET", "latent", None),
        ("GET", "images", None),
        ("GET", "checkup", None),
        ("POST", "decode", {"index": 0}),
        ("POST", "walk", {"start": 0, "end": 1}),
        ("POST", "reconstruct", {}),
    ):
        answer = folder_client.request(method, f"/api/runs/own-encoder/{path}", json=body)
        assert answer.status_code == 409
        assert answer.json()["error"] == details["not_run"]
    assert details["not_run"].startswith("This run's encoder is your own (mine:encoder).")
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    "file", ["stolen.png", "run.json", "..%2fgrey%2frun.json", "nothing.png", "%2e%2e", "x" * 3000]
)
def test_no_other_file_is_handed_out(folder_client, file):
    assert folder_client.get(f"/api/runs/own-encoder/pictures/{file}").status_code == 404


@pytest.fixture
def strange(folder_runs, tmp_path):
    """A runs folder with a run that was made elsewhere, and its images' folder inside."""
    shutil.copytree(folder_runs / "grey", tmp_path / "run")
    shutil.copytree(folder_runs / "pictures" / "grey", tmp_path / "run" / "grey")
    return tmp_path


@pytest.mark.parametrize(
    "source",
    ["/elsewhere", "hub:ylecun/mnist", "hub:/elsewhere", "//server/share", "run/../../x", "{root}/../x", "hub:"],
)
def test_images_elsewhere_are_read_after_they_were_allowed(strange, monkeypatch, source):
    source = source.format(root=strange)
    read = []

    def load(options, **_):
        read.append(options.source)
        raise ValueError("it is read")

    monkeypatch.setattr(ImageOptions, "load", load)
    change(strange / "run", data={"source": source, "size": [16, 16], "channels": 1})
    with TestClient(create_app(strange), base_url="http://localhost") as client:
        assert client.get("/api/runs/run").status_code == 200  # the run's figures need no images
        for path in ("latent", "images", "checkup"):
            answer = client.get(f"/api/runs/run/{path}")
            assert (answer.status_code, answer.json()["sources"]) == (403, [source])
        assert client.post("/api/runs/run/allow", json={"sources": ["/other"]}).status_code == 409
        assert client.get("/api/runs/run/latent").status_code == 403
        assert read == []
        assert client.post("/api/runs/run/allow", json={"sources": [source]}).status_code == 200
        assert "it is read" in client.get("/api/runs/run/latent").json()["error"]
    assert read == [source]


def test_images_in_the_runs_folder_are_read_unless_they_are_links_out_of_it(strange, folder_runs):
    own = strange / "run" / "grey"
    change(strange / "run", data={"source": str(own), "size": [16, 16], "channels": 1})
    assert RunsFolder(strange).open("run").latent().points
    for link, target in ((own / "a.png", "/etc/hostname"), (own / "below", folder_runs / "pictures")):
        link.symlink_to(target)
        with pytest.raises(StudioError, match="not in the runs folder"):
            RunsFolder(strange).open("run").latent()
        link.unlink()
    own.rename(strange.parent / "moved")
    own.symlink_to(strange.parent / "moved")
    with pytest.raises(StudioError, match="not in the runs folder"):
        RunsFolder(strange).open("run").latent()


def test_pairs_ask_for_both_folders(strange):
    change(strange / "run", data={"source": "/noisy", "clean": "/clean", "size": [16, 16], "channels": 1})
    with pytest.raises(ForeignSourceError) as refused:
        RunsFolder(strange).open("run").latent()
    assert refused.value.sources == ["/noisy", "/clean"]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_picture_of_ones_own_is_fitted_as_the_runs_images_were(folder_runs, tmp_path, fit):
    shutil.copytree(folder_runs / "grey", tmp_path / "run")
    record = Run(tmp_path / "run").record
    change(tmp_path / "run", data={**record["data"], "fit": fit, "white": 1000})
    picture = np.random.default_rng(0).integers(0, 1000, (20, 50)).astype(np.uint16)
    with TestClient(create_app(tmp_path), base_url="http://localhost") as client:
        assert client.get("/api/runs/run").json()["fit"] == fit
        answer = client.post("/api/runs/run/reconstruct", content=png(picture)).json()
    assert (pixels(answer["original"]) == as_shown(decode(picture, (1, 16, 16), fit, 1000))).all()


def test_what_is_being_done_with_the_images_is_told(folder_runs, monkeypatch):
    folder, seen = RunsFolder(folder_runs), []
    before = open_run.OpenRun._note

    def note(run, *given):
        before(run, *given)
        seen.append(folder.work("photographs"))

    monkeypatch.setattr(open_run.OpenRun, "_note", note)
    assert folder.work("photographs") is None
    folder.open("photographs").latent()
    assert {work.total for work in seen} == {24}
    assert folder.work("photographs") is None
