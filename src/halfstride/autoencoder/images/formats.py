"""Opening one picture with Pillow, and no more of Pillow than needed: which formats are read, and how safely.

PNG, JPEG, WebP, BMP, TIFF, GIF and PPM are always read, AVIF where Pillow was built with it, and HEIC with the extra
`heif`. What a file is, its content says, not its name. Pillow's other readers (PostScript, PDF, fonts, ...) are never
used on a stranger's file, and those of AVIF and HEIC for such files only.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import numpy as np

if TYPE_CHECKING:
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile

Picture: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | Image.Image"

MAX_PIXELS = 178_956_970
"""Pictures of more pixels are refused: where Pillow by default raises for a decompression bomb. A JPEG of one scan may
have more, if half, a quarter or an eighth of its size has fewer: it is decoded at that size."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What Pillow may try on a file that is neither AVIF nor HEIC."""

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_HEAD = 64
"""Bytes at the beginning of a file that tell AVIF and HEIC from all else."""


class ImageError(ValueError):
    """A picture that cannot be used; `reason` says why, and `name` which."""

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason, name)
        self.reason = reason
        self.name = name

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" if self.name else self.reason


class TooManyPixelsError(ImageError):
    """A picture of more than `MAX_PIXELS`."""


@contextlib.contextmanager
def opened(picture: Picture) -> Iterator[Image.Image]:
    """The picture, opened and not yet decoded; whatever goes wrong with it inside becomes an `ImageError`.

    Arrays must be uint8, H×W or H×W×(2, 3, 4).

    Raises:
        ImageError: where it cannot be opened or decoded, or has too many pixels (see `MAX_PIXELS`) or none.
    """
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
                image: Image.Image = Image.fromarray(picture)
                check_size(image)
                yield image
                return
            if isinstance(picture, Image.Image):
                check_size(picture)
                yield picture.copy()  # so that its owner's stays as it is
                return
            if isinstance(picture, str | os.PathLike):
                if Path(picture).exists() and not Path(picture).is_file():  # a pipe would be waited for for ever
                    raise ImageError("is not a file")
                if Path(picture).stat().st_size == 0:
                    raise ImageError("is empty")
            with contextlib.ExitStack() as stack:
                if isinstance(picture, str | os.PathLike):
                    picture = stack.enter_context(Path(picture).open("rb"))
                image = stack.enter_context(_open_file(io.BytesIO(picture) if isinstance(picture, bytes) else picture))
                check_size(image)
                yield image
    except ImageError as error:
        raise type(error)(error.reason, name) from None
    except UnidentifiedImageError:
        raise ImageError(
            "is not a picture that can be read (PNG, JPEG, WebP, AVIF, BMP, TIFF, GIF, PPM)", name
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise ImageError(f"cannot be opened: {error.strerror}", name) from None
        raise ImageError(f"is truncated or broken: {one_line(error, 100)}", name) from None
    except Exception as error:  # a hostile file can make a decoder raise anything at all
        raise ImageError(f"is truncated or broken: {one_line(error, 100)}", name) from None


def check_size(image: Image.Image) -> None:
    """Raise an `ImageError` where an opened picture has no pixels, or too many even at its smallest draft."""
    if image.width * image.height == 0:
        raise ImageError("has no pixels")
    if reduction(image) is None:
        raise TooManyPixelsError(f"has {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}")


def reduction(image: Image.Image) -> int | None:
    """By how much each side must be divided for `MAX_PIXELS`: 1, for a JPEG also 2, 4 or 8; None where none helps."""
    factors = [1]
    # Of several scans, as in a progressive JPEG, the decoder would keep all coefficients at full size.
    if image.width * image.height > MAX_PIXELS and image.format in ("JPEG", "MPO") and _has_one_scan(image):
        factors += [2, 4, 8]
    return next((n for n in factors if -(-image.width // n) * -(-image.height // n) <= MAX_PIXELS), None)


def one_line(error: BaseException, limit: int = 200) -> str:
    """What an exception says, fit to stand within a sentence."""
    return printable(" ".join(str(error).split()).rstrip(".") or type(error).__name__, limit)


def printable(text: str, limit: int = 200) -> str:
    """A file's name on one line, without control characters, no longer than `limit`."""
    text = text.encode("utf-8", "backslashreplace").decode()
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _open_file(file: BinaryIO) -> Image.Image:
    from PIL import Image, JpegImagePlugin

    start = file.tell()
    head = file.read(_HEAD)
    file.seek(start)
    try:
        return Image.open(file, formats=_formats(head))
    except Image.DecompressionBombError:
        if not head.startswith(b"\xff\xd8\xff"):
            raise TooManyPixelsError(f"has more than {MAX_PIXELS:,} pixels") from None
    file.seek(0)
    # Pillow's limit for all formats does not know that a JPEG can be decoded at an eighth of its size; `check_size`
    # does.
    return JpegImagePlugin.JpegImageFile(file)


def _formats(head: bytes) -> tuple[str, ...]:
    """Which of Pillow's readers a file is given to, by its first bytes."""
    # "ftyp" after four bytes: a file of boxes, whose brands tell AVIF, HEIC and films apart.
    brands = {head[i : i + 4] for i in (8, *range(16, min(int.from_bytes(head[:4], "big"), len(head)), 4))}
    if head[4:8] != b"ftyp":
        return FORMATS
    if brands & {b"avif", b"avis"}:
        from PIL import AvifImagePlugin

        if not AvifImagePlugin.SUPPORTED:
            raise ImageError("is an AVIF picture, which this Pillow cannot read: pip install --upgrade pillow")
        return ("AVIF",)
    if brands & _HEIC_BRANDS:
        try:
            import pi_heif
        except ImportError:
            raise ImageError("is a HEIC picture: pip install 'halfstride[heif]' to read it") from None
        pi_heif.register_heif_opener()
        return ("HEIF",)
    return FORMATS


def _has_one_scan(image: Image.Image) -> bool:
    """Whether the first scan of a JPEG, behind whose header Pillow has stopped reading, holds all its channels."""
    jpeg = cast("JpegImageFile", image)
    file: Any = jpeg.fp
    if jpeg.info.get("progressive"):
        return False
    length = 6 + 2 * jpeg.layers  # of a header that lists so many channels
    place = file.tell()
    file.seek(place - length)
    one = int.from_bytes(file.read(2), "big") == length
    file.seek(place)
    return one


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
