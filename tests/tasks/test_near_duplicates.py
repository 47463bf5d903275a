"""Near duplicates: the blocks against brute force, and copies that are altered."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from halfstride.autoencoder import load_images
from halfstride.tasks import duplicates, load_run
from halfstride.tasks import near_duplicates as module
from small_training import pictures, small_model, small_training


@pytest.mark.parametrize("both", [False, True])
def test_blocks_find_the_pairs_that_brute_force_finds(both, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 37)
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(150, 3)) + 50
    others = generator.normal(size=(90, 3)) + 50 if both else codes
    table = np.linalg.norm(codes[:, None] - others[None], axis=2)
    if not both:
        table[np.tril_indices(150)] = np.inf
    expected = sorted((table[i, j], i, j) for i, j in np.argwhere(table <= 0.5))
    assert len(expected) > 50
    first, second = (torch.from_numpy(side).float() for side in (codes, others))
    found = module.pairs_within(first, second if both else None, 0.5)
    assert {tuple(pair) for pair in found.pairs.tolist()} == {(i, j) for _, i, j in expected}
    np.testing.assert_allclose(found.distances, [distance for distance, _, _ in expected], atol=1e-4)
    assert (found.other_distances.diff() >= 0).all()
    beyond = np.where(table <= 0.5, np.inf, table).min(1)
    np.testing.assert_allclose(found.other_distances, np.sort(beyond[np.isfinite(beyond)]), rtol=1e-3)
    fewer = module.pairs_within(first, second if both else None, 0.5, most=20)
    assert fewer.left_out == len(expected) - 20
    np.testing.assert_array_equal(fewer.pairs, found.pairs[:20])


def blobs(path):
    generator = np.random.default_rng(6)
    path.mkdir()
    for number in range(30):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 10), dtype=np.uint8))
        coarse.resize((80, 64), Image.Resampling.BICUBIC).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize("latent", ["map", "vector"])
def test_altered_copies_are_found_and_different_pictures_are_not(runs, tmp_path, latent):
    first = blobs(tmp_path / "a")
    (tmp_path / "b").mkdir()
    copies = {}
    for number in range(10):
        image = Image.open(first / f"{number}.png")
        kind = ("resized", "compressed", "cropped")[number % 3]
        path = tmp_path / "b" / f"{number}-{kind}.jpg"
        altered = {"resized": image.resize((40, 32)), "compressed": image, "cropped": image.crop((1, 1, 80, 64))}[kind]
        altered.save(path, quality=40)
        copies[str(path)] = str(first / f"{number}.png")
    found = duplicates(runs[latent], first, tmp_path / "b")
    assert {b: a for a, b in found.pairs} == copies
    assert len(found.pairs) == 10
    together = duplicates(runs[latent], [first, tmp_path / "b"])
    assert {frozenset(pair) for pair in together.pairs} == {frozenset(pair) for pair in copies.items()}
    together.save(tmp_path / "out")
    with (tmp_path / "out" / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["first"], row["second"]) for row in rows] == together.pairs
    assert (tmp_path / "out" / "ladder.png").stat().st_size
    assert len(list(tmp_path.glob("[ab]/*"))) == 40  # nothing is deleted


def test_a_runs_test_images_are_compared_with_those_it_was_trained_on(tmp_path):
    folder = blobs(tmp_path / "photos")
    (folder / "train").mkdir()
    (folder / "test").mkdir()
    for path in sorted(folder.glob("*.png")):
        path.rename(folder / ("test" if path.stem in ("3", "4", "5") else "train") / path.name)
    buffer = io.BytesIO()
    Image.open(folder / "train" / "7.png").save(buffer, "jpeg", quality=60)
    (folder / "test" / "copy.jpg").write_bytes(buffer.getvalue())
    images = load_images(folder, size=(16, 20))
    small_training(tmp_path / "run", small_model("map", (16, 20)), images, crop=None, steps=4)
    found = duplicates(tmp_path / "run")
    assert found.pairs == [(str(folder / "train" / "7.png"), str(folder / "test" / "copy.jpg"))]


def test_few_or_equal_pictures(runs, tmp_path):
    same = np.repeat(pictures(1, shape=(16, 20)), 9, 0)
    found = runs["map"].duplicates(same)
    assert (len(found.pairs), found.typical) == (36, pytest.approx(0, abs=1e-4))
    with pytest.raises(ValueError, match="`distance` .=None. is chosen from 8 pictures or more: give a number"):
        duplicates(runs["map"], same[:2])
    found = duplicates(load_run(runs["map"]), pictures(2, shape=(16, 20)), distance=0)
    found.save(tmp_path / "out")  # with no pair at all
    assert found.pairs == []
    with pytest.raises(ValueError, match="was trained on images in memory"):
        duplicates(runs["map"])
    with pytest.raises(ValueError, match="`distance` .=-1. must be 0 or more"):
        duplicates(runs["map"], same, distance=-1)
