"""The upsampling page to teach with: the lecture's slides, speed and loop, full screen, two layers side by side."""

from pathlib import Path

import pytest
from browser_helpers import lit, middle, numbers, outputs, point, until
from studio_helpers import rows

from halfstride.studio.animation import draw
from halfstride.studio.explanation import explain
from halfstride.studio.layer import Layer

ONES = (1,) * 9


def drawn(page, *tellings):
    """Wait until the page shows the outputs of these layers, the second beside the first."""
    script = """([view, output]) => {
        const cells = document.querySelector(`#${view} canvas`).cells ?? [];
        const shown = cells.filter(cell => cell.kind === 'output').map(cell => cell.value);
        const busy = document.querySelector('#views').ariaBusy === 'true';
        return !busy && JSON.stringify(shown) === JSON.stringify(output);
    }"""
    for view, telling in zip(("scatter", "second-scatter"), tellings, strict=False):
        until(page, script, [view, [int(value) if value == int(value) else value for value in telling.output]])


SLIDES = {
    "A convolution: 5×5, kernel 3×3, stride 2 → 2×2": Layer(form="conv", input_size=5),
    "2×2, kernel 3×3, stride 1 → 4×4 by scattering": Layer(input_size=2, stride=1),
    "2×2, kernel 3×3, stride 2 → 5×5 by scattering": Layer(input_size=2),
    "The emulation with zeros and padding": Layer(input_size=2),
    "The convolution as a matrix, and its transpose": Layer(form="conv", input_size=4, stride=1),
    "The size formula with padding": Layer(input_size=2, padding=1),
    "The size that a stride forgets: output padding": Layer(padding=1, output_padding=1),
    "Uneven overlap: kernel 3, stride 2": Layer(input=ONES, kernel=ONES),
    "Even overlap: kernel 4, stride 2": Layer(kernel_size=4, input=ONES, kernel=(1,) * 16),
    "Nearest-neighbour upsampling and convolution": Layer(form="resize", padding=1),
    "Transposed and resize-convolution side by side": Layer(padding=1, output_padding=1, input=ONES, kernel=ONES),
}


def test_every_slide_of_the_lecture_is_a_preset_with_its_layer(visit):
    page = visit()
    assert page.locator("#preset option").all_inner_texts() == ["Choose one", *SLIDES]
    for place, (name, layer) in enumerate(SLIDES.items()):
        page.locator("#preset").select_option(label=name)
        drawn(page, explain(layer))
        assert page.locator("#preset-note").is_visible()
        assert page.locator("#preset").input_value() == str(place)  # found again from the layer
    drawn(page, explain(layer), explain(Layer(form="resize", padding=1, input=ONES, kernel=ONES)))
    page.go_back()
    drawn(page, explain(Layer(form="resize", padding=1)))
    assert page.locator("#preset").input_value() == str(len(SLIDES) - 2)
    page.locator("#padding").fill("2")
    drawn(page, explain(Layer(form="resize", padding=2)))
    assert page.locator("#preset").input_value() == ""
    assert page.locator("#preset-note").is_hidden()


def test_the_animation_is_as_fast_as_set_and_begins_again(visit):
    page = visit("/?dims=1&input_size=2")
    page.evaluate("""() => {  // how long each step lasts, and which it is
        window.waits = [];
        const real = setTimeout;
        window.setTimeout = (work, after, ...rest) => {
            if (work.name === 'next') window.waits.push([document.querySelector('#step').value, after]);
            return real(work, work.name === 'next' ? 1 : after, ...rest);
        };
    }""")
    page.locator("#speed").select_option("4")
    page.locator("#play").click()
    until(page, "document.querySelector('#play').ariaLabel === 'Play'")
    assert page.evaluate("waits") == [["0", 225], ["1", 225]]  # a step is 900 ms at most
    page.locator("#speed").select_option("0.5")
    page.locator("#loop").check()
    assert page.evaluate("location.search") == "?dims=1&input_size=2&speed=0.5&loop=yes"
    page.locator("#play").click()
    until(page, "waits.length > 12")
    page.locator("#play").click()
    assert page.evaluate("waits")[2:7] == [["0", 1800], ["1", 1800], ["2", 5400], ["0", 1800], ["1", 1800]]
    again = visit("/?dims=1&input_size=2&speed=0.5&loop=yes")
    assert again.locator("#speed").input_value() == "0.5"
    assert again.locator("#loop").is_checked()


@pytest.mark.parametrize("view", ["scatter", "coverage"])
def test_one_view_fills_the_screen_and_escape_leaves_it(visit, view):
    page = visit("/?step=2", height=800)
    drawn_at = f"document.querySelector('#{view} canvas').clientHeight"
    before = page.evaluate(drawn_at)
    page.locator(f"#{view} canvas").hover()
    page.keyboard.press("f")
    until(page, "document.querySelector('.bench').classList.contains('alone')")
    until(page, f"{drawn_at} > {before}")
    visible = page.locator(".panel:visible").evaluate_all("all => all.map(one => one.id || one.className)")
    assert visible == ["panel transport wide", view]
    box = page.locator(f"#{view} canvas").bounding_box()
    assert box["y"] + box["height"] <= 800
    page.keyboard.press("ArrowRight")
    assert page.locator("#step").input_value() == "3"
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('.bench').classList.contains('alone')")
    until(page, f"{drawn_at} === {before}")
    page.locator(f"#{view} .screen").click()
    until(page, "document.querySelector('.bench').classList.contains('alone')")
    page.keyboard.press("Space")  # plays, and does not press the button again
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    page.locator(f"#{view} .screen").click()
    until(page, "!document.querySelector('.bench').classList.contains('alone')")


def test_two_layers_with_the_same_input_step_together(visit):
    page = visit("/?dims=1&kernel=1,5,2&input=3,-2,1")
    page.locator("#beside").select_option("resize")
    one = explain(Layer(dims=1, kernel=(1, 5, 2), input=(3, -2, 1)))
    other = explain(Layer(form="resize", dims=1, kernel=(1, 5, 2), input=(3, -2, 1), padding=1))
    drawn(page, one, other)
    assert page.evaluate("location.search") == "?dims=1&beside=resize&input=3,-2,1&kernel=1,5,2"
    assert page.locator("#second-scatter-title").inner_text() == "Scatter · Resize, 3 → 6"
    page.locator("#forward").click()
    page.locator("#forward").click()
    for prefix, told in (("", one), ("second-", other)):
        reached = {term.j for term in rows(told.terms) if term.i <= 1}
        expected = [value if j in reached else None for j, value in enumerate(told.partial[1])]
        for view in ("scatter", "emulated"):
            assert outputs(page, prefix + view) == expected
        assert lit(page, f"{prefix}matrix", "input") == [1]
    point(page, "second-scatter", "input", 2)  # an input is the same in both
    assert lit(page, "scatter", "input") == lit(page, "second-scatter", "input") == [2]
    point(page, "second-scatter", "output", 0)
    assert lit(page, "second-matrix", "output") == [0]
    assert lit(page, "scatter", "input") == [1]  # of the step
    page.mouse.click(*middle(page, "second-scatter", "input", 0))
    assert page.locator(".editor").count() == 0
    page.locator("#step").fill("3")
    page.mouse.click(*middle(page, "scatter", "input", 0))
    page.locator(".editor").fill("4")
    page.locator(".editor").press("Enter")
    other = explain(Layer(form="resize", dims=1, kernel=(1, 5, 2), input=(4, -2, 1), padding=1))
    drawn(page, explain(Layer(dims=1, kernel=(1, 5, 2), input=(4, -2, 1))), other)
    page.locator("#by input[value='outputs']").check(force=True)
    assert page.locator("#step").get_attribute("max") == "7"
    page.locator("#step").fill("6")  # the smaller one is done
    assert outputs(page, "second-scatter") == other.output
    page.locator("#beside_kernel").fill("4")
    wider = explain(Layer(form="resize", dims=1, kernel_size=4, input=(4, -2, 1), padding=1))
    drawn(page, explain(Layer(dims=1, kernel=(1, 5, 2), input=(4, -2, 1))), wider)
    page.locator("#beside_padding").fill("6")
    drawn(page, explain(Layer(dims=1, kernel=(1, 5, 2), input=(4, -2, 1))))
    page.locator("#beside").select_option("none")
    page.wait_for_selector("#second-scatter", state="hidden")
    assert page.locator("#scatter-title").inner_text() == "Scatter"


def test_an_illegal_layer_beside_is_told_and_nothing_is_shown(visit):
    page = visit("/?beside=conv&beside_kernel=9")
    assert page.locator("#error").inner_text().startswith("Beside it: `kernel_size` (=9)")
    assert numbers(page, "scatter") == numbers(page, "second-scatter") == []
    assert page.locator("#export-picture a[href], #export-html[href]").count() == 0


def test_a_view_is_saved_as_it_is(visit):
    page = visit("/?dims=1&step=1&by=outputs&beside=resize")
    for name, form, view in (("scatter", "transposed", "scatter"), ("second-phases", "resize", "phases")):
        page.locator("#picture-view").select_option(name)
        layer = Layer(form=form, dims=1, padding=1 if form == "resize" else 0)
        for kind in ("svg", "pdf"):
            with page.expect_download() as saving:
                page.locator(f"#export-picture a[data-format='{kind}']").click()
            assert saving.value.suggested_filename == f"{form}-{view}.{kind}"
            assert Path(saving.value.path()).read_bytes() == draw(layer, view, "outputs", 1, format=kind)
