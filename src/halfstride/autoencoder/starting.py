"""What an untrained model starts from: principal component analysis, or the images' mean colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstride.autoencoder.principal import principal_axes

if TYPE_CHECKING:
    from halfstride.autoencoder.model import ConvAutoencoder

_MOST_VALUES = 2**26  # of the images that a model starts from: 256 MiB as floats


@torch.no_grad()
def start_from_images(model: ConvAutoencoder, images: Tensor) -> None:
    """`ConvAutoencoder.initialise`."""
    frozen = [(parameter, parameter.clone()) for parameter in model.parameters() if not parameter.requires_grad]
    head: Any = model.decoder[-1]
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    values = images[:: -(-images.numel() // _MOST_VALUES)].float().div(255)
    if model.linear:
        _start_linear_path(model, values)
    else:
        head.bias.copy_(values.mean((0, 2, 3)).repeat_interleave(len(head.bias) // model.channels))
    for parameter, value in frozen:
        parameter.copy_(value)


def _start_linear_path(model: ConvAutoencoder, values: Tensor) -> None:
    """Make the linear path PCA, to which the convolutions add nothing yet."""
    encode: Any = model.linear_encoder
    decode: Any = model.linear_decoder
    last: Any = model.to_latent
    if model.latent == "map":
        rows = F.unfold(model.extend(values), model.downscale, stride=model.downscale).mT.flatten(0, 1)
    else:
        rows = values.flatten(1)
        encode, decode, last = encode[1], decode[0], last[-1]
    mean, axes, deviations = principal_axes(rows, model.latent_dim)
    found = len(axes)  # fewer than wanted where there are few images: the other codes add nothing at first
    encoder, decoder = axes / deviations[:, None], axes * deviations[:, None]
    encode.weight[:found] = encoder.reshape(found, *encode.weight.shape[1:])
    encode.bias[:found] = -encoder @ mean
    nn.init.zeros_(decode.weight)
    decode.weight[:, :found] = decoder.T.reshape(len(mean), found, *decode.weight.shape[2:])
    decode.bias.copy_(mean)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if model.variational:  # narrow distributions, so that training starts from PCA here too
        last.bias[model.latent_dim :] = -4.0
