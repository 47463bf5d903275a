"""Small programs of torch functions, drawn by hypothesis: upsampling in every spelling, and what may stand around it.

A program is Python source, so that a failing one can be read and pasted. It is drawn line by line, and every line is
run as it is drawn: so its sizes fit, or it is the last one and raises.
"""

import operator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

LARGEST = 4000  # numbers in a tensor
PADDING = ("constant", "reflect", "replicate", "circular")
POINTWISE = (
    "F.relu({0})", "F.relu({0}, inplace=True)", "torch.sigmoid({0})", "F.silu({0})", "F.leaky_relu({0}, 0.2)",
    "{0} * 2", "1 - {0}", "{0} / 3", "{0} + {0}", "{0}.mul_(0.5)", "{0}.add_(1)", "{0}.clone()", "{0}.contiguous()",
    "{0}.detach()",
    "{0} * {0}.mean()", "torch.where({0} > 0, {0}, {0} * 0.1)", "F.dropout({0}, training=False)", "torch.tanh({0})",
    "{0}.float()", "{0}.double()", "{0}.to(torch.bfloat16)", "{0}.to({0}.dtype)", "-{0}", "{0}.softmax(-1)",
    "F.group_norm({0}, 1)", "{0} + torch.arange({0}.shape[-1], dtype={0}.dtype)",
    "{0} * torch.arange({0}.numel()).view({0}.shape).to({0}.dtype).tanh()",
)  # fmt: skip
VIEWS = (
    "{0}.reshape(-1)", "{0}.flatten(1)", "{0}.flatten(-2)", "{0}.mT", "{0}.unsqueeze(0)", "{0}.unsqueeze(1)",
    "{0}[..., None]", "{0}.squeeze()", "{0}.squeeze(0)", "{0}[0]", "{0}[..., 1:]", "{0}[:, :1]", "{0}[..., ::2]",
    "{0}[None]", "{0}.flip(-1)", "{0}.roll(1, -1)", "{0}.movedim(1, -1)", "{0}.movedim(-1, 1)", "{0}.chunk(2, -1)[0]",
    "{0}.view(-1)", "{0}.view({0}.shape[0], -1)", "{0}.reshape({0}.shape[0], -1)", "{0}.narrow(-1, 0, 1)",
    "{0}.contiguous(memory_format=torch.channels_last)", "{0}.select(-1, 0)", "{0}.diagonal(0, -2, -1)",
    "torch.meshgrid({0}.reshape(-1)[:4], torch.arange(3.0), indexing='ij')[0]", "{0}.view({0}.shape)",
)  # fmt: skip


class Weight(NamedTuple):
    shape: tuple[int, ...]
    channels_last: bool


class Input(NamedTuple):
    """`order` says how it lies in memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    order: str

    def make(self, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def noise(shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.dtype)

        if self.order == "channels last":
            return noise(self.shape).movedim(1, -1).contiguous().movedim(-1, 1)
        if self.order == "transposed":
            return noise(self.shape[::-1]).permute(*range(len(self.shape) - 1, -1, -1))
        if self.order == "sliced":
            return noise((*self.shape[:-1], 2 * self.shape[-1]))[..., ::2]
        if self.order == "expanded":
            return noise((1, *self.shape[1:])).expand(self.shape)
        return noise(self.shape)


class Program(NamedTuple):
    lines: list[str]
    returned: list[str]
    inputs: list[Input]
    weights: list[Weight]
    dtype: torch.dtype

    def __repr__(self):
        given = "\n".join(f"    # {name}: {value}" for name, value in zip("xy", self.inputs, strict=False))
        weights = "\n".join(f"    # m.w{at}: {weight}" for at, weight in enumerate(self.weights))
        return f"\n# {self.dtype}\n{self.source.replace(':', f':{chr(10)}{given}{chr(10)}{weights}', 1)}"

    @property
    def source(self):
        names = ", ".join("xy"[: len(self.inputs)])
        body = "".join(f"    {line}\n" for line in [*self.lines, f"return {', '.join(self.returned)},"])
        return f"def run(m, {names}):\n{body}"

    def model(self):
        return Drawn(self)

    @property
    def types(self):
        """All types that it names or is given."""
        named = {torch.bfloat16: "bfloat16", torch.float32: "float()"}
        return {self.dtype} | {dtype for dtype, name in named.items() if name in self.source}


class Drawn(nn.Module):
    def __init__(self, program):
        super().__init__()
        for at, weight in enumerate(program.weights):
            setattr(self, f"w{at}", nn.Parameter(_values(weight, at, program.dtype)))
        names = {"torch": torch, "F": F}
        exec(program.source, names)
        self.run = names["run"]

    def forward(self, *inputs):
        return self.run(self, *inputs)


def _values(weight, seed, dtype):
    values = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return values.movedim(1, -1).contiguous().movedim(-1, 1) if weight.channels_last else values


# Drawing --------------------------------------------------------------------------------------------------------------


class _Drawing:
    """A program in the making: what its names stand for, and what follows may be."""

    def __init__(self, draw, inputs, dtype):
        self.draw, self.dtype = draw, dtype
        self.values = {name: each.make() for name, each in zip("xy", inputs, strict=False)}
        self.weights = []
        self.upsampled = False

    def weight(self, *shape):
        self.weights.append(Weight(shape, len(shape) > 3 and self.of([False, False, True])))
        return f"m.w{len(self.weights) - 1}"

    def of(self, values):
        return self.draw(st.sampled_from(values))

    def number(self, least, most):
        return self.draw(st.integers(least, most))

    def per_axis(self, axes, least, most):
        if self.draw(st.booleans()):
            return self.number(least, most)
        return tuple(self.number(least, most) for _ in range(axes))


def _axes(t):
    return min(max(t.dim() - 2, 1), 3)


def _pointwise(d, name, t):
    return d.of(POINTWISE).format(name)


def _view(d, name, t):
    return d.of(VIEWS).format(name)


def _repeat(d, name, t):
    dim, times = d.number(-t.dim(), t.dim() - 1), d.number(1, 3)
    return d.of([
        f"{name}.repeat_interleave({times}, {dim})",
        f"{name}.repeat_interleave({times}, dim={dim})",
        f"torch.repeat_interleave({name}, {times}, dim={dim})",
        f"torch.repeat_interleave({name}, {times})",
        f"{name}.repeat_interleave(torch.tensor({[times] * t.shape[dim]}), {dim})",
        f"{name}.repeat({', '.join(str(d.number(1, 2)) for _ in t.shape)})",
        f"{name}.repeat(2, {', '.join('1' for _ in t.shape)})",
        f"torch.tile({name}, (2,))",
    ])  # fmt: skip


def _expand(d, name, t):
    dim, times = d.number(0, t.dim() - 1), d.number(1, 3)
    inserted = [*t.shape[: dim + 1], times, *t.shape[dim + 1 :]]
    merged = [*t.shape[:dim], t.shape[dim] * times, *t.shape[dim + 1 :]]
    free = [*merged[:dim], -1, *merged[dim + 1 :]]
    expanded = f"{name}.unsqueeze({dim + 1}).expand({', '.join(map(str, inserted))})"
    return d.of([
        f"{expanded}.reshape({', '.join(map(str, merged))})",
        f"{expanded}.reshape({tuple(free)})",
        f"{expanded}.flatten({dim}, {dim + 1})",
        f"torch.reshape({expanded}, {tuple(merged)})",
        f"{expanded}.reshape(-1)",
        f"{expanded}.contiguous().view({', '.join(map(str, merged))})",
        expanded,
        f"{name}.expand({times}, {', '.join(['-1'] * t.dim())})",
        f"{name}.expand({', '.join(map(str, (times if n == 1 else n for n in t.shape)))})",
        f"torch.broadcast_to({name}, ({times}, {', '.join(map(str, t.shape))}))",
        f"{name}.new_ones({times}).expand({t.shape[0]}, {times}).reshape(-1)",
    ])  # fmt: skip


def _join(d, name, t):
    others = [other for other, value in d.values.items() if value.dim() == t.dim()]
    dim = d.number(-t.dim() - 1, t.dim() - 1)
    same = [other for other in others if d.values[other].shape == t.shape]
    fitting = [other for other in others if dim < 0 or sum(map(operator.ne, d.values[other].shape, t.shape)) <= 1]
    pair = [name, d.of(fitting or [name])]
    pair = pair[:: d.of([1, -1])]
    return d.of([
        f"torch.cat([{', '.join(pair)}], {max(dim, -t.dim())})",
        f"torch.cat(({', '.join(pair)}), dim={max(dim, -t.dim())})",
        f"torch.stack([{name}, {d.of(same)}], {dim})",
        f"{name} + {d.of(same)}",
        f"{name} * {d.of(others)}",
    ])  # fmt: skip


def _pad(d, name, t):
    axes = d.number(1, _axes(t))
    sides = [d.number(-1, 3) if d.number(0, 4) == 0 else d.number(0, 2) for _ in range(2 * axes)]
    value = d.of(["", "", ", 'constant', 0.5", *(f", mode='{mode}'" for mode in PADDING)])
    return f"F.pad({name}, {sides}{value})"


def _interpolate(d, name, t):
    axes = _axes(t)
    scale = d.per_axis(axes, 1, 3)
    size = tuple(n * d.number(1, 3) for n in t.shape[2:]) or (2,)
    smooth = {1: "linear", 2: "bilinear", 3: "trilinear"}[axes]
    mode = d.of(["nearest", "nearest", "nearest-exact", "nearest-exact", "area", smooth])
    given = d.of([
        f"scale_factor={scale}",
        f"scale_factor={scale}",
        f"scale_factor={scale if isinstance(scale, tuple) else float(scale)}, recompute_scale_factor=True",
        f"scale_factor={d.of([0.5, 1.5, 2.0, 2.5])}",
        f"size={size}",
        f"size=({', '.join(f'{d.number(1, 3)} * {name}.shape[{at + 2}]' for at in range(axes))},)",
        f"size={d.number(1, 9)}",
    ])  # fmt: skip
    return f"F.interpolate({name}, {given}, mode='{mode}')"


def _conv(d, name, t):
    axes, transposed = _axes(t), not d.upsampled and d.of([False, True])
    batched = t.dim() == axes + 2
    channels = t.shape[1] if batched else t.shape[0]
    if d.number(0, 19) == 0:
        channels += 1  # which torch refuses
    groups = d.of([1, 1, 1, channels])
    outputs = groups * d.number(1, 3)
    kernel = tuple(d.number(1, 4) for _ in range(axes))
    if transposed:
        weight, bias = d.weight(channels, outputs // groups, *kernel), d.weight(outputs)
        stride = d.per_axis(axes, 1, 3)
        rest = f"{stride}, {d.per_axis(axes, 0, 1)}, {d.of([0, 0, 0, 1])}, {groups}, {d.of([1, 1, 2])}"
        function = f"F.conv_transpose{axes}d"
    else:
        weight, bias = d.weight(outputs, channels // groups, *kernel), d.weight(outputs)
        stride = 1 if d.upsampled else d.of([1, d.per_axis(axes, 1, 2)])
        padding = d.of(["'same'" if stride == 1 else "0", "'valid'", d.per_axis(axes, 0, 2), d.per_axis(axes, 0, 2)])
        rest = f"{stride}, {padding}, {d.of([1, 1, 2])}, {groups}"
        function = d.of([f"F.conv{axes}d", f"torch.conv{axes}d"])
    return f"{function}({name}, {weight}, {d.of([bias, bias, 'None'])}, {rest})"


def _upsample(d, name, t):
    """By an integer along the axes of an image, in one of the ways that are rewritten."""
    axes = t.dim() - 2
    scale = d.per_axis(axes, 1, 3)
    dim, times = d.number(2, t.dim() - 1) if axes > 0 else 0, d.number(2, 3)
    merged = [*t.shape[:dim], -1, *t.shape[dim + 1 :]]
    inserted = [*t.shape[: dim + 1], times, *t.shape[dim + 1 :]]
    return d.of([
        f"F.interpolate({name}, scale_factor={scale})",
        f"F.interpolate({name}, scale_factor={scale}, mode='nearest-exact')",
        f"F.interpolate({name}, size=({', '.join(f'2 * {name}.shape[{at + 2}]' for at in range(axes))},))",
        f"{name}.repeat_interleave({times}, {dim})",
        f"{name}.unsqueeze({dim + 1}).expand({inserted}).reshape({merged})",
    ])  # fmt: skip


def _shuffle(d, name, t):
    axes = _axes(t)
    at = t.dim() - axes - 1  # the channels' axis
    split = f"{name}.unflatten({at}, (-1, {', '.join(['2'] * axes)}))"
    order = [*range(at + 1), *(axis for each in range(axes) for axis in (at + 1 + axes + each, at + 1 + each))]
    merged = [*t.shape[:at], t.shape[at] // 2**axes, *(2 * n for n in t.shape[at + 1 :])]
    return d.of([
        f"F.pixel_shuffle({name}, 2)",
        f"F.pixel_unshuffle({name}, 2)",
        f"F.channel_shuffle({name}, 2)",
        f"{split}.permute({order}).reshape({merged})",
    ])  # fmt: skip


_ANY = (
    _pointwise, _pointwise, _view, _view, _repeat, _expand, _join, _join, _pad, _interpolate, _conv, _conv, _upsample,
    _upsample, _upsample, _shuffle,
)  # fmt: skip
_AFTER_UPSAMPLING = (_conv, _conv, _conv, _conv, _pointwise, _pointwise, _join, _pad, _upsample)


def _evaluated(d, expression):
    class Weights:
        pass

    for at, weight in enumerate(d.weights):
        setattr(Weights, f"w{at}", _values(weight, at, d.dtype))
    return eval(expression, {"torch": torch, "F": F, "m": Weights}, d.values)


@st.composite
def programs(draw, most=6):
    """A program of up to so many lines, and what it is given."""
    axes = draw(st.integers(1, 3))
    dtype = draw(st.sampled_from([torch.float64, torch.float64, torch.float32, torch.bfloat16]))
    largest = {1: 9, 2: 6, 3: 4}[axes]
    shape = tuple(draw(st.integers(1, 3)) for _ in range(2)) + tuple(draw(st.integers(1, largest)) for _ in range(axes))
    if draw(st.integers(0, 9)) == 0:
        shape = shape[1:]
    orders = ["contiguous", "contiguous", "channels last", "transposed", "sliced", "expanded"]
    inputs = [Input(shape, dtype, draw(st.sampled_from(orders))) for _ in range(draw(st.sampled_from([1, 1, 2])))]
    drawing = _Drawing(draw, inputs, dtype)
    lines, fails = [], False
    with torch.no_grad():
        for at in range(draw(st.integers(1, most))):
            names = list(drawing.values)
            name = names[-1] if draw(st.integers(0, 7)) else draw(st.sampled_from(names))
            kept = len(drawing.weights)
            try:
                steps = _AFTER_UPSAMPLING if drawing.upsampled else _ANY
                step = draw(st.sampled_from(steps if drawing.values[name].dim() else (_pointwise, _view)))
                expression = step(drawing, name, drawing.values[name])
            except IndexError:  # a step for tensors of more axes
                continue
            try:
                value = _evaluated(drawing, expression)
                fails = False
            except Exception as refused:
                # Source that is none comes of tensors without the axes of an image.
                fails = not isinstance(refused, SyntaxError) and draw(st.integers(0, 9)) == 0
                if not fails:
                    del drawing.weights[kept:]
                    continue
            if not fails and (not isinstance(value, torch.Tensor) or value.numel() > LARGEST):
                del drawing.weights[kept:]
                continue
            lines.append(f"t{at} = {expression}")
            drawing.upsampled = step is _upsample or (drawing.upsampled and step is not _conv)
            if fails:
                returned = [f"t{at}"]
                break
            drawing.values[f"t{at}"] = value
    if not fails:
        made = [name for name in drawing.values if name not in ("x", "y")] or ["x"]
        returned = sorted({made[-1], *(draw(st.sampled_from(made)) for _ in range(draw(st.integers(0, 2))))})
    return Program(lines, returned, inputs, drawing.weights, dtype)
