"""The layers against those of torch.nn that they stand for."""

import re

import pytest
import torch
from torch import nn

from errors import message
from halfstride import functional, layers
from tolerance import assert_close

AXES = (1, 2, 3)
TRANSPOSED = (layers.ConvTranspose1d, layers.ConvTranspose2d, layers.ConvTranspose3d)
RESIZE = (layers.ResizeConv1d, layers.ResizeConv2d, layers.ResizeConv3d)
SUBPIXEL = (layers.SubpixelConv1d, layers.SubpixelConv2d, layers.SubpixelConv3d)
TORCH_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TORCH_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def input_for(axes, batch=2, channels=4):
    return torch.randn(batch, channels, *(5, 4, 3)[:axes])


@pytest.mark.parametrize("axes", AXES)
def test_conv_transpose_is_torchs_own(axes):
    arguments = (4, 6, 3, 2, 1, 1, 2, True, 1)
    torch.manual_seed(3)
    ours = TRANSPOSED[axes - 1](*arguments)
    torch.manual_seed(3)
    theirs = TORCH_TRANSPOSED[axes - 1](*arguments)
    assert isinstance(ours, TORCH_TRANSPOSED[axes - 1])
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert ours.extra_repr() == theirs.extra_repr()
    x = input_for(axes)
    assert_close(ours(x), theirs(x))
    assert_close(ours(x[0]), theirs(x[0]))


@pytest.mark.parametrize("axes", AXES)
def test_output_size_with_and_without_batch_and_channels(axes):
    layer, theirs = TRANSPOSED[axes - 1](4, 2, 3, 2, 1, 1), TORCH_TRANSPOSED[axes - 1](4, 2, 3, 2, 1, 1)
    theirs.load_state_dict(layer.state_dict())
    x = input_for(axes)
    for wanted in (tuple(2 * n for n in x.shape[2:]), tuple(2 * n - 1 for n in x.shape[2:])):
        expected = theirs(x, output_size=list(wanted))
        assert_close(layer(x, wanted), expected)
        assert_close(layer(x, (2, 2, *wanted)), expected)
        assert_close(layer(x[0], wanted), expected[0])  # pytorch#75889
        assert_close(layer(x[0], (2, *wanted)), expected[0])
        assert layer(x, torch.Size(wanted)).shape == expected.shape


@pytest.mark.parametrize("axes", AXES)
def test_resize_conv_has_the_parameters_and_the_start_of_a_convolution(axes):
    torch.manual_seed(5)
    ours = RESIZE[axes - 1](4, 6, 3, groups=2)
    torch.manual_seed(5)
    theirs = TORCH_CONV[axes - 1](4, 6, 3, padding="same", groups=2)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = input_for(axes)
    assert_close(ours(x), theirs(nn.Upsample(scale_factor=2, mode="nearest")(x)))


def test_subpixel_conv_takes_the_place_of_a_convolution_and_a_shuffle():
    ours, conv = layers.SubpixelConv2d(4, 6, 3, groups=2), nn.Conv2d(4, 24, 3, padding="same", groups=2)
    ours.load_state_dict(conv.state_dict(), strict=True)
    x = input_for(2)
    assert_close(ours(x), nn.PixelShuffle(2)(conv(x)))


@pytest.mark.parametrize("axes", AXES)
def test_subpixel_conv_starts_as_a_convolution_and_nearest_upsampling(axes):
    layer = SUBPIXEL[axes - 1](4, 3, 3, scale_factor=(2, 3, 1)[:axes])
    x = input_for(axes)
    y = layer(x)
    blocks = y
    for axis, scale in enumerate((2, 3, 1)[:axes], start=2):
        blocks = blocks.unflatten(axis, (-1, scale)).select(axis + 1, 0).repeat_interleave(scale, axis)
    assert torch.equal(y, blocks)
    assert layer.weight.std() > 0


def test_bad_constructor_arguments():
    pinned = {
        "`in_channels` (=0) must be at least 1.": lambda: layers.ResizeConv2d(0, 1, 3),
        "`kernel_size` (=0) must be at least 1.": lambda: layers.ConvTranspose2d(1, 1, 0),
        "`kernel_size` (=2.5) must be an int of at least 1.": lambda: layers.SubpixelConv2d(1, 1, 2.5),
        "`groups` (=3) must divide the 4 input channels.": lambda: layers.ConvTranspose1d(4, 6, 3, groups=3),
        "`groups` (=4) must divide the 6 output channels.": lambda: layers.ResizeConv1d(4, 6, 3, groups=4),
        "`stride` (=(1, 2)) must be one int, or 1 int (one per axis).": lambda: layers.ConvTranspose1d(1, 1, 3, (1, 2)),
        "`scale_factor` (=1.5) must be an int of at least 1. For a scale that is no integer use "
        "torch.nn.functional.interpolate and a convolution.": lambda: layers.ResizeConv2d(1, 1, 3, 1.5),
        "`padding_mode` (='mirror') must be one of 'zeros', 'reflect', 'replicate', 'circular'.": (
            lambda: layers.ResizeConv2d(1, 1, 3, padding_mode="mirror")
        ),
    }
    for text, make in pinned.items():
        assert message(make) == text


# torch.fx and torch.jit.script ----------------------------------------------------------------------------------------

LAYERS = [
    layers.ConvTranspose2d(4, 6, 4, 2, 1),
    layers.ConvTranspose2d(4, 6, 3, 2, ((0, 2), (1, 0)), dilation=2, groups=2),
    layers.ConvTranspose1d(4, 6, (3,), 2, "same"),
    layers.ConvTranspose1d(4, 6, 2, 3, "same", bias=False),
    layers.ConvTranspose3d(4, 6, 3, (1, 2, 2), 1, (0, 1, 0)),
    layers.ResizeConv2d(4, 6, 3),
    layers.ResizeConv2d(4, 6, (2, 5), (3, 2), padding_mode="reflect"),
    layers.ResizeConv1d(4, 6, 4, 2, ((2, -1),), dilation=2, groups=2),
    layers.ResizeConv3d(4, 6, 3, (1, 2, 2), padding_mode="replicate"),
    layers.SubpixelConv2d(4, 6, 3, padding_mode="circular"),
    layers.SubpixelConv2d(4, 6, 2, 3, bias=False, groups=2),
    layers.SubpixelConv1d(4, 6, 3, 1),
]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("transform", [torch.fx.symbolic_trace, torch.jit.script])
def test_layers_are_traced_and_scripted(layer, transform):
    model = nn.Sequential(nn.ReLU(), layer).double()
    transformed = transform(model)
    x = torch.randn(2, 4, *(7, 6, 5)[: layer.weight.dim() - 2], dtype=torch.float64, requires_grad=True)
    expected, actual = model(x), transformed(x)
    torch.testing.assert_close(actual, expected)
    g = torch.randn_like(expected)
    arguments = x, *model.parameters()
    for one, other in zip(
        torch.autograd.grad(actual, arguments, g), torch.autograd.grad(expected, arguments, g), strict=True
    ):
        torch.testing.assert_close(one, other)
    if transform is torch.fx.symbolic_trace:
        assert [node.target for node in transformed.graph.nodes if node.op == "call_function"] == [functional.upsample]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.SubpixelConv1d(4, 6, 3), "enlarges both axes of an image alike"),
        (layers.SubpixelConv2d(4, 6, 3, (1, 2)), "enlarges both axes of an image alike"),
        (layers.ConvTranspose2d(4, 6, 3, 2, padding_mode="replicate"), "`padding_mode` (='replicate')"),
    ],
)
def test_what_torch_has_no_modules_for_is_not_scripted(layer, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        torch.jit.script(layer)


# Memory formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(("weight_last", "input_last"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 8), (16, 1), (1, 8), (4, 3)])
def test_outputs_lie_in_memory_as_those_of_torch(grad, weight_last, input_last, inputs, outputs):
    pairs = [
        (layers.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)),
        (
            layers.ResizeConv2d(inputs, outputs, 3),
            nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1)),
        ),
        (
            layers.SubpixelConv2d(inputs, outputs, 3),
            nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 3, padding=1), nn.PixelShuffle(2)),
        ),
    ]
    for size in ((8, 9), (40, 33)):
        x = torch.randn(2, inputs, *size)
        if input_last:
            x = x.to(memory_format=torch.channels_last)
        for ours, theirs in pairs:
            if weight_last:
                ours.to(memory_format=torch.channels_last)
                theirs.to(memory_format=torch.channels_last)
            with torch.set_grad_enabled(grad):
                assert ours(x).stride() == theirs(x).stride()
