"""What simple methods make of the same images with as many numbers as a code has: the scale for an autoencoder's error.

Everything is fitted on training images. Images at rest are uint8 N×C×H×W; `reconstruct` takes and gives float images
N×C×H×W with values in [0, 1], on the CPU.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from halfstride.autoencoder.images import to_float

_CHUNK = 2**24  # values in float at a time
_CODEC_LEAST_SIDE = 64  # of smaller images a codec's headers are most of the file
_ITERATIONS = 3
_PATIENCE = 5  # seconds that exact PCA may take, however much faster the randomised one is
_THUMBNAIL_SAMPLE = 2**22  # values


class Baseline:
    """A way to describe an image by few numbers, or by a small file, and to restore it."""

    name: str
    numbers: int | None = None
    """How many numbers describe an image; None for files."""
    size: float | None = None
    """How many bytes an image's file has on average; None where there is none."""
    comparable: bool = True
    """Whether it needs no more room than the code that it is compared with."""
    note: str = ""
    """How it was made, for people."""

    def reconstruct(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class CorruptedInput(Baseline):
    """The input as it is, where a model should remove its corruption."""

    name = "input"
    note = "the corrupted images as they are"

    def reconstruct(self, images: Tensor) -> Tensor:
        return images


class MeanImage(Baseline):
    """The mean of the training images in place of every image."""

    name = "mean image"
    numbers = 0
    note = "the same for every image"

    def __init__(self, images: Tensor) -> None:
        self.mean = _mean(images).reshape(images.shape[1:])

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.mean.expand_as(images)


class Thumbnail(Baseline):
    """A smaller image with at most `numbers` values, enlarged again by bicubic interpolation.

    Of the sizes that use the numbers well at nearly the image's aspect, and of reducing by the mean over areas or by an
    antialiased bicubic filter, the pair with the least error on training images is taken. Where there are fewer
    numbers than channels, the thumbnail is grey.
    """

    name = "thumbnail"

    def __init__(self, images: Tensor, numbers: int) -> None:
        channels, height, width = images.shape[1:]
        self.grey = numbers < channels
        kept = 1 if self.grey else channels
        sample = to_float(images[:: math.ceil(images.numel() / _THUMBNAIL_SAMPLE)])
        best = math.inf
        for size in _thumbnail_sizes(numbers // kept, height, width):
            for mode in ("area", "bicubic"):
                error = float((self._through(sample, size, mode) - sample).square().mean())
                if error < best:
                    best, self.pixels, self.mode = error, size, mode
        self.numbers = kept * math.prod(self.pixels)
        colour = " grey" if self.grey else ""
        self.note = f"{self.pixels[0]}×{self.pixels[1]}{colour} pixels, enlarged by bicubic interpolation"

    def reconstruct(self, images: Tensor) -> Tensor:
        return self._through(images, self.pixels, self.mode)

    def _through(self, images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
        small = images.mean(1, keepdim=True) if self.grey else images
        if size != images.shape[-2:]:
            small = F.interpolate(small, size, mode=mode, antialias=mode == "bicubic")
            small = F.interpolate(small, images.shape[-2:], mode="bicubic").clamp(0, 1)
        return small.expand_as(images)


class PCA(Baseline):
    """Principal component analysis with at most `numbers` components; what it restores is clipped to [0, 1].

    Exact by the eigenvectors of the covariance or, where there are fewer images than values, of the Gram matrix;
    randomised (scikit-learn) where that is much cheaper. Up to twice as many components are kept, which tell what more
    numbers would gain.

    Args:
        images: training images, uint8 N×C×H×W.
        numbers: how many components to restore images from; fewer where there are fewer images.
        drawn_from: how many training images there are, where `images` are a sample.
    """

    name = "PCA"

    def __init__(self, images: Tensor, numbers: int, drawn_from: int | None = None) -> None:
        self.mean = _mean(images)
        count, size = len(images), self.mean.numel()
        available = min(2 * numbers, count - 1, size)
        self.axes, method = _principal_axes(images, self.mean, available)
        self.numbers = min(numbers, len(self.axes))
        self.wanted = numbers
        self.doubled = available == min(2 * numbers, size)
        """Whether there are enough training images for twice the numbers."""
        of = f"{count:,}" if drawn_from in (None, count) else f"{count:,} of {drawn_from:,}"
        self.note = f"{method}, of {of} training images, clipped to [0, 1]"
        if self.numbers < numbers:
            self.note += f", which have only {self.numbers:,} components"

    def reconstruct(self, images: Tensor, factor: int = 1) -> Tensor:
        """Images restored from `factor` (1 or 2) times the numbers."""
        axes = self.axes[: factor * self.wanted]
        codes = (images.flatten(1) - self.mean) @ axes.T
        return torch.addmm(self.mean, codes, axes).clamp_(0, 1).reshape(images.shape)

    def codes(self, images: Tensor) -> Tensor:
        """The coordinates N×numbers of float images."""
        return (images.flatten(1) - self.mean) @ self.axes[: self.numbers].T


class Codec(Baseline):
    """Image files of at most `budget` bytes on average, headers included.

    The highest quality whose files keep within the budget, by bisection; where even the smallest
    files are larger, those, and the codec is no measure for the code (`comparable` is False).

    Args:
        name: `"JPEG"` or `"WebP"`.
        images: examples of what to compress, uint8 N×C×H×W with 1 or 3 channels.
        budget: bytes per image.
    """

    def __init__(self, name: Literal["JPEG", "WebP"], images: Tensor, budget: float) -> None:
        self.name = name
        low, high = 1, 95 if name == "JPEG" else 100
        self.quality, self.size = low, self._mean_bytes(images, low)
        self.comparable = self.size <= budget
        while self.comparable and low <= high:
            middle = (low + high) // 2
            size = self._mean_bytes(images, middle)
            if size <= budget:
                self.quality, self.size, low = middle, size, middle + 1
            else:
                high = middle - 1
        self.note = f"quality {self.quality}, headers counted"
        if not self.comparable:
            self.note += ", the smallest files that it makes: no baseline"

    def reconstruct(self, images: Tensor) -> Tensor:
        from PIL import Image

        outputs = []
        for image in images.mul(255).round().clamp(0, 255).to(torch.uint8):
            with Image.open(io.BytesIO(self._encoded(image, self.quality))) as file:
                pixels = np.array(file.convert("L" if len(image) == 1 else "RGB"))
            outputs.append(torch.from_numpy(pixels).reshape(*image.shape[1:], -1).movedim(-1, 0))
        return to_float(torch.stack(outputs))

    def _mean_bytes(self, images: Tensor, quality: int) -> float:
        return sum(len(self._encoded(image, quality)) for image in images) / len(images)

    def _encoded(self, image: Tensor, quality: int) -> bytes:
        from PIL import Image

        stream = io.BytesIO()
        options = {"optimize": True} if self.name == "JPEG" else {"method": 4}
        Image.fromarray(image.movedim(0, -1).squeeze(-1).numpy()).save(
            stream, format=self.name, quality=quality, **options
        )
        return stream.getvalue()


def fit_baselines(train: Tensor, files: Tensor, numbers: int, *, drawn_from: int | None = None) -> list[Baseline]:
    """The mean image, a thumbnail and PCA and, for images of at least 64 pixels a side, JPEG and WebP.

    Args:
        train: training images to fit on, uint8 N×C×H×W.
        files: images, as they will be compressed, whose files are brought to the size of a code.
        numbers: how many numbers a code has, 1 or more.
        drawn_from: how many training images there are, where `train` is a sample of them.
    """
    channels, height, width = train.shape[1:]
    fitted: list[Baseline] = [MeanImage(train), Thumbnail(train, numbers), PCA(train, numbers, drawn_from)]
    if min(height, width) >= _CODEC_LEAST_SIDE and channels in (1, 3):
        fitted += [Codec("JPEG", files, numbers), Codec("WebP", files, numbers)]  # a byte for each number
    return fitted


def _thumbnail_sizes(pixels: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """Heights and widths of at most so many pixels, at nearly the aspect of the image."""
    if pixels >= height * width:
        yield height, width
        return
    ideal = math.sqrt(pixels * height / width)
    for rows in range(max(math.floor(ideal) - 1, 1), math.ceil(ideal) + 2):
        columns = min(pixels // rows, width)
        if rows <= height and columns:
            yield rows, columns
    if ideal > height:  # of very wide images
        yield height, pixels // height


def _mean(images: Tensor) -> Tensor:
    """The mean of uint8 images as one float32 row, in [0, 1]."""
    flat = images.flatten(1)
    total = torch.zeros(flat.shape[1], dtype=torch.float64)
    for chunk in torch.split(flat, max(_CHUNK // flat.shape[1], 1)):
        total += chunk.sum(0, dtype=torch.float32)
    return (total / (255 * len(images))).float()


def _principal_axes(images: Tensor, mean: Tensor, count: int) -> tuple[Tensor, str]:
    """The leading principal axes, at most count×values in float32, and how they were found."""
    if count < 1:
        return torch.empty(0, mean.numel()), "exact"
    number, size = len(images), mean.numel()
    flat, centre = images.flatten(1).numpy(), mean.numpy()
    side = min(number, size)
    exact, randomised = _seconds(number, size, count)
    if exact > max(2 * randomised, _PATIENCE):
        from sklearn import decomposition

        centred = flat.astype(np.float32)
        centred /= 255
        # Without normalisation, float32 would lose all but the strongest axes in a few products.
        solver = {"svd_solver": "randomized", "iterated_power": _ITERATIONS, "power_iteration_normalizer": "QR"}
        model = decomposition.PCA(count, **solver, copy=False, random_state=0)
        return torch.from_numpy(model.fit(centred).components_), "randomised"
    from scipy.linalg import eigh

    # In float64: the square of the smallest standard deviation that matters is far below float32's rounding.
    product = np.zeros((side, side))
    by_rows = size <= number
    step = max(_CHUNK // (size if by_rows else number), 1)
    for start in range(0, number if by_rows else size, step):
        part = slice(start, start + step)
        values = flat[part] / 255.0 - centre if by_rows else (flat[:, part] / 255.0 - centre[part]).T
        product += values.T @ values
    variances, vectors = eigh(product, subset_by_index=[side - count, side - 1])
    kept = variances > 1e-12 * max(variances[-1], 1e-6 * number)
    variances, vectors = variances[kept][::-1], vectors[:, kept][:, ::-1]
    if by_rows:
        return torch.from_numpy(np.ascontiguousarray(vectors.T, dtype=np.float32)), "exact"
    weights = (vectors / np.sqrt(variances)).T.astype(np.float32)
    axes = np.empty((len(weights), size), dtype=np.float32)
    for start in range(0, size, step):
        part = slice(start, start + step)
        axes[:, part] = weights @ (flat[:, part].astype(np.float32) / 255 - centre[part])
    return torch.from_numpy(axes), "exact"


def _seconds(number: int, size: int, count: int) -> tuple[float, float]:
    """Roughly how long exact PCA (in float64, with eigenvectors) and randomised PCA (eight products) take on a core."""
    side = min(number, size)
    exact = number * size * side / 56e9 + 1.4 * side**3 / 8e9
    return exact, 16 * number * size * (count + 10) / 45e9
