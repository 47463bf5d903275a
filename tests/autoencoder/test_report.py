"""What a training leaves behind, and what a trained model makes of pictures and of nothing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from halfstride import (
    ConvAutoencoder,
    EncoderAutoencoder,
    Run,
    TrainingOptions,
    load_images,
    reconstruct,
    to_float,
    train,
)
from halfstride.autoencoder import draw_samples, finish, reconstruct_files


def pictures(count=30, size=12, channels=3, seed=0):
    shape = (count, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def small(latent="vector", channels=3, latent_dim=3, **options):
    torch.manual_seed(0)
    return ConvAutoencoder(12, channels, latent_dim, latent=latent, width=4, blocks=0, **options)


def trained(tmp_path, model=None, images=None, **options):
    images = load_images(pictures()) if images is None else images
    model = small() if model is None else model
    train(model, images, tmp_path / "run", TrainingOptions(steps=2, batch_size=8, **options), progress=False)
    return Run(tmp_path / "run"), model, images


def test_finishing_writes_the_evaluation_the_card_and_pictures(tmp_path):
    run, model, images = trained(tmp_path)
    told = []
    evaluation, written = finish(run, model, images, progress=lambda *what: told.append(what))
    assert [path.name for path in written] == ["reconstructions.png", "losses.png", "latent.png"]
    for path in written:
        with Image.open(path) as picture:
            assert min(picture.size) > 100
    assert run.evaluation == evaluation
    assert evaluation.test.images == images.test.size
    card = (run.path / "README.md").read_text()
    assert "2 steps of 8 images with the loss mse, AdamW at a learning rate of 0.001" in card
    assert evaluation.verdict.sentence in card
    assert told
    assert all(0 <= done <= total for _, done, total in told)
    record = json.loads((run.path / "evaluation.json").read_text())
    assert record["rows"][0]["mse"] == evaluation.rows[0].mse


def test_finishing_corrupts_the_inputs_as_in_training(tmp_path):
    evaluation, _ = finish(*trained(tmp_path, corruption="gaussian:0.2"))
    noise = evaluation.row("input").mse
    assert 0.01 < noise < 0.04  # clipped to [0, 1], so a little less than 0.2 squared


@pytest.mark.parametrize("count", [1, 64, 65])
def test_reconstructions_are_the_models_outputs_rounded_to_bytes(count):
    model = small("map").eval()
    images = torch.from_numpy(pictures(count)).permute(0, 3, 1, 2).contiguous()
    outputs = reconstruct(model, images)
    with torch.inference_mode():
        expected = model(to_float(images)).mul(255).round()
    assert outputs.dtype == torch.uint8
    # Convolutions of other batches are rounded otherwise: one grey level where a value lies between two.
    assert (outputs.float() - expected).abs().max() <= 1


def test_files_of_one_name_are_all_written_and_none_is_lost(tmp_path):
    for folder in ("a", "b/c"):
        (tmp_path / folder).mkdir(parents=True)
    pixels = pictures(5, 12)
    names = ("a/x.png", "a/x.bmp", "b/c/x.png", "a/overview.png", "a-x.png")
    for name, picture in zip(names, pixels, strict=True):
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "a" / "broken.png").write_bytes(b"nothing")
    model = small().eval()
    sources = [tmp_path / "a", tmp_path / "b", tmp_path / "a" / "x.png", tmp_path / "a-x.png"]
    written, skipped = reconstruct_files(model, sources, tmp_path / "out")
    assert sorted(path.name for path in written) == [
        "a-x.png",
        "c-x.png",
        "overview-2.png",
        "x-2.png",
        "x-3.png",
        "x.png",
    ]
    assert all(path.is_file() for path in written)
    assert (tmp_path / "out" / "overview.png").is_file()
    assert [name for name, _ in skipped] == [str(tmp_path / "a" / "broken.png")]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_back_in_the_models_channels_and_a_maps_in_their_own_size(tmp_path, channels):
    Image.fromarray(pictures(1, 21)[0]).crop((0, 0, 21, 17)).save(tmp_path / "picture.png")
    for latent, size in (("vector", (12, 12)), ("map", (21, 17))):
        model = small(latent, channels).eval()
        (path,), _ = reconstruct_files(model, [tmp_path / "picture.png"], tmp_path / latent)
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == (size, "L" if channels == 1 else "RGB")


def own_encoder():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))
    return EncoderAutoencoder(encoder, 12, 3)


@pytest.mark.parametrize(
    "model", [small, lambda: small("map"), lambda: small(variational=True), own_encoder], ids=["", "map", "vae", "own"]
)
def test_samples_of_every_kind_of_model_follow_the_seed(tmp_path, model):
    model, images = model().eval(), load_images(pictures())
    images = None if model.variational else images
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        draw_samples(Run(tmp_path), model, images, 7, seed, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_a_plain_model_is_not_sampled_without_images(tmp_path):
    with pytest.raises(ValueError, match=r"`images` \(=None\) must be given for .*, which is not variational"):
        draw_samples(Run(tmp_path), small(), None, 7, 0, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
