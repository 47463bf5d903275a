"""The pages of the studio, a file for each: its addresses, and what they answer.

A new page is a file here with a `router`, an HTML and a JavaScript file of the same name in `../static`, and a line in
`create_app` of `../app.py`.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["STATIC"]

STATIC = Path(__file__).parents[1] / "static"
