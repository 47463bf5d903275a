"""The doctor page in a real browser, and what all pages have in common."""

import numpy as np
import pytest
from browser_helpers import drop, served, until, violations
from studio_helpers import png

from halfstride import ConvAutoencoder, diagnose, diagnose_image, to_float
from halfstride.studio.page import PAGES


def table(page, selector):
    """A table's rows, by the names of its columns."""
    heads = page.locator(f"{selector} thead th").all_inner_texts()
    rows = page.locator(f"{selector} tbody tr").all()
    return [dict(zip(heads, row.locator("th, td").all_inner_texts(), strict=True)) for row in rows]


def test_the_doctor_names_the_layers(visit, runs, shown_digits):
    page = visit("/doctor?run=uneven")
    model = ConvAutoencoder.from_pretrained(runs / "uneven")
    found = diagnose(model, to_float(shown_digits.images[:256]))
    verdict = page.locator("#model-findings .verdict").inner_text()
    assert verdict == f"⚠ {str(found).splitlines()[-1]}"
    shown = table(page, "#model-findings div:nth-of-type(1) table")
    for row, layer in zip(shown, found.layers, strict=True):
        assert row["layer"] == layer.name
        assert row["kind"] == layer.kind == "transposed"
        assert (row["kernel"], row["stride"], row["taps"]) == ("5", "4", "1 to 4")
        assert float(row["gain spread"]) == pytest.approx(layer.gain_spread, rel=0.06)
        assert float(row["makes"].removesuffix(" %")) == pytest.approx(100 * layer.made, rel=0.06)
        assert row["verdict"].endswith(layer.verdict)
        assert layer.advice in page.locator("#model-findings .notes").inner_text()
    until(page, "document.querySelector('#model-findings img').naturalWidth > 500")
    page.locator(".head nav a", has_text="Autoencoder").click()
    page.wait_for_selector(".walk canvas")
    assert page.url.endswith("/autoencoder?run=uneven")


def test_a_figure_follows_the_theme(visit):
    page = visit("/doctor?run=plane", color_scheme="light")
    picture = "document.querySelector('#model-findings').dataset.frames"
    assert page.evaluate(picture) == "1"
    page.emulate_media(color_scheme="dark")
    until(page, f"{picture} === '2'")
    page.locator(".theme").click()
    until(page, f"{picture} === '3'")
    page.locator(".theme").click()
    until(page, f"{picture} === '4'")


def test_a_dropped_picture_is_examined(visit):
    picture = np.random.default_rng(3).integers(0, 200, (64, 96), dtype=np.uint8)
    picture[::4, ::4] += 55
    page = visit("/doctor?run=plane")
    for content in (picture, np.random.default_rng(5).integers(0, 255, (50, 61), dtype=np.uint8)):
        drop(page, png(content))
        found = diagnose_image(content / np.float32(255))
        told = str(found).splitlines()[-1]
        until(page, "text => document.querySelector('#picture-findings .verdict')?.innerText.endsWith(text)", told)
        rows = table(page, "#picture-findings")
        assert [(row["period"], row["measured"] != "none") for row in rows] == [
            (str(pattern.period[0]), pattern.found) for pattern in found.patterns
        ]
        assert found.found == (content is picture)
    assert page.locator("#picture-title").inner_text() == "mine.png"
    drop(page, b"no picture at all")
    page.wait_for_selector("#picture-findings .alarm")
    assert "not a picture that can be read" in page.locator("#picture-findings").inner_text()


def test_the_rule_and_the_three_answers_are_told(visit):
    page = visit("/doctor?run=plane")
    words = page.locator("#model").inner_text()
    assert "an evidence of 3.5 and a strength of 0.5 %" in words
    assert "contrast stretched" in words
    for content, mark in (
        (np.zeros((7, 90), np.uint8), "– Could not judge: "),
        (np.random.default_rng(5).integers(0, 255, (50, 61), dtype=np.uint8), "✓ No periodic pattern found."),
        (np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 200, "⚠ Pattern found: "),
    ):
        drop(page, png(content))
        until(page, "mark => document.querySelector('#picture-findings .verdict')?.innerText.startsWith(mark)", mark)


def test_a_damaged_run_cannot_be_examined_and_a_picture_can(visit):
    page = visit("/doctor?run=damaged")
    assert "does not hold the weights of this model" in page.locator("#model-findings").inner_text()
    drop(page, png(np.zeros((40, 40), np.uint8)))
    page.wait_for_selector("#picture-findings .verdict")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?padding=9",
        "/autoencoder?run=classes",
        "/network?run=classes",
        "/?beside=resize&dims=1&step=1",
        "/checkerboard",
        "/detection?run=parts",
        "/compare?run=photographs&run=classes",
        "/doctor?run=deep",
    ],
)
def test_nothing_sticks_out_at_any_width_and_axe_finds_nothing_serious(visit, folder_address, judged_address, path):
    at = {"classes": folder_address, "parts": judged_address}.get(path.rpartition("run=")[2])
    page = visit(path, color_scheme="light", **({"at": at} if at else {}))
    for width, scheme in ((320, None), (800, None), (2560, None), (3840, None), (1600, "light"), (360, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if scheme is not None:
            page.emulate_media(color_scheme=scheme)
            # A frame begins with the page's answer to the new scheme, which may draw a figure anew.
            page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
            until(page, "!document.querySelector('[aria-busy=true]')")
            assert violations(page) == []


def test_the_theme_is_chosen_and_kept(visit):
    page = visit()
    page.locator(".theme").click()
    page.locator(".theme").click()
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    page.reload()
    assert page.locator(".theme").inner_text() == "Theme: dark"


def test_every_page_works_behind_a_proxy_with_a_prefix(visit, folder_runs):
    with served(folder_runs, prefix="/user/me/proxy/8765") as address:
        for page in PAGES:  # `visit` fails where a page asks beside its prefix
            shown = visit(f"{page.path}?run=photographs" if page.of_run else page.path, at=address)
            assert not shown.locator(".alarm:visible").count(), page.name
            for other in PAGES:
                link = shown.locator(".head nav a", has_text=other.name.capitalize())
                assert link.evaluate("link => link.href").split("?")[0] == address + other.path
        link = shown.locator(".head nav a", has_text="Upsampling")
        link.click()
        until(shown, "!!document.querySelector('#views[aria-busy=false]')")
