"""A detector of anomalib, trained from scratch for some CPU time; run in an environment of its own.

    python -m venv peers && peers/bin/pip install -c constraints.txt torch torchvision "anomalib==2.7.0"
    peers/bin/python -m benchmarks.detection_peer draem --images IMAGES.npz --cpu-seconds 300 --out SCORES.npz

The networks, losses, optimizers' settings and (for DRAEM) painted anomalies are anomalib's; the loop is ours, since
anomalib's counts epochs. IMAGES.npz holds `train`, `test` and `sources` (pictures that DRAEM paints, in place of the
data set that anomalib downloads), all N×H×W of uint8. SCORES.npz then holds `scores` N and, of DRAEM, `maps` N×H×W.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks.models import make_torchvision_importable

_BATCH = {"draem": 8, "ganomaly": 32}
Step = Callable[[Tensor], None]


def draem(sources: np.ndarray, folder: Path) -> tuple[nn.Module, Step]:
    """The model, and a training step."""
    from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
    from anomalib.models.image.draem.loss import DraemLoss
    from anomalib.models.image.draem.torch_model import DraemModel
    from torchvision import io

    # The compiled half of torchvision, which reads files, need not be there.
    io.read_image = lambda path, mode: torch.from_numpy(np.array(Image.open(path).convert("RGB"))).movedim(-1, 0)
    for number, image in enumerate(sources):
        Image.fromarray(image).convert("RGB").save(folder / f"{number}.png")
    model, loss, paint = DraemModel(), DraemLoss(), PerlinAnomalyGenerator(folder, blend_factor=(0.1, 1.0))
    optimizer = Adam(model.parameters(), lr=1e-4)

    def step(images: Tensor) -> None:
        painted, masks = paint(images)
        reconstructions, predictions = model(painted)
        optimizer.zero_grad()
        loss(images, reconstructions, masks, predictions).backward()
        optimizer.step()

    return model, step


def ganomaly(sources: np.ndarray, folder: Path) -> tuple[nn.Module, Step]:
    """The model, and a training step."""
    from anomalib.models.image.ganomaly.loss import DiscriminatorLoss, GeneratorLoss
    from anomalib.models.image.ganomaly.torch_model import GanomalyModel

    model = GanomalyModel(sources.shape[1:], num_input_channels=3, n_features=64, latent_vec_size=100)
    generator_loss, discriminator_loss = GeneratorLoss(1, 50, 1), DiscriminatorLoss()
    discriminating, generating = (
        Adam(part.parameters(), lr=2e-4, betas=(0.5, 0.999)) for part in (model.discriminator, model.generator)
    )

    def step(images: Tensor) -> None:
        padded, fake, latent, latent_of_fake = model(images)
        real, _ = model.discriminator(padded)
        judged, _ = model.discriminator(fake)
        generating.zero_grad()
        generator_loss(latent, latent_of_fake, padded, fake, real, judged).backward(retain_graph=True)
        generating.step()
        judged, _ = model.discriminator(fake.detach())
        discriminating.zero_grad()
        discriminator_loss(real, judged).backward()
        discriminating.step()

    return model, step


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detection_peer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=list(_BATCH))
    parser.add_argument("--images", type=Path, required=True, help="train, test and sources")
    parser.add_argument("--cpu-seconds", type=float, required=True, help="of training")
    parser.add_argument("--out", type=Path, required=True, help="scores and maps")
    arguments = parser.parse_args()
    make_torchvision_importable()
    torch.manual_seed(0)
    arrays = np.load(arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        model, step = {"draem": draem, "ganomaly": ganomaly}[arguments.name](arrays["sources"], Path(folder))
        generator, train = np.random.default_rng(0), _three_channels(arrays["train"])
        model.train()
        steps, started = 0, time.process_time()
        while time.process_time() - started < arguments.cpu_seconds:
            step(train[generator.choice(len(train), _BATCH[arguments.name], replace=False)])
            steps += 1
    model.eval()
    with torch.inference_mode():
        found = [model(batch) for batch in _three_channels(arrays["test"]).split(16)]
    results = {"scores": torch.cat([each.pred_score for each in found]).flatten().numpy(), "steps": np.array(steps)}
    if found[0].anomaly_map is not None:
        results["maps"] = torch.cat([each.anomaly_map for each in found]).numpy()
    np.savez(arguments.out, **results)


def _three_channels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images)[:, None].repeat(1, 3, 1, 1).float() / 255


if __name__ == "__main__":
    main()
