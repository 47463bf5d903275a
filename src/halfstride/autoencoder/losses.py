"""What training minimises: one number per image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride._support.arguments import read_choice

Loss = Literal["mse", "l1", "bce", "sharp"]

# Wang et al., "Multiscale structural similarity for image quality assessment" (2003), table 1: finest scale first.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5  # of SSIM's definition: Wang et al. (2004)
_LEAST_MULTISCALE = 32  # pixels of the smaller side; below, one scale
_SIMILARITY_WEIGHT = 0.84  # Zhao et al. (2017); the rest is that of L1
# A term below this, as of negated contrast, has no gradient, where its fractional power's would be infinite or NaN.
_LEAST_TERM = 0.01


def loss(name: Loss, output: Tensor, target: Tensor) -> Tensor:
    """Compare reconstructions with their targets, image by image.

    Args:
        name: `"mse"`, `"l1"`, `"bce"` (binary cross-entropy per value, for outputs in [0, 1]) or `"sharp"`: 0.84 times
            one minus MS-SSIM plus 0.16 times L1. MS-SSIM is over as many scales as its window of 11 pixels fits into,
            at most five; one scale (SSIM) below 32 pixels, with a smaller, uniform window below 11 pixels; L1 alone
            below 3 pixels. It costs about as much as a step of a small model.
        output: N×C×H×W.
        target: of the same shape, values in [0, 1].

    Returns:
        A float32 (or float64) tensor of N losses, each the mean over its image's values. None depends on the others.

    Raises:
        ValueError: for an unknown name, or shapes that differ.

    Reference:
        Zhao et al., "Loss Functions for Image Restoration with Neural Networks" (2017), for `"sharp"`; there L1 is
        weighted by a Gaussian window, here it is not.

    Example:
        >>> loss("mse", torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4))
        tensor([1., 1.])
    """
    read_choice("loss", name, get_args(Loss))
    if output.shape != target.shape or output.ndim != 4:
        raise ValueError(
            f"`output` (of shape {tuple(output.shape)}) must be N×C×H×W like `target` (of {tuple(target.shape)})."
        )
    if output.dtype != torch.float64:
        output, target = output.float(), target.float()
    if name == "sharp":
        return _sharp(output, target)
    return _mean_per_image(_PER_VALUE[name](output, target))


_PER_VALUE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda output, target: F.mse_loss(output, target, reduction="none"),
    "l1": lambda output, target: F.l1_loss(output, target, reduction="none"),
    "bce": lambda output, target: F.binary_cross_entropy(output, target, reduction="none"),
}


def _mean_per_image(values: Tensor) -> Tensor:
    return values.mean((1, 2, 3))


def _sharp(output: Tensor, target: Tensor) -> Tensor:
    absolute = _mean_per_image((output - target).abs())
    side = min(output.shape[-2:])
    if side < 3 or not len(output):
        return absolute
    scales = 1
    while side >= _LEAST_MULTISCALE and scales < len(_SCALE_WEIGHTS) and side >> scales >= _WINDOW:
        scales += 1
    weights = [weight / sum(_SCALE_WEIGHTS[:scales]) for weight in _SCALE_WEIGHTS[:scales]]
    similarity = torch.ones_like(absolute)
    for scale, weight in enumerate(weights):
        term = _similarity(output, target, contrast_only=scale < scales - 1)
        similarity = similarity * (term if scales == 1 else term.clamp_min(_LEAST_TERM) ** weight)
        if scale < scales - 1:
            output, target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
    return _SIMILARITY_WEIGHT * (1 - similarity) + (1 - _SIMILARITY_WEIGHT) * absolute


def _similarity(output: Tensor, target: Tensor, *, contrast_only: bool) -> Tensor:
    """SSIM of each image, or its factor of contrast and structure without that of luminance.

    torchmetrics' own multi-scale function gives the same, but takes 1.5 to 10 times as long on a CPU: convolutions of
    each channel for itself are fast with many channels only, so here all images are channels of one.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    side = min(output.shape[-2:])
    full = structural_similarity_index_measure(
        output.reshape(1, -1, *output.shape[2:]),
        target.reshape(1, -1, *target.shape[2:]),
        gaussian_kernel=side >= _WINDOW,
        sigma=_SIGMA,
        kernel_size=min(_WINDOW, side - 1 + side % 2),
        data_range=1.0,
        # The luminance factor is (2ab + c) / (a² + b² + c) with c = k1²: one, where c is far above the values.
        k1=1e3 if contrast_only else 0.01,
        reduction="none",
        return_full_image=True,
    )[1]
    assert isinstance(full, Tensor)
    return _mean_per_image(full.reshape(output.shape))
