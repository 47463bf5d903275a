"""Evaluation: models that deserve each verdict get it, and every figure is what its definition says."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from halfstride.autoencoder import ConvAutoencoder, Evaluation, evaluate, scores, scoring
from halfstride.autoencoder.baselines import PCA, Thumbnail
from halfstride.autoencoder.images import to_float
from halfstride.autoencoder.images.splits import MemorySplit, Split

SIZE = 16


def blobs(count, seed=0):
    """A round blob at a place that two numbers tell: N×1×16×16."""
    places = torch.rand((count, 2), generator=torch.Generator().manual_seed(seed)) * 8 + 4
    return (255 * render(places)).round().to(torch.uint8)


def render(places):
    ticks = torch.arange(SIZE).float()
    rows = (ticks[:, None] - places[:, 0, None, None]) ** 2
    columns = (ticks[None] - places[:, 1, None, None]) ** 2
    return (-(rows + columns) / 6).exp()[:, None]


def waves(count, seed=0, factors=4):
    """Weighted sums of a few patterns: N×1×16×16."""
    patterns = torch.linalg.qr(torch.randn((SIZE**2, factors), generator=torch.Generator().manual_seed(9))).Q
    weights = torch.rand((count, factors), generator=torch.Generator().manual_seed(seed)) - 0.5
    return (127.5 + 500 * weights @ patterns.T).clamp(0, 255).round().to(torch.uint8).reshape(-1, 1, SIZE, SIZE)


def collection(make=blobs, count=200, labels=False, **splits):
    parts = {"train": make(count, seed=0), "validation": make(40, seed=1), "test": make(60, seed=2)} | splits
    made = {
        name: part
        if part is None or isinstance(part, Split)
        else MemorySplit(part, torch.arange(len(part)) % 2 if labels else None)
        for name, part in parts.items()
    }
    shape = tuple(made["test"].images.shape[-3:])
    return SimpleNamespace(name="blobs", shape=shape, classes=("even", "odd") if labels else None, **made)


class Model(nn.Module):
    """An autoencoder of functions."""

    def __init__(self, encode, decode):
        super().__init__()
        self.encode, self.decode = encode, decode

    def forward(self, images):
        return self.decode(self.encode(images))


def knowing():
    """Finds the blob's centre and draws it anew."""

    def encode(images):
        mass = images[:, 0] / images.sum((1, 2, 3))[:, None, None]
        ticks = torch.arange(SIZE).float()
        return torch.stack([(mass.sum(2) * ticks).sum(1), (mass.sum(1) * ticks).sum(1)], 1)

    return Model(encode, render)


def linear(mean, axes):
    return Model(
        lambda images: (images.flatten(1) - mean) @ axes.T,
        lambda codes: (codes @ axes + mean).clamp(0, 1).reshape(-1, 1, SIZE, SIZE),
    )


def of_pca(images, numbers):
    fitted = PCA(images.train.images, numbers)
    return linear(fitted.mean, fitted.axes[:numbers])


def of_random_axes(images, numbers):
    axes = torch.linalg.qr(torch.randn(SIZE**2, numbers)).Q.T
    return linear(PCA(images.train.images, 1).mean, axes)


def remembering(images):
    """Gives back the most similar training image."""
    known = to_float(images.train.images)

    def encode(batch):
        return torch.cdist(batch.flatten(1), known.flatten(1)).argmin(1, keepdim=True).float()

    return Model(encode, lambda codes: known[codes[:, 0].long()])


def grey():
    return Model(
        lambda images: 0 * images.flatten(1)[:, :3], lambda codes: codes.new_full((len(codes), 1, 16, 16), 0.2)
    )


def trained(images, steps, learning_rate=2e-3):
    """A small net after some steps of training, and its curve."""
    model = ConvAutoencoder(SIZE, latent_dim=2, width=16)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    metrics = []
    for step in range(1, steps + 1):
        batch = to_float(images.train.images[torch.randint(0, len(images.train), (32,))])
        loss = (model(batch) - batch).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % (steps // 10) == 0:
            errors = (scores(model, part.batches(100)).mse for part in (images.train, images.validation))
            metrics.append(dict(zip(("step", "train_mse", "validation_mse"), (step, *errors), strict=True)))
    return model, metrics


def flat(steps=1000):
    return [{"step": step, "train_mse": 0.01, "validation_mse": 0.01} for step in range(100, steps + 100, 100)]


# Verdicts ---------------------------------------------------------------------------------------------------------
def test_a_good_model():
    evaluation = evaluate(knowing(), collection(), metrics=flat())
    assert evaluation.verdict.kind == "good"
    assert "dB better than PCA" in evaluation.verdict.sentence
    assert evaluation.used == evaluation.numbers == 2
    assert evaluation.compression == SIZE**2 / 2
    assert evaluation.test.mse < 1e-4


def test_constant_data():
    images = collection(lambda count, seed: blobs(1).expand(count, -1, -1, -1))
    evaluation = evaluate(knowing(), images)
    assert evaluation.verdict.kind == "constant"
    assert evaluation.used == 0


def test_a_collapsed_model():
    evaluation = evaluate(grey(), collection(), metrics=flat())
    assert evaluation.verdict.kind == "collapsed"
    assert evaluation.used == 0
    assert evaluation.output_variance == pytest.approx(0, abs=1e-12)
    assert evaluation.output_range == pytest.approx((0.2, 0.2))
    mean = PCA(blobs(200), 1).mean.reshape(1, 1, SIZE, SIZE)
    best = Model(
        lambda images: images.flatten(1)[:, :3], lambda codes: mean + 1e-4 * codes.mean(1)[:, None, None, None]
    )
    assert evaluate(best, collection(), metrics=flat()).verdict.kind == "collapsed"


def test_an_undertrained_model():
    images = collection()
    model, metrics = trained(images, 40)
    evaluation = evaluate(model, images, metrics=metrics)
    assert evaluation.verdict.kind == "undertrained"
    assert "--resume --steps 40." in evaluation.verdict.sentence


def test_a_memorising_model():
    images = collection(count=30)
    evaluation = evaluate(remembering(images), images, metrics=flat())
    assert evaluation.train.mse == 0
    assert evaluation.verdict.kind == "memorising"


def test_a_latent_that_is_too_small():
    images = collection(waves)
    evaluation = evaluate(of_pca(images, 2), images, metrics=flat())
    assert evaluation.verdict.kind == "latent too small"
    assert evaluation.doubled_pca < 1e-4
    assert evaluate(of_pca(images, 4), images, metrics=flat()).verdict.kind != "latent too small"


def test_models_that_are_worse_than_a_baseline():
    images = collection(lambda count, seed: waves(count, seed, factors=60))
    assert evaluate(of_random_axes(images, 40), images, metrics=flat()).verdict.kind == "worse than PCA"
    # Of few images without a common layout PCA learns little, and a thumbnail needs no learning.
    images = collection(coarse, count=20)
    small = evaluate(of_random_axes(images, 25), images, metrics=flat())
    assert small.verdict.kind == "worse than thumbnail"
    assert "--latent map" in small.verdict.sentence


def coarse(count, seed, size=SIZE):
    """Blurred noise."""
    values = torch.rand((count, 1, 5, 5), generator=torch.Generator().manual_seed(seed))
    return (255 * nn.functional.interpolate(values, size, mode="bicubic").clamp(0, 1)).round().to(torch.uint8)


def test_a_model_that_is_worse_than_image_files_is_told_so():
    images = collection(lambda count, seed: (coarse(count, seed, 64) > 127).to(torch.uint8) * 255)
    better = Thumbnail(images.train.images, 900)
    model = grey()
    model.encode = lambda batch: batch.flatten(1)[:, :400]
    model.forward = better.reconstruct
    evaluation = evaluate(model, images, metrics=flat())
    assert [row.name for row in evaluation.rows[1:]] == ["mean image", "thumbnail", "PCA", "JPEG", "WebP"]
    assert evaluation.row("WebP").bytes <= 400
    assert evaluation.verdict.kind == "good"
    assert "dB worse than WebP files of as many bytes" in evaluation.verdict.sentence


# Figures ----------------------------------------------------------------------------------------------------------
def test_errors_are_those_of_their_definitions():
    images = collection(labels=True)
    model = of_pca(images, 3)
    evaluation = evaluate(model, images)
    for split, found in (
        (images.train, evaluation.train),
        (images.validation, evaluation.validation),
        (images.test, evaluation.test),
    ):
        assert found == pytest.approx(scores(model, split.batches(7)), rel=1e-5)
    targets = to_float(images.test.images)
    outputs = model(targets)
    assert evaluation.output_variance == pytest.approx(float(outputs.var(0, correction=0).mean()), rel=1e-4)
    assert evaluation.data_variance == pytest.approx(float(targets.var(0, correction=0).mean()), rel=1e-4)
    down, across = (targets.diff(dim=axis).square().mean() for axis in (2, 3))
    assert evaluation.gradient_energy == pytest.approx(float(down + across) / 2, rel=1e-4)
    model_row, pca_row = evaluation.row("this model"), evaluation.row("PCA")
    for ours, theirs in zip(model_row[1:4], pca_row[1:4], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)  # it is the PCA
    assert evaluation.row("nothing") is None


def test_nearest_neighbours_find_the_classes_that_a_code_tells():
    def labelled(count, seed):
        images = blobs(count, seed)
        return MemorySplit(images, (images[:, 0, :8].sum((1, 2)) > images[:, 0, 8:].sum((1, 2))).long())

    images = collection(train=labelled(200, 0), test=labelled(60, 2))
    assert evaluate(knowing(), images).neighbours.latent > 0.9
    assert evaluate(grey(), images).neighbours.latent < 0.8
    assert evaluate(knowing(), collection()).neighbours is None
    one_class = collection(train=MemorySplit(blobs(50), torch.zeros(50, dtype=torch.long)), test=labelled(9, 2))
    assert evaluate(knowing(), one_class).neighbours is None


def test_units_that_never_vary_are_not_in_use():
    model = knowing()
    inner = model.encode
    model.encode = lambda images: torch.cat([inner(images), torch.ones(len(images), 6)], 1)
    model.decode = lambda codes: render(codes[:, :2])
    evaluation = evaluate(model, collection())
    assert (evaluation.used, evaluation.numbers) == (2, 8)


def test_test_images_steer_nothing():
    one, other = (evaluate(knowing(), collection(test=blobs(60, seed=seed))) for seed in (2, 3))
    assert [row.validation_mse for row in one.rows] == [row.validation_mse for row in other.rows]
    assert [row.note for row in one.rows] == [row.note for row in other.rows]
    assert one.doubled_pca == other.doubled_pca
    assert one.test != other.test


@pytest.mark.parametrize("validation", [None, MemorySplit(blobs(0))])
def test_without_validation_images_test_images_stand_in(validation):
    evaluation = evaluate(knowing(), collection(validation=validation), metrics=flat())
    assert evaluation.validation is None
    assert evaluation.row("PCA").validation_mse is None
    assert evaluation.doubled_pca is None
    assert evaluation.verdict.kind == "good"


class Stream(Split):
    """Images that come in batches only."""

    def __init__(self, images, size):
        self.own, self.size = MemorySplit(images), size

    def _batches(self, epoch):
        return self.own._batches(epoch)

    def _sample(self, count, seed):
        return self.own._sample(count, seed)


@pytest.mark.parametrize("size", [None, 200])
def test_streams_are_sampled(size):
    images = collection(train=Stream(blobs(200), size))
    evaluation = evaluate(knowing(), images)
    assert evaluation.train_images == size
    assert "200 training images" in evaluation.row("PCA").note
    assert evaluation.train.images == 200


def test_more_test_images_than_the_sample_all_count(monkeypatch):
    monkeypatch.setattr("halfstride.autoencoder.evaluation._TEST_IMAGES", 20)
    monkeypatch.setattr("halfstride.autoencoder.evaluation._TRAIN_IMAGES", 30)
    images = collection()
    evaluation = evaluate(of_pca(images, 2), images)
    assert evaluation.test.images == 60
    assert evaluation.test == pytest.approx(scores(of_pca(images, 2), images.test.batches(60)), rel=1e-5)
    assert evaluation.train.images == 29  # every seventh of 200
    assert evaluation.row("this model").mse != evaluation.test.mse


def test_latent_maps_and_colour():
    images = collection(lambda count, seed: blobs(count, seed).expand(-1, 3, -1, -1))
    model = Model(lambda batch: nn.functional.avg_pool2d(batch, 8), lambda codes: nn.functional.interpolate(codes, 16))
    evaluation = evaluate(model, images)
    assert evaluation.latent_shape == (3, 2, 2)
    assert evaluation.compression == 64
    assert evaluation.row("thumbnail").numbers == 12


# Denoising --------------------------------------------------------------------------------------------------------
def noisy(images, first):
    shares = [
        torch.randn(image.shape, generator=torch.Generator().manual_seed(first + i)) for i, image in enumerate(images)
    ]
    return images + 0.2 * torch.stack(shares)


def test_of_corrupted_inputs_the_clean_images_are_asked():
    model = Model(lambda images: images.flatten(1), lambda codes: codes.reshape(-1, 1, SIZE, SIZE))
    images = collection()
    evaluation = evaluate(model, images, corrupt=noisy)
    assert evaluation.rows[0][1:4] == evaluation.row("input")[1:4]
    assert evaluation.test.mse == pytest.approx(0.04, rel=0.02)
    assert evaluation.test == pytest.approx(scores(model, images.test.batches(7), corrupt=noisy), rel=1e-5)
    assert evaluation.figure().axes[0].get_ylabel() == "original"
    assert evaluate(knowing(), images).row("input") is None


def test_files_of_corrupted_inputs_keep_within_the_budget():
    images = collection(lambda count, seed: coarse(count, seed, 64))
    model = grey()
    model.encode, model.forward = (lambda batch: batch.flatten(1)[:, :1200]), (lambda batch: batch)
    clean, corrupted = (evaluate(model, images, corrupt=corrupt).row("WebP") for corrupt in (None, noisy))
    assert clean.bytes <= 1200
    assert corrupted.bytes <= 1200
    assert int(corrupted.note.split()[1].strip(",")) < int(clean.note.split()[1].strip(",")) - 10  # the quality


def test_pairs_have_targets_of_their_own():
    def pairs(count, seed):
        images = blobs(count, seed)
        return torch.stack([255 - images, images], 1)

    model = knowing()
    inner = model.encode
    model.encode = lambda images: inner(1 - images)
    evaluation = evaluate(model, collection(pairs), metrics=flat())
    assert evaluation.test.mse < 1e-4
    assert evaluation.row("input").mse > 0.1
    assert evaluation.shape == (1, SIZE, SIZE)


def test_processes_corrupt_every_image_as_one_process_does(monkeypatch):
    images = MemorySplit(blobs(11))
    seen = {}

    def remember(batch, first):
        seen.update({first + i: image for i, image in enumerate(batch)})
        return batch

    scores(grey(), images.batches(4), corrupt=remember)
    alone = dict(seen)
    seen.clear()
    monkeypatch.setattr(scoring, "_distributed", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: None)
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        scores(grey(), images.batches(4, rank=rank, world_size=2), corrupt=remember)
    assert seen.keys() == alone.keys() == set(range(11))
    assert all((seen[place] == alone[place]).all() for place in alone)


def test_one_process_of_a_distributed_job_evaluates_without_the_others(monkeypatch):
    expected = evaluate(knowing(), collection(), corrupt=noisy)
    monkeypatch.setattr("halfstride.autoencoder.evaluation._TEST_IMAGES", 20)
    monkeypatch.setattr(scoring, "_distributed", lambda: True)  # without a process group every exchange would fail
    assert evaluate(knowing(), collection(), corrupt=noisy).test == pytest.approx(expected.test, rel=1e-5)


# Leaving things as they were --------------------------------------------------------------------------------------
def test_modes_and_random_numbers_are_left_as_they_were():
    model = ConvAutoencoder(SIZE, latent_dim=2, width=8)
    model.train()
    model.encoder.eval()
    state = torch.get_rng_state()
    assert evaluate(model, collection()) == evaluate(model, collection())
    assert model.training
    assert not model.encoder.training
    assert (torch.get_rng_state() == state).all()


def test_outputs_that_are_no_numbers_are_named():
    model = Model(lambda images: images.flatten(1)[:, :2], lambda codes: render(codes) * math.nan)
    with pytest.raises(ValueError, match=r"`model` gives outputs that are no finite numbers: train it with a smaller"):
        evaluate(model, collection())


def test_progress_is_told():
    told = []
    evaluate(knowing(), collection(), progress=lambda *what: told.append(what))
    assert {what for what, _, _ in told} == {"reading images", "running the model", "fitting baselines", "comparing"}
    assert all(0 <= done <= count for _, done, count in told)


# Files ------------------------------------------------------------------------------------------------------------
def test_it_goes_to_json_and_back():
    evaluation = evaluate(knowing(), collection(labels=True))
    text = json.dumps(evaluation.to_dict(), allow_nan=False)
    read = Evaluation.from_dict(json.loads(text))
    assert read == evaluation
    assert read.row("PCA") == evaluation.row("PCA")
    with pytest.raises(ValueError, match=r"`figure` needs the images, which are not kept in files: evaluate again"):
        read.figure()


def leaves(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(entry, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if new is KeyError and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


def test_damage_by_hand_is_named_wherever_it_is():
    whole = evaluate(knowing(), collection(labels=True)).to_dict()
    whole = json.loads(json.dumps(whole))
    for path in leaves(whole):
        for new in (KeyError, [[]], {"no": 1}, float("nan"), True, "\n"):
            if new is KeyError and (not path or isinstance(path[-1], int)):
                continue
            damaged = changed(whole, path, new)
            try:
                read = Evaluation.from_dict(damaged)
            except ValueError as error:
                named = re.match(r"`evaluation[^\n]*$", str(error))
                assert named, error  # noqa: PT017
            else:
                assert read.to_dict() == damaged, (path, new)  # still an evaluation: another name, note or flag
                assert isinstance(new, str | bool), (path, new)


def test_the_picture_has_a_row_for_each_method():
    evaluation = evaluate(knowing(), collection(labels=True))
    figure = evaluation.figure()
    count = len(figure.axes) // 4
    labels = [axes.get_ylabel().splitlines()[0] for axes in figure.axes[::count]]
    assert labels == ["original", "this model", "PCA", "thumbnail"]
    assert all(axes.get_xlabel().endswith(" dB") for axes in figure.axes[count:])
