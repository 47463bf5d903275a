"""What a trained autoencoder is for: find what is odd, clean, embed and search, export."""

from halfstride.tasks.run import TrainedRun, load_run

__all__ = ["TrainedRun", "load_run"]
