"""Every private or version-dependent call of torch, one function each.

The docstring of each function says what it does and what breaks in halfstride if torch changes it. No other file of
the package names a private module or attribute of torch; tests hold both.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import CodeType
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import Function, forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = [
    "ConvTransposeNd",
    "builtin_pad",
    "compile_with_inductor",
    "convolution_gradients",
    "cpu_features",
    "disable_torch_dispatch",
    "disable_torch_function",
    "disable_torch_function_subclass",
    "forbid_memory_access",
    "function_modes",
    "has_onednn_operators",
    "has_saved_tensor_hooks",
    "has_unbacked_symbols",
    "is_captured",
    "is_compiling",
    "is_device_mode",
    "is_exporting",
    "is_fixed",
    "is_functional",
    "is_higher_order",
    "is_jit_traced",
    "is_onednn_enabled",
    "is_traced",
    "is_transformed",
    "load_operators",
    "make_wrapper",
    "module_call_code",
    "onednn_add_conv",
    "onednn_conv",
    "onednn_conv_transpose",
    "onednn_pack",
    "onednn_pack_transposed",
    "record_function",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "uncompiled",
    "version_of",
]

ConvTransposeNd = torch.nn.modules.conv._ConvTransposeNd  # the base of halfstride.ConvTranspose1d/2d/3d

# Who records what is done ---------------------------------------------------------------------------------------------


def is_compiling() -> bool:
    """Whether torch.compile or torch.export traces; if this breaks, compiled layers lose their operators and loops."""
    return torch.compiler.is_compiling()


def is_exporting() -> bool:
    """Whether torch.export or the ONNX exporter traces; if this breaks, exported models hold operators of ours."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def is_jit_traced() -> bool:
    """Whether torch.jit.trace traces, where sizes are tensors; if this breaks, traced layers fail on their sizes."""
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None


def is_captured() -> bool:
    """Whether a compiler, exporter or torch.jit.trace traces; if this breaks, symbolic sizes enter our caches."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def is_traced() -> bool:
    """Whether a tracer or dispatch mode sees each operator; if this breaks, cached kernels hide operators from it."""
    return is_captured() or is_in_torch_dispatch_mode()


def is_transformed() -> bool:
    """Whether torch.func or forward-mode AD is active; if this breaks, vmap and jvp of layers fail."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def has_saved_tensor_hooks() -> bool:
    """Whether hooks on saved tensors are active; if this breaks, `optimize` fails under gradient checkpointing."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def has_unbacked_symbols(value: Any) -> bool:
    """Whether a size is unknown until run time; if this breaks, the compile backend raises on such graphs."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return bool(free_unbacked_symbols(value))


def is_fixed(size: int) -> bool:
    """Whether a compiler knows a size; if this breaks, compiling layers whose sizes may change takes seconds each."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return bool(statically_known_true(size < 2**30))


# Autograd -------------------------------------------------------------------------------------------------------------


def record_function(function: type[Function], *arguments: Any) -> Any:
    """`function.apply` outside of torch.func, 45 µs cheaper; if this breaks, training by parts and scatter fails."""
    return super(Function, function).apply(*unwrap_dead_wrappers(arguments))  # type: ignore[misc]


def version_of(tensor: Tensor) -> int | None:
    """The number of in-place changes, None in inference mode; if this breaks, cached kernels may be stale."""
    return None if tensor.is_inference() else tensor._version


def convolution_gradients(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor,
    geometry: tuple[Sequence[int], Sequence[int], Sequence[int], int],
    *,
    of_weight: bool,
) -> Tensor:
    """The gradient of a convolution's input or weight, by stride, padding, dilation and groups; if this breaks,
    transposed convolutions of volumes and the weight's gradient by parts fail."""
    *sizes, groups = geometry
    padding = [0] * (input.dim() - 2)
    wanted = [not of_weight, of_weight, False]
    gradients = torch.ops.aten.convolution_backward(
        gradient, input, weight, None, *sizes, False, padding, groups, wanted
    )
    result: Tensor = gradients[int(of_weight)]
    return result


# oneDNN ---------------------------------------------------------------------------------------------------------------


def cpu_features() -> Mapping[str, Any]:
    """What the processor can do, by name; if this breaks, oneDNN is not used for matrix products with AVX-512."""
    ask: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return ask()


def is_onednn_enabled() -> bool:
    """Whether torch's convolutions may use oneDNN; if this breaks, every layer on a processor fails."""
    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)  # type: ignore[no-untyped-call]


def has_onednn_operators() -> bool:
    """Whether this build has the oneDNN operators below; if this breaks, layers on a processor become slower."""
    return hasattr(torch.ops.mkldnn, "_reorder_convolution_transpose_weight")


def onednn_pack(weight: Tensor, geometry: Sequence[Any], input_shape: Sequence[int]) -> Tensor:
    """The weight in oneDNN's order, by padding, stride, dilation and groups; if this breaks, inference by parts and
    scatter fails."""
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, input_shape)
    return packed


def onednn_pack_transposed(weight: Tensor, geometry: Sequence[Any], input_shape: Sequence[int]) -> Tensor:
    """The weight in oneDNN's order, by padding, output_padding, stride, dilation and groups; if this breaks,
    transposed convolutions in inference fail."""
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_transpose_weight(weight, *geometry, input_shape)
    return packed


def onednn_conv(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Sequence[Any]) -> Tensor:
    """A convolution with a weight that may be packed; if this breaks, inference by parts and scatter fails."""
    output: Tensor = torch.ops.mkldnn._convolution_pointwise(input, weight, bias, *geometry, "none", [], "")
    return output


def onednn_add_conv(
    summand: Tensor, input: Tensor, weight: Tensor, geometry: Sequence[Any], *, in_place: bool
) -> Tensor:
    """A convolution added to a summand, in place if wanted; if this breaks, inference and training by parts fail."""
    options = (weight, None, *geometry, "add", None, None, [], None)
    if in_place:
        torch.ops.mkldnn._convolution_pointwise_(summand, input, *options)
        return summand
    output: Tensor = torch.ops.mkldnn._convolution_pointwise(input, summand, *options)
    return output


def onednn_conv_transpose(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Sequence[Any]) -> Tensor:
    """A transposed convolution with a packed weight; if this breaks, transposed convolutions in inference fail."""
    output: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(input, weight, bias, *geometry, "none", [], "")
    return output


# Libraries of operators ----------------------------------------------------------------------------------------------


def load_operators(library: Any, name: str) -> Any:
    """The operators that a library registers by a name; if this breaks, halfstride-kernels are not used."""
    torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    return getattr(torch.ops, name)


# Modes and subclasses, for `optimize` and the compile backend ---------------------------------------------------------


def function_modes() -> list[Any]:
    """The active torch function modes; if this breaks, modules inside an optimised model are rewritten twice."""
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def is_device_mode(mode: Any) -> bool:
    """Whether a function mode is that of `torch.device`; if this breaks, models optimised by `optimize` are as slow as
    before under a default device."""
    from torch.utils._device import DeviceContext

    return isinstance(mode, DeviceContext)


def module_call_code() -> CodeType:
    """The code that calls a module's `forward`, by which `optimize` finds it on the stack; if this breaks, a replaced
    `forward` is not optimised."""
    return torch.nn.Module._call_impl.__code__


def disable_torch_function() -> AbstractContextManager[Any]:
    """A context without torch function modes and subclasses; if this breaks, `optimize` recurses without end."""
    return torch._C.DisableTorchFunction()


def disable_torch_function_subclass() -> AbstractContextManager[Any]:
    """A context without torch function subclasses; if this breaks, lazy tensors recurse without end."""
    return torch._C.DisableTorchFunctionSubclass()


def disable_torch_dispatch() -> AbstractContextManager[Any]:
    """A context without torch dispatch; if this breaks, in-place views of lazy tensors recurse without end."""
    context: AbstractContextManager[Any] = no_dispatch()
    return context


def make_wrapper(cls: type[Tensor], shape: Sequence[int], strides: Sequence[int], like: Tensor) -> Any:
    """A tensor subclass without memory; if this breaks, `optimize` makes no lazy tensors."""
    return Tensor._make_wrapper_subclass(cls, shape, strides=strides, dtype=like.dtype, device=like.device)


def forbid_memory_access(tensor: Tensor) -> None:
    """Make reading a tensor's memory an error; if this breaks, code outside of torch may read a lazy tensor's memory,
    which does not exist."""
    torch._C._set_throw_on_mutable_data_ptr(tensor)


def is_functional(tensor: Any) -> bool:
    """Whether it is a tensor of AOTAutograd's tracing; if this breaks, the compile backend rewrites nothing."""
    from torch._subclasses.functional_tensor import FunctionalTensor

    return type(tensor) is FunctionalTensor


# Graphs of the compiler -----------------------------------------------------------------------------------------------


def compile_with_inductor(graph: Any, inputs: list[Any], mode: str | None, options: dict[str, Any] | None) -> Any:
    """A graph compiled as `torch.compile` does it; if this breaks, `torch.compile(backend="halfstride")` fails."""
    import torch._inductor as inductor  # importing it takes a second

    return inductor.compile(graph, inputs, inductor.list_mode_options(mode) if mode else options)


def is_higher_order(target: Any) -> bool:
    """Whether a node calls graphs; if this breaks, the compile backend fails on checkpointing and branches."""
    from torch._ops import HigherOrderOperator

    return isinstance(target, HigherOrderOperator)


def builtin_pad() -> Callable[..., Any]:
    """The function that Dynamo records for `F.pad`; if this breaks, padded upsampling is not rewritten."""
    pad: Callable[..., Any] = torch._C._nn.pad
    return pad


# Trees of tensors -----------------------------------------------------------------------------------------------------


def uncompiled() -> AbstractContextManager[Any]:
    """Run what torch.compile made as it was written; if this breaks, `diagnose` cannot see inside it."""
    # Where nothing was compiled the compiler, which takes seconds to import, is not needed.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


def tree_flatten(tree: Any) -> tuple[list[Any], Any]:
    """The leaves of nested containers and their structure; if this breaks, `optimize` cannot compare outputs."""
    return pytree.tree_flatten(tree)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of nested containers; if this breaks, `optimize` cannot read a model's inputs and outputs."""
    return pytree.tree_leaves(tree)


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """A function of every leaf of nested containers; if this breaks, `optimize` cannot return a model's outputs."""
    return pytree.tree_map(function, tree)


def tree_map_only(kind: type[Any], function: Callable[[Any], Any], tree: Any) -> Any:
    """A function of every leaf of one type; if this breaks, lazy tensors cannot be computed."""
    return pytree.tree_map_only(kind, function, tree)
