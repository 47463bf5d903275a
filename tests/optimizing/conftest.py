"""A planner and a clock by which every rewriting pays, on every machine."""

import pytest

from halfstride import functional
from halfstride._core import planner
from halfstride._core.algorithms import ALGORITHMS
from halfstride.optimizing.example import Example
from halfstride.optimizing.report import Times

_plan = functional._plan.__wrapped__
_PREFERRED = {"transposed": ("phases", "scatter"), "resize": ("folded", "by_parts", "scatter")}


def prefer(monkeypatch, **preferred):
    """Let the planner choose the first algorithm of a form that can compute the case."""

    def choose(case, algorithm="auto", device="cpu", dtype=None, **_):
        if algorithm != "auto":
            return algorithm
        able = [name for name in preferred.get(case.form, ()) if ALGORITHMS[name].unsupported_reason(case) is None]
        return able[0] if able else "native"

    monkeypatch.setattr(planner, "choose", choose)
    monkeypatch.setattr(functional, "_plan", _plan)  # not cached: the planner chooses otherwise in other tests


@pytest.fixture
def everything_pays(monkeypatch):
    prefer(monkeypatch, **_PREFERRED)
    monkeypatch.setattr(Example, "times", lambda *_: Times(1.0, 0.1))
