"""The size formula of a layer with its numbers, and the code that computes what is shown."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from halfstride import formulas, geometry
from halfstride.studio.layer import Layer


class Token(BaseModel):
    """A piece of a formula, and the side of the layer that it belongs to."""

    text: str
    role: formulas.Role


class Formula(BaseModel):
    """The output size, step by step: in symbols, with numbers, simplified, and the result."""

    name: str
    lines: list[list[Token]]
    note: str = Field(description="The layer that reverses the sizes, or the equal transposed convolution.")


class Code(BaseModel):
    """Python code that creates this layer with these weights and applies it to this input."""

    pytorch: str
    halfstride: str


NAMES = {
    "conv": "Convolution",
    "transposed": "Transposed convolution",
    "resize": "Resize-convolution",
    "subpixel": "Sub-pixel convolution",
}


# The formula ----------------------------------------------------------------------------------------------------------


def formula(layer: Layer) -> Formula:
    """Return the formula of the output size along one axis."""
    n, k, s, p, d = layer.input_size, layer.kernel_size, layer.stride, layer.padding, layer.dilation
    if layer.form == "transposed":
        lines = formulas.conv_transpose(n, k, s, p, layer.output_padding, d)
        note = f"The convolution with the same arguments maps size {_inputs(layer)} to {n}."
    elif layer.form == "conv":
        lines = formulas.conv(n, k, s, p, d)
        left = geometry.output_padding_for(layer.output_size, n, k, s, p, d)
        way = "" if not left else f" and output_padding={left}"
        note = f"The transposed convolution with the same arguments{way} maps size {layer.output_size} to {n}."
    elif layer.form == "resize":
        lines = formulas.resize_conv(n, k, s, p, d)
        note = f"It equals a transposed convolution of kernel size {d * (k - 1) + s}, whose taps are sums of these."
    else:
        lines = formulas.subpixel_conv(n, k, s, p, d)
        note = f"It equals a transposed convolution of kernel size {k * s}" + (
            ", dilated." if d > 1 else ", one small kernel for each phase."
        )
    return Formula(
        name=NAMES[layer.form],
        lines=[[Token(text=text, role=role) for text, role in line] for line in lines],
        note=note,
    )


def _inputs(layer: Layer) -> str:
    """The sizes that the convolution with a transposed convolution's arguments maps to its input size."""
    try:
        sizes = geometry.conv_input_sizes(
            layer.input_size, layer.kernel_size, layer.stride, layer.padding, layer.dilation
        )
    except ValueError:
        return "of no input"
    return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} {'or' if len(sizes) == 2 else 'to'} {sizes[-1]}"


# The code -------------------------------------------------------------------------------------------------------------


def code(layer: Layer, input: Sequence[float], kernel: Sequence[float]) -> Code:
    """Return the layer in PyTorch and in halfstride, with its weights and its input; both assign the output to `y`."""
    shape = (1, 1, *(layer.input_size,) * layer.dims)
    weight = (layer.kernels, 1, *(layer.kernel_size,) * layer.dims)
    x = f"x = torch.tensor({_nested(input, shape)})"
    w = f"w = torch.tensor({_nested(kernel, weight)})"
    return Code(
        pytorch="\n".join(["import torch", "from torch import nn", "", x, w, *_torch(layer)]),
        halfstride="\n".join(["import torch", "import halfstride", "", x, w, *_halfstride(layer)]),
    )


def _torch(layer: Layer) -> list[str]:
    dims, s = layer.dims, layer.stride
    if layer.form in ("conv", "transposed"):
        name = f"nn.Conv{'Transpose' if layer.form == 'transposed' else ''}{dims}d"
        return [f"layer = {name}({_arguments(layer, 'stride')})", *_with_weight("layer"), "y = layer(x)"]
    if layer.form == "resize":
        return [
            f"conv = nn.Conv{dims}d({_arguments(layer)})",
            *_with_weight("conv"),
            f"layer = nn.Sequential(nn.Upsample(scale_factor={s}), conv)",
            "y = layer(x)",
        ]
    convolution = [f"conv = nn.Conv{dims}d({_arguments(layer, outputs=layer.kernels)})", *_with_weight("conv")]
    if dims == 1:  # torch has no one-dimensional pixel shuffle
        return [*convolution, "y = conv(x).transpose(1, 2).reshape(1, 1, -1)"]
    return [*convolution, f"layer = nn.Sequential(conv, nn.PixelShuffle({s}))", "y = layer(x)"]


def _halfstride(layer: Layer) -> list[str]:
    dims = layer.dims
    if layer.form == "conv":
        # halfstride has no convolution of its own; it adds the adjoint with an exact size.
        return [
            f"layer = torch.nn.Conv{dims}d({_arguments(layer, 'stride')})",
            *_with_weight("layer"),
            "y = layer(x)",
            f"back = halfstride.functional.conv_transpose{dims}d(",
            f"    y, w, stride={layer.stride}, padding={layer.padding}, dilation={layer.dilation}, "
            f"output_size={layer.input_size}",
            ")  # the adjoint: as large as x again",
        ]
    name = {"transposed": "ConvTranspose", "resize": "ResizeConv", "subpixel": "SubpixelConv"}[layer.form]
    stride = "stride" if layer.form == "transposed" else "scale_factor"
    return [f"layer = halfstride.{name}{dims}d({_arguments(layer, stride)})", *_with_weight("layer"), "y = layer(x)"]


def _arguments(layer: Layer, stride: str | None = None, outputs: int = 1) -> str:
    arguments = ["1", str(outputs), f"kernel_size={layer.kernel_size}"]
    if stride is not None and (layer.stride != 1 or stride == "scale_factor"):
        arguments.append(f"{stride}={layer.stride}")
    if layer.padding or stride == "scale_factor":
        arguments.append(f"padding={layer.padding}")
    if layer.output_padding:
        arguments.append(f"output_padding={layer.output_padding}")
    if layer.dilation != 1:
        arguments.append(f"dilation={layer.dilation}")
    return ", ".join([*arguments, "bias=False"])


def _with_weight(layer: str) -> list[str]:
    return [f"{layer}.weight = torch.nn.Parameter(w)"]


def _nested(values: Sequence[float], shape: Sequence[int]) -> str:
    """Nested lists for `torch.tensor`, with decimal points so that its dtype is floating point."""
    if len(shape) == 1:
        return f"[{', '.join(repr(float(value)).removesuffix('0') for value in values)}]"
    step = len(values) // shape[0]
    return f"[{', '.join(_nested(values[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0]))}]"
