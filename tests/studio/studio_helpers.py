"""What the tests of the studio share: images as pages show them, and columns as rows."""

import base64
import contextlib
import io
from collections import namedtuple
from dataclasses import asdict

import numpy as np
from PIL import Image


def rows(columns):
    """The rows of a dataclass of columns."""
    found = asdict(columns)
    row = namedtuple("Row", found)
    return [row(*values) for values in zip(*found.values(), strict=True)]


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="png")
    return stream.getvalue()


def pixels(picture):
    """A picture of an answer as an array H×W×3."""
    shape = (picture["height"], picture["width"], 3)
    return np.frombuffer(base64.b64decode(picture["rgb"]), dtype=np.uint8).reshape(shape)


def as_shown(image):
    """A uint8 image C×H×W as pages show it: H×W×3."""
    return np.broadcast_to(np.moveaxis(np.asarray(image), 0, -1), (*image.shape[1:], 3))


@contextlib.contextmanager
def restored(path):
    """Bring a file back to what it was, whatever happens to it meanwhile."""
    before = path.read_bytes()
    try:
        yield before
    finally:
        path.write_bytes(before)
