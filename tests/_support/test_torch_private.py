"""Whether torch still has what `torch_private` calls: a failure says in its words what breaks."""

import ast
import inspect
import pathlib
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import halfstride
from halfstride._support import torch_private as private
from tolerance import assert_close

X, W = torch.arange(12.0).view(1, 2, 2, 3), torch.arange(16.0).view(2, 2, 2, 2)
CONV = ([0, 0], [1, 1], [1, 1], 1)
TRANSPOSED = ([0, 0], [0, 0], [1, 1], [1, 1], 1)


def seen_while(transform):
    """What `is_transformed` says inside a transform of torch.func."""
    seen = []
    transform(lambda x: seen.append(private.is_transformed()) or x.sum())(X)
    return seen == [True]


def is_transformed():
    with forward_ad.dual_level():
        inside = private.is_transformed()
    return inside and seen_while(torch.func.grad) and seen_while(torch.func.vmap) and not private.is_transformed()


def jit_traces(predicate):
    seen = []
    torch.jit.trace(lambda x: seen.append(predicate()) or x + 1, X, check_trace=False)
    return seen == [True] and not predicate()


def is_traced():
    seen = []
    make_fx(lambda x: seen.append(private.is_traced()) or x + 1)(X)
    return seen == [True] and not private.is_traced()


def compiled(predicate):
    torch._dynamo.reset()
    return torch.compile(lambda x: x + predicate(), backend="eager")(torch.zeros(())).item() == 1 and not predicate()


def is_fixed():
    torch._dynamo.reset()
    changing = torch.compile(lambda x: x + private.is_fixed(x.shape[0]), backend="eager", dynamic=True)
    return changing(torch.zeros(5))[0] == 0 and private.is_fixed(5)


def uncompiled():
    torch._dynamo.reset()
    compiled = []
    add = torch.compile(lambda x: x + 1, backend=lambda graph, inputs: compiled.append(graph) or graph.forward)
    with private.uncompiled():
        assert add(torch.zeros(())) == 1
    return not compiled and add(torch.zeros(())) == 1 and len(compiled) == 1


def load_operators():
    with pytest.raises(OSError, match="missing"):
        private.load_operators("missing.so", "mkldnn")
    return True


def is_exporting():
    class Model(torch.nn.Module):
        def forward(self, x):
            return x + private.is_exporting()

    return torch.export.export(Model(), (X,)).module()(X)[0, 0, 0, 0] == 1 and not private.is_exporting()


def has_saved_tensor_hooks():
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        inside = private.has_saved_tensor_hooks()
    return inside and not private.has_saved_tensor_hooks()


class Double(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def record_function():
    x = torch.ones(3, requires_grad=True)
    return torch.autograd.grad(private.record_function(Double, x).sum(), x)[0].tolist() == [2, 2, 2]


def version_of():
    tensor = torch.zeros(1)
    before = private.version_of(tensor)
    tensor.add_(1)
    return private.version_of(tensor) == before + 1


def convolution_gradients():
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    output = F.conv2d(x, w)
    for at, expected in enumerate(torch.autograd.grad(output.sum(), (x, w))):
        ones, geometry = torch.ones_like(output), ([1, 1], [0, 0], [1, 1], 1)
        assert_close(private.convolution_gradients(ones, X, W, geometry, of_weight=at == 1), expected)
    return True


def onednn_conv():
    packed = private.onednn_pack(W, CONV, list(X.shape))
    assert_close(private.onednn_conv(X, packed, None, CONV), F.conv2d(X, W))
    return True


def onednn_add_conv():
    summand = torch.ones(1, 2, 1, 2)
    assert_close(private.onednn_add_conv(summand, X, W, CONV, in_place=False), 1 + F.conv2d(X, W))
    private.onednn_add_conv(summand, X, W, CONV, in_place=True)
    assert_close(summand, 1 + F.conv2d(X, W))
    return True


def onednn_conv_transpose():
    packed = private.onednn_pack_transposed(W, TRANSPOSED, list(X.shape))
    assert_close(private.onednn_conv_transpose(X, packed, None, TRANSPOSED), F.conv_transpose2d(X, W))
    return True


class Mode(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        raise AssertionError("not disabled")


class Wrapper(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise AssertionError("not disabled")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError("not disabled")


def function_modes():
    with Mode() as mode, private.disable_torch_function():
        torch.zeros(1)
    with mode:
        inside = private.function_modes()
    return inside == [mode] and private.function_modes() == []


def is_device_mode():
    with torch.device("cpu"):
        (mode,) = private.function_modes()
    return private.is_device_mode(mode) and not private.is_device_mode(Mode())


def module_call_code():
    class Model(torch.nn.Module):
        def forward(self):
            return sys._getframe(1).f_code

    return Model()() is private.module_call_code()


def make_wrapper():
    wrapper = private.make_wrapper(Wrapper, (2, 3), (3, 1), X)
    private.forbid_memory_access(wrapper)
    with private.disable_torch_function_subclass():
        assert wrapper.shape == (2, 3)
        with pytest.raises(RuntimeError):
            wrapper.data_ptr()
        with private.disable_torch_dispatch():
            wrapper.unsqueeze_(0)
        return wrapper.shape == (1, 2, 3)


def is_functional():
    from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

    with FunctionalTensorMode():
        return private.is_functional(FunctionalTensor.to_functional(X)) and not private.is_functional(X)


def compile_with_inductor():
    graph = torch.fx.symbolic_trace(lambda x: (x + 1,))
    assert_close(private.compile_with_inductor(graph, [X], None, None)(X)[0], X + 1)
    return bool(torch._inductor.list_mode_options("max-autotune"))


def has_unbacked_symbols():
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    return private.has_unbacked_symbols(ShapeEnv().create_unbacked_symint()) and not private.has_unbacked_symbols(3)


def builtin_pad():
    targets = []

    def backend(graph, inputs):
        targets.extend(node.target for node in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    torch.compile(lambda x: F.pad(x, (1, 1)), backend=backend)(X)
    return private.builtin_pad() in targets


def trees():
    tree = {"a": [1, (2, "x")]}
    assert private.tree_leaves(tree) == private.tree_flatten(tree)[0] == [1, 2, "x"]
    assert private.tree_map(str, tree) == {"a": ["1", ("2", "x")]}
    return private.tree_map_only(int, lambda n: n + 1, tree) == {"a": [2, (3, "x")]}


CHECKS = {name: check for name, check in globals().items() if name in private.__all__} | {
    "is_compiling": lambda: compiled(private.is_compiling),
    "is_jit_traced": lambda: jit_traces(private.is_jit_traced),
    "is_captured": lambda: jit_traces(private.is_captured) and compiled(private.is_captured),
    "cpu_features": lambda: "avx2" in private.cpu_features() or not private.cpu_features(),
    "is_onednn_enabled": private.is_onednn_enabled,
    "has_onednn_operators": private.has_onednn_operators,
    "onednn_pack": onednn_conv,
    "onednn_pack_transposed": onednn_conv_transpose,
    "disable_torch_function": function_modes,
    **dict.fromkeys(
        ("disable_torch_function_subclass", "disable_torch_dispatch", "forbid_memory_access"), make_wrapper
    ),
    "is_higher_order": lambda: (
        private.is_higher_order(torch.ops.higher_order.cond) and not private.is_higher_order(len)
    ),
    **dict.fromkeys(("tree_flatten", "tree_leaves", "tree_map", "tree_map_only"), trees),
}


def check(name):
    words = getattr(private, name).__doc__
    try:
        assert CHECKS[name]()
    except Exception as error:
        raise AssertionError(f"torch_private.{name}: {words}") from error


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, value in vars(private).items()
        if inspect.isfunction(value) and value.__module__ == private.__name__
    ),
)
def test_torch_still_has_it(name):
    check(name)


def test_a_missing_name_fails_with_what_breaks(monkeypatch):
    monkeypatch.delattr(torch._C, "_are_functorch_transforms_active")
    with pytest.raises(AssertionError, match="if this breaks, vmap and jvp of layers fail"):
        check("is_transformed")


def private_uses(tree):
    """What a module names of torch that is private: modules, attributes and oneDNN's or ATen's operators."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            hidden = any(part.startswith("_") and not part.startswith("__") for part in parts)
            operator = parts[:2] == ["torch", "ops"] and parts[2:3] != ["halfstride"] and len(parts) > 2
            predicate = name in ("torch.compiler.is_compiling", "torch.compiler.is_exporting")
            if parts[0] == "torch" and (hidden or operator or predicate):
                yield name


def test_no_other_file_names_what_is_private_to_torch():
    root = pathlib.Path(halfstride.__file__).parent
    found = {
        str(path.relative_to(root)): uses
        for path in root.rglob("*.py")
        if (uses := sorted(set(private_uses(ast.parse(path.read_text())))))
    }
    assert found.pop("_support/torch_private.py")
    assert found == {}
