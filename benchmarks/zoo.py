"""Public architectures with random weights: does the package go wrong on any of them?

`optimize`, the compile backend, `diagnose` and `cure` are tried on every model. Nothing is timed.
`python -m benchmarks.zoo` writes results/zoo.json and, made from it, results/zoo.md; after an interruption it goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import platform
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._inductor.config
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend

import halfstride
from benchmarks.models import make_torchvision_importable
from benchmarks.report import table
from halfstride._support.models import arguments_of
from halfstride._support.torch_private import tree_leaves
from halfstride.optimizing import compiling
from halfstride.optimizing.example import Example, difference
from halfstride.optimizing.report import Times

__all__ = ["ZOO", "Architecture", "checked", "markdown"]

RESULTS = Path(__file__).parent / "results" / "zoo.json"
TOLERANCE = 1e-4
"""The largest difference of an output, as a share of its largest value: what `optimize` allows in float32."""


# The architectures ----------------------------------------------------------------------------------------------------


class Architecture(NamedTuple):
    """A model as its package builds it, made small by its own options, and example inputs for it."""

    package: str
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]


def _images(*shape: int) -> Callable[[], Any]:
    """Noise of this shape, as the only argument."""
    return lambda: torch.randn(shape)


def _named(**arguments: Any) -> Callable[[], Any]:
    """Named arguments: noise for those that are tuples, which are shapes; all others as they are."""
    return lambda: {
        name: torch.randn(value) if isinstance(value, tuple) else value for name, value in arguments.items()
    }


def _class(path: str, inputs: Callable[[], Any], *args: Any, **options: Any) -> Architecture:
    """What a class or function of a package makes of these arguments."""
    module, _, name = path.rpartition(".")
    return Architecture(
        module.partition(".")[0], name, lambda: getattr(import_module(module), name)(*args, **options), inputs
    )


def _configured(name: str, inputs: Callable[[], Any], config: str, **options: Any) -> Architecture:
    """A model of transformers by its configuration."""

    def build() -> nn.Module:
        import transformers

        made: nn.Module = getattr(transformers, name)(getattr(transformers, f"{config}Config")(**options))
        return made

    return Architecture("transformers", name, build, inputs)


_TWO_LEVELS = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [16, 32],
    "norm_num_groups": 8,
}
_UNET = {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1}
_BLOCKS_3D = {
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
}

DIFFUSERS = [
    _class("diffusers.AutoencoderKL", _images(2, 3, 32, 32), **_TWO_LEVELS),
    _class("diffusers.AutoencoderTiny", _images(2, 3, 32, 32)),
    _class("diffusers.VQModel", _images(2, 3, 32, 32), **_TWO_LEVELS, num_vq_embeddings=32),
    _class(
        "diffusers.AsymmetricAutoencoderKL",
        _named(sample=(2, 3, 32, 32)),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        down_block_out_channels=[16, 32],
        up_block_out_channels=[16, 32],
        norm_num_groups=8,
    ),
    _class(
        "diffusers.AutoencoderDC",
        _images(1, 3, 64, 64),
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=["ResBlock", "EfficientViTBlock"],
        decoder_block_types=["ResBlock", "EfficientViTBlock"],
        encoder_block_out_channels=[8, 16],
        decoder_block_out_channels=[8, 16],
        encoder_layers_per_block=[1, 1],
        decoder_layers_per_block=[1, 1],
    ),
    _class(
        "diffusers.AutoencoderOobleck",
        _images(1, 2, 1024),
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4, 4],
        channel_multiples=[1, 2, 4],
        decoder_channels=8,
        decoder_input_channels=4,
    ),
    _class(
        "diffusers.AutoencoderKLTemporalDecoder",
        _named(sample=(2, 3, 32, 32), num_frames=2),
        down_block_types=["DownEncoderBlock2D"] * 2,
        block_out_channels=[32, 64],
    ),
    _class(
        "diffusers.AutoencoderKLCogVideoX",
        _images(1, 3, 5, 32, 32),
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        temporal_compression_ratio=2,
    ),
    _class("diffusers.AutoencoderKLWan", _images(1, 3, 5, 32, 32), base_dim=8, z_dim=4, num_res_blocks=1),
    _class(
        "diffusers.UNet2DModel",
        _named(sample=(1, 3, 32, 32), timestep=5),
        **_UNET,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
    _class(
        "diffusers.UNet2DConditionModel",
        _named(sample=(1, 4, 16, 16), timestep=5, encoder_hidden_states=(1, 4, 16)),
        **_UNET,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    ),
    _class(
        "diffusers.UNet3DConditionModel",
        _named(sample=(1, 4, 2, 16, 16), timestep=5, encoder_hidden_states=(1, 4, 16)),
        **_UNET,
        **_BLOCKS_3D,
        cross_attention_dim=16,
        attention_head_dim=4,
    ),
    _class(
        "diffusers.UNet1DModel",
        _named(sample=(1, 6, 32), timestep=5),
        in_channels=6,
        out_channels=6,
        time_embedding_type="positional",
        use_timestep_embedding=True,
        flip_sin_to_cos=False,
        freq_shift=1,
        act_fn="swish",
        norm_num_groups=8,
        layers_per_block=1,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownResnetBlock1D",) * 3,
        up_block_types=("UpResnetBlock1D",) * 2,
        mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock",
    ),
]

_SMALL_VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
_PIXELS = _named(pixel_values=(1, 3, 64, 64))
_RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1] * 4,
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_SWIN = {
    "model_type": "swin",
    "image_size": 64,
    "embed_dim": 8,
    "depths": [1] * 4,
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}

TRANSFORMERS = [
    _configured("SpeechT5HifiGan", _images(1, 20, 80), "SpeechT5HifiGan", upsample_initial_channel=64),
    _configured("UnivNetModel", _named(input_features=(1, 20, 100), noise_sequence=(1, 20, 64)), "UnivNet"),
    _configured(
        "EncodecModel",
        _named(input_values=(1, 1, 3200)),
        "Encodec",
        num_filters=4,
        hidden_size=16,
        codebook_size=64,
        codebook_dim=16,
        num_lstm_layers=1,
    ),
    _configured(
        "DacModel",
        _named(input_values=(1, 1, 2048)),
        "Dac",
        encoder_hidden_size=8,
        decoder_hidden_size=64,
        codebook_dim=4,
        n_codebooks=2,
        codebook_size=32,
    ),
    _configured(
        "Swin2SRForImageSuperResolution",
        _named(pixel_values=(1, 3, 32, 32)),
        "Swin2SR",
        image_size=32,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=8,
        upscale=2,
    ),
    _configured(
        "ViTMAEForPreTraining",
        _PIXELS,
        "ViTMAE",
        **_SMALL_VIT,
        image_size=64,
        patch_size=8,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    ),
    _configured(
        "ViTForMaskedImageModeling", _PIXELS, "ViT", **_SMALL_VIT, image_size=64, patch_size=8, encoder_stride=8
    ),
    _configured(
        "DPTForDepthEstimation",
        _PIXELS,
        "DPT",
        **_SMALL_VIT,
        image_size=64,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 16, 16],
        fusion_hidden_size=16,
    ),
    _configured(
        "GLPNForDepthEstimation",
        _PIXELS,
        "GLPN",
        hidden_sizes=[8, 16, 24, 32],
        depths=[1] * 4,
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    ),
    _configured(
        "SegformerForSemanticSegmentation",
        _PIXELS,
        "Segformer",
        hidden_sizes=[8, 16, 24, 32],
        depths=[1] * 4,
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    ),
    _configured(
        "UperNetForSemanticSegmentation",
        _PIXELS,
        "UperNet",
        backbone_config=_RESNET,
        hidden_size=16,
        auxiliary_in_channels=24,
        auxiliary_channels=8,
    ),
    _configured(
        "MaskFormerForInstanceSegmentation",
        _PIXELS,
        "MaskFormer",
        backbone_config=_SWIN,
        fpn_feature_size=32,
        mask_feature_size=32,
        decoder_config={
            "model_type": "detr",
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "num_queries": 5,
        },
    ),
    _configured(
        "Mask2FormerForUniversalSegmentation",
        _PIXELS,
        "Mask2Former",
        backbone_config=_SWIN,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=32,
        num_queries=5,
    ),
    _configured(
        "BeitForSemanticSegmentation",
        _PIXELS,
        "Beit",
        **_SMALL_VIT,
        image_size=64,
        patch_size=16,
        out_indices=[1, 2, 3, 4],
        auxiliary_channels=8,
    ),
    _configured(
        "VitPoseForPoseEstimation",
        _named(pixel_values=(1, 3, 64, 48)),
        "VitPose",
        use_simple_decoder=False,
        num_labels=5,
        backbone_config={
            "model_type": "vitpose_backbone",
            "image_size": [64, 48],
            "patch_size": [16, 16],
            **_SMALL_VIT,
            "out_indices": [4],
        },
    ),
    _configured(
        "VitMatteForImageMatting",
        _named(pixel_values=(1, 4, 64, 64)),
        "VitMatte",
        hidden_size=32,
        convstream_hidden_sizes=[8, 8, 16],
        fusion_hidden_sizes=[16, 16, 16, 8],
        backbone_config={
            "model_type": "vitdet",
            **_SMALL_VIT,
            "num_channels": 4,
            "image_size": 64,
            "pretrain_image_size": 64,
            "patch_size": 16,
            "window_block_indices": [],
            "residual_block_indices": [],
            "out_features": ["stage4"],
        },
    ),
    _configured(
        "DepthAnythingForDepthEstimation",
        _named(pixel_values=(1, 3, 56, 56)),
        "DepthAnything",
        reassemble_hidden_size=32,
        patch_size=14,
        neck_hidden_sizes=[8, 16, 16, 16],
        fusion_hidden_size=16,
        head_in_index=-1,
        backbone_config={
            "model_type": "dinov2",
            **_SMALL_VIT,
            "image_size": 56,
            "patch_size": 14,
            "out_indices": [1, 2, 3, 4],
            "reshape_hidden_states": False,
        },
    ),
    _configured(
        "SuperPointForKeypointDetection",
        _named(pixel_values=(1, 3, 64, 64)),
        "SuperPoint",
        encoder_hidden_sizes=[8, 8, 16, 16],
        decoder_hidden_size=16,
        descriptor_decoder_dim=16,
    ),
]

SEGMENTATION = [
    _class(f"segmentation_models_pytorch.{name}", _images(2, 3, size, size), encoder, encoder_weights=None, classes=2)
    for name, encoder, size in (
        *((name, "resnet18", 64) for name in ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "UPerNet")),
        *((name, "resnet18", 128) for name in ("PAN", "DeepLabV3", "DeepLabV3Plus")),
        ("Segformer", "mit_b0", 64),
    )
]

_VOLUME, _SLICES = _images(1, 1, 32, 32, 32), _images(2, 1, 64, 64)
_DOWN = {"channels": (4, 8, 16), "strides": (2, 2)}
MONAI = [
    _class("monai.networks.nets.UNet", _VOLUME, 3, 1, 2, **_DOWN),
    _class("monai.networks.nets.BasicUNet", _VOLUME, 3, 1, 2, features=(4, 4, 8, 8, 16, 4)),
    _class("monai.networks.nets.BasicUNetPlusPlus", _SLICES, 2, 1, 2, features=(4, 4, 8, 8, 16, 4)),
    _class("monai.networks.nets.AttentionUnet", _VOLUME, 3, 1, 2, **_DOWN),
    _class("monai.networks.nets.DynUNet", _VOLUME, 3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16]),
    _class("monai.networks.nets.SegResNet", _VOLUME, 3, init_filters=8),
    _class("monai.networks.nets.SegResNetVAE", _VOLUME, (32, 32, 32), init_filters=8),
    _class("monai.networks.nets.VNet", _VOLUME),
    _class(
        "monai.networks.nets.UNETR",
        _images(1, 1, 32, 32, 32),
        1,
        2,
        (32, 32, 32),
        feature_size=4,
        hidden_size=24,
        mlp_dim=48,
        num_heads=4,
    ),
    _class("monai.networks.nets.SwinUNETR", _images(1, 1, 64, 64, 64), 1, 2, feature_size=12),
    _class("monai.networks.nets.AutoEncoder", _SLICES, 2, 1, 1, (4, 8, 16), (2, 2, 2)),
    _class("monai.networks.nets.VarAutoEncoder", _SLICES, 2, (1, 64, 64), 1, 8, (4, 8, 16), (2, 2, 2)),
    _class("monai.networks.nets.Generator", _images(2, 8), (8,), (4, 4, 4), (8, 8, 1), (2, 2, 2)),
    _class("monai.networks.nets.FlexibleUNet", _images(1, 3, 64, 64), 3, 2, "resnet18", upsample="pixelshuffle"),
    _class(
        "monai.networks.nets.DiffusionModelUNet",
        lambda: {"x": torch.randn(1, 1, 32, 32), "timesteps": torch.tensor([5])},
        2,
        1,
        1,
        num_res_blocks=1,
        channels=(8, 16),
        attention_levels=(False, True),
        norm_num_groups=4,
        num_head_channels=8,
    ),
    _class("monai.networks.nets.MedNeXt", _VOLUME, 3, 8),
]

COMPRESSION = [
    _class("compressai.models.FactorizedPrior", _images(1, 3, 64, 64), 16, 24),
    _class("compressai.models.ScaleHyperprior", _images(1, 3, 64, 64), 16, 24),
    _class("compressai.models.JointAutoregressiveHierarchicalPriors", _images(1, 3, 64, 64), 16, 24),
    _class("compressai.models.Cheng2020Anchor", _images(1, 3, 64, 64), 16),
    _class("compressai.models.Cheng2020Attention", _images(1, 3, 64, 64), 16),
]

ZOO = [*DIFFUSERS, *TRANSFORMERS, *SEGMENTATION, *MONAI, *COMPRESSION]


# The checks -----------------------------------------------------------------------------------------------------------


def checked(architecture: Architecture, compiler: str) -> dict[str, Any]:
    """What each part of the package makes of a model: its findings, or what it raised, or how far an output is off."""
    torch.manual_seed(0)
    model, inputs = architecture.build().eval(), architecture.inputs()
    _fill(model)
    _output(model, inputs)  # after which weights that are computed, as by weight normalisation, can be copied
    others = architecture.inputs()
    row: dict[str, Any] = {
        "package": architecture.package,
        "name": architecture.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "failed": {},
    }
    before = copy.deepcopy(model.state_dict())
    checks = {
        "optimized": _optimized,
        "compiled": partial(_compiled, compiler),
        "diagnosed": _diagnosed,
        "cured": _cured,
    }
    for name, check in checks.items():
        try:
            row[name] = check(model, inputs, others)
            if (error := row[name].get("error", 0.0)) > TOLERANCE:
                row["failed"][name] = f"the output differs by {error:.0e}"
            if difference(model.state_dict(), before, strides=False):
                row["failed"][name] = "the model was changed"
        except Exception as failure:
            row["failed"][name] = f"{type(failure).__name__}: {failure}".partition("\n")[0][:300]
            traceback.print_exc()
    return row


@torch.no_grad()
def _fill(model: nn.Module) -> None:
    """Random weights in the place of those that start as zeros, which make every output the same."""
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            parameter.normal_(std=0.02)


def _optimized(original: nn.Module, inputs: Any, others: Any) -> dict[str, Any]:
    """With a clock by which everything pays, so that what is equal is kept; with gradients too, as in training."""
    model = copy.deepcopy(original)
    clock, Example.times = Example.times, lambda *_: Times(1.0, 0.1)  # type: ignore[method-assign]
    try:
        _, report = halfstride.optimize(model, inputs)
    finally:
        Example.times = clock  # type: ignore[method-assign]
    if report.note.startswith(("it raises", "the result differs")):
        raise RuntimeError(report.note)
    errors = [_difference(model, original, each) for each in (inputs, others)]
    return {
        "calls": sum(row.calls for row in report.rows),
        "rewritten": sum(row.calls for row in report.rows if row.became),
        "error": max(errors),
    }


def _compiled(compiler: str, original: nn.Module, inputs: Any, others: Any) -> dict[str, Any]:
    """What the compiler changes by itself counts for it. Inductor draws random numbers like eager torch here."""
    torch._dynamo.reset()
    torch._inductor.config.fallback_random = True
    log, rewritten = logging.getLogger("halfstride"), _Rewritten()
    log.setLevel(logging.INFO)
    log.addHandler(rewritten)
    backend: Any = "halfstride" if compiler == "inductor" else _rewritten_only
    of_torch: Any = None  # where ours is wrong: whether it is the compiler that errs
    try:
        compiled = torch.compile(copy.deepcopy(original), backend=backend)
        error = max(_difference(compiled, original, each) for each in (inputs, others))
    except Exception as failure:
        try:
            _by_torch(compiler, original, inputs, others)
        except type(failure):
            error, of_torch = 0.0, f"raises {type(failure).__name__}"
        else:
            raise
    finally:
        log.removeHandler(rewritten)
    if rewritten.left:
        raise RuntimeError(rewritten.left)
    if error > TOLERANCE:
        of_torch = _by_torch(compiler, original, inputs, others)
        error = error if of_torch < error / 2 else 0.0
    result = {"compiler": compiler, "rewritten": rewritten.calls, "error": error}
    return result if of_torch is None else result | {"of_torch": of_torch}


def _by_torch(compiler: str, original: nn.Module, inputs: Any, others: Any) -> float:
    """How far the compiler's own output is from eager torch's."""
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(original), backend=compiler)
    return max(_difference(compiled, original, each) for each in (inputs, others))


def _rewritten_only(graph: Any, example_inputs: Any) -> Any:
    return lookup_backend("aot_eager")(compiling.rewritten(graph), example_inputs)


class _Rewritten(logging.Handler):
    """Counts what the log says became of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.left = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self.calls += " becomes " in message
        if "stays as it was" in message:
            self.left = message


def _diagnosed(model: nn.Module, inputs: Any, others: Any) -> dict[str, Any]:
    diagnosis = halfstride.diagnose(model, inputs)
    return {"layers": len(diagnosis.layers), "found": diagnosis.found, "reason": diagnosis.reason}


def _cured(model: nn.Module, inputs: Any, others: Any) -> dict[str, Any]:
    cured, report = halfstride.cure(model, inputs, steps=5)
    _output(cured, inputs)
    return {
        "changed": len(report.changed),
        "left": sorted(set(report.left.values())),
        "difference": report.difference,
        "found_after": report.after.found,
    }


def _difference(model: Any, original: nn.Module, inputs: Any) -> float:
    return difference(_output(model, inputs), _output(original, inputs), strides=False)


@torch.no_grad()
def _output(model: Any, inputs: Any) -> list[Tensor]:
    """The tensors that a model returns, with the same random numbers at every call."""
    args, kwargs = arguments_of(inputs)
    torch.manual_seed(1)
    return [leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor)]


# The table ------------------------------------------------------------------------------------------------------------


def markdown(run: dict[str, Any]) -> str:
    """The page of a whole run."""
    rows = run["rows"]
    failed = [(row, check, why) for row in rows for check, why in row["failed"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    errors = [row[check]["error"] for row in rows for check in ("optimized", "compiled") if check in row]
    parts = [
        "# Public architectures",
        f"Made by `python -m benchmarks.zoo`: float32, random weights, small configurations; {versions}.",
        f"{len(rows)} architectures, four checks each; {len(failed)} of {4 * len(rows)} failed. "
        f"Largest difference of an output, as a share of its largest value: {max(errors, default=0.0):.0e}.",
        _NOTES,
        table(_HEAD, map(_line, rows)),
    ]
    if failed:
        lines = [f"- {row['package']}.{row['name']}, {check}: {why}" for row, check, why in failed]
        parts += ["## What failed", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


_NOTES = (
    "`optimize`: how many of the upsampling calls that it lists are rewritten, and how far the output is then from the "
    "original's, on the example and on other inputs (with every equal change kept, whether it is faster or not). "
    '`backend`: the calls rewritten by `torch.compile(backend="halfstride")`, which ends in inductor, or with '
    "`--without-inductor` in AOTAutograd, which runs the operators of the rewritten graphs one by one (aot_eager). "
    "`doctor`: the layers that `diagnose` recognised, and whether it found a checkerboard in the output of these "
    "untrained weights. `cure`: the layers that it changed, and the change of the output in units of its standard "
    "deviation."
)
_HEAD = ["architecture", "parameters", "optimize", "error", "backend", "error", "doctor", "cure"]


def _line(row: dict[str, Any]) -> list[str]:
    optimized, compiled, diagnosed, cured = (
        row.get(check) if check not in row["failed"] else None
        for check in ("optimized", "compiled", "diagnosed", "cured")
    )
    cells = [f"{row['package']}.{row['name']}", f"{row['parameters']:,}"]
    if optimized:
        cells += [f"{optimized['rewritten']} of {optimized['calls']}", f"{optimized['error']:.0e}"]
    else:
        cells += ["**failed**", ""]
    if compiled:
        own, of_torch = f"{compiled['error']:.0e}", compiled.get("of_torch")
        if of_torch is not None:
            own = f"torch's own {of_torch}" if isinstance(of_torch, str) else f"{of_torch:.0e} of torch's own"
        cells += [f"{compiled['rewritten']} ({compiled['compiler']})", own]
    else:
        cells += ["**failed**", ""]
    answers = {True: "found", False: "not found", None: "could not judge"}
    cells.append(f"{diagnosed['layers']}, {answers[diagnosed['found']]}" if diagnosed else "**failed**")
    if cured:
        by = "" if cured["difference"] is None or not cured["changed"] else f", {cured['difference']:.1%}"
        cells.append(f"{cured['changed']}{by}")
    else:
        cells.append("**failed**")
    return cells


# The command ----------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="only these, as package.name, again")
    parser.add_argument(
        "--without-inductor",
        action="store_true",
        help="run the operators of the rewritten graphs one by one, without the minutes that a C++ compiler takes",
    )
    parser.add_argument("--report", action="store_true", help="make the table again from the JSON and end")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write (%(default)s)")
    arguments = parser.parse_args()
    if not arguments.report:
        make_torchvision_importable()
        warnings.simplefilter("ignore")
        measure(arguments.out, set(arguments.only), "aot_eager" if arguments.without_inductor else "inductor")
    arguments.out.with_suffix(".md").write_text(markdown(json.loads(arguments.out.read_text())))


def measure(out: Path, only: set[str], compiler: str) -> None:
    """Check the architectures that the file does not have yet, or those of `only` again."""
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    known = {_name(row["package"], row["name"]): row for row in rows}
    for each in ZOO:
        name = _name(each.package, each.name)
        if name not in only if only else name in known:
            continue
        started = time.perf_counter()
        known[name] = checked(each, compiler)
        told = "; ".join(f"{check} failed: {why}" for check, why in known[name]["failed"].items()) or "all well"
        print(f"{name:<60} {told} ({time.perf_counter() - started:.0f} s)", flush=True)
        rows = [known[key] for key in (_name(one.package, one.name) for one in ZOO) if key in known]
        out.write_text(json.dumps({"versions": _versions(), "rows": rows}, indent=1) + "\n")


def _name(package: str, name: str) -> str:
    return f"{package}.{name}"


def _versions() -> dict[str, str]:
    packages = dict.fromkeys(("halfstride", "torch", *(each.package for each in ZOO)))
    return {"Python": platform.python_version()} | {name: metadata.version(name) for name in packages}


if __name__ == "__main__":
    main()
