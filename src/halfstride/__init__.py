"""Halfstride: convolutional autoencoders, and the upsampling layers that every decoder stands on."""

from halfstride import geometry

__all__ = ["geometry"]
__version__ = "0.1.0"
