"""How well a model reconstructs images: MSE, PSNR and SSIM."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from halfstride.autoencoder.images import to_float

__all__ = ["Scores", "evaluate", "evaluation_batch_size"]

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
def evaluate(
    model: nn.Module,
    batches: Iterable[Tensor],
    device: torch.device | str | None = None,
    *,
    ssim_images: float = math.inf,
) -> Scores:
    """Reconstruct images and compare.

    In a distributed job every process gives its own share of the batches and all get the scores of the whole.

    Args:
        model: maps images to images of the same shape, with values in [0, 1].
        batches: uint8 tensors N×C×H×W, as the splits of `load_images` yield them.
        device: where to compute; by default where the model is.
        ssim_images: how many images (of each process) to compute SSIM of, the first ones; by default all. It costs
            about as much as a small model.

    Raises:
        ValueError: where there are no images at all.

    Reference:
        Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), for SSIM.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if device is None:
        device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    sums = torch.zeros(5, dtype=torch.float64, device=device)  # images, their MSE and PSNR; images, their SSIM
    ssim_left = ssim_images
    for batch in batches:
        if not len(batch):
            continue
        target = to_float(batch.to(device))
        output = model(target).float()
        error = (output - target).square().flatten(1).mean(1, dtype=torch.float64)
        # A perfect reconstruction counts as 100 dB: a mean over images should survive one infinity.
        psnr = -10 * error.clamp_min(1e-10).log10()
        sums[:3] += torch.stack([sums.new_tensor(len(target)), error.sum(), psnr.sum()])
        some = int(min(ssim_left, len(target)))
        if some and min(target.shape[-2:]) >= _SSIM_WINDOW:
            ssim = structural_similarity_index_measure(output[:some], target[:some], data_range=1.0, reduction="none")
            assert isinstance(ssim, Tensor)
            sums[3:] += torch.stack([sums.new_tensor(some), ssim.sum().double()])
        ssim_left -= some
    model.train(was_training)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    images = int(sums[0])
    if images == 0:
        raise ValueError("`batches` hold no image: there is nothing to evaluate.")
    mse, psnr_mean = (sums[1:3] / images).tolist()
    return Scores(mse, psnr_mean, (sums[4] / sums[3]).item() if sums[3] > 0 else None, images)
