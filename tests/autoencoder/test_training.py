"""Training: it learns, it is repeatable, its length is what was asked for, and the best model is kept."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from halfstride.autoencoder import ConvAutoencoder, ImageOptions, Run, load_images, scores
from halfstride.autoencoder import training as module
from halfstride.autoencoder.progress import Interrupted
from small_training import OPTIONS, RANDOM, curve, pictures, small_model, small_training

TESTS = str(Path(__file__).parents[1])


@pytest.mark.parametrize("latent", ["vector", "map"])
@pytest.mark.parametrize("loss", ["mse", "l1", "bce", "sharp"])
def test_it_learns_and_writes_a_run(tmp_path, loss, latent):
    out = tmp_path / "run"
    model = small_model(latent, linear=False)
    metrics = small_training(out, model, loss=loss, steps=40, learning_rate=1e-2)
    assert metrics[-1]["test_mse"] < 0.8 * metrics[0]["test_mse"]
    assert len(metrics) == 20
    assert [entry["step"] for entry in metrics] == list(range(2, 41, 2))
    assert metrics[-1]["epoch"] == 8  # of 40 images in batches of 8
    assert metrics[-1]["test_ssim"] is None  # 9 pixels are fewer than SSIM's window
    names = {path.name for path in out.iterdir()}
    assert names >= {"run.json", "images.txt", "config.json", "model.safetensors", "metrics.jsonl", "README.md"}
    assert not [name for name in names if name.startswith(".")]
    assert Run.open(out).metrics == metrics
    record = Run.open(out).record
    assert record["training"]["loss"] == loss
    assert record["stages"] == [40]
    assert ImageOptions.from_record(record["data"]).size == (9, 11)
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()][-1] == 40
    assert not model.training


def test_with_a_linear_path_it_starts_as_good_as_pca_and_gets_better(tmp_path):
    model = small_model("map", downscale=4)
    images = load_images(pictures())
    model.initialise(images.train.images)
    pca = scores(model, images.test.batches(16)).mse
    metrics = small_training(tmp_path / "run", small_model("map", downscale=4), images, steps=40)
    assert metrics[0]["test_mse"] < 1.3 * pca
    assert metrics[-1]["test_mse"] < 0.9 * pca


@pytest.mark.parametrize("variational", [False, True])
def test_the_same_seed_gives_the_same_run_and_leaves_random_state_alone(tmp_path, variational):
    def run(name, seed):
        model = small_model(variational=variational)
        before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        metrics = small_training(tmp_path / name, model, seed=seed, **{**RANDOM, "shift": 1, "steps": 8})
        assert torch.equal(before[0], torch.get_rng_state())
        assert (before[1][1] == np.random.get_state()[1]).all()  # noqa: NPY002
        assert before[1][2:] == np.random.get_state()[2:]  # noqa: NPY002
        return curve(metrics)

    first = run("first", 0)
    assert run("again", 0) == first
    assert run("other", 1) != first


@pytest.mark.parametrize("corruption", ["gaussian:0.5", "poisson:2", "jpeg:5", "blur:2,mask:0.5"])
def test_corruption_is_of_the_input_only(tmp_path, corruption):
    metrics = small_training(tmp_path / "run", corruption=corruption, steps=8)
    plain = small_training(tmp_path / "plain", steps=8)
    assert metrics[-1]["test_mse"] != plain[-1]["test_mse"]
    assert metrics[-1]["train_mse"] < 0.1  # noise of 0.5 as the target could not be met better than 0.2


def test_pairs_are_learned(tmp_path):
    for number, picture in enumerate(pictures(50)):
        for folder, pixels in (("noisy", picture), ("clean", 255 - picture)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    images = load_images(tmp_path / "noisy", clean=tmp_path / "clean")
    model = small_model(linear=False)
    metrics = small_training(tmp_path / "run", model, images, steps=120)
    assert metrics[-1]["test_mse"] < 0.02
    outputs = model(torch.from_numpy(pictures(8, seed=1))[:, None] / 255)
    assert outputs.mean() > 0.6
    again = small_training(tmp_path / "run", small_model(linear=False), images, resume=True)
    assert again == metrics
    with pytest.raises(ValueError, match=r"`clean` \(=False\) of the images cannot change in a run .* where it is"):
        small_training(tmp_path / "run", small_model(linear=False), load_images(tmp_path / "noisy"), resume=True)


# Length -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [1, 20, 39])
def test_twenty_scorings_or_one_per_step(tmp_path, steps):
    metrics = small_training(tmp_path / "run", steps=steps)
    assert len(metrics) == min(steps, 20)
    assert metrics[-1]["step"] == steps
    distances = np.diff([0] + [entry["step"] for entry in metrics])
    assert distances.max() - distances.min() <= 1


def test_length_in_epochs(tmp_path):
    metrics = small_training(tmp_path / "run", steps=None, epochs=3)
    assert metrics[-1]["step"] == 15
    assert metrics[-1]["epoch"] == 3


def test_length_in_minutes_is_a_number_of_steps_that_repeats_the_run(tmp_path, monkeypatch):
    now = [0.0]
    step = module._Training._step

    def slow_step(self, *arguments):
        now[0] += 0.1
        return step(self, *arguments)

    monkeypatch.setattr(module._Training, "_step", slow_step)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    random = {**RANDOM, "steps": None}
    timed = small_training(tmp_path / "timed", small_model(variational=True), minutes=0.05, **random)
    (steps,) = Run.open(tmp_path / "timed").stages
    assert steps in (29, 30)  # 3 seconds of 0.1, rounded
    monkeypatch.undo()
    repeated = small_training(tmp_path / "repeated", small_model(variational=True), **{**random, "steps": steps})
    assert curve(timed) == curve(repeated)
    record = Run.open(tmp_path / "timed").record
    assert record["length"] == {"minutes": 0.05}
    again = small_training(tmp_path / "timed", small_model(variational=True), resume=True)
    assert curve(again) == curve(timed)


def test_a_slow_scoring_takes_at_most_half_of_a_length_in_minutes(tmp_path, monkeypatch):
    now = [0.0]
    step, score = module._Training._step, module.Validation.score

    def slow_step(self, *arguments):
        now[0] += 0.1
        return step(self, *arguments)

    def slow_score(self):
        now[0] += 3.0
        return score(self)

    monkeypatch.setattr(module._Training, "_step", slow_step)
    monkeypatch.setattr(module.Validation, "score", slow_score)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    small_training(tmp_path / "run", small_model(), steps=None, minutes=0.05)
    assert Run.open(tmp_path / "run").stages[0] in (14, 15)  # half of 3 seconds


def test_a_length_in_minutes_follows_the_speed_of_its_steps(tmp_path, monkeypatch):
    now, taken = [0.0], []
    step = module._Training._step

    def slow_at_first(self, *arguments):
        taken.append(1.0 if len(taken) < 12 else 0.1)  # where another program had the machine
        now[0] += taken[-1]
        return step(self, *arguments)

    monkeypatch.setattr(module._Training, "_step", slow_at_first)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    metrics = small_training(tmp_path / "run", small_model(), steps=None, minutes=0.25)
    run = Run.open(tmp_path / "run")
    assert run.stages == [metrics[-1]["step"]]
    trained = sum(entry["seconds"] for entry in metrics)
    assert 13.5 <= trained <= 16.5  # of 15 seconds; by the first steps alone it would have been 15 steps
    assert run.stages[0] > 40
    assert metrics[-1]["learning_rate"] < 1e-4  # the schedule still ends at zero


def test_ctrl_c_while_steps_are_timed_leaves_no_folder_and_no_trace_in_the_model(tmp_path, monkeypatch):
    step = module._Training._step

    def step_and_interrupt(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(module._Training, "_step", step_and_interrupt)
    model = small_model()
    with pytest.raises(Interrupted, match=r"Stopped before the first step: nothing was written\."):
        small_training(tmp_path / "run", model, steps=None, minutes=1)
    assert not (tmp_path / "run").exists()
    started = small_model()
    started.initialise(load_images(pictures()).train.sample(1000).images)
    for name, value in started.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_the_learning_rate_rises_and_falls_in_each_training(tmp_path):
    small_training(tmp_path / "run", steps=20)
    metrics = small_training(tmp_path / "run", resume=True, steps=40)
    rates = [entry["learning_rate"] for entry in metrics]
    assert np.argmax(rates[:20]) == 1
    assert np.argmax(rates[20:]) == 1
    assert rates[1] == OPTIONS["learning_rate"]
    assert max(rates[19], rates[39]) < 0.02 * OPTIONS["learning_rate"]


# The model that is kept -------------------------------------------------------------------------------------------
def test_the_best_model_on_the_validation_images_is_kept(tmp_path):
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (60, 9, 11), dtype=np.uint8)
    images = load_images(noise)
    model = small_model(linear=False)
    metrics = small_training(tmp_path / "run", model, images, steps=200, learning_rate=1e-2, augment="none", shift=0)
    best = min(metrics, key=lambda entry: entry["validation_loss"])
    assert best["step"] < metrics[-1]["step"]
    assert metrics[-1]["train_mse"] < best["train_mse"]
    for kept in (model, Run.open(tmp_path / "run").load_model()):
        found = scores(kept, images.validation.half(0).batches(16))
        assert found.mse == pytest.approx(best["validation_mse"], rel=1e-5)
        assert scores(kept, images.test.batches(16)).mse == pytest.approx(best["test_mse"], rel=1e-5)


def test_fine_tuning_does_not_start_anew(tmp_path):
    first = small_training(tmp_path / "first", steps=60)
    model = Run.open(tmp_path / "first").load_model()
    metrics = small_training(tmp_path / "second", model, steps=10, learning_rate=1e-5)
    assert metrics[0]["test_mse"] == pytest.approx(first[-1]["test_mse"], rel=0.05)


def test_frozen_parameters_are_left_alone(tmp_path):
    model = small_model("map")
    frozen = [model.encoder, model.to_latent, model.linear_encoder]
    for part in frozen:
        part.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    metrics = small_training(tmp_path / "run", model, steps=40)
    after = model.state_dict()
    same = {name for name, value in before.items() if torch.equal(after[name], value)}
    assert same == {name for name in before if name.startswith(("encoder", "to_latent", "linear_encoder"))}
    assert metrics[-1]["train_mse"] < metrics[0]["train_mse"]


# Small and odd data -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("latent", ["vector", "map"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_images_are_enough(tmp_path, count, latent):
    metrics = small_training(tmp_path / "run", small_model(latent), load_images(pictures(count)), steps=30)
    assert all(math.isfinite(entry["test_mse"]) for entry in metrics)
    assert metrics[-1]["epoch"] == 30


@pytest.mark.parametrize("loss", ["mse", "bce", "sharp"])
@pytest.mark.parametrize("latent", ["vector", "map"])
@pytest.mark.parametrize("value", [0, 100])
def test_constant_images_train_without_nan(tmp_path, latent, loss, value):
    images = load_images(np.full((20, 9, 11), value, np.uint8))
    metrics = small_training(tmp_path / "run", small_model(latent), images, steps=10, loss=loss, jitter=0)
    assert metrics[-1]["test_mse"] < 1e-3


def test_images_larger_than_the_crop_are_trained_in_crops(tmp_path):
    images = load_images(pictures(30, shape=(70, 66)))
    metrics = small_training(tmp_path / "run", small_model("map", (70, 66)), images, steps=3, crop=16)
    assert Run.open(tmp_path / "run").record["training"]["crop"] == 16
    assert metrics[-1]["test_ssim"] is not None


# What goes wrong --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("learning_rate", [1e6, 1e30])
def test_a_diverging_training_stops_and_keeps_the_last_good_checkpoint(tmp_path, learning_rate):
    out = tmp_path / "run"
    with pytest.raises(FloatingPointError, match=r"The loss is no longer finite\. .* smaller learning rate\."):
        small_training(out, learning_rate=learning_rate, clip=1e30, steps=60)
    restored = small_model(seed=1)
    Run(out).load_checkpoint(restored, torch.optim.AdamW(restored.parameters()))
    assert all(value.isfinite().all() for value in restored.state_dict().values())
    assert all(math.isfinite(entry["test_mse"]) for entry in Run.open(out).metrics)
    images = torch.from_numpy(pictures(3)).unsqueeze(1) / 255
    assert Run.open(out).load_model()(images).isfinite().all()


def test_a_full_disk_leaves_no_half_files(tmp_path):
    code = (
        f"import resource, signal, sys; sys.path.insert(0, {TESTS!r})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from small_training import small_training\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        f"try: small_training({str(tmp_path / 'run')!r})\n"
        "except OSError as error: print('OSError', error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "OSError" in result.stdout
    assert not list((tmp_path / "run").glob(".*"))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_disk_that_fills_up_leaves_the_former_files_whole(tmp_path, monkeypatch):
    import safetensors.torch
    from safetensors import SafetensorError

    out = tmp_path / "run"
    save_file, written = safetensors.torch.save_file, []

    def fill_up(tensors, path, **keywords):
        written.append(path)
        if len(written) > 5:
            Path(path).write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        return save_file(tensors, path, **keywords)

    monkeypatch.setattr(safetensors.torch, "save_file", fill_up)
    with pytest.raises(OSError, match="No space left on device"):
        small_training(out)
    monkeypatch.undo()
    assert not list(out.glob(".*"))
    assert Run.open(out).load_model()(torch.rand(1, 1, 9, 11)).isfinite().all()
    assert curve(small_training(out, resume=True)) == curve(small_training(tmp_path / "whole"))


@pytest.mark.parametrize(
    "text", ["CUDA error: out of memory", "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."]
)
def test_exhausted_memory_is_one_line_and_leaves_the_folder_free(tmp_path, monkeypatch, text):
    def exhausted(self, *arguments, **keywords):
        raise RuntimeError(f"{text}\nmore lines")

    monkeypatch.setattr(module.Objective, "forward", exhausted)
    with pytest.raises(ValueError, match=r"`batch_size` \(=8\) does not fit into .*memory: use a batch size of 4\.$"):
        small_training(tmp_path / "run")
    monkeypatch.undo()
    assert not (tmp_path / "run").exists()
    small_training(tmp_path / "run", batch_size=4, steps=2)


def test_a_model_of_another_shape_is_named(tmp_path):
    other = ConvAutoencoder(12, 3, 4, width=4)
    with pytest.raises(ValueError, match=r"`model` takes 3×12×12, but `images` are 1×9×11: build the model with"):
        small_training(tmp_path / "run", other)
    assert not (tmp_path / "run").exists()


def test_nothing_is_overwritten_and_a_refusal_leaves_the_model_as_it_was(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"`out` \(=.*run\) exists already: choose another name, or go on .* --resume"):
        small_training(tmp_path / "run", model, steps=None, minutes=1)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]
    assert model.untrained
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bfloat16_and_tensorboard(tmp_path):
    metrics = small_training(tmp_path / "run", small_model(linear=False), precision="bfloat16", tensorboard=True)
    assert metrics[-1]["train_mse"] < metrics[0]["train_mse"]
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    assert all(value.dtype == torch.float32 for value in Run.open(tmp_path / "run").load_model().state_dict().values())
    # float32 afterwards in the same process: accelerate's state does not stick.
    assert curve(small_training(tmp_path / "a", steps=2)) != curve(metrics)[:2]
