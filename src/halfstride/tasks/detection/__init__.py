"""Find the images that are unlike the good ones."""

from halfstride.tasks.detection.fitting import FittedDetector, fit_detector

__all__ = ["FittedDetector", "fit_detector"]
