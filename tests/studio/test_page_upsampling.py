"""The upsampling page in a real browser: every number that it shows is compared with the package's own functions."""

import base64
import re
from pathlib import Path

import numpy as np
import pytest
from browser_helpers import cells, entries, lit, middle, numbers, outputs, point, until
from studio_helpers import rows

from halfstride.studio.animation import animate, encode
from halfstride.studio.explanation import explain
from halfstride.studio.layer import Layer


def query(page):
    """What the page's address says now; Playwright hears of it later."""
    return page.evaluate("location.search")


def slide(page, name, value):
    page.locator(f"#{name}").fill(str(value))


def drawn(page, telling):
    """Wait until the page shows the output of this layer."""
    script = """output => {
        const shown = document.querySelector('#scatter canvas').cells.filter(cell => cell.kind === 'output');
        return document.querySelector('#views').ariaBusy === 'false' && shown.length === output.length
            && shown.every((cell, place) => cell.value === output[place]);
    }"""
    until(page, "document.querySelector('#scatter canvas').cells !== undefined")
    until(page, script, telling.output)


def test_every_kind_of_layer_shows_its_own_numbers_in_every_view(visit):
    page = visit("/?input_size=4&padding=1")
    for form in ("conv", "resize", "subpixel", "transposed"):
        page.locator(f"#form input[value='{form}']").check(force=True)  # all settings stay
        for dims in ("1", "2"):
            page.locator(f"#dims input[value='{dims}']").check(force=True)
            told = explain(Layer(form=form, dims=int(dims), input_size=4, padding=1))
            drawn(page, told)
            assert outputs(page) == told.output
            assert outputs(page, "emulated") == told.output
            assert numbers(page, "scatter", kind="input") == told.input
            assert numbers(page, "scatter", kind="kernel") == told.kernel
            assert entries(page) == [(entry.j, entry.i) for entry in rows(told.matrix)]
            assert outputs(page, "matrix") == told.output
            assert numbers(page, "matrix", kind="entry") == told.matrix.value
            kernels = [v for phase in told.phases.kernels for v, t in zip(phase.kernel, phase.taps, strict=True) if t]
            assert numbers(page, "phases", look="kernel") == kernels
            assert numbers(page, "coverage") == told.coverage.counts
            assert page.locator("#verdict").inner_text()[2:] == told.coverage.verdict
            formula = page.locator("#formula").inner_text().split("\n")
            assert formula == ["".join(token.text for token in line) for line in told.formula.lines]
            products = page.locator("#costs td").all_inner_texts()
            assert [p.replace(",", "") for p in products] == [
                "not possible" if cost.products is None else str(cost.products) for cost in told.costs
            ]
            sources = [cell["index"] for cell in cells(page, "emulated") if cell["kind"] != "output"]
            assert sources == [None if source < 0 else source for source in told.emulated.source]


def test_stepping_and_playing_move_all_views_together(visit):
    told = explain(Layer())
    page = visit()
    drawn(page, told)
    page.keyboard.press("ArrowRight")
    for step in range(3):
        reached = {term.j for term in rows(told.terms) if term.i <= step}
        expected = [value if j in reached else None for j, value in enumerate(told.partial[step])]
        for view in ("scatter", "emulated"):
            assert outputs(page, view) == expected
        for view in ("scatter", "matrix"):
            assert lit(page, view, "input") == [step]
        assert entries(page, lit=True) == [(entry.j, entry.i) for entry in rows(told.matrix) if entry.i == step]
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert "step=2" in query(page)
    page.locator("#by input[value='outputs']").check(force=True)
    page.locator("#forward").click()
    page.locator("#forward").click()
    assert outputs(page) == [told.output[0], told.output[1], *[None] * 47]
    under = [place for place, cell in enumerate(cells(page, "emulated")) if cell["window"]]
    assert under == sorted(told.emulated.cells[1])
    page.locator("body").press("Space")
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    until(page, "document.querySelector('#step').value > 3")
    page.locator("body").press("Space")
    assert page.locator("#play").get_attribute("aria-label") == "Play"
    page.locator("#step").fill("49")
    assert outputs(page) == told.output


@pytest.mark.parametrize("query", ["", "?form=conv&input_size=5&dims=1", "?form=resize&dims=1", "?form=subpixel"])
def test_pointing_at_a_cell_lights_up_what_it_depends_on(visit, query):
    page = visit(f"/{query}")
    form = "transposed" if not query else query.split("form=")[1].split("&")[0]
    dims = 1 if "dims=1" in query else 2
    size = 5 if "input_size=5" in query else 3
    told = explain(Layer(form=form, dims=dims, input_size=size, padding=0 if form == "transposed" else 1))
    drawn(page, told)
    j, i = len(told.output) // 2, len(told.input) // 2
    point(page, "scatter", "input", i)
    landing = [entry for entry in rows(told.matrix) if entry.i == i]
    listed = ", ".join(f"{entry.contribution:g}" for entry in landing)
    outputs_reached = f"{len(landing)} output{'s' * (len(landing) > 1)}"
    assert page.locator("#said").inner_text().endswith(f" is added to {outputs_reached}: {listed}")
    assert lit(page, "matrix", "output") == []
    assert {entry[0] for entry in entries(page, lit=True)} == {entry.j for entry in landing}
    if dims == 1:  # a row for every input, and in it where it lands
        shown = cells(page, "scatter", kind="product")
        assert [cell["value"] for cell in shown] == told.matrix.contribution
        assert len({(cell["x"], cell["y"]) for cell in shown}) == len(shown)
    point(page, "scatter", "output", j)
    terms = [term for term in rows(told.terms) if term.j == j]
    assert lit(page, "scatter", "input") == sorted({term.i for term in terms})
    assert lit(page, "scatter", "kernel") == sorted({term.t for term in terms})
    assert lit(page, "matrix", "output") == [j]
    assert sorted(entries(page, lit=True)) == sorted({(j, term.i) for term in terms})
    sums = " + ".join(f"{told.input[term.i]:g} · {told.kernel[term.t]:g}" for term in terms)
    assert page.locator("#said").inner_text().endswith(f" = {sums} = {told.output[j]:g}")
    point(page, "scatter", "kernel", 1)
    assert lit(page, "scatter", "output") == sorted({term.j for term in rows(told.terms) if term.t == 1})
    point(page, "matrix", "entry", f"{j},{terms[0].i}")
    assert lit(page, "scatter", "kernel") == sorted({term.t for term in terms if term.i == terms[0].i})
    assert (lit(page, "phases", "input"), lit(page, "phases", "output")) == (
        ([terms[0].i], []) if form == "conv" else ([], [j])
    )
    page.locator("h1").hover()
    assert not any(cells(page, view, lit=True) for view in ("scatter", "emulated", "phases", "matrix"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_lit_is_seen(visit, scheme):
    page = visit("/?step=0&padding=1", color_scheme=scheme)
    assert None in outputs(page)
    colors = {}
    for name in ("input", "input-tint", "output-tint"):
        page.evaluate("name => (document.querySelector('h1').style.color = `var(--${name})`)", name)
        shown = page.evaluate("getComputedStyle(document.querySelector('h1')).color")
        colors[name] = [int(part) for part in re.findall(r"\d+", shown)]
    script = """([kind, index]) => {
        const canvas = document.querySelector('#scatter canvas');
        const unit = canvas.width / parseFloat(canvas.style.aspectRatio);
        const cell = canvas.cells.find(one => one.kind === kind && one.index === index);
        const [x, y, side] = [cell.x + 0.15, cell.y + 0.2, 0.7].map(value => Math.round(value * unit));
        return btoa(String.fromCharCode(...canvas.getContext('2d').getImageData(x, y, side, side).data));
    }"""
    for kind, index, color in [("input", 0, "input"), ("input", 1, "input-tint"), ("output", 24, "output-tint")]:
        data = base64.b64decode(page.evaluate(script, [kind, index]))
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(-1, 4)[:, :3]
        assert pixels[0].tolist() == colors[color]
        number = cells(page, "scatter", kind=kind, index=index)[0]["value"]
        assert (pixels != pixels[0]).any() == (number is not None)


def test_drawings_are_as_sharp_as_the_screen_at_any_width(visit):
    page = visit("/?dims=1")
    for width in (500, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        until(
            page,
            "[...document.querySelectorAll('.sheet canvas')].filter(one => one.clientWidth > 0)"
            ".every(one => one.width === one.clientWidth && Math.abs(one.height - one.clientHeight) <= 1)",
        )


def test_a_number_is_edited_with_the_mouse_and_with_the_keyboard(visit):
    page = visit("/?dims=1")
    drawn(page, explain(Layer(dims=1)))
    page.mouse.click(*middle(page, "scatter", "kernel", 1))
    page.locator(".editor").fill("-0.5")
    page.locator(".editor").press("Enter")
    told = explain(Layer(dims=1, kernel=(1, -0.5, 3)))
    drawn(page, told)
    assert outputs(page) == told.output
    page.locator("#scatter .spot[data-kind='input']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("7")
    page.keyboard.press("Enter")
    told = explain(Layer(dims=1, input=(1, 7, 3), kernel=(1, -0.5, 3)))
    drawn(page, told)
    assert page.evaluate("document.activeElement.dataset.index") == "1"
    assert query(page) == "?dims=1&input=1,7,3&kernel=1,-0.5,3"
    again = visit(f"/{query(page)}", locale="en")  # a second page beside the first
    drawn(again, told)
    # From one number straight to the next: the first is taken, and its answer leaves the second alone.
    page.mouse.click(*middle(page, "scatter", "kernel", 0))
    page.locator(".editor").fill("4")
    page.mouse.click(*middle(page, "scatter", "kernel", 2))
    drawn(page, explain(Layer(dims=1, input=(1, 7, 3), kernel=(4, -0.5, 3))))
    assert page.evaluate("document.activeElement.matches('.editor') && document.activeElement.value") == "3"
    page.locator(".editor").fill("5")
    page.locator(".editor").press("Escape")
    slide(page, "kernel_size", 4)
    drawn(page, explain(Layer(dims=1, kernel_size=4, input=(1, 7, 3))))
    page.locator("#scatter .spot[data-kind='kernel']").focus()
    page.keyboard.press("Enter")
    page.locator(".editor").fill("seven")
    page.locator(".editor").press("Enter")
    assert page.locator("#error").inner_text() == "“seven” is not a number: type one such as 3 or −0.5."
    page.locator("#reset").click()
    drawn(page, explain(Layer()))
    assert query(page) == ""
    assert page.locator("#error").is_hidden()


def test_settings_stay_with_another_kind_of_layer_and_the_way_back_is_open(visit):
    page = visit("/?dims=1&input=3,-2,1&kernel=1,5,2")
    slide(page, "padding", 1)
    slide(page, "output_padding", 1)
    slide(page, "stride", 3)
    slide(page, "stride", 4)
    told = Layer(dims=1, input=(3, -2, 1), kernel=(1, 5, 2), stride=4, padding=1, output_padding=1)
    drawn(page, explain(told))
    page.locator("#form input[value='resize']").check(force=True)
    resized = told.model_copy(update={"form": "resize", "output_padding": 0})
    drawn(page, explain(resized))
    page.locator("#form input[value='transposed']").check(force=True)
    drawn(page, explain(told))
    page.locator("#reset").click()
    drawn(page, explain(Layer()))
    for layer in (told, resized, told, told.model_copy(update={"stride": 2})):  # both changes of the stride are one
        page.go_back()
        drawn(page, explain(layer))
    page.go_forward()
    drawn(page, explain(told))


def test_nothing_of_an_earlier_layer_can_be_copied_from_an_illegal_one(visit):
    page = visit()
    drawn(page, explain(Layer()))
    before = page.locator("#scatter").bounding_box()["width"]
    slide(page, "padding", 5)
    page.wait_for_selector("#error:not([hidden])")
    assert (
        page.locator("#error").inner_text() == "`padding` (=5) leaves nothing of the full output (=7): use at most 3."
    )
    for selector in ("#code", "#formula", "#formula-note", "#verdict", "#costs tbody", ".tables", "#said"):
        assert "".join(page.locator(selector).all_text_contents()) == ""
    assert page.locator("#export a[href]").count() == 0
    assert page.locator("#copy, #export a, #play, .sheet canvas").locator("visible=true").count() == 0
    assert [numbers(page, view) for view in ("scatter", "emulated", "phases", "matrix", "coverage")] == [[]] * 5
    assert page.locator("#scatter").bounding_box()["width"] == before
    slide(page, "padding", 1)
    drawn(page, explain(Layer(padding=1)))
    assert page.locator("#error").is_hidden()
    assert "padding=1" in page.locator("#export a").first.get_attribute("href")
    page = visit("/?padding=5&dims=1")
    assert page.locator("#error").inner_text().startswith("`padding` (=5) leaves nothing")
    assert page.locator("#code").inner_text() == ""
    slide(page, "padding", 0)
    drawn(page, explain(Layer(dims=1)))


def test_the_numbers_are_tables_for_those_who_do_not_see_the_canvas(visit):
    page = visit("/?step=1&dims=1")
    told = explain(Layer(dims=1))
    until(page, "document.querySelectorAll('.tables table').length > 6")
    read = page.evaluate(
        """Object.fromEntries(['#scatter', '#matrix', '#coverage'].flatMap(view =>
            [...document.querySelectorAll(`${view} table`)]).map(one =>
            [one.caption.textContent, [...one.querySelectorAll('tbody td')].map(cell => cell.textContent)]))"""
    )
    assert read["Input"] == ["1", "2", "3"]
    assert read["Kernel"] == ["1", "2", "3"]
    reached = {term.j for term in rows(told.terms) if term.i <= 1}
    assert read["Output at this step"] == [f"{v:g}" if j in reached else "" for j, v in enumerate(told.partial[1])]
    matrix = [0.0] * 21
    for entry in rows(told.matrix):
        matrix[3 * entry.j + entry.i] = entry.value
    assert read["Matrix: a row for each output, a column for each input"] == [f"{value:g}" for value in matrix]
    assert read["Number of products at each output"] == [str(count) for count in told.coverage.counts]
    names = page.locator("input[type=range]:visible").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert names == ["input size", "kernel size", "stride", "padding", "dilation", "output padding", "Step"]


def test_a_shared_address_brings_back_layer_numbers_and_step(visit):
    page = visit(
        "/?dims=1&input_size=2&kernel_size=4&padding=1&input=3,-2&by=outputs&step=2&matrix=turned&code=halfstride"
    )
    told = explain(Layer(dims=1, input_size=2, kernel_size=4, padding=1, input=(3, -2)))
    assert outputs(page) == [*told.output[:3], *[None] * (told.output_size - 3)]
    assert page.locator("#code").inner_text() == told.code.halfstride
    assert page.locator("#turned input[value='yes']").is_checked()
    assert page.locator("#by input[value='outputs']").is_checked()
    for query in ("?form=nonsense&stride=-4&step=99999", "?input=1,2", "?kernel=<b>", "?dims=7&padding=20"):
        visit(f"/{query}")


def test_the_code_is_copied_and_computes_what_is_shown(visit):
    page = visit("/?form=resize&dims=1", permissions=["clipboard-read", "clipboard-write"])
    told = explain(Layer(form="resize", dims=1, padding=1))
    drawn(page, told)
    for language, code in (("pytorch", told.code.pytorch), ("halfstride", told.code.halfstride)):
        page.locator(f"#language input[value='{language}']").check(force=True)
        page.locator("#copy").click()
        until(page, "document.querySelector('#copy').textContent === 'Copied'")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == code
        names = {}
        exec(copied, names)
        assert names["y"].flatten().tolist() == outputs(page)
        until(page, "document.querySelector('#copy').textContent === 'Copy code'")


def test_the_animation_of_these_very_numbers_is_saved(visit):
    page = visit("/?dims=1&input=3,-2,1&by=outputs")
    page.locator("#shade input[value='dark']").check(force=True)
    layer = Layer(dims=1, input=(3, -2, 1))
    for kind, name in (("gif", "transposed-sliding.gif"), ("svg", "transposed-sliding.svg")):
        with page.expect_download() as saving:
            page.locator(f"#export a[data-format='{kind}']").click()
        assert saving.value.suggested_filename == name
        assert Path(saving.value.path()).read_bytes() == encode(animate(layer, "sliding", "dark"), kind)


def test_a_tap_keeps_a_cell_lit(visit):
    page = visit(width=390, height=800, has_touch=True, is_mobile=True)
    told = explain(Layer())
    drawn(page, told)
    page.touchscreen.tap(*middle(page, "emulated", "output", 24))
    until(page, "document.querySelector('#scatter canvas').cells.some(cell => cell.lit)")
    assert lit(page, "scatter", "input") == sorted({term.i for term in rows(told.terms) if term.j == 24})
