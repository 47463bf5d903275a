"""Summation by parts: resize-convolutions with fewer multiplications.

`operator` is the algorithm with its gradients, `plan` decides which products are made, `steps` adds them up.
"""

from halfstride._core.algorithms.by_parts.operator import compute, cost, gradients, unsupported_reason

__all__ = ["compute", "cost", "gradients", "unsupported_reason"]
