"""The compare page in a real browser, with few runs and with many, on the same images and on different ones."""

import shutil

import numpy as np
import pytest
from browser_helpers import canvas, drop, served, until
from making_runs import metrics
from studio_helpers import as_shown, png

from halfstride.autoencoder import ImageOptions, Run, decode, reconstruct

READY = "#compared[data-frames]"


def opened(visit, at, *names, rest=""):
    return visit("/compare?" + "&".join(f"run={name}" for name in names) + rest, at=at, ready=READY)


def drawn(page, names):
    """Wait until these runs are compared, in this order."""
    until(
        page, "names => [...document.querySelectorAll('#chosen a')].map(one => one.textContent).join() === names", names
    )


def cards(page):
    return page.locator("#compared > .card")


def test_runs_on_the_same_images_are_in_one_chart_and_one_image_goes_through_them(visit, folder_address, folder_runs):
    page = opened(visit, folder_address, "grey", "variational", rest="&of=variational&image=1")
    assert page.locator("#notice").is_hidden()
    assert page.locator("#losses svg.chart").count() == 1
    assert page.locator("#losses .curve").evaluate_all("all => all.map(one => one.dataset.part)") == ["validation"] * 2
    page.locator("#parts input[value='test']").check()
    page.locator("#parts input[value='train']").check()
    assert page.locator("#losses .curve").count() == 6
    sample = ImageOptions.from_record(Run(folder_runs / "grey").record["data"]).load().test.sample(1000).images
    assert page.locator("#range").inner_text() == f"2 of {len(sample)}"
    assert (canvas(page, ".originals canvas") == as_shown(sample[1])).all()
    for place, name in enumerate(("grey", "variational"), 2):
        output = reconstruct(Run(folder_runs / name).load_model(), sample[1:2])[0]
        assert (canvas(page, f"#compared > :nth-child({place}) canvas:first-child") == as_shown(output)).all()
    page.locator("#after").click()
    until(page, "document.querySelector('#compared').dataset.frames === '2'")
    assert (canvas(page, ".originals canvas") == as_shown(sample[2])).all()
    assert page.url.endswith("/compare?run=grey&run=variational&of=variational&image=2")
    assert "No run here has an evaluation" in page.locator("#trade").inner_text()


def test_different_images_are_named_and_not_compared(visit, folder_address, folder_runs):
    page = opened(visit, folder_address, "classes", "photographs", "own-encoder")
    assert "trained on 2 different sets of images" in page.locator("#notice").inner_text()
    named = page.locator("#losses h3").all_inner_texts()
    assert named == page.locator("#trade h3").all_inner_texts() == page.locator("#chosen tr.data").all_inner_texts()
    assert [name.rpartition("/")[2] for name in named] == ["classes, 1 × 16 × 16", "фото, 3 × 64 × 64"]
    curves = page.locator("#losses svg.chart").evaluate_all("all => all.map(one => one.dataset.runs)")
    assert curves == ["2", "1"]
    # Of the classes' image the photographs' model takes none.
    assert "This run's encoder is your own" in cards(page).nth(1).inner_text()
    assert "takes images of 3 × 64 × 64" in cards(page).nth(2).inner_text()
    assert page.locator("#of option").all_inner_texts() == ["classes", "photographs"]
    # PCA with as many numbers, and with twice as many, where the evaluation has it.
    assert page.locator("#trade rect.pca").count() >= 2
    evaluation = Run(folder_runs / "classes").evaluation
    assert f"{evaluation.row('PCA').mse:#.3g}" in page.locator("#chosen tr", has_text="own-encoder").inner_text()


def test_errors_of_the_evaluation_lie_where_they_should(visit, folder_address, folder_runs):
    page = opened(visit, folder_address, "classes")
    assert "Choose another run" in page.locator("#notice").inner_text()
    evaluation = Run(folder_runs / "classes").evaluation
    page.locator("#part input[value='test']").check(force=True)
    [[x, y]] = page.locator("#trade circle.dot").evaluate_all(
        "all => all.map(one => [one.cx, one.cy].map(at => at.baseVal.value))"
    )
    [[a, b]] = page.locator("#trade rect.pca").evaluate_all(
        "all => all.map(one => [one.x.baseVal.value + 3, one.y.baseVal.value + 3])"
    )
    assert x == pytest.approx(a)  # as many numbers
    assert (y < b) == (evaluation.rows[0].mse > evaluation.row("PCA").mse)
    assert y != pytest.approx(b)


def test_damaged_and_deleted_runs_say_why_and_the_others_are_compared(visit, address):
    page = opened(visit, address, "plane", "damaged", "bad-metrics", "gone", "deep")
    said = page.locator("#chosen .why").all_inner_texts()
    assert len(said) == 3
    assert any("model.safetensors is damaged" in one for one in said)
    assert any("metrics.jsonl: " in one for one in said)
    assert any("(='gone') is not in the runs folder" in one for one in said)
    assert cards(page).count() == 2
    assert page.locator("#error").is_hidden()


def test_runs_are_chosen_by_the_keyboard_and_stay_in_the_address(visit, folder_address):
    page = opened(visit, folder_address, "grey")
    page.locator(".runs input[value='variational']").focus()
    page.keyboard.press("Space")
    drawn(page, "grey,variational")
    until(page, "location.search === '?run=grey&run=variational&of=grey'")
    assert page.evaluate("document.activeElement.value") == "variational"
    assert page.locator(".head nav a", has_text="Network").get_attribute("href").endswith("?run=grey")
    page.locator(".runs button", has_text="None").click()
    until(page, "document.querySelector('#notice').textContent.startsWith('Choose two runs')")
    assert page.locator("#chosen a").count() == 0


def test_a_picture_is_prepared_for_each_run(visit, folder_address, folder_runs):
    page = opened(visit, folder_address, "grey", "photographs")
    content = png(np.random.default_rng(1).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    frames = page.locator("#compared").get_attribute("data-frames")
    drop(page, content)
    until(page, "frames => document.querySelector('#compared').dataset.frames !== frames", frames)
    assert page.locator(".originals").inner_text().split("\n")[0] == "original at 16 × 16"
    for place, name in enumerate(("grey", "photographs")):
        model = Run(folder_runs / name).load_model()
        image = decode(content, (model.channels, *model.image_size))
        output = reconstruct(model, image[None])[0]
        assert (canvas(page, f".originals > :nth-child({place + 1}) canvas") == as_shown(image)).all()
        assert (canvas(page, f"#compared > :nth-child({place + 2}) canvas:first-child") == as_shown(output)).all()


def test_54_runs_are_told_apart(visit, runs, tmp_path):
    for place in range(54):
        shutil.copytree(runs / "plane", tmp_path / f"run {place:02}")
    with served(tmp_path) as at:
        page = visit("/compare", at=at, ready=READY)
        assert page.locator("#chosen a").count() == 4
        page.locator(".runs button", has_text="Choose all below").click()
        until(page, "document.querySelectorAll('#losses .curve').length === 54")
        looks = page.locator("#losses .curve").evaluate_all(
            "all => all.map(one => getComputedStyle(one).stroke + getComputedStyle(one).strokeDasharray)"
        )
        assert len(set(looks)) == 54
        until(page, "document.querySelectorAll('#compared > .card p').length === 54")
        page.locator("#chosen tr[data-place='53']").hover()
        assert page.locator("#losses .lit").evaluate_all("all => all.map(one => one.dataset.place)")[0] == "53"
        assert page.evaluate("document.documentElement.scrollWidth") <= 1400


def test_a_training_that_goes_on_is_followed(visit, runs, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(runs / "plane", tmp_path / name)
    with served(tmp_path) as at:
        page = opened(visit, at, "one", "two")
        assert "200" in page.locator("#chosen tr", has_text="two").inner_text()
        Run(tmp_path / "two").write_metrics(metrics(5))
        until(page, "document.querySelector('#chosen').innerText.includes('400')")
