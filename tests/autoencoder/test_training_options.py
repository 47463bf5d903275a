"""Options of a training: what is refused, what is chosen, and what a record gives back."""

import dataclasses
import re

import pytest

from errors import message
from halfstride.autoencoder import ConvAutoencoder, TrainingOptions, load_images
from small_training import pictures, small_model


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("steps", 0, r"`steps` \(=0\) must be (an int of )?at least 1\."),
        ("steps", True, r"`steps` \(=True\) must be (an int of )?at least 1\."),
        ("epochs", 1.5, r"`epochs` \(=1\.5\) must be (an int of )?at least 1\."),
        ("minutes", float("inf"), r"`minutes` \(=inf\) must be above 0\."),
        ("batch_size", -4, r"`batch_size` \(=-4\) must be (an int of )?at least 1\."),
        ("learning_rate", float("nan"), r"`learning_rate` \(=nan\) must be above 0\."),
        ("beta", -1.0, r"`beta` \(=-1\.0\) must be at least 0\."),
        ("corruption", "fog:1", r"`corruption` \(='fog:1'\) must be one of gaussian:STD, poisson:PEAK"),
        ("augment", "turn", r"`augment` \(='turn'\) must be one of 'none', 'flip', 'flip-rotate'\."),
        ("jitter", 1.5, r"`jitter` \(=1\.5\) must be 0 to 1\."),
        ("crop", 1.5, r"`crop` \(=1\.5\) must be (an int of )?at least 0\."),
        ("loss", "huber", r"`loss` \(='huber'\) must be one of 'mse', 'l1', 'bce', 'sharp'\."),
        ("precision", "fp16", r"`precision` \(='fp16'\) must be one of 'auto', 'float32', 'bfloat16'\."),
        ("seed", 2**63, r"`seed` \(=9223372036854775808\) must be an int from 0"),
    ],
)
def test_bad_options_are_named(option, value, text):
    assert re.search(text, message(TrainingOptions, **{option: value}))


def test_lengths_exclude_each_other():
    with pytest.raises(ValueError, match=r"`steps` \(=5\) and `minutes` \(=1\.0\) exclude each other: give one of"):
        TrainingOptions(steps=5, minutes=1.0)
    assert TrainingOptions(epochs=2).length == {"epochs": 2}
    assert TrainingOptions().length == {}


@pytest.mark.parametrize(
    ("latent", "arguments", "expected"),
    [
        ("vector", {}, {"batch_size": 32, "learning_rate": 1e-3, "shift": 0, "crop": 0, "jitter": 0}),
        ("vector", {"latent_dim": 16}, {"batch_size": 32, "learning_rate": 4e-3, "shift": 1, "crop": 0, "jitter": 0}),
        ("vector", {"linear": True}, {"batch_size": 32, "learning_rate": 1e-3, "shift": 0, "crop": 0, "jitter": 0}),
        ("map", {}, {"batch_size": 16, "learning_rate": 1e-3, "shift": 0, "crop": 0, "jitter": 0.2}),
        ("map", {"linear": False}, {"batch_size": 16, "learning_rate": 1e-3, "shift": 0, "crop": 0, "jitter": 0.2}),
    ],
)
def test_what_is_open_is_chosen(latent, arguments, expected):
    images = load_images(pictures())
    chosen = TrainingOptions().chosen(small_model(latent, **arguments), images)
    assert {name: getattr(chosen, name) for name in expected} == expected
    assert chosen.steps == 4000
    assert chosen.augment == "none"  # blobs on a plain ground
    given = TrainingOptions(batch_size=3, learning_rate=0.1, shift=2, augment="flip", epochs=2)
    kept = given.chosen(small_model(latent, **arguments), images)
    assert (kept.batch_size, kept.learning_rate, kept.shift, kept.augment) == (3, 0.1, 2, "flip")
    assert kept.length == {"steps": 28}  # of 40 images
    assert TrainingOptions(minutes=2.0).chosen(small_model(latent), images).length == {"minutes": 2.0}


@pytest.mark.parametrize(("size", "steps"), [(40, 4000), (48_000, 7500), (10**6, 20_000)])
def test_by_default_steps_are_five_passes_within_limits(size, steps):
    images = load_images(pictures())
    images.train.size = size
    assert TrainingOptions(augment="none").chosen(small_model(), images).steps == steps


@pytest.mark.parametrize(
    ("size", "crop"), [((40, 40), 0), ((43, 43), 32), ((64, 64), 48), ((20, 66), 48), ((85, 85), 56), ((500, 300), 64)]
)
def test_the_default_crop_is_whole_blocks_of_three_quarters_of_the_image(size, crop):
    images = load_images(pictures(10, shape=size))
    model = ConvAutoencoder(size, 1, 1, latent="map", width=2)
    assert TrainingOptions().chosen(model, images).crop == crop


def test_a_crop_needs_a_map():
    with pytest.raises(ValueError, match=r"`crop` \(=5\) needs a latent map, which takes images of any size"):
        TrainingOptions(crop=5).chosen(small_model(), load_images(pictures()))


def test_epochs_need_a_known_number_of_images():
    images = load_images(pictures())
    images.train.size = None
    with pytest.raises(ValueError, match=r"`epochs` \(=3\) needs a known number of images, .*: give `steps`\."):
        TrainingOptions(epochs=3, augment="none").chosen(small_model(), images)
    assert TrainingOptions(augment="none").chosen(small_model(), images).steps == 4000


def test_a_record_gives_the_options_back():
    options = TrainingOptions(steps=5, corruption="blur:1", augment="flip", learning_rate=0.1)
    assert TrainingOptions.from_record(dataclasses.asdict(options)) == options


@pytest.mark.parametrize(
    "record",
    [None, [], {"stps": 5}, {"steps": "5"}, {"seed": "0"}, {"learning_rate": []}, {"corruption": None}, {"loss": []}],
)
def test_a_damaged_record_is_named(record):
    assert re.search(r"^`.*must|^`training` of the run's record", message(TrainingOptions.from_record, record))


def test_a_resumed_run_keeps_its_options_and_takes_a_length():
    recorded = TrainingOptions(batch_size=8, learning_rate=0.1, seed=3)
    assert recorded.resumed(TrainingOptions(batch_size=8, steps=5)) == dataclasses.replace(recorded, steps=5)
    with pytest.raises(ValueError, match=r"`loss` \(=l1\) cannot change in a run that is resumed, where it is mse"):
        recorded.resumed(TrainingOptions(loss="l1"))
