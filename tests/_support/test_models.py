"""Models named as MODULE:FACTORY: what is loaded, and every mistake in one line."""

import sys

import pytest
from torch import nn

from halfstride._support.models import load_model

NETS = """
from torch import nn

def make():
    import helpers_of_mine
    return nn.Sequential(nn.Conv2d(3, helpers_of_mine.WIDTH, 3))

class Nets:
    @staticmethod
    def make():
        return nn.Sequential(nn.Flatten())

ready = nn.Sequential(nn.Flatten())

def pair():
    return ready, "inputs"

def fails():
    raise RuntimeError("no weights here\\nsecond line")

def leaves():
    raise SystemExit

def needs(width):
    return nn.Conv2d(3, width, 3)

def nothing():
    pass

number = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with modules in it; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    known, path = set(sys.modules), list(sys.path)
    (tmp_path / "nets_of_mine.py").write_text(NETS)
    (tmp_path / "helpers_of_mine.py").write_text("WIDTH = 6\n")
    (tmp_path / "imports_missing.py").write_text("import no_such_library\n")
    (tmp_path / "broken.py").write_text("def make(:\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    yield
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    assert sys.path == path


def test_a_factory_of_the_current_folder_is_called():
    assert load_model("model", "nets_of_mine:make")[0].out_channels == 6
    assert isinstance(load_model("model", "nets_of_mine:Nets.make")[0], nn.Flatten)
    ready = load_model("model", "nets_of_mine:ready")
    assert ready is sys.modules["nets_of_mine"].ready
    assert load_model("model", "nets_of_mine:pair", with_inputs=True) == (ready, "inputs")


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("nets_of_mine", r"must be MODULE:FACTORY, such as mynets:make_model for make_model in mynets\.py\."),
        ("", r"must be MODULE:FACTORY"),
        (":make", r"must be MODULE:FACTORY"),
        ("nets_of_mine:", r"must be MODULE:FACTORY"),
        ("nets_of_mine.py:make", r"must be MODULE:FACTORY, .* in mynets\.py"),
        ("no_such_nets:make", "cannot be imported: ModuleNotFoundError: No module named 'no_such_nets'."),
        (".nets:make", "cannot be imported: TypeError: "),
        ("imports_missing:make", "cannot be imported: ModuleNotFoundError: No module named 'no_such_library'"),
        ("broken:make", "cannot be imported: SyntaxError: "),
        ("exits:make", "cannot be imported: SystemExit: 3"),
        ("nets_of_mine:mke", "is not in nets_of_mine: AttributeError: module 'nets_of_mine' has no attribute 'mke'."),
        ("nets_of_mine:fails", "fails when it is called without arguments: RuntimeError: no weights here."),
        ("nets_of_mine:leaves", "fails when it is called without arguments: SystemExit."),
        ("nets_of_mine:needs", "without arguments: TypeError: .*missing 1 required positional argument: 'width'"),
        ("nets_of_mine:number", "without arguments: TypeError: 'int' object is not callable"),
        ("nets_of_mine:nothing", r"returns NoneType: it must return a torch\.nn\.Module\."),
        ("nets_of_mine:pair", r"returns tuple: it must return a torch\.nn\.Module\."),
    ],
)
def test_what_cannot_be_loaded_is_named(reference, text):
    with pytest.raises(ValueError, match=text) as caught:
        load_model("model", reference)
    assert str(caught.value).startswith(f"`model` (={reference})")
    assert "\n" not in str(caught.value)
