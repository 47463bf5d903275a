"""The options of a run's images: what is checked, what is filled in, and that the same images come back."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import halfstride
from errors import message
from halfstride.autoencoder import ImageOptions, load_images

NAMES = "source, clean, size, channels, fit, test_fraction, white, seed."


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(30):
        Image.fromarray(rng.integers(0, 3000, (9, 7), dtype=np.uint16)).save(tmp_path / f"{i:02}.png")
    return tmp_path


def test_what_was_chosen_is_filled_in_and_gives_the_same_images_again(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    images = load_images(folder.name, fit="pad", test_fraction=0.3, seed=5)
    assert images.options == ImageOptions(
        str(folder), None, size=(9, 7), channels=1, fit="pad", test_fraction=0.3, white=4095, seed=5
    )
    record = json.loads(json.dumps(dataclasses.asdict(images.options)))
    options = ImageOptions.from_record(record)
    assert options == images.options
    monkeypatch.chdir("/")
    Image.new("RGB", (400, 200)).save(folder / "large.png")  # would change size, channels and white
    Image.fromarray(np.full((9, 7), 65_000, np.uint16)).save(folder / "bright.png")
    again = options.load()
    assert again.options == options
    assert again.shape == (1, 9, 7)
    (folder / "large.png").unlink()
    (folder / "bright.png").unlink()
    again = options.load()
    for split, other in ((images.train, again.train), (images.validation, again.validation), (images.test, again.test)):
        assert split.names == other.names
        assert torch.equal(split.images, other.images)
    streamed = options.load(memory_limit=0)
    assert torch.equal(streamed.test.sample(9).images, images.test.sample(9).images)


def test_names_stay_names_and_a_path_that_looks_like_one_is_a_path(folder, monkeypatch):
    assert load_images().options.source == load_images("digits").options.source == "digits"
    assert halfstride.ImageOptions is ImageOptions
    monkeypatch.chdir(folder)
    (folder / "digits").mkdir()
    Image.new("L", (3, 3)).save(folder / "digits" / "a.png")
    assert load_images(folder.__class__("digits")).options.source == str(folder / "digits")
    assert load_images(folder / "digits").train.names == ["a.png"]


def test_arrays_cannot_be_loaded_again():
    images = load_images(np.random.default_rng(0).integers(0, 256, (20, 4, 5), dtype=np.uint8))
    assert images.options == ImageOptions(None, size=(4, 5), channels=1, white=65_535)
    assert message(images.options.load) == (
        "`source` (=None) must say where the images are: these were handed over in memory, so hand them to load_images "
        "again."
    )


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"source": 3}, "`source` (=3) must be a str, or None."),
        ({"source": "a", "clean": ["b"]}, "`clean` (=['b']) must be a str, or None."),
        ({"source": None, "clean": "b"},
            "`clean` (=b) must go with a folder of pictures as `source`, which is in memory."),
        ({"source": "a", "size": [64]}, "`size` (=[64]) must be an int or (height, width)."),
        ({"source": "a", "channels": []}, "`channels` (=[]) must be 1 (grey), 3 (RGB) or None (as the images are)."),
        ({"source": "a", "fit": ["x\ny"]}, '`fit` (=[\'x\\ny\']) must be "crop", "pad" or "stretch".'),
        ({"source": "a", "test_fraction": None}, "`test_fraction` (=None) must lie between 0 and 1, such as 0.2."),
        ({"source": "a", "white": "4095"},
            "`white` (='4095') must be a whole number from 1 to 65,535, such as 4095 for 12 bits."),
        ({"source": "a", "seed": 1.5}, "`seed` (=1.5) must be a whole number."),
        (
            {"source": "a", "colour\n": 1},
            "`record` (={'source': 'a', 'colour\\n': 1}) must be a mapping with a `source` and no names but " + NAMES,
        ),
        ({"size": [1, 2]}, "`record` (={'size': [1, 2]}) must be a mapping with a `source` and no names but " + NAMES),
        ([1], "`record` (=[1]) must be a mapping with a `source` and no names but " + NAMES),
        (None, "`record` (=None) must be a mapping with a `source` and no names but " + NAMES),
    ],
)  # fmt: skip
def test_a_damaged_record(record, text):
    assert message(ImageOptions.from_record, record) == text
