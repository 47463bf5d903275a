"""halfstride-kernels is used where it fits, and is never an error where it does not."""

import sys
import warnings
from types import SimpleNamespace

import pytest

from halfstride._support import fused_kernels


@pytest.fixture
def package(monkeypatch):
    """An installed package, whose library is for no processor."""
    package = SimpleNamespace(INTERFACE=fused_kernels._INTERFACE, library=lambda capability: None)
    monkeypatch.setitem(sys.modules, "halfstride_kernels", package)
    monkeypatch.delenv("HALFSTRIDE_KERNELS", raising=False)
    return package


def loaded():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fused_kernels._load()


def test_a_processor_without_a_library(package):
    assert loaded() is None


def test_a_library_that_does_not_load_is_a_warning(package, tmp_path):
    package.library = lambda capability: tmp_path / "missing.so"
    with pytest.warns(
        UserWarning, match=r"halfstride-kernels is installed but cannot be used.*missing\.so.*make kernels"
    ):
        assert fused_kernels._load() is None


def test_kernels_of_another_version_are_not_used(package, monkeypatch):
    monkeypatch.setattr(fused_kernels, "load_operators", lambda *_: pytest.fail("it must not be loaded"))
    package.library = lambda capability: "kernels.so"
    for interface in (0, None):
        package.INTERFACE = interface
        with pytest.warns(UserWarning, match="it belongs to another version of halfstride"):
            assert fused_kernels._load() is None


def test_it_can_be_left_alone(package, monkeypatch):
    package.library = lambda capability: pytest.fail("it must not be asked")
    monkeypatch.setenv("HALFSTRIDE_KERNELS", "0")
    assert loaded() is None
    monkeypatch.delenv("HALFSTRIDE_KERNELS")
    monkeypatch.setitem(sys.modules, "halfstride_kernels", None)  # as if it were not installed
    assert loaded() is None
