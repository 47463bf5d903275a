"""Making runs to look at, untrained ones on the digits and trained ones on folders of pictures."""

import functools
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from halfstride import ConvAutoencoder, TrainingOptions, evaluate, fit_detector, load_images, load_run, train
from halfstride.autoencoder import Run, card_text
from halfstride.autoencoder.training import corruption_of
from halfstride.tasks.detection.files import detect_files


def metrics(count):
    """Scorings of a training of which the validation error rises at the end."""
    return [
        {
            "step": 100 * place,
            "epoch": 0.5 * place,
            "train_mse": 0.1 / place,
            "validation_mse": 0.11 / place if place < count or count == 1 else 0.11 / (place - 1) + 0.001,
            "validation_loss": 0.11 / place if place < count or count == 1 else 0.11 / (place - 1) + 0.001,
            "test_mse": 0.12 / place,
            "test_psnr": 10.0 + place,
            "test_ssim": 0.5,
            "learning_rate": 0.001,
            "seconds": 1.0,
            "scoring_seconds": 0.5,
            "images_per_second": 100.0,
        }
        for place in range(1, count + 1)
    ]


digits = functools.cache(functools.partial(load_images, "digits"))


def make_run(path, latent_dim=2, seed=0, scorings=3, **options):
    """A run as a training on the digits writes it, with random weights, which are good enough here."""
    torch.manual_seed(seed)
    model = ConvAutoencoder(28, 1, latent_dim, width=8, **options).eval()
    for parameter in model.parameters():  # what begins at zero would hide the convolutions
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    images = digits()
    record = {
        "training": asdict(TrainingOptions(batch_size=32, learning_rate=0.004, augment="none", shift=0, crop=0)),
        "stages": [300, 200],
        "length": {},
        "data": asdict(images.options),
        "classes": images.classes,
    }
    run = Run(path)
    with run.create(record, images) as started:
        started.save_model(model)
        started.write_metrics(metrics(scorings))
    return run


def change(run, **values):
    """Change what a run's record says."""
    path = run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


CLASSES = ("кошки", "犬", "a class whose name is much longer than anything that was ever meant to stand in a legend")


def draw_pictures(folder, count=24, size=16, colour=False, classes=(), seed=0):
    """Pictures of soft spots, in folders of classes where there are some."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    for place in range(count):
        own = folder / classes[place % len(classes)] if classes else folder
        own.mkdir(parents=True, exist_ok=True)
        centre = random.uniform(0, size, (2, 3))
        spots = np.exp(-((rows[..., None] - centre[0]) ** 2 + (columns[..., None] - centre[1]) ** 2) / size)
        pixels = (255 * spots).round().astype(np.uint8)
        Image.fromarray(pixels if colour else pixels[..., 0]).save(own / f"{place:03}.png")
    return folder


def train_on(path, data, latent_dim=3, options=None, evaluated=False, **of_model):
    """A run of two steps on a folder of pictures."""
    images = load_images(data) if isinstance(data, Path) else load_images(data[0], clean=data[1])
    options = options or TrainingOptions(steps=2, batch_size=8)
    model = ConvAutoencoder(images.shape[1:], images.shape[0], latent_dim, width=8, blocks=0, **of_model)
    train(model, images, path, options, device="cpu", progress=False)
    run = Run(path)
    if evaluated:
        evaluation = evaluate(model, images, metrics=run.metrics, corrupt=corruption_of(options))
        run.save_evaluation(evaluation, card_text(model, evaluation))
    return run


def judge(run, sources, out):
    """What the command `detect` writes of pictures with a run's detector."""
    detect_files(load_run(run, device="cpu"), sources, out)
    return out


def painted(folder, pictures, colour=200):
    """Copies of pictures with a square in the middle that has no place in them."""
    folder.mkdir(parents=True)
    for path in pictures:
        with Image.open(path) as picture:
            side = picture.width // 4
            square = Image.new("L", (side, side), colour).convert(picture.mode)
            picture.paste(square, (side, side))
            picture.save(folder / path.name)
    return folder


def make_judged_runs(root):
    """Runs with detectors, of grey vectors and of colour maps, and what was judged: in the runs folder and outside."""
    runs = root / "runs"
    good = draw_pictures(runs / "pictures" / "good", count=40)
    train_on(runs / "parts", good)
    fit_detector(runs / "parts", false_alarms=0.3)
    new = runs / "pictures" / "new" / "test"
    shutil.copytree(draw_pictures(root / "other", count=6, seed=3), new / "good")
    painted(new / "square", sorted(good.iterdir())[:8])
    (new / "square" / "broken.png").write_bytes(b"no picture at all")
    judge(runs / "parts", [new.parent], runs / "parts" / "found")
    colour = draw_pictures(root / "elsewhere" / "фото", count=24, size=64, colour=True)
    train_on(runs / "cloth", colour, 2, latent="map")
    fit_detector(runs / "cloth", draw_pictures(root / "larger", count=12, size=72, colour=True), own_size=True)
    painted(root / "elsewhere" / "new", sorted((root / "larger").iterdir())[:5])
    (root / "elsewhere" / "new" / "small.png").write_bytes((colour / "000.png").read_bytes())
    judge(runs / "cloth", [root / "elsewhere" / "new"], root / "elsewhere" / "found")
    train_on(runs / "plain", good)
    return runs
