"""Stacked layers on a picture: what they compute, and what the doctor says of it."""

import numpy as np
import pytest
import torch
from studio_helpers import pixels, png

from halfstride.studio.enlarging import Stack, enlarge, landscape


def shown(enlarged):
    return pixels(enlarged.picture.model_dump()).astype(int)


def test_bilinear_weights_enlarge_bilinearly():
    for stack in (
        Stack(kernel="bilinear", kernel_size=4, layers=1),
        Stack(form="subpixel", kernel="bilinear", layers=1),
    ):
        found = enlarge(landscape(), stack)
        inner = np.s_[4:-4, 4:-4]
        assert np.abs(shown(found.stages[0])[inner] - shown(found.bilinear)[inner]).max() <= 1


def test_the_pattern_of_a_transposed_kernel_multiplies_and_is_gone_with_a_resize_convolution():
    found = enlarge(landscape(), Stack(kernel="ones", layers=3))
    for place, stage in enumerate(found.stages, 1):
        assert stage.judged.found
        assert stage.judged.period == 2**place
        assert stage.lowest == pytest.approx((2 / 3) ** (2 * place), rel=0.03)
    highest = [stage.highest for stage in found.stages]
    assert highest == sorted(highest)
    assert not found.bilinear.judged.found
    for kernel in ("random", "ones"):
        for stage in enlarge(landscape(), Stack(form="resize", kernel=kernel, layers=3)).stages:
            assert stage.judged.found is False
            assert stage.lowest == pytest.approx(1, abs=1e-5)
            assert stage.highest == pytest.approx(1, abs=1e-5)


def test_a_staircase_is_told_and_is_no_checkerboard():
    found = enlarge(landscape(), Stack(form="resize", layers=3)).stages[0].judged
    assert found.found is False
    assert found.period == 2
    assert "are made by content that changes from one position to the next" in found.conclusion


@pytest.mark.parametrize("form", ["transposed", "resize", "subpixel"])
@pytest.mark.parametrize("kernel", ["random", "ones", "bilinear"])
def test_every_kernel_keeps_the_mean_of_a_constant_picture(form, kernel):
    grey = torch.full((1, 40, 60), 100, dtype=torch.uint8)
    found = enlarge(grey, Stack(form=form, kernel=kernel, kernel_size=4, stride=3, padding=1, layers=1))
    assert found.input.height == found.input.width == 40
    inner = shown(found.stages[0])[30:-30, 30:-30] / found.stages[0].brightness
    assert inner.mean() == pytest.approx(100, rel=0.05)
    assert found.stages[0].judged.period in (None, 3)
    if form == "resize":
        assert found.stages[0].judged.found is False


def test_random_numbers_follow_the_seed():
    first, again, other = (enlarge(landscape(), Stack(layers=1, seed=seed)).stages[0] for seed in (1, 1, 2))
    assert first == again
    assert shown(first).tolist() != shown(other).tolist()


def test_a_picture_that_is_too_bright_says_so():
    white = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    found = enlarge(white, Stack(kernel="ones", layers=1))
    assert found.stages[0].brightness == pytest.approx(9 / 16, rel=0.01)
    assert shown(found.stages[0]).max() == 255


def test_what_is_too_small_cannot_be_judged():
    found = enlarge(torch.full((1, 2, 2), 9, dtype=torch.uint8), Stack(layers=1))
    assert found.stages[0].judged.found is None
    assert found.stages[0].judged.conclusion.startswith("Could not judge: `image` (of 3) is too small")


def test_a_generated_picture_a_test_image_and_an_uploaded_one_are_enlarged(folder_client):
    options = "form=resize&layers=1&kernel=ones"
    stack = Stack(form="resize", layers=1, kernel="ones")
    answer = folder_client.get(f"/api/checkerboard?{options}").json()
    assert answer == enlarge(landscape(), stack).model_dump()
    answer = folder_client.get(f"/api/runs/photographs/checkerboard?{options}&index=1").json()
    original = folder_client.get("/api/runs/photographs/images?start=1&count=1").json()[0]["original"]
    assert answer["input"] == original
    own = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    answer = folder_client.post(f"/api/checkerboard?{options}", content=png(own)).json()
    assert pixels(answer["input"]).tolist() == own[:, 10:60].tolist()


def test_refusals_are_told(folder_client):
    for address, status, message in (
        (
            "/api/checkerboard?form=resize&padding=8&stride=4&layers=3&kernel_size=1",
            422,
            "The output would have 1104 pixels along each axis",
        ),
        ("/api/checkerboard?stride=1", 422, "`stride` (='1')"),
        ("/api/checkerboard?layers=4", 422, "`layers` (='4')"),
        ("/api/runs/photographs/checkerboard?index=9999", 422, "`index` (=9999)"),
        ("/api/runs/nowhere/checkerboard", 404, "nowhere"),
    ):
        answer = folder_client.get(address)
        assert answer.status_code == status, answer.text
        assert message in answer.json()["error"]
    assert folder_client.post("/api/checkerboard", content=b"no picture").status_code == 415
