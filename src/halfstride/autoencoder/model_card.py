"""The model card of one trained model: `README.md` in its folder, which the Hugging Face Hub shows as its page."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from halfstride.autoencoder.evaluation import Evaluation, Row


def card_text(
    model: nn.Module,
    evaluation: Evaluation | None = None,
    *,
    architecture: str | None = None,
    training: str | None = None,
    location: str = ".",
    picture: str | None = "reconstructions.png",
    versions: Mapping[str, str] | None = None,
) -> str:
    """Describe a trained autoencoder in Markdown, with the header that the Hub reads.

    The card says what is known of this model and nothing else. It names no licence: that is for the model's owner.

    Args:
        model: the model, with `channels`, `image_size` and `latent_shape`.
        evaluation: what `evaluate` returned; without it the card has no figures.
        architecture: how the model is built, as a sentence; by default its class and number of parameters.
        training: how it was trained, as a sentence.
        location: what `from_pretrained` is given in the example: a folder, or a repository's name on the Hub.
        picture: the picture's file name beside the card; None for no picture. Shown with an evaluation only.
        versions: name and version of the libraries used; by default those that are installed.

    Example:
        >>> import halfstride
        >>> text = card_text(halfstride.ConvAutoencoder(28, 1, 32), location="runs/digits")
        >>> text.splitlines()[:2]
        ['---', 'library_name: halfstride']
    """
    shape = (int(model.channels), *map(int, model.image_size))  # type: ignore[arg-type]
    latent = tuple(map(int, model.latent_shape))  # type: ignore[arg-type]
    if architecture is None:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        architecture = f"`{type(model).__name__}` of halfstride with {parameters:,} parameters."
    parts = [
        "---\nlibrary_name: halfstride\ntags:\n- autoencoder\n- image-reconstruction\n---\n",
        f"# Autoencoder for {_escaped(evaluation.data) if evaluation else 'images'}\n",
        _summary(shape, latent),
    ]
    if evaluation is not None:
        parts.append(f"**Verdict.** {_escaped(evaluation.verdict.sentence)}\n")
        if picture is not None:
            parts.append(f"![Test images, and what the model and simpler methods make of them]({picture})\n")
    parts.append(f"## Model\n\n{architecture}{' ' + training if training else ''}\n")
    if evaluation is not None:
        parts += [_data(evaluation), _figures(evaluation)]
    parts.append(_usage(shape, latent, location))
    used = _installed() if versions is None else versions
    parts.append("## Versions\n\n" + ", ".join(f"{name} {number}" for name, number in used.items()) + "\n")
    return "\n".join(parts)


def _summary(shape: tuple[int, ...], latent: tuple[int, ...]) -> str:
    numbers = math.prod(latent)
    code = f"a vector of {numbers:,} numbers"
    if len(latent) > 1:
        code = f"a map of {_product(latent)} (channels × height × width: {numbers:,} numbers)"
    compression = math.prod(shape) / numbers
    return (
        f"Encodes images of {_product(shape)} (channels × height × width: {math.prod(shape):,} numbers) to {code}, "
        f"{compression:,.{1 if compression < 100 else 0}f} times fewer, and decodes it again.\n"
    )


def _data(evaluation: Evaluation) -> str:
    count = "a stream of images" if evaluation.train_images is None else f"{evaluation.train_images:,} images"
    held_out = f"{evaluation.test.images:,} test images"
    if evaluation.validation is not None:
        held_out = f"{evaluation.validation.images:,} validation images and {held_out}"
    return (
        f"## Data\n\n{_escaped(evaluation.data)}: {count} to train on. The figures below are also of {held_out}, which "
        "it was not trained on.\n"
    )


def _figures(evaluation: Evaluation) -> str:
    lines = ["## Figures\n", "| images | MSE | PSNR | SSIM |", "|---|---:|---:|---:|"]
    of_parts = {"training": evaluation.train, "validation": evaluation.validation, "test": evaluation.test}
    for name, scores in of_parts.items():
        if scores is not None:
            ssim = "" if scores.ssim is None else f"{scores.ssim:.3f}"
            lines.append(f"| {name} ({scores.images:,}) | {scores.mse:.3g} | {scores.psnr:.2f} dB | {ssim} |")
    varies = evaluation.output_variance / evaluation.data_variance if evaluation.data_variance > 0 else 0.0
    lines += [
        "",
        f"On {evaluation.compared:,} test images, beside simple methods fitted on the training images "
        f"(gradient energy: mean squared difference of neighbouring pixels, {evaluation.gradient_energy:.3g} in the "
        "images themselves; lower means blurred):\n",
        "| method | size | MSE | PSNR | gradient energy | |",
        "|---|---:|---:|---:|---:|---|",
        *(_line(row) for row in evaluation.rows),
        "",
        f"{evaluation.used:,} of {evaluation.numbers:,} latent numbers are in use. Outputs range from "
        f"{evaluation.output_range[0]:.2f} to {evaluation.output_range[1]:.2f} (images: 0 to 1) and vary over images "
        f"{varies:.0%} as much as the images do.",
    ]
    if (found := evaluation.neighbours) is not None:
        lines.append(
            f"The five nearest of {found.train:,} training images by latent code have the class of a test image in "
            f"{found.latent:.1%} of cases (by PCA: {found.pca:.1%})."
        )
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    size = "" if row.numbers is None else f"{row.numbers:,} numbers"
    size = size if row.bytes is None else f"{row.bytes:,.0f} bytes"
    return (
        f"| {row.name} | {size} | {row.mse:.3g} | {row.psnr:.2f} dB | {row.gradient_energy:.3g} | "
        f"{_escaped(row.note)} |"
    )


def _usage(shape: tuple[int, ...], latent: tuple[int, ...], location: str) -> str:
    imports = ["import halfstride", "from halfstride.autoencoder import decode"]
    images = [
        f'picture = decode("picture.png", {shape})  # uint8, scaled and cropped',
        "images = halfstride.to_float(picture.unsqueeze(0))  # a batch of images with values in [0, 1]",
    ]
    if shape[0] not in (1, 3):  # no picture has such channels
        imports = ["import torch", "import halfstride"]
        images = [f"images = torch.rand(1, {', '.join(map(str, shape))})  # in place of images in [0, 1]"]
    lines = [
        *imports,
        "",
        f"model = halfstride.ConvAutoencoder.from_pretrained({json.dumps(location)})  # a folder, or a name on the Hub",
        *images,
        f"codes = model.encode(images)  # N×{_product(latent)}",
        f"restored = model.decode(codes)  # N×{_product(shape)}, values in [0, 1]",
        "print((restored - images).square().mean())",
    ]
    return "\n".join(["## Use\n", "```python", *lines, "```", ""])


def _installed() -> dict[str, str]:
    import halfstride

    return {
        "Python": platform.python_version(),
        "halfstride": halfstride.__version__,
        "torch": torch.__version__,
        **{name: version(name) for name in ("safetensors", "huggingface_hub")},
    }


def _product(sizes: tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))


def _escaped(text: str) -> str:
    """Text from outside as Markdown that shows it as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))
