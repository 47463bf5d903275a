"""Pictures of plain arrays and of diagnoses; each function returns a matplotlib `Figure`."""

import matplotlib  # noqa: F401  # where the extra is missing, so is this whole package, and the error names the extra

from halfstride.figures.autoencoder import decoded_plane, latent_space, losses, principal_plane, reconstructions
from halfstride.figures.checkerboard import coverage, cure, diagnosis, image_diagnosis
from halfstride.figures.comparing import comparison, grid, knee, sweep
from halfstride.figures.detection import anomaly_overlay, detections, map_at_size, score_histogram
from halfstride.figures.matching import denoised, ladder, neighbours

__all__ = [
    "anomaly_overlay",
    "comparison",
    "coverage",
    "cure",
    "decoded_plane",
    "denoised",
    "detections",
    "diagnosis",
    "grid",
    "image_diagnosis",
    "knee",
    "ladder",
    "latent_space",
    "losses",
    "map_at_size",
    "neighbours",
    "principal_plane",
    "reconstructions",
    "score_histogram",
    "sweep",
]
