"""`halfstride train`, `evaluate`, `reconstruct`, `sample` and `sweep`, as a person uses them."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from halfstride import ConvAutoencoder, ConvTranspose2d, Evaluation, TrainingOptions, cli, load_images, train
from halfstride.autoencoder import Run
from halfstride.cli.console import show_evaluation, tell

QUICK = ["--steps", "3", "--width", "8", "--blocks", "0", "--batch-size", "8"]
VECTOR = [*QUICK, "--latent", "vector", "--latent-dim", "4"]
ENCODER = (
    "from torch import nn\n"
    "def make():\n"
    "    return nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8))\n"
    "def other():\n"
    "    return nn.Sequential(nn.Conv2d(3, 2, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(18, 8))\n"
    "def flat():\n"
    "    return nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(0))\n"
)


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


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of two classes of small pictures of different sizes and of broken ones, and a run on it."""
    place = tmp_path_factory.mktemp("prepared")
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (place / "photos" / name).mkdir(parents=True)
        for number in range(12):
            size = (int(generator.integers(12, 20)), int(generator.integers(12, 20)), 3)
            pixels = generator.integers(0, 255, size, dtype=np.uint8)
            Image.fromarray(pixels).save(place / "photos" / name / f"{number}.png")
    for number in range(4):
        (place / "photos" / "cats" / f"broken{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    here = Path.cwd()
    os.chdir(place)
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["train", "photos", "--size", "13x15", "--out", "run", *VECTOR])
        assert not stopped.value.code
    finally:
        os.chdir(here)
    return place


@pytest.fixture
def photos(prepared, tmp_path):
    return shutil.copytree(prepared / "photos", tmp_path / "photos")


@pytest.fixture
def run(prepared, photos, tmp_path):
    """A copy of the run, whose images are where it says."""
    shutil.copytree(prepared / "run", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["data"]["source"] = str(photos)
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    return tmp_path / "run"


def pairs(tmp_path, missing=()):
    generator = np.random.default_rng(1)
    for number in range(20):
        clean = generator.integers(60, 190, (12, 12, 3), dtype=np.uint8)
        noisy = (clean + generator.integers(0, 60, clean.shape)).astype(np.uint8)
        for folder, pixels in (("clean", clean), ("noisy", noisy)):
            (tmp_path / folder).mkdir(exist_ok=True)
            if number not in missing or folder == "noisy":
                Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")


# From training to reconstruction --------------------------------------------------------------------------------------


def test_a_folder_of_photos_is_trained_judged_and_told_of(halfstride, photos, tmp_path):
    code, out, err = halfstride("train", photos, "--size", "13x15", "--out", "my run", *QUICK)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "photos: 11 images to train on, 8 images to validate on, 5 images to test on."
    skipped = [line for line in lines if line.startswith("skipped ")]
    assert [line.split(":")[0] for line in skipped] == [f"skipped cats/broken{number}.png" for number in range(4)]
    assert "Latent map: the mean image explains" in out
    assert "An image of 3×13×15 becomes a latent map of 4×2×2, 37 times smaller; the model has" in out
    assert re.search(r"^this model +16 numbers +0\.\d{5} +\d+\.\d\d dB", out, re.MULTILINE)
    assert re.search(r"^thumbnail +\d+ numbers", out, re.MULTILINE)
    assert re.search(r"^On all 5 test images: MSE 0\.\d+, PSNR \d+\.\d\d dB, SSIM", out, re.MULTILINE)
    assert "Nearest neighbours find the class of" in out
    evaluation = Run(tmp_path / "my run").evaluation
    assert evaluation.verdict.sentence in lines
    assert lines[-4:] == [
        "Next:",
        "  halfstride reconstruct 'my run' PICTURES/ --out back/  # try other pictures",
        "  halfstride evaluate 'my run' PICTURES/                 # score other pictures",
        "  halfstride train --out 'my run' --resume --steps 3     # train it longer",
    ]
    table = err.splitlines()
    assert table[0].split() == ["step", "train", "MSE", "validation", "test", "MSE", "PSNR", "SSIM", "best"]
    assert len(table) == 4
    assert re.fullmatch(r" *3/3( +0\.\d{5}){3} +\d+\.\d\d dB +-?0\.\d{3}(  \*)?", table[3])
    assert {path.name for path in (tmp_path / "my run").iterdir()} >= {
        "reconstructions.png",
        "losses.png",
        "latent.png",
        "model.safetensors",
        "evaluation.json",
        "README.md",
    }
    assert len((tmp_path / "my run" / "skipped.txt").read_text().splitlines()) == 4


def test_evaluate_prints_json_and_nothing_else(halfstride, run, tmp_path):
    code, out, err = halfstride("evaluate", "run", "--json")
    assert (code, err) == (0, "")
    found = Evaluation.from_dict(json.loads(out))
    assert found == Run(run).evaluation
    assert found.test.images == 5


def test_evaluate_takes_other_images_all_of_them(halfstride, run, photos, tmp_path):
    code, out, err = halfstride("evaluate", "run", photos)
    assert code == 0, err
    assert out.startswith("run on photos, 24 images:\n")
    assert out.count("skipped cats/broken") == 4
    assert "On all 24 test images" in out
    (tmp_path / "one").mkdir()
    Image.new("RGB", (20, 20), "teal").save(tmp_path / "one" / "a.png")
    code, out, err = halfstride("evaluate", "run", "one")
    assert code == 0, err
    assert out.startswith("run on one, 1 image:\n")
    assert "On the 1 test image: MSE" in out


def test_evaluate_finds_the_runs_images_where_they_have_moved_and_judges_by_no_others(
    halfstride, run, photos, tmp_path
):
    before = halfstride("evaluate", "run")[1]
    photos.rename(tmp_path / "moved")
    assert halfstride("evaluate", "run")[0] == 1
    code, out, err = halfstride("evaluate", "run", "moved")
    assert code == 0, err
    assert "These are the run's own images: its test images are compared." in out
    assert re.search(r"On all 5 test images: MSE \S+", out)[0] == re.search(r"On all 5 test images: MSE \S+", before)[0]
    (tmp_path / "one").mkdir()
    Image.new("RGB", (20, 20), "teal").save(tmp_path / "one" / "a.png")
    code, _, err = halfstride("evaluate", "run", "one")
    assert code == 1
    assert err.count("\n") == 1
    assert "has training images that cannot be read" in err
    assert "halfstride train NEW_PLACE --out run --resume" in err


def test_reconstruct_writes_what_the_model_computes(halfstride, run, photos, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (13, 15, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    code, out, err = halfstride("reconstruct", "run", photos, photos / "cats" / "0.png", "one.png", "--out", "back")
    assert code == 0, err
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


def test_a_map_reconstructs_each_picture_at_its_own_size(halfstride, photos, tmp_path):
    code, _, err = halfstride("train", photos, "--size", "16", "--latent", "map", "--out", "run", *QUICK)
    assert code == 0, err
    Image.new("RGB", (41, 23), "teal").save(tmp_path / "teal.png")
    assert halfstride("reconstruct", "run", "teal.png", photos, "--out", "back")[0] == 0
    with Image.open(tmp_path / "back" / "teal.png") as picture:
        assert picture.size == (41, 23)


def test_noise_is_added_by_evaluate_and_not_by_reconstruct(halfstride, photos, tmp_path):
    code, _, err = halfstride("train", photos, "--size", "12", "--corrupt", "gaussian:0.3", "--out", "run", *VECTOR)
    assert code == 0, err
    assert re.search(r"^input +0\.0[4-9]", halfstride("evaluate", "run")[1], re.MULTILINE)
    assert re.search(r"^input +0\.0[4-9]", halfstride("evaluate", "run", photos)[1], re.MULTILINE)
    pixels = np.full((12, 12, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "flat.png")
    assert halfstride("reconstruct", "run", "flat.png", "--out", "back")[0] == 0
    with torch.inference_mode():
        expected = ConvAutoencoder.from_pretrained(tmp_path / "run")(torch.full((1, 3, 12, 12), 90 / 255))[0]
    with Image.open(tmp_path / "back" / "flat.png") as picture:
        np.testing.assert_allclose(np.asarray(picture) / 255, expected.movedim(0, -1).numpy(), atol=0.51 / 255)


def test_pairs_are_trained_and_evaluated_and_need_their_twins(halfstride, tmp_path):
    pairs(tmp_path)
    code, out, err = halfstride("train", "noisy", "--clean", "clean", "--out", "run", *VECTOR)
    assert code == 0, err
    assert re.search(r"^input +0\.0", out, re.MULTILINE)
    assert halfstride("evaluate", "run")[0] == 0
    code, _, err = halfstride("evaluate", "run", "noisy")
    assert code == 1
    assert "`--clean` must name the clean twins of noisy: run was trained on pairs." in err
    code, out, err = halfstride("evaluate", "run", "noisy", "--clean", "clean")
    assert code == 0, err
    assert "run on noisy, 20 images:" in out
    assert halfstride("reconstruct", "run", "noisy", "--out", "back")[0] == 0


def test_samples_are_drawn_from_plain_and_variational_models(halfstride, run, photos, tmp_path):
    code, out, err = halfstride("sample", "run", "--count", "5")
    assert code == 0, err
    assert "This model is not variational: a Gaussian mixture was fitted to codes of its training images." in out
    assert "5 new images in run/samples.png" in out
    first = (run / "samples.png").read_bytes()
    halfstride("sample", "run", "--count", "5")
    assert (run / "samples.png").read_bytes() == first
    halfstride("sample", "run", "--count", "5", "--seed", "1")
    assert (run / "samples.png").read_bytes() != first
    code, _, err = halfstride("train", photos, "--size", "12", "--variational", "2", "--out", "vae", *VECTOR)
    assert code == 0, err
    shutil.rmtree(photos)  # which a variational model does not need
    code, out, err = halfstride("sample", "vae", "--count", "1", "--out", "new.png")
    assert code == 0, err
    assert out == "Codes were drawn from the normal distribution of a variational model.\n1 new image in new.png\n"
    assert (tmp_path / "new.png").exists()


def test_a_kernel_that_makes_checkerboards_is_taken_with_a_word(halfstride, photos, tmp_path):
    arguments = ["--size", "16", "--upsampling", "transposed", "--kernel-size", "5", "--out", "run"]
    code, out, err = halfstride("train", photos, *arguments, *VECTOR)
    assert code == 0, err
    assert re.search(r"^warning: ConvAutoencoder has kernel_size=5 with stride=\d", out, re.MULTILINE)
    model = ConvAutoencoder.from_pretrained(tmp_path / "run")
    assert {layer.kernel_size for layer in model.modules() if isinstance(layer, ConvTranspose2d)} == {(5, 5)}


def test_two_dimensional_latents_get_a_picture_of_their_plane(halfstride, photos):
    arguments = ["--size", "11", "--latent", "vector", "--latent-dim", "2", "--downsampling", "pool", "--out", "run"]
    code, out, err = halfstride("train", photos, *arguments, *QUICK)
    assert code == 0, err
    assert "latent_plane.png" in out


def test_runs_are_numbered_where_no_name_is_given(halfstride, tmp_path):
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 255, (20, 8, 8), dtype=np.uint8))
    for expected in ("runs/noise", "runs/noise-2"):
        code, out, err = halfstride("train", "noise.npy", *VECTOR)
        assert code == 0, err
        assert f"Look at {expected}/reconstructions.png" in out


def test_a_folder_named_digits_is_asked_for_by_a_path(halfstride, photos, tmp_path):
    photos.rename(tmp_path / "digits")
    quick = ["--steps", "1", "--latent", "vector", "--latent-dim", "2", "--width", "4", "--blocks", "0"]
    code, out, _ = halfstride("train", "digits", "--out", "one", *quick)
    assert code == 0
    assert "3,600 images to train on" in out
    assert out.splitlines()[-1].startswith("  halfstride train PICTURES/")
    assert "11 images to train on" in halfstride("train", "./digits", "--size", "12", "--out", "two", *quick)[1]


@pytest.mark.parametrize("images", [np.zeros((1, 8, 8), np.uint8), np.full((20, 8, 8), 9, np.uint8)])
def test_one_image_and_constant_images_are_trained_and_the_verdict_says_so(halfstride, tmp_path, images):
    np.save(tmp_path / "images.npy", images)
    code, out, err = halfstride("train", "images.npy", "--out", "run", *QUICK)
    assert code == 0, err
    assert "The training images are all the same, so there is nothing to learn: check the data." in out


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


# An encoder of one's own ----------------------------------------------------------------------------------------------


def test_a_run_with_an_encoder_of_ones_own_takes_it_again_in_every_command(halfstride, photos, tmp_path):
    (tmp_path / "ownnets.py").write_text(ENCODER)
    own = ["--encoder", "ownnets:make"]
    start = ["train", photos, "--size", "12", "--out", "run", "--steps", "3", *own, "--freeze", "--mean", "0.5"]
    code, out, err = halfstride(*start)
    assert code == 0, err
    assert "  halfstride evaluate run PICTURES/ --encoder ownnets:make" in out
    for command in (["evaluate", "run"], ["reconstruct", "run", photos], ["sample", "run"], ["train", "--out", "run"]):
        command += ["--resume"] if command[0] == "train" else []
        code, _, err = halfstride(*command)
        assert code == 1
        assert "`--encoder` (=None) must be given again for run, by --encoder" in err
        code, _, err = halfstride(*command, *own)
        assert code == 0, err
    code, _, err = halfstride("evaluate", "run", "--encoder", "ownnets:other")
    assert code == 1
    assert "`--encoder` is another one than the weights are of" in err
    assert halfstride(*start, "--resume")[0] == 0
    code, _, err = halfstride(*start[:-1], "0.4", "--resume")
    assert code == 1
    assert "`--mean` (=0.4) cannot change in a run that is resumed, where it is [0.5, 0.5, 0.5]" in err


# Going on with a run --------------------------------------------------------------------------------------------------


def test_the_same_command_goes_on_with_a_run_and_another_value_is_refused(halfstride, run, photos):
    same = ["train", photos, "--size", "13x15", "--out", "run", *VECTOR, "--resume"]
    code, out, err = halfstride(*same)
    assert code == 0, err
    assert Run(run).stages == [3, 3]
    assert "Trained for 6 steps" in out
    for name, value, known in (
        ("--latent", "map", "vector"),
        ("--latent-dim", "5", "4"),
        ("--size", "13", r"\(13, 15\)"),
        ("--batch-size", "4", "8"),
        ("--loss", "l1", "mse"),
        ("--seed", "7", "0"),
        ("--variational", "1", "None"),
        ("--width", "64", "8"),
        ("--corrupt", "blur:1", ""),
    ):
        code, _, err = halfstride(*same, name, value)
        assert code == 1
        assert re.search(rf"error: `{name}` \(={value}.*\) cannot change in a run .*, where it is {known}", err)
    assert Run(run).stages == [3, 3]


def test_a_value_that_equals_the_default_is_refused_where_the_run_has_another(halfstride, photos):
    assert halfstride("train", photos, "--size", "12", "--loss", "l1", "--out", "run", *VECTOR)[0] == 0
    code, _, err = halfstride("train", "--out", "run", "--resume", "--loss", "mse")
    assert code == 1
    assert "`--loss` (=mse) cannot change in a run that is resumed, where it is l1" in err


def test_a_run_goes_on_where_its_images_have_moved_and_names_those_that_were_added(halfstride, run, photos, tmp_path):
    moved = photos.rename(tmp_path / "moved")
    code, _, err = halfstride("train", "--out", "run", "--resume")
    assert code == 1
    assert "does not exist" in err
    code, _, err = halfstride("train", "moved", "--out", "run", "--resume", "--steps", "2")
    assert code == 0, err
    assert Run(run).image_options.source == str(moved)
    assert halfstride("train", "--out", "run", "--resume")[0] == 0
    assert Run(run).stages == [3, 2]
    Image.new("RGB", (14, 14), "teal").save(moved / "cats" / "added.png")
    code, _, err = halfstride("train", "--out", "run", "--resume", "--steps", "2")
    assert code == 1
    assert "cats/added.png" in err
    assert halfstride("evaluate", "run")[0] == 0


def test_a_run_of_images_in_memory_says_that_it_needs_python(halfstride):
    images = load_images(np.zeros((20, 8, 8), np.uint8))
    train(ConvAutoencoder(8, latent_dim=2, width=4, blocks=0), images, "run", TrainingOptions(steps=1), progress=False)
    for command in (["train", "--out", "run", "--resume"], ["evaluate", "run"], ["sample", "run"]):
        code, _, err = halfstride(*command)
        assert code == 1
        assert err.count("\n") == 1
        assert "(=run) was trained on images in memory" in err


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
    arguments = ["train", str(photos), "--size", "12", "--out", "run", *VECTOR, "--steps", "8"]
    stopped = subprocess.run([sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert stopped.returncode == 130
    assert "Go on with: halfstride train --out run --resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    code, _, err = halfstride("train", "--out", "run", "--resume", "--epochs", "5")
    assert code == 1
    assert "`--epochs` (=5) cannot be added yet: run stands at step 3 of 8" in err
    code, out, err = halfstride(*arguments, "--resume")
    assert code == 0, err
    assert Run(tmp_path / "run").stages == [8]
    assert Run(tmp_path / "run").metrics[-1]["step"] == 8
    assert "Next:" in out


def test_torchrun_trains_one_run_with_two_processes(photos, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["halfstride", "train", str(photos), "--size", "12", "--out", "run", *VECTOR]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Next:") == 1
    assert done.stdout.count("becomes a latent") == 1
    assert len(Run(tmp_path / "run").metrics) == 3
    assert Run(tmp_path / "run").evaluation is not None


# Sweep ----------------------------------------------------------------------------------------------------------------


def test_a_sweep_trains_each_size_and_its_last_line_can_be_pasted(halfstride, photos, tmp_path, monkeypatch):
    photos.rename(tmp_path / "my photos")
    arguments = ["sweep", "my photos", "--latents", "4,2", "--latent", "map", "--size", "16", "--steps", "6"]
    code, out, err = halfstride(*arguments, "--out", "sweep")
    assert code == 0, err
    assert (tmp_path / "sweep" / "sweep.png").exists()
    rows = [line.split() for line in out.splitlines() if re.match(r" +[24] +\d+ ", line)]
    assert [row[:2] for row in rows] == [["2", "8"], ["4", "16"]]
    assert out.count("Latent map:") == 1
    assert out.count("skipped ") == 4
    for dim, row in zip((2, 4), rows, strict=True):
        run = Run(tmp_path / "sweep" / f"latent-{dim}")
        assert run.stages == [3]
        assert row[2] == f"{run.evaluation.validation.mse:.5f}"
    command = out.splitlines()[-1].strip()
    assert "'my photos'" in command
    assert "--latent map --size 16" in command
    code, _, err = halfstride(*shlex.split(command)[1:], "--steps", "2", "--out", "pasted")
    assert code == 0, err


def test_a_sweep_refuses_several_processes(halfstride, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = halfstride("sweep", "--out", "sweep")
    assert (code, err) == (
        1,
        "error: A sweep runs in one process: start it without torchrun, or train each size by itself.\n",
    )


def test_a_sweep_that_is_behind_pca_names_no_size(halfstride):
    """On digits, where a vector starts at random, one step is nothing."""
    code, out, err = halfstride("sweep", "--latents", "2,4", "--steps", "2", "--out", "sweep", "--seed", "3")
    assert code == 0, err
    assert "Which size pays cannot be told yet: after 1 steps the model is behind PCA with 2 and 4 numbers." in out
    assert out.splitlines()[-1] == "  halfstride sweep digits --latents 2,4 --steps 8 --seed 3"


# Bad input ------------------------------------------------------------------------------------------------------------

OWN = ["train", "photos", "--size", "12", "--out", "new", "--encoder"]
BAD = {
    "missing folder": (["train", "nowhere"], r"`source` \(=nowhere\) does not exist: give a folder"),
    "empty name": (["train", ""], r"`data` \(=\) must be a folder of images, a \.npy"),
    "file for folder": (["train", "photos/cats/0.png"], r"is a file: give the folder that it lies in"),
    "no images": (["train", "empty"], r"`source` \(=.*empty\) holds no images: give a folder"),
    "all broken": (["train", "broken"], r"holds no usable image: 1 skipped \(x\.png"),
    "not a number": (["train", "nan.npy"], r"`source` \(=nan\.npy\) has values from nan to nan"),
    "pairs": (["train", "noisy", "--clean", "clean"], r"`--clean` \(=clean\) must have one .* 2 \(3\.png, 4\.png\) in"),
    "no twins of digits": (["train", "--clean", "clean"], r"`--clean` \(=clean\) must go with a folder"),
    "no epochs": (["train", "--epochs", "0"], r"`--epochs` \(=0\) must be (an int of )?at least 1\."),
    "no minutes": (["train", "--minutes", "0"], r"`--minutes` \(=0\.0\) must be above 0"),
    "two lengths": (
        ["train", "--steps", "5", "--minutes", "1"],
        r"`--steps` \(=5\) and `--minutes` \(=1\.0\) exclude each",
    ),
    "negative rate": (["train", "--learning-rate", "-1"], r"`--learning-rate` \(=-1\.0\) must be above 0\."),
    "no latent": (["train", "photos", "--latent-dim", "0", "--latent", "vector"], r"`--latent-dim` \(=0\) must be"),
    "vector too large": (
        ["train", "photos", "--size", "4", "--latent", "vector", "--latent-dim", "99"],
        r"`--latent-dim` \(=99\) .*: use at most 48\.",
    ),
    "map finer than the image": (
        ["train", "photos", "--size", "8", "--latent", "map", "--downscale", "2", "--latent-dim", "20"],
        r"`--latent-dim` \(=20\) makes a code of 320 numbers, more than the 192 .*, or a larger `--downscale`",
    ),
    "downscale": (
        ["train", "photos", "--latent", "map", "--downscale", "3"],
        r"`--downscale` \(=3\) must be a power of 2",
    ),
    "crop of a vector": (["train", "photos", "--crop", "8", *VECTOR], r"`--crop` \(=8\) needs a latent map"),
    "corruption": (["train", "--corrupt", "fog:1"], r"`--corrupt` \(='fog:1'\) must be one of gaussian:STD"),
    "device absent": (["train", "photos", "--device", "cuda:99"], r"`--device` \(=cuda:99\) is not available here"),
    "device unknown": (
        ["train", "photos", "--device", "tpu"],
        r"`--device` \(=tpu\) is not the name of a device: use cpu",
    ),
    "device meta": (["train", "photos", "--device", "meta"], r"`--device` \(=meta\) holds no numbers: use cpu"),
    "size of letters": (["train", "--size", "big"], r"`--size` \(=big\) must be whole numbers, such as 64x48\."),
    "size of three": (["train", "--size", "1x2x3"], r"`--size` \(=1x2x3\) must be one number, or height and width"),
    "size zero": (["train", "photos", "--size", "0"], r"`--size` \(=\(0, 0\)\)"),
    "out exists": (["train", "photos", "--out", "photos"], r"`--out` \(=photos\) exists already: choose another name"),
    "out in a file": (
        ["train", "photos", "--out", "nan.npy/x"],
        r"`--out` \(=nan\.npy/x\) .* since nan\.npy is a file",
    ),
    "mean without encoder": (["train", "photos", "--mean", "0.5"], r"`--mean` is for an encoder of your own"),
    "encoder and latent": (
        [*OWN, "ownnets:make", "--latent-dim", "3"],
        r"`--latent-dim` \(=3\) and `--encoder` \(=ownnets:make\) exclude each other",
    ),
    "encoder of no codes": ([*OWN, "ownnets:flat"], r"`--encoder`|cannot undo"),
    "encoder absent": ([*OWN, "ownnets:absent"], r"`--encoder` \(=ownnets:absent\) is not in ownnets"),
    "resume nothing": (["train", "--resume"], r"`--resume` needs the run's folder: name it by --out\."),
    "resume elsewhere": (["train", "--resume", "--out", "photos"], r"`run` \(=photos\) has no run\.json"),
    "evaluate nothing": (["evaluate", "nowhere"], r"`run` \(=nowhere\) is not a folder"),
    "evaluate photos": (["evaluate", "photos"], r"`run` \(=photos\) has no run\.json: name a folder that"),
    "evaluate twins alone": (["evaluate", "run", "--clean", "clean"], r"`--clean` \(=clean\) needs the noisy twins"),
    "sample no png": (["sample", "run", "--out", "x.jpg"], r"`--out` \(=x\.jpg\) must end in \.png"),
    "sample nowhere": (
        ["sample", "run", "--out", "no/x.png"],
        r"`--out` \(=no/x\.png\) must lie in a folder that exists",
    ),
    "one size": (["sweep", "photos", "--latents", "8"], r"`--latents` \(=8\) must be two sizes or more"),
    "downscale larger than the image": (
        ["train", "photos", "--size", "12", "--latent", "map", "--downscale", "16"],
        r"`--downscale` \(=16\) is larger than images of 12×12: use at most 8\.",
    ),
    "few steps": (["sweep", "photos", "--steps", "3"], r"`--steps` \(=3\) are shared by 4 trainings: give at least 4"),
    "last size too large": (
        ["sweep", "photos", "--latents", "2,99999", "--latent", "vector", "--out", "new"],
        r"`--latent-dim` \(=99999\) makes a code",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_leaves_nothing_behind(halfstride, run, tmp_path, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"no picture")
    (tmp_path / "ownnets.py").write_text(ENCODER)
    pairs(tmp_path, missing=(3, 4))
    np.save(tmp_path / "nan.npy", np.full((20, 8, 8), np.nan, np.float32))
    arguments, text = BAD[case]
    before = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
    code, _, err = halfstride(*arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(text, err), err
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before


def test_a_run_with_damaged_files_is_refused(halfstride, run, photos, tmp_path):
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
    assert "config.json` is damaged" in error("train", "--out", "run", "--resume")
    assert not (tmp_path / "reconstructions").exists()


def test_reconstruct_refuses_what_it_cannot_do(halfstride, run, photos, tmp_path):
    code, _, err = halfstride("reconstruct", "run", photos / "cats" / "broken0.png", "--out", "back")
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
    ("line", "suggestion"),
    [("train --epoch 3", "--epochs"), ("trian", "train"), ("train --loss mae", "mse"), ("sample x --count 0", "count")],
)
def test_a_wrong_option_gets_a_suggestion(halfstride, line, suggestion):
    code, _, err = halfstride(*line.split())
    assert code == 2
    assert suggestion in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(halfstride):
    with pytest.raises(ValueError, match="does not exist"):
        cli.main(["train", "nowhere", "--debug"])
