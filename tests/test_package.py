"""What can be imported from the package, and what it needs for that."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

import halfstride
from halfstride._support.extras import _EXTRAS, naming_extras

PACKAGE = Path(halfstride.__file__).parent


def test_every_public_name_can_be_imported_and_is_listed():
    for name in halfstride.__all__:
        value = getattr(halfstride, name)
        assert value.__name__.rpartition(".")[2] == name
    assert {"figures", "kernels", "explain", "train", "ResizeConv2d"} < set(halfstride.__all__) < set(dir(halfstride))
    assert halfstride.explain("resize", (1, 8, 8, 8), (4, 8, 3, 3)).algorithm in ("scatter", "few_outputs")
    with pytest.raises(AttributeError, match="module 'halfstride' has no attribute 'trian'"):
        halfstride.trian  # noqa: B018


def test_no_file_hides_a_public_function():
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert {"figures", "geometry", "optimizing"} < modules
    hidden = {name for name in modules & set(halfstride.__all__) if callable(getattr(halfstride, name))}
    assert not hidden


def normalized(distribution):
    return re.sub(r"[-_.]+", "-", distribution).lower()


def brought_by(*names):
    """The distributions that are installed with some distributions, these included, without extras."""
    found, waiting = {"halfstride"}, list(names)
    while waiting:
        name = normalized(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # needed on other systems only
            continue
        waiting += [re.match(r"[\w.-]+", line)[0] for line in lines if "extra ==" not in line]
    return found


CORE_ONLY = """
import sys
from importlib.machinery import PathFinder

class CoreOnly(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = CoreOnly
"""

USE_OF_CORE = """
import torch, halfstride
from torch import nn
from halfstride import cli

def run(line):
    try:
        cli.main(line.split())
    except SystemExit as stop:
        return stop.code

for kind in ("ConvTranspose", "ResizeConv", "SubpixelConv"):
    for axes in (1, 2, 3):
        layer = getattr(halfstride, f"{kind}{axes}d")(2, 3, 3)
        layer(torch.randn(1, 2, *[4] * axes)).sum().backward()
model = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2, 3, 3, padding=1), nn.ConvTranspose2d(3, 1, 3, 2))
images = torch.rand(4, 2, 12, 12)
halfstride.diagnose(model, images)
halfstride.cure(model, images)
halfstride.optimize(model, images)
halfstride.diagnose_image(torch.rand(32, 32))
halfstride.functional, halfstride.kernels, halfstride.explain
for line in ("size transposed -n 7 -k 4 -s 2 --explain", "size --help", "doctor --help", "optimize --help"):
    assert not run(line), line
assert run("train") == 1
try:
    halfstride.figures
except ModuleNotFoundError as error:
    print(error)
"""


def test_the_core_needs_torch_numpy_typer_and_rich_alone():
    core = brought_by("torch", "numpy", "typer", "rich")
    blocked = {
        module
        for module, distributions in packages_distributions().items()
        if core.isdisjoint(map(normalized, distributions))
    }
    assert {"PIL", "jaxtyping", "matplotlib", "scipy", "safetensors", "huggingface_hub", "fastapi"} < blocked
    code = CORE_ONLY.format(blocked=sorted(blocked)) + USE_OF_CORE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    missing = re.escape('is not installed: pip install "halfstride[train]"')
    assert re.search(rf"^error: \w+ {missing}$", done.stderr, re.MULTILINE)
    assert re.search(rf"^matplotlib {missing}$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("module", "extra"), [("matplotlib.figure", "train"), ("PIL", "train"), ("uvicorn", "studio"), ("onnx", "export")]
)
def test_a_missing_package_names_its_extra(module, extra):
    with pytest.raises(ModuleNotFoundError) as caught, naming_extras():
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    name = module.partition(".")[0]
    assert str(caught.value) == f'{name} is not installed: pip install "halfstride[{extra}]"'
    assert caught.value.name == module


def test_other_missing_packages_are_left_alone():
    error = ModuleNotFoundError("No module named 'mine'", name="mine")
    with pytest.raises(ModuleNotFoundError) as caught, naming_extras():
        raise error
    assert caught.value is error


def test_extras_list_what_pyproject_does():
    text = (PACKAGE.parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    optional = text[text.index("train = [") : text.index("docs = [")]
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "pi_heif": "pi-heif"}
    told = {names.get(module, module) for packages in _EXTRAS.values() for module in packages.split()}
    assert told == {*re.findall(r'"([\w-]+)>=', optional), "starlette"}  # which fastapi brings
