"""Short command lines, and pictures for them."""

import numpy as np
from PIL import Image

QUICK = ["--steps", "3", "--width", "8", "--blocks", "0", "--batch-size", "8"]

VECTOR = [*QUICK, "--latent", "vector", "--latent-dim", "4"]

ENCODER = (
    "from torch import nn\n"
    "def make():\n"
    "    return nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8))\n"
    "def other():\n"
    "    return nn.Sequential(nn.Conv2d(3, 2, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(18, 8))\n"
    "def flat():\n"
    "    return nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(0))\n"
)


def pairs(tmp_path, missing=()):
    generator = np.random.default_rng(1)
    for number in range(20):
        clean = generator.integers(60, 190, (12, 12, 3), dtype=np.uint8)
        noisy = (clean + generator.integers(0, 60, clean.shape)).astype(np.uint8)
        for folder, pixels in (("clean", clean), ("noisy", noisy)):
            (tmp_path / folder).mkdir(exist_ok=True)
            if number not in missing or folder == "noisy":
                Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
