"""How often `diagnose_image` is right on single natural pictures, with and without a weak pattern.

    python -m benchmarks.doctor

The four corners of the pictures that come with scikit-image and scikit-learn, as they are and with a pattern of period
2 of two percent of their standard deviation. Two minutes on one core; docs/notes/doctor.md has the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from skimage import data
from sklearn.datasets import load_sample_image

from halfstride.checkerboard import diagnose_image

PICTURES = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket"),
)
STRENGTH = 0.02


def crops(side: int) -> Iterator[tuple[str, np.ndarray]]:
    """The four corners of each picture that is large enough, in grey, and their name."""
    pictures = {name: getattr(data, name)() for name in PICTURES}
    pictures["motorcycle"] = data.stereo_motorcycle()[0]
    pictures |= {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    for name, picture in pictures.items():
        grey = picture.astype(float) if picture.ndim == 2 else picture[..., :3].mean(-1)
        if min(grey.shape) >= side:
            for top in (0, grey.shape[0] - side):
                for left in (0, grey.shape[1] - side):
                    yield f"{name} at {top}, {left}", grey[top : top + side, left : left + side]


def main() -> None:
    for side in (128, 256):
        odd = np.arange(side) % 2
        for kind, pattern in (
            ("no pattern", np.zeros((side, side))),
            ("checkers", (odd[:, None] + odd) % 2),
            ("overlap", np.outer(1 + odd, 1 + odd)),
        ):
            normed = (pattern - pattern.mean()) / max(pattern.std(), 1e-9)
            found: dict[bool | None, list[str]] = {True: [], False: [], None: []}
            for name, crop in crops(side):
                diagnosis = diagnose_image(torch.from_numpy(crop + STRENGTH * crop.std() * normed))
                found[diagnosis.found].append(name)
            counts = f"{len(found[True])} found, {len(found[False])} not found, {len(found[None])} not judged"
            listed = found[True] if kind == "no pattern" else found[False] + found[None]
            of = Counter(name.split(" at ")[0] for name in listed)
            print(f"{side}×{side}, {kind}: {counts};", *(f"{name} {count}" for name, count in of.items()), flush=True)


if __name__ == "__main__":
    main()
