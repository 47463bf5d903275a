"""`halfstride evaluate`, `reconstruct` and `sample`, as a person uses them."""

import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from halfstride import ConvAutoencoder, Evaluation
from halfstride.autoencoder import Run
from halfstride.cli.console import show_evaluation, tell
from small_commands import VECTOR


def test_evaluate_prints_json_and_nothing_else(halfstride, run, tmp_path):
    out = halfstride.out("evaluate", "run", "--json")
    found = Evaluation.from_dict(json.loads(out))
    assert found == Run(run).evaluation
    assert found.test.images == 5


def test_evaluate_takes_other_images_all_of_them(halfstride, run, photos, tmp_path):
    out = halfstride.out("evaluate", "run", photos)
    assert "\nrun on photos, 24 images:\n" in out
    assert out.count("skipped cats/broken") == 4
    assert "On all 24 test images" in out
    (tmp_path / "one").mkdir()
    Image.new("RGB", (20, 20), "teal").save(tmp_path / "one" / "a.png")
    out = halfstride.out("evaluate", "run", "one")
    assert out.startswith("run on one, 1 image:\n")
    assert "On the 1 test image: MSE" in out


def test_evaluate_finds_the_runs_images_where_they_have_moved_and_judges_by_no_others(
    halfstride, run, photos, tmp_path
):
    before = halfstride("evaluate", "run")[1]
    photos.rename(tmp_path / "moved")
    assert halfstride("evaluate", "run")[0] == 1
    out = halfstride.out("evaluate", "run", "moved")
    assert "These are the run's own images: its test images are compared." in out
    assert re.search(r"On all 5 test images: MSE \S+", out)[0] == re.search(r"On all 5 test images: MSE \S+", before)[0]
    (tmp_path / "one").mkdir()
    Image.new("RGB", (20, 20), "teal").save(tmp_path / "one" / "a.png")
    err = halfstride.error("evaluate", "run", "one")
    assert "has training images that cannot be read" in err
    assert "halfstride train NEW_PLACE --out run --resume" in err


def test_reconstruct_writes_what_the_model_computes(halfstride, run, photos, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (13, 15, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    out = halfstride.out("reconstruct", "run", photos, photos / "cats" / "0.png", "one.png", "--out", "back")
    assert "26 reconstructions and overview.png in back" in out
    assert len(re.findall(r"^skipped .*broken\d\.png: ", out, re.MULTILINE)) == 4
    back = tmp_path / "back"
    assert {path.name for path in back.iterdir()} >= {"overview.png", "cats-0.png", "dogs-11.png", "0.png"}
    assert (back / "cats-0.png").read_bytes() == (back / "0.png").read_bytes()
    model = ConvAutoencoder.from_pretrained(run)
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels).movedim(-1, 0)[None] / 255)[0]
    with Image.open(back / "one.png") as picture:
        assert (picture.size, picture.mode) == ((15, 13), "RGB")
        np.testing.assert_allclose(np.asarray(picture) / 255, expected.movedim(0, -1).numpy(), atol=0.51 / 255)


def test_noise_is_added_by_evaluate_and_not_by_reconstruct(halfstride, photos, tmp_path):
    halfstride.out("train", photos, "--size", "12", "--corrupt", "gaussian:0.3", "--out", "run", *VECTOR)
    assert re.search(r"^input +0\.0[4-9]", halfstride("evaluate", "run")[1], re.MULTILINE)
    assert re.search(r"^input +0\.0[4-9]", halfstride("evaluate", "run", photos)[1], re.MULTILINE)
    pixels = np.full((12, 12, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "flat.png")
    halfstride.out("reconstruct", "run", "flat.png", "--out", "back")
    with torch.inference_mode():
        expected = ConvAutoencoder.from_pretrained(tmp_path / "run")(torch.full((1, 3, 12, 12), 90 / 255))[0]
    with Image.open(tmp_path / "back" / "flat.png") as picture:
        np.testing.assert_allclose(np.asarray(picture) / 255, expected.movedim(0, -1).numpy(), atol=0.51 / 255)


def test_samples_are_drawn_from_plain_and_variational_models(halfstride, run, photos, tmp_path):
    out = halfstride.out("sample", "run", "--count", "5")
    assert "This model is not variational: a Gaussian mixture was fitted to codes of its training images." in out
    assert "5 new images in run/samples.png" in out
    first = (run / "samples.png").read_bytes()
    halfstride("sample", "run", "--count", "5")
    assert (run / "samples.png").read_bytes() == first
    halfstride("sample", "run", "--count", "5", "--seed", "1")
    assert (run / "samples.png").read_bytes() != first
    halfstride.out("train", photos, "--size", "12", "--variational", "2", "--out", "vae", *VECTOR)
    shutil.rmtree(photos)  # which a variational model does not need
    out = halfstride.out("sample", "vae", "--count", "1", "--out", "new.png")
    assert out == "Codes were drawn from the normal distribution of a variational model.\n1 new image in new.png\n"
    assert (tmp_path / "new.png").exists()


def test_a_run_with_damaged_files_is_refused(halfstride, run, photos, tmp_path):
    (run / "model.safetensors").rename(tmp_path / "kept")
    torch.save({}, run / "pytorch_model.bin")
    text = "is a pickle, which can run code: only model.safetensors is read"
    assert text in halfstride.error("evaluate", "run")
    (tmp_path / "kept").rename(run / "model.safetensors")
    record = (run / "run.json").read_text()
    (run / "run.json").write_text("[]")
    assert "run.json` is damaged" in halfstride.error("evaluate", "run")
    (run / "run.json").write_text(record)
    (run / "config.json").write_text("{")
    assert "config.json` is damaged" in halfstride.error("reconstruct", "run", photos)
    assert "config.json` is damaged" in halfstride.error("train", "--out", "run", "--resume")
    assert not (tmp_path / "reconstructions").exists()


def test_reconstruct_refuses_what_it_cannot_do(halfstride, run, photos, tmp_path):
    assert "`images` hold nothing that can be read: 1 skipped" in halfstride.error(
        "reconstruct", "run", photos / "cats" / "broken0.png", "--out", "back"
    )
    assert not (tmp_path / "back").exists()
    assert "exists already: choose another name, or empty it." in halfstride.error(
        "reconstruct", "run", photos, "--out", photos
    )
    assert "nowhere.png" in halfstride.error("reconstruct", "run", "nowhere.png", "--out", "back")


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_breaks_lines_between_words_and_a_pipe_does_not(prepared, width):
    evaluation = Run(prepared / "run").evaluation
    texts = {}
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=width, force_terminal=terminal, no_color=True, color_system=None)
        show_evaluation(console, evaluation)
        tell(console, "word " * 60)
        texts[terminal] = console.file.getvalue()
    assert max(map(len, texts[True].splitlines())) <= width
    assert texts[True].split() == texts[False].split()
    assert evaluation.verdict.sentence in texts[False].splitlines()


def test_evaluate_takes_a_single_picture(halfstride, run, photos):
    assert "on 1.png, 1 image:" in halfstride.out("evaluate", run, photos / "dogs" / "1.png")
    assert "holds no usable image" in halfstride.error("evaluate", run, photos / "cats" / "broken0.png")


@pytest.mark.parametrize(
    "line",
    ["evaluate run", "evaluate run photos", "reconstruct run photos", "sample run", "embed run photos", "doctor run",
     "fit-detector run", "fit-detector run photos", "duplicates run photos", "similar run photos/dogs photos",
     "evaluate run photos --json"],
)  # fmt: skip
def test_every_command_lists_all_that_it_skipped(halfstride, run, photos, line):
    code, out, err = halfstride(*line.split())
    assert code == 0, err
    text = err if "--json" in line else out
    assert [name for name in map("broken{}.png".format, range(4)) if f"{name}: " in text] == [
        f"broken{number}.png" for number in range(4)
    ]
