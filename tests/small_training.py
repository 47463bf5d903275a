"""Tiny images and models that learn in a second, for tests and for the jobs that they start."""

import numpy as np
import torch

from halfstride.autoencoder import ConvAutoencoder, TrainingOptions, load_images, train

CURVE = ("step", "epoch", "train_mse", "validation_mse", "validation_loss", "test_mse", "test_psnr", "learning_rate")
OPTIONS = {"steps": 24, "batch_size": 8, "augment": "flip", "learning_rate": 3e-3}
# All that is random in a training.
RANDOM = {**OPTIONS, "corruption": "gaussian:0.1,mask:0.2,salt-and-pepper:0.05", "augment": "flip-rotate"}


def pictures(count=60, seed=0, shape=(9, 11)):
    """Smooth blobs at random places, as uint8 N×H×W: something to learn in seconds."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    centres = generator.uniform(0, 10, (count, 2))
    squares = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2
    return (255 * np.exp(-squares / 8)).round().astype(np.uint8)


def small_model(latent="vector", size=(9, 11), seed=0, **arguments):
    torch.manual_seed(seed)
    arguments = {"latent_dim": 4 if latent == "vector" else 2, "width": 8, **arguments}
    return ConvAutoencoder(size, latent=latent, **arguments)


def small_training(out, model=None, images=None, resume=False, **options):
    model = small_model() if model is None else model
    images = load_images(pictures()) if images is None else images
    asked = TrainingOptions(**(options if resume else {**OPTIONS, **options}))
    return train(model, images, out, asked, resume=resume, device="cpu", progress=False)


def curve(metrics):
    return [[entry[name] for name in CURVE] for entry in metrics]
