"""The three parts of the data: images to train on, to validate on and to test on.

- What the source says (folders, arrays or splits called train, val and test) holds. Without, `test_fraction` of the
  images are drawn for testing.
- Without images for validation, a tenth of the training images are drawn for it: at least 8, at most 1,000, and never
  more than half of them. Nothing is drawn from what the source has for testing.
- Each draw ranks the images by a hash of seed and name and takes the first ones. So it does not depend on the order of
  the names, and one more image moves at most one other from one part to another.
- Identical pictures are in one part only: drawn together, or left out of training where the source has the same picture
  for validation or testing, and out of validation where it has it for testing.
- A single image, or copies of one, is in all parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from halfstride.autoencoder.images.collection import TEST, TRAIN, VALIDATION, Collection
from halfstride.autoencoder.images.formats import printable


def draw_parts(collection: Collection, test_fraction: float, seed: int) -> list[str]:
    """Draw what each picture is for, and say how in sentences."""
    count = len(collection.names)
    everything = range(count)
    wanted = min(max(round(count * test_fraction), 1), count - 1)
    tests = _drawn(collection, everything, wanted, f"{seed}/")
    if not tests:
        collection.parts = [(TRAIN, VALIDATION, TEST)] * count
        what = "With one image, it is" if count == 1 else f"All {count:,} images are the same: they are"
        return [f"{what} trained, validated and tested on."]
    collection.parts = [(TEST,) if i in tests else (TRAIN,) for i in everything]
    notes = [f"For testing, {test_fraction:.0%} were drawn by a hash of name and seed ({seed})."]
    notes += complete_parts(collection, seed)
    if copies := count - len({collection.same[i] for i in everything}):
        notes.append(f"{_images(copies)} the same as another one: they are in the same part as that.")
    return notes


def complete_parts(collection: Collection, seed: int) -> list[str]:
    """Draw the pictures for validation from those for training where there are none yet, and say so.

    Raises:
        ValueError: where there are none for training, or none for testing.
    """
    for part, what in ((TRAIN, "train"), (TEST, "test")):
        if not collection.members(part):
            raise ValueError(
                f"`source` (={collection.source}) holds no usable image to {what} on: "
                f"add some to its split for that, or remove it to have the other one split."
            )
    if collection.members(VALIDATION):
        return []
    assert collection.parts is not None
    train = collection.members(TRAIN)
    chosen = _drawn(collection, train, validation_count(len(train)), f"validation/{seed}/")
    parts = list(collection.parts)
    for i in chosen or train:
        parts[i] = (VALIDATION,) if chosen else (TRAIN, VALIDATION)
    collection.parts = parts
    if not chosen:
        return [f"{_images(len(train))} for training alone: validation is on the same."]
    return [
        f"For validation, {len(chosen):,} of the {len(train):,} images for training were drawn by a hash of name and "
        f"seed ({seed})."
    ]


def validation_count(train: int) -> int:
    """How many of the training images are for validation: a tenth, within 8 and 1,000, and at most half."""
    return min(max(round(train / 10), 8), 1_000, train // 2)


def drop_copies(collection: Collection) -> list[str]:
    """Where the source has its own split, leave out of training what it has for validation or testing, and say so.

    The same goes for validation and testing.
    """
    assert collection.parts is not None
    dropped: dict[int, str] = {}
    for part, others in ((TEST, (VALIDATION, TRAIN)), (VALIDATION, (TRAIN,))):
        held = {collection.same[i]: i for i in collection.members(part)}
        for other in others:
            for i in collection.members(other):
                if collection.same[i] in held and i not in dropped:
                    name = printable(collection.names[held[collection.same[i]]])
                    dropped[i] = f"is the same picture as {name}, which is for {_PURPOSES[part]}"
    collection.skip(dropped)
    if not dropped:
        return []
    return [f"{_images(len(dropped))} left out: the same pictures are held back for validation or testing."]


_PURPOSES = {VALIDATION: "validation", TEST: "testing"}


def _drawn(collection: Collection, among: Sequence[int], count: int, salt: str) -> set[int]:
    """About `count` of the pictures `among`, copies together; at least one and never all; none if all are the same."""
    units: dict[int, list[int]] = {}
    for i in among:
        units.setdefault(collection.same[i], []).append(i)
    if len(units) < 2:
        return set()

    def rank(unit: list[int]) -> bytes:
        name = min(collection.names[i] for i in unit)
        return hashlib.blake2b(f"{salt}{name}".encode("utf-8", "surrogateescape")).digest()

    ranked = sorted(units.values(), key=rank)
    chosen: set[int] = set()
    for unit in ranked:
        if len(chosen) + len(unit) <= count:
            chosen.update(unit)
    smallest: list[int] = min(ranked, key=len)
    return chosen or set(smallest)


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count:,} images are"
