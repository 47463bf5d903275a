"""`halfstride sweep`, as a person uses it."""

import re
import shlex

import numpy as np

from halfstride.autoencoder import Run
from small_training import pictures


def test_a_sweep_trains_each_size_and_its_last_line_can_be_pasted(halfstride, photos, tmp_path, monkeypatch):
    photos.rename(tmp_path / "my photos")
    arguments = ["sweep", "my photos", "--latents", "4,2", "--latent", "map", "--size", "16", "--steps", "6"]
    out = halfstride.out(*arguments, "--out", "sweep")
    assert (tmp_path / "sweep" / "sweep.png").exists()
    rows = [line.split() for line in out.splitlines() if re.match(r" +[24] +\d+ ", line)]
    assert [row[:2] for row in rows] == [["2", "8"], ["4", "16"]]
    assert out.count("Latent map:") == 1
    assert out.count("skipped ") == 4
    for dim, row in zip((2, 4), rows, strict=True):
        run = Run(tmp_path / "sweep" / f"latent-{dim}")
        assert run.stages == [3]
        assert row[2] == f"{run.evaluation.validation.mse:.5f}"
    command = out.splitlines()[-1].strip()
    assert "'my photos'" in command
    assert "--latent map --size 16" in command
    halfstride.out(*shlex.split(command)[1:], "--steps", "2", "--out", "pasted")


def test_a_sweep_refuses_several_processes(halfstride, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = halfstride("sweep", "--out", "sweep")
    assert (code, err) == (
        1,
        "error: A sweep runs in one process: start it without torchrun, or train each size by itself.\n",
    )


def test_a_sweep_that_is_behind_pca_names_no_size(halfstride):
    np.save("blobs.npy", pictures(100, shape=(28, 28)))
    out = halfstride.out("sweep", "blobs.npy", "--latents", "2,4", "--steps", "2", "--out", "sweep", "--seed", "3")
    assert "Which size pays cannot be told yet: after 1 steps the model is behind PCA with 2 and 4 numbers." in out
    assert out.splitlines()[-1] == "  halfstride sweep blobs.npy --latents 2,4 --steps 8 --seed 3"
