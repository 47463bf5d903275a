"""Make a model that exists already faster: `halfstride.optimize`, and `halfstride.tune` for devices without a rule."""

from halfstride.optimizing.optimizer import optimize
from halfstride.optimizing.report import Report, Row, Times
from halfstride.optimizing.tuning import TuningReport, tune

__all__ = ["Report", "Row", "Times", "TuningReport", "optimize", "tune"]
