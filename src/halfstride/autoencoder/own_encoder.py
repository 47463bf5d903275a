"""A person's own encoder as an autoencoder: `mirror` builds the decoder, and images go in and come out in [0, 1]."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from halfstride._support.arguments import read_choice, read_int, read_sizes
from halfstride._support.models import load_model, one_line_errors
from halfstride.autoencoder.blocks import Upsampling
from halfstride.autoencoder.mirroring import mirror
from halfstride.autoencoder.model import ConvAutoencoder, Latent, check_images
from halfstride.checkerboard.coverage import UnevenKernelWarning

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8


class EncoderAutoencoder(nn.Module):
    """Encodes images by an encoder that exists, and decodes them by the decoder that `mirror` builds for it.

    It has the attributes and methods of `ConvAutoencoder` that training and evaluation use. All images have the size
    `image_size`, and reconstructions have exactly that size.

    Args:
        encoder: an `nn.Sequential` that `mirror` can undo. It takes float32 images N×`channels`×height×width and
            returns a latent vector N×d, or a latent map N×c×h×w. It becomes part of the model and is trained with it.
        image_size: height and width of the images, or one int for both; each 1 or more.
        channels: of the images, 1 or more.
        upsampling: `"transposed"`, `"resize"` or `"subpixel"`, for the layers of the decoder that enlarge.
        freeze: whether the encoder keeps its weights, and the running statistics of its norms: it takes no gradients
            and stays in evaluation mode while the decoder is trained.
        mean: what is subtracted from images before they are encoded: one number, or one per channel.
        std: what they are then divided by, above 0. The decoder works on normalised values too, and both steps are
            undone in its output.
        encoder_name: what `config` calls the encoder, for the reader; by default the name of its class.

    Shape:
        images `(N, channels, height, width)` with values in [0, 1]; latents `(N, *latent_shape)`.

    Raises:
        ValueError: for an argument out of its range, and for an encoder that does not take such images, or does not
            return a tensor of one of the two forms.
        MirrorError: (a `ValueError`) for an encoder that `mirror` cannot undo.

    Example:
        >>> encoder = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9 * 13, 16))
        >>> model = EncoderAutoencoder(encoder, (37, 53), 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> images = torch.rand(2, 3, 37, 53)
        >>> model.encode(images).shape, model(images).shape
        (torch.Size([2, 16]), torch.Size([2, 3, 37, 53]))
    """

    variational = False
    linear = False
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        image_size: int | Sequence[int],
        channels: int,
        *,
        upsampling: Upsampling = "transposed",
        freeze: bool = False,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        encoder_name: str | None = None,
    ) -> None:
        super().__init__()
        height, width = read_sizes("image_size", image_size, 2, 1)
        self.image_size = (height, width)
        self.channels = read_int("channels", channels, 1)
        self.upsampling: Upsampling = read_choice("upsampling", upsampling, get_args(Upsampling))
        if not isinstance(freeze, bool):
            raise ValueError(f"`freeze` (={freeze!r}) must be True or False.")
        if not isinstance(encoder, nn.Module):
            raise ValueError(f"`encoder` must be a torch.nn.Module, not {type(encoder).__name__}.")
        self.freeze = freeze
        self.encoder_name = type(encoder).__name__ if encoder_name is None else encoder_name
        image = (self.channels, *self.image_size)
        self.encoder = encoder.requires_grad_(False) if freeze else encoder
        self.decoder = mirror(encoder, image, upsampling=upsampling)  # type: ignore[arg-type]  # it tells what it takes
        self.mean, self.std = _per_channel("mean", mean, self.channels), _per_channel("std", std, self.channels)
        if min(self.std) < torch.finfo(torch.float32).tiny:
            raise ValueError(f"`std` (={std!r}) must be above 0; use 1 where images are not divided.")
        # Not in the state dict: `config` has them. As buffers they follow the model to its device.
        self.register_buffer("_mean", torch.tensor(self.mean)[:, None, None], persistent=False)
        self.register_buffer("_std", torch.tensor(self.std)[:, None, None], persistent=False)
        self.latent_shape = _code_shape(encoder, image)
        self.latent: Latent = "vector" if len(self.latent_shape) == 1 else "map"
        self.latent_dim = self.latent_shape[0]
        self.takes_any_size, self.untrained = False, False
        self.train()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fastest for convolutions on a CPU

    def train(self, mode: bool = True) -> EncoderAutoencoder:
        """Set training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.freeze:
            self.encoder.eval()
        return self

    def encode(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n *latent"]:
        """The latent codes of images with values in [0, 1]."""
        check_images(images, self.channels, self.image_size)
        codes = _checked_codes(self.encoder((images - self._mean) / self._std), images.shape[0])
        if codes.shape[1:] != self.latent_shape:
            raise ValueError(
                f"`encoder` returned codes of N×{_times(self.latent_shape)} at first, and of "
                f"N×{_times(codes.shape[1:])} now: their size must be the same in every call."
            )
        return codes

    def decode(
        self, latents: Float[Tensor, "n *latent"], output_size: Sequence[int] | None = None
    ) -> Float[Tensor, "n c h w"]:
        """The images of latent codes.

        Args:
            latents: what `encode` returned, or codes of one's own.
            output_size: height and width; `image_size` is the only one that this model decodes to.

        Returns:
            Images with values in [0, 1] in evaluation mode. While the model trains, values may lie outside, since a
            clipped value has no gradient.
        """
        if latents.shape[1:] != self.latent_shape:
            raise ValueError(
                f"`latents` have the shape N×{_times(latents.shape[1:])}: this model decodes "
                f"N×{_times(self.latent_shape)}, also where that is a map: its decoder is built for one size."
            )
        if output_size is not None and tuple(output_size) != self.image_size:
            raise ValueError(
                f"`output_size` (={tuple(output_size)}) must be the model's image_size {self.image_size}, also where "
                "the latent is a map: its decoder is built for one size."
            )
        return self.decode_to(latents, *self.image_size)

    def decode_to(self, latents: Tensor, height: int, width: int) -> Tensor:
        """`decode` without checks; `height` and `width` are those of `image_size`."""
        images: Tensor = self.decoder(latents) * self._std + self._mean
        return images if self.training else images.clamp(0, 1)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The reconstructions of images, of the same size."""
        return self.decode(self.encode(images))

    def initialise(self, images: UInt8[Tensor, "n c h w"]) -> None:
        """Do nothing: the encoder may have been trained before, and the decoder starts at random."""

    def config(self) -> dict[str, Any]:
        """What `from_config` takes, beside an encoder, to build this model again: values that `json` can write."""
        return {
            "encoder": self.encoder_name,
            "image_size": list(self.image_size),
            "channels": self.channels,
            "upsampling": self.upsampling,
            "freeze": self.freeze,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], encoder: nn.Module) -> EncoderAutoencoder:
        """Build the model that `config` was of, with an encoder of the same architecture; then load the state dict.

        Nothing that `config` names is imported: the encoder comes from the caller.

        Raises:
            ValueError: for an entry that is missing, unknown or of another type, and as the class does.
        """
        names = ("encoder", "image_size", "channels", "upsampling", "freeze", "mean", "std")
        if not isinstance(config, Mapping) or set(config) != set(names) or not isinstance(config["encoder"], str):
            raise ValueError(
                f"`config` (={config!r}) must have `encoder`, a text, and {', '.join(names[1:])}, and nothing else: "
                "restore it, or train again."
            )
        arguments = dict(config)
        name = arguments.pop("encoder")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnevenKernelWarning)  # given when the model was built first
            return cls(encoder, encoder_name=name, **arguments)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in `nn.Module`, but tensors that are missing, superfluous or of another shape are told in one line.

        Raises:
            ValueError: where the tensors are of another encoder.
        """
        if strict:
            own = self.state_dict()
            for name in dict.fromkeys([*own, *state_dict]):
                here, there = (_times(state[name].shape) if name in state else None for state in (own, state_dict))
                if here != there:
                    raise ValueError(
                        f"`encoder` is another one than the weights are of: {name} is {_or_absent(there)} in the "
                        f"weights and {_or_absent(here)} here; name the encoder that the run was trained with."
                    )
        return super().load_state_dict(state_dict, strict, assign)


Autoencoder = ConvAutoencoder | EncoderAutoencoder
"""What can be trained, and what a run holds."""


def load_encoder(reference: str) -> nn.Module:
    """Import an encoder that the user named.

    Importing runs code. Call this only with what was typed at the command line or in Python, and never with what a
    file says.

    Args:
        reference: `MODULE:FACTORY`: a module, in the current folder or installed, and in it a function (or class) that
            is called without arguments and returns the encoder, or the encoder itself.

    Raises:
        ValueError: where there is no such module or name, where one of them raises, and where the result is no
            `nn.Module`.

    Example:
        >>> load_encoder("torch.nn:Identity")
        Identity()
    """
    encoder: nn.Module = load_model("encoder", reference)
    return encoder


def _code_shape(encoder: nn.Module, image: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one image's code, from a copy without data: a call may change what an encoder holds."""
    with one_line_errors(f"`encoder` does not take float32 images of N×{_times(image)}"), torch.no_grad():
        codes = copy.deepcopy(encoder).to("meta").eval()(torch.empty(2, *image, device="meta"))
    return tuple(_checked_codes(codes, 2).shape[1:])


def _checked_codes(codes: Any, count: int) -> Tensor:
    """What an encoder returned for `count` images, where it is one code for each."""
    if not isinstance(codes, Tensor) or codes.ndim not in (2, 4) or codes.shape[0] != count:
        told = f"a tensor of {tuple(codes.shape)}" if isinstance(codes, Tensor) else type(codes).__name__
        raise ValueError(
            f"`encoder` returns {told} for {count} images: it must return one tensor of codes, N×d or N×c×h×w; where "
            "they have other axes, add nn.Flatten() to its end."
        )
    return codes


def _per_channel(name: str, value: Any, channels: int) -> tuple[float, ...]:
    """One finite number per channel, from that many or from one."""
    numbers = [value] * channels if isinstance(value, int | float) else value
    largest = torch.finfo(torch.float32).max
    if (
        not isinstance(numbers, Sequence)
        or len(numbers) != channels
        or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers)
        or not all(abs(number) <= largest for number in numbers)  # nor NaN
    ):
        raise ValueError(f"`{name}` (={value!r}) must be a finite number, or one for each of {channels} channels.")
    return tuple(map(float, numbers))


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def _or_absent(shape: str | None) -> str:
    return "absent" if shape is None else shape or "one number"
