"""`evaluate`: is a trained autoencoder any good?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from halfstride import figures
from halfstride._support.models import evaluating
from halfstride.autoencoder.baselines import PCA, Baseline, CorruptedInput, fit_baselines
from halfstride.autoencoder.images import Images, to_float
from halfstride.autoencoder.images.splits import inputs_and_targets, spread
from halfstride.autoencoder.records import from_json, to_json
from halfstride.autoencoder.samples import Measures, SampledPairs, draw_sample, measure, prepared
from halfstride.autoencoder.scoring import Corrupt, Scores, device_of, evaluation_batch_size
from halfstride.autoencoder.verdict import Facts, Rival, Verdict, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL = "this model"

_TRAIN_IMAGES = 1_000  # that errors are computed on; validation images are no more either
_TEST_IMAGES = 2_000  # that baselines are computed on
_TEST_VALUES = 2**24  # in them, where that leaves 256 images
_FITTED_VALUES = 2**28  # of training images for the baselines: 1 GiB in float32
_DECODED_IMAGES = 10_000  # for the baselines, where images are decoded as they are needed
_NEIGHBOURS = 5
_CODEC_IMAGES = 64  # whose files are brought to the size of a code


class Row(NamedTuple):
    """What the model, or a baseline, makes of the test images (a sample of at most 2,000)."""

    name: str
    """`"this model"`, `"input"`, `"mean image"`, `"thumbnail"`, `"PCA"`, `"JPEG"` or `"WebP"`."""
    mse: float
    psnr: float
    """Mean over images, in dB."""
    validation_mse: float | None
    numbers: int | None
    """Numbers per image; None for files."""
    bytes: float | None
    """Mean size of a file; None where there is none."""
    gradient_energy: float
    """Mean squared difference of neighbouring pixels: low where images are blurred."""
    comparable: bool
    """Whether it needs no more room than the model's code."""
    note: str


class Neighbours(NamedTuple):
    """How often most of the five nearest training images are of a test image's class."""

    latent: float
    """Nearest by latent code."""
    pca: float
    """Nearest by PCA with as many numbers."""
    train: int
    """Training images searched."""
    test: int
    """Test images classified."""


@dataclass(frozen=True)
class Examples:
    """A few test images, and what the model and the baselines make of them."""

    labels: tuple[str, ...]
    rows: tuple[np.ndarray, ...]
    """Per label N×C×H×W with values in [0, 1]; the first are the originals."""


@dataclass(frozen=True)
class Evaluation:
    """How good an autoencoder is, beside simple methods with as many numbers. `evaluate` makes it."""

    data: str
    """What the images are called."""
    shape: tuple[int, ...]
    """Channels, height and width."""
    latent_shape: tuple[int, ...]
    """`(d,)`, or `(c, h, w)` for a latent map."""
    train_images: int | None
    """Images trained on; None for a stream of unknown length."""
    test: Scores
    train: Scores
    """Of at most 1,000 training images."""
    validation: Scores | None
    """None where there are no validation images."""
    rows: tuple[Row, ...]
    """The model, then the baselines."""
    compared: int
    """How many test images the rows are of."""
    doubled_pca: float | None
    """MSE of PCA with twice the numbers on the validation images; None where there are too few training images."""
    used: int
    """Latent numbers in use: those that vary over images by at least 1 % of the mean variance of all; of a variational
    model, whose codes have a scale, those with a variance of at least 0.01 (active units)."""
    output_range: tuple[float, ...]
    """Least and largest value of the outputs for the test images; the images' lie in [0, 1]."""
    output_variance: float
    """Mean over values of the variance over test images, of the outputs."""
    data_variance: float
    """The same of the test images themselves."""
    gradient_energy: float
    """Mean squared difference of neighbouring pixels of the test images."""
    neighbours: Neighbours | None
    """None where there are no classes."""
    verdict: Verdict
    examples: Examples | None = field(default=None, repr=False, compare=False, metadata={"json": False})

    @property
    def numbers(self) -> int:
        """Latent numbers per image."""
        return math.prod(self.latent_shape)

    @property
    def compression(self) -> float:
        """Numbers of an image over those of its code."""
        return math.prod(self.shape) / self.numbers

    def row(self, name: str) -> Row | None:
        """The row of the model or of a baseline; None where it was not computed."""
        return next((row for row in self.rows if row.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """All but the example images, as `json` takes it."""
        return to_json(self)  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Evaluation:
        """What `to_dict` returned.

        Raises:
            ValueError: for anything that `to_dict` would not return.
        """
        read = from_json(cls, value, "evaluation")
        if len(read.shape) != 3 or len(read.latent_shape) not in (1, 3) or 0 in (*read.shape, *read.latent_shape):
            raise ValueError(
                f"`evaluation.shape` (={read.shape}) and `evaluation.latent_shape` (={read.latent_shape}) must be "
                "sizes of at least 1: restore the file, or evaluate again."
            )
        if not read.rows or read.rows[0].name != MODEL or len(read.output_range) != 2:
            raise ValueError("`evaluation.rows` and `evaluation.output_range` are incomplete: evaluate again.")
        return read

    def figure(self) -> Figure:
        """A few test images, and what the model and the baselines make of them, with PSNRs.

        Raises:
            ValueError: for an evaluation that was read from a file, which has no images.
        """
        if self.examples is None:
            raise ValueError("`figure` needs the images, which are not kept in files: evaluate again.")
        return figures.comparison(dict(zip(self.examples.labels, self.examples.rows, strict=True)))


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: Images,
    *,
    device: torch.device | str | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    corrupt: Corrupt | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Compare an autoencoder with the mean image, a thumbnail, PCA and image files of the same size, and judge it.

    The baselines are fitted on training images; what the verdict decides, it decides on training and validation
    images. Where images are denoised (`corrupt`, or pairs), everything is given the corrupted images and compared with
    the clean ones. In a distributed job one process evaluates, without the others.

    Args:
        model: a trained autoencoder with `encode`, for images N×C×H×W with values in [0, 1].
        images: what `load_images` returned.
        device: where to run the model, which is moved there; by default where it is.
        metrics: the training's curve, entries with `step`, `train_mse` and `validation_mse`; without it the verdict
            cannot know whether the error still fell.
        corrupt: what is done to the inputs, as in training; see `scores`.
        progress: called with what is being done, how much of it is done, and how much there is.

    Raises:
        ValueError: where outputs are no finite numbers.

    Example:
        >>> import halfstride
        >>> evaluation = halfstride.evaluate(model, images)  # doctest: +SKIP
        >>> print(evaluation.verdict.sentence)  # doctest: +SKIP
        Good: 5.9 dB better than PCA with as many numbers ...
    """
    if device is None:
        device = device_of(model)
    else:
        model.to(device)
    with evaluating(model):
        return _Evaluator(model, images, torch.device(device), corrupt, progress or (lambda *_: None)).run(metrics)


class _Evaluator:
    """One evaluation: the samples, the model and where it runs."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        device: torch.device,
        corrupt: Corrupt | None,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.model, self.images, self.device, self.corrupt = model, images, device, corrupt
        self.batch = evaluation_batch_size(images.shape)
        self.progress = progress
        values = math.prod(images.shape)
        fitted = max(_FITTED_VALUES // values, 1)
        if images.train.images is None:
            fitted = min(fitted, _DECODED_IMAGES)
        progress("reading images", 0, 1)
        self.fitted = draw_sample(images.train, fitted)
        self.train = self.fitted.some(_TRAIN_IMAGES)
        held_out = images.validation
        self.validation = None if held_out is None or held_out.size == 0 else draw_sample(held_out, _TRAIN_IMAGES)
        self.test = draw_sample(images.test, min(_TEST_IMAGES, max(256, _TEST_VALUES // values)))
        progress("reading images", 1, 1)

    def run(self, metrics: Sequence[Mapping[str, Any]]) -> Evaluation:
        self.progress("running the model", 0, 3)
        train, train_codes, latent_shape = self._through_model(self.train)
        self.progress("running the model", 1, 3)
        validation = None if self.validation is None else self._through_model(self.validation)[0]
        self.progress("running the model", 2, 3)
        test, test_codes, _ = self._through_model(self.test)
        test_scores = test.scores
        if self.images.test.size is None or self.images.test.size > test.scores.images:
            batches = map(inputs_and_targets, self.images.test.batches(self.batch))
            test_scores = measure(self._restore, prepared(batches, self.corrupt), full=True).scores
        self.progress("running the model", 3, 3)
        numbers = math.prod(latent_shape)
        baselines = self._baselines(numbers)
        own = None if validation is None else validation.scores.mse
        energy = test.gradient_energy
        rows = [Row(MODEL, test.scores.mse, test.scores.psnr, own, numbers, None, energy, True, "")]
        for place, baseline in enumerate(baselines):
            self.progress("comparing", place, len(baselines))
            against = None if self.validation is None else self._measure(baseline.reconstruct, self.validation)
            found = self._measure(baseline.reconstruct, self.test)
            rows.append(
                Row(
                    baseline.name,
                    found.scores.mse,
                    found.scores.psnr,
                    None if against is None else against.scores.mse,
                    baseline.numbers,
                    baseline.size,
                    found.gradient_energy,
                    baseline.comparable,
                    baseline.note,
                )
            )
        pca = next(baseline for baseline in baselines if isinstance(baseline, PCA))
        doubled = None
        if self.validation is not None and pca.doubled:
            doubled = self._measure(lambda inputs: pca.reconstruct(inputs, 2), self.validation).scores.mse
        self.progress("comparing", len(baselines), len(baselines))
        facts = Facts(
            train.scores.mse,
            (validation or test).scores.mse,
            test.scores.mse,
            data_variance=train.data_variance,
            output_variance=train.variance,
            rivals=[_rival(row) for row in rows[1:] if row.comparable],
            numbers=numbers,
            latent="vector" if len(latent_shape) == 1 else "map",
            doubled=doubled,
            images=self.images.train.size,
            metrics=metrics,
        )
        return Evaluation(
            data=self.images.name,
            shape=tuple(self.images.shape),
            latent_shape=latent_shape,
            train_images=self.images.train.size,
            test=test_scores,
            train=train.scores,
            validation=None if validation is None else validation.scores,
            rows=tuple(rows),
            compared=test.scores.images,
            doubled_pca=doubled,
            used=_used(train_codes, getattr(self.model, "variational", False)),
            output_range=(test.low, test.high),
            output_variance=test.variance,
            data_variance=test.data_variance,
            gradient_energy=test.data_gradient_energy,
            neighbours=self._neighbours(pca, train_codes, test_codes),
            verdict=judge(facts),
            examples=self._examples(rows, baselines),
        )

    def _baselines(self, numbers: int) -> list[Baseline]:
        self.progress("fitting baselines", 0, 1)
        inputs, _ = next(self.test.some(_CODEC_IMAGES).chunks(_CODEC_IMAGES, self.corrupt))
        files = inputs.mul(255).round().clamp(0, 255).to(torch.uint8)  # of what they will be given: noise takes bytes
        fitted = fit_baselines(self.fitted.targets, files, numbers, drawn_from=self.images.train.size)
        self.progress("fitting baselines", 1, 1)
        changed = self.corrupt is not None or self.test.paired
        return [CorruptedInput(), *fitted] if changed else fitted

    def _measure(self, restore: Callable[[Tensor], Tensor], sample: SampledPairs) -> Measures:
        return measure(restore, sample.chunks(self.batch, self.corrupt), full=False)

    def _restore(self, inputs: Tensor) -> Tensor:
        return self.model(inputs.to(self.device)).float().cpu()  # type: ignore[no-any-return]

    def _through_model(self, sample: SampledPairs) -> tuple[Measures, Tensor, tuple[int, ...]]:
        """What the model makes of a sample, the codes N×numbers, and the shape of one."""
        codes: list[Tensor] = []

        def restore(inputs: Tensor) -> Tensor:
            codes.append(self.model.encode(inputs.to(self.device)).float().cpu())  # type: ignore[operator]
            return self._restore(inputs)

        measures = measure(restore, sample.chunks(self.batch, self.corrupt), full=True)
        together = torch.cat(codes)
        return measures, together.flatten(1), tuple(together.shape[1:])

    def _neighbours(self, pca: PCA, train_codes: Tensor, test_codes: Tensor) -> Neighbours | None:
        train, test = self.train.labels, self.test.labels
        if train is None or test is None or len(torch.unique(train)) < 2:
            return None
        from sklearn.neighbors import KNeighborsClassifier

        def accuracy(known: Tensor, asked: Tensor) -> float:
            classifier = KNeighborsClassifier(min(_NEIGHBOURS, len(known))).fit(known.numpy(), train.numpy())
            return float(classifier.score(asked.numpy(), test.numpy()))

        known, asked = (
            torch.cat([pca.codes(inputs) for inputs, _ in sample.chunks(self.batch, self.corrupt)])
            for sample in (self.train, self.test)
        )
        by_pca = accuracy(known, asked) if pca.numbers else 0.0
        return Neighbours(accuracy(train_codes, test_codes), by_pca, len(train), len(test))

    def _examples(self, rows: Sequence[Row], baselines: Sequence[Baseline]) -> Examples:
        count = 8 if max(self.images.shape[1:]) < 64 else 5
        chosen = spread(len(self.test.targets), self.test.labels, count, seed=0).tolist()
        inputs, targets = to_float(self.test.inputs[chosen]), to_float(self.test.targets[chosen])
        if self.corrupt is not None:  # which may depend on an image's place in the sample
            inputs = torch.cat([self.corrupt(inputs[i : i + 1], place) for i, place in enumerate(chosen)])
        restored = {baseline.name: baseline.reconstruct(inputs) for baseline in baselines}
        restored[MODEL] = self._restore(inputs)
        found = {row.name: row for row in rows}
        shown = [name for name in ("input", MODEL, "PCA", "thumbnail", "JPEG", "WebP") if name in found]
        labels = ["original"]
        for row in (found[name] for name in shown):
            size = f"{row.numbers:,} numbers" if row.numbers is not None else ""
            size = f"{row.bytes:,.0f} bytes" if row.bytes is not None else size
            labels.append("\n".join(filter(None, (row.name, size, f"{row.psnr:.1f} dB on average"))))
        pictures = targets, *(restored[name] for name in shown)
        return Examples(tuple(labels), tuple(picture.numpy() for picture in pictures))


def _rival(row: Row) -> Rival:
    validation = row.mse if row.validation_mse is None else row.validation_mse
    return Rival(row.name, validation, row.mse)  # type: ignore[arg-type]


def _used(codes: Tensor, variational: bool) -> int:
    """How many of the numbers are in use; active units after Burda et al. (arXiv:1509.00519)."""
    variances = codes.double().var(0, correction=0)
    if variational:
        return int((variances >= 0.01).sum())
    mean = variances.mean()
    if mean <= 1e-12 * codes.double().square().mean():  # nothing but rounding errors
        return 0
    return int((variances >= 0.01 * mean).sum())
