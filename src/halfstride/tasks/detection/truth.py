"""What is known of pictures: which are normal, which are anomalous, and where their defects are.

By folders as MVTec AD lays them out: pictures in `good` are normal, those in folders beside it anomalous; the mask of
`test/crack/007.png` is `ground_truth/crack/007_mask.png` (or `007.png`) beside `test`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfstride.autoencoder.images import ImageError, decode
from halfstride.tasks.pictures import Reader

__all__ = ["GROUND_TRUTH", "Truth", "find_masks", "labels_by_folder", "read_mask"]

GROUND_TRUTH = "ground_truth"
_NORMAL = ("good", "normal", "ok")
_ENDINGS = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Truth:
    """What is known of each picture."""

    anomalous: list[bool | None]
    masks: list[Path | None]

    @property
    def has_masks(self) -> bool:
        return any(self.masks)


def labels_by_folder(names: Sequence[str]) -> list[bool | None]:
    """Whether each picture is anomalous, by the folder that it lies in; None where no folder is called "good"."""
    folders = [Path(name).parent for name in names]
    normal = {folder for folder in folders if folder.name.lower() in _NORMAL}
    beside = {folder.parent for folder in normal}
    return [False if folder in normal else True if folder.parent in beside else None for folder in folders]


def find_masks(names: Sequence[str], folder: Path | None = None) -> list[Path | None]:
    """The mask of each picture, where there is one.

    Args:
        names: the pictures' paths.
        folder: where to look: for FOLDER/DEFECT/NAME_mask.png and FOLDER/NAME_mask.png; by default in `ground_truth`
            beside the folder `test` that the picture lies in.
    """
    found: list[Path | None] = []
    for name in names:
        path = Path(name)
        root = path.parent.parent.parent / GROUND_TRUTH if folder is None else folder
        places = [root / path.parent.name, *([] if folder is None else [root])]
        stems = (f"{path.stem}_mask", path.stem)
        tried = (place / f"{stem}{ending}" for place in places for stem in stems for ending in _ENDINGS)
        found.append(next((each for each in tried if each.is_file()), None))
    return found


def read_mask(path: Path | None, size: tuple[int, int], reader: Reader) -> np.ndarray:
    """A mask at the size at which its picture was judged; without one, no pixel is a defect's.

    Raises:
        ValueError: where the file cannot be read.
    """
    if path is None:
        return np.zeros(size, bool)
    try:
        return decode(path, (1, *size), reader.fit)[0].numpy() > 127
    except ImageError as error:
        raise ValueError(f"`masks` hold {path}, which {error.reason}: remove or replace it.") from None
