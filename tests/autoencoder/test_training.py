"""Training: it learns, it is repeatable, it survives being killed, and several processes do what one does."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from halfstride.autoencoder import ConvAutoencoder, Run, TrainingOptions, load_images, train
from halfstride.autoencoder.progress import Interrupted

TESTS = str(Path(__file__).parent)
OPTIONS = {"epochs": 3, "batch_size": 16}


def pictures(count=60, seed=0):
    """Smooth blobs at random places, as uint8 N×9×11: something to learn in seconds."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:9, 0:11]
    centres = generator.uniform(0, 10, (count, 2))
    squares = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2
    return (255 * np.exp(-squares / 8)).round().astype(np.uint8)


def model(seed=0):
    torch.manual_seed(seed)
    return ConvAutoencoder((9, 11), latent_dim=4, widths=(8, 8))


def run_training(out, **options):
    return train(model(), load_images(pictures()), out, TrainingOptions(**{**OPTIONS, **options}), progress=False)


@pytest.mark.parametrize("loss", ["mse", "l1", "bce"])
def test_it_learns_and_writes_a_run(tmp_path, loss):
    out = tmp_path / "run"
    metrics = run_training(out, loss=loss, epochs=8)
    assert metrics[-1]["test_mse"] < 0.7 * metrics[0]["test_mse"]
    assert [entry["epoch"] for entry in metrics] == list(range(1, 9))
    assert metrics[-1]["test_ssim"] is None  # 9 pixels are fewer than SSIM's window
    assert metrics[-1]["test_psnr"] > 10
    names = {path.name for path in out.iterdir()}
    assert names >= {"run.json", "config.json", "model.safetensors", "metrics.jsonl", "checkpoint.safetensors"}
    assert not [name for name in names if name.startswith(".")]
    assert Run.open(out).metrics == metrics
    assert Run.open(out).record["training"]["loss"] == loss


def test_the_same_seed_gives_the_same_run(tmp_path):
    keys = ("train_mse", "test_mse", "test_psnr")
    first, again, other = (
        [[entry[key] for key in keys] for entry in run_training(tmp_path / name, seed=seed, noise=0.1)]
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first == again
    assert first != other


def test_noise_is_added_to_the_input_only(tmp_path):
    plain = run_training(tmp_path / "plain", epochs=1)
    noisy = run_training(tmp_path / "noisy", epochs=1, noise=0.5)
    assert noisy[0]["train_mse"] != plain[0]["train_mse"]
    assert noisy[0]["train_mse"] < 0.5**2  # an image with this noise as its target could not be met better


def test_interrupted_after_a_few_steps_it_resumes_to_the_same_end(tmp_path, monkeypatch):
    uninterrupted = run_training(tmp_path / "whole")
    out = tmp_path / "torn"
    original = torch.optim.AdamW.step
    steps = []

    def step_and_interrupt(self, *arguments, **keywords):
        steps.append(1)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", step_and_interrupt)
    with pytest.raises(
        Interrupted, match=r"Stopped in epoch 2 after step 1 of 3 and saved\. Go on with: train\(\.\.\., resume=True\)"
    ):
        run_training(out)
    assert len(Run.open(out).metrics) == 1
    resumed = train(
        model(seed=9), load_images(pictures()), out, TrainingOptions(**OPTIONS), resume=True, progress=False
    )
    assert len(resumed) == 3
    for entry, expected in zip(resumed, uninterrupted, strict=True):
        for key in ("train_mse", "test_mse"):
            assert entry[key] == pytest.approx(expected[key], abs=1e-9)
    weights = [Run.open(tmp_path / name).load_model().state_dict() for name in ("whole", "torn")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=1e-7)


def script(out, resume=False):
    return f"""
import sys
sys.path.insert(0, {TESTS!r})
from test_training import model, pictures
from halfstride.autoencoder import TrainingOptions, load_images, train
options = TrainingOptions(epochs=4, batch_size=4)
train(model(), load_images(pictures(200)), {str(out)!r}, options, resume={resume}, progress=False)
"""


def test_killed_without_warning_it_resumes_to_the_same_end(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script(tmp_path / "whole")], check=True, env=environment)
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", script(out)], env=environment)
    while not ((out / "metrics.jsonl").exists() and len(Run(out).metrics) >= 2) and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    subprocess.run([sys.executable, "-c", script(out, resume=True)], check=True, env=environment)
    whole, resumed = Run(tmp_path / "whole").metrics, Run(out).metrics
    assert len(resumed) == len(whole) == 4
    for entry, expected in zip(resumed, whole, strict=True):
        assert entry["test_mse"] == pytest.approx(expected["test_mse"], abs=1e-6)
        assert entry["train_mse"] == pytest.approx(expected["train_mse"], abs=1e-6)


def test_two_processes_give_the_curve_of_one(tmp_path):
    """50 images in batches of 16: the last step has 2 images, one for each process."""
    code = (
        f"import sys; sys.path.insert(0, {TESTS!r})\n"
        "from test_training import run_training\n"
        f"run_training({str(tmp_path / 'two')!r}, noise=0.1)\n"
    )
    file = tmp_path / "job.py"
    file.write_text(code)
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(file)],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    one = run_training(tmp_path / "one", noise=0.1)
    two = Run.open(tmp_path / "two").metrics
    assert len(two) == len(one)
    for entry, expected in zip(two, one, strict=True):
        for key in ("train_mse", "test_mse"):
            assert entry[key] == pytest.approx(expected[key], abs=1e-4)
        assert entry["test_psnr"] == pytest.approx(expected["test_psnr"], abs=1e-2)


def test_a_diverging_training_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(FloatingPointError, match=r"The loss is no longer finite\. .* smaller learning rate\."):
        run_training(out, learning_rate=1e30, clip=1e30)
    restored = model(seed=1)
    Run(out).load_checkpoint(restored, torch.optim.AdamW(restored.parameters()))
    assert all(value.isfinite().all() for value in restored.state_dict().values())


def test_nothing_is_overwritten_and_a_resume_must_match(tmp_path):
    out = tmp_path / "run"
    run_training(out, epochs=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match=r"`out` \(=.*run\) exists already: choose another name, or go on .* --resume"):
        run_training(out, epochs=1)
    with pytest.raises(ValueError, match=r"`options` .* are not those that .* was started with"):
        train(model(), load_images(pictures()), out, TrainingOptions(epochs=2), resume=True, progress=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(ValueError, match=r"`run` \(=.*nowhere\) is not a folder"):
        train(model(), load_images(pictures()), tmp_path / "nowhere", resume=True, progress=False)


def test_a_resume_needs_the_data_and_the_metrics_of_before(tmp_path):
    out = tmp_path / "run"
    run_training(out, epochs=1)
    options = TrainingOptions(**{**OPTIONS, "epochs": 1})
    with pytest.raises(ValueError, match=r"`images` are 16 to train and 6 to test, but .* was started with 40 and 12"):
        train(model(), load_images(pictures(30)), out, options, resume=True, progress=False)
    (out / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"metrics.jsonl tells of 0 epochs, but 1 are done"):
        train(model(), load_images(pictures()), out, options, resume=True, progress=False)


@pytest.mark.parametrize("learning_rate", [1e6, 1e30])
def test_of_a_run_that_diverges_the_last_good_state_is_kept(tmp_path, learning_rate):
    """Also where only what it does on other images says so."""
    out = tmp_path / "run"
    with pytest.raises(FloatingPointError, match="keeps the last good checkpoint"):
        run_training(out, learning_rate=learning_rate, epochs=6)
    assert all(math.isfinite(entry["test_mse"]) for entry in Run.open(out).metrics)
    images = torch.from_numpy(pictures(3)).unsqueeze(1) / 255
    assert Run.open(out).load_model()(images).isfinite().all()


def test_a_damaged_checkpoint_is_named(tmp_path):
    out = tmp_path / "run"
    run_training(out, epochs=1)
    options = TrainingOptions(**{**OPTIONS, "epochs": 1})
    checkpoint = out / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint.safetensors` cannot be read .*: start a new run\."):
        train(model(), load_images(pictures()), out, options, resume=True, progress=False)
    checkpoint.unlink()
    with pytest.raises(ValueError, match=r"checkpoint.safetensors` does not exist: this run cannot be resumed"):
        train(model(), load_images(pictures()), out, options, resume=True, progress=False)


def test_a_full_disk_leaves_the_former_files_whole(tmp_path):
    """A limit on file sizes makes every larger write fail as a full disk does."""
    out = tmp_path / "run"
    code = (
        f"import resource, signal, sys; sys.path.insert(0, {TESTS!r})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from test_training import run_training\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        f"try: run_training({str(out)!r})\n"
        "except OSError as error: print('OSError', error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "OSError" in result.stdout
    assert not list(out.glob(".*"))
    assert not (out / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("epochs", 0, r"`epochs` \(=0\) must be an int of at least 1\."),
        ("batch_size", -4, r"`batch_size` \(=-4\) must be an int of at least 1\."),
        ("learning_rate", 0.0, r"`learning_rate` \(=0\.0\) must be above 0\."),
        ("learning_rate", float("nan"), r"`learning_rate` \(=nan\) must be above 0\."),
        ("weight_decay", -1.0, r"`weight_decay` \(=-1\.0\) must be at least 0\."),
        ("noise", -0.1, r"`noise` \(=-0\.1\) must be at least 0\."),
        ("clip", 0.0, r"`clip` \(=0\.0\) must be above 0\."),
        ("loss", "huber", r'`loss` \(=\'huber\'\) must be one of "mse", "l1", "bce"\.'),
        ("precision", "fp16", r'`precision` \(=\'fp16\'\) must be one of "auto", "float32", "bfloat16"\.'),
        ("seed", -1, r"`seed` \(=-1\) must be an int from 0"),
        ("steps_per_epoch", 0, r"`steps_per_epoch` \(=0\) must be an int of at least 1\."),
    ],
)
def test_bad_options_are_named(option, value, text):
    with pytest.raises(ValueError, match=text):
        TrainingOptions(**{option: value})


def test_a_model_of_another_shape_is_named(tmp_path):
    other = ConvAutoencoder(12, 3, 4, widths=(4,))
    with pytest.raises(
        ValueError, match=r"`model` takes 3×12×12, but `images` are 1×9×11: build the model with image_size"
    ):
        train(other, load_images(pictures()), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_bfloat16_and_tensorboard(tmp_path):
    metrics = run_training(tmp_path / "run", precision="bfloat16", tensorboard=True, epochs=2)
    assert metrics[-1]["test_mse"] < metrics[0]["test_mse"]
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    # float32 afterwards in the same process: accelerate's state does not stick.
    run_training(tmp_path / "other", epochs=1)


def test_metrics_lines_are_json(tmp_path):
    run_training(tmp_path / "run", epochs=2)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
