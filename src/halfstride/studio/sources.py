"""Where images may be read from: a run's record can name any folder of this machine, and data sets of the hub.

What lies in the runs folder is read. All else is read after the person at the page has allowed it, once for each source
until the server ends.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from halfstride.autoencoder import ImageOptions
from halfstride.studio.errors import ForeignSourceError, StudioError


class Sources:
    """The sources that may be read.

    Args:
        root: the folder of runs; None for none.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self._allowed: set[str] = set()

    def allow(self, sources: list[str], options: ImageOptions | None, noted: Collection[str] = ()) -> None:
        """Allow sources, which must be those that the run names now, as its images' or in its notes.

        Raises:
            StudioError: where it names others, such as since the person was asked.
        """
        images = () if options is None else (options.source, options.clean)
        if not set(sources) <= {*images, *noted}:
            raise StudioError(409, "This run names other images by now: reload the page.")
        self._allowed.update(sources)

    def check(self, options: ImageOptions) -> None:
        """Raise ForeignSourceError where a run's images lie elsewhere and are not allowed; nothing is read for it."""
        self.check_folders([source for source in (options.source, options.clean) if source is not None])

    def check_folders(self, named: Sequence[str]) -> None:
        """Raise ForeignSourceError where one of these lies elsewhere and is not allowed; nothing is read for it."""
        if foreign := [one for one in named if one not in self._allowed and not self._is_own(one)]:
            raise ForeignSourceError(foreign)

    def _is_own(self, source: str) -> bool:
        if source == "digits":
            return True
        if self.root is None or source.startswith("hub:"):
            return False
        path = Path(os.path.abspath(source))  # noqa: PTH100  # `resolve` would already ask the disk, or another machine
        return path.is_relative_to(self.root) and path.resolve().is_relative_to(self.root) and not _has_links(path)


def _has_links(folder: Path) -> bool:
    """Whether a folder holds a link, by which it could hold anything."""
    for parent, folders, files in os.walk(os.path.realpath(folder)):
        if any(os.path.islink(os.path.join(parent, name)) for name in files):  # noqa: PTH114, PTH118  # a million times
            return True
        for place in (os.path.join(parent, name) for name in folders):  # noqa: PTH118
            if os.path.realpath(place) != place:  # on Windows a junction is no link
                return True
    return False
