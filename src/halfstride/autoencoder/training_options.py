"""How to train: the options, and what is chosen where the user leaves it open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from torch import Tensor

from halfstride._support.arguments import read_choice, read_int
from halfstride.autoencoder.augmentation import Augment, default_augmentation
from halfstride.autoencoder.corruption import parse_corruptions
from halfstride.autoencoder.images import Images
from halfstride.autoencoder.images.splits import inputs_and_targets
from halfstride.autoencoder.losses import Loss
from halfstride.autoencoder.model import SMALL_VECTOR, ConvAutoencoder
from halfstride.autoencoder.own_encoder import Autoencoder

Precision = Literal["auto", "float32", "bfloat16"]

_STEPS, _MOST_STEPS, _PASSES = 4_000, 20_000, 5
# Crops for a latent map. Seen on photographs of 64 pixels at equal CPU time: whole images 31.55 dB, crops of 48 pixels
# 31.80, of 32 pixels 30.29 (of unseen places 32.45, 32.57 and 31.57).
_CROPPED, _LEAST_CROP, _MOST_CROP = 3 / 4, 32, 64
# Seen on the same: without jitter 31.80 dB, by 0.1 31.80, by 0.2 31.77 (of unseen places 32.57, 32.89 and 33.13).
_JITTER = 0.2
_SAMPLE, _SAMPLED_VALUES = 1_000, 2**28  # training images that decide on augmentation; of large ones fewer
# Learning rates. Seen with two numbers on the digits after 1,200 steps: at 0.004 one image for all (MSE 0.067), 0.0390
# at 0.002, 0.0392 at 0.001.
_VECTOR_RATE, _RATE = 4e-3, 1e-3
_SMALL_SET = 20_000  # training images below which those of a vector are shifted


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. What is None is chosen for the model and the images, and recorded in the run.

    Args:
        steps: length of the training in steps of the optimiser, 1 or more. By default 4,000, or five passes over the
            training images where those are more, at most 20,000.
        epochs: length in passes over the training images, instead of `steps`.
        minutes: length in minutes, above 0, instead of `steps`: the first steps are timed, and where later ones are
            faster or slower by more than a tenth, the length is changed at the next scoring. Where it never was,
            `steps` with the number that is recorded repeats the run.
        batch_size: images per step, over all processes together, 1 or more; by default 32 for a latent vector and 16
            for a map.
        learning_rate: the highest learning rate of AdamW; it rises over the first tenth of the steps and then falls to
            zero on a cosine. By default 0.004 for a latent vector of at least 16 numbers, and 0.001 for a smaller one,
            for a map, with a linear path, and for an encoder of one's own.
        weight_decay: AdamW's decoupled weight decay, 0 or more.
        loss: `"mse"`, `"l1"`, `"bce"` (binary cross-entropy per value) or `"sharp"` (L1 with structural similarity:
            sharper, and several times as slow).
        beta: weight of the Kullback-Leibler divergence of a variational model, in nats per image beside the sum of the
            loss over an image's values; 0 or more.
        corruption: what is done to the inputs while the clean images stay the target (a denoising autoencoder), such as
            `"gaussian:0.1"` or `"blur:1,jpeg:30"`; see `parse_corruptions`.
        augment: `"none"`, `"flip"` (left to right) or `"flip-rotate"`; by default what the training images look like:
            see `default_augmentation`.
        shift: largest random shift of the images in pixels, 0 or more; by default 1 for a latent vector of at least 16
            numbers and fewer than 20,000 training images, and 0 else.
        crop: side in pixels of the random crops that a latent map is trained on, 0 for whole images; by default three
            quarters of the image's longer side, at most 64, where that is at least 32.
        jitter: largest random change of brightness and contrast, 0 to 1 (see `halfstride.autoencoder.augmentation`); by
            default 0.2 for a latent map and 0 for a vector.
        clip: largest norm of the gradient, above 0.
        seed: decides the order of the images and everything random; 0 or more.
        precision: `"auto"` takes bfloat16 where the device computes in it natively, `"float32"` and `"bfloat16"` force.
        tensorboard: also write TensorBoard's event files into the run's folder.

    Raises:
        ValueError: for a value out of its range, and for more than one length.
    """

    steps: int | None = None
    epochs: int | None = None
    minutes: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.05
    loss: Loss = "mse"
    beta: float = 1.0
    corruption: str = ""
    augment: Augment | None = None
    shift: int | None = None
    crop: int | None = None
    jitter: float | None = None
    clip: float = 1.0
    seed: int = 0
    precision: Precision = "auto"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if len(self.length) > 1:
            told = " and ".join(f"`{name}` (={value})" for name, value in self.length.items())
            raise ValueError(f"{told} exclude each other: give one of them.")
        for name, least in (("steps", 1), ("epochs", 1), ("batch_size", 1), ("shift", 0), ("crop", 0)):
            if getattr(self, name) is not None:
                read_int(name, getattr(self, name), least)
        read_choice("loss", self.loss, get_args(Loss))
        read_choice("precision", self.precision, get_args(Precision))
        if self.augment is not None:
            read_choice("augment", self.augment, get_args(Augment))
        for name in ("minutes", "learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"`{name}` (={value}) must be above 0.")
        if self.jitter is not None and not 0 <= self.jitter <= 1:
            raise ValueError(f"`jitter` (={self.jitter}) must be 0 to 1.")
        for name in ("weight_decay", "beta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"`{name}` (={value}) must be at least 0.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"`seed` (={self.seed}) must be an int from 0 to 2**63 - 1.")
        parse_corruptions(self.corruption)

    @property
    def length(self) -> dict[str, Any]:
        """The one of `steps`, `epochs` and `minutes` that is given, by its name; empty where none is."""
        return {name: value for name in ("steps", "epochs", "minutes") if (value := getattr(self, name)) is not None}

    @classmethod
    def from_record(cls, record: Any) -> TrainingOptions:
        """The options that a run's record holds.

        Raises:
            ValueError: where the record has an unknown name or a wrong value in it.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(record, Mapping) or not set(record) <= known:
            unknown = sorted(set(record) - known) if isinstance(record, Mapping) else record
            raise ValueError(f"`training` of the run's record has values that no option takes ({unknown}): restore it.")
        try:
            return cls(**record)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"`training` of the run's record is damaged ({error}): restore it.") from None

    def chosen(self, model: Autoencoder, images: Images) -> TrainingOptions:
        """The same options with everything filled in but a length in minutes."""
        is_map = model.latent == "map"
        # Others, which may start from what they know, learn best at the lower rate.
        is_plain_vector = isinstance(model, ConvAutoencoder) and not is_map and not model.linear
        is_plain_vector = is_plain_vector and model.latent_dim >= SMALL_VECTOR
        batch_size = self.batch_size or (16 if is_map else 32)
        crop = self.crop
        if crop is None:
            crop = _default_crop(model, images) if model.takes_any_size else 0
        if crop and not model.takes_any_size:
            raise ValueError(f'`crop` (={crop}) needs a latent map, which takes images of any size: latent="map".')
        shift = self.shift
        if shift is None:
            few = images.train.size is not None and images.train.size < _SMALL_SET
            # Fewer numbers cannot afford to tell where the image lies.
            shift = int(few and not is_map and model.latent_dim >= SMALL_VECTOR)
        augment = self.augment
        if augment is None:
            augment = default_augmentation(sample_of(images)).augment
        return replace(
            self,
            steps=None if self.minutes else self.steps or self._default_steps(images, batch_size),
            epochs=None,
            batch_size=batch_size,
            learning_rate=self.learning_rate or (_VECTOR_RATE if is_plain_vector else _RATE),
            augment=augment,
            shift=shift,
            crop=crop,
            jitter=(_JITTER if is_map else 0.0) if self.jitter is None else self.jitter,
        )

    def _default_steps(self, images: Images, batch_size: int) -> int:
        size = images.train.size
        if size is None:
            if self.epochs is not None:
                raise ValueError(
                    f"`epochs` (={self.epochs}) needs a known number of images, which a stream has not: give `steps`."
                )
            return _STEPS
        steps_per_epoch = -(-size // batch_size)
        if self.epochs is not None:
            return self.epochs * steps_per_epoch
        return min(max(_STEPS, _PASSES * steps_per_epoch), _MOST_STEPS)

    def resumed(self, asked: TrainingOptions) -> TrainingOptions:
        """These options, of a run that is resumed, with the length of others.

        Raises:
            ValueError: where the others have another value that is not the default.
        """
        known, default = asdict(self), asdict(TrainingOptions())
        for name, value in asdict(asked).items():
            if name not in ("steps", "epochs", "minutes") and value not in (default[name], known[name]):
                raise ValueError(
                    f"`{name}` (={value}) cannot change in a run that is resumed, where it is {known[name]}: leave it "
                    "out, or start a new run in another folder."
                )
        return replace(self, **asked.length)


def sample_of(images: Images) -> Tensor:
    """Training images that stand for all, as they should come out of the model: uint8 N×C×H×W."""
    count = max(1, min(_SAMPLE, _SAMPLED_VALUES // math.prod(images.shape)))
    return inputs_and_targets(images.train.sample(count).images)[1]


def _default_crop(model: Autoencoder, images: Images) -> int:
    """Whole blocks of a map's positions, so that no crop is extended at its border; 0 for whole images."""
    block = model.downscale if isinstance(model, ConvAutoencoder) else 1
    crop = int(min(_CROPPED * max(images.shape[1:]), _MOST_CROP)) // block * block
    return crop if crop >= _LEAST_CROP else 0
