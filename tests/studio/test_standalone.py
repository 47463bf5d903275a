"""A layer exported as one HTML file: small, asks for nothing, plays."""

import re

import pytest
from browser_helpers import numbers, until

from halfstride.studio.explanation import explain
from halfstride.studio.layer import Layer
from halfstride.studio.standalone import Standalone, standalone

LARGEST = {"form": "transposed", "input_size": 8, "kernel_size": 4, "stride": 2, "padding": 0}
LAYERS = [{}, {"form": "subpixel", "stride": 3, "padding": 1}, {"form": "resize", "dims": 1}, LARGEST]
LAYERS += [{"form": "conv", "input_size": 18, "kernel_size": 6, "padding": 2}]
LAYERS += [{**LARGEST, "beside": "subpixel", "beside_kernel": 4, "beside_padding": 1}]


@pytest.mark.parametrize("arguments", LAYERS)
def test_the_file_is_small_and_names_no_address(arguments):
    layer = Standalone(**arguments).layer
    kernel = [0.0123456789 * (-1) ** tap * (tap + 1) for tap in range(layer.kernels * layer.kernel_size**layer.dims)]
    values = [1 / (place + 1) for place in range(layer.input_size**layer.dims)]
    page = standalone(Standalone(**arguments, input=tuple(values), kernel=tuple(kernel)))
    assert len(page.encode()) < 500_000
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*\.(?:js|css|svg)"|url\(|@import', page)


def test_what_cannot_be_shown_is_not_exported(client):
    answer = client.get("/api/layer/page?padding=20")
    assert answer.status_code == 422
    assert "`padding` (=20)" in answer.json()["error"]
    answer = client.get("/api/layer/page?form=resize&padding=1")
    assert answer.headers["content-disposition"] == 'attachment; filename="resize.html"'


def test_a_file_with_two_layers_loops(browser, tmp_path):
    wanted = Standalone(dims=1, kernel=(1, 5, 2), beside="resize", beside_padding=1, speed="4", loop="yes")
    file = tmp_path / "layers.html"
    file.write_text(standalone(wanted), encoding="utf-8")
    page = browser.new_context(reduced_motion="no-preference").new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(file.as_uri())
    until(page, "!!document.querySelector(\"#views[aria-busy='false']\")")
    other = explain(Layer(form="resize", dims=1, padding=1, kernel=(1, 5, 2)))
    assert numbers(page, "second-scatter", kind="output") == other.output
    page.locator("#play").click()
    for step in ("2", "3", "0", "1"):
        until(page, "step => document.querySelector('#step').value === step", step)
    page.keyboard.press("f")
    until(page, "document.querySelector('.bench').classList.contains('alone')")
    assert errors == []
    page.context.close()


@pytest.mark.parametrize(("embedded", "theme"), [(False, "dark"), (True, "light")])
def test_the_file_plays_without_a_server(browser, tmp_path, embedded, theme):
    wanted = Standalone(input_size=2, kernel=tuple(range(9)), by="outputs", theme=theme, speed="4")
    file = tmp_path / "layer.html"
    file.write_text(standalone(wanted), encoding="utf-8")
    page = browser.new_context(reduced_motion="no-preference").new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    if embedded:  # as a course page embeds it: without storage, and with an address that is not its own
        outer = tmp_path / "course.html"
        outer.write_text('<iframe src="layer.html" sandbox="allow-scripts" width="1200" height="900"></iframe>')
        page.goto(outer.as_uri())
        shown = page.frames[1]
    else:
        page.goto(file.as_uri())
        shown = page.main_frame
    until(shown, "!!document.querySelector(\"#views[aria-busy='false']\")")
    explained = explain(Layer(input_size=2, kernel=tuple(range(9))))
    assert numbers(shown, "scatter", kind="output") == explained.output
    shown.locator("#play").click()
    until(shown, "document.querySelector('#step').value === '3'")
    assert numbers(shown, "scatter", kind="output")[:4] == explained.output[:4]
    until(shown, "document.querySelector('#play').ariaLabel === 'Play'")
    assert shown.evaluate("getComputedStyle(document.body).colorScheme") == theme
    assert not shown.locator("#form").is_visible()
    assert errors == []
    assert [address for address in asked if not address.startswith(("data:", "file:", "blob:"))] == []
    assert len([address for address in asked if address.startswith("file:")]) == 1 + embedded
    page.context.close()
