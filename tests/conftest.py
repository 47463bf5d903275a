"""What all tests share: property tests that draw the same examples in every run."""

import os

# One thread for each worker, and for what it starts: two workers with two threads each, on two cores, wait for each
# other most of the time. Read when torch is first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings

# The same examples in every run, and no judgement by the clock: a test fails for a reason or not at all.
settings.register_profile("halfstride", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "halfstride"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
