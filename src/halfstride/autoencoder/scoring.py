"""How well a model reconstructs images: MSE, PSNR and SSIM."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from halfstride._support.models import evaluating
from halfstride.autoencoder.images import to_float
from halfstride.autoencoder.images.splits import inputs_and_targets

Corrupt = Callable[[Tensor, int], Tensor]
"""Corrupts images N×C×H×W with values in [0, 1], of which the first has the given index among all images."""

# The Gaussian window of SSIM's original definition is 11 pixels wide; a smaller image has no window in it.
_SSIM_WINDOW = 11

_PIXELS_PER_BATCH = 2**20


class Scores(NamedTuple):
    """Reconstruction quality, averaged over images with values in [0, 1]."""

    mse: float
    """Mean squared error per value; 0 is perfect."""
    psnr: float
    """Peak signal-to-noise ratio in dB, the mean over images of `10 log10(1 / MSE)`; higher is better."""
    ssim: float | None
    """Structural similarity, 1 is perfect; `None` for images smaller than its window of 11×11."""
    images: int
    """How many images were compared."""


def evaluation_batch_size(shape: Sequence[int], processes: int = 1) -> int:
    """How many images C×H×W to evaluate at once: enough to be quick, few enough for large images to fit."""
    per_process = min(max(_PIXELS_PER_BATCH // math.prod(shape[-2:]), 1), 256)
    return max(per_process // processes, 1) * processes


@torch.inference_mode()
def scores(
    model: nn.Module,
    batches: Iterable[Tensor],
    device: torch.device | str | None = None,
    *,
    ssim_images: float = math.inf,
    corrupt: Corrupt | None = None,
) -> Scores:
    """Reconstruct images and compare.

    In a distributed job every process gives its own share of the batches, as `Split.batches` deals them out, and all
    get the scores of the whole.

    Args:
        model: maps images to images of the same shape, with values in [0, 1].
        batches: uint8 tensors N×C×H×W, as the splits of `load_images` yield them, or N×2×C×H×W for pairs of an input
            and its target.
        device: where to compute; by default where the model is.
        ssim_images: how many images (of each process) to compute SSIM of, the first ones; by default all. It costs
            about as much as a small model.
        corrupt: what is done to the inputs before the model sees them; the targets stay clean. Called with float
            images N×C×H×W and the index of the first of them among all images, which makes random corruption the same
            in every evaluation and for any number of processes.

    Raises:
        ValueError: where there are no images at all.

    Reference:
        Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), for SSIM.
    """
    device = device_of(model) if device is None else device
    sums = torch.zeros(5, dtype=torch.float64, device=device)  # images, their MSE and PSNR; images, their SSIM
    ssim_left = ssim_images
    seen = 0
    with evaluating(model):
        for batch in batches:
            if not len(batch):
                continue
            inputs, target = (to_float(images.to(device)) for images in inputs_and_targets(batch))
            if corrupt is not None:
                inputs = _corrupted(corrupt, inputs, seen)
            output = model(inputs).float()
            seen += len(target)
            error = (output - target).square().flatten(1).mean(1, dtype=torch.float64)
            sums[:3] += torch.stack([sums.new_tensor(len(target)), error.sum(), psnr(error).sum()])
            some = int(min(ssim_left, len(target)))
            if some and (similarity := ssim(output[:some], target[:some])) is not None:
                sums[3:] += torch.stack([sums.new_tensor(some), similarity.sum().double()])
            ssim_left -= some
    if _distributed():
        torch.distributed.all_reduce(sums)
    images = int(sums[0])
    if images == 0:
        raise ValueError("`batches` hold no image: there is nothing to evaluate.")
    mse, psnr_mean = (sums[1:3] / images).tolist()
    return Scores(mse, psnr_mean, (sums[4] / sums[3]).item() if sums[3] > 0 else None, images)


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratios in dB of images with values in [0, 1], from their MSE.

    A perfect reconstruction counts as 100 dB, so that a mean over images survives one infinity.
    """
    return -10 * mse.clamp_min(1e-10).log10()


def ssim(outputs: Tensor, targets: Tensor) -> Tensor | None:
    """The structural similarity of each pair of images, (N,); None where SSIM's window is larger than the images."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(targets.shape[-2:]) < _SSIM_WINDOW:
        return None
    similarity = structural_similarity_index_measure(outputs, targets, data_range=1.0, reduction="none")
    assert isinstance(similarity, Tensor)
    return similarity


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter is; the CPU for a model without parameters."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _corrupted(corrupt: Corrupt, images: Tensor, seen: int) -> Tensor:
    if not _distributed() or (count := torch.distributed.get_world_size()) == 1:
        return corrupt(images, seen)
    # The images of a step are dealt out to the processes like cards: those of one process are not neighbours.
    rank = torch.distributed.get_rank()
    return torch.cat([corrupt(image[None], (seen + i) * count + rank) for i, image in enumerate(images)])


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
