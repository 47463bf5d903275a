"""The part of a detector that finds places: a small network that was shown synthetic defects."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstride.autoencoder.images import to_float
from halfstride.autoencoder.model import extend_or_cut
from halfstride.tasks.detection.defects import paint_defects

__all__ = ["Head", "train_head"]

_WIDTH = 48
_CROP = 64  # pixels a side that it is trained on
_BATCH = 16
_RATE, _WARM_UP = 0.002, 30
_COVERED = 0.25  # share of a cell that a defect covers to be found there; of less, little is asked
_WEIGHT_OF_EDGES, _WEIGHT_OF_DEFECTS = 0.3, 3.0  # cells without a defect are many more
_LEAST_ERROR = 1e-5  # half a grey level squared is 4e-6


class Head(nn.Module):
    """Says for each cell of an image how likely it belongs to a defect, from the image and its reconstruction.

    Args:
        channels: of the images.
        cell: pixels a side that share one answer.

    Shape:
        images and reconstructions `(N, channels, H, W)`; logits `(N, 1, ceil(H/cell), ceil(W/cell))`.
    """

    reach = 8
    """How many cells around its own an answer depends on."""
    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, cell: int) -> None:
        super().__init__()
        self.cell = cell
        inputs = 2 * channels * cell**2 + 1
        self.register_buffer("mean", torch.zeros(1, inputs, 1, 1))
        self.register_buffer("std", torch.ones(1, inputs, 1, 1))
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, _WIDTH, 1),
            nn.SiLU(),
            *_context(1),
            *_context(2),
            *_context(4),
            *_context(1),
            nn.Conv2d(_WIDTH, 1, 1),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        return self.layers((self._seen(images, reconstructions) - self.mean) / self.std)  # type: ignore[no-any-return]

    def standardise(self, images: Tensor, reconstructions: Tensor) -> None:
        """Bring what the head sees to mean 0 and variance 1 over these images; without that it learns slowly."""
        seen = self._seen(images, reconstructions)
        self.mean.copy_(seen.mean((0, 2, 3), keepdim=True))
        self.std.copy_(seen.std((0, 2, 3), keepdim=True).clamp_min(1e-3))

    def _seen(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        images, reconstructions = (whole_cells(each, self.cell) for each in (images, reconstructions))
        errors = reconstructions - images
        local = F.avg_pool2d(errors.square().mean(1, keepdim=True), self.cell)
        blocks = F.pixel_unshuffle(torch.cat([images, errors], 1), self.cell)
        return torch.cat([blocks, log_errors(local)], 1)


def log_errors(squares: Tensor) -> Tensor:
    """Logarithms of mean squared errors, finite where there is none."""
    return (squares + _LEAST_ERROR).log()


def whole_cells(images: Tensor, cell: int) -> Tensor:
    """Images with right and lower borders repeated, so that `cell` divides their sides."""
    height, width = images.shape[-2:]
    return extend_or_cut(images, -height % cell, -width % cell, "replicate")


def _context(dilation: int) -> tuple[nn.Module, nn.Module]:
    """A layer that looks at neighbours; borders are repeated, since zeros beyond them look like a defect."""
    return nn.Conv2d(_WIDTH, _WIDTH, 3, padding=dilation, dilation=dilation, padding_mode="replicate"), nn.SiLU()


def train_head(
    head: Head,
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    steps: int,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> None:
    """Show a head defects that are painted on good images, and what the model makes of them.

    Args:
        head: trained in place, on its device.
        model: from images to reconstructions.
        images: good images N×C×H×W of uint8; larger ones than 64 pixels are cropped at random.
        steps: of 16 images each.
        seed: of the defects and the head's order of images.
        progress: called with what is being done, how many steps are done, and of how many.
    """
    generator = np.random.default_rng(seed)
    device = next(head.parameters()).device
    optimizer = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    with torch.no_grad():
        some = to_float(images[: 4 * _BATCH].to(device))
        head.standardise(some, model(some))
    more = torch.tensor(_WEIGHT_OF_DEFECTS, device=device)
    for step in range(steps):
        chosen = images[torch.from_numpy(generator.integers(0, len(images), _BATCH))]
        painted, masks = paint_defects(to_float(_cropped(chosen, generator)), generator)
        painted = painted.to(device)
        with torch.no_grad():
            reconstructions = model(painted)
        covered = F.avg_pool2d(whole_cells(masks.to(device), head.cell), head.cell)
        weight = torch.where((covered > 0) & (covered < 0.5), _WEIGHT_OF_EDGES, 1.0)
        loss = F.binary_cross_entropy_with_logits(
            head(painted, reconstructions), (covered >= _COVERED).float(), weight, pos_weight=more
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress("showing defects", step + 1, steps)


def _cropped(images: Tensor, generator: np.random.Generator) -> Tensor:
    height, width = (min(_CROP, side) for side in images.shape[-2:])
    top, left = (
        int(generator.integers(0, side - size + 1))
        for side, size in zip(images.shape[-2:], (height, width), strict=True)
    )
    return images[:, :, top : top + height, left : left + width]
