"""The latent plane in a real browser: zooming, thumbnails, choosing images, and drawing one."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from browser_helpers import canvas, drop, settle, until, violations
from studio_helpers import as_shown, png

from halfstride.autoencoder import ImageOptions, Run, decode, reconstruct


@pytest.fixture
def classes(folder_runs):
    """The model of the run with classes, and its test images as they are shown."""
    run = Run(folder_runs / "classes")
    return run.load_model(), ImageOptions.from_record(run.record["data"]).load().test.sample(1000)


def opened(visit, at, name="classes", **options):
    page = visit(f"/autoencoder?run={name}", at=at, **options)
    settle(page)
    page.locator(".plane").scroll_into_view_if_needed()
    return page


def zoom(page):
    return float(page.locator(".plane").get_attribute("data-zoom"))


def pictured(page):
    """The images that are drawn as thumbnails."""
    return [int(index) for index in (page.locator(".thumbs").get_attribute("data-indices") or "").split()]


def frames(page, selector):
    return int(page.locator(selector).get_attribute("data-frames") or 0)


def drawn_again(page, selector, before):
    until(page, "([s, n]) => Number(document.querySelector(s).dataset.frames ?? 0) > n", [selector, before])


def places(page):
    """Where points, or frames of thumbnails, are on the screen: in the order of their images while all are in view."""
    return page.locator("#points :is(circle, rect)").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(box => [box.x + box.width / 2, box.y + box.height / 2])"
    )


def test_zooming_brings_thumbnails_of_what_is_in_view_in_one_request(visit, folder_address, classes):
    _, sample = classes
    page = opened(visit, folder_address)
    assert pictured(page) == []
    asked = []
    page.on("request", lambda request: "/thumbnails" in request.url and asked.append(request.url))
    x, y = places(page)[0]
    wheel = "(plane, [x, y]) => plane.dispatchEvent(new WheelEvent('wheel', {deltaY: -100, clientX: x, clientY: y}))"
    page.locator(".plane").evaluate(wheel, [x, y])  # the mouse would also ask for the image that it points at
    until(page, "document.querySelector('.thumbs').dataset.indices?.length > 0")
    assert 1 < zoom(page) < 2
    assert 0 in pictured(page)
    [url] = asked
    assert sorted(int(part) for part in url.partition("?")[2].replace("index=", "").split("&")) == sorted(
        pictured(page)
    )
    # The first image lies where it was: under the pointer.
    box = page.locator(".thumbs").bounding_box()
    middle = [(x - box["x"]) / box["width"] * 1280, (y - box["y"]) / box["height"] * 960]
    left, top = (round(value) - 32 for value in middle)
    region = "(node, at) => [...node.getContext('2d').getImageData(...at, 64, 64).data]"
    read = np.array(page.locator(".thumbs").evaluate(region, [left, top])).reshape(16, 4, 16, 4, 4)
    small = read[..., :3].mean((1, 3))
    assert np.abs(small - as_shown(sample.images[0])).mean() < 12
    page.locator("button[data-zoom-by='0']").click()
    until(page, "document.querySelector('.plane').dataset.zoom === '1'")
    assert pictured(page) == []


def test_the_keyboard_zooms_moves_chooses_and_selects(visit, folder_address, folder_client):
    page = opened(visit, folder_address)
    page.locator(".plane").focus()
    for key in ("+", "+"):
        page.keyboard.press(key)
    until(page, "Number(document.querySelector('.plane').dataset.zoom) > 2.5")
    before = frames(page, ".plane")
    page.keyboard.press("Shift+ArrowRight")
    drawn_again(page, ".plane", before)
    page.keyboard.press("-")
    until(page, "Number(document.querySelector('.plane').dataset.zoom) < 2")
    page.keyboard.press("0")
    until(page, "document.querySelector('.plane').dataset.zoom === '1'")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    settle(page)
    page.keyboard.press("Enter")
    page.wait_for_selector("#picked:not([hidden])")
    page.keyboard.press("Space")
    page.wait_for_selector("#selection tbody tr")
    points = np.array(folder_client.get("/api/runs/classes/latent").json()["points"])
    shown = page.locator("#where").inner_text().removeprefix("decoded at ").replace("−", "-").split(", ")
    left, right, bottom, top = folder_client.get("/api/runs/classes/latent").json()["extent"]
    across, up = ((points - [float(number) for number in shown]) / [right - left, top - bottom] * [606, 446]).T
    nearest = int(np.hypot(across, up).argmin())
    assert page.locator("#picked h3").first.inner_text() == f"Image {nearest}"
    assert page.locator("#selection tbody th").inner_text() == str(nearest)
    page.keyboard.press("Space")
    until(page, "document.querySelector('#selection').hidden")


def test_an_image_is_seen_under_the_pointer_and_chosen_with_its_neighbours(
    visit, folder_address, folder_client, classes
):
    model, sample = classes
    page = opened(visit, folder_address)
    at = places(page)[3]
    page.mouse.move(*at)
    page.wait_for_selector(".tip:not([hidden])")
    index = int(page.locator(".tip").get_attribute("data-index"))
    assert page.locator(".tip").inner_text().startswith(f"image {index} · ")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#picked[data-frames='1']")
    assert (canvas(page, "#picked .triple canvas:nth-child(1)") == as_shown(sample.images[index])).all()
    output = reconstruct(model, sample.images[index : index + 1])[0]
    assert (canvas(page, "#picked .triple canvas:nth-child(2)") == as_shown(output)).all()
    near = folder_client.get(f"/api/runs/classes/neighbours?index={index}").json()
    buttons = page.locator(".near button")
    assert buttons.evaluate_all("all => all.map(one => Number(one.dataset.index))") == [one["index"] for one in near]
    buttons.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#picked[data-frames='2']")
    assert page.evaluate("document.activeElement.textContent") == f"Image {near[0]['index']}"


def test_a_lasso_gives_a_table_and_a_file(visit, folder_address, folder_client):
    page = opened(visit, folder_address)
    rows = folder_client.get("/api/runs/classes/rows").json()
    points = places(page)
    box = page.locator(".plane").bounding_box()
    split = (min(x for x, _ in points) + max(x for x, _ in points)) / 2
    page.keyboard.down("Shift")
    page.mouse.move(split, box["y"] + 1)
    page.mouse.down()
    for x, y in (
        (split, box["y"] + box["height"] - 1),
        (box["x"] + 1, box["y"] + box["height"] - 1),
        (box["x"] + 1, box["y"] + 1),
    ):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    inside = {index for index, (x, _) in enumerate(points) if x < split}
    assert 0 < len(inside) < len(rows)
    page.wait_for_selector("#selection[data-frames]")
    wanted = sorted((rows[index] for index in inside), key=lambda row: -row["mse"])
    listed = page.locator("#selection tbody tr").evaluate_all(
        "all => all.map(row => [...row.cells].map(cell => cell.innerText))"
    )
    assert listed == [[str(row["index"]), row["name"], row["label"], f"{row['mse']:.5f}"] for row in wanted]
    assert page.locator("#marks .chosen").count() == len(inside)
    with page.expect_download() as saving:
        page.locator("#selection button", has_text="Save as CSV").click()
    assert saving.value.suggested_filename == "classes-selection.csv"
    with Path(saving.value.path()).open(encoding="utf-8", newline="") as file:
        [head, *saved] = csv.reader(file)
    assert head == ["index", "name", "class", "mse"]
    assert [(int(index), name, label, float(mse)) for index, name, label, mse in saved] == [
        (row["index"], row["name"], row["label"], row["mse"]) for row in wanted
    ]
    page.locator("#selection button", has_text="Clear").click()
    assert page.locator("#selection").is_hidden()
    page.locator(".plane-tools button", has_text="Select all in view").click()
    until(page, "count => document.querySelectorAll('#selection tbody tr').length === count", len(rows))


def test_a_drag_moves_the_plane_or_the_point_as_chosen(visit, folder_address):
    page = opened(visit, folder_address)
    page.locator("button[data-zoom-by='1.6']").click()
    until(page, "Number(document.querySelector('.plane').dataset.zoom) > 1.5")
    box = page.locator(".plane").bounding_box()
    start = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag():
        page.mouse.move(*start)
        page.mouse.down()
        page.mouse.move(start[0] + 30, start[1] + 20, steps=3)
        page.mouse.up()

    handle = "document.querySelector('#handle').style.left"
    before = page.evaluate(handle)
    drawn = frames(page, ".plane")
    with page.expect_response("**/decode") as answering:
        drag()
    settle(page)
    assert frames(page, ".plane") == drawn  # a thousand points are not drawn again for every move
    assert page.evaluate(handle) != before
    assert "point" in json.loads(answering.value.request.post_data)
    page.locator(".plane-tools input[value='move']").check(force=True)
    decoded, drawn = frames(page, "#decoded"), frames(page, ".plane")
    shown = page.evaluate(handle)
    drag()
    drawn_again(page, ".plane", drawn)
    assert page.evaluate(handle) != shown  # it moves with the plane
    assert frames(page, "#decoded") == decoded


def test_a_drawing_is_reconstructed_and_has_its_place(visit, folder_address, folder_runs):
    page = opened(visit, folder_address, "grey")
    model = Run(folder_runs / "grey").load_model()
    pad = page.locator(".pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 10, steps=3)
    page.mouse.up()
    page.keyboard.press("Tab")

    def check():
        ink = torch.from_numpy(canvas(page, ".pad").copy()).movedim(-1, 0)[:1]
        until(page, "document.querySelector('#own canvas') && true")
        for _ in range(600):
            if (canvas(page, "#own canvas:nth-child(1)") == as_shown(ink)).all():
                break
            page.wait_for_timeout(20)
        assert (canvas(page, "#own canvas:nth-child(1)") == as_shown(ink)).all()
        assert (canvas(page, "#own canvas:nth-child(2)") == as_shown(reconstruct(model, ink[None])[0])).all()
        return ink

    stroke = check()
    assert stroke.max() == 255
    assert stroke.float().mean() < 100
    assert page.locator("#marks .own-place").count() == 1
    assert page.locator("#own-point").inner_text().startswith("A cross marks its place in the latent plane: ")
    page.locator("#invert").check()
    assert (255 - check() == stroke).all()
    page.locator("#invert").uncheck()
    page.locator(".pad-tools button", has_text="Clear").click()
    assert check().max() == 0
    pad.focus()
    for key in ("Space", "ArrowLeft", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
    assert check().max() == 255


def test_there_is_no_pad_for_photographs_and_an_upload_is_inverted(visit, folder_address, folder_runs):
    page = opened(visit, folder_address, "photographs")
    assert page.locator("#pad").is_hidden()
    content = png(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    page.locator("#invert").check()
    drop(page, content)
    page.wait_for_selector("#own .triple")
    assert (canvas(page, "#own canvas:nth-child(1)") == as_shown(255 - decode(content, (3, 64, 64)))).all()


def test_two_fingers_zoom(visit, folder_address):
    page = opened(visit, folder_address)
    pinch = """([low, high]) => {
        const plane = document.querySelector('.plane');
        plane.setPointerCapture = () => {};
        const box = plane.getBoundingClientRect();
        const send = (kind, pointerId, share) => plane.dispatchEvent(new PointerEvent(kind, {
            pointerId, pointerType: 'touch', clientX: box.x + share * box.width, clientY: box.y + box.height / 2
        }));
        send('pointerdown', 11, 0.5 - low); send('pointerdown', 12, 0.5 + low);
        send('pointermove', 11, 0.5 - high); send('pointermove', 12, 0.5 + high);
        send('pointerup', 11, 0.5 - high); send('pointerup', 12, 0.5 + high);
    }"""
    page.evaluate(pinch, [0.1, 0.3])
    until(page, "Math.abs(document.querySelector('.plane').dataset.zoom - 3) < 0.01")
    page.evaluate(pinch, [0.3, 0.1])
    until(page, "document.querySelector('.plane').dataset.zoom === '1'")


def test_what_is_chosen_is_accessible_and_sticks_out_nowhere(visit, folder_address):
    page = opened(visit, folder_address)
    page.locator(".plane").focus()
    for key in ("+", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#picked:not([hidden])")
    page.locator(".plane-tools button", has_text="Select all in view").click()
    page.wait_for_selector("#selection tbody tr")
    for width, scheme in ((320, "dark"), (1600, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        assert violations(page) == []
