"""The pictures that every front shows, drawn from plain arrays; each function returns a matplotlib `Figure`."""

from halfstride.figures.autoencoder import decoded_plane, latent_space, losses, principal_plane, reconstructions
from halfstride.figures.checkerboard import coverage, cure, diagnosis, image_diagnosis

__all__ = [
    "coverage",
    "cure",
    "decoded_plane",
    "diagnosis",
    "image_diagnosis",
    "latent_space",
    "losses",
    "principal_plane",
    "reconstructions",
]
