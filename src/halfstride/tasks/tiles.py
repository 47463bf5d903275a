"""Large pictures tile by tile, each computed with its surroundings, so that the result is that of the whole picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from halfstride import layers
from halfstride.autoencoder.model import ConvAutoencoder

__all__ = ["halo_of", "tiled"]


def tiled(
    function: Callable[[Tensor], Tensor], image: Tensor, *, tile: int, halo: int, multiple: int, scale: int = 1
) -> Tensor:
    """Apply a function to an image tile by tile.

    The result is that of `function(image)` up to rounding where an output depends on inputs within `halo` pixels only,
    and the same way at each multiple of `multiple` pixels. Of the function's own memory only that of a tile with its
    halo is needed.

    Args:
        function: maps N×C×H×W to N×D×⌈H/scale⌉×⌈W/scale⌉.
        image: N×C×H×W of any type.
        tile: height and width of a tile without its halo, in pixels; rounded up to a multiple of `multiple`.
        halo: pixels on each side that a tile's result depends on; rounded up likewise. See `halo_of`.
        multiple: pixels by which the image can be shifted without another result; a multiple of `scale`.
        scale: size of the image over that of the result.

    Returns:
        What `function` returns, of the whole image, on the device and of the type that it returns.

    Example:
        >>> blur = nn.AvgPool2d(5, stride=1, padding=2)
        >>> import torch
        >>> image = torch.rand(1, 3, 50, 70)
        >>> bool(torch.allclose(tiled(blur, image, tile=16, halo=2, multiple=1), blur(image)))
        True
    """
    tile, halo = (math.ceil(pixels / multiple) * multiple for pixels in (tile, halo))
    height, width = image.shape[-2:]
    result: Tensor | None = None
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            above, before = max(top - halo, 0), max(left - halo, 0)
            part = function(image[..., above : top + tile + halo, before : left + tile + halo])
            rows, columns = (min(tile, side - start) for side, start in ((height, top), (width, left)))
            part = part[..., (top - above) // scale :, (left - before) // scale :]
            part = part[..., : -(-rows // scale), : -(-columns // scale)]
            if result is None:
                result = part.new_empty((*part.shape[:-2], -(-height // scale), -(-width // scale)))
            y, x = top // scale, left // scale
            result[..., y : y + part.shape[-2], x : x + part.shape[-1]] = part
    assert result is not None
    return result


def halo_of(model: ConvAutoencoder, *, decoder: bool = True) -> int:
    """Pixels beyond a block of `downscale`×`downscale` that its code, or its reconstruction, depends on.

    It follows from the sizes of the layers, and is never too small, though up to a few pixels too large.

    Args:
        model: one with a latent map: a vector depends on the whole image.
        decoder: False for the code alone.

    Example:
        >>> halo_of(ConvAutoencoder(64, 3, 4, latent="map"))
        71
    """
    reach, step = 0, 1  # in pixels of the image: how far outputs see, and from one position to the next
    for layer in (*model.encoder.modules(), *(model.decoder.modules() if decoder else ())):
        if isinstance(layer, nn.Conv2d):
            (kernel, _), (stride, _) = layer.kernel_size, layer.stride
            # Windows that are as wide as the stride lie in their own block.
            reach += 0 if kernel == stride else kernel // 2 * step
            step *= stride
        elif isinstance(layer, nn.MaxPool2d):
            step *= cast(int, layer.kernel_size)  # windows side by side, each within its block
        elif isinstance(layer, layers.SubpixelConv2d | layers.ResizeConv2d | layers.ConvTranspose2d):
            if isinstance(layer, layers.ConvTranspose2d):
                scale, taps = layer.stride[0], -(-layer.kernel_size[0] // layer.stride[0])
            else:
                scale, taps = layer.scale_factor[0], layer.kernel_size[0] // 2
            # What later layers reach into is rounded up to whole positions of this one's input.
            reach += taps * step + step - step // scale
            step //= scale
    return reach
