"""Images on their way to a browser, and the pictures that it sends."""

from __future__ import annotations

import base64
from functools import cache

import numpy as np
from pydantic import BaseModel, Field
from torch import Tensor

from halfstride.autoencoder.images import ImageError, decode
from halfstride.autoencoder.images.decoding import inspect

__all__ = ["Picture", "PictureError", "error_map", "picture", "read_picture"]

MAX_PIXELS = 40_000_000
"""Pixels of an uploaded picture: what a good camera takes, and far below what would fill the memory."""


class PictureError(Exception):
    """An upload that is not taken; `status` is the HTTP one."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Picture(BaseModel):
    """An image, ready for a canvas."""

    height: int
    width: int
    rgb: str = Field(description="Base64 of height × width × 3 bytes.")


def picture(image: Tensor) -> Picture:
    """A uint8 image C×H×W for the page; of one with neither 1 nor 3 channels the first."""
    shown = image if len(image) == 3 else image[:1].expand(3, -1, -1)
    _, height, width = shown.shape
    pixels = shown.permute(1, 2, 0).contiguous().numpy()
    return Picture(height=height, width=width, rgb=base64.b64encode(pixels.tobytes()).decode())


def error_map(original: Tensor, reconstruction: Tensor) -> Picture:
    """How far two uint8 images C×H×W are apart, averaged over the channels: dark is 0, light is 255."""
    difference = (original.int() - reconstruction.int()).abs().float().mean(0).round().byte().numpy()
    pixels = _shades()[difference]
    height, width = difference.shape
    return Picture(height=height, width=width, rgb=base64.b64encode(pixels.tobytes()).decode())


@cache
def _shades() -> np.ndarray:
    """256 colours from black to light yellow, rising evenly in lightness."""
    from matplotlib import colormaps

    return np.asarray(np.round(colormaps["inferno"](np.arange(256))[:, :3] * 255), dtype=np.uint8)


def read_picture(content: bytes, shape: tuple[int, int, int] | None = None) -> Tensor:
    """The bytes of a file as a uint8 image of this shape C×H×W; without a shape, as it is, grey or in colour.

    Raises:
        PictureError: where it is no picture, or too large a one.
    """
    try:
        height, width, grey = inspect(content)[:3]
        if height * width > MAX_PIXELS:
            raise PictureError(413, f"The picture has {height * width:,} pixels: at most {MAX_PIXELS:,} are taken.")
        own = (1 if grey else 3, height, width)
        return decode(content, own if shape is None else shape)
    except ImageError as error:
        raise PictureError(415, f"This file {error.reason}.") from None
