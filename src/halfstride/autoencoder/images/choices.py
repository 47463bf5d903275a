"""What follows from the images unless it is asked for: their size, their channels and the value that is white.

Only images that are not for testing are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from halfstride.autoencoder.images.collection import TEST, Collection, in_threads
from halfstride.autoencoder.images.decoding import WHITE, Header, Pair, largest_value
from halfstride.autoencoder.images.formats import Picture
from halfstride.autoencoder.images.options import ImageOptions

_LARGEST_SIDE = 128
"""Without a `size`, files are brought to at most this many pixels per side: what trains in minutes on a CPU."""

_DEEP_SAMPLE = 64
"""Pictures of 16 bits that are looked through for the largest value."""

_DARK = 64
"""Pictures of 16 bits with no value of this or more tell nothing about how many bits they were taken with."""


def choose(collection: Collection, options: ImageOptions) -> ImageOptions:
    """The options with size, channels and white filled in; notes that say why go to the collection."""
    assert collection.parts is not None
    headers = collection.headers
    asked = [i for i, parts in enumerate(collection.parts) if parts != (TEST,)] or list(range(len(headers)))
    size, note = _size(collection, [headers[i] for i in asked], options)
    if {(header.height, header.width) for header in headers} != {size}:
        ways = {
            "crop": "scaled to cover it and cropped at the centre",
            "pad": "scaled to lie inside and padded with their edges",
            "stretch": "stretched",
        }
        note += f" Images of other sizes are {ways[options.fit]}."
    channels = options.channels or (1 if all(headers[i].grey for i in asked) else 3)
    collection.notes += [note, "Grey." if channels == 1 else "Colour (RGB)."]
    white = options.white or _white(collection, [i for i in asked if headers[i].deep])
    return replace(options, size=size, channels=channels, white=white)


def _size(collection: Collection, headers: Sequence[Header], options: ImageOptions) -> tuple[tuple[int, int], str]:
    """Height and width, and a sentence that says why."""
    sizes = {(header.height, header.width) for header in headers}
    if options.size is not None:
        size, why = options.size, "as asked for"
    elif collection.header is not None:
        size, why = (collection.header.height, collection.header.width), "the array's own"
    else:
        height, width = (int(np.median([header[axis] for header in headers])) for axis in (0, 1))
        scale = min(1.0, _LARGEST_SIDE / max(height, width))
        size = max(round(height * scale), 1), max(round(width * scale), 1)
        why = "that of all files" if len(sizes) == 1 else "the median of the files' heights and of their widths"
        if scale < 1:
            why += f" ({height}×{width}) scaled to at most {_LARGEST_SIDE} a side; `size` takes another"
    return size, f"Size {size[0]}×{size[1]} (height × width): {why}."


def _white(collection: Collection, deep: Sequence[int]) -> int:
    """The largest value that the bits of these pictures of 16 bits in use allow: of 10, 12, 14 or 16 bits."""
    chosen = [deep[k] for k in np.linspace(0, len(deep) - 1, min(len(deep), _DEEP_SAMPLE)).astype(int)] if deep else []

    def look(k: int) -> int:
        picture = collection.pictures[chosen[k]]
        sides = picture if isinstance(picture, Pair) else (cast(Picture, picture),)
        values = [largest_value(side) for side in sides]
        return max(value if value <= WHITE else 0 for value in values)  # larger ones are refused when decoded

    found = in_threads(look, len(chosen), "reading", None)
    most = max((value for value in found if isinstance(value, int)), default=0)
    white = next(value for value in (1_023, 4_095, 16_383, WHITE) if most <= value) if most >= _DARK else WHITE
    if white != WHITE:
        collection.notes.append(
            f"The pictures of 16 bits hold values up to {most:,}: {white:,} is white ({white.bit_length()} bits; "
            f"`white` takes another)."
        )
    return white
