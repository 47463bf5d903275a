"""The rows: what is trained on which images, with how many latent numbers, from which seed, for how long.

Ours have so many minutes with so many threads. A peer has one thread and, for a row of ours with two, as much CPU time.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["OURS", "PEERS", "Row", "quick", "rows"]

OURS = "halfstride"
PEERS = {
    "lecture": "the net of the lecture (Raschka, STAT 453, L16)",
    "keras-blog": "convolutions and poolings after the blog of Keras, in PyTorch",
    "pythae-ae-mlp": "pythae's AE with its default networks, of dense layers",
    "pythae-ae-conv": "pythae's AE with its convolutional networks for MNIST or CelebA-64",
    "pythae-vae-mlp": "pythae's VAE with its default networks, of dense layers",
    "pythae-vae-conv": "pythae's VAE with its convolutional networks for MNIST or CelebA-64",
    "autoencoder-tiny": "the architecture of diffusers' AutoencoderTiny, from scratch",
}
TEXTURES = ("brick", "grass", "gravel")


class Row(NamedTuple):
    """One training and its scores."""

    data: str
    """The name of a set in `sets.py`."""
    contender: str
    seed: int
    minutes: float
    """Of training by the clock, with `threads` threads; of a peer half of its minutes of CPU time."""
    asked: int | None = None
    """Latent numbers; None leaves them to our default."""
    options: tuple[str, ...] = ()
    """Given to `halfstride train` besides --minutes, --seed and --out."""
    threads: int = 1
    """Rows of one thread are trained two at a time."""

    @property
    def key(self) -> str:
        """The row's name, which `--only` looks in and by which a finished row is known."""
        asked = f" numbers {self.asked}" if self.asked else ""
        asked += " variational" if "--variational" in self.options else ""
        return f"{self.data} {self.contender}{asked} seed {self.seed} minutes {self.minutes:g}"

    @property
    def cpu_seconds(self) -> float:
        """The budget: of ours the minutes times the threads, of a peer as much as ours have with two."""
        return self.minutes * 60 * (self.threads if self.contender == OURS else 2)


def _vector(data: str, numbers: int, minutes: float) -> Row:
    options = ("--latent", "vector", "--latent-dim", str(numbers))
    return Row(data, OURS, 0, minutes, numbers, options, 2)


def rows() -> list[Row]:
    """All rows: those of two threads first, one at a time, then the others, two at a time."""
    return [
        *(Row("digits", OURS, seed, 1, threads=2) for seed in range(3)),
        Row("digits", OURS, 0, 0.5, threads=2),
        _vector("digits", 2, 1),
        Row("digits", OURS, 0, 1, 16, ("--variational", "1", "--latent-dim", "16"), 2),
        *(_vector("fashion-mnist", 32, minutes) for minutes in (10, 2, 1)),
        *(Row("photographs-64", OURS, seed, 5, threads=2) for seed in range(3)),
        *(Row("photographs-64", OURS, 0, minutes, threads=2) for minutes in (2, 1)),
        Row("photographs-128", OURS, 0, 5, threads=2),
        *(Row(f"photographs-64-{count}", OURS, 0, 2, threads=2) for count in (60, 400, 4000)),
        *(Row("photographs-64", peer, 0, 2, 256) for peer in PEERS),
        *(Row("fashion-mnist", peer, 0, 2, 32) for peer in PEERS),
        *(Row("digits", peer, 0, 1, 32) for peer in PEERS),
        Row("digits", "lecture", 0, 1, 2),
        *(Row(f"{texture}-96", OURS, seed, 2) for texture in TEXTURES for seed in range(5)),
        *(Row(f"{texture}-{side}", OURS, 0, 2) for texture in TEXTURES for side in (48, 128)),
    ]


def quick() -> list[Row]:
    """One row of every kind for a twentieth of its time: shows that everything works; its figures mean nothing."""
    sets = ("grass", "gravel", "brick-48", "brick-128", "photographs-64-400")
    chosen = [row for row in rows() if not (row.seed or row.minutes in (0.5, 10) or row.data.startswith(sets))]
    return [row._replace(minutes=round(row.minutes / 20, 3)) for row in chosen]
