"""What the latent plane asks for: thumbnails, nearest codes, errors of all images, and the place of an own picture."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from studio_helpers import as_shown, pixels, png

from halfstride import to_float
from halfstride.autoencoder import ImageOptions, Run, decode, reconstruct


def opened(folder_runs, name):
    """A run's model, and the test images in the order in which they are shown."""
    run = Run(folder_runs / name)
    images = ImageOptions.from_record(run.record["data"]).load()
    return run.load_model(), images.test.sample(1000), images.classes


@pytest.mark.parametrize("name", ["classes", "photographs"])
def test_thumbnails_are_the_images_that_were_asked_for(folder_client, folder_runs, name):
    _, sample, _ = opened(folder_runs, name)
    found = pixels(folder_client.get(f"/api/runs/{name}/thumbnails?index=2&index=0").json())
    expected = sample.images[[2, 0]]
    if max(expected.shape[2:]) > 32:
        expected = F.interpolate(to_float(expected), (32, 32), mode="area").mul(255).round().to(torch.uint8)
    assert (found == np.concatenate([as_shown(image) for image in expected])).all()


@pytest.mark.parametrize("query", ["", "index=-1", "index=5000", "&".join(["index=0"] * 257)])
def test_thumbnails_have_limits(folder_client, query):
    assert folder_client.get(f"/api/runs/classes/thumbnails?{query}").status_code == 422


@pytest.mark.parametrize("name", ["classes", "photographs"])
def test_neighbours_are_nearest_by_the_whole_code(folder_client, folder_runs, name):
    model, sample, classes = opened(folder_runs, name)
    with torch.inference_mode():
        codes = model.encode(to_float(sample.images)).flatten(1).double().numpy()
    distances = np.linalg.norm(codes - codes[1], axis=1)
    order = [place for place in np.argsort(distances, kind="stable") if place != 1][:3]
    found = folder_client.get(f"/api/runs/{name}/neighbours?index=1&count=3").json()
    assert [one["distance"] for one in found] == pytest.approx(distances[order], rel=1e-4)
    assert [one["index"] for one in found] == order
    for one in found:
        assert (pixels(one["image"]) == as_shown(sample.images[one["index"]])).all()
        assert one["label"] == (classes[sample.labels[one["index"]]] if classes else None)
    few = folder_client.get(f"/api/runs/{name}/neighbours?index=0&count=24").json()
    assert len(few) == min(24, len(codes) - 1)


@pytest.mark.parametrize("name", ["classes", "denoising", "pairs"])
def test_rows_have_the_errors_that_the_pictures_show(folder_client, folder_runs, name):
    _, sample, classes = opened(folder_runs, name)
    rows = folder_client.get(f"/api/runs/{name}/rows").json()
    shown = folder_client.get(f"/api/runs/{name}/images?count=24").json()
    assert [row["index"] for row in rows] == list(range(len(sample.images)))
    assert [row["name"] for row in rows] == list(sample.names)
    assert [row["label"] for row in rows] == (
        [classes[label] for label in sample.labels] if classes else [None] * len(rows)
    )
    assert [row["mse"] for row in rows[: len(shown)]] == pytest.approx([one["mse"] for one in shown], rel=1e-5)


def test_an_own_picture_is_inverted_and_has_its_place_in_the_plane(folder_client, folder_runs):
    model, *_ = opened(folder_runs, "grey")
    content = png(np.random.default_rng(2).integers(0, 256, (16, 16), dtype=np.uint8))
    image = 255 - decode(content, (1, 16, 16))
    folder_client.get("/api/runs/grey/latent")
    answer = folder_client.post("/api/runs/grey/reconstruct?invert=true", content=content).json()
    assert (pixels(answer["original"]) == as_shown(image)).all()
    assert (pixels(answer["reconstruction"]) == as_shown(reconstruct(model, image[None])[0])).all()
    with torch.inference_mode():
        code = model.encode(to_float(image[None])).flatten().tolist()
    decoded = folder_client.post("/api/runs/grey/decode", json={"code": code}).json()
    assert answer["point"] == pytest.approx(decoded["point"], abs=1e-4)


def test_a_run_without_images_gives_an_own_picture_no_place(client):
    answer = client.post("/api/runs/imageless/reconstruct", content=png(np.zeros((28, 28), np.uint8))).json()
    assert answer["point"] is None
