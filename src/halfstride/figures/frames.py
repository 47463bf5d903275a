"""Frames of an animation, drawn from rectangles and words alone: as SVG, PDF, pixels, a GIF.

The same frames give the same bytes on every machine: coordinates are whole pixels, and the letters are those of the
font that comes with matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from PIL import Image, ImageFont


class Rectangle(NamedTuple):
    """A filled or outlined rectangle; pixels."""

    x: int
    y: int
    width: int
    height: int
    fill: str | None = None
    edge: str | None = None
    thickness: int = 1


class Words(NamedTuple):
    """A line of text in one or more colours; `y` is its middle."""

    x: int
    y: int
    pieces: tuple[tuple[str, str], ...]
    """Text and colour of each piece."""
    size: int
    bold: bool = False
    centred: bool = False


@dataclass
class Frame:
    """A picture: rectangles, and the words on top of them."""

    width: int
    height: int
    ground: str
    rectangles: list[Rectangle] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)


def png(frame: Frame) -> bytes:
    """A frame as a PNG file."""
    stream = io.BytesIO()
    _painted(frame).save(stream, format="png", optimize=False)
    return stream.getvalue()


def svg(frame: Frame) -> bytes:
    """A frame as an SVG file."""
    return animated_svg([frame], 1)


def pdf(frame: Frame) -> bytes:
    """A frame as a PDF file of one page, drawn as vectors; a pixel is a point."""
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    figure = Figure(figsize=(frame.width / 72, frame.height / 72), dpi=72, facecolor=frame.ground)
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xlim=(0, frame.width), ylim=(frame.height, 0))
    axes.set_axis_off()
    # Thousands of patches take seconds; a collection for each run of equal ones does not.
    for (fill, edge, thickness), alike in groupby(frame.rectangles, key=lambda one: one[4:]):
        inset = thickness / 2 if edge else 0
        corners = []
        for x, y, width, height, *_ in alike:
            left, right, top, bottom = x + inset, x + width - inset, y + inset, y + height - inset
            corners.append([(left, top), (right, top), (right, bottom), (left, bottom)])
        axes.add_collection(
            PolyCollection(
                corners, facecolor=fill or "none", edgecolor=edge or "none", linewidth=thickness if edge else 0
            )
        )
    for words in frame.words:
        font = FontProperties(family="DejaVu Sans", weight="bold" if words.bold else "normal", size=words.size)
        for start, text, color in _placed(words):
            baseline = words.y + round(words.size * 0.36)
            axes.text(start, baseline, text, color=color, fontproperties=font, parse_math=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="pdf", facecolor=frame.ground, metadata={"CreationDate": None})
    return stream.getvalue()


def gif(frames: Sequence[Frame], seconds: float) -> bytes:
    """Frames as a GIF that repeats for ever; the last one is held three times as long."""
    from PIL import Image

    palette = Image.new("P", (1, 1))
    # One palette for all frames: the colours that are used, and shades between each and the ground for smooth letters.
    palette.putpalette(_palette(frames))
    painted = [_painted(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    each = round(1000 * seconds)
    stream = io.BytesIO()
    durations = [*[each] * (len(painted) - 1), 3 * each]
    painted[0].save(stream, format="gif", save_all=True, append_images=painted[1:], duration=durations, loop=0)
    return stream.getvalue()


def animated_svg(frames: Sequence[Frame], seconds: float) -> bytes:
    """Frames as one SVG file that plays by itself, for ever; what cannot play it shows the last frame.

    A shape that stays is written once, with the times at which it is seen.
    """
    count = len(frames) + 2  # the last frame is held three times as long
    seen: dict[Rectangle | Words, list[int]] = {}
    for kind in ("rectangles", "words"):
        for number, frame in enumerate(frames):
            for shape in getattr(frame, kind):
                seen.setdefault(shape, []).append(number)
    drawn = []
    for shape, numbers in seen.items():
        if len(numbers) == len(frames):
            drawn.append(_svg_shape(shape))
            continue
        last = numbers[-1] == len(frames) - 1
        shown = set(numbers) | ({len(frames), len(frames) + 1} if last else set())
        changes = [t for t in range(count) if t == 0 or (t in shown) != (t - 1 in shown)]
        values = ";".join("visible" if t in shown else "hidden" for t in changes)
        times = ";".join(f"{t / count:.5g}" for t in changes)
        animation = (
            f'<animate attributeName="visibility" values="{values}" keyTimes="{times}" calcMode="discrete" '
            f'dur="{count * seconds:.5g}s" repeatCount="indefinite"/>'
        )
        drawn.append(_svg_shape(shape, animation, hidden=not last))
    frame = frames[0]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width} {frame.height}" '
        f'width="{frame.width}" height="{frame.height}" font-family="DejaVu Sans, Verdana, sans-serif">\n'
        f'<rect width="100%" height="100%" fill="{frame.ground}"/>\n'
    )
    return (head + "\n".join(drawn) + "\n</svg>\n").encode()


# SVG ------------------------------------------------------------------------------------------------------------------


def _svg_shape(shape: Rectangle | Words, inside: str = "", hidden: bool = False) -> str:
    seen = ' visibility="hidden"' if hidden else ""
    if isinstance(shape, Rectangle):
        half = shape.thickness / 2 if shape.edge else 0
        place = (
            f'x="{shape.x + half:g}" y="{shape.y + half:g}" width="{shape.width - 2 * half:g}" '
            f'height="{shape.height - 2 * half:g}"'
        )
        edge = f' stroke="{shape.edge}" stroke-width="{shape.thickness}"' if shape.edge else ""
        return f"<rect {place} fill={quoteattr(shape.fill or 'none')}{edge}{seen}>{inside}</rect>"
    weight = ' font-weight="bold"' if shape.bold else ""
    anchor = ' text-anchor="middle"' if shape.centred else ""
    pieces = "".join(f'<tspan fill="{color}">{escape(text)}</tspan>' for text, color in shape.pieces)
    # A baseline a third of the size below the middle centres figures and capitals.
    return (
        f'<text x="{shape.x}" y="{shape.y + round(shape.size * 0.36)}" font-size="{shape.size}"{weight}{anchor}{seen} '
        f'xml:space="preserve">{pieces}{inside}</text>'
    )


# Pixels ---------------------------------------------------------------------------------------------------------------


def _painted(frame: Frame) -> Image.Image:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (frame.width, frame.height), frame.ground)
    draw = ImageDraw.Draw(image)
    for rectangle in frame.rectangles:
        x, y, width, height, fill, edge, thickness = rectangle
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill, edge, thickness if edge else 0)
    for words in frame.words:
        font = _font(words.size, words.bold)
        for left, text, color in _placed(words):
            draw.text((round(left), words.y + round(words.size * 0.36)), text, fill=color, font=font, anchor="ls")
    return image


def _placed(words: Words) -> Iterator[tuple[float, str, str]]:
    """Each piece with where it begins and its colour."""
    font = _font(words.size, words.bold)
    left: float = words.x
    if words.centred:
        left -= font.getlength("".join(text for text, _ in words.pieces)) / 2
    for text, color in words.pieces:
        yield left, text, color
        left += font.getlength(text)


@cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", name)
    # The basic layout is the same with every build of Pillow; the other needs a library that may be missing.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _palette(frames: Sequence[Frame]) -> list[int]:
    """At most 256 colours: every one in use, and mixtures of letters and what they stand on."""
    from PIL import ImageColor

    grounds = {frames[0].ground: None}
    inks: dict[str, None] = {}
    for frame in frames:
        for rectangle in frame.rectangles:
            grounds |= {color: None for color in (rectangle.fill, rectangle.edge) if color}
        for words in frame.words:
            inks |= {color: None for _, color in words.pieces}
    used = [ImageColor.getrgb(color) for color in {**grounds, **inks}][:256]
    mixed = []
    for share in (0.5, 0.25, 0.75):
        for ink in inks:
            for ground in grounds:
                pair = zip(ImageColor.getrgb(ink)[:3], ImageColor.getrgb(ground)[:3], strict=True)
                mixed.append(tuple(round(share * a + (1 - share) * b) for a, b in pair))
    return [channel for color in [*used, *mixed][:256] for channel in color[:3]]
