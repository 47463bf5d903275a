"""Which latent suits a set of images, where the user leaves it open."""

from __future__ import annotations

import math
from typing import NamedTuple

from halfstride.autoencoder.baselines import PCA, Thumbnail
from halfstride.autoencoder.images import Images, to_float
from halfstride.autoencoder.images.splits import inputs_and_targets
from halfstride.autoencoder.model import Latent, largest_downscale

_COMPRESSION = 48  # numbers of an image over those of its code
_LEAST_VECTOR, _MOST_VECTOR = 32, 512
_MAP_DOWNSCALE = 8
_IMAGES = 1_000  # training images that are looked at, a fifth of them held out
_VALUES = 2**27  # in them: of large images fewer

_EQUAL = (0.5 / 255) ** 2  # variance over the images below which they are the same to half a grey level

# Seen: digits 0.29, clothes 0.30, faces 0.25; photographs and textures at most 0.01.
_SHARED_LAYOUT = 0.15
# Seen: digits 3.6 to 4.7 dB, clothes 3.3; crops of photographs -0.5 to 1.6.
_PCA_LEAD = 2.0


class LatentChoice(NamedTuple):
    """What `choose_latent` decided; the first four are arguments of `ConvAutoencoder`."""

    latent: Latent
    latent_dim: int
    downscale: int | None
    linear: bool
    reason: str


def choose_latent(
    images: Images, *, latent: Latent | None = None, latent_dim: int | None = None, downscale: int | None = None
) -> LatentChoice:
    """Choose the kind and size of the latent by the training images.

    A vector suits images that share a layout. They do where the mean image explains at least 15 % of the variance of
    all values, and PCA, which has a component for every place, is at least 2 dB better on held-out training images than
    a thumbnail with as many numbers, which has none. A map suits all others. Its code is 48 times smaller than the
    image (for grey images 32 times); a vector has 32 numbers, or for larger images a 48th of the image's, at most 512.

    Args:
        images: what `load_images` returned; test and validation images are not looked at.
        latent: `"vector"` or `"map"` where that is decided already.
        latent_dim: length of the vector or channels of the map, where that is decided.
        downscale: size of the image over that of the map, where that is decided.

    Example:
        >>> import halfstride
        >>> choose_latent(halfstride.load_images("digits"))[:3]
        ('vector', 32, None)
    """
    shared, why = _share_layout(images)
    reason = f"asked for; {why}" if latent else why
    if latent is None:
        latent = "vector" if shared else "map"
    channels, height, width = images.shape
    if latent == "vector":
        numbers = channels * height * width
        wanted = min(max(numbers // _COMPRESSION, _LEAST_VECTOR), _MOST_VECTOR, numbers)
        # Without a shared layout a vector does not learn by itself, and starts better as PCA of whole images.
        return LatentChoice(latent, wanted if latent_dim is None else latent_dim, downscale, not shared, reason)
    scale = min(_MAP_DOWNSCALE, largest_downscale(images.shape[1:])) if downscale is None else downscale
    wanted = max(1, math.ceil(channels * scale**2 / _COMPRESSION))
    return LatentChoice(latent, wanted if latent_dim is None else latent_dim, scale, True, reason)


def _share_layout(images: Images) -> tuple[bool, str]:
    """Whether training images share a layout, and a sentence that says why."""
    most = max(min(_IMAGES, _VALUES // math.prod(images.shape)), 1)
    sample = inputs_and_targets(images.train.sample(most).images)[1]
    values = to_float(sample)
    if len(values) < 2:
        return False, "one image alone cannot share a layout with others"
    mean = values.mean(0, keepdim=True)
    colour = values.mean((0, 2, 3), keepdim=True)
    total = float((values - colour).square().mean())
    if float((values - mean).square().mean()) < _EQUAL:
        return False, "the training images are all the same"
    # A mean over so many images has a share of the variance even where nothing is shared.
    share = float((mean - colour).square().mean()) / total - 1 / len(values)
    told = f"the mean image explains {max(share, 0):.0%} of the training images' variance"
    if share < _SHARED_LAYOUT:
        return False, f"{told}, so they share no layout"
    held_out = len(sample) // 5
    if held_out == 0:
        return False, f"{told}, but there are too few to compare PCA on"
    fitted, asked = sample[held_out:], sample[:held_out]
    numbers = max(1, sample[0].numel() // _COMPRESSION)
    targets = to_float(asked)
    errors = [
        float((baseline.reconstruct(targets) - targets).square().mean())
        for baseline in (PCA(fitted, numbers), Thumbnail(fitted, numbers))
    ]
    lead = 10 * math.log10(max(errors[1], 1e-12) / max(errors[0], 1e-12))
    told += f", and PCA is {lead:.1f} dB better than a thumbnail with as many numbers"
    return (True, f"{told}, so they share a layout") if lead >= _PCA_LEAD else (False, f"{told}, which is too little")
