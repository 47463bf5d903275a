"""Checkerboards of six ways to upsample, in autoencoders that are otherwise the same, on the digits.

    python benchmarks/checkerboard.py [--seeds 3] [--epochs 8] [--runs DIR]

Transposed convolutions of kernel 3, 4 and 2, nearest-neighbour upsampling with a 3×3 convolution, and 3×3 sub-pixel
convolutions with and without ICNR, all of stride 2, stand in the same small decoder and are trained by the same loop
on the same 4,000 digits. The autoencoder is one of this file: `ConvAutoencoder` enlarges by 4 in its last layer. For
each of them the learning rate is the best of three on the test error of seed 0; the table then holds the mean of all
seeds at that rate. Of every trained model the doctor tells how uneven its weights are and how strong a pattern it
measures on the 1,000 test images, before and after `cure` on 1,000 of the training images.

Finished trainings in `--runs` are read again, not repeated. The numbers go to `benchmarks/results/checkerboard.json`,
the pictures of docs/notes/doctor.md to `docs/images/checkerboard-*.png`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from halfstride import ConvTranspose2d, ResizeConv2d, SubpixelConv2d, figures, load_images, to_float
from halfstride.autoencoder.images.splits import MemorySplit
from halfstride.autoencoder.scoring import scores
from halfstride.checkerboard import cure, diagnose

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


class Autoencoder(nn.Module):
    """Halves and doubles the size by layers of stride 2, with `GroupNorm` and SiLU between them.

    Args:
        upsampling: `"transposed"`, `"resize"` or `"subpixel"`.
        kernel_size: of the layers that upsample.
        widths: channels at each level, the largest features first.
        image_size: height and width of grey images.
        latent_dim: length of the code.
    """

    def __init__(
        self,
        upsampling: Literal["transposed", "resize", "subpixel"],
        kernel_size: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        image_size: int = 28,
        latent_dim: int = 32,
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        levels = list(itertools.pairwise((1, *widths)))
        self.sizes = [-(-image_size // 2**level) for level in range(len(widths))]
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(above, below, 3, stride=2, padding=1), _group_norm(below), nn.SiLU())
            for above, below in levels
        )
        self.up = nn.ModuleList(
            nn.Sequential(_group_norm(below), nn.SiLU(), _upsampling_layer(below, above, upsampling, kernel_size))
            for above, below in reversed(levels)
        )
        smallest = -(-image_size // 2 ** len(widths))
        features = widths[-1] * smallest**2
        self.to_latent = nn.Sequential(nn.Flatten(), nn.Linear(features, latent_dim))
        self.from_latent = nn.Sequential(
            nn.Linear(latent_dim, features), nn.Unflatten(1, (widths[-1], smallest, smallest))
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        features = images
        for block in self.down:
            features = block(features)
        features = self.from_latent(self.to_latent(features)).contiguous(memory_format=torch.channels_last)
        for block, size in zip(self.up, reversed(self.sizes), strict=True):
            features = block(features)[..., :size, :size]
        return features.sigmoid()


def _upsampling_layer(inputs: int, outputs: int, upsampling: str, kernel_size: int) -> nn.Module:
    if upsampling == "transposed":
        odd = kernel_size % 2
        return ConvTranspose2d(inputs, outputs, kernel_size, 2, padding=(kernel_size - 1) // 2, output_padding=odd)
    return {"resize": ResizeConv2d, "subpixel": SubpixelConv2d}[upsampling](inputs, outputs, kernel_size)


def _group_norm(channels: int) -> nn.GroupNorm:
    """Groups of four channels, at most eight."""
    return nn.GroupNorm(min(channels // 4, 8), channels)


def build(seed: int, *, icnr: bool = True, **options: Any) -> Autoencoder:
    torch.manual_seed(seed)
    model = Autoencoder(**options)
    if not icnr:
        for layer in model.modules():
            if isinstance(layer, SubpixelConv2d):  # as torch.nn.Conv2d starts in front of a PixelShuffle
                plain = nn.Conv2d(layer.in_channels, layer.weight.shape[0], layer.kernel_size)
                layer.load_state_dict(plain.state_dict())
    return model


def digits() -> tuple[MemorySplit, MemorySplit]:
    """The 4,000 digits to train on, in the order of the data set, and the 1,000 to test on."""
    images = load_images("digits")
    parts = [image for part in (images.train, images.validation) for image in zip(part.names, part.images, strict=True)]
    parts.sort(key=lambda part: int(part[0].split()[-1]))  # "image 17"
    return MemorySplit(torch.stack([image for _, image in parts])), MemorySplit(images.test.images)


def train(model: nn.Module, images: MemorySplit, epochs: int, rate: float, seed: int) -> None:
    """AdamW in batches of 32; the rate rises over a tenth of the steps and falls to zero on a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.05, fused=True)
    steps = epochs * -(-len(images) // 32)
    warm_up = max(1, round(steps / 10))
    step = 0
    model.train()
    for epoch in range(epochs):
        for batch in images.batches(32, seed=seed, epoch=epoch, shuffle=True):
            share = (step + 1) / warm_up
            if step >= warm_up:
                share = 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))
            optimizer.param_groups[0]["lr"] = rate * share
            target = to_float(batch)
            F.mse_loss(model(target), target).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    model.eval()


def trained(variant: str, rate: float, seed: int, epochs: int, images: MemorySplit, runs: Path) -> Autoencoder:
    path = runs / f"{variant.replace(', ', '-').replace(' ', '-')}-{rate}-{seed}-{epochs}.safetensors"
    model = build(seed, **VARIANTS[variant])
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    train(model, images, epochs, rate, seed)
    runs.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, unfinished)
    unfinished.rename(path)
    return model


def judged(model: nn.Module, test: MemorySplit) -> dict[str, Any]:
    diagnosis = diagnose(model, to_float(test.images))
    measured = [part.pattern for part in diagnosis.output if part.pattern is not None]
    return {
        "test_mse": scores(model, test.batches(250)).mse,
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

    images, test = digits()
    examples = to_float(images.images[::4])
    result: dict[str, Any] = {"epochs": arguments.epochs, "seeds": arguments.seeds, "variants": {}}
    for variant in VARIANTS:
        sweep = {}
        for rate in RATES:
            model = trained(variant, rate, 0, arguments.epochs, images, arguments.runs)
            sweep[rate] = scores(model, test.batches(250)).mse
            print(f"{variant:<22} rate {rate:.0e}  seed 0  test MSE {sweep[rate]:.5f}", flush=True)
        rate = min(sweep, key=lambda rate: sweep[rate])
        fresh, before = [], []
        cured: dict[str, list[dict[str, Any]]] = {}
        for seed in range(arguments.seeds):
            fresh.append(judged(build(seed, **VARIANTS[variant]), test))
            model = trained(variant, rate, seed, arguments.epochs, images, arguments.runs)
            before.append(judged(model, test))
            for name, options in CURES.items():
                if model.upsampling == "transposed" or (
                    model.upsampling == "subpixel" and options["method"] == "equalize"
                ):
                    cured.setdefault(name, []).append(judged(cure(model, examples, **options)[0], test))
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
    _, report = cure(model, to_float(test.images))  # for the picture the images shown, for the table others
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
