"""A file for each way to compute an upsampling operator.

Every algorithm is a module with the same three functions:

    unsupported_reason(case)              why it cannot compute a case; None where it can
    cost(case)                            the MACs, the memory traffic and the calls
    compute(case, input, weight, bias)    the output, from batched tensors

Output and bias have the dtype of the input. The weight may have a wider one, as under autocast: kernels are formed from
it and rounded once. The other files hold steps of these algorithms: products, packed, volumes, nearest, fused.
"""

from types import ModuleType

from halfstride._core.algorithms import by_parts, emulated, few_outputs, folded, native, phases, scatter

__all__ = ["ALGORITHMS"]

ALGORITHMS: dict[str, ModuleType] = {
    "native": native,
    "scatter": scatter,
    "emulated": emulated,
    "folded": folded,
    "phases": phases,
    "by_parts": by_parts,
    "few_outputs": few_outputs,
}
