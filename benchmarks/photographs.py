"""Photographs that anyone can make again: crops of the pictures in two of Debian's wallpaper packages.

    python -m benchmarks.photographs OUT

Needs `apt-get install mate-backgrounds plasma-workspace-wallpapers` and Pillow. Seen with mate-backgrounds 1.26.0-1 and
plasma-workspace-wallpapers 4:5.27.5-2 of Debian 12; the pictures are under the GPL, version 2 or later, and none of
them is committed. Every picture of these packages and of gnome-backgrounds 43.1-1 was looked at, and the photographs
were taken: 22, a file for each motif. Drawings, paintings, renderings and gradients are left out (gnome-backgrounds has
nothing else), and so is the photograph DarkestHour, which has no crop with detail.

Each picture is reduced to a width of 1,024 pixels (Lanczos), so that a pixel holds detail and no JPEG blocks. Then:

- Every fourth picture, in the order of `PICTURES`, is held out: its crops are "elsewhere", places that no training crop
  shows.
- Of the others, training crops lie in the left three quarters and test crops in the right one: they cannot overlap.
- Crops are drawn uniformly, picture by picture in turn. One without detail is drawn again: where the mean absolute
  difference between neighbouring grey values is below 1 of 255, as in clear sky and out-of-focus backgrounds, which any
  method reproduces at 45 dB and more. A picture that gives none in 200 draws misses its turn.

    OUT/photographs-64/train/0000.png ...        1,040 crops of 64×64
    OUT/photographs-64/test/0000.png ...           260
    OUT/photographs-64-elsewhere/0000.png ...      260
    OUT/photographs-128/..., OUT/photographs-128-elsewhere/...   the same of 128×128
    OUT/photographs-64-60/train/...              the first 60 crops of a longer training set, with the same test crops;
    OUT/photographs-64-400/..., -4000/...        also 400 and 4,000. The first 1,040 are those of photographs-64.

The same seed gives the same pixels: a SHA-256 over all crops is printed, and compared with `CHECKSUM`. Another one
means other packages, or another Pillow that decodes or resizes otherwise (seen with Pillow 13.0).
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

__all__ = ["PICTURES", "draw_crops", "make", "regions"]

_MATE = "backgrounds/mate/nature/{}.jpg"
_PLASMA = "wallpapers/{}/contents/images/2560x1600.jpg"
PICTURES = [
    *(_MATE.format(name) for name in ("Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird")),
    *(_MATE.format(name) for name in ("RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower")),
    *(_PLASMA.format(name) for name in ("BytheWater", "ColdRipple", "ColorfulCups", "EveningGlow", "FallenLeaf")),
    *(_PLASMA.format(name) for name in ("Grey", "Kite", "OneStandsOut", "Path", "summer_1am")),
]
"""The photographs, below /usr/share. The order decides which are held out."""

CHECKSUM = "b04363b5c2852bb4fb59d93e72b26bc5c5ead4e4ca38df347d3a911d6c26a7ea"

WIDTH = 1024
TRAIN, TEST, ELSEWHERE = 1040, 260, 260
COUNTS = (60, 400, 4000)

_LEAST_DETAIL = 1.0
"""Mean absolute difference between neighbouring grey values, of 255."""
_DRAWS = 200


def make(out: Path, share: Path = Path("/usr/share")) -> str:
    """Write all sets below `out`, which must not hold them yet, and return the checksum over their pixels."""
    held_out, trained = _pictures(PICTURES[::4], share), _pictures([p for i, p in enumerate(PICTURES) if i % 4], share)
    left, right = zip(*map(regions, trained), strict=True)
    checksum = hashlib.sha256()
    for side in (64, 128):
        name = f"photographs-{side}"
        train = draw_crops(left, side, max(COUNTS) if side == 64 else TRAIN, seed=0)
        test = draw_crops(right, side, TEST, seed=1)
        sets = {f"{name}/train": train[:TRAIN], f"{name}/test": test}
        sets[f"{name}-elsewhere"] = draw_crops(held_out, side, ELSEWHERE, seed=2)
        if side == 64:
            for count in COUNTS:
                sets |= {f"{name}-{count}/train": train[:count], f"{name}-{count}/test": test}
        for folder, crops in sets.items():
            checksum.update(folder.encode() + crops.tobytes())
            _write(out / folder, crops)
            print(f"{folder}: {len(crops):,} crops")
    return checksum.hexdigest()


def regions(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of a picture H×W(×C) that training crops are drawn from, and the part for test crops."""
    border = picture.shape[1] * 3 // 4
    return picture[:, :border], picture[:, border:]


def draw_crops(pictures: Sequence[np.ndarray], side: int, count: int, *, seed: int) -> np.ndarray:
    """Square crops of pictures H×W(×C), all of them with some detail.

    Args:
        pictures: uint8, each at least `side` high and wide.
        side: height and width of a crop in pixels.
        count: how many crops. The first ones are the same for every `count`.
        seed: of the draw.

    Returns:
        uint8, count×side×side(×C).

    Raises:
        ValueError: where no crop with detail is found.
    """
    generator = np.random.default_rng(seed)
    crops: list[np.ndarray] = []
    while len(crops) < count:
        found = [crop for picture in pictures if (crop := _draw_crop(picture, side, generator)) is not None]
        if not found:
            raise ValueError(f"`pictures` (={len(pictures)} of them) must have crops with detail, as photographs do.")
        crops += found
    return np.stack(crops[:count])


def _draw_crop(picture: np.ndarray, side: int, generator: np.random.Generator) -> np.ndarray | None:
    for _ in range(_DRAWS):
        top = generator.integers(picture.shape[0] - side + 1)
        left = generator.integers(picture.shape[1] - side + 1)
        crop = picture[top : top + side, left : left + side]
        if _detail(crop) >= _LEAST_DETAIL:
            return crop
    return None


def _detail(crop: np.ndarray) -> float:
    grey = crop.mean(axis=2) if crop.ndim == 3 else crop.astype(float)
    return float((np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2)


def _pictures(names: Sequence[str], share: Path) -> list[np.ndarray]:
    """The pictures in colour, reduced to one width."""
    return list(_reduced([share / name for name in names]))


def _reduced(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    from PIL import Image

    for path in paths:
        if not path.is_file():
            raise SystemExit(f"{path} is missing: apt-get install mate-backgrounds plasma-workspace-wallpapers")
        with Image.open(path) as image:
            height = round(image.height * WIDTH / image.width)
            yield np.asarray(image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS))


def _write(folder: Path, crops: np.ndarray) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number, crop in enumerate(crops):
        Image.fromarray(crop).save(folder / f"{number:04}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder, new or without these sets")
    checksum = make(parser.parse_args().out)
    print(f"SHA-256 of all pixels: {checksum}" + (", as seen before" if checksum == CHECKSUM else ""))
    if checksum != CHECKSUM:
        print(f"not {CHECKSUM}: other packages, or another Pillow")


if __name__ == "__main__":
    main()
