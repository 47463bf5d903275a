"""The command `halfstride`: a file for each group of commands, all of them thin."""

from halfstride.cli import runs, size, studio  # each adds its commands to the app
from halfstride.cli.app import app, main

__all__ = ["app", "main", "runs", "size", "studio"]
