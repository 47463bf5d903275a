"""What an untrained model starts from: principal component analysis, or the images' mean colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from halfstride.autoencoder.model import ConvAutoencoder

_MOST_ROWS = 20_000  # of blocks of pixels; of more a random sample is used, always the same
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
    mean, axes, deviations = _principal_axes(rows, model.latent_dim)
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


def _principal_axes(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of N×D rows, the directions (up to `count`×D) in which they differ most, and the deviations along them.

    There are fewer where there are fewer rows or columns, and none where all rows are equal; deviations are at least a
    thousandth of the largest, so that one can divide by them.
    """
    from sklearn.decomposition import PCA

    rows = rows.cpu()
    if len(rows) > _MOST_ROWS:  # at random: every k-th block could always be from the same column of the image
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:_MOST_ROWS]]
    if bool((rows == rows[0]).all()):
        return rows[0], rows.new_empty(0, rows.shape[1]), rows.new_empty(0)
    found = min(count, *rows.shape)
    model = PCA(found, random_state=0).fit(rows.numpy())
    deviations = torch.from_numpy(model.explained_variance_).float().clamp_min(0).sqrt()
    deviations = deviations.clamp_min(max(1e-3 * float(deviations[0]), 1e-4))
    return torch.from_numpy(model.mean_).float(), torch.from_numpy(model.components_).float(), deviations
