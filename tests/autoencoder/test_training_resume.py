"""A training that was stopped, killed or finished goes on: to the same end, with the same images, or for longer."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from halfstride.autoencoder import Run, TrainingOptions, load_images
from halfstride.autoencoder import training as module
from halfstride.autoencoder.progress import Interrupted
from small_training import OPTIONS, RANDOM, curve, pictures, small_model, small_training

TESTS = str(Path(__file__).parents[1])
KINDS = {
    "vector": ({"variational": True}, {**RANDOM, "shift": 1, "steps": 12}),
    "map": ({"latent": "map", "variational": True}, {**RANDOM, "crop": 7, "steps": 12}),
}


class Killed(BaseException):
    """Nothing in the code catches this, so that what is on the disk is what a kill would leave."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The curves and weights of trainings that nothing interrupts."""
    runs = {}
    for kind, (arguments, options) in KINDS.items():
        out = tmp_path_factory.mktemp("whole") / kind
        model = small_model(**arguments)
        runs[kind] = curve(small_training(out, model, **options)), model.state_dict()
    return runs


def assert_same_end(kind, whole, out):
    """Resume the run in `out` by another model, and compare."""
    arguments, _ = KINDS[kind]
    model = small_model(**arguments, seed=9)
    expected, weights = whole[kind]
    found = curve(small_training(out, model, resume=True))
    assert len(found) == len(expected)
    for entry, other in zip(found, expected, strict=True):
        assert entry == pytest.approx(other, rel=1e-9)
    for state in (model.state_dict(), Run.open(out).load_model().state_dict()):
        for name, value in state.items():
            assert torch.equal(value, weights[name]), name


def killing(monkeypatch, owner, name, call, after=False):
    """Let the `call`-th call of a function end the process, or so it seems."""
    original, calls = getattr(owner, name), []

    def counted(*arguments, **keywords):
        calls.append(1)
        if len(calls) == call and not after:
            raise Killed
        result = original(*arguments, **keywords)
        if len(calls) == call:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize(("kind", "step"), [("vector", 2), ("map", 11), ("vector", 11)])
def test_interrupted_it_resumes_to_the_same_end(tmp_path, monkeypatch, whole, kind, step):
    arguments, options = KINDS[kind]
    original, steps = torch.optim.AdamW.step, []

    def step_and_interrupt(self, *positional, **keywords):
        steps.append(1)
        if len(steps) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *positional, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", step_and_interrupt)
    with pytest.raises(Interrupted, match=rf"Stopped after step {step} of 12 and saved\. Go on with: train"):
        small_training(tmp_path / "run", small_model(**arguments), **options)
    monkeypatch.undo()
    assert_same_end(kind, whole, tmp_path / "run")


@pytest.mark.parametrize(
    ("kind", "owner", "name", "call", "after"),
    [
        ("vector", torch.optim.AdamW, "step", 1, False),  # before anything was learned
        ("map", torch.optim.AdamW, "step", 9, True),
        ("map", Run, "write_metrics", 5, True),  # metrics tell of a scoring that no checkpoint knows
        ("map", Run, "save_model", 3, True),  # a best model is there that no checkpoint knows
        ("map", Run, "save_checkpoint", 8, False),
        ("vector", Run, "save_checkpoint", 13, True),  # at the very end
    ],
)
def test_killed_at_any_point_it_resumes_to_the_same_end(tmp_path, monkeypatch, whole, kind, owner, name, call, after):
    arguments, options = KINDS[kind]
    killing(monkeypatch, owner, name, call, after)
    with pytest.raises(Killed):
        small_training(tmp_path / "run", small_model(**arguments), **options)
    monkeypatch.undo()
    assert_same_end(kind, whole, tmp_path / "run")


def test_checkpoints_between_two_scorings_are_of_one_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SCORINGS", 4)
    expected = curve(small_training(tmp_path / "whole", **{**RANDOM, "steps": 12}))
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with monkeypatch.context() as patch:
        killing(patch, torch.optim.AdamW, "step", 9)
        with pytest.raises(Killed):
            small_training(tmp_path / "run", **{**RANDOM, "steps": 12})
    assert len(Run.open(tmp_path / "run").metrics) == 2
    model = small_model(seed=5)
    position = Run.open(tmp_path / "run").load_checkpoint(model, torch.optim.AdamW(model.parameters()))
    assert position["step"] in (7, 8)
    found = curve(small_training(tmp_path / "run", model, resume=True))
    for entry, other in zip(found, expected, strict=True):
        assert entry == pytest.approx(other, rel=1e-9)


def test_killed_for_real_it_resumes_to_the_same_end(tmp_path):
    out = tmp_path / "run"
    code = (
        f"import sys; sys.path.insert(0, {TESTS!r})\n"
        "from small_training import small_training\n"
        f"small_training({str(out)!r}, steps=100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not ((out / "metrics.jsonl").exists() and len(Run(out).metrics) >= 2) and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    resumed = curve(small_training(out, small_model(seed=3), resume=True))
    expected = curve(small_training(tmp_path / "whole", steps=100))
    assert len(resumed) == 20
    for entry, other in zip(resumed, expected, strict=True):
        assert entry == pytest.approx(other, rel=1e-4)  # threads may be more here than there


def test_a_finished_run_can_be_given_more(tmp_path, monkeypatch):
    first = small_training(tmp_path / "run", **RANDOM)
    assert small_training(tmp_path / "run", seed=0, resume=True, **{**RANDOM, "steps": None}) == first
    shutil.copytree(tmp_path / "run", tmp_path / "torn")
    more = small_training(tmp_path / "run", small_model(seed=4), resume=True, steps=10)
    assert more[:20] == first
    assert [entry["step"] for entry in more[20:]] == list(range(25, 35))
    assert Run.open(tmp_path / "run").stages == [24, 10]
    assert Run.open(tmp_path / "run").record["length"] == {"steps": 10}

    killing(monkeypatch, torch.optim.AdamW, "step", 4)  # also this second training can be killed
    with pytest.raises(Killed):
        small_training(tmp_path / "torn", small_model(seed=5), resume=True, steps=10)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"`steps` \(=7\) cannot be added yet: .* stands at step 27 of 34; resume it"):
        small_training(tmp_path / "torn", resume=True, steps=7)
    resumed = small_training(tmp_path / "torn", small_model(seed=6), resume=True, steps=10)
    for entry, other in zip(curve(resumed), curve(more), strict=True):
        assert entry == pytest.approx(other, rel=1e-9)


def test_minutes_can_be_added_too(tmp_path):
    first = small_training(tmp_path / "run", **RANDOM)
    more = small_training(tmp_path / "run", small_model(seed=4), resume=True, minutes=1e-6)
    assert Run.open(tmp_path / "run").stages == [24, 1]
    assert more[:-1] == first
    assert more[-1]["step"] == 25


def test_equal_options_are_accepted_and_others_named(tmp_path):
    first = small_training(tmp_path / "run", **RANDOM)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.name != "run.json"}
    same = {name: value for name, value in RANDOM.items() if name != "steps"}
    assert small_training(tmp_path / "run", resume=True, **same) == first
    for name, value, known in (
        ("learning_rate", 0.1, "0.003"),
        ("batch_size", 7, "8"),
        ("loss", "l1", "mse"),
        ("augment", "none", "flip-rotate"),
        ("seed", 3, "0"),
        ("crop", 5, "0"),
    ):
        text = rf"`{name}` \(={value}\) cannot change in a run that is resumed, where it is {known}: leave it out, or"
        with pytest.raises(ValueError, match=text):
            small_training(tmp_path / "run", resume=True, **{name: value})
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.name != "run.json"}
    assert before == after
    with pytest.raises(ValueError, match=r"`run` \(=.*nowhere\) is not a folder"):
        small_training(tmp_path / "nowhere", resume=True)


def write(folder, count, shape=(9, 11)):
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures(count, shape=shape)):
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    return load_images(folder)


def test_moved_images_are_accepted_and_changed_ones_named(tmp_path):
    images = write(tmp_path / "images", 40)
    first = small_training(tmp_path / "run", None, images)
    (tmp_path / "images").rename(tmp_path / "moved")
    moved = load_images(tmp_path / "moved")
    assert small_training(tmp_path / "run", None, moved, resume=True) == first
    assert Run.open(tmp_path / "run").record["data"]["source"] == str(tmp_path / "moved")

    Image.fromarray(pictures(1, seed=7)[0]).save(tmp_path / "moved" / "added.png")
    with pytest.raises(ValueError, match=r"`images` are not those that .* was started with: new or .*: 1"):
        small_training(tmp_path / "run", None, load_images(tmp_path / "moved"), resume=True)
    (tmp_path / "moved" / "added.png").unlink()
    (tmp_path / "moved" / "07.png").rename(tmp_path / "moved" / "seven.png")
    with pytest.raises(ValueError, match=r"new or .*seven\.png.*; gone or .*07\.png.*\. Bring the data back, or start"):
        small_training(tmp_path / "run", None, load_images(tmp_path / "moved"), resume=True)
    (tmp_path / "moved" / "seven.png").unlink()
    with pytest.raises(ValueError, match=r"gone or for another part: .*07\.png"):
        small_training(tmp_path / "run", None, load_images(tmp_path / "moved"), resume=True)


def test_images_of_another_size_are_named(tmp_path):
    images = write(tmp_path / "images", 20)
    small_training(tmp_path / "run", small_model("map"), images, steps=2)
    smaller = load_images(tmp_path / "images", size=8)
    with pytest.raises(ValueError, match=r"`size` \(=\[8, 8\]\) of the images cannot change .* where it is \[9, 11\]"):
        small_training(tmp_path / "run", small_model("map"), smaller, resume=True)


def test_a_damaged_run_is_named(tmp_path):
    out = tmp_path / "run"
    small_training(out, steps=2)
    checkpoint = out / "checkpoint.safetensors"
    data = checkpoint.read_bytes()
    for damaged in (data[:-100], data[:100], b"", data.replace(b"best_step", b"other_one")):
        checkpoint.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cannot be read \(.*\): start a new run\.|written by another version"):
            small_training(out, resume=True)
    checkpoint.write_bytes(data)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors` cannot be read .*: start a new run\."):
        small_training(out, small_model(blocks=2), resume=True)
    frozen = small_model()
    frozen.encoder[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"cannot be read \(.*\): start a new run\."):
        small_training(out, frozen, resume=True)
    checkpoint.unlink()
    with pytest.raises(ValueError, match=r"checkpoint.safetensors` does not exist: this run cannot be resumed"):
        small_training(out, resume=True)


def test_options_of_the_run_are_those_that_were_chosen(tmp_path):
    small_training(tmp_path / "run", augment=None, learning_rate=None)
    recorded = TrainingOptions.from_record(Run.open(tmp_path / "run").record["training"])
    assert (recorded.augment, recorded.learning_rate, recorded.batch_size) == ("none", 1e-3, OPTIONS["batch_size"])
    assert recorded.length == {}
