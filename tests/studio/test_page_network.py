"""The network page in a real browser, on runs on folders: a colour map and a grey vector."""

import pytest
from browser_helpers import canvas, numbers, until
from studio_helpers import pixels


def brief(number):
    """A number below 1 as a cell shows it."""
    return f"{number:.4f}".rstrip("0").rstrip(".").replace("-", "−")


STRIP = "#strip[data-frames], .alarm:not([hidden])"


@pytest.mark.parametrize(("run", "code"), [("photographs", "2 × 8 × 8 (128 numbers)"), ("grey", "3 (3 numbers)")])
def test_the_strip_goes_from_the_image_to_the_code_and_back(visit, folder_address, folder_client, run, code):
    page = visit(f"/network?run={run}", at=folder_address, ready=STRIP)
    steps = folder_client.get(f"/api/runs/{run}/network").json()["steps"]
    assert page.locator(".step h3").all_inner_texts() == [step["kind"] for step in steps]
    assert code in page.locator("#totals").inner_text()
    for place in (0, len(steps) - 1):
        assert (canvas(page, f".step:nth-child({place + 1}) > canvas") == pixels(steps[place]["picture"])).all()
    for place, step in enumerate(steps):
        shown = page.locator(".step").nth(place)
        assert " × ".join(map(str, step["shape"])) in shown.inner_text()
        assert shown.locator(".maps a").count() == len(step["links"])
        if step["macs"]:
            assert f"{step['macs']:,}" in shown.inner_text()
        if step["field"]:
            assert " × ".join(map(str, step["field"])) + " px" in shown.inner_text()


def test_another_image_is_chosen_and_kept_in_the_address(visit, folder_address, folder_client):
    page = visit("/network?run=photographs&image=1", at=folder_address, ready=STRIP)
    assert page.locator("#images [aria-pressed=true]").get_attribute("data-index") == "1"
    page.locator("#images button").nth(2).click()
    until(page, "document.querySelector('#strip').dataset.frames === '2'")
    expected = folder_client.get("/api/runs/photographs/network?index=2").json()["steps"][0]["picture"]
    assert (canvas(page, ".step:first-child > canvas") == pixels(expected)).all()
    assert page.url.endswith("image=2")


def test_a_layer_opens_with_its_numbers_and_leads_back(visit, folder_address, folder_client):
    page = visit("/network?run=photographs&image=2", at=folder_address, ready=STRIP)
    steps = folder_client.get("/api/runs/photographs/network?index=2").json()["steps"]
    layer = next(step for step in steps if step["kind"] == "Sub-pixel convolution" and step["links"])
    first = page.locator(f'.step:has-text("{layer["name"]}") .maps a').first
    first.focus()
    page.keyboard.press("ArrowRight")  # from one map to the next
    assert page.evaluate("document.activeElement.getAttribute('href')") == f"./?{layer['links'][1]}"
    page.keyboard.press("Enter")
    page.wait_for_selector("#origin:not([hidden])")
    until(page, "document.querySelector('#views').ariaBusy === 'false'")
    explained = folder_client.get("/api/layer?" + layer["links"][1].partition("&run=")[0]).json()
    for kind in ("input", "kernel", "output"):
        assert numbers(page, "scatter", kind=kind) == explained[kind]
    note = page.locator("#origin").inner_text()
    assert note.startswith(f"Layer {layer['name']} of photographs: rows ")
    assert "for image 2" in note
    assert "from=" in page.url
    label = page.locator(".spot[data-kind=kernel]").get_attribute("aria-label")
    assert label == f"kernel [0: 0, 0]: {brief(explained['kernel'][0])}. Change it."
    page.locator("#kernel_size").press("ArrowLeft")  # other numbers: no more those of the layer
    until(page, "document.querySelector('#origin').hidden")
    until(page, "!location.search.includes('from=')")
    page.go_back()  # to the layer's own numbers, and from there to the page that led here
    page.wait_for_selector("#origin:not([hidden])")
    page.go_back()
    page.wait_for_selector(STRIP)
    assert page.url.endswith("/network?run=photographs&image=2")


def test_a_run_without_images_says_so(visit, address):
    page = visit("/network?run=imageless", at=address, ready=STRIP)
    assert "passed as arrays" in page.locator("#error").inner_text()
    assert not page.locator("#strip-title").is_visible()


def test_what_fails_hides_nothing_else_and_is_told_until_it_succeeds(visit, folder_address, window):
    refuse = {"status": 500, "json": {"error": "No images today."}}
    window.route("**/images?*", lambda route: route.fulfill(**refuse))
    page = visit("/network?run=grey", at=folder_address, ready="#strip[data-frames]")
    page.wait_for_selector("#error:not([hidden])")
    assert page.locator("#error").inner_text() == "No images today."
    assert page.locator(".step").first.is_visible()
