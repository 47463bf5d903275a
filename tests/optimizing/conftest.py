"""A planner and a clock by which every rewriting pays, on every machine."""

import pytest
from models_to_optimize import PREFERRED, prefer

from halfstride.optimizing.example import Example
from halfstride.optimizing.report import Times


@pytest.fixture
def everything_pays(monkeypatch):
    prefer(monkeypatch, **PREFERRED)
    monkeypatch.setattr(Example, "times", lambda *_: Times(1.0, 0.1))
