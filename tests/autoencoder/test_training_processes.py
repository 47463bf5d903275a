"""Two processes train as one: the same curve and the same weights, whatever is random and however shares come out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from halfstride.autoencoder import Run, load_images
from small_training import RANDOM, pictures, small_model, small_training

# Each case: arguments of the model, number and size of the images, options.
CASES = {
    "vector, uneven last batch": ({"variational": True, "downscale": 8}, 51, (9, 11), {**RANDOM, "shift": 1}),
    "map in crops": (
        {"latent": "map", "variational": True, "size": (20, 24)},
        33,
        (20, 24),
        {**RANDOM, "crop": 12, "jitter": 0.3},
    ),
    "fewer images than a batch": ({"latent": "map", "downscale": 8}, 12, (9, 11), {"batch_size": 32, "loss": "sharp"}),
    "one image in the step": ({"latent": "map", "downscale": 8}, 3, (9, 11), {"batch_size": 2, "loss": "bce"}),
}


def train_case(name, folder, resume=False):
    arguments, count, shape, options = CASES[name]
    model = small_model(**arguments)
    return small_training(
        Path(folder, name), model, load_images(pictures(count, shape=shape)), **{**options, "steps": 9}
    )


JOB = """
import sys
sys.path[:0] = [{tests!r}, {here!r}]
from test_training_processes import CASES, train_case
from accelerate import Accelerator
end = Accelerator.end_training
Accelerator.end_training = lambda self: None  # a job can begin only once; all cases in one save time
for number, name in enumerate(CASES):
    if number == len(CASES) - 1:
        Accelerator.end_training = end
    train_case(name, {folder!r})
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Runs of all cases by two processes."""
    folder = tmp_path_factory.mktemp("together")
    here = Path(__file__).parent
    file = folder / "job.py"
    file.write_text(JOB.format(tests=str(here.parent), here=str(here), folder=str(folder)))
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(file)],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_curve_of_one(together, tmp_path, name):
    one = train_case(name, tmp_path)
    two = Run.open(together / name).metrics
    assert len(two) == len(one) == 9
    for entry, expected in zip(two, one, strict=True):
        assert entry["epoch"] == expected["epoch"]
        for key in ("train_mse", "validation_mse", "validation_loss", "test_mse"):
            assert entry[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), (key, entry["step"])
        assert entry["test_psnr"] == pytest.approx(expected["test_psnr"], abs=1e-2)
        assert (entry["test_ssim"] is None) == (expected["test_ssim"] is None)
    weights = Run.open(tmp_path / name).load_model().state_dict()
    for key, value in Run.open(together / name).load_model().state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=1e-2, atol=1e-3)
