"""The command `halfstride`: a file for each group of commands, all of them thin."""

# Each adds its commands to the app, and the help shows them in this order.
from halfstride.cli import train, sweep, trained, detect, denoise, search, export, doctor, optimize, size, studio  # isort: skip
from halfstride.cli.app import app, main

__all__ = [
    "app",
    "denoise",
    "detect",
    "doctor",
    "export",
    "main",
    "optimize",
    "search",
    "size",
    "studio",
    "sweep",
    "train",
    "trained",
]
