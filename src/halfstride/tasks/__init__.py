"""What a trained autoencoder is for: find what is odd, clean, embed and search, export."""

from halfstride.tasks.detection import Detection, Detections, FittedDetector, detect, fit_detector
from halfstride.tasks.run import TrainedRun, load_run

__all__ = ["Detection", "Detections", "FittedDetector", "TrainedRun", "detect", "fit_detector", "load_run"]
