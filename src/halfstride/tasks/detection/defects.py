"""Synthetic defects: painted on good images, to train what finds defects and to see from which size on it does."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["paint_defects", "paint_patch"]

_UNTOUCHED = 0.4  # share of the images that stay as they are
_LEAST_CHANGE = 0.02  # of a value in [0, 1]: less is no defect


def paint_defects(images: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Paint a defect on some of the images.

    Its shape is a rectangle, a line or a part of smooth noise; what it shows is a part of another image, smooth noise,
    one colour, the image itself darker or brighter, or the image blurred or sharpened.

    Args:
        images: N×C×H×W with values in [0, 1].
        generator: what everything is drawn from.

    Returns:
        The images, and masks N×1×H×W that are 1 where an image was changed.

    Reference:
        Zavrtanik, Kristan & Skočaj, "DRAEM" (arXiv:2108.07610); Li et al., "CutPaste" (arXiv:2104.04015).
    """
    painted, masks = images.clone(), images.new_zeros(len(images), 1, *images.shape[-2:])
    others = generator.permutation(len(images))
    for i in range(len(images)):
        if generator.random() < _UNTOUCHED:
            continue
        mask = _shape(images.shape[-2:], generator)
        content = _content(images[i], images[others[i]], generator)
        soft = _blurred(mask[None], generator.uniform(0.5, 2)) if generator.random() < 0.7 else mask[None]
        opacity = generator.uniform(0.4, 1)
        painted[i] = torch.lerp(images[i], content, soft * opacity).clamp(0, 1)
        changed = (painted[i] - images[i]).abs().amax(0, keepdim=True) > _LEAST_CHANGE
        masks[i] = mask * changed
    return painted, masks


def paint_patch(images: Tensor, size: int, contrast: float, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Make a disc in each image darker, or brighter where that is more.

    Args:
        images: N×C×H×W with values in [0, 1].
        size: the disc's diameter in pixels.
        contrast: by how much values change, above 0 and at most 1.
        generator: what the places are drawn from.

    Returns:
        The images, and masks N×1×H×W.
    """
    height, width = images.shape[-2:]
    rows, columns = _grid(height, width)
    masks = images.new_zeros(len(images), 1, height, width)
    for mask in masks:
        top, left = (
            generator.uniform(min(size / 2, side / 2), max(side - size / 2, side / 2)) for side in images.shape[-2:]
        )
        mask[0] = ((rows + 0.5 - top) ** 2 + (columns + 0.5 - left) ** 2 <= (size / 2) ** 2).to(images.dtype)
    inside = (images * masks).sum((1, 2, 3), keepdim=True) / (
        masks.sum((1, 2, 3), keepdim=True) * images.shape[1] + 1e-9
    )
    change = torch.where(inside > 0.5, -contrast, contrast)
    return (images + masks * change).clamp(0, 1), masks


# Shapes: H×W, 0 or 1 -------------------------------------------------------------------------------------------------


def _shape(size: tuple[int, ...], generator: np.random.Generator) -> Tensor:
    height, width = size
    side = min(height, width)
    rows, columns = _grid(height, width)
    angle = generator.uniform(0, math.pi)
    down, across = rows - generator.uniform(0, height), columns - generator.uniform(0, width)
    along = across * math.cos(angle) + down * math.sin(angle)
    aside = down * math.cos(angle) - across * math.sin(angle)
    kind = generator.integers(3)
    if kind == 0:
        length = _between(0.06 * side, 0.6 * side, generator)
        mask = (along.abs() <= length / 2) & (aside.abs() <= length / 2 * generator.uniform(0.25, 1))
    elif kind == 1:
        length = _between(0.15 * side, side, generator)
        mask = (along.abs() <= length / 2) & (aside.abs() <= generator.uniform(0.5, 2.5))
    else:
        radius = _between(0.1 * side, 0.5 * side, generator)
        noise = _noise(size, int(generator.choice([side // 8, side // 4, side // 2])), generator)
        mask = (noise > generator.uniform(0.2, 0.8)) & (along**2 + aside**2 < radius**2)
    return mask.float()


def _between(least: float, most: float, generator: np.random.Generator) -> float:
    """A length, drawn so that each doubling is as likely as another."""
    return math.exp(generator.uniform(math.log(least), math.log(most)))


# Contents: C×H×W -----------------------------------------------------------------------------------------------------


def _content(image: Tensor, other: Tensor, generator: np.random.Generator) -> Tensor:
    ways: list[Callable[[], Tensor]] = [
        lambda: _altered(other, generator),
        lambda: _texture(image, generator),
        lambda: torch.from_numpy(generator.uniform(0, 1, (len(image), 1, 1)).astype(np.float32)).expand_as(image),
        lambda: image * math.exp(generator.choice([-1, 1]) * generator.uniform(0.25, 1)),
        lambda: _refocused(image, generator),
    ]
    return ways[generator.integers(len(ways))]()


def _altered(image: Tensor, generator: np.random.Generator) -> Tensor:
    """A part of another image, enlarged or shrunk, with another contrast and brightness."""
    height, width = image.shape[-2:]
    zoom = generator.choice([0.5, 0.7, 1.5, 2, 3])
    rows, columns = (max(round(side / zoom), 1) for side in (height, width))
    tiled = image.roll((int(generator.integers(height)), int(generator.integers(width))), (1, 2)).repeat(1, 2, 2)
    part = F.interpolate(tiled[None, :, :rows, :columns], (height, width), mode="bilinear", antialias=zoom < 1)[0]
    if generator.random() < 0.5:
        part = part.flip(int(generator.integers(1, 3)))
    if generator.random() < 0.5:
        part = (part - part.mean()) * generator.choice([0.5, 1.5, -1]) + part.mean()
        part = part + generator.choice([-1, 1]) * generator.uniform(0.05, 0.3)
    return part


def _texture(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Noise of a random grain, with the image's mean, or another."""
    grain = int(generator.choice([1, 2, 3, 5, 9]))
    noise = torch.stack([_noise(image.shape[-2:], grain, generator) for _ in image])
    level = image.mean() if generator.random() < 0.5 else generator.uniform(0.1, 0.9)
    return level + noise * generator.uniform(0.03, 0.3)


def _refocused(image: Tensor, generator: np.random.Generator) -> Tensor:
    blurred = _blurred(image, generator.uniform(1, 4))
    return blurred if generator.random() < 0.7 else 3 * image - 2 * blurred


def _noise(size: tuple[int, ...], grain: int, generator: np.random.Generator) -> Tensor:
    """Smooth noise H×W of about variance 1 whose structures are about `grain` pixels wide."""
    cells = [max(side // max(grain, 1), 1) + 2 for side in size]
    values = torch.from_numpy(generator.standard_normal((1, 1, *cells)).astype(np.float32))
    return F.interpolate(values, size, mode="bicubic", align_corners=True)[0, 0]


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of C×H×W."""
    reach = min(math.ceil(2.5 * sigma), min(image.shape[-2:]) - 1)
    taps = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    taps = taps / taps.sum()
    padded = F.pad(image[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))[:, 0]


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return rows, columns
