"""The command `halfstride`: a file for each group of commands, all of them thin."""

from halfstride.cli import doctor, runs, size, studio  # each adds its commands to the app
from halfstride.cli.app import app, main

__all__ = ["app", "doctor", "main", "runs", "size", "studio"]
