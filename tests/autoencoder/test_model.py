"""The autoencoder: exact sizes, independence of the batch, saving and loading, clear errors."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfstride.autoencoder.model import ConvAutoencoder

KINDS = ("resize", "transposed", "subpixel")


@pytest.mark.filterwarnings("ignore::halfstride.UnevenKernelWarning")
@settings(max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from((1, 2, 3, 5)),
    widths=st.lists(st.sampled_from((1, 3, 4, 8)), min_size=1, max_size=4),
    spatial=st.booleans(),
    hidden=st.sampled_from((None, 5)),
    downsampling=st.sampled_from(("stride", "pool")),
    upsampling=st.sampled_from(KINDS),
    kernel=st.sampled_from((None, 2, 3, 4, 5)),
)
def test_any_image_comes_back_at_its_own_size(
    height, width, channels, widths, spatial, hidden, downsampling, upsampling, kernel
):
    model = ConvAutoencoder(
        (height, width),
        channels,
        1,
        spatial=spatial,
        widths=widths,
        hidden_dim=None if spatial else hidden,
        downsampling=downsampling,
        upsampling=upsampling,
        kernel_size=kernel,
    )
    images = torch.rand(2, channels, height, width)
    codes = model.encode(images)
    assert codes.shape == (2, *model.latent_shape)
    output = model(images)
    assert output.shape == images.shape
    assert output.min() >= 0
    assert output.max() <= 1
    torch.testing.assert_close(model.decode(codes), output)


def test_a_spatial_model_takes_images_of_any_size():
    model = ConvAutoencoder(32, 3, 4, spatial=True, widths=(4, 8))
    for size in ((32, 32), (17, 45), (1, 1), (1, 70)):
        assert model(torch.rand(1, 3, *size)).shape[-2:] == size
    codes = model.encode(torch.rand(1, 3, 17, 45))
    assert codes.shape == (1, 4, 5, 12)
    assert model.decode(codes).shape[-2:] == (20, 48)
    assert model.decode(codes, (17, 45)).shape[-2:] == (17, 45)
    with pytest.raises(ValueError, match=r"`output_size` \(=\(30, 45\)\) is encoded to 8×12, not to the 5×12 of these"):
        model.decode(codes, (30, 45))


@pytest.mark.parametrize("upsampling", KINDS)
def test_a_result_does_not_depend_on_its_batch(upsampling):
    torch.manual_seed(0)
    model = ConvAutoencoder(13, latent_dim=4, widths=(8, 8), upsampling=upsampling).train()
    images = torch.rand(5, 1, 13, 13)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-6)


def test_widths_of_any_sequence_are_saved(tmp_path):
    model = ConvAutoencoder(28, widths=range(8, 25, 8), latent_dim=4)
    model.save_pretrained(tmp_path)
    loaded = ConvAutoencoder.from_pretrained(tmp_path)
    assert [tuple(value.shape) for value in loaded.parameters()] == [tuple(value.shape) for value in model.parameters()]


def test_default_widths_follow_the_size():
    def widths(size):
        return [block[0].out_channels for block in ConvAutoencoder(size, latent_dim=1).down]

    assert widths(28) == [32, 64, 128]
    assert widths(1) == [32]
    assert widths((16, 200)) == [32, 64, 128, 256, 256, 256]


def test_saved_model_loads_in_a_process_that_knows_nothing_of_its_arguments(tmp_path):
    torch.manual_seed(0)
    model = ConvAutoencoder(
        (9, 14), 3, 5, widths=(4, 6), hidden_dim=7, upsampling="subpixel", downsampling="pool"
    ).eval()
    model.save_pretrained(tmp_path / "model")
    images = torch.rand(2, 3, 9, 14)
    torch.save(images, tmp_path / "images.pt")
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "model").iterdir()}
    code = (
        "import sys, torch; from halfstride import ConvAutoencoder;"
        "model = ConvAutoencoder.from_pretrained(sys.argv[1] + '/model');"
        "assert not model.training;"
        "torch.save(model(torch.load(sys.argv[1] + '/images.pt')), sys.argv[1] + '/output.pt')"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], check=True, capture_output=True)
    torch.testing.assert_close(torch.load(tmp_path / "output.pt"), model(images))


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    model = ConvAutoencoder(8, latent_dim=2, widths=(4,))
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
    config.write_text(json.dumps({**json.loads(config.read_text()), "widths": [8]}))
    with pytest.raises(ValueError, match=r"does not hold the weights of this model"):
        ConvAutoencoder.from_pretrained(folder)

    config.unlink()
    with pytest.raises(ValueError, match=r"has no config.json"):
        ConvAutoencoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"image_size": 0}, r"`image_size` \(=0\) must be an int of at least 1\."),
        ({"image_size": (8, -1)}, r"`image_size` \(=-1\) must be an int of at least 1\."),
        ({"image_size": (8, 8, 8)}, r"`image_size` \(=\(8, 8, 8\)\) must be height and width, or one int for both\."),
        ({"channels": 0}, r"`channels` \(=0\) must be an int of at least 1\."),
        ({"latent_dim": 2.5}, r"`latent_dim` \(=2\.5\) must be an int of at least 1\."),
        (
            {"image_size": 4, "latent_dim": 17},
            r"`latent_dim` \(=17\) is larger than the image of 1×4×4: use at most 16\.",
        ),
        ({"widths": ()}, r"`widths` \(=\(\)\) must name the channels of at least one level"),
        ({"widths": (8, 0)}, r"`widths` \(=0\) must be an int of at least 1\."),
        ({"hidden_dim": -3}, r"`hidden_dim` \(=-3\) must be an int of at least 1\."),
        ({"hidden_dim": 8, "spatial": True}, r"`hidden_dim` \(=8\) is for latent vectors"),
        (
            {"upsampling": "bilinear"},
            r'`upsampling` \(=\'bilinear\'\) must be one of "resize", "transposed", "subpixel"\.',
        ),
        ({"downsampling": "avg"}, r'`downsampling` \(=\'avg\'\) must be one of "stride", "pool"\.'),
        ({"kernel_size": 0}, r"`kernel_size` \(=0\) must be an int of at least 1\."),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        ConvAutoencoder(**arguments)


def test_bad_images_and_latents_are_named():
    model = ConvAutoencoder(8, latent_dim=2, widths=(4,))
    with pytest.raises(ValueError, match=r"`images` are torch.uint8: this model takes floats in \[0, 1\]"):
        model(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=r"`images` have the shape \(1, 3, 8, 8\): this model takes \(N, 1, height, width\)"
    ):
        model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"`images` are 9×8: this model takes 8×8; bring them to that size, or build"):
        model(torch.zeros(1, 1, 9, 8))
    with pytest.raises(ValueError, match=r"`latents` have the shape N×3: this model decodes N×2\."):
        model.decode(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"`output_size` \(=\(9, 9\)\) must be the model's image_size \(8, 8\)"):
        model.decode(torch.zeros(1, 2), (9, 9))
    spatial = ConvAutoencoder(8, latent_dim=2, widths=(4,), spatial=True)
    with pytest.raises(ValueError, match=r"`latents` have the shape N×3×4×4: this model decodes N×2×h×w\."):
        spatial.decode(torch.zeros(1, 3, 4, 4))
