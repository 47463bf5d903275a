"""What all tests share: property tests that draw the same examples in every run."""

import os

import pytest
import torch
from hypothesis import settings

# The same examples in every run, and no judgement by the clock: a test fails for a reason or not at all.
settings.register_profile("halfstride", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "halfstride"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
