"""Makes the notebooks in examples/ from the pages: `python docs/notebooks.py`. Change the pages, not the notebooks."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
EXAMPLES = DOCS.parent / "examples"

NOTEBOOKS = {
    "lecture": ("learn/transposed-convolution.md", "learn/sizes.md"),
    "checkerboards": ("learn/checkerboards.md", "learn/resize-and-subpixel.md"),
    "own-images": ("how-to/own-images.md",),
    "detection": ("how-to/detect.md",),
}
"""The pages that each consists of."""

PYTHON = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
"""A block of code, and the block below it with what it prints, if there is one."""


def notebook(name: str) -> str:
    """A notebook as JSON: a cell for each block of Python and for the text between two of them, without outputs."""
    cells: list[dict[str, Any]] = []
    for page in NOTEBOOKS[name]:
        path = DOCS / page
        pieces = PYTHON.split(path.read_text(encoding="utf-8"))
        for text, code in zip(pieces[::3], [*pieces[1::3], ""], strict=True):
            if text := _shown(text, path.parent):
                cells.append({"cell_type": "markdown", "metadata": {}, "source": _lines(text)})
            if code:
                empty = {"execution_count": None, "metadata": {}, "outputs": []}
                cells.append({"cell_type": "code", **empty, "source": _lines(code.strip())})
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    numbered = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)]
    made = {"cells": numbered, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _shown(text: str, folder: Path) -> str:
    """A piece of a page as a cell shows it: links from its folder, and solutions unfolded, since cells divide them."""

    def moved(link: re.Match[str]) -> str:
        return f"]({Path(os.path.relpath((folder / link[1]).resolve(), EXAMPLES)).as_posix()}"

    text = re.sub(r"\]\((?!\w+:|#)([^)#\s]+)", moved, text)
    return re.sub(r"</?details>|<summary>(.*?)</summary>", lambda tag: f"**{tag[1]}**" if tag[1] else "", text).strip()


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    for name in NOTEBOOKS:
        (EXAMPLES / f"{name}.ipynb").write_text(notebook(name), encoding="utf-8")
