"""What a trained autoencoder is for: find what is odd, clean, embed and search, export."""

from halfstride.tasks.denoising import Denoised, Quality, denoise, denoise_files
from halfstride.tasks.detection import Detection, Detections, FittedDetector, detect, fit_detector
from halfstride.tasks.embedding import Embedding, embed, embed_to_file
from halfstride.tasks.exporting import Exported, export
from halfstride.tasks.near_duplicates import Duplicates, duplicates
from halfstride.tasks.run import TrainedRun, load_run
from halfstride.tasks.search import Neighbours, similar

__all__ = [
    "Denoised",
    "Detection",
    "Detections",
    "Duplicates",
    "Embedding",
    "Exported",
    "FittedDetector",
    "Neighbours",
    "Quality",
    "TrainedRun",
    "denoise",
    "denoise_files",
    "detect",
    "duplicates",
    "embed",
    "embed_to_file",
    "export",
    "fit_detector",
    "load_run",
    "similar",
]
