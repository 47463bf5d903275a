"""The parts that an autoencoder is built of: residual blocks, and layers that halve or double the size."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from halfstride import layers

Downsampling = Literal["stride", "pool"]
Upsampling = Literal["subpixel", "resize", "transposed"]


class ResidualBlock(nn.Module):
    """Adds to its input what two 3×3 convolutions make of it; nothing at first, since the second begins at zero.

    Args:
        channels: of input and output.
        normalise: whether the branch begins with a `GroupNorm`. The input itself passes unchanged, so that brightness
            and contrast of the whole image are kept.
    """

    def __init__(self, channels: int, normalise: bool) -> None:
        super().__init__()
        second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(second.weight)
        nn.init.zeros_(second.bias)  # type: ignore[arg-type]
        self.branch = nn.Sequential(
            _group_norm(channels) if normalise and channels > 1 else nn.Identity(),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            second,
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.branch(features)  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Halves an even size by a convolution of stride 2, or by a convolution and 2×2 max-pooling.

    The mean of neighbouring values is added (the channels of the unshuffled input, averaged in groups): a shortcut
    without parameters.

    Reference:
        Chen et al., "Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models"
        (arXiv:2410.10733), for the shortcuts of this layer and of `Upsample`.
    """

    def __init__(self, inputs: int, outputs: int, downsampling: Downsampling) -> None:
        super().__init__()
        stride = 2 if downsampling == "stride" else 1
        self.groups = outputs, 4 * inputs // outputs
        self.convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.pooling = nn.MaxPool2d(2) if downsampling == "pool" else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        size, height, width = features.shape[0], features.shape[2] // 2, features.shape[3] // 2
        unshuffled = F.pixel_unshuffle(features, 2)
        # In full numbers: of a batch of no images torch leaves the shape as it was.
        shortcut = unshuffled.reshape(size, *self.groups, height, width).mean(2)
        return self.pooling(self.convolution(features)) + shortcut  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Doubles the size by an upsampling layer, to which copies of the input's channels are added as a shortcut."""

    def __init__(self, inputs: int, outputs: int, upsampling: Upsampling, kernel_size: int | None) -> None:
        super().__init__()
        self.copies = 4 * outputs // inputs
        self.layer = upsampling_layer(inputs, outputs, 2, upsampling, kernel_size)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = F.pixel_shuffle(features.repeat_interleave(self.copies, 1), 2)
        return self.layer(features) + shortcut  # type: ignore[no-any-return]


def patch_layer(inputs: int, outputs: int, size: int, downsampling: Downsampling) -> nn.Module:
    """The encoder's first layer, from the image to 1/`size` of its size."""
    if downsampling == "stride":
        return nn.Conv2d(inputs, outputs, size, stride=size)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(size))


def upsampling_layer(
    inputs: int, outputs: int, scale: int, upsampling: Upsampling, kernel_size: int | None
) -> nn.Module:
    """A layer that enlarges the size exactly `scale` times.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        scale: 2 or more.
        upsampling: which kind of layer.
        kernel_size: by default 3, and for transposed convolutions twice the scale (divisible by it, so that all outputs
            are covered evenly).
    """
    if upsampling == "resize":
        return layers.ResizeConv2d(inputs, outputs, kernel_size or 3, scale_factor=scale)
    if upsampling == "subpixel":
        return layers.SubpixelConv2d(inputs, outputs, kernel_size or 3, scale_factor=scale)
    kernel = kernel_size or 2 * scale
    # The output is `(n-1)s - 2p + k + op`: the padding and the output padding that make it `n·s`, for any kernel.
    surplus = max(kernel - scale, 0)
    padding = -(-surplus // 2)
    return layers.ConvTranspose2d(
        inputs, outputs, kernel, stride=scale, padding=padding, output_padding=2 * padding - (kernel - scale)
    )


def _group_norm(channels: int) -> nn.GroupNorm:
    """At most eight groups of at least four channels: smaller groups say little where the map is 1×1."""
    groups = max(groups for groups in (1, 2, 4, 8) if groups == 1 or channels % (4 * groups) == 0)
    return nn.GroupNorm(groups, channels)
