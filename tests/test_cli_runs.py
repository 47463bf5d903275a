"""`halfstride train`, `evaluate` and `reconstruct`, as a person uses them."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from halfstride import ConvAutoencoder, ConvTranspose2d, TrainingOptions, cli, load_images, train

QUICK = ["--epochs", "2", "--latent-dim", "4", "--widths", "8,8", "--batch-size", "8"]


@pytest.fixture
def halfstride(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder: its exit code, what it printed, and what it said on stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main(list(map(str, arguments)))
        return stopped.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def photos(tmp_path):
    """Two classes of small pictures of different sizes, and a broken one."""
    folder = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            size = (int(generator.integers(12, 20)), int(generator.integers(12, 20)), 3)
            Image.fromarray(generator.integers(0, 255, size, dtype=np.uint8)).save(folder / name / f"{number}.png")
    (folder / "cats" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    return folder


def test_a_folder_of_photos_from_training_to_reconstruction(halfstride, photos, tmp_path):
    code, out, err = halfstride("train", photos, "--size", "13x15", "--out", "run", *QUICK)
    assert code == 0, err
    assert "photos: 11 images to train on, 8 images to validate on, 5 images to test on." in out
    assert "cats/broken.png" in out
    assert "An image of 3×13×15 becomes a latent of 4" in out
    assert re.search(r"on the test images\s+MSE 0\.\d+   PSNR \d+\.\d\d dB   SSIM -?0\.\d+", out)
    assert "halfstride reconstruct run" in out
    assert re.search(r"epoch 2/2   MSE 0\.\d{5} train 0\.\d{5} test   PSNR", err)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "reconstructions.png",
        "losses.png",
        "latent.png",
        "model.safetensors",
    }

    code, out, err = halfstride("evaluate", "run", "--json")
    assert code == 0, err
    scores = json.loads(out)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert scores["images"] == 5
    assert scores["mse"] == pytest.approx(last["test_mse"])

    code, out, err = halfstride("evaluate", "run", photos)
    assert code == 0, err
    assert "on 24 images of photos" in out

    code, out, err = halfstride("reconstruct", "run", photos, photos / "cats" / "0.png", "--out", "back")
    assert code == 0, err
    assert "25 reconstructions and overview.png in back" in out
    assert re.search(r"skipped .*broken\.png: ", out)
    back = tmp_path / "back"
    assert {path.name for path in back.iterdir()} >= {"overview.png", "cats-0.png", "dogs-11.png", "0.png"}
    with Image.open(back / "cats-0.png") as picture:
        assert picture.size == (15, 13)
        assert picture.mode == "RGB"
    assert (back / "cats-0.png").read_bytes() == (back / "0.png").read_bytes()


def test_a_reconstruction_is_what_the_model_computes(halfstride, photos, tmp_path):
    assert halfstride("train", photos, "--size", "16", "--channels", "1", "--out", "run", *QUICK)[0] == 0
    pixels = np.random.default_rng(1).integers(0, 255, (16, 16), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    assert halfstride("reconstruct", "run", "one.png", "--out", "back")[0] == 0
    model = ConvAutoencoder.from_pretrained(tmp_path / "run")
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels)[None, None] / 255)[0, 0]
    with Image.open(tmp_path / "back" / "one.png") as picture:
        np.testing.assert_allclose(np.asarray(picture) / 255, expected.numpy(), atol=0.51 / 255)


def test_a_spatial_model_reconstructs_each_picture_at_its_own_size(halfstride, photos, tmp_path):
    code, _, err = halfstride("train", photos, "--size", "16", "--spatial", "--out", "run", *QUICK)
    assert code == 0, err
    Image.new("RGB", (41, 23), "teal").save(tmp_path / "teal.png")
    assert halfstride("reconstruct", "run", "teal.png", photos, "--out", "back")[0] == 0
    with Image.open(tmp_path / "back" / "teal.png") as picture:
        assert picture.size == (41, 23)


def test_a_kernel_that_makes_checkerboards_is_taken_with_a_word(halfstride, photos, tmp_path):
    arguments = ["--size", "16", "--upsampling", "transposed", "--kernel-size", "3", "--out", "run"]
    code, out, err = halfstride("train", photos, *arguments, *QUICK)
    assert code == 0, err
    assert "warning: ConvAutoencoder has kernel_size=3 with stride=2" in out
    assert "kernel_size=4 would not" in out
    model = ConvAutoencoder.from_pretrained(tmp_path / "run")
    assert {layer.kernel_size for layer in model.modules() if isinstance(layer, ConvTranspose2d)} == {(3, 3)}


@pytest.mark.parametrize("upsampling", ["resize", "transposed", "subpixel"])
def test_two_dimensional_latents_get_a_picture_of_their_plane(halfstride, photos, tmp_path, upsampling):
    arguments = ["--latent-dim", "2", "--hidden-dim", "8", "--upsampling", upsampling, "--downsampling", "pool"]
    code, out, err = halfstride("train", photos, "--size", "11", "--out", "run", *QUICK, *arguments)
    assert code == 0, err
    assert "latent_plane.png" in out


def test_runs_are_numbered_where_no_name_is_given(halfstride, photos, tmp_path):
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 255, (20, 8, 8), dtype=np.uint8))
    for expected in ("runs/noise", "runs/noise-2"):
        code, out, err = halfstride("train", "noise.npy", *QUICK)
        assert code == 0, err
        assert f"{expected}/" in out


def test_pictures_that_are_added_change_nothing_of_the_run(halfstride, photos, tmp_path):
    """The size that was chosen for the first ones holds; and a run says when it cannot go on with other data."""
    assert halfstride("train", photos, "--out", "run", *QUICK)[0] == 0
    for number in range(60):
        Image.fromarray(np.full((40, 50, 3), number, np.uint8)).save(photos / "cats" / f"more{number}.png")
    assert halfstride("evaluate", "run")[0] == 0
    code, _, err = halfstride("train", "--out", "run", "--resume")
    assert code == 1
    assert "bring the data back, or start a new run" in err


def test_a_folder_named_digits_is_asked_for_by_a_path(halfstride, photos, tmp_path):
    photos.rename(tmp_path / "digits")
    quick = ["--epochs", "1", "--latent-dim", "2", "--widths", "4", "--batch-size", "400"]
    assert "3,600 images to train on" in halfstride("train", "digits", "--out", "one", *quick)[1]
    assert "11 images to train on" in halfstride("train", "./digits", "--size", "12", "--out", "two", *quick)[1]
    assert halfstride("train", "", "--out", "three")[0] == 1


def test_a_run_of_unknown_data_cannot_be_resumed_here(halfstride, tmp_path):
    options = TrainingOptions(epochs=1)
    train(ConvAutoencoder(8, latent_dim=2, widths=(4,)), load_images(np.zeros((20, 8, 8), np.uint8)), "run", options)
    code, _, err = halfstride("train", "--out", "run", "--resume")
    assert code == 1
    assert "`--out` (=run) does not say where its images came from" in err


def test_an_interrupted_run_is_resumed_by_name_alone(halfstride, photos, tmp_path):
    script = (
        "import os, signal, sys, torch; from halfstride import cli\n"
        "step, steps = torch.optim.AdamW.step, []\n"
        "def counted(self, *arguments, **keywords):\n"
        "    steps.append(1)\n"
        "    if len(steps) == 3: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return step(self, *arguments, **keywords)\n"
        "torch.optim.AdamW.step = counted\n"
        "cli.main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", script, "train", str(photos), "--size", "12", "--out", "run", *QUICK]
    stopped = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert stopped.returncode == 130
    assert "Go on with: halfstride train --out run --resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    code, out, err = halfstride("train", "--out", "run", "--resume", "--epochs", "5")
    assert code == 1
    assert err.startswith("error: `--epochs` (=5) cannot change in a run that is resumed")
    code, out, err = halfstride("train", "--out", "run", "--resume")
    assert code == 0, err
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert "Next:" in out


def test_torchrun_trains_one_run_with_two_processes(photos, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "halfstride",
    ]
    command += ["train", str(photos), "--size", "12", "--out", "run", *QUICK]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Next:") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


BAD = {
    "missing folder": (["train", "nowhere"], r"`source` \(=nowhere\) does not exist: give a folder"),
    "file for folder": (["train", "photos/cats/0.png"], r"is a file: give the folder that it lies in"),
    "no images": (["train", "empty"], r"`source` \(=.*empty\) holds no images: give a folder"),
    "all broken": (["train", "broken"], r"holds no usable image: 1 skipped \(x\.png"),
    "no epochs": (["train", "--epochs", "0"], r"`epochs` \(=0\) must be an int of at least 1\."),
    "negative rate": (["train", "--learning-rate", "-1"], r"`learning_rate` \(=-1\.0\) must be above 0\."),
    "no latent": (["train", "photos", "--latent-dim", "0"], r"`latent_dim` \(=0\) must be an int of at least 1\."),
    "latent too large": (
        ["train", "photos", "--size", "4", "--latent-dim", "99"],
        r"`latent_dim` \(=99\) is larger than the image of 3×4×4: use at most 48\.",
    ),
    "size of letters": (["train", "--size", "big"], r"`--size` \(=big\) must be whole numbers, such as 64x48\."),
    "size of three": (["train", "--size", "1x2x3"], r"`--size` \(=1x2x3\) must be one number, or height and width"),
    "size zero": (["train", "photos", "--size", "0"], r"`size` \(=0\)"),
    "widths": (["train", "--widths", "8;8"], r"`--widths` \(=8;8\) must be whole numbers, such as 64,48\."),
    "out exists": (["train", "photos", "--out", "photos"], r"`out` \(=photos\) exists already: choose another name"),
    "resume nothing": (["train", "--resume"], r"`--resume` needs the run's folder: name it by --out\."),
    "resume elsewhere": (["train", "--resume", "--out", "photos"], r"`run` \(=photos\) has no run\.json"),
    "evaluate nothing": (["evaluate", "nowhere"], r"`run` \(=nowhere\) is not a folder"),
    "evaluate photos": (["evaluate", "photos"], r"`run` \(=photos\) has no run\.json: name a folder that"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_leaves_nothing_behind(halfstride, photos, tmp_path, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"no picture")
    before = sorted(tmp_path.rglob("*"))
    arguments, text = BAD[case]
    code, _, err = halfstride(*arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(text, err)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_with_damaged_files_is_refused(halfstride, photos, tmp_path):
    assert halfstride("train", photos, "--size", "12", "--out", "run", *QUICK)[0] == 0
    run = tmp_path / "run"
    whole = (run / "model.safetensors").read_bytes()

    def error(*arguments):
        code, _, err = halfstride(*arguments)
        assert code == 1
        assert err.count("\n") == 1
        return err

    (run / "model.safetensors").write_bytes(whole[:100])
    assert "does not hold the weights of this model" in error("evaluate", "run")
    (run / "model.safetensors").unlink()
    torch.save({}, run / "pytorch_model.bin")
    assert "is a pickle, which can run code: only model.safetensors is read" in error("evaluate", "run")
    (run / "model.safetensors").write_bytes(whole)
    record = (run / "run.json").read_text()
    (run / "run.json").write_text("[]")
    assert "run.json` is damaged" in error("evaluate", "run")
    (run / "run.json").write_text(record)
    (run / "config.json").write_text("{")
    assert "config.json` is damaged" in error("reconstruct", "run", photos)
    assert not (tmp_path / "reconstructions").exists()


def test_reconstruct_refuses_what_it_cannot_do(halfstride, photos, tmp_path):
    assert halfstride("train", photos, "--size", "12", "--out", "run", *QUICK)[0] == 0
    code, _, err = halfstride("reconstruct", "run", photos / "cats" / "broken.png", "--out", "back")
    assert code == 1
    assert "`images` hold nothing that can be read: 1 skipped" in err
    assert not (tmp_path / "back").exists()
    code, _, err = halfstride("reconstruct", "run", photos, "--out", photos)
    assert code == 1
    assert "exists already: choose another name, or empty it." in err
    code, _, err = halfstride("reconstruct", "run", "nowhere.png", "--out", "back")
    assert code == 1
    assert "nowhere.png" in err


@pytest.mark.parametrize(
    ("line", "suggestion"), [("train --epoch 3", "--epochs"), ("trian", "train"), ("train --loss mae", "mse")]
)
def test_a_wrong_option_gets_a_suggestion(halfstride, line, suggestion):
    code, _, err = halfstride(*line.split())
    assert code == 2
    assert suggestion in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(halfstride):
    with pytest.raises(ValueError, match="does not exist"):
        cli.main(["train", "nowhere", "--debug"])
