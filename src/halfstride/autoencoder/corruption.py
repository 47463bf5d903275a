"""Corruptions of the input of a denoising autoencoder; the clean image stays the target.

Reference:
    Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders" (2008).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride.autoencoder.draws import Draw

# For each kind: what its number is, the least and the greatest, and whether the least itself is allowed.
_KINDS: dict[str, tuple[str, float, float, bool]] = {
    "gaussian": ("STD", 0, 1, False),
    "poisson": ("PEAK", 0, 1e6, False),
    "salt-and-pepper": ("SHARE", 0, 1, False),
    "jpeg": ("QUALITY", 1, 95, True),
    "blur": ("SIGMA", 0, 100, False),
    "mask": ("SHARE", 0, 1, False),
}
_POSSIBLE = ", ".join(f"{kind}:{meaning}" for kind, (meaning, *_) in _KINDS.items())

_PATCHES_PER_SIDE = 8  # a masked patch's side is an eighth of the image's smaller side
_MASKED = 0.5  # mid-grey: known beforehand, so that a region can be painted out by hand in the same way


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption and its strength.

    Args:
        kind: what is done, with the unit and the range of `strength`:

            - `"gaussian"`: add Gaussian noise; standard deviation of values in [0, 1], above 0 to 1.
            - `"poisson"`: shot noise; photons at white, above 0 to 1,000,000: the fewer, the noisier.
            - `"salt-and-pepper"`: set pixels, all channels alike, half to white and half to black; share of the pixels,
              above 0 to 1.
            - `"jpeg"`: compress and decompress; quality, an integer from 1 to 95 (colour at half resolution, as Pillow
              writes it by default).
            - `"blur"`: Gaussian blur with replicated borders; standard deviation in pixels, above 0 to 100.
            - `"mask"`: paint square patches mid-grey, side an eighth of the image's smaller side; share of the image,
              above 0 to 1.
        strength: the number.

    Raises:
        ValueError: for an unknown kind, or a strength out of range.

    Example:
        >>> str(Corruption("gaussian", 0.1))
        'gaussian:0.1'
    """

    kind: str
    strength: float

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"`kind` (={self.kind!r}) must be one of {', '.join(_KINDS)}.")
        meaning, least, most, inclusive = _KINDS[self.kind]
        valid = (least <= self.strength if inclusive else least < self.strength) and self.strength <= most
        if not valid or (self.kind == "jpeg" and self.strength != int(self.strength)):
            number = "an integer from" if self.kind == "jpeg" else "from" if inclusive else "above"
            raise ValueError(
                f"`strength` (={self.strength:g}) must be {number} {least:g} to {most:,g}: it is the {meaning} of "
                f"{self.kind}:{meaning}."
                + (" It refers to values in [0, 1]: divide by 255." if self.kind == "gaussian" else "")
            )

    def __str__(self) -> str:
        return f"{self.kind}:{self.strength:g}"


def parse_corruptions(text: str) -> tuple[Corruption, ...]:
    """Read corruptions as the command line gives them.

    Args:
        text: `KIND:STRENGTH`, several joined by commas and applied in that order; `""` or `"none"` for none.

    Raises:
        ValueError: where the text cannot be read; it names the part and lists what is possible.

    Example:
        >>> parse_corruptions("blur:1.5, gaussian:0.1")
        (Corruption(kind='blur', strength=1.5), Corruption(kind='gaussian', strength=0.1))
    """
    if text.strip() in ("", "none"):
        return ()
    corruptions = []
    for part in text.split(","):
        kind, _, number = (piece.strip() for piece in part.partition(":"))
        try:
            if kind not in _KINDS:
                raise ValueError
            strength = float(number)
        except ValueError:
            raise ValueError(
                f"`corruption` (={part.strip()!r}) must be one of {_POSSIBLE}, or several joined by commas."
            ) from None
        try:
            corruptions.append(Corruption(kind, strength))
        except ValueError as error:
            raise ValueError(f"`corruption` (={part.strip()!r}) is out of range: {error}") from None
    return tuple(corruptions)


def corrupt(images: Tensor, corruptions: Sequence[Corruption], draw: Draw) -> Tensor:
    """Corrupt images, each corruption upon the result of the one before.

    After each corruption values are clipped to [0, 1], Gaussian noise included: a camera's sensor and an image file do
    so too, and a model should be trained on the inputs that it will meet.

    Args:
        images: N×C×H×W of a floating type, values in [0, 1]; they are not changed.
        corruptions: what `parse_corruptions` returned.
        draw: the random numbers of these images. They are drawn on the CPU, so that every device gets the same.

    Returns:
        A tensor of the same shape, type, device and memory format; `images` itself where there are no corruptions.

    Raises:
        ValueError: where `draw` is not of as many images, or JPEG meets images of neither 1 nor 3 channels.

    Example:
        >>> noisy = corrupt(torch.rand(4, 3, 8, 8), parse_corruptions("gaussian:0.1"), Draw(seed=0, step=0, count=4))
        >>> noisy.shape
        torch.Size([4, 3, 8, 8])
    """
    if len(draw) != len(images):
        raise ValueError(f"`draw` is of {len(draw)} images, but `images` are {len(images)}: give each its own numbers.")
    if not corruptions or not images.numel():
        return images
    output = images if images.dtype == torch.float64 else images.float()
    for number, corruption in enumerate(corruptions):
        apply = _APPLY[corruption.kind]
        # The purpose holds the place in the chain: the same kind twice draws other numbers the second time.
        output = apply(output, corruption.strength, draw, f"{number} {corruption.kind}").clamp_(0, 1)
    result = torch.empty_like(images)  # keeps the memory format
    return result.copy_(output)


def _gaussian(images: Tensor, std: float, draw: Draw, purpose: str) -> Tensor:
    noise = torch.stack([torch.randn(images.shape[1:], generator=each) for each in draw.generators(purpose)])
    return images + std * noise.to(images.device)


def _poisson(images: Tensor, peak: float, draw: Draw, purpose: str) -> Tensor:
    photons = (images * peak).cpu()
    counted = [torch.poisson(rate, each) for rate, each in zip(photons, draw.generators(purpose), strict=True)]
    return torch.stack(counted).to(images.device) / peak


def _salt_and_pepper(images: Tensor, share: float, draw: Draw, purpose: str) -> Tensor:
    size = (1, *images.shape[2:])
    level = torch.stack([torch.rand(size, generator=each) for each in draw.generators(purpose)]).to(images.device)
    return images.masked_fill(level < share, 0.0).masked_fill(level < share / 2, 1.0)


def _jpeg(images: Tensor, quality: float, draw: Draw, purpose: str) -> Tensor:
    from PIL import Image

    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"`images` (of {channels} channels) must have 1 or 3 for jpeg: leave jpeg out.")
    pixels = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if channels == 1 else image).save(file, "JPEG", quality=int(quality))
        decoded.append(np.asarray(Image.open(file)).reshape(image.shape))
    return torch.from_numpy(np.stack(decoded)).to(images.device).permute(0, 3, 1, 2).to(images.dtype) / 255


def _blur(images: Tensor, sigma: float, draw: Draw, purpose: str) -> Tensor:
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.softmax(-0.5 * (offsets / sigma).square(), 0)
    # All images are channels of one: convolutions of each channel for itself are fast with many channels only.
    maps = images.reshape(1, -1, *images.shape[2:])
    kernel = kernel.expand(maps.shape[1], 1, 1, -1)
    # Replicated borders, unlike reflected ones, are defined for images smaller than the kernel.
    maps = F.conv2d(F.pad(maps, (radius, radius, 0, 0), mode="replicate"), kernel, groups=maps.shape[1])
    maps = F.conv2d(F.pad(maps, (0, 0, radius, radius), mode="replicate"), kernel.mT, groups=maps.shape[1])
    return maps.reshape(images.shape)


def _mask(images: Tensor, share: float, draw: Draw, purpose: str) -> Tensor:
    """Cells of a grid, of which a share is masked; the grid lies at a random place, or its lines would be learned."""
    height, width = images.shape[2:]
    side = max(min(height, width) // _PATCHES_PER_SIDE, 1)
    rows, columns = height // side + 2, width // side + 2
    masks = []
    for generator in draw.generators(purpose):
        top, left = torch.randint(side, (2,), generator=generator).tolist()
        cells = torch.randperm(rows * columns, generator=generator) < max(round(share * rows * columns), 1)
        mask = cells.view(rows, columns).repeat_interleave(side, 0).repeat_interleave(side, 1)
        masks.append(mask[None, top : top + height, left : left + width])
    return images.masked_fill(torch.stack(masks).to(images.device), _MASKED)


_APPLY = {
    "gaussian": _gaussian,
    "poisson": _poisson,
    "salt-and-pepper": _salt_and_pepper,
    "jpeg": _jpeg,
    "blur": _blur,
    "mask": _mask,
}
