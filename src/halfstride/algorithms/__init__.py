"""A file for each way to compute an upsampling operator.

Every algorithm is a module with the same two functions: `obstacle(case)`, which says why it cannot do a case (None
where it can), and `compute(case, input, weight, bias)` on batched tensors.
"""

from types import ModuleType

from halfstride.algorithms import emulated, native, phases, scatter

__all__ = ["ALGORITHMS"]

ALGORITHMS: dict[str, ModuleType] = {"native": native, "scatter": scatter, "emulated": emulated, "phases": phases}
