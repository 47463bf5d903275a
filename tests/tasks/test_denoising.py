"""Denoising: every picture at its own size, whole or in tiles, beside clean ones."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from halfstride.autoencoder import load_images
from halfstride.tasks import denoise, denoise_files
from halfstride.tasks import denoising as module
from small_training import pictures, small_model, small_training


def test_a_map_denoises_at_the_pictures_own_size_and_large_ones_in_tiles(runs, scene, monkeypatch):
    model = runs["map"].model
    with torch.inference_mode():
        expected = model(torch.from_numpy(scene)[None, None] / 255)[0, 0] * 255
    whole = denoise(runs["map"], scene).images[0]
    assert whole.shape == (77, 102, 1)
    assert np.abs(whole[..., 0] - expected.numpy()).max() <= 0.5 + 1e-3
    monkeypatch.setattr(module, "_TILE", 24)
    tiled = denoise(runs["map"], scene).images[0]
    # Rounded to bytes, where 1e-5 can decide.
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    assert (tiled != whole).mean() < 1e-3


def test_a_vector_takes_pictures_stretched_to_its_size_and_gives_them_back_at_theirs(runs, scene):
    own = pictures(1, seed=3, shape=(16, 20))[0]
    found = denoise(runs["vector"], [scene, own])
    assert [image.shape for image in found.images] == [(77, 102, 1), (16, 20, 1)]
    with torch.inference_mode():
        expected = runs["vector"].model(torch.from_numpy(own)[None, None] / 255)[0, 0] * 255
    assert np.abs(found.images[1][..., 0] - expected.numpy()).max() <= 0.5 + 1e-3


@pytest.fixture
def twins(folder, tmp_path):
    """Clean twins of the folder's pictures, of another format, one of them damaged and one of another size."""
    for path in sorted(folder.rglob("[0-9].png")):
        twin = tmp_path / "clean" / path.parent.name / f"{path.stem}.bmp"
        twin.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(twin)
    (tmp_path / "clean" / "dogs" / "broken.png").write_bytes(b"nothing")
    (tmp_path / "clean" / "cats" / "0.bmp").write_bytes(b"nothing")
    Image.new("L", (4, 4)).save(tmp_path / "clean" / "cats" / "1.bmp")
    return tmp_path / "clean"


def test_files_are_written_with_their_quality_and_can_be_resumed(runs, folder, twins, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("halfstride.tasks.pictures._MOST_PER_BATCH", 5)

    def stop(what, done, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        denoise_files(runs["map"], folder, out, clean=twins, progress=stop)
    assert not out.exists()
    written, skipped = denoise_files(runs["map"], folder, out, clean=twins, resume=True)
    assert [name.rpartition("/")[2] for name, _ in skipped] == ["0.png", "1.png", "broken.png"]
    assert skipped[0].reason.startswith("has a clean twin that is not a picture")
    assert skipped[1].reason == "has a clean twin of another size, 4×4 pixels"
    assert {name for name, _ in written} == {f"cats-{n}.png" for n in range(2, 6)} | {f"dogs-{n}.png" for n in range(6)}
    assert {path.name for path in out.iterdir()} == {name for name, _ in written} | {"results.csv", "overview.png"}
    with (out / "results.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    row = rows["dogs-3.png"]
    assert row["path"] == str(folder / "dogs" / "3.png")
    assert (float(row["psnr_before"]), float(row["ssim_before"])) == (pytest.approx(100), pytest.approx(1))
    given, output = (np.asarray(Image.open(path)) / 255 for path in (row["path"], out / "dogs-3.png"))
    assert float(row["psnr_after"]) == pytest.approx(-10 * np.log10(((given - output) ** 2).mean()), abs=1e-3)


def test_pictures_in_memory_have_clean_ones_in_order(runs):
    clean = pictures(3, seed=3, shape=(16, 20))
    noisy = (clean * 0.8 + 20).astype(np.uint8)
    found = runs["map"].denoise(noisy, clean)
    expected = [-10 * np.log10(((n / 255 - c / 255) ** 2).mean()) for n, c in zip(noisy, clean, strict=True)]
    assert [quality.psnr_before for quality in found.qualities] == pytest.approx(expected, abs=1e-3)
    figure = found.figure()
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["given", "denoised", "clean"]


def test_what_cannot_be_denoised_is_told(runs, folder, tmp_path):
    small_training(tmp_path / "plain", small_model(), load_images(pictures(20)), steps=2)
    with pytest.raises(ValueError, match="was not trained to remove anything: train one with --corrupt"):
        denoise(tmp_path / "plain", folder)
    with pytest.raises(ValueError, match="`images` hold nothing that can be denoised: 1 skipped"):
        denoise_files(runs["map"], folder / "dogs" / "broken.png", tmp_path / "out")
    assert not (tmp_path / "out.unfinished").exists()
    with pytest.raises(ValueError, match=r"13 \(.*, \.\.\.\) have none"):
        denoise(runs["map"], folder, folder / "dogs")
    with pytest.raises(ValueError, match="`clean` holds 2 pictures for 3"):
        denoise(runs["map"], pictures(3), pictures(2))
