"""The public functions against torch's own samples, ONNX's cases, other frameworks' conventions and known bugs."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from errors import message
from halfstride import functional, kernels
from tolerance import assert_close

with warnings.catch_warnings():  # of what torch's test tools import
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

CONV = (F.conv1d, F.conv2d, F.conv3d)
TORCH_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
RESIZE = (functional.resize_conv1d, functional.resize_conv2d, functional.resize_conv3d)
SUBPIXEL = (functional.subpixel_conv1d, functional.subpixel_conv2d, functional.subpixel_conv3d)
ABLE = {
    TRANSPOSED: ["native", "scatter", "emulated", "phases"],
    RESIZE: ["native", "scatter", "emulated", "folded", "phases", "by_parts"],
    SUBPIXEL: ["native"],
}
MODES = ("zeros", "reflect", "replicate", "circular")


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


# Samples of others ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("algorithm", ["auto", "native", "scatter", "emulated", "phases"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_torchs_own_samples(axes, algorithm, dtype):
    (op,) = [op for op in op_db if op.name == f"nn.functional.conv_transpose{axes}d"]
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=True))
    assert len(samples) >= 10
    for sample in samples:
        tensors = [t for t in (sample.input, *sample.args) if isinstance(t, torch.Tensor)]
        expected = TORCH_TRANSPOSED[axes - 1](sample.input, *sample.args, **sample.kwargs)
        output = TRANSPOSED[axes - 1](sample.input, *sample.args, **sample.kwargs, algorithm=algorithm)
        assert_close(output, expected)
        gradient = torch.randn_like(expected)
        for one, other in zip(
            torch.autograd.grad(output, tensors, gradient),
            torch.autograd.grad(expected, tensors, gradient),
            strict=True,
        ):
            assert_close(one, other)


def onnx_cases():
    cases = []
    helper = pytest.importorskip("onnx.helper")
    node = pytest.importorskip("onnx.backend.test.case.node")
    from onnx.backend.test.case.node import convtranspose  # noqa: F401  # it registers its cases

    for case in node._NodeTestCases:
        if case.name.startswith("test_convtranspose"):
            (operator,) = case.model.graph.node
            attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in operator.attribute}
            ((inputs, (expected,)),) = case.data_sets
            cases.append(pytest.param(attributes, *inputs, expected, id=case.name))
    return cases


@pytest.mark.parametrize(("attributes", "x", "weight", "expected"), onnx_cases())
@pytest.mark.parametrize("algorithm", ["native", "scatter", "emulated", "phases"])
def test_onnx_backend_cases(attributes, x, weight, expected, algorithm):
    axes = x.ndim - 2
    arguments = {
        "stride": tuple(attributes.get("strides", (1,) * axes)),
        "dilation": tuple(attributes.get("dilations", (1,) * axes)),
        "groups": attributes.get("group", 1),
    }
    if attributes.get("auto_pad") == b"SAME_UPPER":
        arguments["padding"] = "same"
    elif "pads" in attributes:
        pads = attributes["pads"]
        arguments["padding"] = tuple(zip(pads[:axes], pads[axes:], strict=True))
    if "output_shape" in attributes:
        arguments["output_size"] = tuple(attributes["output_shape"])
    elif "output_padding" in attributes:
        arguments["output_padding"] = tuple(attributes["output_padding"])
    output = TRANSPOSED[axes - 1](torch.from_numpy(x), torch.from_numpy(weight), algorithm=algorithm, **arguments)
    assert_close(output, torch.from_numpy(expected))


# Known bugs of the field ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_output_size_without_a_batch(axes):
    """pytorch#75889: torch's layers once took the channels of an unbatched input for a size."""
    x, w = random(4, *(7, 6, 5)[:axes]), random(4, 3, *(3,) * axes)
    wanted = tuple(2 * n for n in x.shape[1:])
    output = TRANSPOSED[axes - 1](x, w, stride=2, padding=1, output_size=wanted)
    assert output.shape == (3, *wanted)
    assert_close(output, TORCH_TRANSPOSED[axes - 1](x, w, stride=2, padding=1, output_padding=1))


@pytest.mark.parametrize("algorithm", ["auto", "scatter", "emulated", "phases"])
def test_an_even_kernel_at_stride_1_keeps_its_size(algorithm):
    """pytorch#106450: with padding=k // 2 an even kernel loses a position; "same" does not."""
    x, w = random(1, 2, 7, 9), random(2, 3, 4, 2)
    output = functional.conv_transpose2d(x, w, padding="same", algorithm=algorithm)
    assert output.shape == (1, 3, 7, 9)
    full = F.conv_transpose2d(x, w)
    assert_close(output, full[..., 1:8, 0:9])  # of 3 positions to cut one at the start, of 1 none
    assert functional.conv_transpose2d(x, w, padding=(2, 1)).shape == (1, 3, 6, 8)


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(8, 3, 2), (7, 3, 2), (8, 4, 2), (9, 5, 3), (7, 2, 3), (8, 2, 4)]
)
def test_same_is_aligned_as_tensorflows(size, kernel, stride):
    """keras#22876: SAME pads the strided convolution at the end first, and so its transpose must cut there first."""
    n = -(-size // stride)
    total = max((n - 1) * stride + kernel - size, 0)
    w = random(5, 3, kernel)

    def tensorflow_conv(y):
        return F.conv1d(F.pad(y, (total // 2, total - total // 2)), w, stride=stride)

    x = random(2, 5, n)
    transposed = torch.autograd.functional.vjp(tensorflow_conv, torch.zeros(2, 3, size, dtype=w.dtype), x)[1]
    assert_close(functional.conv_transpose1d(x, w, stride=stride, padding="same", output_size=size), transposed)


def test_padding_is_cut_from_the_output_and_never_added_to_the_input():
    """TICO#420: a converter took the padding of a transposed convolution for padding of its input."""
    x, w = random(1, 2, 4, 4), random(2, 3, 3, 3)
    full = functional.conv_transpose2d(x, w, stride=2)
    for algorithm in ABLE[TRANSPOSED]:
        cut = functional.conv_transpose2d(x, w, stride=2, padding=1, algorithm=algorithm)
        assert_close(cut, full[..., 1:-1, 1:-1].contiguous())


def test_nearest_neighbours_of_large_scales_are_the_right_ones():
    x, w = torch.randn(1, 1, 60), torch.ones(1, 1, 1)
    for scale in range(1, 65):
        expected = x.repeat_interleave(scale, dim=-1)
        for algorithm in ("native", "phases"):
            assert torch.equal(functional.resize_conv1d(x, w, scale_factor=scale, algorithm=algorithm), expected)


def test_nearest_neighbours_among_millions_of_positions_are_the_right_ones():
    x, w = torch.randn(1, 2, 1, 9000), torch.ones(2, 1, 1, 1)
    expected = x.repeat_interleave(1000, dim=-1)
    assert not torch.equal(F.interpolate(x, scale_factor=(1.0, 1000.0), mode="nearest-exact"), expected)
    for input in (x, x.to(memory_format=torch.channels_last)):
        output = functional.resize_conv2d(input, w, scale_factor=(1, 1000), groups=2, algorithm="native")
        assert torch.equal(output, expected)


# What the functions are -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("padding_mode", MODES)
def test_resize_conv_is_interpolate_pad_and_conv(axes, padding_mode):
    x, w, b = random(2, 4, *(5, 4, 3)[:axes]), random(6, 2, *(3,) * axes), random(6)
    upsampled = F.interpolate(x, scale_factor=2, mode="nearest")
    mode = "constant" if padding_mode == "zeros" else padding_mode
    padded = F.pad(upsampled, (1,) * 2 * axes, mode=mode)
    expected = CONV[axes - 1](padded, w, b, groups=2)
    assert_close(RESIZE[axes - 1](x, w, b, 2, 1, 1, 2, padding_mode=padding_mode), expected)


@pytest.mark.parametrize("padding_mode", MODES)
def test_subpixel_conv_is_pad_conv_and_shuffle(padding_mode):
    x, w, b = random(2, 4, 5, 4), random(24, 2, 3, 3), random(24)
    mode = "constant" if padding_mode == "zeros" else padding_mode
    expected = F.pixel_shuffle(F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), w, b, groups=2), 2)
    assert_close(functional.subpixel_conv2d(x, w, b, groups=2, padding_mode=padding_mode), expected)


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_is_torchs_for_convolutions(kernel, dilation):
    x, w = random(1, 2, 6), random(4, 2, kernel)
    upsampled = x.repeat_interleave(2, dim=-1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel")  # that it copies
        resized = F.conv1d(upsampled, w, padding="same", dilation=dilation)
        shuffled = kernels.shuffle(F.conv1d(x, w, padding="same", dilation=dilation), (2,))
    assert_close(functional.resize_conv1d(x, w, dilation=dilation), resized)
    assert_close(functional.subpixel_conv1d(x, w, dilation=dilation), shuffled)


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
def test_padding_in_pairs_is_cut_from_each_end(before, after):
    x, w = random(1, 2, 5, 4), random(2, 3, 3, 4)
    full = F.conv_transpose2d(x, w, stride=(2, 3))
    output = functional.conv_transpose2d(x, w, stride=(2, 3), padding=((before, after), (after, before)))
    assert_close(output, full[..., before : full.shape[2] - after, after : full.shape[3] - before].contiguous())


@pytest.mark.parametrize("padding_mode", ["zeros", "replicate", "circular"])
def test_a_resize_conv_and_its_transposed_twin_agree(padding_mode):
    x, w = random(2, 4, 5, 4), random(3, 4, 4, 3)
    full = kernels.transposed_from_resize(w, (2, 3))
    padding = ((1, 2), (1, 1))
    twin_padding = tuple((k - 1 - a, k - 1 - b) for k, (a, b) in zip((4, 3), padding, strict=True))
    assert_close(
        functional.resize_conv2d(x, w, scale_factor=(2, 3), padding=padding, padding_mode=padding_mode),
        functional.conv_transpose2d(x, full, stride=(2, 3), padding=twin_padding, padding_mode=padding_mode),
    )


@pytest.mark.parametrize(
    ("stride", "kernel", "before", "dilation"), [(2, 3, 1, 1), (3, 4, 0, 1), (2, 4, 2, 2), (1, 3, 2, 1)]
)
def test_circular_is_the_adjoint_of_a_circular_convolution(stride, kernel, before, dilation):
    n, w = 7, random(5, 3, kernel)
    size, span = n * stride, dilation * (kernel - 1)

    def circular_conv(y):
        padded = F.pad(y, (before, (n - 1) * stride + span + 1 - size - before), mode="circular")
        return F.conv1d(padded, w, stride=stride, dilation=dilation)

    x = random(2, 5, n)
    adjoint = torch.autograd.functional.vjp(circular_conv, torch.zeros(2, 3, size, dtype=w.dtype), x)[1]
    after = (n - 1) * stride + span + 1 - size - before
    padding, extra = ((before, max(after, 0)),), max(-after, 0)
    for algorithm in ("native", "scatter", "emulated", "phases"):
        output = functional.conv_transpose1d(
            x, w, None, stride, padding, extra, dilation=dilation, padding_mode="circular", algorithm=algorithm
        )
        assert_close(output, adjoint)


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 1, "same"])
def test_a_constant_input_has_no_border_where_it_is_continued(padding_mode, padding):
    x = random(1, 4, 1, 1).expand(1, 4, 6, 6)
    even = kernels.even_from_transposed(random(4, 3, 4, 5), (2, 3))
    output = functional.conv_transpose2d(x, even, stride=(2, 3), padding=padding, padding_mode=padding_mode)
    assert_close(output, output[..., :1, :1].expand_as(output).contiguous())


# Sizes ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("functions", [TRANSPOSED, RESIZE, SUBPIXEL])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_restores_every_multiple(functions, axes, kernel):
    n, scale = (4, 3, 2)[:axes], (2, 3, 1)[:axes]
    shape = (2, 2) if functions is not SUBPIXEL else (2 * int(np.prod(scale)), 2)
    x, w = random(1, 2, *n), random(*shape, *(kernel,) * axes)
    argument = {"stride" if functions is TRANSPOSED else "scale_factor": scale}
    output = functions[axes - 1](x, w, padding="same", **argument)
    assert output.shape[2:] == tuple(a * s for a, s in zip(n, scale, strict=True))


def test_every_output_size_that_can_be_reached_is_the_beginning_of_the_largest():
    x, wt, wr, ws = random(1, 2, 5), random(2, 3, 4), random(3, 2, 4), random(9, 2, 4)
    transposed = [functional.conv_transpose1d(x, wt, stride=3, padding=1, output_size=size) for size in (14, 15, 16)]
    resized = [functional.resize_conv1d(x, wr, scale_factor=3, output_size=size) for size in range(13, 18)]
    shuffled = [functional.subpixel_conv1d(x, ws, scale_factor=3, output_size=size) for size in (13, 14, 15)]
    for outputs in (transposed, resized, shuffled):
        for output in outputs:
            assert_close(output, outputs[-1][..., : output.shape[-1]].contiguous())
    assert_close(transposed[1], F.conv_transpose1d(x, wt, stride=3, padding=1, output_padding=1))


# Types and kinds of tensors -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("functions", [TRANSPOSED, RESIZE, SUBPIXEL])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64])
def test_types_unbatched_and_empty(functions, dtype):
    shape = (4, 4) if functions is not SUBPIXEL else (16, 4)
    x, w = random(2, 4, 5, 6, dtype=dtype), random(*shape, 3, 3, dtype=dtype)
    for algorithm in ABLE[functions]:
        output = functions[1](x, w, padding="same", algorithm=algorithm)
        assert output.dtype == dtype
        assert_close(functions[1](x[1], w, padding="same", algorithm=algorithm), output[1])
        assert functions[1](x[:0], w, padding="same", algorithm=algorithm).shape == (0, *output.shape[1:])


@pytest.mark.parametrize("functions", [TRANSPOSED, RESIZE, SUBPIXEL])
def test_autocast(functions):
    shape, channels = ((4, 4), 4) if functions is not SUBPIXEL else ((16, 4), 16)
    x, w, b = torch.randn(2, 4, 5, 6), torch.randn(*shape, 3, 3, requires_grad=True), torch.randn(channels)
    exact = functions[1](x.double(), w.double(), b.double(), padding="same")
    for algorithm in ABLE[functions]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = functions[1](x, w, b, padding="same", algorithm=algorithm)
            assert functions[1](x.double(), w.double(), padding="same").dtype == torch.float64  # as torch's own
        assert output.dtype == torch.bfloat16
        assert_close(output.double(), exact, dtype=torch.bfloat16)
        (gradient,) = torch.autograd.grad(output.float().sum(), w)
        assert gradient.dtype == torch.float32


def test_autocast_rounds_no_more_than_torchs_own():
    x, w = torch.randn(2, 32, 12, 12).bfloat16().float(), torch.randn(16, 32, 3, 3)
    exact = functional.resize_conv2d(x.double(), w.double())
    errors = {}
    for algorithm in ABLE[RESIZE]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = functional.resize_conv2d(x, w, algorithm=algorithm)
        errors[algorithm] = (output.double() - exact).square().mean().sqrt()
    assert max(errors.values()) <= 1.5 * errors["native"]
    assert errors["by_parts"] < 0.9 * errors["native"]  # which rounds its weights too


# Bad input ------------------------------------------------------------------------------------------------------------

X, WT, WR, WS = torch.ones(1, 4, 14, 14), torch.ones(4, 2, 3, 3), torch.ones(2, 4, 3, 3), torch.ones(8, 4, 3, 3)
T, R, S = functional.conv_transpose2d, functional.resize_conv2d, functional.subpixel_conv2d

PINNED = {
    "`output_size` (=31) cannot be reached from input size 14 with kernel_size=3, stride=2, padding=1: "
    "choose 27 to 28.": lambda: T(X, WT, None, 2, 1, output_size=31),
    "`output_size` (=26) cannot be reached from input size 14 with kernel_size=3, stride=2, padding=(0, 1), "
    "dilation=3: choose 32 to 34.": lambda: T(X, WT, None, 2, ((0, 1), (0, 1)), dilation=3, output_size=26),
    "`output_size` (=15) cannot be reached from input size 14 with kernel_size=3, stride=1, padding=1: "
    "choose 14.": lambda: T(X, WT, None, 1, 1, output_size=15),
    "`output_size` (=29) cannot be reached from input size 14 with stride=2, padding='same': choose 27 to 28.": (
        lambda: T(X, WT, None, 2, "same", output_size=29)
    ),
    "`output_size` (=30) cannot be reached from input size 14 with scale_factor=2, padding=1: "
    "choose 27 to 29.": lambda: R(X, WR, None, 2, 1, output_size=30),
    "`output_size` (=29) cannot be reached from input size 14 with scale_factor=2, padding=1: "
    "choose 27 to 28.": lambda: S(X, WS, None, 2, 1, output_size=29),
    "`output_size` (=(27,)) must be one int, or 2 ints (one per axis).": lambda: T(
        X, WT, None, 2, 1, output_size=(27,)
    ),
    "`output_padding` (=1) goes with neither output_size nor padding='same': drop it and give output_size alone.": (
        lambda: T(X, WT, None, 2, 1, 1, output_size=27)
    ),
    "`output_padding` (=2) must be smaller than stride (=2) or dilation (=1).": lambda: T(X, WT, None, 2, 1, 2),
    "`output_padding` (=-1) must be at least 0.": lambda: T(X, WT, None, 2, 1, -1),
    "`padding` (=(-1, -1)) of a transposed convolution is what is cut from its output and must not be negative: for a "
    "longer output use output_padding or output_size.": lambda: T(X, WT, None, 2, -1),
    "`padding` (=15) leaves nothing of the full output of 29: use at most 28 at both ends together.": (
        lambda: T(X, WT, None, 2, 15)
    ),
    "`padding` (='full') must be 'same', 'valid', an int, an int per axis, or a pair (before, after) per axis.": (
        lambda: T(X, WT, padding="full")
    ),
    "`padding` (=(1, 1, 1)) must be one int, or 2 ints (one per axis), or 2 pairs (before, after).": (
        lambda: R(X, WR, padding=(1, 1, 1))
    ),
    "`padding` (=((1, 1, 1), 0)) must have pairs (before, after): (1, 1, 1) is none.": (
        lambda: R(X, WR, padding=((1, 1, 1), 0))
    ),
    "`padding` (=(-20, -20)) cuts away all of the upsampled input (of size 28): cut less.": (
        lambda: R(X, WR, padding=-20)
    ),
    "`kernel_size` (=3, spanning 31 with dilation 15) is larger than the padded upsampled input (=28): "
    "use a smaller kernel or 3 more padding.": lambda: R(X, WR, padding=0, dilation=15),
    "`padding_mode` (='reflect') can continue an input of 14 positions by at most 13 at each end, not by 14: use less "
    "padding, a smaller kernel or padding_mode='replicate'.": lambda: S(X, WS, padding=14, padding_mode="reflect"),
    "`padding_mode` (='circular') can continue an upsampled input of 28 positions by at most 28 at each end, not by "
    "29: use less padding, a smaller kernel or padding_mode='replicate'.": (
        lambda: R(X, WR, padding=29, padding_mode="circular")
    ),
    "`stride` (=0) must be at least 1.": lambda: T(X, WT, stride=0),
    "`stride` (=1.5) must be an int of at least 1.": lambda: T(X, WT, stride=1.5),
    "`groups` (=0) must be at least 1.": lambda: T(X, WT, groups=0),
    "`groups` (=3) must divide the 4 input channels.": lambda: T(X, WT, groups=3),
    "`input` has 4 channels where `weight` (of shape (5, 2, 3, 3)) takes 5.": lambda: T(X, torch.ones(5, 2, 3, 3)),
    "`weight` (of shape (6, 4, 3, 3)) must have a multiple of 4 output channels, one for each phase of "
    "scale_factor=(2, 2): 6 is none.": lambda: S(X, torch.ones(6, 4, 3, 3)),
    "`weight` (of shape (4, 2, 3)) must have 4 dimensions: two of channels and 2 spatial ones.": (
        lambda: T(X, torch.ones(4, 2, 3))
    ),
    "`input` (of shape (14, 14)) must have 4 dimensions (batch, channels and 2 spatial ones), or 3 without a batch.": (
        lambda: T(X[0, 0], WT)
    ),
    "`input` (of shape (1, 4, 0, 14)) must have at least one position along each axis.": lambda: T(X[:, :, :0], WT),
    "`bias` (of shape (3,)) must have shape (2,), one for each channel.": lambda: T(X, WT, torch.ones(3)),
    "`input` (of torch.int64) must be floating point or complex: convert it with `.float()`.": lambda: T(X.long(), WT),
    "`input`, `weight` and `bias` (of torch.float32, torch.float64) must have the same type: convert them with "
    "`.to(...)`, or use torch.autocast.": lambda: T(X, WT.double()),
    "`algorithm` (='fast') must be one of 'auto', 'native', 'scatter', 'emulated', 'folded', 'phases', "
    "'by_parts', 'few_outputs'.": lambda: T(X, WT, algorithm="fast"),
    "`algorithm` (='by_parts') cannot compute this case: summation by parts needs the piecewise constant input of a "
    "resize-convolution.": lambda: T(X, WT, algorithm="by_parts"),
}


@pytest.mark.parametrize("text", PINNED)
def test_bad_input(text):
    assert message(PINNED[text]) == text


def test_what_is_no_tensor_is_a_type_error():
    for call, text in {
        (lambda: T([[1.0]], WT)): "`input` must be a torch.Tensor, not list.",
        (lambda: T(X, None)): "`weight` must be a torch.Tensor, not NoneType.",
        (lambda: R(X, WR, np.ones(2))): "`bias` must be a torch.Tensor, not ndarray.",
    }.items():
        assert message(call, kind=TypeError) == text


@pytest.mark.parametrize("trained", [False, True])
def test_an_empty_batch_is_planned_too(trained):
    x = torch.zeros(0, 3, 4, 5)
    for output in (
        functional.resize_conv2d(x, torch.zeros(2, 3, 3, 3, requires_grad=trained), scale_factor=2),
        functional.conv_transpose2d(x, torch.zeros(3, 2, 2, 2, requires_grad=trained), stride=2),
    ):
        assert output.shape == (0, 2, 8, 10)
