"""One sentence on a trained autoencoder: is it any good, and what to do next?

What is decided here is decided on training and validation images. Test images only confirm or refute that the model
is better than the baselines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

Kind = Literal[
    "constant",
    "undertrained",
    "collapsed",
    "memorising",
    "latent too small",
    "worse than input",
    "worse than mean image",
    "worse than thumbnail",
    "worse than PCA",
    "good",
]

_EQUAL = (0.5 / 255) ** 2
"""Variance over the images below which they are the same to half a grey level."""

_STILL_FALLS = 0.08
"""Share of the validation error that went in the last fifth of the steps. While the learning rate falls on a cosine to
zero, 4 to 5 % go there whether the training was long enough or not (digits, 5 and 15 epochs), so that only errors that
fall faster tell something."""

_BEFORE = 0.8
"""Where the last fifth of the steps begins."""

_HARDLY_DIFFER = 0.01
"""Variance of the outputs over the images, as a share of the images' own."""

_ROSE = 1.1
"""Validation error over its lowest value before."""

_GAP = 2.0
"""Validation error over training error from which a model of few images has learned those by heart."""

_FEW_IMAGES = 10_000
_ALIKE = 1.25
"""Validation error over training error up to which more images would change little."""

_NEARLY = 1.1
"""Error over the best baseline's up to which a model does about what the baseline does."""

_FILES = ("JPEG", "WebP")
_NAMES = {
    "input": "the input as it is",
    "mean image": "the mean image",
    "thumbnail": "a thumbnail",
    "PCA": "PCA",
    "JPEG": "JPEG files of as many bytes",
    "WebP": "WebP files of as many bytes",
}

_GAINS_MUCH = 0.6
"""Error of PCA with twice the numbers over that with as many. On photographs of any kind it is about 0.75."""


class Verdict(NamedTuple):
    """What to think of a model, and what to do next."""

    kind: Kind
    sentence: str


class Rival(NamedTuple):
    """A baseline with as many numbers as the code."""

    name: Literal["input", "mean image", "thumbnail", "PCA", "JPEG", "WebP"]
    """`"input"` is a corrupted input as it is, where the model removes the corruption."""
    validation: float
    """MSE on the validation images."""
    test: float
    """MSE on the test images."""


@dataclass(frozen=True)
class Facts:
    """What a verdict depends on. Errors are MSE of values in [0, 1].

    Args:
        train: error on (a sample of) the training images.
        validation: error on the validation images.
        test: error on the test images.
        data_variance: how much the training images vary: the mean over values of the variance over images, which is
            the mean image's error on them.
        output_variance: how much the outputs for them vary.
        rivals: the baselines that the model must beat, PCA and the thumbnail among them where they were computed.
        numbers: how many numbers a code has.
        latent: `"vector"` or `"map"`.
        doubled: error of PCA with twice the numbers on the validation images; None where that is unknown.
        images: how many training images there are; None where that is unknown.
        metrics: entries of the training, in its order, with `step`, `train_mse` and `validation_mse`.

    Raises:
        ValueError: for an error or variance that is negative or no finite number.
    """

    train: float
    validation: float
    test: float
    data_variance: float
    output_variance: float
    rivals: Sequence[Rival]
    numbers: int
    latent: Literal["vector", "map"]
    doubled: float | None = None
    images: int | None = None
    metrics: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"`{field.name}` (={value}) must be finite and at least 0: train the model again.")


def judge(facts: Facts) -> Verdict:
    """The first verdict that applies, in an order in which each makes those after it meaningless.

    1. *constant*: of images that are all the same nothing can be learned, whatever the numbers are.
    2. *undertrained*: while the error still falls, everything else may change with more steps.
    3. *collapsed*: the outputs hardly differ, or are no better than the mean image on the very training images.
    4. *memorising*: good on the training images only, so that comparisons with baselines say nothing of the latent.
    5. *latent too small*: about as good as the best baseline and no gap to close, but PCA gains much from twice the
       numbers. Before *worse*, since a model just behind PCA is limited by the same few numbers.
    6. *worse* than a baseline, on the validation images or on the test images.
    7. *good*.
    """
    if facts.data_variance < _EQUAL:
        told = "The training images are all the same, so there is nothing to learn: check the data."
        return Verdict("constant", told)
    for rule in (_undertrained, _collapsed, _memorising, _too_small, _worse):
        if verdict := rule(facts):
            return verdict
    return _good(facts)


def _undertrained(facts: Facts) -> Verdict | None:
    share = _fall(facts.metrics)
    if share is None or share <= _STILL_FALLS:
        return None
    return Verdict(
        "undertrained",
        f"The validation error still fell by {share:.0%} over the last fifth of the steps{_standing(facts)}: "
        f"train longer, by --resume --steps {_curve(facts.metrics)[-1][0]}.",
    )


def _collapsed(facts: Facts) -> Verdict | None:
    share = facts.output_variance / facts.data_variance
    pca = _rival(facts, "PCA")
    mean = _rival(facts, "mean image")
    # Of data that hardly any few numbers describe, a good model's outputs hardly differ either.
    possible = 1 - pca.validation / mean.validation if pca and mean and mean.validation > 0 else 1.0
    if share < _HARDLY_DIFFER and share < 0.1 * max(possible, 0.01):
        reason = f"The outputs hardly differ between images (their variance is {share:.1%} of the data's)"
    elif facts.train >= facts.data_variance:
        reason = "The model is no better than the mean image even on the training images"
    else:
        return None
    other = "--latent map or a smaller --learning-rate" if facts.latent == "vector" else "a smaller --learning-rate"
    return Verdict("collapsed", f"{reason}, so it has collapsed: train it again with {other}.")


def _memorising(facts: Facts) -> Verdict | None:
    gap = facts.validation / max(facts.train, 1e-12)
    few = facts.images is not None and facts.images < _FEW_IMAGES
    curve = _curve(facts.metrics)
    best = min(curve, key=lambda entry: entry[2], default=None)
    if few and gap > _GAP and facts.validation > _EQUAL:
        reason = f"the error on validation images is {_times(gap)} that on training images"
    elif best and curve[-1][2] > max(_ROSE * best[2], _EQUAL) and curve[-1][1] < best[1]:
        reason = f"the validation error was lowest at step {best[0]} and has risen since, while the training error fell"
    else:
        return None
    return Verdict(
        "memorising",
        f"The model learns its training images by heart: {reason}{_standing(facts)}; give it more images, "
        f"--augment flip (or flip-rotate where up and down mean nothing), or a smaller code by --latent-dim.",
    )


def _too_small(facts: Facts) -> Verdict | None:
    pca = _rival(facts, "PCA")
    if pca is None or facts.doubled is None or facts.doubled > _GAINS_MUCH * pca.validation:
        return None
    best = min(rival.validation for rival in facts.rivals if rival.name not in _FILES)
    if facts.validation > _ALIKE * facts.train or not facts.doubled < facts.validation <= _NEARLY * best:
        return None
    way = "--latent-dim" if facts.latent == "vector" else "--latent-dim, or half the --downscale"
    return Verdict(
        "latent too small",
        f"The code is too small for these images: training and validation error are alike, and PCA with twice its "
        f"{facts.numbers:,} numbers has {1 - facts.doubled / pca.validation:.0%} less error: double {way}.",
    )


def _worse(facts: Facts) -> Verdict | None:
    behind = _behind(facts)
    if behind is None:
        return None
    name, images, loss = behind
    pca, thumbnail = _rival(facts, "PCA"), _rival(facts, "thumbnail")
    # PCA has a component for every place of the image, a thumbnail none: where it does not pay, places do not matter.
    layout = pca is not None and thumbnail is not None and pca.validation < 0.9 * thumbnail.validation
    if facts.latent == "vector" and not layout:
        way = "use --latent map"
    elif facts.latent == "map" and layout:
        way = "use --latent vector, or train longer by --steps"
    else:
        way = "train longer by --steps, or with another --learning-rate"
    compared = _NAMES[name] + (" with as many numbers" if name in ("PCA", "thumbnail") else "")
    sentence = f"{loss:.1f} dB worse than {compared} on the {images} images: {way}."
    return Verdict(f"worse than {name}", sentence)  # type: ignore[arg-type]


def _good(facts: Facts) -> Verdict:
    unknown = "" if _fall(facts.metrics) is not None else "; the curve is too short to tell if more steps would help"
    if all(rival.name in _FILES for rival in facts.rivals):
        return Verdict("good", f"No defect found, but there is no baseline to compare with{unknown}.")
    gap = facts.validation / max(facts.train, 1e-12)
    more = "give it more images or --augment" if gap > _ALIKE else "train longer by --steps, or double --latent-dim"
    files = [
        f", and {abs(gain):.1f} dB {'better' if gain > 0 else 'worse'} than {_NAMES[rival.name]}"
        for rival in facts.rivals
        if rival.name in _FILES and (gain := _decibels(rival.test, facts.test))
    ]
    return Verdict("good", f"Good: {_lead(facts)}{''.join(files)}; where that is not enough, {more}{unknown}.")


def _curve(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[int, float, float]]:
    """Step, training error and validation error of the entries that have all three."""
    curve = []
    for entry in metrics:
        values = [entry.get(key) for key in ("step", "train_mse", "validation_mse")]
        if all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            step, train, validation = values
            curve.append((int(step), float(train), float(validation)))  # type: ignore[arg-type]
    return curve


def _fall(metrics: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of the validation error that went in the last fifth; None where no point is near its beginning."""
    curve = _curve(metrics)
    if not curve or curve[-1][0] < 1:
        return None
    last = curve[-1]
    before = min(curve, key=lambda entry: abs(entry[0] / last[0] - _BEFORE))
    if not 0.6 <= before[0] / last[0] <= 0.9:
        return None
    # Nothing has fallen where the training error did not fall with it.
    return 1 - last[2] / max(before[2], 1e-12) if last[1] < before[1] else 0.0


def _rival(facts: Facts, name: str) -> Rival | None:
    return next((rival for rival in facts.rivals if rival.name == name), None)


def _behind(facts: Facts) -> tuple[str, str, float] | None:
    """The baseline that the model is furthest behind, on which images, and by how many dB; None where it is ahead."""
    # Files do not count: they give each image the bits that it needs, and say nothing of what is wrong with a code.
    losses = [
        (_decibels(own, other), rival.name, images)
        for rival in facts.rivals
        if rival.name not in _FILES
        for images in ("validation", "test")
        if (own := getattr(facts, images)) > (other := getattr(rival, images))
    ]
    if not losses:
        return None
    loss, name, images = max(losses)
    return name, images, loss


def _standing(facts: Facts) -> str:
    if _behind(facts) or all(rival.name in _FILES for rival in facts.rivals):
        return ""
    return f" (all the same it is {_lead(facts)})"


def _lead(facts: Facts) -> str:
    """How the model compares on the test images with PCA and the thumbnail, the better one first."""
    ranked = sorted((r for r in facts.rivals if r.name in ("PCA", "thumbnail")), key=lambda rival: rival.test)
    known = ranked or [rival for rival in facts.rivals if rival.name not in _FILES][:1]
    leads = [f"{_decibels(rival.test, facts.test):.1f} dB better than {_NAMES[rival.name]}" for rival in known]
    return f"{' and '.join(leads)}{' with as many numbers' if ranked else ''} on the test images"


def _decibels(larger: float, smaller: float) -> float:
    return 10 * math.log10(max(larger, 1e-10) / max(smaller, 1e-10))


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 1000 else "over 1,000 times"
