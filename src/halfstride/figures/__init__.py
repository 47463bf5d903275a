"""The pictures that every front shows, drawn from plain arrays; each function returns a matplotlib `Figure`."""

from halfstride.figures.autoencoder import decoded_plane, latent_space, losses, principal_plane, reconstructions
from halfstride.figures.checkerboard import coverage

__all__ = ["coverage", "decoded_plane", "latent_space", "losses", "principal_plane", "reconstructions"]
