"""What the README, the docs and the examples show is what happens."""

import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

import matplotlib
import pytest

from benchmarks.report import overview
from halfstride import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
    if "```" in page.read_text(encoding="utf-8")
]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What is written lands in an empty folder, and no window opens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    matplotlib.use("agg")


def printed(run) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        run()
    return stdout.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=name)
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
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_table_of_ratios_is_that_of_the_results():
    suites = [json.loads((ROOT / f"benchmarks/results/{suite}.json").read_text()) for suite in ("layers", "training")]
    assert overview(*suites) in (ROOT / "docs/performance.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", EXAMPLES, ids=name)
def test_every_example_runs(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert printed(lambda: runpy.run_path(str(script), run_name="__main__"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_every_cell_of_a_notebook_runs(notebook):
    namespace = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]  # they would be committed, and come from somewhere else
            printed(lambda cell=cell: exec("".join(cell["source"]), namespace))
    assert namespace["report"].metrics.image_auroc > 0.75


def test_the_page_on_the_lecture_and_its_script_are_the_same_code():
    cells = re.split(r"^# %% .*\n", (ROOT / "examples/lecture.py").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    blocks = [
        content
        for language, content in FENCE.findall((ROOT / "docs/lecture.md").read_text(encoding="utf-8"))
        if language == "python"
    ]
    assert [cell.strip() for cell in cells] == [block.strip() for block in blocks]
