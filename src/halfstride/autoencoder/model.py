"""The convolutional autoencoder: an encoder takes an image down to a latent code, a decoder brings it back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from torch import Tensor, nn

from halfstride import layers
from halfstride._support.arguments import read_choice, read_int, read_sizes
from halfstride.autoencoder.blocks import (
    Downsample,
    Downsampling,
    ResidualBlock,
    Upsample,
    Upsampling,
    patch_layer,
    upsampling_layer,
)
from halfstride.autoencoder.memory import build_within_memory
from halfstride.autoencoder.mixture import draw_like
from halfstride.autoencoder.pretrained import PretrainedMixin
from halfstride.autoencoder.starting import start_from_images
from halfstride.checkerboard.coverage import warn_if_uneven

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

    from halfstride.autoencoder.images import Images

Latent = Literal["vector", "map"]

_LARGEST_PATCH = 4  # pixels a side that the encoder's first layer takes together
_LARGEST_VECTOR_MAP = 8  # positions a side that are made into a latent vector
# A code of very few numbers is far from linear in the features: it takes more layers to fold and to unfold.
SMALL_VECTOR, _SMALL_VECTOR_MAP, _HIDDEN = 16, 4, 128
_LEAK = 0.05  # slope of the output outside [0, 1] while the model trains


class ConvAutoencoder(
    nn.Module,
    PretrainedMixin,
    library_name="halfstride",
    tags=["autoencoder", "image-reconstruction"],
):
    """Encodes images to a latent code and decodes the code to images of exactly the same size.

    The encoder makes features of patches of 4×4 pixels, works on them in residual blocks and halves the size until it
    is 1/`downscale`; the decoder goes the same way back. Sides that `downscale` does not divide are extended by their
    border and cut again at the end, so that every height and width works.

    A **vector** has one code for the whole image, for images that share a layout. A **map** has a code for each
    position, for all others; it takes images of any size. Beside the convolutions of a map runs a linear path of whole
    blocks of pixels: training starts it as PCA of the blocks (`initialise`), and the convolutions learn what PCA
    leaves over.

    Args:
        image_size: height and width of the images, or one int for both; each 1 or more. With a latent map it is only
            what `decode` assumes when nothing else is said.
        channels: 1 for grey images, 3 for colour, or any number from 1.
        latent_dim: length of the latent vector; channels of a latent map.
        latent: `"vector"` or `"map"`.
        downscale: size of the image over that of the smallest features, and of the latent map: a power of 2, from 2 to
            the larger side of the image. By default 8 for a map, or less for images of fewer than 8 pixels, and for a
            vector from 4 on until at most 8 positions a side are left, or 4 where the vector has fewer than 16 numbers;
            such a small vector also has a hidden layer of 128 on either side.
        width: channels at a quarter of the size, 1 or more; twice as many below.
        blocks: residual blocks at each size, on either side; 0 or more.
        downsampling: `"stride"` for convolutions with a stride, `"pool"` for convolutions followed by max-pooling.
        upsampling: `"subpixel"` for sub-pixel convolutions, `"resize"` for nearest-neighbour upsampling and a
            convolution, `"transposed"` for transposed convolutions.
        kernel_size: kernel of the upsampling layers; by default 3, and for transposed convolutions twice the stride
            (divisible by it, so that all outputs are covered evenly). One that is not gets an `UnevenKernelWarning`.
        linear: whether a linear path runs beside the convolutions; by default for a map.
        variational: whether codes are drawn from a normal distribution while the model trains; see `distribution`.

    Shape:
        images `(N, channels, height, width)` with values in [0, 1]; latents `(N, latent_dim)`, or for a map
        `(N, latent_dim, h, w)` where `h` is `height / downscale`, rounded up.

    Raises:
        ValueError: for a size, number or name out of its range, and for images of another shape than the model's.

    Reference:
        Hinton & Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", Science 313 (2006);
        Kingma & Welling, "Auto-Encoding Variational Bayes" (arXiv:1312.6114).

    Example:
        >>> model = ConvAutoencoder(image_size=(37, 53), channels=3, latent_dim=4, latent="map")
        >>> images = torch.rand(2, 3, 37, 53)
        >>> model.encode(images).shape, model(images).shape
        (torch.Size([2, 4, 5, 7]), torch.Size([2, 3, 37, 53]))
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 28,
        channels: int = 1,
        latent_dim: int = 32,
        *,
        latent: Latent = "vector",
        downscale: int | None = None,
        width: int = 64,
        blocks: int = 1,
        downsampling: Downsampling = "stride",
        upsampling: Upsampling = "subpixel",
        kernel_size: int | None = None,
        linear: bool | None = None,
        variational: bool = False,
    ) -> None:
        super().__init__()
        height, width_in_pixels = read_sizes("image_size", image_size, 2, 1)
        self.image_size = height, width_in_pixels
        self.channels = read_int("channels", channels, 1)
        self.latent_dim = read_int("latent_dim", latent_dim, 1)
        self.latent = read_choice("latent", latent, get_args(Latent))
        self.upsampling = read_choice("upsampling", upsampling, get_args(Upsampling))
        self.takes_any_size = self.latent == "map"
        """Whether images of other sizes than `image_size` can be encoded."""
        self.variational = variational
        self.linear = latent == "map" if linear is None else linear
        read_choice("downsampling", downsampling, get_args(Downsampling))
        read_int("width", width, 1)
        read_int("blocks", blocks, 0)
        if kernel_size is not None:
            read_int("kernel_size", kernel_size, 1)
        self.downscale = self._default_downscale() if downscale is None else downscale
        if not isinstance(self.downscale, int) or self.downscale < 2 or self.downscale & (self.downscale - 1):
            raise ValueError(f"`downscale` (={downscale!r}) must be a power of 2, such as 4, 8 or 16.")
        if downscale is not None and downscale > (most := largest_downscale(self.image_size)):
            raise ValueError(
                f"`downscale` (={downscale}) is larger than images of {height}×{width_in_pixels}: use at most {most}."
            )
        patch = min(self.downscale, _LARGEST_PATCH)
        widths = [width] + [2 * width] * (self.downscale.bit_length() - patch.bit_length())
        if self.upsampling == "transposed" and kernel_size is not None:
            if kernel_size < patch:
                raise ValueError(
                    f"`kernel_size` (={kernel_size}) must be at least {patch}, the stride of the last transposed "
                    f'convolution, or it leaves gaps: use {2 * patch}, or upsampling="resize".'
                )
            # A multiple of the last stride is one of all others, which are 2.
            warn_if_uneven("ConvAutoencoder", (kernel_size,) * 2, (patch,) * 2, (1, 1), stacklevel=2)
        self._check_latent_dim()

        # Normalisation in the branches is what keeps a vector from collapsing; a map, which starts from PCA, is better
        # without, and its codes depend on their surroundings alone.
        normalise = self.latent == "vector"
        encoder: list[nn.Module] = [patch_layer(self.channels, widths[0], patch, downsampling)]
        decoder: list[nn.Module] = [upsampling_layer(widths[0], self.channels, patch, self.upsampling, kernel_size)]
        for inputs, outputs in zip(widths, [*widths[1:], None], strict=True):
            encoder += [ResidualBlock(inputs, normalise) for _ in range(blocks)]
            decoder += [ResidualBlock(inputs, normalise) for _ in range(blocks)]
            if outputs is not None:
                encoder.append(Downsample(inputs, outputs, downsampling))
                decoder.append(Upsample(outputs, inputs, self.upsampling, kernel_size))
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.Sequential(*reversed(decoder))

        deepest = (widths[-1], *self.map_size(self.image_size))
        statistics = 2 * latent_dim if variational else latent_dim
        if self.latent == "map":
            self.latent_shape: tuple[int, ...] = (latent_dim, *deepest[1:])
            self.to_latent: nn.Module = nn.Conv2d(widths[-1], statistics, 1)
            self.from_latent: nn.Module = nn.Conv2d(latent_dim, widths[-1], 1)
        else:
            features = math.prod(deepest)
            self.latent_shape = (latent_dim,)
            sizes = [features, _HIDDEN, statistics] if latent_dim < SMALL_VECTOR else [features, statistics]
            self.to_latent = nn.Sequential(nn.Flatten(), *_dense(sizes))
            self.from_latent = nn.Sequential(*_dense([latent_dim, *sizes[-2::-1]]), nn.Unflatten(1, deepest))
        if self.linear:
            self.linear_encoder, self.linear_decoder = self._linear_path()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.untrained = True
        """Whether the weights are those of the constructor: training starts such a model by `initialise`."""
        self.register_load_state_dict_post_hook(_mark_trained)  # type: ignore[no-untyped-call]

    def _default_downscale(self) -> int:
        if self.latent == "map":
            return min(8, largest_downscale(self.image_size))
        most = _SMALL_VECTOR_MAP if self.latent_dim < SMALL_VECTOR else _LARGEST_VECTOR_MAP
        downscale = 4
        while -(-max(self.image_size) // downscale) > most:
            downscale *= 2
        return downscale

    @classmethod
    def for_images(cls, images: Images, **options: Any) -> ConvAutoencoder:
        """Build a model for a set of images, with the latent that suits them (see `choose_latent`).

        Args:
            images: what `load_images` returned.
            options: arguments of the constructor; those that are left out are chosen.

        Example:
            >>> import halfstride
            >>> ConvAutoencoder.for_images(halfstride.load_images("digits")).latent_shape
            (32,)
        """
        from halfstride.autoencoder.choosing import choose_latent

        asked = {name: options.get(name) for name in ("latent", "latent_dim", "downscale")}
        chosen = choose_latent(images, **asked)._asdict()
        del chosen["reason"]
        return build_within_memory(cls, images.shape[1:], images.shape[0], **(chosen | options))

    def _linear_path(self) -> tuple[nn.Module, nn.Module]:
        """From image to code and back without anything in between: of blocks of pixels, or of the whole image."""
        if self.latent == "map":
            side = self.downscale
            return (
                nn.Conv2d(self.channels, self.latent_dim, side, stride=side),
                layers.SubpixelConv2d(self.latent_dim, self.channels, 1, scale_factor=side),  # a bias for each pixel
            )
        image = (self.channels, *self.image_size)
        return (
            nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image), self.latent_dim)),
            nn.Sequential(nn.Linear(self.latent_dim, math.prod(image)), nn.Unflatten(1, image)),
        )

    def encode(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n *latent"]:
        """The latent codes of images with values in [0, 1]; of a variational model the means."""
        return self.distribution(images)[0] if self.variational else self._statistics(images)

    def distribution(self, images: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor]:
        """The normal distributions that a variational model has for images: mean and logarithm of the variance.

        Raises:
            ValueError: where the model is not variational.
        """
        if not self.variational:
            raise ValueError("`variational` (=False): this model has a code for each image, and no distribution.")
        mean, log_variance = self._statistics(images).chunk(2, 1)
        return mean, log_variance.clamp(-20, 10)

    def _statistics(self, images: Tensor) -> Tensor:
        check_images(images, self.channels, self.image_size if self.latent == "vector" else None)
        extended = self.extend(images)
        code: Tensor = self.to_latent(self.encoder(extended))
        if self.linear:
            linear: Tensor = self.linear_encoder(extended if self.latent == "map" else images)
            code = torch.cat([code[:, : self.latent_dim] + linear, code[:, self.latent_dim :]], 1)
        return code

    def decode(
        self, latents: Float[Tensor, "n *latent"], output_size: Sequence[int] | None = None
    ) -> Float[Tensor, "n c h w"]:
        """The images of latent codes.

        Args:
            latents: what `encode` returned, or codes of one's own.
            output_size: height and width to restore, where the latent is a map and came from images of another size
                than `image_size`. By default `image_size`, or for a map of another size than that has, the largest size
                that is encoded to it.

        Returns:
            Images with values in [0, 1], clipped. While the model trains, values may lie a little outside: a value that
            is clipped, or far out on a sigmoid, would have no gradient to bring it back.
        """
        return self.decode_to(latents, *self._output_size(latents, output_size))

    def decode_to(self, latents: Tensor, height: int, width: int) -> Tensor:
        """`decode` to a known size without a check, which would tie an exported model to the example's size."""
        # The code loses the memory format on its way through a vector; convolutions on a CPU are fastest in this one.
        features = self.from_latent(latents).contiguous(memory_format=torch.channels_last)
        images: Tensor = self.decoder(features)
        if self.linear:
            linear: Tensor = self.linear_decoder(latents)
            if self.latent == "vector":
                images = images[..., :height, :width]
            images = images + linear
        clipped = images.clamp(0, 1)
        if self.training:
            clipped = clipped + _LEAK * (images - clipped)
        # By negative padding, since torch.export ties an index such as `[..., :height, :width]` to the example's size.
        return extend_or_cut(clipped, height - clipped.shape[-2], width - clipped.shape[-1])

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The reconstructions of images, of the same size; of a variational model from the means."""
        return self.decode_to(self.encode(images), *images.shape[-2:])

    def initialise(self, images: UInt8[Tensor, "n c h w"]) -> None:
        """Let an untrained model start from the images that it will be trained on.

        With a linear path it starts as principal component analysis: the path becomes PCA of blocks of pixels (for a
        vector, of whole images) with codes of variance 1, to which the convolutions add nothing yet. Without one it
        starts from the images' mean colour. Parameters that require no gradient stay as they are.

        Args:
            images: training images, 1 or more; a few hundred are enough.

        Reference:
            Baldi & Hornik, "Neural networks and principal component analysis", Neural Networks 2 (1989): PCA is the
            best that a linear autoencoder can do.
        """
        start_from_images(self, images)
        self.untrained = False

    @torch.inference_mode()
    def sample(self, count: int, *, codes: Tensor | None = None, seed: int = 0) -> Float[Tensor, "n c h w"]:
        """New images: decoded from the normal distribution of a variational model, or from a fit to codes.

        Args:
            count: how many, 1 or more.
            codes: latent codes of 2 or more training images; needed for a plain model, to which a Gaussian mixture is
                fitted. A variational model takes codes of its own, from a normal distribution, and needs none.
            seed: another one draws other images.

        Raises:
            ValueError: for a plain model without codes, or with those of a single image.
        """
        read_int("count", count, 1)
        parameter = next(self.parameters())
        if self.variational:
            drawn = torch.randn(count, *self.latent_shape, generator=torch.Generator().manual_seed(seed))
        else:
            if codes is None:
                raise ValueError("`codes` (=None) must be given: a plain model draws from a fit to codes of images.")
            if len(codes) < 2:
                raise ValueError(f"`codes` (of {len(codes)} images) must be of 2 or more: a fit to one has no spread.")
            drawn = draw_like(codes.flatten(1), count, seed).reshape(count, *codes.shape[1:])
        return self.decode(drawn.to(parameter.device, parameter.dtype)).clamp(0, 1)

    def extend(self, images: Tensor) -> Tensor:
        """Images with right and lower borders repeated, so that `downscale` divides their sides."""
        height, width = images.shape[-2:]
        rows, columns = self.map_size((height, width))
        return extend_or_cut(images, rows * self.downscale - height, columns * self.downscale - width, "replicate")

    def map_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width of the smallest features of an image."""
        up = self.downscale - 1
        return (size[0] + up) // self.downscale, (size[1] + up) // self.downscale

    def _output_size(self, latents: Tensor, output_size: Sequence[int] | None) -> tuple[int, int]:
        if latents.shape[1:] == self.latent_shape and output_size is None:
            return self.image_size
        is_vector = self.latent == "vector"
        if latents.ndim != (2 if is_vector else 4) or latents.shape[1] != self.latent_dim:
            found, rest = "×".join(map(str, latents.shape[1:])), "" if is_vector else "×h×w"
            raise ValueError(f"`latents` have the shape N×{found}: this model decodes N×{self.latent_dim}{rest}.")
        if is_vector:
            if output_size is not None and tuple(output_size) != self.image_size:
                raise ValueError(
                    f"`output_size` (={tuple(output_size)}) must be the model's image_size {self.image_size}: "
                    'only a model with latent="map" decodes to other sizes.'
                )
            return self.image_size
        height, width = latents.shape[-2:]
        largest = height * self.downscale, width * self.downscale
        if output_size is None:
            return largest
        encoded = self.map_size(output_size)
        if encoded != (height, width):
            raise ValueError(
                f"`output_size` (={tuple(output_size)}) is encoded to {encoded[0]}×{encoded[1]}, not to the "
                f"{height}×{width} of these latents: choose at most {largest}."
            )
        return output_size[0], output_size[1]

    def _check_latent_dim(self) -> None:
        """A code of more numbers than the image has learns nothing but a copy."""
        height, width = self.image_size
        numbers = self.latent_dim * (math.prod(self.map_size(self.image_size)) if self.latent == "map" else 1)
        values = self.channels * height * width
        # The map of an image smaller than one block is extended with it.
        most = values if self.latent == "vector" else max(values, self.channels * self.downscale**2)
        if numbers > most:
            raise ValueError(
                f"`latent_dim` (={self.latent_dim}) makes a code of {numbers:,} numbers, more than the {values:,} of "
                f"an image of {self.channels}×{height}×{width}: use at most {self.latent_dim * most // numbers}"
                + ("." if self.latent == "vector" else ", or a larger `downscale`.")
            )

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that `save_pretrained` writes where there is none: what is known of the model itself."""
        from halfstride.autoencoder.model_card import card_text

        return ModelCard(card_text(self))


def check_images(images: Tensor, channels: int, size: tuple[int, int] | None) -> None:
    """Raise where a model of so many channels, and of this size alone, does not take these images."""
    if not images.is_floating_point():
        raise ValueError(f"`images` are {images.dtype}: this model takes floats in [0, 1]; see halfstride.to_float.")
    if images.ndim != 4 or images.shape[1] != channels or (size is not None and images.shape[-2:] != size):
        raise ValueError(
            f"`images` have the shape {tuple(images.shape)}: this model takes (N, {channels}, "
            + ("height, width)." if size is None else f"{size[0]}, {size[1]}); bring them to that size.")
        )


def largest_downscale(image_size: Sequence[int]) -> int:
    """The largest power of 2, from 2, that is no larger than the larger side of an image."""
    return int(2 ** max(1, max(image_size).bit_length() - 1))


def _mark_trained(model: ConvAutoencoder, _: Any) -> None:
    """What happens after weights are loaded; a function of the module, so that models can be pickled."""
    model.untrained = False


def extend_or_cut(images: Tensor, below: int, right: int, mode: str = "constant") -> Tensor:
    """Images with so many more, or fewer, pixels below and to the right."""
    if isinstance(below, int) and isinstance(right, int) and below == right == 0:  # sizes of an export are no ints
        return images
    return F.pad(images, (0, right, 0, below), mode=mode)


def _dense(sizes: Sequence[int]) -> list[nn.Module]:
    """Fully connected layers from each size to the next, with an activation between them."""
    layers_between: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers_between += [nn.SiLU(), nn.Linear(inputs, outputs)]
    return layers_between[1:]
