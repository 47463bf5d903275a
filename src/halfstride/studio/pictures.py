"""Images in the form that the pages take, and pictures that they upload."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from pydantic import BaseModel, Field
from torch import Tensor

from halfstride.autoencoder.images import ImageError, decode
from halfstride.autoencoder.images.decoding import WHITE, Fit, inspect
from halfstride.autoencoder.images.formats import TooManyPixelsError, opened
from halfstride.studio.errors import StudioError

MAX_PIXELS = 40_000_000
"""Pixels of an uploaded picture: more than most cameras take, and far less than fills the memory."""


class Picture(BaseModel):
    """An image for a canvas."""

    height: int
    width: int
    rgb: str = Field(description="Base64 of height × width × 3 bytes.")


def picture(image: Tensor) -> Picture:
    """Return a uint8 image C×H×W for the page; of one with neither 1 nor 3 channels the first."""
    shown = image if len(image) == 3 else image[:1].expand(3, -1, -1)
    return _from_pixels(shown.movedim(0, -1).numpy())


def error_map(original: Tensor, reconstruction: Tensor) -> Picture:
    """Return the absolute difference of two uint8 images C×H×W, the mean over the channels: dark is 0, light is 255."""
    difference = (original.int() - reconstruction.int()).abs().float().mean(0).round().byte().numpy()
    return _from_pixels(shades()[difference])


def _from_pixels(pixels: np.ndarray) -> Picture:
    height, width, _ = pixels.shape
    return Picture(height=height, width=width, rgb=base64.b64encode(pixels.tobytes()).decode())


@cache
def shades() -> np.ndarray:
    """Return 256 colours from black to light yellow, evenly spaced in lightness."""
    from matplotlib import colormaps

    return np.asarray(np.round(colormaps["inferno"](np.arange(256))[:, :3] * 255), dtype=np.uint8)


def read_picture(
    content: bytes, shape: tuple[int, int, int] | None = None, fit: Fit = "crop", white: int = WHITE
) -> Tensor:
    """Decode a file to a uint8 image of this shape C×H×W; without a shape at its own size, grey or in colour.

    Args:
        content: the bytes of an image file.
        shape: channels, height and width.
        fit: how a picture of another size is brought to this one, as for `decode`.
        white: the value of 16 bits that is white.

    Raises:
        StudioError: where it is not a picture, or too large.
    """
    with _refusing():
        height, width, grey = _inspected(content)
        return decode(content, shape or (1 if grey else 3, height, width), fit, white)


def read_middle(content: bytes, largest: int) -> Tensor:
    """Decode the middle of a picture at its full resolution, grey or in colour.

    Args:
        content: the bytes of an image file.
        largest: pixels of the result along each axis, at most.

    Raises:
        StudioError: where it is not a picture, or too large.
    """
    with _refusing():
        height, width, grey = _inspected(content)
        with opened(content) as image:
            image.load()
            left, top = (max(0, (size - largest) // 2) for size in image.size)
            middle = image.crop((left, top, min(left + largest, image.width), min(top + largest, image.height)))
        return decode(middle, (1 if grey else 3, min(height, largest), min(width, largest)))


def _inspected(content: bytes) -> tuple[int, int, bool]:
    """Return height, width and whether it is grey, without decoding it."""
    height, width, grey = inspect(content)[:3]
    if height * width > MAX_PIXELS:
        raise StudioError(413, f"The picture has {height * width:,} pixels: at most {MAX_PIXELS:,} are taken.")
    return height, width, grey


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise what is wrong with a picture as a StudioError."""
    try:
        yield
    except TooManyPixelsError:
        raise StudioError(413, f"The picture has far too many pixels: at most {MAX_PIXELS:,} are taken.") from None
    except ImageError as error:
        raise StudioError(415, f"This file {error.reason}.") from None
