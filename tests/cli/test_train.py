"""`halfstride train`, as a person uses it."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from halfstride import ConvAutoencoder, ConvTranspose2d, TrainingOptions, load_images, train
from halfstride.autoencoder import Run
from small_commands import ENCODER, QUICK, VECTOR, pairs


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
    assert any(line.startswith("Detector fitted on ") for line in lines)
    assert lines[-5:] == [
        "Next:",
        "  halfstride reconstruct 'my run' PICTURES/ --out back/  # try other pictures",
        "  halfstride evaluate 'my run' PICTURES/                 # score other pictures",
        "  halfstride detect 'my run' PICTURES/ --out found/      # find the odd ones",
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


def test_pairs_are_trained_and_evaluated_and_need_their_twins(halfstride, tmp_path):
    pairs(tmp_path)
    out = halfstride.out("train", "noisy", "--clean", "clean", "--out", "run", *VECTOR)
    assert re.search(r"^input +0\.0", out, re.MULTILINE)
    assert "  halfstride denoise run PICTURES/ --out clean/ " in out
    assert "halfstride detect" not in out
    halfstride.out("evaluate", "run")
    assert "`--clean` must name the clean twins of noisy: run was trained on pairs." in halfstride.error(
        "evaluate", "run", "noisy"
    )
    out = halfstride.out("evaluate", "run", "noisy", "--clean", "clean")
    assert "run on noisy, 20 images:" in out
    halfstride.out("reconstruct", "run", "noisy", "--out", "back")


def test_a_kernel_that_makes_checkerboards_is_taken_with_a_word(halfstride, photos, tmp_path):
    arguments = ["--size", "16", "--upsampling", "transposed", "--kernel-size", "5", "--out", "run"]
    out = halfstride.out("train", photos, *arguments, *VECTOR)
    assert re.search(r"^warning: ConvAutoencoder has kernel_size=5 with stride=\d", out, re.MULTILINE)
    model = ConvAutoencoder.from_pretrained(tmp_path / "run")
    assert {layer.kernel_size for layer in model.modules() if isinstance(layer, ConvTranspose2d)} == {(5, 5)}


def test_two_dimensional_latents_get_a_picture_of_their_plane(halfstride, photos):
    arguments = ["--size", "11", "--latent", "vector", "--latent-dim", "2", "--downsampling", "pool", "--out", "run"]
    out = halfstride.out("train", photos, *arguments, *QUICK)
    assert "latent_plane.png" in out


def test_runs_are_numbered_where_no_name_is_given(halfstride, tmp_path):
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 255, (20, 8, 8), dtype=np.uint8))
    for expected in ("runs/noise", "runs/noise-2"):
        out = halfstride.out("train", "noise.npy", *VECTOR)
        assert f"Look at {expected}/reconstructions.png" in out


def test_a_folder_named_digits_is_asked_for_by_a_path(halfstride, photos, tmp_path):
    photos.rename(tmp_path / "digits")
    quick = ["--steps", "1", "--latent", "vector", "--latent-dim", "2", "--width", "4", "--blocks", "0"]
    out = halfstride.out("train", "digits", "--out", "one", *quick)
    assert "3,600 images to train on" in out
    assert out.splitlines()[-1].startswith("  halfstride train PICTURES/")
    assert "11 images to train on" in halfstride("train", "./digits", "--size", "12", "--out", "two", *quick)[1]


@pytest.mark.parametrize("images", [np.zeros((1, 8, 8), np.uint8), np.full((20, 8, 8), 9, np.uint8)])
def test_one_image_and_constant_images_are_trained_and_the_verdict_says_so(halfstride, tmp_path, images):
    np.save(tmp_path / "images.npy", images)
    out = halfstride.out("train", "images.npy", "--out", "run", *QUICK)
    assert "The training images are all the same, so there is nothing to learn: check the data." in out


def test_a_run_with_an_encoder_of_ones_own_takes_it_again_in_every_command(halfstride, photos, tmp_path):
    (tmp_path / "ownnets.py").write_text(ENCODER)
    own = ["--encoder", "ownnets:make"]
    start = ["train", photos, "--size", "12", "--out", "run", "--steps", "3", *own, "--freeze", "--mean", "0.5"]
    out = halfstride.out(*start)
    assert "  halfstride evaluate run PICTURES/ --encoder ownnets:make" in out
    for command in (["evaluate", "run"], ["reconstruct", "run", photos], ["sample", "run"], ["train", "--out", "run"]):
        command += ["--resume"] if command[0] == "train" else []
        assert "`--encoder` (=None) must be given again for run, by --encoder" in halfstride.error(*command)
        halfstride.out(*command, *own)
    assert "`--encoder` is another one than the weights are of" in halfstride.error(
        "evaluate", "run", "--encoder", "ownnets:other"
    )
    halfstride.out(*start, "--resume")
    assert "`--mean` (=0.4) cannot change in a run that is resumed, where it is [0.5, 0.5, 0.5]" in halfstride.error(
        *start[:-1], "0.4", "--resume"
    )


def test_the_same_command_goes_on_with_a_run_and_another_value_is_refused(halfstride, run, photos):
    same = ["train", photos, "--size", "13x15", "--out", "run", *VECTOR, "--resume"]
    out = halfstride.out(*same)
    assert Run(run).stages == [3, 3]
    assert "Trained for 6 steps" in out
    for name, value, known in (
        ("--latent-dim", "5", "4"),
        ("--size", "13", r"\(13, 15\)"),
        ("--loss", "l1", "mse"),
        ("--variational", "1", "None"),
        ("--corrupt", "blur:1", ""),
    ):
        err = halfstride.error(*same, name, value)
        assert re.search(rf"error: `{name}` \(={value}.*\) cannot change in a run .*, where it is {known}", err)
    assert Run(run).stages == [3, 3]


def test_a_value_that_equals_the_default_is_refused_where_the_run_has_another(halfstride, photos):
    halfstride.out("train", photos, "--size", "12", "--loss", "l1", "--out", "run", *VECTOR)
    assert "`--loss` (=mse) cannot change in a run that is resumed, where it is l1" in halfstride.error(
        "train", "--out", "run", "--resume", "--loss", "mse"
    )


def test_a_run_goes_on_where_its_images_have_moved_and_names_those_that_were_added(halfstride, run, photos, tmp_path):
    moved = photos.rename(tmp_path / "moved")
    assert "does not exist" in halfstride.error("train", "--out", "run", "--resume")
    halfstride.out("train", "moved", "--out", "run", "--resume", "--steps", "2")
    assert Run(run).image_options.source == str(moved)
    halfstride.out("train", "--out", "run", "--resume")
    assert Run(run).stages == [3, 2]
    Image.new("RGB", (14, 14), "teal").save(moved / "cats" / "added.png")
    assert "cats/added.png" in halfstride.error("train", "--out", "run", "--resume", "--steps", "2")
    halfstride.out("evaluate", "run")


def test_a_run_of_images_in_memory_says_that_it_needs_python(halfstride):
    images = load_images(np.zeros((20, 8, 8), np.uint8))
    train(ConvAutoencoder(8, latent_dim=2, width=4, blocks=0), images, "run", TrainingOptions(steps=1), progress=False)
    for command in (["train", "--out", "run", "--resume"], ["evaluate", "run"], ["sample", "run"]):
        assert "(=run) was trained on images in memory" in halfstride.error(*command)


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
    assert "`--epochs` (=5) cannot be added yet: run stands at step 3 of 8" in halfstride.error(
        "train", "--out", "run", "--resume", "--epochs", "5"
    )
    out = halfstride.out(*arguments, "--resume")
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
