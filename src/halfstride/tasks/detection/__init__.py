"""Find the images that are unlike the good ones."""

from halfstride.tasks.detection.detecting import Detection, Detections, detect
from halfstride.tasks.detection.detector import FittedDetector
from halfstride.tasks.detection.fitting import fit_detector

__all__ = ["Detection", "Detections", "FittedDetector", "detect", "fit_detector"]
