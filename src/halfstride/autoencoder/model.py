"""The convolutional autoencoder: convolutions take an image down to a latent code, upsampling layers bring it back."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub import PyTorchModelHubMixin, constants
from jaxtyping import Float
from torch import Tensor, nn

from halfstride import layers
from halfstride.checkerboard.coverage import UnevenKernelWarning, warn_if_uneven

__all__ = ["ConvAutoencoder", "Downsampling", "Upsampling"]

Downsampling = Literal["stride", "pool"]
Upsampling = Literal["resize", "transposed", "subpixel"]


class ConvAutoencoder(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="halfstride",
    tags=["autoencoder", "image-reconstruction"],
    license="apache-2.0",
):
    """Encodes images to a latent code and decodes the code to images of exactly the same size.

    The encoder halves the image once for every width (rounding up), the decoder doubles it as often and cuts each
    level to the size that the encoder met there, so that every height and width works, odd ones and 1 included.
    Normalisation is per image (`GroupNorm`), so that a result does not depend on the batch it is computed in.

    Args:
        image_size: height and width of the images, or one int for both; each 1 or more. With a spatial latent it is
            only what `decode` assumes when nothing else is said, and any size can be encoded.
        channels: 1 for grey images, 3 for colour, or any number from 1.
        latent_dim: length of the latent vector; with `spatial=True`, channels of the latent map.
        spatial: keep the latent as a map of `latent_dim` channels at the lowest resolution.
        widths: channels of each level, from the image down; as many levels as there are widths. By default they double
            from 32 to at most 256 until the longer side is at most 4.
        hidden_dim: width of a fully connected layer on either side of a latent vector; `None` for none. It pays for
            very small latents, whose map from features to code is far from linear.
        downsampling: `"stride"` for convolutions of stride 2, `"pool"` for convolutions followed by 2×2 max-pooling.
        upsampling: `"resize"` for nearest-neighbour upsampling and a convolution, `"transposed"` for transposed
            convolutions, `"subpixel"` for sub-pixel convolutions.
        kernel_size: kernel of the upsampling layers; by default 3, and 4 for transposed convolutions (divisible by
            their stride, so that all outputs are covered evenly). An odd one gets an `UnevenKernelWarning` there.

    Shape:
        images `(N, channels, height, width)` with values in [0, 1]; latents `(N, latent_dim)`, or
        `(N, latent_dim, h, w)` where spatial.

    Raises:
        ValueError: for a size, width or name out of its range, and for images of another shape than the model's.

    Reference:
        Hinton & Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", Science 313 (2006);
        Odena, Dumoulin & Olah, "Deconvolution and Checkerboard Artifacts", Distill (2016), for the resize-convolution.

    Example:
        >>> model = ConvAutoencoder(image_size=(37, 53), channels=3, latent_dim=16)
        >>> images = torch.rand(2, 3, 37, 53)
        >>> model.encode(images).shape, model(images).shape
        (torch.Size([2, 16]), torch.Size([2, 3, 37, 53]))
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 28,
        channels: int = 1,
        latent_dim: int = 32,
        *,
        spatial: bool = False,
        widths: Sequence[int] | None = None,
        hidden_dim: int | None = None,
        downsampling: Downsampling = "stride",
        upsampling: Upsampling = "resize",
        kernel_size: int | None = None,
    ) -> None:
        super().__init__()
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sides) != 2:
            raise ValueError(f"`image_size` (={sides}) must be height and width, or one int for both.")
        height, width = sides
        self.image_size = (_positive("image_size", height), _positive("image_size", width))
        self.channels = _positive("channels", channels)
        self.latent_dim = _positive("latent_dim", latent_dim)
        self.spatial = spatial
        self.upsampling = _one_of("upsampling", upsampling, Upsampling)
        _one_of("downsampling", downsampling, Downsampling)
        if widths is None:
            widths = _default_widths(max(self.image_size))
        else:
            widths = tuple(widths)
            if isinstance(self._hub_mixin_config, dict):  # in which the mixin leaves out what is no list, as a range
                self._hub_mixin_config["widths"] = list(widths)
        if not widths:
            raise ValueError("`widths` (=()) must name the channels of at least one level, such as (32, 64).")
        for value in widths:
            _positive("widths", value)
        if hidden_dim is not None and spatial:
            raise ValueError(f"`hidden_dim` (={hidden_dim}) is for latent vectors: leave it out with spatial=True.")
        if kernel_size is None:
            kernel_size = 4 if upsampling == "transposed" else 3
        _positive("kernel_size", kernel_size)
        if upsampling == "transposed":
            warn_if_uneven("ConvAutoencoder", (kernel_size,) * 2, (2, 2), (1, 1), stacklevel=2)

        levels = (self.channels, *widths)
        self.down = nn.ModuleList(_down(above, below, downsampling) for above, below in itertools.pairwise(levels))
        self.up = nn.ModuleList(
            _up(below, above, self.upsampling, kernel_size)
            for above, below in reversed(list(itertools.pairwise(levels)))
        )
        deepest = (widths[-1], *self._sizes(self.image_size)[-1])
        if spatial:
            self.latent_shape: tuple[int, ...] = (latent_dim, *deepest[1:])
            self.to_latent: nn.Module = nn.Conv2d(widths[-1], latent_dim, 1)
            self.from_latent: nn.Module = nn.Conv2d(latent_dim, widths[-1], 1)
        else:
            features = math.prod(deepest)
            if latent_dim > self.channels * math.prod(self.image_size):
                raise ValueError(
                    f"`latent_dim` (={latent_dim}) is larger than the image of {self.channels}×{height}×{width}: "
                    f"use at most {self.channels * math.prod(self.image_size)}."
                )
            self.latent_shape = (latent_dim,)
            self.to_latent = nn.Sequential(nn.Flatten(), *_dense(features, hidden_dim, latent_dim))
            self.from_latent = nn.Sequential(*_dense(latent_dim, hidden_dim, features), nn.Unflatten(1, deepest))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n *latent"]:
        """The latent codes of images with values in [0, 1]."""
        self._check_images(images)
        features = images
        for block in self.down:
            features = block(features)
        return self.to_latent(features)  # type: ignore[no-any-return]

    def decode(
        self, latents: Float[Tensor, "n *latent"], output_size: Sequence[int] | None = None
    ) -> Float[Tensor, "n c h w"]:
        """The images of latent codes, with values in [0, 1].

        Args:
            latents: what `encode` returned, or codes of one's own.
            output_size: height and width to restore, where the latent is spatial and came from images of another size
                than `image_size`. By default `image_size`, or for a latent map of another size than that has, the
                largest size that is encoded to it.
        """
        sizes = self._sizes(self._output_size(latents, output_size))
        features = self.from_latent(latents)
        # The code loses the memory format on its way through a vector; convolutions on a CPU are fastest in this one.
        features = features.contiguous(memory_format=torch.channels_last)
        for block, (height, width) in zip(self.up, reversed(sizes[:-1]), strict=True):
            features = block(features)[..., :height, :width]
        return features.sigmoid()  # type: ignore[no-any-return]

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The reconstructions of images, in [0, 1] and of the same size."""
        return self.decode(self.encode(images), images.shape[-2:])

    def _sizes(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """Height and width at each level, from the image down: every level halves, rounding up."""
        sizes = [(size[0], size[1])]
        for _ in self.down:
            height, width = sizes[-1]
            sizes.append((-(-height // 2), -(-width // 2)))
        return sizes

    def _output_size(self, latents: Tensor, output_size: Sequence[int] | None) -> tuple[int, int]:
        if latents.shape[1:] == self.latent_shape and output_size is None:
            return self.image_size
        expected = "×".join(map(str, self.latent_shape))
        found = "×".join(map(str, latents.shape[1:]))
        if not self.spatial:
            if latents.shape[1:] != self.latent_shape:
                raise ValueError(f"`latents` have the shape N×{found}: this model decodes N×{expected}.")
            if output_size is not None and tuple(output_size) != self.image_size:
                raise ValueError(
                    f"`output_size` (={tuple(output_size)}) must be the model's image_size {self.image_size}: "
                    "only a model with spatial=True decodes to other sizes."
                )
            return self.image_size
        if latents.ndim != 4 or latents.shape[1] != self.latent_dim:
            raise ValueError(f"`latents` have the shape N×{found}: this model decodes N×{self.latent_dim}×h×w.")
        height, width = latents.shape[-2:]
        if output_size is None:
            return height << len(self.down), width << len(self.down)
        encoded = self._sizes(output_size)[-1]
        if encoded != (height, width):
            raise ValueError(
                f"`output_size` (={tuple(output_size)}) is encoded to {encoded[0]}×{encoded[1]}, not to the "
                f"{height}×{width} of these latents: choose at most "
                f"{(height << len(self.down), width << len(self.down))}."
            )
        return output_size[0], output_size[1]

    def _check_images(self, images: Tensor) -> None:
        if not images.is_floating_point():
            raise ValueError(
                f"`images` are {images.dtype}: this model takes floats in [0, 1]; see halfstride.to_float."
            )
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"`images` have the shape {tuple(images.shape)}: this model takes (N, {self.channels}, height, width)."
            )
        if not self.spatial and images.shape[-2:] != self.image_size:
            raise ValueError(
                f"`images` are {images.shape[-2]}×{images.shape[-1]}: this model takes "
                f"{self.image_size[0]}×{self.image_size[1]}; bring them to that size, or build it with spatial=True."
            )

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        **model_kwargs: Any,
    ) -> ConvAutoencoder:
        """Load strictly, from safetensors alone: a pickle could run code, and missing weights would go unnoticed."""
        from huggingface_hub import hf_hub_download
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        def locate(name: str) -> Path:
            if not Path(model_id).is_dir():
                options = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
                return Path(
                    hf_hub_download(model_id, name, token=token, local_files_only=local_files_only, **options)  # type: ignore[arg-type]
                )
            path = Path(model_id, name)
            if not path.is_file():
                raise ValueError(f"`{model_id}` has no {name}: name a folder that save_pretrained or a training wrote.")
            return path

        locate(constants.CONFIG_NAME)
        weights = locate(constants.SAFETENSORS_SINGLE_FILE)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnevenKernelWarning)  # whoever trained it has been told
                model = cls(**model_kwargs)
            model.load_state_dict(load_file(weights, device=map_location), strict=True)
        except (SafetensorError, RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"`{weights}` does not hold the weights of this model ({reason}): use a backup, or train again."
            ) from error
        return model.to(map_location).eval()


def _down(above: int, below: int, downsampling: Downsampling) -> nn.Sequential:
    """One level down: half the size, rounded up."""
    if downsampling == "stride":
        return nn.Sequential(nn.Conv2d(above, below, 3, stride=2, padding=1), _group_norm(below), nn.SiLU())
    return nn.Sequential(
        nn.Conv2d(above, below, 3, padding=1), _group_norm(below), nn.SiLU(), nn.MaxPool2d(2, ceil_mode=True)
    )


def _up(below: int, above: int, upsampling: Upsampling, kernel_size: int) -> nn.Sequential:
    """One level up: exactly twice the size."""
    layer: nn.Module
    if upsampling == "transposed":
        odd = kernel_size % 2
        layer = layers.ConvTranspose2d(
            below, above, kernel_size, stride=2, padding=(kernel_size - 1) // 2, output_padding=odd
        )
    elif upsampling == "resize":
        layer = layers.ResizeConv2d(below, above, kernel_size)
    else:
        layer = layers.SubpixelConv2d(below, above, kernel_size)
    return nn.Sequential(_group_norm(below), nn.SiLU(), layer)


def _dense(inputs: int, hidden: int | None, outputs: int) -> list[nn.Module]:
    if hidden is None:
        return [nn.Linear(inputs, outputs)]
    return [nn.Linear(inputs, _positive("hidden_dim", hidden)), nn.SiLU(), nn.Linear(hidden, outputs)]


def _group_norm(channels: int) -> nn.GroupNorm:
    """At most eight groups of at least four channels: smaller groups say little where the map is 1×1."""
    groups = max(groups for groups in (1, 2, 4, 8) if groups == 1 or channels % (4 * groups) == 0)
    return nn.GroupNorm(groups, channels)


def _default_widths(longest: int) -> tuple[int, ...]:
    widths = [32]
    while (longest := -(-longest // 2)) > 4:
        widths.append(min(2 * widths[-1], 256))
    return tuple(widths)


def _positive(name: str, value: int) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` (={value!r}) must be an int of at least 1.")
    return value


def _one_of(name: str, value: Any, choices: Any) -> Any:
    if value not in get_args(choices):
        raise ValueError(f"`{name}` (={value!r}) must be one of {json.dumps(get_args(choices))[1:-1]}.")
    return value
