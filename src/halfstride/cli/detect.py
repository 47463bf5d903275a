"""`halfstride fit-detector` and `detect`: which pictures are unlike the good ones, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halfstride.cli.app import app, make_console
from halfstride.cli.console import Device, Encoder, RunFolder, as_json, progress_bar, show_skipped, tell

if TYPE_CHECKING:
    from rich.console import Console

    from halfstride.tasks import FittedDetector
    from halfstride.tasks.detection.files import DetectedFiles

_NEW_IMAGES = 1_000  # for which a fitted threshold says what to expect


@app.command("fit-detector")
def fit_detector(
    run: RunFolder,
    good: Annotated[
        Path | None, typer.Argument(help="A folder of good pictures. By default those that the run was trained on.")
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(help="Share of good pictures that may be called anomalous, such as 0.01.")
    ] = 0.01,
    own_size: Annotated[
        bool,
        typer.Option("--own-size", help="Leave pictures at their own size (runs with a latent map), here and later."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the synthetic defects.")] = 0,
    encoder: Encoder = None,
    device: Device = "auto",
) -> None:
    """Fit a detector to good pictures, for `halfstride detect`; `train` has done it with those of the training.

    Example:
      halfstride fit-detector runs/parts good/ --false-alarms 0.05
    """
    from halfstride.autoencoder.devices import within_memory
    from halfstride.tasks import fit_detector as fit
    from halfstride.tasks import load_run

    console = make_console()
    opened = load_run(run, device=device, encoder=encoder)
    with progress_bar() as report, within_memory(None):
        fitted = fit(opened, good, false_alarms=false_alarms, own_size=own_size, seed=seed, progress=report)
    show_skipped(console, fitted.skipped)
    show_detector(console, fitted)
    tell(console, f"Next: halfstride detect {run} PICTURES/ --out found/")


def show_detector(console: Console, fitted: FittedDetector) -> None:
    """What a fitted detector can be expected to find, and not to."""
    threshold, on = fitted.threshold, fitted.fitted_on
    low, high = threshold.interval(_NEW_IMAGES)
    tell(
        console,
        f"Detector fitted on {on.total:,} good images ({on.source}); threshold {threshold.value:.2f}, set on "
        f"{threshold.images:,} others: of {_NEW_IMAGES:,} new good images {low:,} to {high:,} will lie above it.",
    )
    if on.self_test:
        tell(console, f"Of discs painted on good images it finds {_self_tested(fitted)}.")
    for warning in fitted.warnings:
        tell(console, f"warning: {warning}", style="yellow")


def _self_tested(fitted: FittedDetector) -> str:
    """From which diameter on at least nine of ten are found, for each contrast."""
    found = fitted.fitted_on.self_test
    told = []
    for contrast in sorted({contrast for _, contrast, _ in found}, reverse=True):
        shares = sorted((size, share) for size, each, share in found if each == contrast)
        enough = next((size for i, (size, _) in enumerate(shares) if all(s >= 0.9 for _, s in shares[i:])), None)
        least = f"from {enough} pixels on" if enough else f"{shares[-1][1]:.0%} at {shares[-1][0]} pixels"
        told.append(f"{least} at a contrast of {contrast:.0%}")
    return "; ".join(told)


@app.command()
def detect(
    run: RunFolder,
    images: Annotated[
        list[Path] | None, typer.Argument(help="Pictures, or folders of them; of a folder with `test` in it, that.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to, new or empty.")] = Path("detected"),
    false_alarms: Annotated[
        float | None, typer.Option(help="Share of good pictures that may be called anomalous. By default as fitted.")
    ] = None,
    normal_dir: Annotated[Path | None, typer.Option(help="A folder of pictures that are known to be normal.")] = None,
    abnormal_dir: Annotated[Path | None, typer.Option(help="A folder of pictures known to be anomalous.")] = None,
    mask_dir: Annotated[
        Path | None, typer.Option(help="Masks of defects. By default in ground_truth beside test, as MVTec AD has it.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 where anything is anomalous, 3 where a picture has no label.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same command was interrupted.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    encoder: Encoder = None,
    device: Device = "auto",
) -> None:
    """Find the pictures that are unlike the good ones, and the places in them.

    Writes results.csv and results.jsonl, an anomaly map over each picture (maps/, all on one scale), masks/,
    overview.png with the highest scores, and scores.png. Where folders tell which pictures are good, metrics.json says
    how well the detector does.

    Examples:
      halfstride detect runs/parts new/ --out found/
      halfstride detect runs/parts bottle/ --out bottle-found/
      halfstride detect runs/parts new/ --check
    """
    from halfstride.autoencoder.devices import within_memory
    from halfstride.tasks import load_run
    from halfstride.tasks.detection.files import detect_files

    console = make_console(stderr=json)
    opened = load_run(run, device=device, encoder=encoder)
    with progress_bar() as report, within_memory(None):
        found = detect_files(
            opened,
            images or [],
            out,
            false_alarms=false_alarms,
            normal=normal_dir,
            abnormal=abnormal_dir,
            masks=mask_dir,
            resume=resume,
            progress=report,
        )
    if found is None:  # another process of a distributed job has written
        return
    show_skipped(console, found.skipped)
    if json:
        typer.echo(as_json(_summary(found)))
    else:
        _show(console, found, run, out)
    if check and found.unjudged:
        raise typer.Exit(3)
    if check and found.anomalous:
        raise typer.Exit(1)


def _show(console: Console, found: DetectedFiles, run: Path, out: Path) -> None:
    judged = found.anomalous + found.normal
    unjudged = f"; {found.unjudged:,} without a label, see results.csv" if found.unjudged else ""
    tell(
        console,
        f"{found.anomalous:,} of {judged:,} pictures are anomalous (score above "
        f"{found.fitted.threshold.value:.2f}){unjudged}.",
        style="bold",
    )
    for path, score in found.worst:
        tell(console, f"  {score:6.2f}  {path}")
    if metrics := found.metrics:
        parts = [
            ("image AUROC", metrics.image_auroc), ("average precision", metrics.average_precision),
            ("F1 at the threshold", metrics.f1), ("pixel AUROC", metrics.pixel_auroc), ("AUPRO", metrics.aupro),
        ]  # fmt: skip
        tell(console, ", ".join(f"{name} {value:.3f}" for name, value in parts if value is not None) + ".")
        tell(
            console,
            f"{metrics.false_alarms:,} of {metrics.normal:,} normal pictures lie above the threshold, "
            f"{metrics.missed:,} of {metrics.anomalous:,} anomalous ones below.",
        )
    tell(console, f"Look at {out / 'overview.png'}; all results are in {out / 'results.csv'}.")
    tell(console, f"To label them: halfstride studio {run}, page Detection.")


def _summary(found: DetectedFiles) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "anomalous": found.anomalous,
        "normal": found.normal,
        "unjudged": found.unjudged,
        "threshold": found.fitted.threshold.value,
        "metrics": None if found.metrics is None else asdict(found.metrics),
        "worst": [{"path": path, "pred_score": score} for path, score in found.worst],
    }
