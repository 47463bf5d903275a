"""Real models with random weights: the decoders and vocoders that the package is to speed up.

Each row names the modules that do its upsampling, so that a table can say what share of the model they are.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["MODELS", "ModelRow", "make_torchvision_importable"]


class ModelRow(NamedTuple):
    """A model, and the input on which it is measured."""

    name: str
    tags: frozenset[str]
    create: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    upsampling: Callable[[nn.Module], list[nn.Module]]
    """The modules that upsample: nearest neighbour, the convolution that follows it, transposed convolutions."""
    images: bool = True
    """Whether the input is images, which have a channels_last layout."""

    def build(self) -> nn.Module:
        make_torchvision_importable()
        return self.create()


class _Decoder(nn.Module):
    """The decoding half of an autoencoder of diffusers."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        autoencoder.encoder = nn.Identity()
        self.autoencoder = autoencoder

    def forward(self, latent: Tensor) -> Any:
        return self.autoencoder.decode(latent, return_dict=False)[0]


def _autoencoder_kl() -> nn.Module:
    from diffusers import AutoencoderKL

    return _Decoder(  # the configuration of Stable Diffusion 1 and 2
        AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[128, 256, 512, 512],
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=32,
            sample_size=512,
        )
    )


def _autoencoder_tiny() -> nn.Module:
    from diffusers import AutoencoderTiny

    return _Decoder(AutoencoderTiny())


def _unet() -> Any:
    import segmentation_models_pytorch

    return segmentation_models_pytorch.Unet("resnet34", encoder_weights=None, classes=2)


def _hifigan() -> Any:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    return SpeechT5HifiGan(SpeechT5HifiGanConfig())


def make_torchvision_importable() -> None:
    """Declare two operators of torchvision where its compiled half was built for another torch.

    Importing it wants to find them; the models need no more of it than networks in plain PyTorch, if anything.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _KEPT.append(library)  # the declarations live as long as this object


_KEPT: list[torch.library.Library] = []


def _named(*classes: str) -> Callable[[nn.Module], list[nn.Module]]:
    return lambda model: [module for module in model.modules() if type(module).__name__ in classes]


def _upsample_then_conv(model: nn.Module) -> list[nn.Module]:
    """Every `nn.Upsample` of a sequence and the module after it."""
    return [
        part
        for sequence in model.modules()
        if isinstance(sequence, nn.Sequential)
        for first, second in pairwise(sequence.children())
        if isinstance(first, nn.Upsample)
        for part in (first, second)
    ]


def _first_conv_of_blocks(model: nn.Module) -> list[nn.Module]:
    """A U-Net's block interpolates by a function call; its first convolution meets the result."""
    return [block.get_submodule("conv1.0") for block in _named("UnetDecoderBlock")(model)]


MODELS = [
    ModelRow(
        "diffusers AutoencoderKL decoder, latent 24x24",
        frozenset({"kl"}),
        _autoencoder_kl,
        (1, 4, 24, 24),
        _named("Upsample2D"),
    ),
    ModelRow(
        "diffusers AutoencoderTiny decoder, latent 32x32",
        frozenset({"tiny"}),
        _autoencoder_tiny,
        (1, 4, 32, 32),
        _upsample_then_conv,
    ),
    ModelRow(
        "segmentation_models_pytorch Unet resnet34, 256x256",
        frozenset({"unet"}),
        _unet,
        (1, 3, 256, 256),
        _first_conv_of_blocks,
    ),
    ModelRow(
        "transformers SpeechT5HifiGan, 100 frames",
        frozenset({"hifigan", "quick"}),
        _hifigan,
        (1, 100, 80),
        _named("ConvTranspose1d"),
        images=False,
    ),
]
