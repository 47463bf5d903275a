"""One picture: from a file, bytes or an array to a uint8 tensor of the wanted shape, or the reason why not.

How a picture's numbers become 8-bit grey or RGB:

- 16 bits are divided by 257 and rounded, so that 65,535 becomes 255 (or by `white` / 255 where another value is white:
  pictures of 10 or 12 bits lie in files of 16); pictures of 32-bit integers (Pillow's mode "I") count as 16 bits, and
  those with values outside 0 to 65,535 are refused;
- floating point counts as 0 to 1 where its values lie there, else as 0 to 255, else as 0 to 65,535; NaN, infinity and
  other values are refused;
- transparent pixels show white, as on paper; a palette is looked up; CMYK, YCbCr and HSV become RGB;
- grey from colour is luma, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601);
- the EXIF orientation is applied; of several frames or pages the first is taken.
"""

from __future__ import annotations

import contextlib
import math
import threading
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from halfstride.autoencoder.images.formats import ImageError, Picture, opened, reduction

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8
    from PIL import Image

Fit = Literal["crop", "pad", "stretch"]
Shape = tuple[int, int, int]

WHITE = 65_535
"""The value of 16 bits that is white, unless the pictures are found to have fewer bits."""

_LARGE = 2**24
"""Pictures of more pixels are decoded one at a time, so that several threads together stay within a few GiB."""
_one_large_picture = threading.Lock()
_BAND = 2**22
"""Pixels that are brought to 8 bits at a time."""


class Header(NamedTuple):
    """What the first bytes of a picture tell."""

    height: int
    """As it is seen: EXIF orientation applied."""
    width: int
    grey: bool
    deep: bool = False
    """Whether its values have 16 bits (or are integers of 32)."""


class Pair(NamedTuple):
    """A picture and its clean twin."""

    input: Picture
    target: Picture


class Preparation(NamedTuple):
    """How all pictures of a collection are decoded: as for `decode`, and whether they are pairs."""

    shape: Shape
    fit: Fit = "crop"
    white: int = WHITE
    paired: bool = False

    @property
    def item_shape(self) -> tuple[int, ...]:
        """C×H×W, or of a pair 2×C×H×W."""
        return (2, *self.shape) if self.paired else self.shape

    def decode(self, picture: Picture | Pair) -> Tensor:
        """A picture or a pair as uint8 of `item_shape`.

        Raises:
            ImageError: where it, or one of the pair, cannot be read.
        """
        if not isinstance(picture, Pair):
            return decode(picture, self.shape, self.fit, self.white)
        image = decode(picture.input, self.shape, self.fit, self.white)
        try:
            return torch.stack([image, decode(picture.target, self.shape, self.fit, self.white)])
        except ImageError as error:
            raise ImageError(f"has a clean twin that {error.reason}") from None


def decode(picture: Picture, shape: Shape, fit: Fit = "crop", white: int = WHITE) -> UInt8[Tensor, "C H W"]:
    """One picture as a uint8 tensor of the given shape.

    Args:
        picture: a path, the bytes of a file, a binary file open for reading, a Pillow image, or an array H×W or H×W×C
            (C = 1 to 4: grey, grey and alpha, RGB, RGB and alpha) of bool, uint8, uint16 or floats from 0 to 1.
        shape: channels (1 or 3), height and width, in pixels, each 1 or more.
        fit: how a picture of another size is brought to this one, always antialiased (Lanczos):
            "crop" scales it to cover the size and cuts both ends of the longer side;
            "pad" scales it to lie inside and repeats its edge pixels on both sides;
            "stretch" scales each axis on its own.
        white: the value that becomes 255, 1 to 65,535, where the picture has 16 bits; larger values become 255 too.

    Returns:
        A contiguous tensor of values 0 to 255.

    Raises:
        ImageError: where the picture cannot be read, or has too many pixels (see `MAX_PIXELS`).
        ValueError: where `shape`, `fit` or `white` is wrong.

    Example:
        >>> decode(np.array([[0.0, 1.0]]), shape=(1, 1, 4), fit="pad").tolist()
        [[[0, 0, 255, 255]]]
    """
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise ValueError(f"`shape` (={shape}) must be channels (1 or 3), height and width, each at least 1.")
    channels, height, width = shape
    check_fit(fit)
    check_white(white)
    with opened(_for_pillow(picture, white)) as image:
        guard = _one_large_picture if image.width * image.height > _LARGE else contextlib.nullcontext()
        with guard:
            _draft(image, height, width, fit)
            image.load()
            upright = _upright(image, _orientation(image))
            pixels = _resized(_as_8_bit(upright, channels, white), height, width, fit)
    return torch.from_numpy(pixels).reshape(height, width, channels).permute(2, 0, 1).contiguous()


def inspect(picture: Picture) -> Header:
    """Size and greyness of a picture from its header, without decoding it (so a truncated one may pass).

    A palette of greys is grey; a file of three channels is colour, whatever its pixels are.

    Raises:
        ImageError: where it is no picture that can be read, or has too many pixels (see `MAX_PIXELS`).
    """
    deep = isinstance(picture, np.ndarray) and is_deep(picture)
    with opened(_for_pillow(picture, WHITE)) as image:
        height, width = image.height, image.width
        # Pillow would decode a whole PNG to look for an orientation after its pixels, where hardly anybody writes it,
        # and has turned the size of a TIFF already.
        told = "exif" in image.info if image.format == "PNG" else image.format != "TIFF"
        if told and _orientation(image) >= 5:
            height, width = width, height
        return Header(height, width, _is_grey(image), deep or _is_deep(image))


def largest_value(picture: Picture) -> int:
    """The largest value of a picture of 16 bits (see `Header.deep`).

    Raises:
        ImageError: where it cannot be read.
    """
    if isinstance(picture, np.ndarray):
        return int(picture.max())
    with opened(picture) as image:
        return int(np.asarray(image).max())


def to_float(images: UInt8[Tensor, "N C H W"]) -> Float32[Tensor, "N C H W"]:
    """A batch of bytes as float32 from 0 to 1, in memory format channels_last, on the device where it lies.

    Example:
        >>> to_float(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8))
        tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


def as_uint8(values: np.ndarray, white: int = WHITE) -> np.ndarray:
    """An array of bool, uint8, uint16 or floats from 0 to 1 as uint8, rounded.

    Raises:
        ValueError: for another dtype, or floats outside 0 to 1.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if is_deep(values):
        eight_bits: np.ndarray = (np.minimum(values, white).astype(np.uint32) * 255 + white // 2) // white
        return eight_bits.astype(np.uint8)
    if values.dtype.kind != "f":
        raise ValueError(f"dtype {values.dtype}, where bool, uint8, uint16 or floats from 0 to 1 are taken")
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if not (low >= 0 and high <= 1):  # also where either is NaN
        raise ValueError(f"values from {low:.6g} to {high:.6g}, where floats from 0 to 1 are taken")
    rounded: np.ndarray = np.rint(values.astype(np.float32, copy=False) * 255)
    return rounded.astype(np.uint8)


def is_deep(values: np.ndarray) -> bool:
    """Whether an array has unsigned integers of 16 bits, in whatever byte order."""
    return values.dtype.kind == "u" and values.dtype.itemsize == 2


# Reading --------------------------------------------------------------------------------------------------------------


def _for_pillow(picture: Picture, white: int) -> Picture:
    """An array as Pillow takes it, uint8, H×W or H×W×(2, 3, 4); everything else as it is."""
    if not isinstance(picture, np.ndarray):
        return picture
    try:
        array = as_uint8(picture, white)
    except ValueError as error:
        raise ImageError(f"has {error}") from None
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (2, 3, 4)):
        raise ImageError(f"is an array of shape {array.shape}, where H×W or H×W×C with C = 1 to 4 is taken")
    return np.ascontiguousarray(array)


def _draft(image: Image.Image, height: int, width: int, fit: Fit) -> None:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size, where twice the size wanted is left or it is too large."""
    if image.format not in ("JPEG", "MPO"):
        return
    if _orientation(image) >= 5:
        height, width = width, height
    ratios = height / image.height, width / image.width
    scale = 2 * (min(ratios) if fit == "pad" else max(ratios))
    least = reduction(image) or 1
    # Pillow takes the strongest reduction that leaves at least the size named here.
    sizes = [max(min(math.ceil(size * scale), size // least), 1) for size in image.size]
    image.draft(None, (sizes[0], sizes[1]))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or it cannot be read (a broken one costs no picture)."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    from PIL.Image import Transpose

    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(ways[orientation]) if orientation in ways else image


# From every mode to 8-bit grey or RGB, and to the size wanted ---------------------------------------------------------


def _is_grey(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La", "F") or _is_deep(image)


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _as_8_bit(image: Image.Image, channels: int, white: int) -> Image.Image:
    """The image as 8-bit grey or RGB; band by band, since some conversions take many bytes for each pixel."""
    from PIL import Image

    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and not image.has_transparency_data:
        return image
    rows = max(_BAND // image.width, 1)
    boxes = [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]
    high = 0.0
    if image.mode == "F" or _is_deep(image):
        bands = (np.asarray(image.crop(box)) for box in boxes)
        lows, highs = zip(*((band.min(), band.max()) for band in bands), strict=True)
        low, high = np.min(lows), np.max(highs)
        if not (low >= 0 and high <= 65_535):  # also where either is NaN
            raise ImageError(f"has values from {low:.6g} to {high:.6g}, where 0 to 65,535 are taken")
    if len(boxes) == 1:
        return _band_as_8_bit(image, high, white).convert(mode)
    whole = Image.new(mode, image.size)
    for box in boxes:
        whole.paste(_band_as_8_bit(image.crop(box), high, white).convert(mode), box[:2])
    return whole


def _band_as_8_bit(image: Image.Image, high: float, white: int) -> Image.Image:
    """8-bit grey or RGB of some rows; `high` is the largest value of the whole image, where it has more than 8 bits."""
    from PIL import Image

    if image.mode == "F" or _is_deep(image):
        return Image.fromarray(_scaled(np.asarray(image), high, white))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode in ("1", "L", "RGB") else image.convert("RGB")


def _scaled(values: np.ndarray, high: float, white: int) -> np.ndarray:
    """Numbers of more than 8 bits as uint8, by the rules at the top of this file."""
    if values.dtype.kind != "f":
        return as_uint8(values.astype(np.uint16), white)
    return as_uint8(values if high <= 1 else values / (255 if high <= 255 else 65_535))


def _resized(image: Image.Image, height: int, width: int, fit: Fit) -> np.ndarray:
    from PIL.Image import Resampling

    if image.size == (width, height):
        return np.array(image)
    size, box = (width, height), (0.0, 0.0, float(image.width), float(image.height))
    if fit == "crop":
        scale = max(width / image.width, height / image.height)
        # Cut before scaling: what a picture of 1 × 4,096 would be scaled to need not exist.
        left, top = (image.width - width / scale) / 2, (image.height - height / scale) / 2
        box = (max(left, 0), max(top, 0), min(image.width - left, box[2]), min(image.height - top, box[3]))
    elif fit == "pad":
        scale = min(width / image.width, height / image.height)
        size = (min(max(round(image.width * scale), 1), width), min(max(round(image.height * scale), 1), height))
    pixels = np.array(image.resize(size, Resampling.LANCZOS, box=box, reducing_gap=3.0))
    if size == (width, height):
        return pixels
    above, before = (height - size[1]) // 2, (width - size[0]) // 2
    margins = ((above, height - size[1] - above), (before, width - size[0] - before), (0, 0))
    return np.pad(pixels, margins[: pixels.ndim], mode="edge")


# Arguments ------------------------------------------------------------------------------------------------------------


def check_fit(fit: str) -> None:
    """Raise where `fit` is none of its words."""
    if fit not in ("crop", "pad", "stretch"):
        raise ValueError(f'`fit` (={fit!r}) must be "crop", "pad" or "stretch".')


def check_white(white: int) -> None:
    """Raise where `white` is no value of 16 bits, or black."""
    if isinstance(white, bool) or not isinstance(white, int) or not 1 <= white <= WHITE:
        raise ValueError(f"`white` (={white!r}) must be a whole number from 1 to 65,535, such as 4095 for 12 bits.")
