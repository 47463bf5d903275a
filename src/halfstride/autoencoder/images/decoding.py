"""One picture: from a file, bytes or an array to a uint8 tensor of the wanted shape, or the reason why not.

How a picture's numbers become 8-bit grey or RGB:

- 16 bits are divided by 257 and rounded, so that 65,535 becomes 255; pictures of 32-bit integers (Pillow's mode "I")
  count as 16 bits, and those with values outside 0 to 65,535 are refused;
- floating point counts as 0 to 1 where its values lie there, else as 0 to 255, else as 0 to 65,535; NaN, infinity and
  other values are refused;
- transparent pixels show white, as on paper; a palette is looked up; CMYK, YCbCr and HSV become RGB;
- grey from colour is luma, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601);
- the EXIF orientation is applied; of several frames or pages the first is taken.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

Fit = Literal["crop", "pad", "stretch"]
Picture: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | Image.Image"
Shape = tuple[int, int, int]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What Pillow may try; its other readers (PostScript, PDF, fonts, ...) are never let loose on a stranger's file."""

MAX_PIXELS = 178_956_970
"""Pictures of more pixels are refused: where Pillow by default raises for a decompression bomb."""

_LARGE = 2**24
"""Pictures of more pixels are decoded one at a time, so that several threads together stay within a few GiB."""
_one_large_picture = threading.Lock()


class ImageError(ValueError):
    """A picture that cannot be used; `reason` says why, and `name` which."""

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason, name)
        self.reason = reason
        self.name = name

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" if self.name else self.reason


class Header(NamedTuple):
    """What the first bytes of a picture tell: its size as it is seen (EXIF orientation applied), and if it is grey."""

    height: int
    width: int
    grey: bool


def decode(picture: Picture, shape: Shape, fit: Fit = "crop") -> UInt8[Tensor, "C H W"]:
    """One picture as a uint8 tensor of the given shape.

    Args:
        picture: a path, the bytes of a file, a binary file open for reading, a Pillow image, or an array H×W or H×W×C
            (C = 1 to 4: grey, grey and alpha, RGB, RGB and alpha) of bool, uint8, uint16 or floats from 0 to 1.
        shape: channels (1 or 3), height and width, in pixels, each 1 or more.
        fit: how a picture of another size is brought to this one, always antialiased (Lanczos):
            "crop" scales it to cover the size and cuts both ends of the longer side;
            "pad" scales it to lie inside and repeats its edge pixels on both sides;
            "stretch" scales each axis on its own.

    Returns:
        A contiguous tensor of values 0 to 255.

    Raises:
        ImageError: where the picture cannot be read, or has more than `MAX_PIXELS` pixels.
        ValueError: where `shape` or `fit` is wrong.

    Example:
        >>> decode(np.array([[0.0, 1.0]]), shape=(1, 1, 4), fit="pad").tolist()
        [[[0, 0, 255, 255]]]
    """
    channels, height, width = _checked_shape(shape)
    check_fit(fit)
    with _opened(picture) as image:
        _check_size(image)
        guard = _one_large_picture if image.width * image.height > _LARGE else contextlib.nullcontext()
        with guard:
            _draft(image, height, width, fit)
            image.load()
            upright = _upright(image, _orientation(image))
            pixels = _resized(_as_8_bit(upright, channels), height, width, fit)
    return torch.from_numpy(pixels).reshape(height, width, channels).permute(2, 0, 1).contiguous()


def inspect(picture: Picture) -> Header:
    """Size and greyness of a picture from its header, without decoding it (so a truncated one may pass).

    A palette of greys is grey; a file of three channels is colour, whatever its pixels are.

    Raises:
        ImageError: where it is no picture that can be read, or has more than `MAX_PIXELS` pixels.
    """
    with _opened(picture) as image:
        _check_size(image)
        height, width = image.height, image.width
        # Pillow would decode a whole PNG to look for an orientation after its pixels, where hardly anybody writes it,
        # and has turned the size of a TIFF already.
        told = "exif" in image.info if image.format == "PNG" else image.format != "TIFF"
        if told and _orientation(image) >= 5:
            height, width = width, height
        return Header(height, width, _is_grey(image))


def to_float(images: UInt8[Tensor, "N C H W"]) -> Float32[Tensor, "N C H W"]:
    """A batch of bytes as float32 from 0 to 1, in memory format channels_last, on the device where it lies.

    Example:
        >>> to_float(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8))
        tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


def as_uint8(values: np.ndarray) -> np.ndarray:
    """An array of bool, uint8, uint16 or floats from 0 to 1 as uint8, rounded.

    Raises:
        ValueError: for another dtype, or floats outside 0 to 1.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        eight_bits: np.ndarray = (values.astype(np.uint32) + 128) // 257
        return eight_bits.astype(np.uint8)
    if values.dtype.kind != "f":
        raise ValueError(f"dtype {values.dtype}, where bool, uint8, uint16 or floats from 0 to 1 are taken")
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if not (low >= 0 and high <= 1):  # also where either is NaN
        raise ValueError(f"values from {low:.6g} to {high:.6g}, where floats from 0 to 1 are taken")
    rounded: np.ndarray = np.rint(values.astype(np.float32, copy=False) * 255)
    return rounded.astype(np.uint8)


def one_line(error: BaseException, limit: int = 200) -> str:
    """What an exception says, fit to stand within a sentence."""
    return printable(" ".join(str(error).split()).rstrip(".") or type(error).__name__, limit)


def printable(text: str, limit: int = 200) -> str:
    """A file's name on one line, without control characters, no longer than `limit`."""
    text = text.encode("utf-8", "backslashreplace").decode()
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


# Reading --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(picture: Picture) -> Iterator[Image.Image]:
    """The picture, opened and not yet decoded; whatever goes wrong with it inside becomes an `ImageError`."""
    from PIL import (  # the readers of FORMATS; imported here so that `import halfstride` stays cheap
        BmpImagePlugin,  # noqa: F401
        GifImagePlugin,  # noqa: F401
        Image,
        JpegImagePlugin,  # noqa: F401
        PngImagePlugin,  # noqa: F401
        PpmImagePlugin,  # noqa: F401
        TiffImagePlugin,  # noqa: F401
        UnidentifiedImageError,
        WebPImagePlugin,  # noqa: F401
    )

    name = printable(os.fspath(picture)) if isinstance(picture, str | os.PathLike) else None
    try:
        with _quiet():
            if isinstance(picture, np.ndarray):
                yield Image.fromarray(_hwc(picture))
                return
            if isinstance(picture, Image.Image):
                yield picture.copy()  # what is done to it here is no business of its owner
                return
            if isinstance(picture, bytes):
                picture = io.BytesIO(picture)
            elif isinstance(picture, str | os.PathLike):
                if Path(picture).exists() and not Path(picture).is_file():  # a pipe would be waited for for ever
                    raise ImageError("is not a file", name)
                if Path(picture).stat().st_size == 0:
                    raise ImageError("is empty", name)
            with Image.open(picture, formats=FORMATS) as image:
                yield image
    except ImageError as error:
        raise ImageError(error.reason, name) from None
    except UnidentifiedImageError:
        raise ImageError("is not a picture that can be read (PNG, JPEG, WebP, BMP, TIFF, GIF, PPM)", name) from None
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {MAX_PIXELS:,} pixels", name) from None
    except OSError as error:
        if error.errno is not None:
            raise ImageError(f"cannot be opened: {error.strerror}", name) from None
        raise ImageError(f"is truncated or broken: {one_line(error, 100)}", name) from None
    except Exception as error:  # a hostile file can make a decoder raise anything at all
        raise ImageError(f"is truncated or broken: {one_line(error, 100)}", name) from None


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"has {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}")
    if image.width * image.height == 0:
        raise ImageError("has no pixels")


def _hwc(array: np.ndarray) -> np.ndarray:
    """An array as Pillow takes it: uint8, H×W or H×W×(2, 3, 4)."""
    try:
        array = as_uint8(array)
    except ValueError as error:
        raise ImageError(f"has {error}") from None
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (2, 3, 4)):
        raise ImageError(f"is an array of shape {array.shape}, where H×W or H×W×C with C = 1 to 4 is taken")
    return np.ascontiguousarray(array)


def _draft(image: Image.Image, height: int, width: int, fit: Fit) -> None:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size where that leaves twice the size wanted, or more."""
    if image.format not in ("JPEG", "MPO"):
        return
    if _orientation(image) >= 5:
        height, width = width, height
    ratios = height / image.height, width / image.width
    scale = 2 * (min(ratios) if fit == "pad" else max(ratios))
    image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))


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
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")


def _as_8_bit(image: Image.Image, channels: int) -> Image.Image:
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_scaled(np.asarray(image)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _scaled(values: np.ndarray) -> np.ndarray:
    """Numbers of more than 8 bits as uint8, by the rules at the top of this file."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65_535):  # also where either is NaN
        raise ImageError(f"has values from {low:.6g} to {high:.6g}, where 0 to 65,535 are taken")
    if values.dtype.kind != "f":
        return as_uint8(values.astype(np.uint16))
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


# Warnings and arguments -----------------------------------------------------------------------------------------------

_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters = warnings.catch_warnings()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings (Pillow's about large, odd or slightly broken files) while any thread is inside.

    `warnings.catch_warnings` restores the filters of the whole process, so threads that overlap would leave them
    silent for ever: the first one in sets them and the last one out restores them.
    """
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.simplefilter("ignore")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_filters.__exit__(None, None, None)


def check_fit(fit: str) -> None:
    """Raise where `fit` is none of its words."""
    if fit not in ("crop", "pad", "stretch"):
        raise ValueError(f'`fit` (={fit!r}) must be "crop", "pad" or "stretch".')


def _checked_shape(shape: Shape) -> Shape:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"`shape` (={shape}) must be channels, height, width, with 1 channel (grey) or 3 (RGB).")
    if min(shape) < 1:
        raise ValueError(f"`shape` (={shape}) must have a height and a width of at least 1.")
    return shape
