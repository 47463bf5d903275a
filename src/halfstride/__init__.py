"""Halfstride: convolutional autoencoders, and the upsampling layers that every decoder stands on.

The public names, and nothing else. Each is imported when it is first used, so that the command line answers at once
and nobody waits for a part that they don't use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from halfstride import geometry

if TYPE_CHECKING:
    from halfstride import functional
    from halfstride.autoencoder import (
        ConvAutoencoder,
        EncoderAutoencoder,
        Evaluation,
        ImageOptions,
        Images,
        Interrupted,
        Run,
        TrainingOptions,
        choose_latent,
        evaluate,
        load_encoder,
        load_images,
        mirror,
        reconstruct,
        to_float,
        train,
    )
    from halfstride.checkerboard import UnevenKernelWarning, cure, diagnose, diagnose_image
    from halfstride.layers import (
        ConvTranspose1d,
        ConvTranspose2d,
        ConvTranspose3d,
        ResizeConv1d,
        ResizeConv2d,
        ResizeConv3d,
        SubpixelConv1d,
        SubpixelConv2d,
        SubpixelConv3d,
    )
    from halfstride.optimizing import optimize

__all__ = [
    "ConvAutoencoder",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "EncoderAutoencoder",
    "Evaluation",
    "ImageOptions",
    "Images",
    "Interrupted",
    "ResizeConv1d",
    "ResizeConv2d",
    "ResizeConv3d",
    "Run",
    "SubpixelConv1d",
    "SubpixelConv2d",
    "SubpixelConv3d",
    "TrainingOptions",
    "UnevenKernelWarning",
    "choose_latent",
    "cure",
    "diagnose",
    "diagnose_image",
    "evaluate",
    "functional",
    "geometry",
    "load_encoder",
    "load_images",
    "mirror",
    "optimize",
    "reconstruct",
    "to_float",
    "train",
]
__version__ = "0.1.0"

_ROOMS = {
    "checkerboard": {"UnevenKernelWarning", "cure", "diagnose", "diagnose_image"},
    "layers": {f"{kind}{dims}d" for kind in ("ConvTranspose", "ResizeConv", "SubpixelConv") for dims in (1, 2, 3)},
    "autoencoder": {
        "ConvAutoencoder",
        "EncoderAutoencoder",
        "Evaluation",
        "ImageOptions",
        "Images",
        "Interrupted",
        "Run",
        "TrainingOptions",
        "choose_latent",
        "evaluate",
        "load_encoder",
        "load_images",
        "mirror",
        "reconstruct",
        "to_float",
        "train",
    },
    "optimizing": {"optimize"},
}


def __getattr__(name: str) -> Any:
    if name == "functional":
        return import_module("halfstride.functional")
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"halfstride.{room}"), name)
    raise AttributeError(f"module 'halfstride' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
