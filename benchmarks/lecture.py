"""The lecture's own autoencoder and ours, trained side by side on the same digits.

    python benchmarks/lecture.py [--seeds 3] [--epochs 20]

The yardstick is the net of the course's notebook, trained as it is there: a latent of 2, 200,963 parameters, Adam at
5e-4, batches of 32, 20 epochs, mean squared error. Ours has a latent of 2 as well and fewer parameters, and is trained
by `halfstride.train`. Both see the same 4,000 digits and are tested on the same 1,000; seeds alternate between them,
so that a machine that slows down slows down both. Times are of the whole training, ours with its evaluation after every
epoch, its checkpoints and its metrics; the lecture's without.

The result goes to `benchmarks/results/lecture.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstride import ConvAutoencoder, TrainingOptions, load_images, train
from halfstride.autoencoder.images import Images, to_float
from halfstride.autoencoder.scoring import scores

RESULTS = Path(__file__).parent / "results" / "lecture.json"


class LectureNet(nn.Module):
    """The architecture of the course's notebook."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=1, padding=1),
            nn.LeakyReLU(0.01),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.LeakyReLU(0.01),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.LeakyReLU(0.01),
            nn.Conv2d(64, 64, 3, stride=1, padding=1),
            nn.Flatten(),
            nn.Linear(3136, 2),
        )
        self.decoder = nn.Sequential(
            nn.Linear(2, 3136),
            nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 64, 3, stride=1, padding=1),
            nn.LeakyReLU(0.01),
            nn.ConvTranspose2d(64, 64, 3, stride=2, padding=1),
            nn.LeakyReLU(0.01),
            nn.ConvTranspose2d(64, 32, 3, stride=2, padding=0),
            nn.LeakyReLU(0.01),
            nn.ConvTranspose2d(32, 1, 3, stride=1, padding=0),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))[..., :28, :28].sigmoid()


def train_lecture_net(images: Images, epochs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = LectureNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    for epoch in range(epochs):
        for batch in images.train.batches(32, seed=seed, epoch=epoch, shuffle=True):
            target = to_float(batch).contiguous()  # the notebook knows no channels_last
            loss = F.mse_loss(model(target), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def train_ours(images: Images, epochs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = ConvAutoencoder(28, latent_dim=2, widths=(16, 32, 64), hidden_dim=64)
    with tempfile.TemporaryDirectory() as folder:
        train(model, images, Path(folder) / "run", TrainingOptions(epochs=epochs, seed=seed), progress=False)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()

    images = load_images("digits")
    rows: dict[str, list[dict[str, float]]] = {"lecture": [], "halfstride": []}
    for seed in range(arguments.seeds):
        for name, recipe in (("lecture", train_lecture_net), ("halfstride", train_ours)):
            started = time.perf_counter()
            model = recipe(images, arguments.epochs, seed)
            seconds = time.perf_counter() - started
            tested = scores(model, images.test.batches(250))
            parameters = sum(parameter.numel() for parameter in model.parameters())
            rows[name].append({"test_mse": tested.mse, "seconds": seconds, "parameters": parameters})
            print(
                f"seed {seed}  {name:<10}  test MSE {tested.mse:.4f}  {seconds:6.1f} s  {parameters:,} parameters",
                flush=True,
            )

    means = {
        name: {key: statistics.mean(row[key] for row in runs) for key in ("test_mse", "seconds")}
        for name, runs in rows.items()
    }
    lecture, ours = means["lecture"], means["halfstride"]
    print(
        f"\nmean of {arguments.seeds} seeds: lecture {lecture['test_mse']:.4f}, halfstride {ours['test_mse']:.4f} "
        f"in {ours['seconds'] / lecture['seconds']:.2f} of the lecture net's time"
    )
    result = {
        "runs": rows,
        "mean": means,
        "epochs": arguments.epochs,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
