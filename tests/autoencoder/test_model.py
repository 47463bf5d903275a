"""The autoencoder: exact sizes, independence of the batch, its start, saving, sampling, exporting, clear errors."""

import copy
import io
import json
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import halfstride
from errors import message
from halfstride.autoencoder.mixture import draw_like
from halfstride.autoencoder.model import ConvAutoencoder, largest_downscale
from halfstride.checkerboard.coverage import UnevenKernelWarning

UPSAMPLINGS = ("subpixel", "resize", "transposed")


def as_bytes(*shape, seed=0):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def blobs(count, size, channels=1, seed=0):
    """Smooth images with few degrees of freedom, which PCA suits."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size]
    centres = generator.uniform(0, size, (count, channels, 2, 1, 1))
    squares = (rows - centres[:, :, 0]) ** 2 + (columns - centres[:, :, 1]) ** 2
    return torch.from_numpy((255 * np.exp(-squares / size)).round().astype(np.uint8))


# Sizes ------------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::halfstride.UnevenKernelWarning")
@settings(max_examples=80)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.sampled_from((1, 2, 3, 5)),
    latent=st.sampled_from(("vector", "map")),
    downscale=st.sampled_from((None, 2, 4, 8, 16)),
    features=st.sampled_from((1, 3, 4, 8)),
    blocks=st.integers(0, 2),
    downsampling=st.sampled_from(("stride", "pool")),
    upsampling=st.sampled_from(UPSAMPLINGS),
    kernel=st.sampled_from((None, 1, 2, 3, 4, 5)),
    linear=st.sampled_from((None, True, False)),
    variational=st.booleans(),
)
def test_any_image_comes_back_at_its_own_size(
    height, width, channels, latent, downscale, features, blocks, downsampling, upsampling, kernel, linear, variational
):
    if upsampling == "transposed" and kernel is not None:
        kernel += 3  # one below the last layer's stride is refused
    model = ConvAutoencoder(
        (height, width),
        channels,
        1,
        latent=latent,
        downscale=downscale and min(downscale, largest_downscale((height, width))),
        width=features,
        blocks=blocks,
        downsampling=downsampling,
        upsampling=upsampling,
        kernel_size=kernel,
        linear=linear,
        variational=variational,
    ).eval()
    model.double()  # so that results differ by rounding only, not by the order of sums
    with torch.no_grad():
        for parameter in model.parameters():  # far from what the constructor makes: some values leave [0, 1]
            parameter.normal_(std=0.5)
        images = torch.rand(3, channels, height, width, dtype=torch.float64)
        codes = model.encode(images)
        output = model(images)
        alone = model(images[1:2])
    if latent == "map":
        side = model.downscale
        assert model.latent_shape == (1, -(-height // side), -(-width // side))
    assert codes.shape == (3, *model.latent_shape)
    assert output.shape == images.shape
    assert output.isfinite().all()
    assert output.min() >= 0
    assert output.max() <= 1
    with torch.no_grad():
        torch.testing.assert_close(model.decode(codes), output)
    torch.testing.assert_close(alone, output[1:2], rtol=1e-6, atol=1e-8)


def test_a_map_model_takes_images_of_any_size():
    model = ConvAutoencoder(32, 3, 4, latent="map", width=4)
    for size in ((32, 32), (17, 45), (1, 1), (1, 70)):
        assert model(torch.rand(1, 3, *size)).shape[-2:] == size
    codes = model.encode(torch.rand(1, 3, 17, 45))
    assert codes.shape == (1, 4, 3, 6)
    assert model.decode(codes).shape[-2:] == (24, 48)
    assert model.decode(codes, (17, 45)).shape[-2:] == (17, 45)
    with pytest.raises(ValueError, match=r"`output_size` \(=\(30, 45\)\) is encoded to 4×6, not to the 3×6 of these"):
        model.decode(codes, (30, 45))


@pytest.mark.parametrize("latent", ["vector", "map"])
def test_a_batch_of_no_images_keeps_its_shape(latent):
    model = ConvAutoencoder(13, 1, 4, latent=latent, width=8, downscale=8)
    assert model(torch.rand(0, 1, 13, 13)).shape == (0, 1, 13, 13)


def test_training_lets_values_a_little_out_of_range_so_that_they_have_a_gradient():
    model = ConvAutoencoder(8, latent_dim=2, width=4)
    model.initialise(torch.full((4, 1, 8, 8), 255, dtype=torch.uint8))
    with torch.no_grad():
        model.decoder[-1].bias.add_(1)
    images = torch.ones(1, 1, 8, 8)
    assert model.train()(images).detach().max() == pytest.approx(1.05)
    model(images).sum().backward()
    assert model.decoder[-1].bias.grad.abs().max() > 0
    assert model.eval()(images).detach().max() == 1


# The start --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize(("latent", "count"), [("map", 60), ("vector", 60), ("vector", 5), ("map", 1)])
def test_with_a_linear_path_it_starts_as_pca(latent, count, variational):
    from sklearn.decomposition import PCA

    torch.manual_seed(0)
    images = blobs(count, 16, channels=2)
    model = ConvAutoencoder(16, 2, 8, latent=latent, linear=True, width=8, variational=variational, downscale=8).eval()
    model.initialise(images)
    values = images.float() / 255
    if latent == "map":
        rows = values.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    else:
        rows = values.flatten(1)
    pca = PCA(min(8, *rows.shape), svd_solver="full").fit(rows.double().numpy())
    restored = torch.from_numpy(pca.inverse_transform(pca.transform(rows.double().numpy()))).float()
    if latent == "map":
        restored = restored.view(count, 2, 2, 2, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(values.shape)
    else:
        restored = restored.view_as(values)
    with torch.no_grad():
        torch.testing.assert_close(model(values), restored.clamp(0, 1), rtol=0, atol=2e-4)
        codes = model.encode(values)
        if count > 8:
            axes = (0, 2, 3) if latent == "map" else 0
            torch.testing.assert_close(codes.mean(axes), torch.zeros(8), rtol=0, atol=1e-2)
            torch.testing.assert_close(codes.std(axes), torch.ones(8), rtol=0, atol=1e-2)
        if variational:
            assert model.distribution(values)[1].unique().tolist() == [-4]


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("latent", ["vector", "map"])
def test_without_a_linear_path_it_starts_at_the_mean_colour(latent, upsampling):
    images = as_bytes(20, 3, 12, 12)
    model = ConvAutoencoder(12, 3, 4, latent=latent, linear=False, width=4, upsampling=upsampling).eval()
    model.initialise(images)
    expected = (images.float() / 255).mean((0, 2, 3))
    output = model(images[:2].float() / 255).detach()
    torch.testing.assert_close(output, expected[:, None, None].expand_as(output))


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("latent", ["vector", "map"])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_constant_images_are_a_start_too(latent, count, linear):
    model = ConvAutoencoder(16, 1, 4, latent=latent, linear=linear, width=8).eval()
    images = torch.full((count, 1, 16, 16), 51, dtype=torch.uint8)
    model.initialise(images)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    output = model(images.float() / 255).detach()
    torch.testing.assert_close(output, torch.full_like(output, 0.2))
    assert model(torch.rand(2, 1, 16, 16)).isfinite().all()


def test_images_that_are_almost_constant_are_a_start_too():
    images = torch.full((50, 1, 16, 16), 51, dtype=torch.uint8)
    images[7, 0, 3, 3] = 52
    model = ConvAutoencoder(16, 1, 4, latent="map", width=8).eval()
    model.initialise(images)
    assert model(torch.rand(2, 1, 16, 16)).isfinite().all()
    assert (model(images.float() / 255) - images.float() / 255).abs().max() < 1e-2


def test_of_many_blocks_a_sample_is_taken_from_all_places():
    images = torch.zeros(400, 1, 64, 64, dtype=torch.uint8)
    images[:, :, :, 8:16] = as_bytes(400, 1, 64, 1)
    model = ConvAutoencoder(64, 1, 8, latent="map", width=4).eval()
    model.initialise(images)
    values = images[:20].float() / 255
    assert (model(values) - values).square().mean() < 1e-6


def test_the_start_leaves_random_state_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ConvAutoencoder.initialise(model := ConvAutoencoder(16, 1, 4, linear=True, width=4), as_bytes(700, 1, 16, 16))
    del model
    torch.manual_seed(0)  # as the fixture did, before the constructor drew
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_untrained_is_what_was_never_loaded(tmp_path):
    model = ConvAutoencoder(8, latent_dim=2, width=4)
    assert model.untrained
    assert copy.deepcopy(model).untrained
    assert pickle.loads(pickle.dumps(model)).untrained
    model.save_pretrained(tmp_path)
    assert not ConvAutoencoder.from_pretrained(tmp_path).untrained
    other = ConvAutoencoder(8, latent_dim=2, width=4)
    other.load_state_dict(model.state_dict())
    assert not other.untrained
    assert model.untrained


# Variational models and samples -----------------------------------------------------------------------------------
def test_a_variational_model_has_distributions():
    model = ConvAutoencoder(12, 1, 4, latent="map", width=8, variational=True)
    mean, log_variance = model.distribution(torch.rand(3, 1, 12, 12))
    assert mean.shape == log_variance.shape == (3, 4, 2, 2)
    torch.testing.assert_close(model.encode(torch.rand(3, 1, 12, 12)).shape, mean.shape)
    with torch.no_grad():
        model.to_latent.bias[4:] = torch.tensor([1e4, -1e4, 0, 0])
        bounded = model.distribution(torch.rand(3, 1, 12, 12))[1]
    assert bounded[:, 0].unique().tolist() == [10]
    assert bounded[:, 1].unique().tolist() == [-20]
    with pytest.raises(ValueError, match=r"`variational` \(=False\): this model has a code for each image, and no dis"):
        ConvAutoencoder(8, latent_dim=2, width=4).distribution(torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize("latent", ["vector", "map"])
def test_samples_of_a_plain_model_follow_its_codes(latent):
    model = ConvAutoencoder((12, 9), 3, 4, latent=latent, width=8).eval()
    codes = model.encode(torch.rand(200, 3, 12, 9))  # with a gradient, as a person may hand them over
    first, again, other = (model.sample(5, codes=codes, seed=seed) for seed in (0, 0, 2**40 + 1))
    assert first.shape == (5, 3, 12, 9)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    far = codes.detach() + 50
    drawn = draw_like(far.flatten(1), 1000, 0)
    torch.testing.assert_close(drawn.mean(0), far.flatten(1).mean(0), rtol=1e-2, atol=0)
    with pytest.raises(ValueError, match=r"`codes` \(=None\) must be given: a plain model draws from a fit to codes"):
        model.sample(5)
    with pytest.raises(ValueError, match=r"`codes` \(of 1 images\) must be of 2 or more"):
        model.sample(5, codes=codes[:1])
    with pytest.raises(ValueError, match=r"`count` \(=0\) must be (an int of )?at least 1"):
        model.sample(0, codes=codes)


@pytest.mark.parametrize("latent", ["vector", "map"])
@pytest.mark.parametrize("variational", [False, True])
def test_samples_follow_the_seed(latent, variational):
    model = ConvAutoencoder((12, 9), 3, 4, latent=latent, width=8, variational=variational)
    # With a gradient, as a person may hand them over.
    given = {} if variational else {"codes": model.encode(torch.rand(200, 3, 12, 9))}
    first, again, other = (model.sample(5, **given, seed=seed) for seed in (0, 0, 2**40 + 1))
    assert first.shape == (5, 3, 12, 9)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1
    assert model.training
    with pytest.raises(ValueError, match=r"`count` \(=0\) must be (an int of )?at least 1"):
        model.sample(0, **given)


def test_equal_codes_give_samples_too():
    model = ConvAutoencoder(8, latent_dim=2, width=4)
    assert model.sample(3, codes=torch.ones(200, 2)).isfinite().all()


# Saving, exporting, diagnosing ------------------------------------------------------------------------------------
def test_a_saved_model_is_loaded_from_its_folder_alone(tmp_path):
    arguments = {"image_size": (9, 14), "channels": 3, "latent_dim": 5, "latent": "vector", "downscale": 2, "width": 6}
    arguments |= {"blocks": 2, "downsampling": "pool", "upsampling": "transposed", "kernel_size": 5}
    arguments |= {"linear": True, "variational": True}
    with pytest.warns(UnevenKernelWarning):
        model = ConvAutoencoder(**arguments).eval()
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    config = json.loads((tmp_path / "config.json").read_text())
    assert {name: config[name] for name in arguments} == {**arguments, "image_size": [9, 14]}
    images = torch.rand(2, 3, 9, 14)
    loaded = ConvAutoencoder.from_pretrained(tmp_path)
    assert not loaded.training
    torch.testing.assert_close(loaded(images), model(images))


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    model = ConvAutoencoder(8, latent_dim=2, width=4)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    weights, config = folder / "model.safetensors", folder / "config.json"

    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model.safetensors` does not hold the weights of this model"):
        ConvAutoencoder.from_pretrained(folder)

    weights.unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no model.safetensors: name a folder"):
        ConvAutoencoder.from_pretrained(folder)

    weights.write_bytes(whole)
    config.write_text(json.dumps({**json.loads(config.read_text()), "width": 8}))
    with pytest.raises(ValueError, match=r"does not hold the weights of this model"):
        ConvAutoencoder.from_pretrained(folder)

    config.unlink()
    with pytest.raises(ValueError, match=r"has no config.json"):
        ConvAutoencoder.from_pretrained(folder)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_exported_with_free_height_and_width_it_keeps_every_size(upsampling):
    model = ConvAutoencoder(32, 3, 4, latent="map", width=4, upsampling=upsampling).eval()
    free = {"images": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, (torch.rand(2, 3, 32, 40),), dynamic_shapes=free).module()
    for size in ((37, 53), (24, 16), (9, 100)):
        images = torch.rand(1, 3, *size)
        torch.testing.assert_close(exported(images), model(images))


def test_onnx_with_free_height_and_width_keeps_every_size():
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = ConvAutoencoder(32, 3, 4, latent="map", width=4, blocks=0).eval()
    free = {"images": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (torch.rand(2, 3, 32, 40),), dynamo=True, dynamic_shapes=free, verbose=False)
        program.save(file)
    session = runtime.InferenceSession(file.getvalue())
    for size in ((37, 53), (24, 16)):
        images = torch.rand(1, 3, *size)
        (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), model(images).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_diagnose_looks_at_all_upsamplings(upsampling):
    model = ConvAutoencoder(24, 3, 4, latent="map", width=4, upsampling=upsampling).eval()
    diagnosis = halfstride.diagnose(model, torch.rand(16, 3, 24, 24))
    names = {layer.name for layer in diagnosis.layers}
    assert {"decoder.1.layer", "decoder.3", "linear_decoder"} <= names


# Errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"image_size": 0}, r"`image_size` \(=0\) must be (an int of )?at least 1\."),
        ({"image_size": (8, 8, 8)}, r"`image_size` \(=\(8, 8, 8\)\) must be one int, or 2 ints \(one per axis\)\."),
        ({"channels": 0}, r"`channels` \(=0\) must be (an int of )?at least 1\."),
        ({"latent_dim": 2.5}, r"`latent_dim` \(=2\.5\) must be (an int of )?at least 1\."),
        (
            {"image_size": 4, "latent_dim": 17},
            r"`latent_dim` \(=17\) makes a code of 17 numbers, more than the 16 of an image of 1×4×4: use at most 16\.",
        ),
        ({"image_size": (16, 24), "latent_dim": 65, "latent": "map"},
            r"`latent_dim` \(=65\) makes a code of 390 numbers, more than the 384 of an image of 1×16×24: use at most "
            r"64, or a larger `downscale`\."),
        ({"latent": "spatial"}, r"`latent` \(='spatial'\) must be one of 'vector', 'map'\."),
        ({"downscale": 6}, r"`downscale` \(=6\) must be a power of 2, such as 4, 8 or 16\."),
        ({"downscale": 32}, r"`downscale` \(=32\) is larger than images of 28×28: use at most 16\."),
        ({"upsampling": "bilinear"},
            r"`upsampling` \(='bilinear'\) must be one of 'subpixel', 'resize', 'transposed'\."),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(arguments, text):
    assert re.search(text, message(ConvAutoencoder, **arguments))


def test_an_image_smaller_than_a_block_may_have_the_code_of_a_block():
    assert ConvAutoencoder(1, 1, 4, latent="map", width=4).latent_shape == (4, 1, 1)


def test_bad_images_and_latents_are_named():
    model = ConvAutoencoder(8, latent_dim=2, width=4)
    with pytest.raises(ValueError, match=r"`images` are torch.uint8: this model takes floats in \[0, 1\]"):
        model(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=r"`images` have the shape \(1, 3, 8, 8\): this model takes \(N, 1, 8, 8\); bring them"
    ):
        model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(
        ValueError,
        match=r"`images` have the shape \(.*, 1, 9, 8\): this model takes \(N, 1, 8, 8\); bring them to that size",
    ):
        model(torch.zeros(1, 1, 9, 8))
    with pytest.raises(ValueError, match=r"`latents` have the shape N×3: this model decodes N×2\."):
        model.decode(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"`output_size` \(=\(9, 9\)\) must be the model's image_size \(8, 8\)"):
        model.decode(torch.zeros(1, 2), (9, 9))
    mapped = ConvAutoencoder(8, latent_dim=2, width=4, latent="map")
    with pytest.raises(ValueError, match=r"`latents` have the shape N×3×4×4: this model decodes N×2×h×w\."):
        mapped.decode(torch.zeros(1, 3, 4, 4))
