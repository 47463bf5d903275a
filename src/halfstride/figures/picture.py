"""A figure that notebooks show."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that a notebook shows where it is the last line of a cell; matplotlib's own needs pyplot for that."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()
