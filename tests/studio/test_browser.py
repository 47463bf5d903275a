"""The studio in a real browser: every number that it shows is compared with the package's own functions."""

import base64
import contextlib
import json
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from studio_helpers import as_shown, png, rows

from halfstride import ConvAutoencoder, diagnose, diagnose_image, load_images, to_float
from halfstride.autoencoder import ImageOptions, Run, decode, reconstruct
from halfstride.studio import server
from halfstride.studio.animation import animate, encode
from halfstride.studio.app import create_app
from halfstride.studio.explanation import explain
from halfstride.studio.layer import Layer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: the browser tests need one", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

OPTIONS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def served(runs):
    """The studio's address, while it is served to this machine."""
    import uvicorn

    listener = server._listen("127.0.0.1", 8770)
    running = uvicorn.Server(uvicorn.Config(create_app(runs), log_level="error"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture(scope="module")
def address(runs):
    with served(runs) as address:
        yield address


@pytest.fixture(scope="module")
def folder_address(folder_runs):
    with served(folder_runs) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


def until(page, script, argument=None):
    """Wait until a script on the page says yes; Playwright's own waiting needs what the page's policy forbids."""
    deadline = time.monotonic() + 20
    while not page.evaluate(script, argument):
        assert time.monotonic() < deadline, f"never came true: {script} with {argument}"
        page.wait_for_timeout(20)


@pytest.fixture
def visit(browser, address):
    """Open a page; afterwards it must have had no error and asked its own server alone."""
    contexts, troubles = [], []

    ready = "#views[aria-busy='false'], .walk canvas, [id$=findings][data-frames], .alarm:not([hidden])"

    def visit(path="/", width=1400, height=1000, ready=ready, at=address, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text) if "Security" in message.text else None)
        page.on("request", lambda request: troubles.append(request.url) if not ours(request.url, at) else None)
        page.goto(at + path)
        until(page, "ready => !!document.querySelector(ready)", ready)
        return page

    def ours(url, at):
        return url.startswith((at, "data:", "blob:"))

    yield visit
    for context in contexts:
        context.close()
    assert troubles == []


def cells(page, view, **wanted):
    """The cells that a view's canvas shows, in the order in which they are drawn."""
    script = """(canvas, wanted) => JSON.stringify(canvas.cells.filter(
        cell => Object.entries(wanted).every(([name, value]) => cell[name] === value)
    ))"""
    return json.loads(page.eval_on_selector(f"#{view} canvas", script, wanted))


def numbers(page, view, **wanted):
    """The numbers in cells; None where one is empty."""
    return [cell["value"] for cell in cells(page, view, **wanted)]


def lit(page, view, kind):
    return sorted(cell["index"] for cell in cells(page, view, kind=kind, lit=True))


def entries(page, **wanted):
    """Row and column of the matrix's entries, in the order in which they are drawn."""
    return [tuple(map(int, cell["index"].split(","))) for cell in cells(page, "matrix", kind="entry", **wanted)]


def outputs(page, view="scatter"):
    return numbers(page, view, kind="output")


def middle(page, view, kind, index):
    """Where the first cell that stands for this is on the screen, brought into sight."""
    page.locator(f"#{view} canvas").scroll_into_view_if_needed()
    box, width = page.eval_on_selector(
        f"#{view} canvas", "canvas => [canvas.getBoundingClientRect().toJSON(), parseFloat(canvas.style.aspectRatio)]"
    )
    cell = cells(page, view, kind=kind, index=index)[0]
    return [box[side] + (cell[side] + 0.51) * box["width"] / width for side in ("x", "y")]


def point(page, view, kind, index):
    page.mouse.move(*middle(page, view, kind, index))


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


# Upsampling -----------------------------------------------------------------------------------------------------------


def test_every_kind_of_layer_shows_its_own_numbers_in_every_view(visit):
    page = visit()
    for form, geometry in (
        ("conv", {"input_size": 7, "padding": 1}),
        ("resize", {"padding": 1}),
        ("subpixel", {"padding": 1}),
        ("transposed", {}),
    ):
        page.locator(f"#form input[value='{form}']").check(force=True)
        for dims in ("1", "2"):
            page.locator(f"#dims input[value='{dims}']").check(force=True)
            told = explain(Layer(form=form, dims=int(dims), **geometry))
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
    """The pixels themselves: in the canvas's colours, with a number's ink where there is a number."""
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
            "[...document.querySelectorAll('.sheet canvas')].every(one => one.width === one.clientWidth"
            " && Math.abs(one.height - one.clientHeight) <= 1)",
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
    again = visit(f"/{query(page)}")
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
    drawn(page, explain(Layer(dims=1, kernel_size=4)))
    assert page.locator("#error").is_hidden()


def test_an_illegal_layer_says_why_and_leaves_the_last_one_standing(visit):
    page = visit()
    drawn(page, explain(Layer()))
    before = page.locator("#scatter").bounding_box()["width"]
    slide(page, "padding", 5)
    page.wait_for_selector("#error:not([hidden])")
    assert (
        page.locator("#error").inner_text() == "`padding` (=5) leaves nothing of the full output (=7): use at most 3."
    )
    assert outputs(page) == explain(Layer()).output
    assert page.locator("#views").get_attribute("class") == "views stale"
    assert page.locator("#scatter").bounding_box()["width"] == before
    slide(page, "padding", 1)
    drawn(page, explain(Layer(padding=1)))
    assert page.locator("#error").is_hidden()


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


def drop(page, content, name="mine.png"):
    page.evaluate(
        """([text, name]) => {
            const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, {type: 'image/png'}));
            for (const kind of ['dragover', 'drop']) {
                document.querySelector('#drop').dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true}));
            }
        }""",
        [base64.b64encode(content).decode(), name],
    )


# The autoencoder ------------------------------------------------------------------------------------------------------


def canvas(page, selector):
    """What a canvas shows, as an array H×W×3."""
    script = """node => [node.width, node.height,
        btoa(String.fromCharCode(...node.getContext('2d').getImageData(0, 0, node.width, node.height).data))]"""
    width, height, data = page.locator(selector).evaluate(script)
    return np.frombuffer(base64.b64decode(data), dtype=np.uint8).reshape(height, width, 4)[..., :3]


def decoded(model, code):
    with torch.inference_mode():
        latents = torch.tensor([code]).float().reshape(1, *model.latent_shape)
        return model.decode(latents).mul(255).round().to(torch.uint8)[0]


def settle(page):
    """Wait until the newest code that was asked for is shown."""
    until(page, "document.querySelector('#decoded').ariaBusy === 'false'")


def shows(page, selector, image, within=0):
    """Wait until a canvas shows this uint8 image 1×H×W, to so many grey values."""
    deadline = time.monotonic() + 20
    while np.abs(canvas(page, selector).astype(int) - as_shown(image).astype(int)).max() > within:
        assert time.monotonic() < deadline, f"{selector} never shows it"
        page.wait_for_timeout(20)


def test_dragging_in_the_latent_plane_decodes_what_is_under_the_finger(visit, runs):
    page = visit("/autoencoder?run=plane")
    model = ConvAutoencoder.from_pretrained(runs / "plane")
    settle(page)
    box = page.locator(".plane").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 150)
    page.mouse.down()
    for step in range(8):
        page.mouse.move(box["x"] + 200 + 10 * step, box["y"] + 150 + 5 * step)
    page.mouse.up()
    settle(page)
    first = page.evaluate("[...document.querySelectorAll('#sliders input')].map(input => Number(input.value))")
    shown = canvas(page, "#decoded").astype(int)
    # Sliders have steps, so that the code is known to half a step: the picture then is to a grey value or two.
    assert np.abs(shown - as_shown(decoded(model, first)).astype(int)).max() <= 12
    page.locator(".plane").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    settle(page)
    assert (canvas(page, "#decoded").astype(int) != shown).any()


def move(page, place, end="max"):
    """Move a slider of the code to one of its ends; returns its number there, as the page has it."""
    script = f"""input => {{
        input.value = input.{end};
        input.dispatchEvent(new Event('input'));
        return Number(input.value);
    }}"""
    return page.locator("#sliders input").nth(place).evaluate(script)


def test_a_single_number_of_the_code_is_moved(visit, runs):
    page = visit("/autoencoder?run=deep")
    model = ConvAutoencoder.from_pretrained(runs / "deep")
    settle(page)
    with page.expect_response("**/decode") as answering:
        most = move(page, 3)
    sent = json.loads(answering.value.request.post_data)["code"]
    assert len(sent) == 12
    assert sent[3] == most
    shows(page, "#decoded", decoded(model, sent))


def test_an_answer_takes_back_nothing_that_was_chosen_meanwhile(visit, runs):
    """Sliders and plane are moved while earlier answers are still on their way, and these come one by one."""
    page = visit("/autoencoder?run=deep")
    model = ConvAutoencoder.from_pretrained(runs / "deep")
    settle(page)
    held = []
    page.route("**/decode", lambda route: held.append(route))

    def sent(place):
        deadline = time.monotonic() + 20
        while len(held) <= place:
            assert time.monotonic() < deadline, f"request {place} never came"
            page.wait_for_timeout(20)
        return json.loads(held[place].request.post_data)

    def answer(place):
        drawn = page.evaluate("document.querySelector('#decoded').dataset.frames")
        held[place].continue_()
        until(page, "drawn => document.querySelector('#decoded').dataset.frames !== drawn", drawn)

    ends = {3: move(page, 3), 5: move(page, 5)}
    code = sent(1)["code"]
    answer(0)
    ends[0] = move(page, 0, "min")
    assert {place: sent(2)["code"][place] for place in ends} == ends
    assert sent(2)["code"] == [ends.get(place, number) for place, number in enumerate(code)]
    answer(2)
    shows(page, "#decoded", decoded(model, sent(2)["code"]))
    held[1].continue_()  # overtaken
    settle(page)
    page.wait_for_timeout(100)
    shows(page, "#decoded", decoded(model, sent(2)["code"]))
    assert [
        page.locator("#sliders input").nth(place).evaluate("input => Number(input.value)") for place in ends
    ] == list(ends.values())
    page.locator(".plane").focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    steps = [sent(place)["point"] for place in (3, 4)]
    answer(3)
    page.keyboard.press("ArrowRight")
    steps.append(sent(5)["point"])
    assert np.diff(np.array(steps)[:, 0]) == pytest.approx([steps[1][0] - steps[0][0]] * 2)
    for place in (4, 5):
        held[place].continue_()
    settle(page)


def test_reconstructions_walk_and_pages_show_the_test_images(visit, runs):
    page = visit("/autoencoder?run=plane")
    page.wait_for_selector(".triple:nth-child(12)")
    model = ConvAutoencoder.from_pretrained(runs / "plane")
    images = load_images("digits").test.sample(1000).images
    third = ".triple:nth-child(3) canvas:nth-child({})"
    assert (canvas(page, third.format(1)) == as_shown(images[2])).all()
    assert (canvas(page, third.format(2)) == as_shown(reconstruct(model, images[2:3])[0])).all()
    page.locator("#after").click()
    until(page, "document.querySelector('#range').textContent.startsWith('13')")
    assert (canvas(page, ".triple:nth-child(1) canvas:nth-child(1)") == as_shown(images[12])).all()
    page.locator(".triple:nth-child(1) button[data-end='A']").click()
    with torch.inference_mode():
        codes = model.encode(to_float(images[[12, 1]])).numpy()
    for place, code in ((1, codes[0]), (11, codes[1])):
        shows(page, f".walk button:nth-child({place}) canvas", decoded(model, code.tolist()), within=1)
    assert page.locator(".triple:nth-child(1) button[data-end='A']").get_attribute("aria-pressed") == "true"


def test_a_picture_is_dropped_and_comes_back(visit, runs):
    picture = np.random.default_rng(1).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    page = visit("/autoencoder?run=plane")
    drop(page, png(picture))
    page.wait_for_selector("#own .triple")
    model = ConvAutoencoder.from_pretrained(runs / "plane")
    original = decode(png(picture), (1, 28, 28))
    assert (canvas(page, "#own canvas:nth-child(1)") == as_shown(original)).all()
    assert (canvas(page, "#own canvas:nth-child(2)") == as_shown(reconstruct(model, original[None])[0])).all()
    page.locator("#file").set_input_files({"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for_selector("#own .alarm")
    assert "not a picture that can be read" in page.locator("#own").inner_text()


def test_the_losses_follow_a_training(visit, runs):
    page = visit("/autoencoder?run=plane")
    assert page.locator("#live").inner_text() == "step 300 of 500"
    assert page.locator("#loss dl").inner_text().startswith("kept\nstep 200\ntrain MSE\n0.05000")
    path = runs / "plane" / "metrics.jsonl"
    before = path.read_text(encoding="utf-8")
    try:
        errors = dict.fromkeys(("train_mse", "validation_mse", "validation_loss"), 0.02)
        line = {"step": 500, **errors, "test_mse": 0.0123, "test_psnr": 20.0, "test_ssim": 0.9}
        path.write_text(before + json.dumps(line) + "\n", encoding="utf-8")
        until(page, "document.querySelector('#live').textContent === '500 steps'")
        assert page.locator("#loss dl").inner_text().startswith("kept\nstep 500\n")
        assert "0.01230" in page.locator("#loss").inner_text()
    finally:
        path.write_text(before, encoding="utf-8")


def test_a_run_that_does_not_name_its_images_takes_ones_own(visit, runs):
    page = visit("/autoencoder?run=imageless")
    assert page.locator("#error").inner_text().startswith("The run's images were passed as arrays")
    assert page.locator("#facts").inner_text().startswith("image\n1 × 28 × 28")
    assert page.locator(".plane, #walk, #pictures").locator("visible=true").count() == 0
    drop(page, png(np.zeros((40, 40), np.uint8)))
    page.wait_for_selector("#own .triple")
    page = visit("/doctor?run=imageless")
    assert page.locator("#model-findings").inner_text().startswith("The run's images were passed as arrays")


def test_a_run_without_a_model_waits_for_it(visit, runs):
    weights = runs / "imageless" / "model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    try:
        page = visit("/autoencoder?run=imageless", ready="#live:not(:empty)")
        assert page.locator("#live").inner_text() == "no model yet"
        assert page.locator("#error").is_hidden()
    finally:
        weights.write_bytes(kept)
    until(page, "document.querySelector('#facts').innerText.startsWith('image')")


def test_a_damaged_run_says_so_and_the_others_can_be_chosen(visit):
    page = visit("/autoencoder?run=damaged")
    assert "does not hold the weights of this model" in page.locator("#error").inner_text()
    page.locator("#runs a", has_text="deep").first.click()
    page.wait_for_selector(".walk canvas")


# Runs on folders of pictures -----------------------------------------------------------------------------------------


def test_a_map_run_on_a_folder_is_seen_judged_and_decoded(visit, folder_address, folder_runs):
    page = visit("/autoencoder?run=photographs", at=folder_address)
    settle(page)
    run = Run(folder_runs / "photographs")
    model, evaluation = run.load_model(), run.evaluation
    images = ImageOptions.from_record(run.record["data"]).load().test
    sample = images.sample(1000).images
    assert page.locator("#shown").inner_text() == f"Every point is one of the {len(images)} test images."
    assert "map of 2 × 8 × 8" in page.locator("#facts").inner_text()
    assert (canvas(page, ".triple:nth-child(2) canvas:nth-child(1)") == as_shown(sample[1])).all()
    assert (
        canvas(page, ".triple:nth-child(2) canvas:nth-child(2)") == as_shown(reconstruct(model, sample[1:2])[0])
    ).all()
    with page.expect_response("**/decode") as answering:
        move(page, 3)
    code = json.loads(answering.value.request.post_data)["code"]
    deadline = time.monotonic() + 20
    while not (canvas(page, "#decoded") == as_shown(decoded(model, code))).all():
        assert time.monotonic() < deadline, "the code is never shown"
        page.wait_for_timeout(20)
    assert page.locator(".sentence strong").inner_text() == evaluation.verdict.sentence
    rows = page.locator("#judged table").first.locator("tbody tr:not(.note)").all_inner_texts()
    assert len(rows) == len(evaluation.rows)
    for shown, row in zip(rows, evaluation.rows, strict=True):
        assert shown.startswith(row.name)
        assert shown.endswith(f"{row.psnr:.2f}")
        size = f"{row.bytes:,.0f} bytes" if row.bytes else f"{row.numbers:,} number" if row.numbers else "–"
        assert size in shown
    assert f"{evaluation.used} of 128" in page.locator("#judged").inner_text()


def test_what_goes_in_and_what_should_come_out_stand_beside_each_other(visit, folder_address):
    page = visit("/autoencoder?run=denoising", at=folder_address)
    page.wait_for_selector(".quadruple canvas:nth-child(4)")
    names = page.locator(".triple").first.locator("canvas").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert names == ["input", "output", "target", "error"]
    assert page.locator("#triples").inner_text().startswith("Input (gaussian:0.2)")


def test_a_run_with_an_encoder_of_ones_own_is_seen_and_not_run(visit, folder_address, folder_runs):
    page = visit("/autoencoder?run=own-encoder", at=folder_address, ready="#run-pictures img")
    assert page.locator("#notice").inner_text().startswith("This run's encoder is your own (mine:encoder).")
    assert page.locator(".sentence strong").inner_text() == Run(folder_runs / "own-encoder").evaluation.verdict.sentence
    until(page, "document.querySelector('#run-pictures img').naturalWidth === 60")
    assert page.locator(".plane, #walk, #pictures, #drop").locator("visible=true").count() == 0
    assert page.locator("#error").is_hidden()


def test_a_damaged_evaluation_is_told_and_the_rest_is_shown(visit, folder_address, folder_runs):
    path = folder_runs / "classes" / "evaluation.json"
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text("{", encoding="utf-8")
        page = visit("/autoencoder?run=classes", at=folder_address, ready=".walk canvas")
    finally:
        path.write_text(before, encoding="utf-8")
    assert page.locator("#judged .alarm").inner_text().startswith(f"evaluation.json: `{path}` is damaged")
    assert page.locator("#legend span").count() == 3


# The doctor -----------------------------------------------------------------------------------------------------------


def table(page, selector):
    """A table's rows, by the names of its columns."""
    heads = page.locator(f"{selector} thead th").all_inner_texts()
    rows = page.locator(f"{selector} tbody tr").all()
    return [dict(zip(heads, row.locator("th, td").all_inner_texts(), strict=True)) for row in rows]


def test_the_doctor_names_the_layers(visit, runs):
    page = visit("/doctor?run=uneven")
    model = ConvAutoencoder.from_pretrained(runs / "uneven")
    found = diagnose(model, to_float(load_images("digits").test.sample(256).images))
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


def test_a_damaged_run_cannot_be_examined_and_a_picture_can(visit):
    page = visit("/doctor?run=damaged")
    assert "does not hold the weights of this model" in page.locator("#model-findings").inner_text()
    drop(page, png(np.zeros((40, 40), np.uint8)))
    page.wait_for_selector("#picture-findings .verdict")


def _on_a_folder(path, address):
    return {"at": address} if path.endswith("=classes") else {}


# All pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/?dims=1&step=1", "/?padding=9", "/autoencoder?run=classes", "/doctor?run=deep"])
@pytest.mark.parametrize(("scheme", "width"), [("light", 1600), ("dark", 360)])
def test_axe_finds_nothing_serious(visit, folder_address, path, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(path, width=width, color_scheme=scheme, **_on_a_folder(path, folder_address))
    found = Axe().run(page).response["violations"]
    serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []


@pytest.mark.parametrize(
    "path", ["/", "/?form=subpixel&stride=3", "/?dims=1&input_size=12", "/autoencoder?run=classes", "/doctor?run=deep"]
)
def test_nothing_sticks_out_at_any_width(visit, folder_address, path):
    page = visit(path, **_on_a_folder(path, folder_address))
    for width in (360, 800, 1280, 3840):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_theme_is_chosen_and_kept(visit):
    page = visit()
    page.locator(".theme").click()
    page.locator(".theme").click()
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    page.reload()
    assert page.locator(".theme").inner_text() == "Theme: dark"
