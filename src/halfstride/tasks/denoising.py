"""`denoise`: pictures cleaned by a model that was trained on corrupted ones, each at its own size."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from halfstride import figures
from halfstride.autoencoder.images import ImageError, Skipped, decode, to_float
from halfstride.autoencoder.images.collection import Progress, listed
from halfstride.autoencoder.images.formats import Picture, printable
from halfstride.autoencoder.model import ConvAutoencoder
from halfstride.autoencoder.report import reconstruct, save_png
from halfstride.autoencoder.scoring import psnr, ssim
from halfstride.autoencoder.writing import writing
from halfstride.tasks.job import Job
from halfstride.tasks.pictures import Pictures
from halfstride.tasks.run import TrainedRun, load_run
from halfstride.tasks.tiles import halo_of, tiled

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from matplotlib.figure import Figure

__all__ = ["Denoised", "Quality", "denoise", "denoise_files"]

_TILE = 1024
_SHOWN = 6


@dataclass
class Quality:
    """How near a picture is to its clean twin, before and after."""

    psnr_before: float
    psnr_after: float
    """Peak signal-to-noise ratio in dB."""
    ssim_before: float | None
    ssim_after: float | None
    """Structural similarity; None for pictures of fewer than 11 pixels a side."""


@dataclass
class Denoised:
    """Pictures and what a model made of them."""

    names: list[str]
    """Where each picture lies."""
    images: list[UInt8[np.ndarray, "h w c"]]
    """The results, each of the size of its picture."""
    qualities: list[Quality | None]
    """Where clean pictures were given."""
    skipped: list[Skipped]
    """What could not be read, and why."""
    _shown: list[_Result] = field(repr=False)

    def figure(self) -> Figure:
        """The middle of the first pictures before and after, and of the clean ones."""
        return _overview(self._shown)


class _Result(NamedTuple):
    place: int
    original: UInt8[Tensor, "c h w"]
    output: UInt8[Tensor, "c h w"]
    clean: UInt8[Tensor, "c h w"] | None
    quality: Quality | None


def denoise(
    run: str | os.PathLike[str] | TrainedRun, images: Any, clean: Any = None, *, progress: Progress | None = None
) -> Denoised:
    """Remove from pictures what a run was trained to remove.

    Each picture keeps its size. A model with a latent map computes it at that size, of large pictures tile by tile with
    the same result; any other model takes one size, to which pictures are stretched and from which the results are
    stretched back.

    Args:
        run: a run's folder, or what `load_run` returned; one that was trained with `corruption`, or on noisy pictures
            with clean twins.
        images: pictures, as `embed` takes them.
        clean: their clean twins: a folder whose pictures have the same names apart from the suffix, or as many pictures
            in the same order.
        progress: called with what is being done, how many are done, and of how many.

    Raises:
        ValueError: where the run was trained otherwise, no picture can be read, or pictures have no clean twin.

    Example:
        >>> found = denoise("runs/noisy", "scans/")  # doctest: +SKIP
        >>> found.images[0].shape, found.names[0]  # doctest: +SKIP
    """
    run, pictures = _checked(run), Pictures(images)
    twins = None if clean is None else _twins(pictures, clean)
    results: list[_Result] = []
    failures: dict[int, str] = {}
    for found, failed in _denoised(run, pictures, range(len(pictures)), twins, progress):
        results += found
        failures |= failed
    skipped = _skipped(pictures, failures, bool(results))
    return Denoised(
        [pictures.names[result.place] for result in results],
        [result.output.movedim(0, -1).numpy() for result in results],
        [result.quality for result in results],
        skipped,
        results[:_SHOWN],
    )


def denoise_files(
    run: str | os.PathLike[str] | TrainedRun,
    images: Any,
    out: str | os.PathLike[str],
    *,
    clean: Any = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[list[tuple[str, Quality | None]], list[Skipped]] | None:
    """Denoise pictures and write them as PNG files, by all processes of `torchrun` together.

    Beside the pictures are `results.csv` (path, file, and where clean pictures are given PSNR and SSIM before and
    after) and `overview.png`.

    Args:
        run, images, clean, progress: as for `denoise`.
        out: the folder to write to, new or empty.
        resume: go on where an interrupted call has stopped.

    Returns:
        The files written with their quality, and what could not be read; None in all processes but the first.

    Raises:
        ValueError: as `denoise` does, and where the folder is not free or was begun with other pictures.
    """
    run, pictures = _checked(run), Pictures(images)
    twins = None if clean is None else _twins(pictures, clean)
    path, files = Path(out), pictures.file_names({"overview.png"})
    settings = {"task": "denoise", "run": run.fingerprint, "clean": twins is not None}
    job = Job(path, pictures.names, settings, resume=resume)
    for found, failures in _denoised(run, pictures, job.waiting, twins, progress):
        for result in found:
            with writing(job.output / files[result.place]) as temporary:
                save_png(temporary, result.output)
        done = {result.place: {} if result.quality is None else asdict(result.quality) for result in found}
        job.write({**done, **{place: {"failure": reason} for place, reason in failures.items()}})
    skipped: list[Skipped] = []
    written: list[tuple[str, Quality | None]] = []

    def write(folder: Path, records: list[dict[str, Any]]) -> None:
        failures = {place: record["failure"] for place, record in enumerate(records) if "failure" in record}
        kept = [place for place in range(len(pictures)) if place not in failures]
        skipped.extend(_skipped(pictures, failures, bool(kept)))
        rows = [{"path": pictures.names[place], "file": files[place], **records[place]} for place in kept]
        with (folder / "results.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        written.extend((files[place], Quality(**records[place]) if records[place] else None) for place in kept)
        shown = [_read_again(run, pictures, twins, folder, files, place, records[place]) for place in kept[:_SHOWN]]
        _overview(shown).savefig(folder / "overview.png", format="png")

    return (written, skipped) if job.finish(write) else None


def _checked(run: str | os.PathLike[str] | TrainedRun) -> TrainedRun:
    run = load_run(run)
    if run.run.image_options.clean is None and run.run.training_options.corruption in ("", "none"):
        raise ValueError(
            f"`run` (={run.path}) was not trained to remove anything: train one with --corrupt, or with --clean."
        )
    return run


def _twins(pictures: Pictures, clean: Any) -> list[Picture]:
    """The clean twin of each picture: of files that with the same name apart from its suffix, of others in order."""
    twins = Pictures(clean, "clean")
    stems, others = ([str(PurePath(label).with_suffix("")) for label in side.labels] for side in (pictures, twins))
    if all(isinstance(picture, Path) for picture in (*pictures.pictures, *twins.pictures)):
        of_stem = dict(zip(others, twins.pictures, strict=True))
        if missing := [name for name, stem in zip(pictures.names, stems, strict=True) if stem not in of_stem]:
            told = ", ".join(map(printable, missing[:3])) + (", ..." if len(missing) > 3 else "")
            raise ValueError(
                f"`clean` must have a picture for each of `images`, of the same name apart from its suffix: "
                f"{len(missing):,} ({told}) have none."
            )
        return [of_stem[stem] for stem in stems]
    if len(twins) != len(pictures):
        raise ValueError(f"`clean` holds {len(twins):,} pictures for {len(pictures):,} in `images`: give one for each.")
    return twins.pictures


def _denoised(
    run: TrainedRun,
    pictures: Pictures,
    places: Sequence[int],
    twins: Sequence[Picture] | None,
    progress: Progress | None,
) -> Iterator[tuple[list[_Result], dict[int, str]]]:
    """Batch by batch the results, and why other pictures could not be read."""
    reader, done = run.reader()._replace(size=None), 0
    for batch in pictures.batches(reader, places):
        results, failures = [], dict(batch.failures)
        outputs = _at_own_size(run, batch.images) if batch.places else batch.images
        for place, original, output in zip(batch.places, batch.images, outputs, strict=True):
            target = None
            if twins is not None:
                try:
                    target = reader.read(twins[place])
                except ImageError as error:
                    failures[place] = f"has a clean twin that {error.reason}"
                    continue
                if target.shape != original.shape:
                    failures[place] = f"has a clean twin of another size, {target.shape[1]}×{target.shape[2]} pixels"
                    continue
            quality = None if target is None else _quality(original, output, target)
            results.append(_Result(place, original, output, target, quality))
        done += len(batch.places) + len(batch.failures)
        if progress is not None:
            progress("denoising", done, len(places))
        yield results, failures


def _at_own_size(run: TrainedRun, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    model, size = run.model, images.shape[-2:]
    restore = partial(reconstruct, model)
    if isinstance(model, ConvAutoencoder) and model.takes_any_size:
        if max(size) <= _TILE:
            return restore(images)
        return tiled(restore, images, tile=_TILE, halo=halo_of(model), multiple=model.downscale)
    if size == model.image_size:
        return restore(images)
    return _stretched(restore(_stretched(images, model.image_size)), size)


def _stretched(images: UInt8[Tensor, "n c h w"], size: Sequence[int]) -> UInt8[Tensor, "n c h w"]:
    shape = images.shape[1], size[0], size[1]
    return torch.stack([decode(image.movedim(0, -1).numpy(), shape, "stretch") for image in images])


def _quality(original: Tensor, output: Tensor, target: Tensor) -> Quality:
    (noisy, restored), clean = (to_float(image[None]) for image in (original, output)), to_float(target[None])
    before, after = (float(psnr((image - clean).square().mean())) for image in (noisy, restored))
    return Quality(before, after, _similarity(noisy, clean), _similarity(restored, clean))


def _similarity(image: Tensor, clean: Tensor) -> float | None:
    """SSIM, of large pictures the mean over tiles: it needs many times the memory of a picture."""
    total, weight = 0.0, 0
    for top in range(0, image.shape[-2], _TILE):
        for left in range(0, image.shape[-1], _TILE):
            parts = [side[..., top : top + _TILE, left : left + _TILE] for side in (image, clean)]
            if (found := ssim(*parts)) is not None:
                total += float(found) * parts[0][0, 0].numel()
                weight += parts[0][0, 0].numel()
    return total / weight if weight else None


def _skipped(pictures: Pictures, failures: dict[int, str], any_result: bool) -> list[Skipped]:
    skipped = pictures.skipped_with(failures)
    if not any_result:
        raise ValueError(f"`{pictures.argument}` hold nothing that can be denoised: {listed(skipped)}.")
    return skipped


def _read_again(
    run: TrainedRun,
    pictures: Pictures,
    twins: Sequence[Picture] | None,
    folder: Path,
    files: Sequence[str],
    place: int,
    record: dict[str, Any],
) -> _Result:
    read: Callable[[Picture], Tensor] = run.reader()._replace(size=None).read
    clean = None if twins is None else read(twins[place])
    quality = Quality(**record) if record else None
    return _Result(place, read(pictures.pictures[place]), read(folder / files[place]), clean, quality)


def _overview(results: Sequence[_Result]) -> Figure:
    def row(images: Sequence[Tensor]) -> list[np.ndarray]:
        return [image.numpy().astype(np.float32) / 255 for image in images]

    rows = {"given": row([result.original for result in results]), "denoised": row([r.output for r in results])}
    notes: dict[str, list[str]] = {}
    if cleans := [result.clean for result in results if result.clean is not None]:
        rows["clean"] = row(cleans)
        qualities = [result.quality for result in results if result.quality is not None]
        notes = {
            "given": [f"{quality.psnr_before:.1f} dB" for quality in qualities],
            "denoised": [f"{quality.psnr_after:.1f} dB" for quality in qualities],
        }
    return figures.denoised(rows, notes)
