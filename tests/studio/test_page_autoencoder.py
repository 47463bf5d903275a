"""The autoencoder page in a real browser: its images and numbers are compared with the package's own functions."""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from browser_helpers import canvas, drop, served, settle, shows, until
from making_runs import change
from studio_helpers import as_shown, png, restored

from halfstride import ConvAutoencoder, to_float
from halfstride.autoencoder import ImageOptions, Run, decode, reconstruct


def decoded(model, code):
    with torch.inference_mode():
        latents = torch.tensor([code]).float().reshape(1, *model.latent_shape)
        return model.decode(latents).mul(255).round().to(torch.uint8)[0]


def opened(visit, runs, name):
    """The page of a run that is shown, and its model."""
    page = visit(f"/autoencoder?run={name}")
    settle(page)
    return page, ConvAutoencoder.from_pretrained(runs / name)


def test_dragging_in_the_latent_plane_decodes_what_is_under_the_finger(visit, runs):
    page, model = opened(visit, runs, "plane")
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
    page, model = opened(visit, runs, "deep")
    with page.expect_response("**/decode") as answering:
        most = move(page, 3)
    sent = json.loads(answering.value.request.post_data)["code"]
    assert len(sent) == 12
    assert sent[3] == most
    shows(page, "#decoded", decoded(model, sent))


def test_an_answer_takes_back_nothing_that_was_chosen_meanwhile(visit, runs):
    page, model = opened(visit, runs, "deep")
    held = []
    page.route("**/decode", lambda route: held.append(route))

    def sent(place):
        deadline = time.monotonic() + 60
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


def test_reconstructions_walk_and_pages_show_the_test_images(visit, runs, shown_digits):
    page = visit("/autoencoder?run=plane")
    page.wait_for_selector(".triple:nth-child(12)")
    model = ConvAutoencoder.from_pretrained(runs / "plane")
    images = shown_digits.images
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
    with restored(path) as before:
        errors = dict.fromkeys(("train_mse", "validation_mse", "validation_loss"), 0.02)
        line = {"step": 500, "seconds": 9.0, **errors, "test_mse": 0.0123, "test_psnr": 20.0, "test_ssim": 0.9}
        path.write_bytes(before + json.dumps(line).encode() + b"\n")
        until(page, "document.querySelector('#live').textContent === '500 steps'")
        assert page.locator("#loss dl").inner_text().startswith("kept\nstep 500\n")
        assert "0.01230" in page.locator("#loss").inner_text()


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
    with restored(weights):
        weights.unlink()
        page = visit("/autoencoder?run=imageless", ready="#live:not(:empty)")
        assert page.locator("#live").inner_text() == "no model yet"
        assert page.locator("#error").is_hidden()
    until(page, "document.querySelector('#facts').innerText.startsWith('image')")


def test_a_damaged_run_says_so_and_the_others_can_be_chosen(visit):
    page = visit("/autoencoder?run=damaged")
    assert "does not hold the weights of this model" in page.locator("#error").inner_text()
    page.locator("#runs a", has_text="deep").first.click()
    page.wait_for_selector(".walk canvas")


def test_many_runs_are_sorted_filtered_and_followed(visit, folder_runs, tmp_path):
    for place in range(9):
        run = tmp_path / f"run {place}"
        shutil.copytree(folder_runs / ("photographs" if place % 2 else "classes"), run)
        record = Run(run).record
        change(run, training={**record["training"], "learning_rate": 0.01 / (place + 1)})
    (tmp_path / "run 3" / "model.safetensors").write_bytes(b"no weights at all")
    with served(tmp_path) as at:
        page = visit("/autoencoder?run=none of these", at=at)
        assert "(='none of these') is not in the runs folder" in page.locator("#error").inner_text()

        def names():
            return [name[-1] for name in page.locator("#runs a").all_inner_texts()]

        assert names() == list("012345678")
        assert "Cannot be opened. model.safetensors is damaged" in page.locator("#runs .why").inner_text()
        page.locator(".runs th button", has_text="learning rate").click()
        assert names() == list("876543210")
        assert page.locator(".runs th[aria-sort='ascending']").inner_text() == "learning rate"
        page.locator(".filter input").fill("map 2×8")
        assert names() == list("7531")
        page.reload()  # what was chosen stays
        until(page, "document.querySelectorAll('#runs a').length === 4")
        page.locator(".filter input").fill("")
        shutil.rmtree(tmp_path / "run 0")
        shutil.copytree(folder_runs / "grey", tmp_path / "run 9")
        until(page, "document.querySelector('#runs').innerText.includes('run 9')")
        assert "0" not in names()


def test_images_elsewhere_are_asked_about(visit, folder_runs, tmp_path):
    shutil.copytree(folder_runs / "grey", tmp_path / "run")
    with served(tmp_path) as at:
        page = visit("/autoencoder?run=run", at=at, ready="dialog[open]")
        assert str(folder_runs / "pictures" / "grey") in page.locator("dialog").inner_text()
        page.locator("dialog button", has_text="Do not read").click()
        page.wait_for_selector("#error:not([hidden])")
        assert "were not read, as you chose" in page.locator("#error").inner_text()
        page.reload()
        page.locator("dialog button", has_text="Read them").click()
        settle(page)
        assert page.locator("#points circle").count() > 0


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
    shows(page, "#decoded", decoded(model, code))
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
    with restored(path):
        path.write_text("{", encoding="utf-8")
        page = visit("/autoencoder?run=classes", at=folder_address, ready=".walk canvas")
    assert page.locator("#judged .alarm").inner_text().startswith(f"evaluation.json: `{path}` is damaged")
    assert page.locator("#legend span").count() == 3
