"""Noisy pictures in one folder and their clean twins in another, matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import cast

from halfstride.autoencoder.images.collection import Collection, Progress, survey
from halfstride.autoencoder.images.decoding import Header, Pair
from halfstride.autoencoder.images.folders import read_folder
from halfstride.autoencoder.images.formats import Picture, printable
from halfstride.autoencoder.images.splits import Skipped

_NAMED = 3
"""Pictures that an error message names."""


def survey_pairs(noisy: Collection, clean: Path, progress: Progress | None) -> None:
    """Turn the pictures of a folder into pairs, each with the one of the same name in `clean`, and read their headers.

    Names are the paths from the two folders without their suffixes. Where one of two cannot be read, both are skipped.
    A pair is grey where both pictures are.

    Raises:
        ValueError: where a picture of either folder has no twin, more than one, or one of another size.
    """
    quoted = printable(str(clean))
    if not clean.is_dir():
        raise ValueError(f"`clean` (={quoted}) must be a folder of pictures, one for each in `source`.")
    try:
        twins = read_folder(clean)
    except ValueError as error:
        raise ValueError(str(error).replace("`source`", "`clean`", 1)) from None
    survey(noisy, progress)
    survey(twins, progress)
    places, twin_places = _by_stem(noisy, quoted), _by_stem(twins, quoted)
    broken, broken_twins = ({_stem(name): reason for name, reason in side.skipped} for side in (noisy, twins))
    alone = [noisy.names[i] for stem, i in places.items() if stem not in twin_places and stem not in broken_twins]
    alone_twins = [twins.names[i] for stem, i in twin_places.items() if stem not in places and stem not in broken]
    if alone or alone_twins:
        raise ValueError(
            f"`clean` (={quoted}) must have one picture for each in `source`, of the same name apart from its suffix: "
            f"{_first(alone)} in `source` and {_first(alone_twins)} in `clean` have no twin."
        )
    noisy.skipped += [Skipped(f"{name} (clean)", reason) for name, reason in twins.skipped if _stem(name) not in places]
    kept = [(i, twin_places[stem]) for stem, i in places.items() if stem in twin_places]
    headers = [(noisy.headers[i], twins.headers[k]) for i, k in kept]
    if odd := [
        f"{noisy.names[i]} {a.height}×{a.width} and {b.height}×{b.width}"
        for (i, _), (a, b) in zip(kept, headers, strict=True)
        if a[:2] != b[:2]
    ]:
        raise ValueError(
            f"`clean` (={quoted}) must have pictures of the same size (height × width) as those in `source`: "
            f"{_first(odd)} differ."
        )
    pictures = [Pair(cast(Picture, noisy.pictures[i]), cast(Picture, twins.pictures[k])) for i, k in kept]
    noisy.skip({i: f"has a clean twin that {broken_twins[s]}" for s, i in places.items() if s not in twin_places})
    noisy.pictures = pictures
    noisy.headers = [Header(a.height, a.width, a.grey and b.grey, a.deep or b.deep) for a, b in headers]


def _by_stem(side: Collection, clean: str) -> dict[str, int]:
    """The number of each picture by its name without suffix, in the order of the pictures."""
    places: dict[str, int] = {}
    for i, name in enumerate(side.names):
        if (first := places.setdefault(_stem(name), i)) != i:
            raise ValueError(
                f"`clean` (={clean}) cannot be matched by name: {printable(side.names[first])} and {printable(name)} "
                f"in {side.source} differ in their suffix alone."
            )
    return places


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _first(names: Sequence[str]) -> str:
    """How many, and the first of them by name."""
    if not names:
        return "0"
    told = ", ".join(printable(name) for name in names[:_NAMED])
    return f"{len(names):,} ({told}{', ...' if len(names) > _NAMED else ''})"
