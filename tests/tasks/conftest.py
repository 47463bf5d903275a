"""What the tests of the tasks share: tiny trained runs, and pictures."""

import numpy as np
import pytest
from PIL import Image

from halfstride.autoencoder import load_images
from halfstride.tasks import load_run
from small_training import pictures, small_model, small_training


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Runs with a latent map and with a vector, of grey images of 16×20, both trained to remove noise."""
    place = tmp_path_factory.mktemp("runs")
    images = load_images(pictures(40, shape=(16, 20)))
    for latent in ("map", "vector"):
        model = small_model(latent, (16, 20), latent_dim=2 if latent == "map" else 4)
        small_training(place / latent, model, images, corruption="gaussian:0.1", steps=16, crop=None)
    return {latent: load_run(place / latent) for latent in ("map", "vector")}


@pytest.fixture
def folder(tmp_path):
    """Two classes of pictures, two of one name in different folders, and a damaged one."""
    for number, pixels in enumerate(pictures(12, seed=1, shape=(16, 20))):
        path = tmp_path / "photos" / ("cats", "dogs")[number % 2] / f"{number // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "photos" / "dogs" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    return tmp_path / "photos"


@pytest.fixture
def scene():
    """A picture of 77×102 with structure everywhere."""
    generator = np.random.default_rng(3)
    rows, columns = np.mgrid[0:77, 0:102]
    waves = np.sin(rows / 5) * np.cos(columns / 7) + 0.3 * generator.normal(size=(77, 102))
    return (127 + 60 * waves).clip(0, 255).astype(np.uint8)
