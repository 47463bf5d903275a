"""How the images of a run were found and prepared: what a run records, and what finds the same images again."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from halfstride.autoencoder.images.collection import Progress
from halfstride.autoencoder.images.decoding import Fit, check_fit, check_white
from halfstride.autoencoder.images.formats import printable

if TYPE_CHECKING:
    from halfstride.autoencoder.images.loading import Images

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded images that are kept in memory unless the caller says otherwise."""


@dataclass(frozen=True)
class ImageOptions:
    """Where images come from and how they are prepared: `load` gives the same ones again.

    `Images.options` has `size`, `channels` and `white` filled in with what was chosen, and paths made absolute.

    Args:
        source: a folder or an .npy or .npz file, "digits", or "hub:NAME"; None for arrays and data sets that were
            handed over in memory, which cannot be loaded again from here.
        clean: a folder of clean twins of the pictures in the folder `source`: see `load_images`.
        size: height and width in pixels, each 1 or more; None chooses them from the images.
        channels: 1 for grey, 3 for RGB; None chooses.
        fit: how images of other sizes are brought to this one: "crop", "pad" or "stretch" (see `decode`).
        test_fraction: share of the images that is kept for testing where the source has no split, above 0, below 1.
        white: the value of pictures of 16 bits that is white, 1 to 65,535; None chooses.
        seed: of the draw of the images for testing and for validation.

    Raises:
        ValueError: where a value is out of range.

    Example:
        >>> options = ImageOptions("digits", size=(14, 14))
        >>> options.load().shape
        (1, 14, 14)
        >>> options.load().options.channels
        1
    """

    source: str | None
    clean: str | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    fit: Fit = "crop"
    test_fraction: float = 0.2
    white: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("source", "clean"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"`{name}` (={_quoted(value)}) must be a str, or None.")
        if self.clean is not None and (self.source in (None, "digits") or str(self.source).startswith("hub:")):
            raise ValueError(
                f"`clean` (={printable(self.clean)}) must go with a folder of pictures as `source`, "
                f"which is {self.source or 'in memory'}."
            )
        object.__setattr__(self, "size", _pair(self.size))
        if self.channels not in (None, 1, 3) or isinstance(self.channels, bool):
            raise ValueError(
                f"`channels` (={_quoted(self.channels)}) must be 1 (grey), 3 (RGB) or None (as the images are)."
            )
        check_fit(self.fit)
        share: Any = self.test_fraction
        if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not 0 < share < 1:
            raise ValueError(f"`test_fraction` (={_quoted(share)}) must lie between 0 and 1, such as 0.2.")
        if self.white is not None:
            check_white(self.white)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise ValueError(f"`seed` (={_quoted(self.seed)}) must be a whole number.")

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ImageOptions:
        """The options that a run's record holds, as JSON gives them back: `dataclasses.asdict` with lists for tuples.

        Raises:
            ValueError: where the record has an unknown name or a wrong value in it.

        Example:
            >>> ImageOptions.from_record({"source": "digits", "size": [28, 28]}).size
            (28, 28)
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(record, Mapping) or "source" not in record or not record.keys() <= set(known):
            raise ValueError(
                f"`record` (={_quoted(record)}) must be a mapping with a `source` and no names but {', '.join(known)}."
            )
        return cls(**record)

    def load(
        self, *, together: bool = False, memory_limit: int = MEMORY_LIMIT, progress: Progress | None = None
    ) -> Images:
        """The images.

        Args:
            together: whether all images are in all parts, such as to evaluate a model on all of them; the source may
                then be a single picture. Streams of the hub keep their parts.
            memory_limit: as for `load_images`.
            progress: as for `load_images`.

        Raises:
            ValueError: where the source is None, cannot be read, or holds no usable image.
        """
        from halfstride.autoencoder.images.loading import load

        if self.source is None:
            raise ValueError(
                "`source` (=None) must say where the images are: these were handed over in memory, so hand them to "
                "load_images again."
            )
        return load(self.source, self, memory_limit, progress, together)


def _pair(size: Any) -> tuple[int, int] | None:
    """A size as height and width; one number stands for both."""
    if size is None:
        return None
    try:
        height, width = map(operator.index, size if isinstance(size, tuple | list) else (size, size))
    except (TypeError, ValueError):
        raise ValueError(f"`size` (={_quoted(size)}) must be an int or (height, width).") from None
    if height < 1 or width < 1:
        raise ValueError(f"`size` (={_quoted(size)}) must be at least 1.")
    return height, width


def _quoted(value: Any) -> str:
    return printable(repr(value), 100)
