"""Comparing runs: what is said of their images, and an image of one through the model of another."""

import numpy as np
import pytest
import torch
from making_runs import change
from studio_helpers import as_shown, pixels, restored

from halfstride.autoencoder import ImageOptions, Run, reconstruct
from halfstride.studio import runs_folder
from halfstride.studio.runs_folder import RunsFolder


def data(client):
    return {run["name"]: run["data"] for run in client.get("/api/runs").json()}


def test_runs_on_the_same_images_say_the_same_of_them_and_others_do_not(folder_client, folder_runs, client):
    told = data(folder_client)
    pictures = folder_runs / "pictures"
    assert told["grey"] == told["variational"] == f"{pictures / 'grey'}, 1 × 16 × 16"
    assert told["denoising"] == f"{pictures / 'grey'}, 1 × 16 × 16, corrupted by gaussian:0.2"
    assert told["pairs"] == f"{pictures / 'noisy'}, 3 × 16 × 16, clean twins in {pictures / 'clean'}"
    assert told["own-encoder"] == told["classes"]
    assert data(client)["imageless"] == "arrays handed over to imageless, 1 × 28 × 28"
    assert data(client)["deep-json"] is None
    record = Run(folder_runs / "grey").record["data"]
    for changes in ({"seed": 3}, {"fit": "pad"}, {"test_fraction": 0.5}, {"white": 255}, {"source": 3}):
        with restored(folder_runs / "grey" / "run.json"):
            change(folder_runs / "grey", data={**record, **changes})
            assert data(folder_client)["grey"] != told["variational"]


@pytest.mark.parametrize(("name", "by"), [("grey", "variational"), ("denoising", "grey"), ("classes", "grey")])
def test_an_image_of_one_run_goes_through_the_model_of_another(folder_client, folder_runs, name, by):
    own = folder_client.get(f"/api/runs/{name}/images?start=2&count=1").json()[0]
    answer = folder_client.get(f"/api/runs/{name}/reconstruction?by={by}&index=2").json()
    for same in ("index", "label", "input", "original"):
        assert answer[same] == own[same]
    went_in = pixels(own["input"] or own["original"])
    image = torch.from_numpy(np.moveaxis(went_in, -1, 0)[:1].copy())
    output = reconstruct(Run(folder_runs / by).load_model(), image[None])[0]
    assert (pixels(answer["reconstruction"]) == as_shown(output)).all()
    error = (pixels(own["original"]).astype(float) - as_shown(output)) / 255
    assert answer["mse"] == pytest.approx((error**2).mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("by=photographs", 409, "photographs takes images of 3 × 64 × 64, and this one has 1 × 16 × 16: upload a "),
        ("by=own-encoder", 409, "This run's encoder is your own"),
        ("by=none", 404, "`run` (='none') is not in the runs folder"),
        ("by=grey&index=5000", 422, "`index` (=5000) is beyond the"),
    ],
)
def test_what_cannot_be_compared_says_why(folder_client, query, status, message):
    answer = folder_client.get(f"/api/runs/grey/reconstruction?{query}")
    assert answer.status_code == status
    assert answer.json()["error"].startswith(message)


def test_many_runs_leave_the_images_of_the_first_in_memory(folder_runs, monkeypatch):
    loads = []
    load = ImageOptions.load
    monkeypatch.setattr(ImageOptions, "load", lambda *given, **options: loads.append(1) or load(*given, **options))
    monkeypatch.setattr(runs_folder, "_MODELS_KEPT", 1)
    folder = RunsFolder(folder_runs)
    for by in ("grey", "variational", "denoising", "grey"):
        folder.open("grey").reconstructed_by(folder.open(by, keep=False), 0)
    assert len(loads) == 1
