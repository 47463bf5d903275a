"""Transposed convolutions of volumes."""

import subprocess
import sys

import pytest
import torch

from algorithm_cases import CASES
from halfstride._core.algorithms import folded, native, volumes
from tolerance import assert_close


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("form", "geometry"),
    [
        ("transposed", {"stride": 2}),
        ("transposed", {"stride": (2, 3, 2), "padding": (1, 0, 2), "output_padding": (1, 2, 0)}),
        ("transposed", {"stride": 2, "padding": ((1, 0), (0, 2), (1, 1)), "dilation": (1, 2, 1)}),
        ("resize", {"scale_factor": 2, "padding_mode": "replicate"}),
    ],
)
def test_volumes_by_the_gradient_of_a_convolution(form, geometry, last, monkeypatch):
    case = CASES[form](3, (1, 4, 3, 5, 4), (4, 4, 3, 3, 2), **geometry)
    algorithm = native if form == "transposed" else folded
    tensors = [torch.randn(1, 4, 3, 5, 4), torch.randn(4, 4, 3, 3, 2), torch.randn(4)]
    if last:
        tensors[0] = tensors[0].movedim(1, -1).contiguous().movedim(-1, 1)
    for tensor in tensors:
        tensor.requires_grad_()

    def derivatives(tensors, probes):
        output = algorithm.compute(case, *tensors)
        first = torch.autograd.grad(output, tensors, probes[0].to(output), create_graph=True)
        seen = sum((gradient * probe.to(gradient)).sum() for gradient, probe in zip(first, probes[1:], strict=True))
        return output, *first, *torch.autograd.grad(seen, tensors[:2])

    probes = [torch.randn(1, 4, *case.output_size), *map(torch.randn_like, tensors)]
    expected = derivatives([tensor.detach().double().requires_grad_() for tensor in tensors], probes)
    calls, compute = [], volumes.transposed
    monkeypatch.setattr(volumes, "_LEAST", 0)
    monkeypatch.setattr(volumes, "transposed", lambda *arguments: calls.append(1) or compute(*arguments))
    actual = derivatives(tensors, probes)
    assert calls
    assert actual[0].is_contiguous() != last
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other.float())


DEEPLY_PADDED = """
import torch
from halfstride.functional import resize_conv3d

torch.set_num_threads(1)
torch.manual_seed(0)
x, weight = torch.randn(1, 8, 8, 8, 6), torch.randn(3, 8, 5, 5, 5, requires_grad=True)


def gradient(algorithm, *tensors):
    output = resize_conv3d(*tensors, None, (3, 4, 4), 1, (3, 1, 2), algorithm=algorithm)
    return torch.autograd.grad(output, tensors[1], torch.ones_like(output))[0]


exact = gradient("phases", x.double(), weight.double())
for algorithm in ("auto", "folded"):
    torch.testing.assert_close(gradient(algorithm, x, weight).double(), exact, rtol=1e-4, atol=1e-2)
"""


def test_on_one_thread_the_kernels_gradient_of_a_deeply_padded_volume_is_right():
    # In a process of its own: where it goes wrong, memory is overwritten.
    done = subprocess.run([sys.executable, "-c", DEEPLY_PADDED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
