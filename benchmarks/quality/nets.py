"""The peers' networks, each as one module from images to reconstructions, with the loss that it is trained by.

Needs torch; pythae and diffusers are imported where they are asked for, in environments of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Peer", "build", "outputs"]


class Peer(nn.Module):
    """A network with what its authors train it by."""

    batch_size = 32

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images N×C×H×W with values in [0, 1], as they come back."""
        raise NotImplementedError

    def loss(self, images: Tensor) -> Tensor:
        return F.mse_loss(self.reconstruct(images), images)

    def latent_numbers(self, images: Tensor) -> int:
        """How many numbers a code has."""
        raise NotImplementedError


def build(name: str, shape: Sequence[int], numbers: int) -> Peer:
    """A peer for images C×H×W, with `numbers` latent numbers or as near to it as it can.

    Raises:
        ValueError: where there is no such peer.
    """
    if name.startswith("pythae"):
        _, kind, layers = name.split("-")
        return _Pythae(kind, layers, shape, numbers)
    peers = {"lecture": _Lecture, "keras-blog": _KerasBlog, "autoencoder-tiny": _Tiny}
    if name not in peers:
        raise ValueError(f"`name` (={name!r}) must be a pythae peer or one of {', '.join(peers)}.")
    return peers[name](shape, numbers)


class _Lecture(Peer):
    """The net of the lecture, for images of any size divisible by 4; the notebook has 28×28 and a latent of 2.

    Reference:
        Raschka, STAT 453 (spring 2021), L16, conv-autoencoder_mnist.ipynb: batches of 32, Adam, mean squared error.
    """

    def __init__(self, shape: Sequence[int], numbers: int) -> None:
        super().__init__()
        channels, self.height, self.width = shape
        small = self.height // 4, self.width // 4
        features = 64 * small[0] * small[1]
        self.encoder = nn.Sequential(
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.LeakyReLU(0.01)),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.LeakyReLU(0.01)),
            *(nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.LeakyReLU(0.01)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.Flatten(), nn.Linear(features, numbers)),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(numbers, features), nn.Unflatten(1, (64, *small))),
            *(nn.ConvTranspose2d(64, 64, 3, padding=1), nn.LeakyReLU(0.01)),
            *(nn.ConvTranspose2d(64, 64, 3, stride=2, padding=1), nn.LeakyReLU(0.01)),
            *(nn.ConvTranspose2d(64, 32, 3, stride=2), nn.LeakyReLU(0.01)),
            nn.ConvTranspose2d(32, channels, 3),  # one row and one column too many, which are cut off
        )

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))[..., : self.height, : self.width].sigmoid()

    def latent_numbers(self, images: Tensor) -> int:
        return self.encoder(images)[0].numel()


class _KerasBlog(Peer):
    """Three times convolution and pooling, and back with convolutions and nearest-neighbour upsampling.

    The blog's last encoder layer has 8 channels (128 numbers of 28×28); here it has as many as make the numbers equal.
    Its loss is the binary cross-entropy; here the mean squared error, by which all are judged. Its batches of 128 would
    leave few steps: here 32.

    Reference:
        Chollet, "Building autoencoders in Keras" (2016), the convolutional autoencoder.
    """

    def __init__(self, shape: Sequence[int], numbers: int) -> None:
        super().__init__()
        channels, height, width = shape
        small = -(-height // 8) * -(-width // 8)
        code = max(numbers // small, 1)
        pool = {"kernel_size": 2, "ceil_mode": True}
        self.encoder = nn.Sequential(
            *(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(**pool)),
            *(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(**pool)),
            *(nn.Conv2d(8, code, 3, padding=1), nn.ReLU(), nn.MaxPool2d(**pool)),
        )
        valid = 0 if height % 8 else 1  # without padding, 16×16 becomes 14×14, half of 28×28
        self.decoder = nn.Sequential(
            *(nn.Conv2d(code, 8, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)),
            *(nn.Conv2d(8, 16, 3, padding=valid), nn.ReLU(), nn.Upsample(scale_factor=2)),
            *(nn.Conv2d(16, channels, 3, padding=1), nn.Sigmoid()),
        )

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))

    def latent_numbers(self, images: Tensor) -> int:
        return self.encoder(images)[0].numel()


class _Tiny(Peer):
    """diffusers' AutoencoderTiny with its default widths and blocks; 28×28 comes back as 32×32 and is cropped.

    Reference:
        Bohan, "Tiny AutoEncoder for Stable Diffusion" (2023). The library trains none; batches of 16, squared error.
    """

    batch_size = 16

    def __init__(self, shape: Sequence[int], numbers: int) -> None:
        super().__init__()
        from diffusers import AutoencoderTiny

        channels, self.height, self.width = shape
        small = -(-self.height // 8) * -(-self.width // 8)
        code = max(numbers // small, 1)
        self.model: Any = AutoencoderTiny(in_channels=channels, out_channels=channels, latent_channels=code)

    def reconstruct(self, images: Tensor) -> Tensor:
        # encode and decode one by one: the model's own forward rounds the code to bytes, which has no gradient.
        decoded = self.model.decode(self.model.encode(images * 2 - 1).latents).sample
        return decoded[..., : self.height, : self.width] / 2 + 0.5

    def latent_numbers(self, images: Tensor) -> int:
        return self.model.encode(images).latents[0].numel()


class _Pythae(Peer):
    """pythae's AE or VAE, with the networks and the loss that it ships; a VAE reconstructs from the mean of its code.

    Its convolutional networks are those for MNIST where images are 28×28 and those for CelebA where they are 64×64×3.
    They are large: a CPU takes seconds for a step of 64 images, its trainer's default, so they get 16.

    Reference:
        Chadebec, Vincent & Allassonnière, "Pythae" (2022).
    """

    def __init__(self, kind: str, layers: str, shape: Sequence[int], numbers: int) -> None:
        super().__init__()
        self.batch_size = 64 if layers == "mlp" else 16
        from pythae.models import AE, VAE, AEConfig, VAEConfig

        config = {"ae": AEConfig, "vae": VAEConfig}[kind](input_dim=tuple(shape), latent_dim=numbers)
        networks = {} if layers == "mlp" else _pythae_networks(kind, shape, config)
        self.model: Any = {"ae": AE, "vae": VAE}[kind](config, **networks)

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.model.decoder(self.model.encoder(images).embedding).reconstruction.reshape(images.shape)

    def loss(self, images: Tensor) -> Tensor:
        return self.model({"data": images}).loss

    def latent_numbers(self, images: Tensor) -> int:
        return self.model.encoder(images).embedding[0].numel()


def _pythae_networks(kind: str, shape: Sequence[int], config: Any) -> dict[str, nn.Module]:
    from pythae.models.nn.benchmarks import celeba, mnist

    library, name = (celeba, "CELEBA") if shape[-1] == 64 else (mnist, "MNIST")
    encoder = getattr(library, f"Encoder_Conv_{kind.upper()}_{name}")
    return {"encoder": encoder(config), "decoder": getattr(library, f"Decoder_Conv_AE_{name}")(config)}


def outputs(peer: Peer, images: Tensor) -> Tensor:
    """Reconstructions of uint8 images N×C×H×W in evaluation mode, as float32."""
    peer.eval()
    with torch.inference_mode():
        parts = [peer.reconstruct(batch.float() / 255) for batch in images.split(64)]
    peer.train()
    return torch.cat(parts)
