"""A layer as one HTML file: the upsampling page with its answer in it, which plays without a server or any request."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from typing import Any, Literal
from urllib.parse import urlencode

from halfstride.studio.explanation import explain
from halfstride.studio.layer import Layer
from halfstride.studio.page import STATIC, UPSAMPLING
from halfstride.studio.text import NAMES

_MODULES = ("dom", "cells", "tables", "views", "upsampling")
_DIGITS = 6
"""Significant digits of the numbers in the file."""


class Standalone(Layer):
    """A layer, and how its page begins."""

    by: Literal["inputs", "outputs"] = "inputs"
    theme: Literal["auto", "light", "dark"] = "auto"


def standalone(wanted: Standalone) -> str:
    """Return the page of a layer as one HTML document, which needs nothing else.

    Raises:
        ValueError: where the layer's arguments do not go together, or it is too large to be shown.
    """
    page = UPSAMPLING.html()
    query = urlencode(_address(wanted), safe=",")
    # The page's own modules, each under a name, since a module in a `data:` address has no neighbours.
    modules = {name: _module((STATIC / f"{name}.js").read_text(encoding="utf-8")) for name in _MODULES}
    head = [
        f"<style>{(STATIC / 'studio.css').read_text(encoding='utf-8')}</style>",
        f'<script type="importmap">{json.dumps({"imports": modules})}</script>',
        '<script type="module">import "upsampling";</script>',
        f'<script type="text/plain" id="answers" data-query="{html.escape(query)}" data-theme="{wanted.theme}">'
        f"{_packed(wanted)}</script>",
    ]
    title = f"{NAMES[wanted.form]} · halfstride"
    page = re.sub(r"<title>.*?</title>", lambda _: f"<title>{title}</title>", page)
    page = re.sub(r"\s*<(link|script)\b[^>]*>(</script>)?", "", page)
    page = page.replace("</head>", "\n".join([*head, "</head>"]))
    return page.replace("<body>", '<body class="standalone">')


def _address(wanted: Standalone) -> dict[str, Any]:
    """Return the query with which the studio's page shows the same."""
    found = wanted.model_dump(exclude={"theme"}, exclude_none=True)
    for name in ("input", "kernel"):
        if name in found:
            found[name] = ",".join(f"{number:.{_DIGITS}g}" for number in found[name])
    return found


def _module(source: str) -> str:
    source = re.sub(r'from "\./(\w+)\.js"', r'from "\1"', source)
    return f"data:text/javascript;base64,{base64.b64encode(source.encode()).decode()}"


def _packed(wanted: Standalone) -> str:
    """Return the server's answers by their addresses: JSON, compressed, in Base64."""
    layer = Layer(**wanted.model_dump(include=set(Layer.model_fields)))
    answers = {"/api/layer": _rounded(explain(layer).model_dump()), "/api/layer/schema": Layer.model_json_schema()}
    text = json.dumps(answers, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _rounded(value: Any) -> Any:
    """Return an answer with fewer digits, and whole numbers without a point."""
    match value:
        case float():
            short = float(f"{value:.{_DIGITS}g}")
            return int(short) if short.is_integer() else short
        case dict():
            return {name: _rounded(each) for name, each in value.items()}
        case list() | tuple():
            return [_rounded(each) for each in value]
    return value
