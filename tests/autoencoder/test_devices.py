"""Devices by name, and exhausted memory in one line."""

import re

import pytest
import torch

from errors import message
from halfstride.autoencoder.devices import find_device, within_memory
from halfstride.autoencoder.distributed import Processes


def test_devices_are_found_by_name():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device(torch.device("cpu")) == torch.device("cpu")
    accelerated = torch.accelerator.is_available()
    assert find_device("auto").type == (torch.accelerator.current_accelerator().type if accelerated else "cpu")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cuda:99", r"is not available here \(.+\)"),
        ("meta", "holds no numbers"),
        *((name, "is not the name of a device") for name in ("gpu", "", "cpu:x")),
    ],
)
def test_an_absent_device_is_named(name, reason):
    assert re.search(rf"`device` \(={name}\) {reason}: use cpu", message(find_device, name))


def test_several_processes_take_no_single_device(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"`device` \(=cuda:1\) is one device for several processes: use cuda\."):
        Processes("float32", "cuda:1", None)


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
    Processes("float32", "cpu", None)
    import os

    assert os.environ["ACCELERATE_TORCH_DEVICE"] == "cpu"


@pytest.mark.parametrize(
    ("error", "batch_size", "place", "way"),
    [
        (torch.OutOfMemoryError("CUDA"), 8, "the device's memory", "use a batch size of 4."),
        (RuntimeError("MPS backend out of memory (...)"), 9, "the device's memory", "use a batch size of 4."),
        (RuntimeError("DefaultCPUAllocator: ..."), 1, "memory", "use smaller images or a smaller `width`."),
        (torch.OutOfMemoryError("CUDA"), None, "the device's memory", "use smaller ones, or `device` cpu."),
    ],
)
def test_exhausted_memory_is_one_line(error, batch_size, place, way):
    with pytest.raises(ValueError) as caught, within_memory(batch_size):  # noqa: PT011  # compared in full
        raise error
    what = f"`batch_size` (={batch_size}) does" if batch_size else "`images` do"
    assert str(caught.value) == f"{what} not fit into {place}: {way}"


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="else"), within_memory(8):
        raise RuntimeError("something else")
