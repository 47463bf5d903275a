"""`embed`: the codes of pictures, in memory or as a file that several processes write together."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from halfstride import figures
from halfstride.autoencoder.images import Skipped, to_float
from halfstride.autoencoder.images.collection import Progress, listed
from halfstride.autoencoder.images.formats import one_line, printable
from halfstride.autoencoder.writing import writing
from halfstride.tasks.job import Job
from halfstride.tasks.pictures import Pictures
from halfstride.tasks.run import TrainedRun, load_run

if TYPE_CHECKING:
    from jaxtyping import Float32
    from matplotlib.figure import Figure

__all__ = ["CodesFile", "Embedding", "embed", "embed_pictures", "embed_to_file"]

_BLOCK = 2**16
"""Codes that are read from a file at a time."""
_SUFFIXES = (".parquet", ".npz")


@dataclass
class Embedding:
    """The codes of pictures."""

    names: list[str]
    """Where each picture lies."""
    codes: Float32[np.ndarray, "n numbers"]
    """A row for each picture."""
    classes: list[str | None] | None
    """The class of each picture; None where there are none."""
    run: str
    """The fingerprint of the run that made them: codes of different runs cannot be compared."""
    skipped: list[Skipped] = field(default_factory=list)
    """What could not be read, and why."""

    def __len__(self) -> int:
        return len(self.names)

    def figure(self) -> Figure:
        """The codes as points in their principal plane, coloured by class."""
        if self.classes is None or None in self.classes:
            return figures.latent_space(self.codes)
        names, labels = np.unique([str(name) for name in self.classes], return_inverse=True)
        return figures.latent_space(self.codes, labels, names.tolist())

    def blocks(self) -> Iterator[Float32[np.ndarray, "n numbers"]]:
        """The codes in pieces."""
        for start in range(0, len(self.codes), _BLOCK):
            yield self.codes[start : start + _BLOCK]

    def names_of(self, places: Sequence[int]) -> list[str]:
        return [self.names[place] for place in places]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file with `path`, `class` and `code` of each picture.

        Args:
            path: ending in `.parquet`, where `code` is a column of lists of fixed size, or in `.npz`, where it is an
                array.
        """
        path, names = check_path(path), [_text(name) for name in self.names]
        if path.suffix == ".npz":
            arrays: dict[str, Any] = {"path": np.array(names), "code": self.codes, "run": np.array(self.run)}
            if self.classes is not None:
                arrays["class"] = np.array(["" if name is None else _text(name) for name in self.classes])
            with writing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
            return
        import pyarrow as pa
        from pyarrow import parquet

        codes = pa.FixedSizeListArray.from_arrays(pa.array(self.codes.reshape(-1)), self.codes.shape[1])
        classes = [None if name is None else _text(name) for name in self.classes or [None] * len(self)]
        table = pa.table({"path": names, "class": pa.array(classes, pa.string()), "code": codes})
        table = table.replace_schema_metadata({"halfstride": json.dumps({"run": self.run})})
        with writing(path) as temporary:
            parquet.write_table(table, temporary, row_group_size=_BLOCK)


class CodesFile:
    """A file that `embed` wrote, of which no more is in memory than is asked for.

    Args:
        path: ending in `.parquet` or `.npz`.
        run: the run whose codes are expected.

    Raises:
        ValueError: where it is no such file, or has the codes of another run.
    """

    def __init__(self, path: str | os.PathLike[str], run: TrainedRun) -> None:
        self.path = check_path(path, "images")
        self.numbers = run.model.latent_dim * (1 if len(run.model.latent_shape) == 1 else 2)
        try:
            with self._reading():
                found = self._npz_run() if self.path.suffix == ".npz" else self._parquet_run()
        except FileNotFoundError:
            raise ValueError(f"`images` (={self.path}) does not exist: name a folder or a file of codes.") from None
        if found != run.fingerprint:
            raise ValueError(
                f"`images` (={self.path}) has codes of another run than {run.path}, or of before it was trained on: "
                "embed the images again."
            )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged file can make the readers raise anything at all
            raise ValueError(
                f"`images` (={self.path}) is no file that `halfstride embed` wrote: {one_line(error)}."
            ) from None

    def blocks(self) -> Iterator[Float32[np.ndarray, "n numbers"]]:
        """The codes in pieces, in order.

        Raises:
            ValueError: where the file is damaged.
        """
        pieces = self._npz_blocks() if self.path.suffix == ".npz" else self._parquet_blocks()
        while True:
            with self._reading():  # of the file, and not of what the caller does with the codes
                codes = next(pieces, None)
                if codes is not None and (codes.dtype != np.float32 or codes.shape[1] != self.numbers):
                    raise ValueError(f"it has codes of {codes.shape[1]} numbers ({codes.dtype})")
            if codes is None:
                return
            yield codes

    def _parquet_blocks(self) -> Iterator[np.ndarray]:
        from pyarrow import parquet

        with parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_BLOCK, columns=["code"]):
                codes = batch.column(0)
                yield codes.flatten().to_numpy().reshape(len(codes), -1)

    def names_of(self, places: Sequence[int]) -> list[str]:
        """Where the pictures at these places lie."""
        with self._reading():
            if self.path.suffix == ".npz":
                with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                    return [str(name) for name in file["path"][list(places)]]
            from pyarrow import parquet

            column = parquet.read_table(self.path, columns=["path"])["path"]
            names: list[str] = column.take(list(places)).to_pylist()
            return names

    def _npz_run(self) -> str:
        with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # it leaves its own open
            return str(file["run"])

    def _parquet_run(self) -> str:
        from pyarrow import parquet

        metadata = parquet.read_schema(self.path).metadata or {}
        return str(json.loads(metadata[b"halfstride"])["run"])

    def _npz_blocks(self) -> Iterator[np.ndarray]:
        # `np.load` would read all codes at once.
        with zipfile.ZipFile(self.path) as archive, archive.open("code.npy") as file:
            np.lib.format.read_magic(file)
            (_, numbers), _, dtype = np.lib.format.read_array_header_1_0(file)
            while data := file.read(_BLOCK * numbers * dtype.itemsize):
                yield np.frombuffer(data, dtype).reshape(-1, numbers)


def embed(run: str | os.PathLike[str] | TrainedRun, images: Any, *, progress: Progress | None = None) -> Embedding:
    """Encode pictures.

    Pictures are brought to the run's size as in training. A latent vector is the code itself. Of a latent map the code
    is the mean and the standard deviation over its positions of each channel, which tell what a picture shows and not
    where. Seen on crops of three textures (brick, grass, gravel): the nearest other picture is of the same texture for
    96 to 100 % by these, for 88 to 90 % by the means alone, and for 40 % by the whole map.

    Args:
        run: a run's folder, or what `load_run` returned.
        images: a path of a picture or a folder, a Pillow image, an array H×W, H×W×C or N×H×W×C of uint8, a tensor C×H×W
            or N×C×H×W of uint8, or a sequence of these.
        progress: called with what is being done, how many are done, and of how many.

    Raises:
        ValueError: where no picture can be read.

    Example:
        >>> embedding = embed("runs/photos", "holiday/")  # doctest: +SKIP
        >>> embedding.save("codes.parquet")  # doctest: +SKIP
    """
    return embed_pictures(load_run(run), Pictures(images), progress=progress)


def embed_pictures(
    run: TrainedRun, pictures: Pictures, *, whole: bool = False, progress: Progress | None = None
) -> Embedding:
    """Encode pictures as `embed` does, or with latent maps as they are; forget pictures that cannot be read.

    Args:
        run: whose model encodes.
        pictures: what is encoded; those that could not be read are dropped from it.
        whole: whether of a latent map the code is the map itself.
        progress: called with what is being done, how many are done, and of how many.
    """
    chunks: list[tuple[list[int], np.ndarray]] = []
    failures: dict[int, str] = {}
    for places, codes, failed in _encode(run, pictures, whole=whole, progress=progress):
        chunks.append((places, codes))
        failures |= failed
    return _embedding(run, pictures, chunks, failures)


def embed_to_file(
    run: str | os.PathLike[str] | TrainedRun,
    images: Any,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Embedding | None:
    """Encode pictures and write the file that `Embedding.save` writes, by all processes of `torchrun` together.

    Args:
        run, images, progress: as for `embed`.
        out: the file, which must not exist, ending in `.parquet` or `.npz`.
        resume: go on where an interrupted call has stopped.

    Returns:
        What was written; None in all processes but the first.

    Raises:
        ValueError: where no picture can be read, and where the file exists or was begun with other pictures.
    """
    path = check_path(out)
    run, pictures = load_run(run), Pictures(images)
    job = Job(path, pictures.names, {"task": "embed", "run": run.fingerprint}, file=True, resume=resume)
    for places, codes, failures in _encode(run, pictures, job.waiting, progress=progress):
        if places:
            with writing(job.folder / f"codes.{places[0]}.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, places=np.array(places), codes=codes)
        job.write({**{place: {} for place in places}, **{p: {"failure": reason} for p, reason in failures.items()}})
    written: list[Embedding] = []

    def write(folder: Path, records: list[dict[str, Any]]) -> None:
        failures = {place: record["failure"] for place, record in enumerate(records) if record}
        written.append(_embedding(run, pictures, _chunks(job.folder), failures))
        written[0].save(folder / path.name)

    job.finish(write)
    return written[0] if written else None


def _encode(
    run: TrainedRun,
    pictures: Pictures,
    places: Sequence[int] | None = None,
    *,
    whole: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[tuple[list[int], Float32[np.ndarray, "n numbers"], dict[int, str]]]:
    """Encode pictures batch by batch.

    Args:
        run: whose model encodes.
        pictures: what is encoded.
        places: which of them; by default all.
        whole: whether of a latent map the code is the map itself.
        progress: called after each batch.

    Returns:
        For each batch the places of its pictures, their codes, and why others could not be read.
    """
    done, count = 0, len(pictures) if places is None else len(places)
    for batch in pictures.batches(run.reader(), places):
        with torch.inference_mode():
            codes = run.model.encode(to_float(batch.images.to(run.device))) if batch.places else torch.empty(0, 0)
            if codes.ndim == 4 and not whole:
                codes = torch.cat([codes.mean((2, 3)), codes.std((2, 3), correction=0)], 1)
        done += len(batch.places) + len(batch.failures)
        if progress is not None:
            progress("encoding", done, count)
        yield batch.places, codes.flatten(1).float().cpu().numpy(), batch.failures


def check_path(path: str | os.PathLike[str], argument: str = "out") -> Path:
    """The path of a file of codes.

    Raises:
        ValueError: where it has neither of the two suffixes.
    """
    if Path(path).suffix not in _SUFFIXES:
        raise ValueError(f"`{argument}` (={printable(str(path))}) must end in .parquet or .npz.")
    return Path(path)


def _embedding(
    run: TrainedRun,
    pictures: Pictures,
    chunks: Sequence[tuple[Sequence[int], np.ndarray]] | Iterator[tuple[Sequence[int], np.ndarray]],
    failures: Mapping[int, str],
) -> Embedding:
    """The codes in the order of the pictures, of which those that could not be read are dropped."""
    skipped = pictures.skipped_with(failures)
    kept = [place for place in range(len(pictures)) if place not in failures]
    if not kept:
        raise ValueError(f"`{pictures.argument}` hold nothing that can be read: {listed(skipped)}.")
    row = np.full(len(pictures), -1)
    row[kept] = np.arange(len(kept))
    codes: np.ndarray | None = None
    for places, chunk in chunks:
        if not len(places):
            continue
        if codes is None:
            codes = np.empty((len(kept), chunk.shape[1]), np.float32)
        codes[row[list(places)]] = chunk
    assert codes is not None
    pictures.keep(kept)
    classes = None if all(name is None for name in pictures.classes) else pictures.classes
    return Embedding(pictures.names, codes, classes, run.fingerprint, skipped)


def _chunks(folder: Path) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    for path in folder.glob("codes.*.npz"):
        with np.load(path) as file:
            yield file["places"], file["codes"]


def _text(name: str) -> str:
    """A name as the files can hold it: of one that is not UTF-8 the bytes as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
