"""A folder of runs to look at: one real, one damaged, and traps."""

import json
import warnings

import pytest
import torch
from fastapi.testclient import TestClient

from halfstride import ConvAutoencoder, UnevenKernelWarning
from halfstride.autoencoder import Run
from halfstride.studio.app import create_app

DATA = {"source": "digits", "size": None, "channels": None, "fit": "crop", "test_fraction": 0.2, "seed": 0}


def metrics(epochs):
    return [
        {
            "epoch": e,
            "train_mse": 0.1 / e,
            "test_mse": 0.12 / e,
            "test_psnr": 10.0 + e,
            "test_ssim": 0.5,
            "seconds": 1.0,
        }
        for e in range(1, epochs + 1)
    ]


def make_run(path, latent_dim=2, seed=0, epochs=3, **options):
    """A run as a training writes it, with random weights: nothing that is tested here asks for good ones."""
    torch.manual_seed(seed)
    model = ConvAutoencoder(28, 1, latent_dim, widths=(8, 8), **options).eval()
    run = Run.create(path, {"training": {"epochs": 5}, "data": DATA, "classes": None})
    run.save_model(model)
    run.write_metrics(metrics(epochs))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("studio")
    outside = make_run(root / "outside")
    folder = root / "runs"
    folder.mkdir()
    make_run(folder / "plane")
    make_run(folder / "deep", latent_dim=12, seed=1)
    make_run(folder / "spatial", latent_dim=2, seed=2, spatial=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnevenKernelWarning)
        make_run(folder / "uneven", upsampling="transposed", kernel_size=3)
    make_run(folder / "imageless")
    record = json.loads((folder / "imageless" / "run.json").read_text(encoding="utf-8"))
    (folder / "imageless" / "run.json").write_text(json.dumps({**record, "data": None}), encoding="utf-8")
    make_run(folder / "damaged")
    (folder / "damaged" / "model.safetensors").write_bytes(b"no weights at all")
    make_run(folder / "bad-metrics")
    (folder / "bad-metrics" / "metrics.jsonl").write_text('{"epoch": "many"}\n', encoding="utf-8")
    make_run(folder / "deep-json")
    (folder / "deep-json" / "run.json").write_text("[" * 100_000, encoding="utf-8")
    # Too many weights; few weights and too large an image.
    for name, change in (("huge", {"widths": [40_000, 40_000]}), ("wide", {"image_size": [60_000, 60_000]})):
        make_run(folder / name, spatial=True)
        path = folder / name / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, **change}), encoding="utf-8")
    (folder / "linked").symlink_to(outside.path, target_is_directory=True)
    make_run(folder / "leaking")
    (folder / "leaking" / "metrics.jsonl").unlink()
    (folder / "leaking" / "metrics.jsonl").symlink_to(outside.path / "metrics.jsonl")
    (folder / "not a run").mkdir()
    return folder


@pytest.fixture(scope="module")
def client(runs):
    with TestClient(create_app(runs), base_url="http://127.0.0.1:8765") as client:
        yield client
