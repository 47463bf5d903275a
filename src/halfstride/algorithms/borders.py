"""What lies beyond the borders, and the order in memory: the few tensor steps that several algorithms share.

All tensors are batched, (batch, channels, *spatial).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

__all__ = ["as_channels_last", "continued", "is_channels_last", "shuffled", "window"]


def continued(input: Tensor, padding: Sequence[tuple[int, int]], mode: str) -> Tensor:
    """`input` continued by (before, after) positions per axis in a padding mode; negative numbers cut."""
    for axis, (before, after) in enumerate(padding, start=2):
        if before < 0 or after < 0:
            start, end = max(-before, 0), max(-after, 0)
            input = input.narrow(axis, start, input.shape[axis] - start - end)
    flat = [max(side, 0) for pair in reversed(padding) for side in pair]
    if not any(flat):
        return input
    return F.pad(input, flat, mode="constant" if mode == "zeros" else mode)


def window(output: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """`size` positions of `output` from `start` on, per axis; zeros where it has none."""
    length = output.shape[2:]
    return continued(output, [(-b, b + o - n) for b, o, n in zip(start, size, length, strict=True)], "zeros")


def is_channels_last(input: Tensor) -> bool:
    """Whether the channels of an image or a volume lie next to each other in memory.

    From the strides alone: `is_contiguous(memory_format=...)` is not to be had under `torch.func.vmap`.
    """
    return input.dim() > 3 and input.shape[1] > 1 and input.stride(1) == 1


def as_channels_last(output: Tensor, like: Tensor) -> Tensor:
    """`output` in channels-last order where `like` is, else contiguous."""
    if is_channels_last(like):
        return output.movedim(1, -1).contiguous().movedim(-1, 1)
    return output.contiguous()


def shuffled(phases: Tensor, scale: Sequence[int]) -> Tensor:
    """Phases, channel `c * prod(scale) + r` of each, brought to their positions.

    `torch.nn.PixelShuffle` in 1, 2 or 3 dimensions, with a scale of its own for each axis.
    """
    axes = len(scale)
    if axes == 2 and scale[0] == scale[1]:
        return F.pixel_shuffle(phases, scale[0])
    channels_last = is_channels_last(phases)
    phases = phases.reshape(phases.shape[0], -1, *scale, *phases.shape[2:])
    positions = [axis for pair in zip(range(2 + axes, 2 + 2 * axes), range(2, 2 + axes), strict=True) for axis in pair]
    size = [n * s for n, s in zip(phases.shape[2 + axes :], scale, strict=True)]
    if channels_last:
        return phases.permute(0, *positions, 1).reshape(phases.shape[0], *size, phases.shape[1]).movedim(-1, 1)
    return phases.permute(0, 1, *positions).reshape(*phases.shape[:2], *size)
