"""A planner and a clock by which every rewriting pays, on every machine."""

import pytest

from halfstride._core import planner
from halfstride._core.algorithms import ALGORITHMS
from halfstride.optimizing.example import Example
from halfstride.optimizing.report import Times

_PREFERRED = {"transposed": ("phases", "scatter"), "resize": ("folded", "by_parts", "scatter")}


def prefer(monkeypatch, **preferred):
    """Let the planner choose the first algorithm of a form that can compute the case."""

    def choose(case, algorithm="auto", device="cpu", **_):
        if algorithm != "auto":
            return algorithm
        able = [name for name in preferred.get(case.form, ()) if ALGORITHMS[name].obstacle(case) is None]
        return able[0] if able else "native"

    monkeypatch.setattr(planner, "choose", choose)


@pytest.fixture
def everything_pays(monkeypatch):
    prefer(monkeypatch, **_PREFERRED)
    monkeypatch.setattr(Example, "times", lambda *_: Times(1.0, 0.1))
