"""A picture enlarged by stacked upsampling layers and by plain methods, and the pattern that each of them leaves."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from halfstride import diagnose_image, kernels
from halfstride.autoencoder import to_float
from halfstride.checkerboard.thresholds import EQUAL_GAINS
from halfstride.studio.layer import Layer
from halfstride.studio.pictures import Picture, picture

_LARGEST_INPUT, _LEAST_INPUT = 64, 12
_TARGET = 256
"""Pixels of the output along each axis, about; and those in its middle that are examined."""
_LARGEST_OUTPUT = 1024
_LANDSCAPE = 256
Weights = Literal["random", "ones", "bilinear"]


class Stack(BaseModel):
    """One to three equal layers, one after the other, that treat each channel by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal["transposed", "resize", "subpixel"] = "transposed"
    kernel_size: int = Field(3, ge=1, le=9)
    stride: int = Field(2, ge=2, le=4, description="Or the scale factor.")
    padding: int = Field(1, ge=0, le=8)
    layers: int = Field(2, ge=1, le=3)
    kernel: Weights = Field(
        "random",
        description="Uniform random numbers, others in each layer; ones; or weights that fall linearly to 0. All are "
        "scaled to keep the mean brightness.",
    )
    seed: int = Field(0, ge=0, le=9999, description="Of the random numbers.")

    @property
    def scale(self) -> int:
        """By how much the picture is enlarged, about."""
        return int(self.stride**self.layers)

    @property
    def input_size(self) -> int:
        """Pixels along each axis to which a picture is reduced beforehand, at most."""
        return min(_LARGEST_INPUT, max(_LEAST_INPUT, _TARGET // self.scale))


class Judged(BaseModel):
    """What the checkerboard doctor says of a picture."""

    found: bool | None = Field(description="Whether there is a checkerboard; null where it cannot be judged.")
    strength: float = Field(description="Of all patterns found, in units of the picture's standard deviation.")
    period: int | None
    conclusion: str


class Enlarged(BaseModel):
    """An enlarged picture."""

    picture: Picture
    judged: Judged


class Stage(Enlarged):
    """The picture after a layer."""

    brightness: float = Field(description="By which it is multiplied to be shown: below 1 where it is too bright.")
    constant: Picture = Field(description="The same layers' output for a constant picture, its mean as mid-grey.")
    lowest: float = Field(description="Of that, away from the border, in units of its mean.")
    highest: float


class Enlargement(BaseModel):
    """A picture on its way through the layers, and enlarged to the same size by plain methods."""

    input: Picture
    stages: list[Stage]
    nearest: Enlarged
    bilinear: Enlarged


@torch.inference_mode()
def enlarge(image: Tensor, stack: Stack) -> Enlargement:
    """Send a picture through the layers.

    Args:
        image: uint8, C×H×W; the largest square in its middle is taken, and reduced where it is larger than the layers
            take.
        stack: the layers.

    Raises:
        ValueError: where the layers' arguments do not go together, or the output would be too large.
    """
    _check(stack)
    small = _reduced(image, stack.input_size)
    values, constant = small, torch.ones(1, 1, 4 * _LEAST_INPUT, 4 * _LEAST_INPUT)
    stages, border = [], 0
    for place in range(stack.layers):
        layer, weights = _layer(stack), _weights(stack, place)
        values, constant = layer(values, weights), layer(constant, weights)
        border = border * stack.stride + stack.kernel_size  # as far as padding is seen
        margin = constant.shape[-1] // 4
        inner = constant[..., margin:-margin, margin:-margin]
        gains = inner / inner.mean()
        brightest = float(torch.quantile(values.flatten()[:: 1 + values.numel() // 1_000_000], 0.995))
        brightness = 1 / max(1.0, brightest)
        stages.append(
            Stage(
                picture=_shown(values * brightness),
                judged=_judge(values, border, even=bool(gains.max() - gains.min() < EQUAL_GAINS)),
                brightness=brightness,
                constant=_shown(_square(gains, _TARGET // 4) / 2),
                lowest=float(gains.min()),
                highest=float(gains.max()),
            )
        )
    size = tuple(values.shape[2:])
    plain = {
        "nearest": F.interpolate(small, size=size, mode="nearest-exact"),
        "bilinear": F.interpolate(small, size=size, mode="bilinear"),
    }
    enlarged = {
        name: Enlarged(picture=_shown(one), judged=_judge(one, border, even=True)) for name, one in plain.items()
    }
    return Enlargement(input=_shown(small), stages=stages, **enlarged)


# The layers -------------------------------------------------------------------------------------------------------


def _layer(stack: Stack) -> Layer:
    return Layer(**stack.model_dump(include={"form", "kernel_size", "stride", "padding"}))


def _check(stack: Stack) -> None:
    size = stack.input_size
    for _ in range(stack.layers):
        size = _layer(stack).model_copy(update={"input_size": size}).output_size
    if size > _LARGEST_OUTPUT:
        raise ValueError(
            f"The output would have {size} pixels along each axis, and up to {_LARGEST_OUTPUT} are shown: choose a "
            "smaller padding, stride or number of layers."
        )


def _weights(stack: Stack, place: int) -> Tensor:
    """The kernels of the layer at a place, which keep a picture's mean."""
    k, s = stack.kernel_size, stack.stride
    count = s * s if stack.form == "subpixel" else 1
    if stack.kernel == "random":
        weights = torch.rand(count, 1, k, k, generator=torch.Generator().manual_seed(3 * stack.seed + place))
    elif stack.kernel == "ones":
        weights = torch.ones(count, 1, k, k)
    elif stack.form == "subpixel":  # its kernels are the phases of one of k·s taps
        weights = kernels.subpixel_from_transposed(_falling(k * s, s), s)
    else:
        weights = _falling(k, s)
    return weights * ((1 if stack.form == "resize" else s * s) / weights.sum())


def _falling(taps: int, stride: int) -> Tensor:
    """A kernel that falls linearly from its middle, to 0 at the distance of a stride, as in bilinear interpolation."""
    axis = (1 - (torch.arange(taps) - (taps - 1) / 2).abs() / stride).clamp_min(0)
    return torch.outer(axis, axis)[None, None]


# Pictures ---------------------------------------------------------------------------------------------------------


def _reduced(image: Tensor, size: int) -> Tensor:
    """The square in the middle, at most `size` pixels along each axis; float32, (channels, 1, height, width)."""
    shown = image if len(image) == 3 else image[:1]
    square = _square(to_float(shown[None])[0], min(image.shape[1:]))
    return F.adaptive_avg_pool2d(square, min(size, square.shape[-1]))[:, None]


def _square(image: Tensor, size: int) -> Tensor:
    """The square of at most so many pixels in the middle of an image."""
    height, width = image.shape[-2:]
    size = min(size, height, width)
    top, left = (height - size) // 2, (width - size) // 2
    return image[..., top : top + size, left : left + size]


def _shown(values: Tensor) -> Picture:
    return picture(values[:, 0].clamp(0, 1).mul(255).round().to(torch.uint8))


def _judge(values: Tensor, border: int, *, even: bool) -> Judged:
    """Examine the mean of the channels, which all have the same layers, inside a border.

    Where a constant picture stays constant (`even`), what is found is made by the content and is no checkerboard: a
    slope that was enlarged by repetition is a staircase.
    """
    size = values.shape[-1]
    middle = _square(values.mean((0, 1)), min(_TARGET, size - 2 * min(border, size // 4)))
    try:
        found = diagnose_image((middle * 65535).round() / 65535)  # a constant picture's rounding errors have a pattern
    except ValueError as error:  # too small
        return Judged(found=None, strength=0, period=None, conclusion=f"Could not judge: {error}")
    conclusion = str(found).splitlines()[-1]
    if found.found and even:
        conclusion = (
            f"The {found.strength:.1%} at period {found.period} are made by content that changes from one position to "
            "the next: a constant picture stays constant."
        )
    return Judged(found=found.found and not even, strength=found.strength, period=found.period, conclusion=conclusion)


@cache
def landscape() -> Tensor:
    """A generated picture with the spectrum of a photograph: clouds, hills and a meadow; uint8, 3×256×256."""
    draws = np.random.default_rng(4)
    size = _LANDSCAPE
    across, down = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size))

    def colour(red: float, green: float, blue: float) -> np.ndarray:
        return np.array([red, green, blue])[:, None, None]

    def mixed(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
        return np.asarray(one + (other - one) * share)

    clouds = np.clip(_rough(draws, (size, size), 1.6) * 0.9 + 0.35 - 0.5 * down, 0, 1)
    image = mixed(colour(0.35, 0.58, 0.86), colour(0.93, 0.86, 0.78), down / 0.6)
    image = mixed(image, colour(0.98, 0.97, 0.95), clouds)
    glow = np.exp(-((across - 0.72) ** 2 + (down - 0.2) ** 2) / 0.004)
    image = mixed(image, colour(1.0, 0.96, 0.8), glow)
    hills = [((0.62, 0.68, 0.78), 0.42, 0.10), ((0.38, 0.48, 0.52), 0.54, 0.09), ((0.20, 0.31, 0.24), 0.66, 0.06)]
    for tint, height, swing in hills:
        ridge = height + swing * _rough(draws, (size,), 1.3)
        texture = 1 + 0.22 * _rough(draws, (size, size), 0.9)
        image = np.where(down > ridge, colour(*tint) * texture, image)
    meadow = 0.8 + 0.05 * _rough(draws, (size,), 1.6)
    grass = 0.8 + 0.5 * down - 0.5 + 0.3 * _rough(draws, (size, size), 0.6)
    image = np.where(down > meadow, colour(0.45, 0.52, 0.16) * grass, image)
    return torch.from_numpy(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))


def _rough(draws: np.random.Generator, shape: tuple[int, ...], slope: float) -> np.ndarray:
    """Random numbers whose amplitude falls with the frequency to the power of `slope`; mean 0, variance 1."""
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) * n for n in shape), indexing="ij")
    distance = np.sqrt(sum(f**2 for f in frequencies))
    distance.flat[0] = np.inf
    values = np.fft.ifftn(np.fft.fftn(draws.standard_normal(shape)) / distance**slope).real
    return np.asarray((values - values.mean()) / values.std())
