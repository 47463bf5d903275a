"""The autoencoder's own training, by what brings the image back: images per second of each way to upsample.

    python -m benchmarks.autoencoder [--rounds 7] [--epochs 1]

The model of `halfstride train` as it is, with `"subpixel"` layers, with `"resize"` and `"transposed"` ones, and the
latter once more as torch computes them (`algorithm="native"`). In every round each is trained on the digits for some
epochs by `halfstride.train`, in an order drawn anew; scorings and checkpoints are not in the time. A ratio to the model
as it is is taken round by round, and reported as the median with quartiles; one round goes before them unmeasured.

The result goes to `benchmarks/results/autoencoder.json`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

import torch

from benchmarks.report import spread
from halfstride import ConvAutoencoder, TrainingOptions, load_images, train
from halfstride.autoencoder.blocks import Upsampling
from halfstride.autoencoder.images import Images

RESULTS = Path(__file__).parent / "results" / "autoencoder.json"
VARIANTS: dict[str, tuple[Upsampling, str]] = {
    "subpixel": ("subpixel", "auto"),
    "resize": ("resize", "auto"),
    "transposed": ("transposed", "auto"),
    "transposed, native": ("transposed", "native"),
}


def images_per_second(variant: str, images: Images, epochs: int) -> float:
    torch.manual_seed(0)
    upsampling, algorithm = VARIANTS[variant]
    model = ConvAutoencoder(28, latent_dim=32, upsampling=upsampling)
    for layer in model.modules():
        if hasattr(layer, "algorithm"):
            layer.algorithm = algorithm
    with tempfile.TemporaryDirectory() as folder:
        scorings = train(model, images, Path(folder) / "run", TrainingOptions(epochs=epochs), progress=False)
    return epochs * len(images.train) / sum(entry["seconds"] for entry in scorings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()

    images, order = load_images("digits"), random.Random(0)
    rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(arguments.rounds + 1):
        for variant in order.sample(list(VARIANTS), len(VARIANTS)):
            rate = images_per_second(variant, images, arguments.epochs)
            if number:
                rates[variant].append(rate)
                print(f"round {number}  {variant:<20}{rate:8.0f} images/s", flush=True)
    ratios = {}
    for variant in list(VARIANTS)[1:]:
        of_rounds = [one / other for one, other in zip(rates[variant], rates["subpixel"], strict=True)]
        ratio = spread(of_rounds)
        ratios[f"{variant} over subpixel"] = ratio._asdict()
        print(f"{variant} over subpixel: {ratio}")
    result = {
        "images_per_second": rates,
        "ratios": ratios,
        "epochs": arguments.epochs,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
