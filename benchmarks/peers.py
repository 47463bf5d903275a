"""Who takes part: the ways to compute a row, each made ready once and then only called.

    ready-made   what a user can pick today: eager torch in either layout, torch.compile, ONNX Runtime, OpenVINO
    by hand      what an expert could write: the resize kernel folded into a transposed one, through F.conv_transpose
    halfstride   `auto`, as people call it, also through torch.compile, and every algorithm by its name
    limit        a matrix product and a copy: what the machine could do at best

A `Peer` is a name and a way to prepare; it holds nothing else, so that it can be sent to the process that runs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import benchmark

import halfstride
from benchmarks import models, onnx_graph
from benchmarks.rows import Row, fewest_bytes, parse
from halfstride._core.algorithms import ALGORITHMS
from halfstride.kernels import transposed_from_resize

__all__ = ["GEMM_SIDE", "Peer", "Prepared", "Task", "peers_for", "prepare", "reference"]

GEMM_SIDE = 1024
"""The matrix product whose rate is the limit multiplies two matrices of this many rows and columns."""

_EMULATED_AT_MOST = 20_000_000_000
"""Products beyond which the emulated form, which multiplies mostly zeros, is not waited for."""

_CONVS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV_TRANSPOSES: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class Task(NamedTuple):
    """What is to be computed, and how."""

    name: str
    """A model of `models.MODELS`, or a line that `rows.parse` reads."""
    training: bool = False
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    threads: int = 1

    @property
    def row(self) -> Row | models.ModelRow:
        return next((model for model in models.MODELS if model.name == self.name), None) or parse(self.name)


class Peer(NamedTuple):
    name: str
    kind: str
    """ready-made, by hand, halfstride or limit"""
    how: str
    """eager, compile, folded, onnxruntime, openvino, an algorithm of halfstride or auto, gemm or copy"""
    channels_last: bool = False
    compiled: bool = False
    """Whether torch.compile has halfstride's layer to compile, or halfstride as its backend for a whole model."""


class Prepared(NamedTuple):
    """A peer that is ready: `run` computes the row once."""

    run: Callable[[], Any]
    results: Callable[[Any], list[Tensor]] = list
    """What `run` returned, as tensors to be checked: the output and, in training, the gradients."""
    chosen: str | None = None
    """The algorithm that `auto` took, and whether it was compiled."""


def peers_for(task: Task) -> list[Peer]:
    """Everyone who can take part in a row, as far as that is known beforehand."""
    row = task.row
    layouts = (True, False) if not isinstance(row, Row) or row.axes > 1 else (False,)
    if isinstance(row, models.ModelRow) and not row.images:
        layouts = (False,)
    best = layouts[0]

    def in_layouts(name: str, kind: str, how: str) -> list[Peer]:
        return [Peer(f"{name} channels_last" if last else name, kind, how, last) for last in layouts]

    peers = in_layouts("eager", "ready-made", "eager")
    peers.append(Peer("compile", "ready-made", "compile", best))
    if not task.training and task.dtype == torch.float32 and task.device == "cpu":
        peers += [Peer("onnxruntime", "ready-made", "onnxruntime"), Peer("openvino", "ready-made", "openvino")]
    if not isinstance(row, Row):
        peers += in_layouts("halfstride", "halfstride", "auto")
        return [*peers, Peer("halfstride compile", "halfstride", "auto", best, compiled=True)]
    if row.form == "resize":
        peers += in_layouts("folded by hand", "by hand", "folded")
    peers += in_layouts("halfstride", "halfstride", "auto")
    peers.append(Peer("halfstride compile", "halfstride", "auto", best, compiled=True))
    for algorithm in ALGORITHMS:
        if algorithm == "emulated" and _emulated_products(row) > _EMULATED_AT_MOST:
            continue
        peers.append(Peer(f"halfstride {algorithm}", "halfstride", algorithm, best))
    return [*peers, Peer("gemm", "limit", "gemm"), Peer("copy", "limit", "copy")]


def prepare(peer: Peer, task: Task) -> Prepared:
    """Make a peer ready. Raises what the library raises where it cannot do the row."""
    if peer.kind == "limit":
        assert isinstance(task.row, Row)
        return _limit(peer.how, task.row, task)
    if peer.how in ("onnxruntime", "openvino"):
        return _inference_engine(peer.how, task)
    row, module, inputs = task.row, network(task), network_inputs(task)
    if peer.channels_last:
        module = _as_channels_last(module)
        inputs = [_as_channels_last(input) for input in inputs]
    if peer.kind == "by hand":
        assert isinstance(row, Row)
        module = _Folded(row, _convolution(module), constant=not task.training)
    elif peer.kind == "halfstride":
        if isinstance(row, Row):
            module = _layer(peer.how, row, module)
        elif not peer.compiled:
            module = _optimized(module, inputs)
    prepared = _called(module, inputs, task.training)
    if peer.how == "auto" and isinstance(row, Row):
        prepared = prepared._replace(chosen=_chosen(prepared, module, peer.compiled))
    if peer.compiled or peer.how == "compile":
        torch._dynamo.reset()
        module.compile(backend="inductor" if peer.how == "compile" or isinstance(row, Row) else "halfstride")
    return prepared


def reference(task: Task) -> list[Tensor]:
    """What a row's results are, in float64, by the definitions in torch.nn."""
    inputs = [input.cpu().double() for input in network_inputs(task)]
    prepared = _called(network(task).cpu().double(), inputs, task.training)
    return [result.detach() for result in prepared.results(prepared.run())]


# The network and its input --------------------------------------------------------------------------------------------


def network(task: Task) -> nn.Module:
    """The row in the modules of torch.nn that people write it in, with the same random weights in every process."""
    torch.manual_seed(0)
    row = task.row
    if isinstance(row, models.ModelRow):
        return row.build().to(task.device, task.dtype).eval().requires_grad_(False)
    _, _, *taps = row.weight_shape
    if row.form == "transposed":
        module: nn.Module = _CONV_TRANSPOSES[row.axes - 1](
            row.in_channels, row.out_channels, taps, row.stride, row.padding, row.output_padding
        )
    else:
        conv = _CONVS[row.axes - 1](row.in_channels, row.weight_shape[0], taps, padding=row.padding)
        if row.form == "resize":
            module = nn.Sequential(nn.Upsample(scale_factor=row.stride, mode="nearest"), conv)
        else:
            module = nn.Sequential(conv, nn.PixelShuffle(row.stride))
    return module.to(task.device, task.dtype)


def network_inputs(task: Task) -> list[Tensor]:
    """Standard normal numbers, the same in every process, rounded to the type that is measured."""
    generator = torch.Generator().manual_seed(1)
    row = task.row
    shapes = [row.input_shape]
    if isinstance(row, Row) and task.training:
        shapes.append(row.output_shape)  # the gradient of the output
    return [torch.randn(shape, generator=generator).to(task.device, task.dtype) for shape in shapes]


def _as_channels_last(part: Any) -> Any:
    if isinstance(part, nn.Module):
        for parameter in part.parameters():
            parameter.data = _as_channels_last(parameter.data)
        return part
    return part.contiguous(memory_format=_CHANNELS_LAST[part.dim() - 2]) if part.dim() > 3 else part


def _convolution(module: nn.Module) -> Any:
    """The module of a row's network that has the weights."""
    return next(part for part in module.modules() if isinstance(part, (*_CONVS, *_CONV_TRANSPOSES)))


class _Folded(nn.Module):
    """The resize kernel folded into a transposed one, by hand; in inference beforehand."""

    def __init__(self, row: Row, conv: Any, constant: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.scale, self.padding = conv.weight, conv.bias, row.stride, row.padding
        self.function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[row.axes - 1]
        self.folded = self.fold().detach() if constant else None

    def fold(self) -> Tensor:
        folded = transposed_from_resize(self.weight, self.scale)
        # The layout of the weight that was given, which the input has too.
        return folded if self.weight.is_contiguous() else _as_channels_last(folded)

    def forward(self, input: Tensor) -> Any:
        weight = self.fold() if self.folded is None else self.folded
        return self.function(input, weight, self.bias, self.scale, self.padding)


def _layer(algorithm: str, row: Row, module: nn.Module) -> nn.Module:
    """halfstride's layer with the weights of the row's network."""
    name = {"transposed": "ConvTranspose", "resize": "ResizeConv", "subpixel": "SubpixelConv"}[row.form]
    arguments = [row.in_channels, row.out_channels, row.kernel_size, row.stride]
    if row.form == "transposed":
        arguments += [row.padding, row.output_padding]
    layer: nn.Module = getattr(halfstride, f"{name}{row.axes}d")(*arguments, algorithm=algorithm)
    own = _convolution(module)
    layer.weight, layer.bias = own.weight, own.bias
    return layer


def _optimized(module: nn.Module, inputs: list[Tensor]) -> nn.Module:
    """The model as `halfstride.optimize` returns it."""
    optimized: nn.Module
    with torch.inference_mode():
        optimized, _ = halfstride.optimize(module, tuple(inputs))
    return optimized


# Calls ----------------------------------------------------------------------------------------------------------------


def _called(module: nn.Module, inputs: list[Tensor], training: bool) -> Prepared:
    """One call: forward, or with the gradient of the output as the second input, forward and backward."""
    input, *gradient = inputs
    if not training:

        def forward() -> list[Tensor]:
            with torch.inference_mode():
                return [module(input)]

        return Prepared(forward)

    sources = [input.requires_grad_(), *module.parameters()]

    def forward_and_backward() -> list[Tensor]:
        output = module(input)
        return [output, *torch.autograd.grad(output, sources, gradient)]

    return Prepared(forward_and_backward)


def _chosen(prepared: Prepared, layer: nn.Module, compiled: bool) -> str:
    """The algorithm that computes one call of a layer, as it runs, or else as it is traced."""
    traced: list[str] = []
    ran: list[str] = []

    def listening(name: str, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: Any) -> Tensor:
            (traced if torch.compiler.is_compiling() else ran).append(name)
            return compute(*arguments)

        return call

    originals = {name: module.compute for name, module in ALGORITHMS.items()}
    for name, module in ALGORITHMS.items():
        module.compute = listening(name, originals[name])
    if compiled:
        layer.compile(backend="eager")  # any backend calls the same algorithms
    try:
        prepared.run()
    finally:
        for name, module in ALGORITHMS.items():
            module.compute = originals[name]
    answer = (ran or traced)[0]
    return f"{answer}, compiled" if compiled else answer


def _emulated_products(row: Row) -> int:
    full = row.kernel_size + (row.stride - 1 if row.form == "resize" else 0)
    return math.prod((*row.output_shape, row.in_channels, *[full] * row.axes))


# Inference engines ----------------------------------------------------------------------------------------------------


def _inference_engine(how: str, task: Task) -> Prepared:
    """The row as an ONNX model in a session with as many threads as the others have, which spin within a call only."""
    inputs = network_inputs(task)
    arrays = [input.numpy() for input in inputs]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if isinstance(task.row, Row):
            onnx_graph.save(task.row, network(task), path)
        else:
            torch.onnx.export(network(task), tuple(inputs), path, dynamo=True, verbose=False)
        return _onnxruntime(path, arrays, task) if how == "onnxruntime" else _openvino(path, arrays, task)


def _onnxruntime(path: Path, arrays: list[Any], task: Task) -> Prepared:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {slot.name: array for slot, array in zip(session.get_inputs(), arrays, strict=True)}
    return Prepared(lambda: session.run(None, feeds), lambda outputs: [torch.from_numpy(outputs[0])])


def _openvino(path: Path, arrays: list[Any], task: Task) -> Prepared:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": task.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    return Prepared(
        lambda: request.infer(arrays, share_inputs=True, share_outputs=True),
        lambda outputs: [torch.from_numpy(outputs[0].copy())],
    )


# The limit ------------------------------------------------------------------------------------------------------------


def _limit(how: str, row: Row, task: Task) -> Prepared:
    """A matrix product of a fixed size, by `torch.mm` or a convolution of one tap, whichever is faster here, or a copy
    that moves as many bytes as the row must."""
    if how == "gemm":
        left, right = torch.randn(2, GEMM_SIDE, GEMM_SIDE, device=task.device, dtype=task.dtype)
        product = torch.empty_like(left)
        image, kernel = left.view(1, 1, GEMM_SIDE, GEMM_SIDE).permute(0, 3, 1, 2), right[:, :, None, None]
        ways = [lambda: torch.mm(left, right, out=product), torch.no_grad()(lambda: F.conv2d(image, kernel))]
        return Prepared(min(ways, key=lambda way: benchmark.Timer("way()", globals={"way": way}).timeit(10).median))
    size = fewest_bytes(row, task.dtype.itemsize, training=task.training)
    source = torch.ones(max(size // (2 * task.dtype.itemsize), 1), device=task.device, dtype=task.dtype)
    target = torch.empty_like(source)
    return Prepared(lambda: target.copy_(source))
