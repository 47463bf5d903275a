"""A layer as one HTML file: the upsampling page with its answer in it, which plays without a server or any request."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import Field

from halfstride.studio.explanation import explain
from halfstride.studio.layer import Form, Layer
from halfstride.studio.page import STATIC, UPSAMPLING
from halfstride.studio.text import NAMES

_MODULES = (
    *("dom", "cells", "tables", "views", "address", "presets", "saying", "shown", "transport", "editing", "exports"),
    *("fullscreen", "controls", "upsampling"),
)
_DIGITS = 6
"""Significant digits of the numbers in the file."""


class Standalone(Layer):
    """A layer, and how its page begins."""

    by: Literal["inputs", "outputs"] = "inputs"
    theme: Literal["auto", "light", "dark"] = "auto"
    speed: Literal["0.25", "0.5", "1", "2", "4"] = "1"
    loop: Literal["no", "yes"] = "no"
    beside: Form | None = Field(None, description="Another operator beside it, with the same input.")
    beside_kernel: int = Field(3, ge=1, le=9)
    beside_padding: int = Field(0, ge=0, le=20)

    @property
    def layer(self) -> Layer:
        """The layer alone."""
        return Layer(**self.model_dump(include=set(Layer.model_fields)))

    @property
    def other(self) -> Layer | None:
        """The layer beside it, with the same kernel where that has as many numbers."""
        if self.beside is None:
            return None
        changes: dict[str, Any] = {"form": self.beside, "kernel_size": self.beside_kernel}
        changes["padding"] = self.beside_padding
        if self.beside != "transposed":
            changes["output_padding"] = 0
        other = self.layer.model_copy(update=changes)
        if self.kernel and len(self.kernel) != other.kernels * other.kernel_size**other.dims:
            other = other.model_copy(update={"kernel": None})
        return other


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
    answers = {"/api/layer": _answer(wanted.layer), "/api/layer/schema": Layer.model_json_schema()}
    if wanted.other is not None:
        answers["beside"] = _answer(wanted.other)
    text = json.dumps(answers, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _answer(layer: Layer) -> Any:
    return _rounded(explain(layer).model_dump())


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
