"""Checkerboards of six ways to upsample, in autoencoders that are otherwise the same, on the digits.

    python benchmarks/checkerboard.py [--seeds 3] [--epochs 8] [--runs DIR]

Transposed convolutions of kernel 3, 4 and 2, nearest-neighbour upsampling with a 3×3 convolution, and 3×3 sub-pixel
convolutions with and without ICNR, all of stride 2, stand in the same decoder and are trained by the same recipe on the
same 4,000 digits. For each of them the learning rate is the best of three on the test error of seed 0; the table then
holds the mean of all seeds at that rate. Of every trained model the doctor tells how uneven its weights are and how
strong a pattern it measures on the 1,000 test images, before and after `cure` on 1,000 of the training images.

Finished trainings in `--runs` are read again, not repeated. The numbers go to `benchmarks/results/checkerboard.json`,
the pictures of docs/checkerboard.md to `docs/images/checkerboard-*.png`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from halfstride import ConvAutoencoder, SubpixelConv2d, TrainingOptions, figures, load_images, to_float, train
from halfstride.autoencoder import Run
from halfstride.autoencoder.images import Images
from halfstride.autoencoder.scoring import scores
from halfstride.checkerboard import UnevenKernelWarning, cure, diagnose

RESULTS = Path(__file__).parent / "results" / "checkerboard.json"
PICTURES = Path(__file__).parent.parent / "docs" / "images"
RATES = (2e-3, 4e-3, 8e-3)
CURES: dict[str, dict[str, Any]] = {
    "equal gains, not fitted": {"method": "equalize", "steps": 0},
    "equalize": {"method": "equalize"},
    "resize": {"method": "resize"},
    "smooth": {"method": "smooth"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "transposed, kernel 3": {"upsampling": "transposed", "kernel_size": 3},
    "transposed, kernel 4": {"upsampling": "transposed", "kernel_size": 4},
    "transposed, kernel 2": {"upsampling": "transposed", "kernel_size": 2},
    "resize-convolution": {"upsampling": "resize", "kernel_size": 3},
    "sub-pixel": {"upsampling": "subpixel", "kernel_size": 3, "icnr": False},
    "sub-pixel, ICNR": {"upsampling": "subpixel", "kernel_size": 3},
}


def build(seed: int, *, icnr: bool = True, **options: Any) -> ConvAutoencoder:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnevenKernelWarning)  # uneven on purpose
        model = ConvAutoencoder(28, latent_dim=32, widths=(16, 32, 64), **options)
    if not icnr:
        for layer in model.modules():
            if isinstance(layer, SubpixelConv2d):  # as torch.nn.Conv2d starts in front of a PixelShuffle
                plain = nn.Conv2d(layer.in_channels, layer.weight.shape[0], layer.kernel_size)
                layer.load_state_dict(plain.state_dict())
    return model


def trained(variant: str, rate: float, seed: int, epochs: int, images: Images, runs: Path) -> ConvAutoencoder:
    folder = runs / f"{variant.replace(', ', '-').replace(' ', '-')}-{rate}-{seed}-{epochs}"
    if not (folder / "done").exists():
        model = build(seed, **VARIANTS[variant])
        train(model, images, folder, TrainingOptions(epochs=epochs, learning_rate=rate, seed=seed), progress=False)
        (folder / "done").touch()
    return Run.open(folder).load_model()


def judged(model: nn.Module, images: Images) -> dict[str, Any]:
    diagnosis = diagnose(model, to_float(images.test.images))
    measured = [part.pattern for part in diagnosis.output if part.pattern is not None]
    return {
        "test_mse": scores(model, images.test.batches(250)).mse,
        "gain_spread": [layer.gain_spread for layer in diagnosis.layers],
        "made": [layer.made or 0.0 for layer in diagnosis.layers],
        "output_strength": diagnosis.strength,
        "output_evidence": max(pattern.evidence for pattern in measured),
    }


def averaged(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Over the seeds; of the layers' numbers, the largest."""
    return {
        key: statistics.mean(max(row[key]) if isinstance(row[key], list) else row[key] for row in rows)
        for key in rows[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--runs", type=Path, default=Path("runs/checkerboard"))
    arguments = parser.parse_args()

    images = load_images("digits")
    examples = to_float(images.train.images[::4])
    result: dict[str, Any] = {"epochs": arguments.epochs, "seeds": arguments.seeds, "variants": {}}
    for variant in VARIANTS:
        sweep = {}
        for rate in RATES:
            model = trained(variant, rate, 0, arguments.epochs, images, arguments.runs)
            sweep[rate] = scores(model, images.test.batches(250)).mse
            print(f"{variant:<22} rate {rate:.0e}  seed 0  test MSE {sweep[rate]:.5f}", flush=True)
        rate = min(sweep, key=lambda rate: sweep[rate])
        fresh, before = [], []
        cured: dict[str, list[dict[str, Any]]] = {}
        for seed in range(arguments.seeds):
            fresh.append(judged(build(seed, **VARIANTS[variant]), images))
            model = trained(variant, rate, seed, arguments.epochs, images, arguments.runs)
            before.append(judged(model, images))
            for name, options in CURES.items():
                if model.upsampling == "transposed" or (
                    model.upsampling == "subpixel" and options["method"] == "equalize"
                ):
                    cured.setdefault(name, []).append(judged(cure(model, examples, **options)[0], images))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        entry = {"parameters": parameters, "rate": rate, "sweep": sweep, "fresh": fresh, "trained": before}
        result["variants"][variant] = {**entry, "cured": cured}
        told = averaged(before)
        print(f"{variant:<22} {parameters:,} parameters, " + ", ".join(f"{k} {v:.5f}" for k, v in told.items()))
        for name, rows in cured.items():
            print(f"  {name:<24} " + ", ".join(f"{k} {v:.5f}" for k, v in averaged(rows).items()), flush=True)
    result["torch"] = torch.__version__
    result["processor"] = platform.processor() or platform.machine()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    draw(result).savefig(PICTURES / "checkerboard-experiment.png")
    draw_doctor().savefig(PICTURES / "checkerboard-doctor.png")
    model = trained("transposed, kernel 3", RATES[0], 0, arguments.epochs, images, arguments.runs)
    _, report = cure(model, to_float(images.test.images))  # for the picture the images shown, for the table others
    figures.cure(report).savefig(PICTURES / "checkerboard-cure.png")
    print()
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The table of the docs."""
    titles = ["upsampling", "parameters", "test MSE", "gain spread", "last layer makes", "in the output", *CURES]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for variant, entry in result["variants"].items():
        errors = [row["test_mse"] for row in entry["trained"]]
        told = averaged(entry["trained"])
        last = statistics.mean(row["made"][-1] for row in entry["trained"])
        costs = [
            f"{averaged(entry['cured'][name])['test_mse'] / statistics.mean(errors) - 1:+.1%}"
            if name in entry["cured"]
            else "-"
            for name in CURES
        ]
        lines.append(
            f"| {variant} | {entry['parameters']:,} | {statistics.mean(errors):.5f} ± {statistics.stdev(errors):.5f} | "
            f"{told['gain_spread']:.2f} | {last:.1%} | {told['output_strength']:.2%} | {' | '.join(costs)} |"
        )
    return "\n".join(lines)


def draw_doctor() -> Figure:
    """What the doctor sees in an untrained generator, of smooth noise."""
    torch.manual_seed(3)
    generator = nn.Sequential(
        nn.ReLU(), nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 3, 2, 1, 1)
    )
    noise = 3 * F.interpolate(torch.randn(16, 32, 3, 3), size=(16, 16), mode="bicubic")
    return figures.diagnosis(diagnose(generator, noise))


def draw(result: dict[str, Any]) -> Figure:
    """Test errors, as trained, with equal gains and fitted; what the last layer makes, fresh and trained."""
    figure = Figure(figsize=(10, 3.6), dpi=150, layout="constrained")
    errors, patterns = figure.subplots(1, 2, sharey=True)
    names = list(result["variants"])
    for place, entry in enumerate(result["variants"].values()):
        for rows, color, label, shift in (
            (entry["trained"], "#c2410c", "as trained", -0.25),
            (entry["cured"].get("equal gains, not fitted", []), "#fdba74", "equal gains in the last layer", 0.0),
            (entry["cured"].get("equalize", []), "#1d4ed8", "and fitted to the original", 0.25),
        ):
            values = [row["test_mse"] for row in rows]
            errors.plot(values, [place + shift] * len(values), "o", color=color, markersize=5, label=label)
        for key, color, label, shift in (
            ("fresh", "#fdba74", "fresh", -0.2),
            ("trained", "#c2410c", "trained", 0.2),
        ):
            made = 100 * statistics.mean(row["made"][-1] for row in entry[key])
            patterns.barh(place + shift, made, height=0.36, color=color, label=label)
            patterns.text(made + 0.5, place + shift, f"{made:.1f}", va="center", fontsize=8)
    errors.set(xlabel="mean squared error on the test images", xscale="log")
    errors.set_yticks(range(len(names)), names)
    errors.invert_yaxis()
    patterns.set_xlabel("pattern that the last layer makes, % of its output's std")
    for axes in (errors, patterns):
        axes.grid(visible=True, axis="x", alpha=0.25)
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        axes.legend(once.values(), once.keys(), frameon=False, fontsize=8, loc="lower right")
        axes.margins(x=0.08)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
