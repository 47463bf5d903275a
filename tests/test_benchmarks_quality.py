"""The arithmetic of the quality benchmark: crops that do not overlap, scores, budgets, the table, and going on."""

import itertools
import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import photographs
from benchmarks.quality import __main__ as command
from benchmarks.quality import ours, peer
from benchmarks.quality.nets import build, outputs
from benchmarks.quality.report import markdown
from benchmarks.quality.rows import OURS, PEERS, Row, quick, rows
from benchmarks.quality.running import TrainingError, _spend
from benchmarks.quality.scores import baselines, scores, thumbnail_size
from halfstride import cli
from halfstride.autoencoder import Run


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_training_and_test_crops_come_from_different_columns():
    columns = np.broadcast_to(np.arange(0, 240, 3, dtype=np.uint8), (80, 80))
    left, right = photographs.regions(columns)
    train = photographs.draw_crops([left], 8, 300, seed=0)
    test = photographs.draw_crops([right], 8, 300, seed=1)
    assert train.max() < test.min()
    assert (train.min(), test.max()) == (0, 237)


def test_the_first_crops_do_not_depend_on_how_many_are_drawn():
    pictures = [noise(40, 50, 3), noise(30, 60, 3, seed=1)]
    crops = photographs.draw_crops(pictures, 24, 9, seed=3)
    assert crops.shape == (9, 24, 24, 3)
    assert np.array_equal(photographs.draw_crops(pictures, 24, 4, seed=3), crops[:4])
    assert not np.array_equal(photographs.draw_crops(pictures, 24, 9, seed=4), crops)


def test_crops_without_detail_are_left_out():
    half = noise(32, 64)
    half[:, :48] = 128
    crops = photographs.draw_crops([half, np.full_like(half, 7)], 8, 50, seed=0)
    assert all(len(np.unique(crop)) > 2 for crop in crops)
    with pytest.raises(ValueError, match=r"`pictures` \(=1 of them\) must have crops with detail"):
        photographs.draw_crops([np.zeros((32, 32), np.uint8)], 8, 1, seed=0)


def test_scores_of_what_is_known():
    images = noise(5, 8, 9, 3)
    perfect = scores(images / 255.0, images)
    assert perfect == pytest.approx({"mse": 0, "psnr": 100, "gradient": 1, "gradient_error": 0, "variance": 1})
    dark = images // 2
    off = scores(dark / 255 + 0.1, dark)
    assert off["mse"] == pytest.approx(0.01, rel=1e-5)
    assert off["psnr"] == pytest.approx(20, rel=1e-5)
    constant = scores(np.broadcast_to(images.mean(0) / 255, images.shape), images)
    assert constant["variance"] == pytest.approx(0, abs=1e-9)
    halved = scores(0.5 + (images / 255.0 - 0.5) / 2, images)
    assert [halved[name] for name in ("gradient", "gradient_error", "variance")] == pytest.approx([0.25] * 3)


def test_outputs_are_clipped_and_must_be_finite():
    images = np.full((2, 4, 4), 255, np.uint8)
    images[0, 0, 0] = 0
    assert scores(images / 255.0 * 3, images)["mse"] == 0
    with pytest.raises(ValueError, match="must be finite"):
        scores(np.full(images.shape, np.nan), images)
    with pytest.raises(ValueError, match=r"must have the shape of the images, \(2, 4, 4\)"):
        scores(np.zeros((2, 4, 5)), images)


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([1, 3]), st.integers(1, 5000))
def test_a_thumbnail_has_no_more_numbers_than_allowed(height, width, channels, numbers):
    rows_, columns = thumbnail_size((height, width, channels), numbers)
    assert 1 <= rows_ <= height
    assert 1 <= columns <= width
    assert rows_ * columns * channels <= max(numbers, channels)


def test_baselines_are_exact_where_numbers_suffice():
    data = {"train": noise(30, 4, 4), "test": noise(6, 4, 4, seed=1)}
    found = baselines(data, 16)
    assert {name: parts["test"]["numbers"] for name, parts in found.items()} == {"mean": 0, "thumbnail": 16, "pca": 16}
    assert found["pca"]["test"]["mse"] < 1e-10
    assert found["thumbnail"]["test"]["mse"] < 1e-10
    assert found["mean"]["test"]["mse"] > 0.05
    assert baselines({"train": data["train"][:5], "test": data["test"]}, 16)["pca"]["test"]["numbers"] == 4


@pytest.mark.parametrize(("shape", "numbers"), [((1, 28, 28), 32), ((3, 64, 64), 256), ((1, 48, 48), 72)])
@pytest.mark.parametrize("name", ["lecture", "keras-blog"])
def test_peers_have_the_numbers_they_are_given(name, shape, numbers):
    images = torch.rand(2, *shape)
    network = build(name, shape, numbers)
    assert network.reconstruct(images).shape == images.shape
    assert network.latent_numbers(images) == numbers


def test_a_peer_learns_within_its_budget_and_keeps_its_best_weights(monkeypatch):
    ticks = itertools.count()  # a hundredth of a second from one look at the clock to the next
    monkeypatch.setattr(peer.time, "process_time", lambda: next(ticks) / 100)
    torch.manual_seed(0)
    bright = torch.arange(40, dtype=torch.uint8).mul(6)[:, None, None, None].expand(40, 1, 8, 8)
    network = build("lecture", (1, 8, 8), 2)
    before = peer._error(network, bright)
    report = peer.train(network, bright, 1.0, 1e-3, seed=0, flips=True, checks=2)
    assert report["steps"] == 99  # and one for the validation between
    assert report["training_cpu_seconds"] == pytest.approx(1)
    assert peer._error(network, bright) < before / 2
    assert outputs(network, bright).shape == bright.shape


def test_the_rate_rises_and_falls_to_zero():
    rates = [peer.learning_rate(done / 100, 2.0) for done in range(101)]
    assert max(rates) == pytest.approx(2.0)
    assert rates.index(max(rates)) == 5
    assert rates[0] == pytest.approx(0.04)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert [peer.validation_size(images) for images in (60, 1040, 60000)] == [8, 104, 1000]


def test_rows_fit_into_three_hours_and_ten_minutes():
    for chosen, most in ((rows(), 165), (quick(), 7)):  # the rest is for starting, evaluating and PCA
        assert len({row.key for row in chosen}) == len(chosen)
        assert command._minutes(chosen) < most
        assert {row.contender for row in chosen} == {OURS, *PEERS}


def test_the_default_command_has_no_options(tmp_path):
    default = ours.command(Row("digits", OURS, 1, 0.5), "digits", tmp_path)
    assert default[1:] == [
        *["-m", "halfstride", "train", "digits", "--out"],
        str(tmp_path),
        *["--minutes", "0.5", "--seed", "1", "--no-detector"],
    ]
    fixed = next(row for row in rows() if row.data == "fashion-mnist")
    assert ours.command(fixed, "x.npz", tmp_path)[-4:] == ["--latent", "vector", "--latent-dim", "32"]


def test_the_command_takes_what_the_rows_ask_for_and_its_run_is_read(tmp_path):
    (options,) = {row.options for row in rows() if "--variational" in row.options}
    images = noise(12, 8, 8)
    np.savez(tmp_path / "sets.npz", train=images, test=images[:3])
    row = Row("noise", OURS, 0, 0.001, 16, options)
    run = tmp_path / "run"
    assert main(ours.command(row, str(tmp_path / "sets.npz"), run)) == 0
    trained = ours.read(run, {"test": images[:3], "elsewhere": images[:2]})
    assert trained.numbers == 16
    assert trained.parameters > 1000
    assert trained.config["variational"]
    assert 0 <= trained.active <= 16
    assert {part: output.shape for part, output in trained.outputs.items()} == {
        "test": (3, 8, 8),
        "elsewhere": (2, 8, 8),
    }
    expected = Run.open(run).load_model()(torch.from_numpy(images[:2])[:, None].float() / 255)
    assert trained.outputs["elsewhere"] == pytest.approx(expected[:, 0].detach().numpy(), abs=1e-6)
    assert main(ours.sample_command(run, tmp_path / "samples.png")) == 0
    assert (tmp_path / "samples.png").stat().st_size > 0


def main(command):
    """Run a halfstride command line in this process."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, command[3:])))
    return stopped.value.code or 0


def test_latents_are_active_where_their_means_vary(monkeypatch, tmp_path):
    class Model(torch.nn.Module):
        variational = True

        def encode(self, images):
            brightness = images.mean((1, 2, 3))
            return torch.stack([brightness, brightness * 0.05, 0 * brightness], 1)

        def forward(self, images):
            return images

    images = np.broadcast_to(np.arange(0, 250, 10, dtype=np.uint8)[:, None, None], (25, 4, 4)).copy()
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(Run, "load_model", lambda run: Model())
    assert ours.read(tmp_path, {"test": images}).active == 1
    monkeypatch.setattr(Model, "variational", False)
    trained = ours.read(tmp_path, {"test": images})
    assert trained.active is None
    assert trained.outputs["test"] == pytest.approx(images / 255, abs=1e-6)


def test_the_time_of_a_process_is_its_own(tmp_path):
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    used = _spend([sys.executable, "-c", busy], tmp_path / "log", threads=1)
    assert 0.3 <= used.cpu_seconds < 3
    with pytest.raises(TrainingError, match="exit status 3: before / the end"):
        _spend([sys.executable, "-c", "print('before\\nthe end'); raise SystemExit(3)"], tmp_path / "log", threads=1)


def test_finished_rows_are_kept_and_failed_ones_tried_again(tmp_path):
    path = tmp_path / "quality.json"
    good, bad = Row("digits", OURS, 0, 1), Row("digits", "lecture", 0, 1, 32)
    results = command.Results(path)
    results.add(good, {"test": {"mse": 0.004}, "numbers": 32})
    results.add(bad, {"failed": "no memory"})
    again = command.Results(path)
    assert (again.done(good), again.done(bad)) == (True, False)
    assert list(tmp_path.iterdir()) == [path]
    content = json.loads(path.read_text())
    content["circumstances"]["cores"] = 999
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="measured elsewhere .cores was 999"):
        command.Results(path)


def test_the_table_has_losses_and_what_was_missed(tmp_path):
    results = command.Results(tmp_path / "quality.json")
    values = {"psnr": 20.0, "gradient": 0.9, "gradient_error": 0.3, "variance": 0.8}
    spent = {"cpu_seconds": 118.0, "numbers": 32}
    data = {"train": noise(40, 28, 28), "test": noise(4, 28, 28)}
    for row, error in ((Row("digits", OURS, 0, 1, threads=2), 0.005), (Row("digits", "lecture", 0, 1, 32), 0.004)):
        results.add_baselines(row, 32, data)
        results.add(row, {**spent, "test": {"mse": error, **values}})
    results.add(Row("grass-96", OURS, 0, 2), {"failed": "exit status 1"})
    for row, error in ((Row("digits", OURS, 0, 1, 2, threads=2), 0.03), (Row("digits", "lecture", 0, 1, 2), 0.04)):
        results.add(row, {**spent, "numbers": 2, "test": {"mse": error, **values}})
    options = ("--variational", "1", "--latent-dim", "16")
    variational = {**spent, "numbers": 16, "active": 11, "test": {"mse": 0.02, **values}}
    results.add(Row("digits", OURS, 0, 1, 16, options), variational)
    page = markdown(results.content)
    assert "| digits, default, one minute: test MSE, mean of seeds | 0.005 | ≤ 0.0042 | ≤ 0.0036 | **missed** |" in page
    assert "| digits: MSE of the best peer's | 1.25 | ≤ 1 |  | **missed** |" in page
    assert "| digits, latent 2: MSE of the lecture net's | 0.75 | ≤ 1 |  | reached |" in page
    assert "| digits, variational, 16 numbers: active units | 11 | ≥ 12 |  | **missed** |" in page
    assert "| **halfstride** --variational 1 --latent-dim 16 | 16 (11 active) | 0 | 60 |" in page
    assert "| **halfstride** (default) | 32 | 0 | 120 | 118 | 0.00500 | 20.00 | 0.90 | 0.30 | 0.80 |" in page
    assert f"| {PEERS['lecture']} | 32 | 0 | 120 | 118 | 0.00400 |" in page
    assert "| thumbnail | 30 |" in page
    assert "- grass-96 halfstride seed 0 minutes 2: exit status 1" in page
