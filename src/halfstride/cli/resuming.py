"""Which options of `halfstride train` may stand together, and beside a run that is resumed."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from halfstride.autoencoder import ImageOptions, Run, TrainingOptions

MODEL_OPTIONS = ("latent", "latent_dim", "downscale", "width", "blocks", "downsampling", "upsampling", "kernel_size")
PLACES = {"source": "data", "clean": "clean"}
"""Fields of `ImageOptions` that say where the images are, and the parameters of the command that name them."""


def check_encoder(own: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise where options need an encoder of one's own, or have no meaning beside one."""
    if own["encoder"] is None:
        # A run that is resumed knows these, and asks for the encoder itself.
        alone = [name for name in ("freeze", "mean", "std") if name in asked]
        if alone and "resume" not in asked:
            raise ValueError(f"`{alone[0]}` is for an encoder of your own: name it by --encoder.")
        return
    taken = [name for name in (*MODEL_OPTIONS, "variational") if name in asked and name != "upsampling"]
    if taken:
        raise ValueError(
            f"`{taken[0]}` (={asked[taken[0]]}) and `encoder` (={own['encoder']}) exclude each other: "
            "the encoder decides what its model is like."
        )


def named(context: typer.Context) -> dict[str, Any]:
    """What the command line names itself, by the names of the parameters."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def check_resumed(
    run: Run, asked: dict[str, Any], training: TrainingOptions, images: ImageOptions, model: dict[str, Any]
) -> None:
    """Raise where the command line names a value other than the run's, except for its length and the images' place."""
    config = run.config
    trained, loaded = run.training_options, run.image_options
    known: dict[str, tuple[Any, Any]] = {name: (model[name], config.get(name)) for name in MODEL_OPTIONS}
    for name in ("freeze", "mean", "std"):
        value, kept = model[name], config.get(name)
        if isinstance(value, tuple) and isinstance(kept, list):
            value = list(value) * len(kept) if len(value) == 1 else list(value)
        known[name] = value, kept
    known["variational"] = training.beta, trained.beta if config.get("variational") else None
    known["corrupt"] = training.corruption, trained.corruption
    for name in ("size", "channels", "fit", "test_fraction"):
        known[name] = getattr(images, name), getattr(loaded, name)
    for name in {field.name for field in fields(training)} - {"steps", "epochs", "minutes"}:
        known.setdefault(name, (getattr(training, name), getattr(trained, name)))
    for name in asked:
        if name in known and known[name][0] != known[name][1]:
            raise ValueError(
                f"`{name}` (={asked[name]}) cannot change in a run that is resumed, where it is "
                f"{known[name][1]}: leave it out, or start a new run in another folder."
            )
