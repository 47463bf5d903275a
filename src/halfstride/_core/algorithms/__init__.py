"""A file for each way to compute an upsampling operator.

Every algorithm is a module with the same three functions:

    obstacle(case)                        why it cannot compute a case; None where it can
    cost(case)                            the products and the memory traffic that it would need
    compute(case, input, weight, bias)    the output, from batched tensors

Output and bias have the type of the input. The weight may have a wider one, as under autocast: kernels are formed from
it as it is, and rounded once.
"""

from types import ModuleType

from halfstride._core.algorithms import by_parts, emulated, folded, native, phases, scatter

__all__ = ["ALGORITHMS"]

ALGORITHMS: dict[str, ModuleType] = {
    "native": native,
    "scatter": scatter,
    "emulated": emulated,
    "folded": folded,
    "phases": phases,
    "by_parts": by_parts,
}
