"""`Detector`: how unlike the good images of a run an image is, as a whole and place by place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstride.autoencoder import ConvAutoencoder, Run
from halfstride.autoencoder.images import Skipped
from halfstride.autoencoder.own_encoder import Autoencoder
from halfstride.autoencoder.writing import storage_errors, writing
from halfstride.tasks.detection.head import Head, log_errors
from halfstride.tasks.detection.threshold import Threshold, set_threshold
from halfstride.tasks.tiles import halo_of, tiled

__all__ = ["Detector", "FittedDetector", "FittedOn", "load_detector", "save_detector"]

_CELLS = 7  # a side, in which the error of a latent vector's reconstruction is averaged
_LARGE = 64  # pixels a side from which places are judged by 4×4 pixels, not by 2×2
LARGEST_WHOLE, _TILE = 2**22, 1024  # pixels of an image that is not looked at in tiles, and a side of a tile
_NEIGHBOURS = 5
_HANDICAP = 2.0  # standard deviations
_VERSION = 1


class FittedOn(NamedTuple):
    """What a detector was fitted on."""

    size: tuple[int, int] | None
    """Height and width of all its images; None where they differ."""
    own_size: bool
    """Whether images kept their own size, in place of that of the training."""
    total: int
    """Images."""
    source: str
    """What the images are called."""
    self_test: tuple[tuple[int, float, float], ...] = ()
    """Of synthetic defects: diameter in pixels, contrast, and the share of images in which they were found."""
    kept: float = 0.0
    """Share of the synthetic defects' contrast that reconstructions keep."""


class _Compared(NamedTuple):
    """Images beside their reconstructions."""

    codes: Tensor
    outputs: Tensor
    """The reconstructions."""
    changes: Tensor
    """Of the codes when reconstructions are encoded."""
    errors: Tensor
    """Squared, N×1×H×W."""
    logits: Tensor
    """The head's."""


class Detector(nn.Module):
    """Scores images: 0 is an ordinary good image, and 1 more is one standard deviation of good images more.

    As a whole, an image is described by its code, the change of the code when the reconstruction is encoded again, and
    the logarithms of the reconstruction error in 7×7 cells (of a latent map, by means and standard deviations of these
    over all positions); what counts is the Mahalanobis distance from the five nearest good images. Place by place, a
    small network that was shown synthetic defects judges the image and its reconstruction. Both are brought to the same
    scale on held-out good images and added by `logaddexp`, so that either is enough; the part that a latent of this
    kind is less suited for (places for a vector, the whole for a map) counts two standard deviations less.

    Args:
        model: the autoencoder, which is not changed.

    Shape:
        images `(N, C, H, W)` with values in [0, 1]; scores `(N,)`; maps `(N, ceil(H/cell), ceil(W/cell))`.

    Reference:
        Kim et al., "RaPP" (ICLR 2020), for encoding the reconstruction again; Lee et al. (arXiv:1807.03888) for the
        distance; Zavrtanik et al., "DRAEM" (arXiv:2108.07610), for the defects.
    """

    model: Autoencoder
    mean: Tensor
    whitening: Tensor
    references: Tensor
    centre: Tensor
    scale: Tensor
    handicap: Tensor

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)  # not a part: its weights lie in the run already
        side = min(model.image_size)
        self.cell = 4 if side >= _LARGE else 2
        self.downscale = self.cell
        if isinstance(model, ConvAutoencoder) and model.takes_any_size:
            self.downscale = model.downscale
            self.cell = min(self.cell, self.downscale)
        self.head = Head(model.channels, self.cell)
        numbers = self._numbers()
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("whitening", torch.eye(numbers))
        self.register_buffer("references", torch.zeros(1, numbers))
        # A latent vector knows images as wholes, and a map their places; the other part must be further out to count.
        handicap = [0.0, _HANDICAP] if model.latent == "vector" else [_HANDICAP, 0.0]
        self.register_buffer("handicap", torch.tensor(handicap), persistent=False)
        # Of the two parts, whole image and places: what good images have.
        self.register_buffer("centre", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))

    def _numbers(self) -> int:
        if len(self.model.latent_shape) == 3:
            return 2 * (2 * self.model.latent_shape[0] + 1)
        return 2 * self.model.latent_shape[0] + math.prod(self._cells())

    def _cells(self) -> tuple[int, int]:
        height, width = self.model.image_size
        return min(_CELLS, height), min(_CELLS, width)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of images, and their anomaly maps."""
        if self.model.takes_any_size:
            return self.from_places(self.places(images))
        return self._judge(*self._as_wholes(self._compare(images)))

    def with_reconstructions(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reconstructions, codes, scores and anomaly maps, never in tiles: for export, where the size is not known."""
        height, width = images.shape[-2:]
        if self.model.takes_any_size:
            compared = self._compare(self.model.extend(images))  # type: ignore[operator]
            scores, maps = self.from_places(self._as_places(compared))
        else:
            compared = self._compare(images)
            scores, maps = self._judge(*self._as_wholes(compared))
        return compared.outputs[..., :height, :width], compared.codes, scores, maps

    def places(self, images: Tensor) -> Tensor:
        """All that is needed of images, for a latent map place by place: N×K×H/downscale×W/downscale.

        It depends on the surroundings of a place only, so large images are looked at in tiles, with the same result.
        """
        if images.shape[-2] * images.shape[-1] <= LARGEST_WHOLE:
            return self.untiled_places(images)
        return tiled(
            self.untiled_places, images, tile=_TILE, halo=self.halo, multiple=self.downscale, scale=self.downscale
        )

    @property
    def halo(self) -> int:
        """How many pixels around a place `places` depends on."""
        assert isinstance(self.model, ConvAutoencoder)
        again = halo_of(self.model) + halo_of(self.model, decoder=False)  # the reconstruction is encoded once more
        return max(again, halo_of(self.model) + (self.head.reach + 1) * self.cell)

    def untiled_places(self, images: Tensor) -> Tensor:
        return self._as_places(self._compare(self.model.extend(images)))  # type: ignore[operator]

    def _as_places(self, compared: _Compared) -> Tensor:
        local = log_errors(F.avg_pool2d(compared.errors, self.downscale))
        logits = F.pixel_unshuffle(compared.logits, self.downscale // self.cell)
        return torch.cat([compared.codes, compared.changes, local, logits], 1)

    def from_places(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and anomaly maps of what `places` returned."""
        return self._judge(*self._split(places))

    def describe(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What images are as a whole, N×numbers, and the largest of the head's logits of each."""
        described, logits = self._look(images)
        return described, logits.flatten(1).amax(1)

    def parts(self, described: Tensor, largest: Tensor) -> Tensor:
        """The two parts of each score, N×2, before they are brought to one scale, of what `describe` returned."""
        asked, known = (described - self.mean) @ self.whitening, self.references
        squares = asked.square().sum(1, keepdim=True) + known.square().sum(1) - 2 * asked @ known.T
        nearest = squares.clamp_min(1e-6).sqrt().topk(min(_NEIGHBOURS, len(known)), largest=False).values
        return torch.stack([nearest.mean(1).log(), largest], 1)

    def scores(self, parts: Tensor) -> Tensor:
        """The scores of which these are the parts."""
        return torch.logaddexp(*((parts - self.centre) / self.scale - self.handicap).unbind(1))

    def _look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What images are as a whole, and the head's logits."""
        if self.model.takes_any_size:
            return self._split(self.places(images))
        return self._as_wholes(self._compare(images))

    def _as_wholes(self, compared: _Compared) -> tuple[Tensor, Tensor]:
        codes = compared.codes
        cells = self._cells() if codes.ndim == 2 else (codes.shape[-2], codes.shape[-1])
        local = log_errors(F.adaptive_avg_pool2d(compared.errors, cells))
        if codes.ndim == 4:
            return _statistics(torch.cat([codes, compared.changes, local], 1)), compared.logits
        return torch.cat([codes, compared.changes, local.flatten(1)], 1), compared.logits

    def _split(self, places: Tensor) -> tuple[Tensor, Tensor]:
        described = 2 * self.model.latent_dim + 1
        return _statistics(places[:, :described]), F.pixel_shuffle(places[:, described:], self.downscale // self.cell)

    def _compare(self, images: Tensor) -> _Compared:
        codes = self.model.encode(images)
        outputs = self.model.decode_to(codes, *images.shape[-2:])
        changes = self.model.encode(outputs) - codes
        errors = (outputs - images).square().mean(1, keepdim=True)
        return _Compared(codes, outputs, changes, errors, self.head(images, outputs))

    def _judge(self, described: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        parts = self.parts(described, logits.flatten(1).amax(1))
        return self.scores(parts), (logits[:, 0] - self.centre[1]) / self.scale[1]


def _statistics(places: Tensor) -> Tensor:
    """Means and standard deviations over the positions of N×K×h×w, one after the other."""
    mean = places.mean((2, 3))
    return torch.cat([mean, (places - mean[:, :, None, None]).square().mean((2, 3)).add(1e-12).sqrt()], 1)


class FittedDetector(NamedTuple):
    """A detector, its threshold, and what both were made from."""

    detector: Detector
    threshold: Threshold
    fitted_on: FittedOn
    warnings: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    """Of the images that it was to be fitted on: what could not be read, and why."""
    scores: tuple[float, ...] = ()
    """Those of the good images that the threshold was set on, in ascending order."""


def save_detector(detector: Detector, scores: Sequence[float], rate: float, fitted: FittedOn, folder: Path) -> None:
    """Write `detector.safetensors`, then `detector.json`, which says that it is there.

    Args:
        detector: what is kept, without the autoencoder.
        scores: those of the good images that the threshold is set on.
        rate: of false alarms that was asked for.
        fitted: what it was fitted on.
        folder: the run's.
    """
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in detector.state_dict().items()}
    with writing(folder / "detector.safetensors") as temporary, storage_errors():
        save_file(tensors, temporary)
    content = {
        "version": _VERSION,
        "steps": sum(Run(folder).stages),
        "false_alarms": rate,
        "fitted_on": fitted._asdict(),
        "scores": sorted(scores),
    }
    with writing(folder / "detector.json") as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def load_detector(model: Autoencoder, folder: Path, false_alarms: float | None = None) -> FittedDetector:
    """Read what `save_detector` wrote.

    Args:
        model: the run's model.
        folder: the run's.
        false_alarms: sets the threshold for this rate; by default for that which was asked for first.

    Raises:
        ValueError: where there is none, or it is damaged, of another version or model, or older than the run's last
            training, or the rate is out of range.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "detector.json"
    if not path.is_file():
        raise ValueError(f"`run` (={folder}) has no detector: halfstride fit-detector {folder}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"it is of version {content['version']}, and this is version {_VERSION}")
        if content["steps"] != (steps := sum(Run(folder).stages)):
            raise ValueError(f"it was fitted after {content['steps']:,} steps of training, and the run has {steps:,}")
        fitted, scores, rate = _fitted_on(content["fitted_on"]), content["scores"], content["false_alarms"]
        threshold = set_threshold(scores, rate)
        detector, tensors = Detector(model), load_file(folder / "detector.safetensors")
        detector.references = torch.empty_like(tensors["references"])
        detector.load_state_dict(tensors)
    except (OSError, ValueError, LookupError, OverflowError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"`{path}` cannot be used ({reason}): fit it again by halfstride fit-detector {folder}"
        ) from None
    if false_alarms is not None:
        threshold = set_threshold(scores, false_alarms)
    detector = detector.to(next(model.parameters()).device).eval()
    return FittedDetector(detector, threshold, fitted, scores=tuple(sorted(scores)))


def _fitted_on(value: Mapping[str, Any]) -> FittedOn:
    fitted = FittedOn(**value)
    return fitted._replace(
        size=None if fitted.size is None else (int(fitted.size[0]), int(fitted.size[1])),
        self_test=tuple((int(size), float(contrast), float(share)) for size, contrast, share in fitted.self_test),
    )
