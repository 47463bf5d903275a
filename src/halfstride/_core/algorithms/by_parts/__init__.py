"""Summation by parts: resize-convolutions with fewer multiplications.

`operator` is the algorithm with its gradients, `plan` decides which products are made, `steps` adds them up; `fused`
is the same by the loops of `halfstride-kernels`, which follow a `program`.
"""

from halfstride._core.algorithms.by_parts.operator import compute, cost, gradients, is_fused, unsupported_reason

__all__ = ["compute", "cost", "gradients", "is_fused", "unsupported_reason"]
