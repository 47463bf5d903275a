"""The pictures that every front shows, drawn from plain arrays; each function returns a matplotlib `Figure`."""

from halfstride.figures.autoencoder import decoded_plane, latent_space, losses, principal_plane, reconstructions

__all__ = ["decoded_plane", "latent_space", "losses", "principal_plane", "reconstructions"]
