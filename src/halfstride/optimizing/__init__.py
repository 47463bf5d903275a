"""Make a model that exists already faster: `halfstride.optimize`."""

from halfstride.optimizing.optimizer import optimize
from halfstride.optimizing.report import Report, Row, Times

__all__ = ["Report", "Row", "Times", "optimize"]
