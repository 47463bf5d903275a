"""Draws the animations of the pages into docs/images/animations: `python docs/animations.py`."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from halfstride.figures.frames import Frame, Words
from halfstride.figures.upsampling import THEMES, View
from halfstride.studio.animation import SECONDS, animate, encode
from halfstride.studio.layer import read_layer

FOLDER = Path(__file__).resolve().parent / "images/animations"

ONES = {"input": ",".join("1" * 9), "kernel": ",".join("1" * 9)}
LAYERS: dict[str, tuple[View, dict[str, Any]]] = {
    "convolution": ("sliding", {"form": "conv", "input_size": 5, "kernel_size": 3, "stride": 2}),
    "transposed": ("scatter", {"form": "transposed", "input_size": 2, "kernel_size": 3, "stride": 2}),
    "transposed-sliding": ("sliding", {"form": "transposed", "input_size": 2, "kernel_size": 3, "stride": 2}),
    "padding": ("sliding", {"form": "transposed", "input_size": 2, "kernel_size": 3, "stride": 2, "padding": 1}),
    "output-padding": (
        "sliding",
        {"form": "transposed", "input_size": 2, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    ),
    "overlap": ("scatter", {"form": "transposed", "input_size": 3, "kernel_size": 3, "stride": 2, **ONES}),
    "resize": ("sliding", {"form": "resize", "input_size": 3, "kernel_size": 3, "stride": 2, "padding": 1, **ONES}),
    "subpixel": ("scatter", {"form": "subpixel", "input_size": 2, "kernel_size": 3, "stride": 2, "padding": 1}),
}
"""The view of each, and the layer's arguments."""

WIDTH_OF_LETTER = 0.6
"""In widths of the font's size, the mean of the letters that are drawn."""

STEPS = (0, 5, 10, 20, 40, 80, 160, 320, 640)
"""After which the reconstructions are shown."""


def draw(name: str) -> bytes:
    """A layer at work, as an SVG that plays by itself."""
    view, arguments = LAYERS[name]
    return encode(cropped(animate(read_layer(**arguments), view)), "svg", SECONDS)


def cropped(frames: Sequence[Frame]) -> list[Frame]:
    """Frames without the room that the drawing leaves; the line at the foot moves up to it."""
    rectangles = [rectangle for frame in frames for rectangle in frame.rectangles]
    bottom = max(rectangle.y + rectangle.height for rectangle in rectangles)
    written = [words.x + WIDTH_OF_LETTER * words.size * _letters(words) for frame in frames for words in frame.words]
    right = max(*(rectangle.x + rectangle.width for rectangle in rectangles), *map(round, written))
    margin = min(rectangle.x for rectangle in rectangles)

    def moved(words: Words) -> Words:
        return words._replace(y=bottom + margin // 2 + 10) if words.y > bottom else words

    return [
        replace(frame, width=right + margin // 2, height=bottom + margin + 20, words=[*map(moved, frame.words)])
        for frame in frames
    ]


def _letters(words: Words) -> int:
    return sum(len(text) for text, _ in words.pieces)


def draw_training() -> bytes:
    """Digits above their reconstructions, after more and more steps: half a minute on one core."""
    import torch
    import torch.nn.functional as F
    from PIL import Image

    import halfstride

    torch.manual_seed(0)
    digits = halfstride.load_images("digits")
    train, test = (halfstride.to_float(part.images) for part in (digits.train, digits.test))
    shown = torch.stack([test[digits.test.labels == digit][0] for digit in range(8)])
    model = halfstride.ConvAutoencoder.for_images(digits).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    frames = []
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            with torch.no_grad():
                both = torch.cat([shown, model(shown).clamp(0, 1)]).reshape(2, 8, 28, 28)
            pixels = both.permute(0, 2, 1, 3).reshape(56, 224).mul(255).byte().numpy()
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, format="png")
            frames.append(base64.b64encode(stream.getvalue()).decode())
        batch = train[torch.randint(len(train), (64,))]
        optimizer.zero_grad()
        F.mse_loss(model(batch), batch).backward()
        optimizer.step()

    colours, count = THEMES["light"], len(frames) + 2  # the last frame is held three times as long
    drawn = []
    for number, (step, png) in enumerate(zip(STEPS, frames, strict=True)):
        ends = count if number == len(frames) - 1 else number + 1
        values, times = ["hidden", "visible", "hidden"], [0, number / count, ends / count]
        if number == 0:
            values, times = values[1:], [0, ends / count]
        elif ends == count:
            values, times = values[:2], times[:2]
        drawn.append(
            f'<g visibility="{values[-1]}"><animate attributeName="visibility" values="{";".join(values)}" '
            f'keyTimes="{";".join(f"{time:.5g}" for time in times)}" calcMode="discrete" dur="{count * SECONDS:.5g}s" '
            f'repeatCount="indefinite"/><image x="216" y="24" width="1008" height="252" image-rendering="pixelated" '
            f'href="data:image/png;base64,{png}"/><text x="24" y="224" fill="{colours.ink}">{step} steps</text></g>'
        )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1280 300" width="1280" height="300" '
        'font-family="DejaVu Sans, Verdana, sans-serif" font-size="28">\n'
        f'<rect width="100%" height="100%" fill="{colours.ground}"/>\n'
        f'<text x="24" y="98" fill="{colours.ink}">originals</text>\n' + "\n".join(drawn) + "\n</svg>\n"
    ).encode()


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in LAYERS:
        (FOLDER / f"{name}.svg").write_bytes(draw(name))
    (FOLDER / "training.svg").write_bytes(draw_training())
