"""Work on many pictures that several processes can share, and that can be resumed.

Until all is done, everything lies in a folder called after the output with `.unfinished` at its end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from halfstride.autoencoder.writing import move_files, require_free, writing

__all__ = ["Job"]

_SETTINGS = "job.json"


class Job:
    """The results of one command, kept as they come.

    Under `torchrun` each process works on the pictures of its rank; `finish` waits for all of them.

    Args:
        out: the folder or file that the command writes: a folder must be new or empty, a file must not exist.
        names: all pictures, in order.
        settings: what the results depend on, as JSON takes it; a job is only resumed with the same.
        file: whether the output is a file.
        resume: go on with the unfinished job of the same output, if there is one.

    Raises:
        ValueError: where the output is there already, or an unfinished job is and `resume` is not asked for, or is
            of other pictures or settings.
    """

    def __init__(
        self, out: Path, names: Sequence[str], settings: Mapping[str, Any], *, file: bool = False, resume: bool = False
    ) -> None:
        self.out, self.names = out, names
        self.folder = out.with_name(f"{out.name}.unfinished")
        """Where results may be kept that are not for the output, or not yet."""
        self.output = self.folder / "output"
        """What becomes the output: files for single pictures may be written here as they come."""
        self.rank, self.processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._is_file = file
        record = {
            **settings,
            "pictures": hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest(),
        }
        if self.processes > 1 and not torch.distributed.is_initialized():
            # A process may wait for long, for others whose pictures are larger and for the first one, which writes.
            torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
        if self.rank == 0:
            self._open(record, resume)
        self._wait()
        self.records: dict[int, dict[str, Any]] = self._read()
        """The results of pictures that are done, by their places."""
        remaining = [place for place in range(len(names)) if place not in self.records]
        self.waiting = remaining[self.rank :: self.processes]
        """The places of the pictures that this process works on."""
        self._wait()  # before any process adds to what the others read

    def _open(self, record: dict[str, Any], resume: bool) -> None:
        if self._is_file and self.out.exists():
            raise ValueError(f"`out` (={self.out}) exists already: choose another name.")
        if not self._is_file:
            require_free(self.out, "or empty it")
        settings = self.folder / _SETTINGS
        if settings.is_file():
            if not resume:
                raise ValueError(
                    f"`out` (={self.out}) was begun before and is unfinished: go on with --resume, or remove "
                    f"{self.folder}."
                )
            before = json.loads(settings.read_text(encoding="utf-8"))
            if changed := [name for name in record if record[name] != before.get(name)]:
                raise ValueError(
                    f"`resume` (=True) needs the same command as before, but {', '.join(changed)} changed: undo that, "
                    f"or remove {self.folder}."
                )
            return
        self.output.mkdir(parents=True, exist_ok=True)
        with writing(settings) as temporary:
            temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")

    def _read(self) -> dict[int, dict[str, Any]]:
        records: dict[int, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("results.*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:  # the empty first line, or one that an interrupted process did not finish
                    continue
                records[record.pop("place")] = record
        return records

    def write(self, records: Mapping[int, Mapping[str, Any]]) -> None:
        """Keep the results of some pictures, by their places."""
        with (self.folder / f"results.{self.rank}.jsonl").open("a", encoding="utf-8") as journal:
            for place, record in records.items():
                self.records[place] = dict(record)
                # On a new line, since the last one may be cut off where a process was interrupted.
                journal.write("\n" + json.dumps({"place": place, **record}))

    def finish(self, write: Callable[[Path, list[dict[str, Any]]], None]) -> bool:
        """Wait for all processes; in the first one write the output and give it its name.

        Args:
            write: called with `output` and all results in order; what it writes there is the output, and for an output
                that is a file it is called as that. Where it raises a `ValueError`, the job is given up.

        Returns:
            Whether this is the process that has written.
        """
        self._wait()
        if self.rank == 0:
            self.records = self._read()
            try:
                write(self.output, [self.records[place] for place in range(len(self.names))])
            except ValueError:  # there is nothing to write, and so nothing to go on with
                shutil.rmtree(self.folder)
                raise
            if self._is_file:
                (self.output / self.out.name).replace(self.out)
            else:
                self.out.mkdir(parents=True, exist_ok=True)
                move_files(self.output, self.out)
            shutil.rmtree(self.folder)
        self._wait()
        return self.rank == 0

    def _wait(self) -> None:
        if self.processes > 1:
            torch.distributed.barrier()
