"""Tiles: the result of the whole picture, for every kind of model."""

import pytest
import torch

from halfstride.autoencoder import ConvAutoencoder
from halfstride.tasks.tiles import halo_of, tiled

KINDS = {
    "default": {},
    "pool and resize": {"downsampling": "pool", "upsampling": "resize"},
    "transposed": {"upsampling": "transposed", "blocks": 0},
    "wide kernels, 1/16": {"upsampling": "resize", "kernel_size": 5, "downscale": 16, "blocks": 2},
    "1/2": {"downscale": 2, "upsampling": "subpixel"},
}


@pytest.fixture(params=KINDS)
def model(request):
    """A map model in which every weight matters: those of new models begin at zero."""
    torch.manual_seed(0)
    model = ConvAutoencoder(32, 1, 1, latent="map", width=4, **KINDS[request.param]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return model


@torch.no_grad()
def test_tiles_give_the_result_of_the_whole(model):
    image = torch.rand(1, 1, 141, 203)
    for function, decoder, scale in ((model, True, 1), (model.encode, False, model.downscale)):
        expected = function(image)
        halo = halo_of(model, decoder=decoder)
        result = tiled(function, image, tile=40, halo=halo, multiple=model.downscale, scale=scale)
        assert result.shape == expected.shape
        span = float(expected.max() - expected.min())
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5 * span)
        less = tiled(function, image, tile=40, halo=0, multiple=model.downscale, scale=scale)
        assert (less - expected).abs().max() > 1e-3 * span  # the halo is needed
