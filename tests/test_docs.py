"""What the README, the docs and the examples show is what happens."""

import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

import matplotlib
import nbformat
import pytest
from nbclient import NotebookClient

import halfstride
from benchmarks.report import overview
from docs import animations, notebooks
from halfstride import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
IN_NOTEBOOKS = {ROOT / "docs" / page for pages in notebooks.NOTEBOOKS.values() for page in pages}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, tuned_file):
    """What is written lands in an empty folder, and no window opens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    matplotlib.use("agg")


def printed(run) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        run()
    return stdout.getvalue()


@pytest.mark.parametrize("page", [page for page in PAGES if page not in IN_NOTEBOOKS], ids=name)
def test_every_block_of_python_runs_and_prints_the_text_below_it(page):
    text = page.read_text(encoding="utf-8")
    namespace = {"__name__": "__main__"}
    output = None
    for block in FENCE.finditer(text):
        language, content = block.groups()
        if language == "python":
            line = text[: block.start(2)].count("\n")
            code = compile("\n" * line + content, str(page), "exec")  # so that a traceback names the page's own line
            output = printed(lambda code=code: exec(code, namespace))
        else:
            if language == "text" and output is not None:
                assert content == output
            output = None  # text belongs to the block right above it


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_size_command_prints_the_text_below_it(page):
    for language, content in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            for command in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
                line, _, output = command.partition("\n")
                if line.startswith("halfstride size"):
                    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as stdout:
                        cli.main(line.split()[1:])
                    shown = stdout.getvalue()
                    assert not output or shown.strip() == output.strip()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_into_the_repository_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_table_of_ratios_is_that_of_the_results():
    suites = [json.loads((ROOT / f"benchmarks/results/{suite}.json").read_text()) for suite in ("layers", "training")]
    assert overview(*suites) in (ROOT / "docs/notes/performance.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", EXAMPLES, ids=name)
def test_every_example_runs(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert printed(lambda: runpy.run_path(str(script), run_name="__main__"))


@pytest.mark.parametrize("notebook", notebooks.NOTEBOOKS)
def test_every_notebook_runs_and_prints_what_its_pages_show(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    text = (ROOT / f"examples/{notebook}.ipynb").read_text(encoding="utf-8")
    assert text == notebooks.notebook(notebook), "run `python docs/notebooks.py`"

    place = tmp_path / "place"
    place.mkdir()
    run = nbformat.reads(text, as_version=4)
    NotebookClient(run, timeout=600, resources={"metadata": {"path": str(place)}}).execute()
    cells = [cell for cell in run.cells if cell.cell_type == "code"]
    pages = [(ROOT / "docs" / page).read_text(encoding="utf-8") for page in notebooks.NOTEBOOKS[notebook]]
    for cell, (code, shown) in zip(
        cells, [pair for page in pages for pair in notebooks.PYTHON.findall(page)], strict=True
    ):
        printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        assert not shown or printed == shown, code
        if "figure" in cell.source.splitlines()[-1]:
            assert "image/png" in cell.outputs[-1].data


@pytest.mark.parametrize("name", animations.LAYERS)
def test_every_animation_is_that_of_its_layer(name):
    assert (animations.FOLDER / f"{name}.svg").read_bytes() == animations.draw(name), "run `python docs/animations.py`"


def test_the_reference_has_every_public_name():
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference/api").glob("*.md"))
    documented = set(re.findall(r"auto(?:function|class|exception|module):: halfstride\.(\w+)$", pages, re.MULTILINE))
    assert documented >= set(halfstride.__all__)
