"""A row as an ONNX model, in the operators that an exporter would choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from benchmarks.rows import Row

__all__ = ["save"]


def save(row: Row, module: nn.Module, path: Path) -> None:
    """Write the row with the module's weights: Resize and Conv, ConvTranspose, or Conv and DepthToSpace."""
    _, _, *taps = row.weight_shape
    window: dict[str, Any] = {"kernel_shape": taps, "pads": [row.padding] * (2 * row.axes)}
    constants = {name.split(".")[-1]: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    if row.form == "transposed":
        steps = [
            helper.make_node(
                "ConvTranspose",
                ["input", "weight", "bias"],
                ["output"],
                strides=[row.stride] * row.axes,
                output_padding=[row.output_padding] * row.axes,
                **window,
            )
        ]
    elif row.form == "resize":
        constants["scales"] = np.array([1, 1] + [row.stride] * row.axes, dtype=np.float32)
        nearest: dict[str, Any] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        steps = [
            helper.make_node("Resize", ["input", "", "scales"], ["upsampled"], **nearest),
            helper.make_node("Conv", ["upsampled", "weight", "bias"], ["output"], **window),
        ]
    else:
        steps = [
            helper.make_node("Conv", ["input", "weight", "bias"], ["phases"], **window),
            helper.make_node("DepthToSpace", ["phases"], ["output"], blocksize=row.stride, mode="CRD"),
        ]
    graph = helper.make_graph(
        steps,
        row.form,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, row.input_shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, row.output_shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
