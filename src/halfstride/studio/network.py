"""A run's network for one image, layer by layer: feature maps, shapes, receptive fields, MACs, and links that open a
layer with its weights and a patch of its input in the upsampling page.
"""

from __future__ import annotations

import base64
import copy
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import urlencode

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from halfstride import layers
from halfstride._core import planner
from halfstride._support.models import removing
from halfstride.autoencoder import to_float
from halfstride.autoencoder.blocks import Downsample, ResidualBlock, Upsample
from halfstride.studio.explanation import check_size
from halfstride.studio.layer import read_layer
from halfstride.studio.pictures import Picture, picture
from halfstride.studio.run_files import Model
from halfstride.studio.text import NAMES

_MAPS = 12
"""Feature maps shown of each layer."""
_LARGEST_MAP = 64
"""Pixels along each axis of a feature map; larger ones are averaged."""
_LARGEST_VECTOR = 4096

_BLOCKS: dict[type[nn.Module], str] = {
    ResidualBlock: "plus the block's input",
    Downsample: "plus means of neighbouring inputs",
    Upsample: "plus copies of the input's channels",
}
_UPSAMPLING = (layers.ConvTranspose2d, layers.ResizeConv2d, layers.SubpixelConv2d)
_LAYERS: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear, nn.MaxPool2d, *_UPSAMPLING)
_WATCHED: tuple[type[nn.Module], ...] = (*_LAYERS, *_BLOCKS)

Part = Literal["image", "encoder", "code", "decoder", "reconstruction"]


class Maps(BaseModel):
    """Feature maps of a layer, all on one grey scale; a vector is a single map, filled row by row."""

    height: int
    width: int
    channels: list[int] = Field(description="The channels shown: those that vary most, at most 12; empty for a vector.")
    grey: str = Field(description="Base64 of a byte for each number, map after map: 0 for the lowest, 255 the highest.")


class NetworkStep(BaseModel):
    """A layer, or another point on the way from an image to its reconstruction."""

    part: Part
    name: str = Field(description="The module's name; empty for an image and for the code.")
    kind: str
    arguments: str = Field(description="The layer's arguments, or what a sum adds.")
    shape: list[int] = Field(description="Of its output for one image.")
    weights: int
    macs: int | None = Field(description="Multiply-accumulates by the layer's definition; null where it has none.")
    computed: str | None = Field(
        description="MACs of the algorithm that computes an upsampling layer, where they differ."
    )
    field: list[int] | None = Field(
        description="Height and width, in pixels, of the image that the middle of the output depends on, padding "
        "included; null for an image. Normalisation, which depends on the whole map, is not counted."
    )
    seen: list[int] | None = Field(description="Top, left, bottom and right of that part inside the image.")
    picture: Picture | None = Field(description="An image.")
    maps: Maps | None = Field(description="The output where it is no image.")
    links: list[str] = Field(description="For each map the query with which the upsampling page opens it.")
    closed: str | None = Field(description="Why a layer with weights does not open there.")


class Network(BaseModel):
    """A network for one image, from the image to the reconstruction."""

    steps: list[NetworkStep]


class _Origin(NamedTuple):
    """The run and the image that a link leads back to."""

    run: str
    image: int


@torch.inference_mode()
def trace(model: Model, image: Tensor, run: str, index: int) -> Network:
    """Run a model on an image, and describe every step.

    Args:
        model: the model.
        image: uint8 C×H×W.
        run: the run's name, for the links.
        index: the image's place among those shown, for the links.
    """
    # Hooks are registered on a copy, since other threads run the model; it shares all tensors.
    tensors = [*model.network.parameters(), *model.network.buffers()]
    network = copy.deepcopy(model.network, {id(tensor): tensor for tensor in tensors})
    found = _Trace(_Origin(run, index), (image.shape[1], image.shape[2]))
    found.add(part="image", kind="Image", shape=list(image.shape), picture=picture(image))
    handles: list[Any] = []
    with removing(handles):
        for name, module in network.named_modules():
            if isinstance(module, _WATCHED):
                handles.append(module.register_forward_hook(found.hook(name)))
        batch = to_float(image[None])
        code = network.encode(batch)
        found.enter_code(code[0], linear=network.linear, variational=network.variational)
        output = network.decode(code, model.image_size)[0]
    found.add(
        part="reconstruction",
        kind="Reconstruction",
        arguments=("both paths added, " if network.linear else "") + "cut to the image, clipped to [0, 1]",
        shape=list(output.shape),
        picture=picture(output.mul(255).round().to(torch.uint8)),
        **found.seen(output.shape[1:]),
    )
    return Network(steps=found.steps)


_Needed = Callable[[int, int], tuple[int, int]]


class _Trace:
    """Collects the steps in the order in which a model computes them. No features are kept: they may be large."""

    def __init__(self, origin: _Origin, size: tuple[int, int]) -> None:
        self.steps: list[NetworkStep] = []
        self._origin, self._size = origin, size
        self._part: Part = "encoder"
        # The layers between the image and this point; None once all positions have been mixed.
        self._path: list[_Needed] | None = []
        self._code_path: list[_Needed] | None = []

    def hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        """Return the forward hook of the module of this name."""

        # The linear path has a single layer on either side, which begins at the image and at the code.
        is_linear = name.startswith("linear_")

        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            path = self._path
            if is_linear:
                self._path = [] if self._part == "encoder" else self._code_path
            if isinstance(module, _LAYERS):
                self._add_layer(name, module, inputs[0], output)
            else:
                self._add_features(output[0], kind="Sum", name=name, arguments=_BLOCKS[type(module)])
            if is_linear:
                self._path = path  # that of the convolutions contains it

        return record

    def enter_code(self, code: Tensor, *, linear: bool, variational: bool) -> None:
        """Add the code, and go on with the decoder."""
        self._code_path = self._path
        self._part = "code"
        words = ["both paths added"] * linear + ["the mean of its distribution"] * variational
        self._add_features(code, kind="Code", name="", arguments=", ".join(words))
        self._part = "decoder"

    def add(self, **values: Any) -> None:
        """Add a step with these values, and none of the others."""
        usual = {"name": "", "arguments": "", "weights": 0, "links": [], "part": self._part}
        others = dict.fromkeys(("macs", "computed", "field", "seen", "picture", "maps", "closed"))
        self.steps.append(NetworkStep(**{**usual, **others, **values}))

    def _add_features(self, features: Tensor, **values: Any) -> Maps:
        maps = _maps(features)
        self.add(shape=list(features.shape), maps=maps, **self.seen(features.shape[1:]), **values)
        return maps

    def _add_layer(self, name: str, module: nn.Module, input: Tensor, output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            self._path = None
        elif self._path is not None:
            self._path = [*self._path, _needed(module)]
        macs, computed = _macs(module, input, output)
        kind, arguments = _described(module)
        maps = self._add_features(output[0], name=name, kind=kind, arguments=arguments)
        step = self.steps[-1]
        step.macs, step.computed = macs, computed
        step.weights = sum(parameter.numel() for parameter in module.parameters())
        if isinstance(module, (nn.Conv2d, *_UPSAMPLING)):
            try:
                step.links = self._links(name, module, input, maps.channels)
            except ValueError as error:
                step.closed = str(error)

    def seen(self, size: torch.Size) -> dict[str, Any]:
        """Return `field` and `seen` of the middle of an output of this height and width."""
        whole = [(0, side - 1) for side in self._size]
        if self._path is not None:
            for axis, side in enumerate(size):
                first = last = side // 2
                for needed in reversed(self._path):
                    first, last = needed(first, last)
                whole[axis] = first, last
        clipped = [
            (min(max(first, 0), side - 1), max(min(last, side - 1), 0) + 1)
            for (first, last), side in zip(whole, self._size, strict=True)
        ]
        (top, bottom), (left, right) = clipped
        return {"field": [last - first + 1 for first, last in whole], "seen": [top, left, bottom, right]}

    def _links(self, name: str, module: Any, input: Tensor, channels: list[int]) -> list[str]:
        """Return the query of each of these output channels, with the strongest input channel, where it varies most."""
        layer, features, links = _patch_layer(module, input), input[0], []
        spread = features.flatten(1).std(1, correction=0)
        step = layer["stride"] if layer["form"] == "conv" else 1
        for channel in channels:
            kernels = _kernels(module, channel)
            source = int((kernels.flatten(1).norm(dim=1) * spread).argmax())
            top, left, patch = _liveliest(features[source], layer["input_size"], step)
            query = {
                **layer,
                "input": _written(patch),
                "kernel": _written(kernels[source]),
                "run": self._origin.run,
                "image": self._origin.image,
                "from": name,
                "channels": f"{source},{channel}",
                "corner": f"{top},{left}",
            }
            links.append(urlencode(query, safe=","))
        return links


def _kernels(module: Any, channel: int) -> Tensor:
    """Return the kernels of one output channel, for each input channel those of all phases."""
    weight: Tensor = module.weight
    if isinstance(module, layers.ConvTranspose2d):
        return weight[:, channel, None]
    if isinstance(module, layers.SubpixelConv2d):
        phases = math.prod(module.scale_factor)
        return weight[channel * phases : (channel + 1) * phases].movedim(1, 0)
    return weight[channel][:, None]


def _written(numbers: Tensor) -> str:
    return ",".join(f"{number:.4g}" for number in numbers.flatten().tolist())


def _liveliest(features: Tensor, size: int, step: int) -> tuple[int, int, Tensor]:
    """Return the square patch of a feature map H×W that varies most, after its first row and column.

    These are multiples of `step`, so that a convolution of this stride has the same outputs there as in the whole map.
    """
    whole = features[None, None]
    variance = F.avg_pool2d(whole.square(), size, step) - F.avg_pool2d(whole, size, step).square()
    top, left = (step * place for place in divmod(int(variance.argmax()), variance.shape[-1]))
    return top, left, features[top : top + size, left : left + size]


def _patch_layer(module: Any, input: Tensor) -> dict[str, Any]:
    """Return the arguments of the upsampling page for a layer on a small square of its input.

    Raises:
        ValueError: where that page cannot show the layer.
    """
    arguments = _arguments(module, input.shape)
    k, s, d = (arguments[name] for name in ("kernel_size", "stride", "dilation"))
    # Large enough for inputs inside, small enough to be read.
    wanted = max(5, d * (k - 1) + 1 + s) if arguments["form"] == "conv" else 4 if s <= 2 else 3
    error = ValueError("Its input has no position.")
    for size in range(min(wanted, *input.shape[2:]), 0, -1):
        try:
            check_size(read_layer(**arguments, input_size=size))
        except ValueError as too_large:
            error = too_large
        else:
            return {**arguments, "input_size": size}
    raise error


def _arguments(module: Any, input_shape: torch.Size) -> dict[str, Any]:
    """Return a layer's form, kernel size, stride, padding, dilation and output padding, the same along both axes."""
    found: dict[str, Any] = {"kernel_size": module.kernel_size, "dilation": module.dilation}
    if isinstance(module, nn.Conv2d):
        found.update(form="conv", stride=module.stride, padding=module.padding, output_padding=(0, 0))
    else:
        case = planner.explain(_form(module), input_shape, module.weight.shape, **_geometry(module)).case
        found.update(form=case.form, stride=case.stride, padding=case.padding, output_padding=(0, 0))
        if case.form == "transposed":
            axes = zip(case.output_size, case.full_size, case.padding, strict=True)
            found["output_padding"] = tuple(size - full + 2 * padding for size, full, padding in axes)
        else:
            for before, after in case.upsampled_border if case.form == "resize" else case.border:
                if before != after:
                    raise ValueError(f"Its input is padded by {before} before and {after} after it.")
    for name, value in found.items():
        if name != "form":
            if len(set(value)) != 1:
                raise ValueError(f"Its {name.replace('_', ' ')} differs between the axes.")
            found[name] = value[0]
    return found


def _form(module: nn.Module) -> Literal["transposed", "resize", "subpixel"]:
    if isinstance(module, layers.ConvTranspose2d):
        return "transposed"
    return "resize" if isinstance(module, layers.ResizeConv2d) else "subpixel"


def _geometry(module: Any) -> dict[str, Any]:
    """Return an upsampling layer's arguments as `planner.explain` takes them."""
    names = ["padding", "dilation", "groups", "padding_mode"]
    names += ["stride", "output_padding"] if isinstance(module, layers.ConvTranspose2d) else ["scale_factor"]
    return {name: getattr(module, name) for name in names}


def _needed(module: Any) -> _Needed:
    """Return a function from the first and last output position along an axis to the input positions they need."""
    if isinstance(module, nn.MaxPool2d):
        k = s = cast(int, module.kernel_size)
        return lambda first, last: (first * s, last * s + k - 1)
    k, d = module.kernel_size[0], module.dilation[0]
    span = d * (k - 1)
    if not isinstance(module, _UPSAMPLING):
        s, p = module.stride[0], module.padding[0]
        return lambda first, last: (first * s - p, last * s - p + span)
    shape = (1, module.in_channels, 64, 64)  # the padding at the start is the same for every size
    case = planner.explain(_form(module), shape, module.weight.shape, **_geometry(module)).case
    s, p = case.stride[0], case.padding[0]
    if case.form == "transposed":
        return lambda first, last: (-((span - first - p) // s), (last + p) // s)
    if case.form == "resize":
        return lambda first, last: ((first - p) // s, (last - p + span) // s)
    return lambda first, last: (first // s - p, last // s - p + span)


def _macs(module: Any, input: Tensor, output: Tensor) -> tuple[int | None, str | None]:
    """Return a layer's MACs by its definition, and those of the algorithm that computes it where they differ."""
    if isinstance(module, _UPSAMPLING):
        choice = planner.explain(_form(module), input.shape, module.weight.shape, **_geometry(module))
        macs = {one.algorithm: one.macs for one in choice.candidates}
        fewer = macs[choice.algorithm] != macs["native"]
        return macs["native"], f"{macs[choice.algorithm]:,} ({choice.algorithm.replace('_', ' ')})" if fewer else None
    if isinstance(module, nn.MaxPool2d):
        return None, None
    return module.weight.numel() * math.prod(output.shape[2:]), None


def _described(module: Any) -> tuple[str, str]:
    """Return a layer's kind and its arguments in words."""
    if isinstance(module, nn.Linear):
        return "Fully connected", f"{module.in_features:,} → {module.out_features:,}"
    if isinstance(module, nn.MaxPool2d):
        return "Max-pooling", f"{module.kernel_size}×{module.kernel_size}"
    words = ["×".join(map(str, module.kernel_size))]
    if isinstance(module, _UPSAMPLING):
        kind = NAMES[_form(module)]
        name = "stride" if kind == NAMES["transposed"] else "scale_factor"
        words.append(f"{name.removesuffix('_factor')} {getattr(module, name)[0]}")
    else:
        kind = NAMES["conv"]
        words += [f"stride {module.stride[0]}"] * (module.stride[0] > 1)
    if isinstance(module.padding, str) or module.padding[0]:
        words.append(f"padding {module.padding if isinstance(module.padding, str) else module.padding[0]}")
    return kind, ", ".join(words)


def _maps(features: Tensor) -> Maps:
    """Return the features of one image, C×H×W or a vector, as pictures."""
    if features.dim() == 1:
        features = features[:_LARGEST_VECTOR]
        width = math.ceil(math.sqrt(len(features)))
        return Maps(height=-(-len(features) // width), width=width, channels=[], grey=_grey(features))
    spread = features.flatten(1).var(1, correction=0)
    channels = sorted(spread.argsort(descending=True, stable=True)[:_MAPS].tolist())
    shown = features[channels]
    size = min(shown.shape[1], _LARGEST_MAP), min(shown.shape[2], _LARGEST_MAP)
    if size != shown.shape[1:]:
        shown = F.adaptive_avg_pool2d(shown, size)
    return Maps(height=size[0], width=size[1], channels=channels, grey=_grey(shown))


def _grey(values: Tensor) -> str:
    """Return values as bytes from their 0.5 % to their 99.5 % quantile, so that a few extremes do not hide the rest."""
    numbers = values.double().numpy()
    low, high = np.quantile(numbers, (0.005, 0.995))
    if not high > low:
        return base64.b64encode(bytes([128]) * numbers.size).decode()
    scaled = np.clip((numbers - low) / (high - low), 0, 1) * 255
    return base64.b64encode(scaled.round().astype(np.uint8).tobytes()).decode()
