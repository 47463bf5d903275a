"""Augmentation of training images: flips, rotations by right angles, crops and shifts; and which of them by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride._support.arguments import read_choice
from halfstride.autoencoder.draws import Draw

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

Augment = Literal["none", "flip", "flip-rotate"]

# The rule of `default_augmentation`. Seen: flipped digits 1.5 and clothes 1.4 times the error, photographs 1.03 to 1.2;
# rotated grass and gravel 1.00 to 1.02, photographs 1.06 to 1.1, brickwork 1.7. The ground of printed text, digits and
# clothes is 0.5 to 0.8 of the pixels; the commonest tone of brickwork 0.4, of photographs and other textures 0.1.
_FLIP_LIMIT = 1.25
_ROTATE_LIMIT = 1.05
_PLAIN_GROUND = 0.45
_LEAST_IMAGES, _MOST_IMAGES = 16, 1000
_SIDE, _COMPONENTS = 16, 8


def augment(batch: Tensor, augment: Augment, draw: Draw, *, crop: int | None = None, shift: int = 0) -> Tensor:
    """Shift, crop, flip and rotate images at random, each in its own way.

    It is one look-up of each output pixel's place in its image, in any type, so bytes are moved and not floats.

    Args:
        batch: images N×C×H×W, or pairs N×2×C×H×W whose two images get the same treatment.
        augment: `"none"`, `"flip"` (left to right, half of the images) or `"flip-rotate"` (one of the eight symmetries
            of the square; where the output is not square, one of the four that keep its size).
        draw: the random numbers of these images.
        crop: side of a square cut out at a random place, 1 or more; an axis that is not longer is taken whole. None
            for whole images.
        shift: largest shift in pixels along each axis that is taken whole, 0 or more; the border is replicated.

    Returns:
        Images or pairs of the same type and device, contiguous; `batch` itself where nothing is to be done.

    Raises:
        ValueError: where an argument is out of range.

    Example:
        >>> augment(torch.zeros(4, 3, 96, 80), "flip", Draw(seed=0, step=0, count=4), crop=64).shape
        torch.Size([4, 3, 64, 64])
    """
    read_choice("augment", augment, get_args(Augment))
    if crop is not None and crop < 1:
        raise ValueError(f"`crop` (={crop}) must be at least 1, or None for whole images.")
    if shift < 0:
        raise ValueError(f"`shift` (={shift}) must be at least 0.")
    if len(draw) != len(batch):
        raise ValueError(f"`draw` is of {len(draw)} images, but `batch` has {len(batch)}: give each its own numbers.")
    height, width = batch.shape[-2:]
    whole = crop is None or crop >= max(height, width)
    if not batch.numel() or (augment == "none" and whole and not shift):
        return batch
    numbers = draw.uniforms("augmentation", 5).to(torch.float32).to(batch.device)
    rows = _places(numbers[:, 0], height, crop, shift)
    columns = _places(numbers[:, 1], width, crop, shift)
    if augment != "none":
        columns = torch.where(numbers[:, 2, None] < 0.5, columns.flip(1), columns)
    if augment == "flip-rotate":
        rows = torch.where(numbers[:, 3, None] < 0.5, rows.flip(1), rows)
    places = rows[:, :, None] * width + columns[:, None, :]
    if augment == "flip-rotate" and places.shape[1] == places.shape[2]:
        places = torch.where(numbers[:, 4, None, None] < 0.5, places.mT, places)
    flat = batch.reshape(len(batch), -1, height * width)
    taken = flat.gather(2, places.flatten(1)[:, None].expand(-1, flat.shape[1], -1))
    return taken.view(*batch.shape[:-2], *places.shape[1:])


def _places(numbers: Tensor, size: int, crop: int | None, shift: int) -> Tensor:
    """For each image, which of an axis's `size` pixels come out, in order."""
    taken = min(crop or size, size)
    # The whole axis moves by -shift to shift; a crop has size - taken + 1 places and needs no border.
    choices, first = (size - taken + 1, 0) if taken < size else (2 * shift + 1, -shift)
    # min: a float32 as near to 1 as can be times `choices` may round up.
    start = (numbers * choices).long().clamp_(max=choices - 1) + first
    return (start[:, None] + torch.arange(taken, device=numbers.device)).clamp_(0, size - 1)


def jitter(images: Float[Tensor, "n c h w"], strength: float, draw: Draw) -> Float[Tensor, "n c h w"]:
    """Change the brightness and the contrast of each channel of each image at random.

    Values `v` in [0, 1] become `0.5 + a(v - 0.5) + b`, clipped to [0, 1].

    Args:
        images: what to change, on any device.
        strength: 0 to 1; `a` lies within `1 ± strength`, and `b` within `± strength / 2`.
        draw: the random numbers of these images.

    Example:
        >>> grey = torch.full((1, 1, 1, 1), 0.5)
        >>> bool((jitter(grey, 0.2, Draw(seed=0, step=0, count=1)) - grey).abs() <= 0.1)
        True
    """
    numbers = draw.uniforms("jitter", 2 * images.shape[1]).to(images).mul(2).sub(1).mul(strength)
    contrast, brightness = numbers[..., None, None].chunk(2, 1)
    return (images + contrast * (images - 0.5) + brightness / 2).clamp(0, 1)


class DefaultAugmentation(NamedTuple):
    """What `default_augmentation` decided, and why."""

    augment: Augment
    """What to give to `augment`."""
    reason: str
    """One sentence for the log."""


def default_augmentation(images: UInt8[Tensor, "N C H W"]) -> DefaultAugmentation:
    """Decide from the training images whether flipped and rotated copies of them could be training images too.

    The rule, on at most 1,000 images reduced to 16 grey pixels a side:

    1. `"none"` for fewer than 16 images, and where at least 45 % of all pixels have the tone of a plain ground
       (print, handwriting, drawings, objects cut out: what faces which way often matters there).
    2. PCA with 8 components of one half of the images reconstructs the other half, and the other half flipped. Were
       the set symmetric, both errors would be equal. Where flipping left to right multiplies the error by more than
       1.25: `"none"`.
    3. Where neither kind of flip nor exchanging rows and columns multiplies it by more than 1.05, with two standard
       errors on the safe side, and images are square: `"flip-rotate"`. Otherwise `"flip"`.

    It cannot know what images mean: where left and right matter on textured grounds, take `"none"`.

    Args:
        images: the training images, or a sample of them.

    Example:
        >>> noise = torch.randint(256, (100, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        >>> default_augmentation(noise).augment
        'flip-rotate'
    """
    if len(images) < _LEAST_IMAGES:
        return DefaultAugmentation("none", f"{len(images)} images are too few to tell whether they may be flipped")
    if len(images) > _MOST_IMAGES:
        images = images[torch.linspace(0, len(images) - 1, _MOST_IMAGES).long()]
    ground = _plain_ground(images)
    if ground >= _PLAIN_GROUND:
        return DefaultAugmentation("none", f"{ground:.0%} of the pixels are one plain ground, as of print or drawings")
    scale = _SIDE / max(images.shape[-2:])
    size = (max(round(images.shape[-2] * scale), 1), max(round(images.shape[-1] * scale), 1))
    grey = F.adaptive_avg_pool2d(images.float().mean(1, keepdim=True) / 255, size)[:, 0].double()
    factor, doubt = _error_factor(grey, grey.flip(2))
    if factor > _FLIP_LIMIT:
        return DefaultAugmentation("none", f"flipped images fit the others worse: {factor:.2f} times PCA's error")
    if size[0] == size[1] and images.shape[-1] == images.shape[-2]:
        factors = [(factor, doubt), _error_factor(grey, grey.flip(1)), _error_factor(grey, grey.mT)]
        worst, doubt = max(factors, key=sum)
        if worst + 2 * doubt <= _ROTATE_LIMIT:
            return DefaultAugmentation(
                "flip-rotate", f"rotated images fit the others as well: at most {worst:.2f} times PCA's error"
            )
    return DefaultAugmentation("flip", f"flipped images fit the others as well: {factor:.2f} times PCA's error")


def _plain_ground(images: Tensor) -> float:
    """The largest share of pixels whose grey values lie within a 32nd of the set's range of values."""
    grey = images[:: max(len(images) // 100, 1)].float().mean(1).round().long().flatten()
    below = torch.bincount(grey, minlength=256).cumsum(0).double() / len(grey)
    # The outermost 0.1 % do not count: one bright spot is not the range.
    low, high = int((below > 0.001).nonzero()[0]), int((below >= 0.999).nonzero()[0])
    window = (high - low) // 32 + 1
    below = F.pad(below, (window, 0))
    return float((below[window:] - below[:-window]).max())


def _error_factor(images: Tensor, changed: Tensor) -> tuple[float, float]:
    """PCA's error of changed images over that of images that it was not fitted to either, and the standard error."""
    images, changed = images.flatten(1), changed.flatten(1)
    errors = torch.zeros(2, len(images), dtype=images.dtype)
    half = torch.arange(len(images)) % 2 == 0
    for fitted in (half, ~half):
        mean = images[fitted].mean(0)
        components = torch.linalg.svd(images[fitted] - mean, full_matrices=False).Vh[:_COMPONENTS]
        for row, some in zip(errors, (images, changed), strict=True):
            rest = some[~fitted] - mean
            row[~fitted] = (rest - rest @ components.T @ components).square().sum(1)
    errors += 1e-9 * images.shape[1]  # equal images have no error, and their flipped copies none either
    before, after = errors
    factor = after.sum() / before.sum()
    doubt = (after - factor * before).square().sum().sqrt() / before.sum()
    return float(factor), float(doubt)
