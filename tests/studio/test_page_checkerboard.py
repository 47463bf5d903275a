"""The checkerboard page in a real browser."""

import numpy as np
from browser_helpers import canvas, drop, until
from studio_helpers import pixels, png

from halfstride.studio.enlarging import Stack, enlarge, landscape


def verdicts(page, place="compared"):
    return page.locator(f"#{place} .verdict strong").all_inner_texts()


def answered(page):
    until(page, "document.querySelector('#enlargements').ariaBusy === 'false'")


def test_the_pattern_is_seen_and_gone_with_another_layer(visit):
    page = visit("/checkerboard?kernel=ones&kernel_size=3")
    found = enlarge(landscape(), Stack(kernel="ones"))
    strength = f"{100 * found.stages[1].judged.strength:.2g} %"
    assert verdicts(page) == [f"⚠ Checkerboard of {strength}, period 4", "✓ No checkerboard", "✓ No checkerboard"]
    assert [text.split(", ")[1] for text in verdicts(page, "stages")] == ["period 2", "period 4"]
    assert "0.44 to 1.75 times" in page.locator("#stages figure").nth(0).inner_text()
    for place, one in enumerate((found.stages[1], found.bilinear, found.nearest)):
        shown = canvas(page, f"#compared figure:nth-child({place + 1}) .whole canvas")
        assert (shown == pixels(dict(one.picture))).all()
    page.locator("#form input[value='resize']").check(force=True)
    answered(page)
    assert verdicts(page) == ["✓ No checkerboard"] * 3
    assert verdicts(page, "stages") == ["✓ No checkerboard"] * 2
    assert page.evaluate("location.search") == "?form=resize&kernel=ones"
    page.locator("#layers input[value='1']").check(force=True)
    page.locator("#padding").fill("0")
    answered(page)
    assert page.locator("#stages figure").count() == 1
    assert page.locator("#what").inner_text() == "64 × 64 pixels through 1 resize-convolution: 64 → 126."


def test_a_detail_shows_the_pixels_that_the_frame_is_around(visit):
    page = visit("/checkerboard?layers=1")
    whole = pixels(dict(enlarge(landscape(), Stack(layers=1)).stages[0].picture))
    page.locator("#across").fill("0")
    page.locator("#down").fill("100")
    page.locator("#detail").select_option("16")
    assert (canvas(page, "#compared figure:first-child .detail") == whole[-16:, :16]).all()
    page.locator("#beside-title").scroll_into_view_if_needed()
    box = page.locator("#compared .whole").nth(1).bounding_box()
    page.mouse.click(box["x"] + box["width"] - 1, box["y"] + 1)
    assert (canvas(page, "#compared figure:first-child .detail") == whole[:16, -16:]).all()
    frame = page.locator("#compared .frame").nth(0).bounding_box()
    field = page.locator("#compared .whole").nth(0).bounding_box()
    assert abs(frame["x"] + frame["width"] - field["x"] - field["width"]) < 4
    assert abs(frame["y"] - field["y"]) < 4


def test_a_picture_of_ones_own_and_a_test_image_go_through_the_layers(visit, folder_address):
    page = visit("/checkerboard?layers=1&run=photographs&image=2", at=folder_address)
    assert page.locator("#picture").input_value() == "run photographs"
    assert page.locator("#image").inner_text() == "image 2"
    page.locator("#after").click()
    answered(page)
    assert page.evaluate("location.search") == "?layers=1&run=photographs&image=3"
    own = np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8)
    drop(page, png(own))
    until(page, "document.querySelector('#picture').value === 'own'")
    answered(page)
    assert page.locator("#what").inner_text() == "30 × 30 pixels through 1 transposed convolution: 30 → 59."
    drop(page, b"no picture")
    page.wait_for_selector("#error:not([hidden])")
    assert "not a picture that can be read" in page.locator("#error").inner_text()
    assert page.locator("#compared figure").count() == 0
    page.locator("#picture").select_option("")
    answered(page)
    assert page.locator("#error").is_hidden()
    before = canvas(page, "#compared figure:first-child .whole canvas")
    page.locator("#redraw").click()
    answered(page)
    assert (canvas(page, "#compared figure:first-child .whole canvas") != before).any()
