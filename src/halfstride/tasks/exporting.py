"""`export`: a trained run as one file that needs no halfstride, checked before it is written."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from halfstride._support.arguments import read_choice
from halfstride.autoencoder.writing import writing
from halfstride.tasks.detection.detector import Detector, FittedDetector, load_detector
from halfstride.tasks.run import TrainedRun, load_run

__all__ = ["Exported", "export"]

Layout = Literal["NHWC", "NCHW"]
Parts = Literal["all", "encoder", "decoder"]

_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2  # of each output's range
_SMALLEST_HALVED = 1_024  # numbers of a weight from which on it is stored in half precision
_CHECKED = 8


@dataclass(frozen=True)
class Exported:
    """What was written, and how it was checked."""

    path: Path
    example: Path | None
    """A program that runs the file with onnxruntime and numpy alone; None for a `.pt2` file."""
    inputs: dict[str, str]
    """Name and shape of each."""
    outputs: dict[str, str]
    errors: dict[str, float]
    """The largest difference from PyTorch of each output, as a share of its range over the images checked."""
    images: int
    """How many were compared."""


class _Whole(nn.Module):
    """From bytes to image, code and, with a detector, score, anomaly map and label."""

    def __init__(self, model: nn.Module, detector: Detector | None, layout: Layout) -> None:
        super().__init__()
        self.model, self.detector, self.layout = model, detector, layout

    def forward(self, images: Tensor, threshold: Tensor | None = None) -> tuple[Tensor, ...]:
        values = _values(images, self.layout)
        if self.detector is None or threshold is None:
            codes = self.model.encode(values)  # type: ignore[operator]
            outputs = self.model.decode_to(codes, *values.shape[-2:])  # type: ignore[operator]
            return _bytes(outputs, self.layout), codes
        outputs, codes, scores, maps = self.detector.with_reconstructions(values)
        return _bytes(outputs, self.layout), codes, scores, maps, scores > threshold


class _Encoder(nn.Module):
    def __init__(self, model: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.model, self.layout = model, layout

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.model.encode(_values(images, self.layout)),)  # type: ignore[operator]


class _Decoder(nn.Module):
    def __init__(self, model: Any, layout: Layout) -> None:
        super().__init__()
        self.model, self.layout = model, layout
        self.scale = model.downscale if model.takes_any_size else None

    def forward(self, codes: Tensor) -> tuple[Tensor, ...]:
        size = self.model.image_size
        if self.scale is not None:
            size = codes.shape[-2] * self.scale, codes.shape[-1] * self.scale
        return (_bytes(self.model.decode_to(codes, *size), self.layout),)


def _values(images: Tensor, layout: Layout) -> Tensor:
    """Images of uint8 as the model takes them: N×C×H×W with values in [0, 1]."""
    return (images.permute(0, 3, 1, 2) if layout == "NHWC" else images).to(torch.float32) / 255


def _bytes(outputs: Tensor, layout: Layout) -> Tensor:
    """What a model decodes as images of uint8."""
    images = outputs.permute(0, 2, 3, 1) if layout == "NHWC" else outputs
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def export(
    run: Any,
    out: str | Path,
    *,
    parts: Parts = "all",
    layout: Layout = "NHWC",
    half: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Exported:
    """Write a trained run as an ONNX file, or as a `.pt2` file of `torch.export`.

    The file takes images of uint8, in RGB or grey, and does everything else itself. Pictures must have the size that
    the model takes, or for a latent map any size. With a detector it also returns score, anomaly map and label; the
    threshold is an input whose default is that of the detector. Before the file gets its name it is run beside PyTorch
    on test images of the run, and refused where an output differs.

    Args:
        run: a `TrainedRun`, or a run's folder.
        out: `NAME.onnx` or `NAME.pt2`; replaced where it exists.
        parts: `"all"`, `"encoder"` (images to codes) or `"decoder"` (codes to images).
        layout: of images: `"NHWC"` or `"NCHW"`.
        half: store the weights of an ONNX file in half precision; it still computes in float32.
        progress: called with what is being done, how much of it is done, and how much there is.

    Raises:
        ValueError: for another suffix, a run with an encoder that cannot be exported, or outputs that differ.

    Example:
        >>> export("runs/parts", "parts.onnx").errors  # doctest: +SKIP
    """
    path, run = Path(out), load_run(run)
    report = progress or (lambda *_: None)
    read_choice("parts", parts, get_args(Parts))
    read_choice("layout", layout, get_args(Layout))
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"`out` (={path}) must end in .onnx or .pt2.")
    if half and path.suffix == ".pt2":
        raise ValueError("`half` (=True) is for .onnx files.")
    if not path.parent.is_dir():
        raise ValueError(f"`out` (={path}) must lie in a folder that exists: create {path.parent} first.")
    fitted = _fitted(run) if parts == "all" else None
    module, names = _module(run, fitted, parts, layout)
    report("reading test images", 0, 3)
    examples = _examples(run, parts, layout, fitted)
    report("exporting", 1, 3)
    with _quiet():
        program = torch.export.export(
            module, examples, dynamic_shapes=_free(run, examples, parts, layout), strict=False
        )
    with writing(path) as temporary, _quiet():
        if path.suffix == ".pt2":
            stream = io.BytesIO()  # torch wants a name that ends in .pt2, which a temporary one does not
            torch.export.save(program, stream)
            temporary.write_bytes(stream.getvalue())
            found = [value.numpy() for value in torch.export.load(io.BytesIO(stream.getvalue())).module()(*examples)]
        else:
            _write_onnx(program, temporary, names, run, fitted, layout, half)
            found = _run_onnx(temporary, names[0], examples)
        report("comparing with PyTorch", 2, 3)
        expected = [value.numpy() for value in module(*examples)]
        errors = _errors(names[1], found, expected, fitted, _HALF_TOLERANCE if half else _TOLERANCE)
        example = None
        if path.suffix == ".onnx":
            example = path.with_name(f"{path.stem}_example.py")
            with writing(example) as program_file:
                program_file.write_text(_example(path.name, names, run, fitted, parts, layout), encoding="utf-8")
    report("comparing with PyTorch", 3, 3)
    inputs, outputs = (
        {name: _shape(value) for name, value in zip(each, values, strict=True)}
        for each, values in ((names[0], examples), (names[1], expected))
    )
    return Exported(path, example, inputs, outputs, errors, len(examples[0]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of packages that are not needed, and warns of itself."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _fitted(run: TrainedRun) -> FittedDetector | None:
    return load_detector(run.model, run.path) if (run.path / "detector.json").is_file() else None


def _module(
    run: TrainedRun, fitted: FittedDetector | None, parts: Parts, layout: Layout
) -> tuple[nn.Module, tuple[list[str], list[str]]]:
    """What is exported, and the names of its inputs and outputs."""
    model = run.model.cpu().eval()
    if parts == "encoder":
        return _Encoder(model, layout).eval(), (["images"], ["code"])
    if parts == "decoder":
        return _Decoder(model, layout).eval(), (["code"], ["image"])
    detector = None if fitted is None else fitted.detector.cpu()
    names = ["image", "code", "score", "anomaly_map", "label"]
    if detector is None:
        return _Whole(model, None, layout).eval(), (["images"], names[:2])
    return _Whole(model, detector, layout).eval(), (["images", "threshold"], names)


@torch.no_grad()
def _examples(run: TrainedRun, parts: Parts, layout: Layout, fitted: FittedDetector | None) -> tuple[Tensor, ...]:
    """Test images of the run, or noise where they cannot be read; codes of them for a decoder."""
    images = None
    if run.run.image_options.source is not None:
        try:
            images = run.run.image_options.load().test.sample(_CHECKED).images
            images = images[:, 0] if images.ndim == 5 else images
        except ValueError:  # they have moved; the check is then on noise
            images = None
    if images is None or len(images) < 2:
        images = torch.randint(256, (_CHECKED, run.model.channels, *run.model.image_size), dtype=torch.uint8)
    if parts == "decoder":
        return (run.model.encode(images.float() / 255),)
    images = images.permute(0, 2, 3, 1).contiguous() if layout == "NHWC" else images
    return (images,) if fitted is None else (images, torch.tensor(fitted.threshold.value))


def _free(run: TrainedRun, examples: Sequence[Tensor], parts: Parts, layout: Layout) -> tuple[Any, ...]:
    """Which sizes may change: the batch, and of a latent map height and width."""
    axes: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if run.model.takes_any_size:
        first = 1 if layout == "NHWC" and parts != "decoder" else 2
        axes |= {first: torch.export.Dim.DYNAMIC, first + 1: torch.export.Dim.DYNAMIC}
    return (axes, *([{}] * (len(examples) - 1)))


def _write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    names: tuple[list[str], list[str]],
    run: TrainedRun,
    fitted: FittedDetector | None,
    layout: Layout,
    half: bool,
) -> None:
    import onnx
    from onnx import numpy_helper

    with _quiet():
        made = torch.onnx.export(program, dynamo=True, input_names=names[0], output_names=names[1], verbose=False)
    assert made is not None
    model = made.model_proto
    for part in (*model.graph.node, *model.graph.value_info, model.graph, *model.functions):
        del part.metadata_props[:]  # stack traces, with the paths of this machine
    _name_sizes(model, "NHWC" if layout == "NHWC" and names[0][0] == "images" else "NCHW")
    if fitted is not None:  # an input with an initializer of its name is optional
        default = np.array(fitted.threshold.value, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(default, "threshold"))
    if half:
        _halve(model)
    size = "any" if run.model.takes_any_size else "{}x{}".format(*run.model.image_size)
    told = {
        "halfstride.size": size,
        "halfstride.fit": run.run.image_options.fit,
        "halfstride.channels": "RGB" if run.model.channels == 3 else str(run.model.channels),
        "halfstride.layout": layout,
    }
    if fitted is not None:
        told["halfstride.threshold"] = json.dumps(fitted.threshold._asdict())
    onnx.helper.set_model_props(model, told)
    onnx.save(model, str(path))


def _name_sizes(model: Any, layout: Layout) -> None:
    """Call the sizes that may change batch, height and width, where torch calls them s34 and the like."""
    meanings = {"N": "batch", "H": "height", "W": "width"}
    if model.graph.input[0].name == "code":
        meanings |= {"H": "code_height", "W": "code_width"}
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dim.dim_param: meanings[axis] for dim, axis in zip(dims, layout, strict=False) if dim.dim_param}
    if not names:
        return
    pattern = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in names))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda found: names[found[0]], dim.dim_param)


def _halve(model: Any) -> None:
    """Store large weights in half precision, each followed by a cast, so that every runtime can compute with them."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size >= _SMALLEST_HALVED:
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _run_onnx(path: Path, names: Sequence[str], examples: Sequence[Tensor]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    inputs = {name: value.numpy() for name, value in zip(names, examples, strict=True)}
    found: list[np.ndarray] = session.run(None, inputs)
    return found


def _errors(
    names: Sequence[str],
    found: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    fitted: FittedDetector | None,
    tolerance: float,
) -> dict[str, float]:
    """The differences of all outputs.

    Raises:
        ValueError: where one is larger than the tolerance.
    """
    errors = {}
    for name, here, there in zip(names, found, expected, strict=True):
        if name == "label":
            scores = expected[list(names).index("score")]
            assert fitted is not None
            near = tolerance * max(float(np.ptp(scores)), 1.0)
            clear = np.abs(scores - fitted.threshold.value) > near
            errors[name] = float((here != there)[clear].mean()) if clear.any() else 0.0
            limit = 0.0
        elif name == "image":  # bytes: rounding may fall to either side
            errors[name] = float(np.abs(here.astype(int) - there.astype(int)).max()) / 255
            limit = max(tolerance, 1.001 / 255)
        else:
            span = float(np.ptp(there)) or 1.0
            errors[name] = float(np.abs(here - there).max()) / span
            limit = tolerance
        if not errors[name] <= limit:  # nor NaN
            raise ValueError(
                f"`out` was not written: `{name}` differs from PyTorch's by {errors[name]:.1e} of its range, more than "
                f"{limit:.0e}. Other versions of onnx, onnxscript and onnxruntime may help."
            )
    return errors


def _shape(value: Any) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{dtype} {'×'.join(['N', *map(str, value.shape[1:])]) if value.ndim else 'scalar'}"


def _example(
    file: str,
    names: tuple[list[str], list[str]],
    run: TrainedRun,
    fitted: FittedDetector | None,
    parts: Parts,
    layout: Layout,
) -> str:
    """A program that needs numpy and onnxruntime alone."""
    height, width = run.model.image_size
    channels = run.model.channels
    if parts == "decoder":
        shape = (1, *run.model.latent_shape)
        feed = f"codes = np.zeros({shape}, np.float32)  # codes of your own"
        name = "codes"
    else:
        shape = (1, height, width, channels) if layout == "NHWC" else (1, channels, height, width)
        some = "any size" if run.model.takes_any_size else f"pictures brought to {height}×{width}"
        feed = f"images = np.zeros({shape}, np.uint8)  # {some}, {'RGB' if channels == 3 else 'grey'}, {layout}"
        name = "images"
    threshold = ""
    if fitted is not None:
        threshold = (
            '# Another threshold: inputs["threshold"] = np.array(..., np.float32); by default '
            f"{fitted.threshold.value:.4f}, for {fitted.threshold.asked:g} false alarms.\n"
        )
    return (
        f'"""Run {file} with numpy and onnxruntime alone: pip install numpy onnxruntime"""\n\n'
        "from pathlib import Path\n\nimport numpy as np\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession(Path(__file__).with_name("{file}"))\n{feed}\n'
        f'inputs = {{"{names[0][0]}": {name}}}\n{threshold}'
        f"for output, value in zip(session.get_outputs(), session.run(None, inputs)):\n"
        "    print(output.name, value.dtype, value.shape)\n"
    )
