"""The folder that a training writes, each file whole or not at all.

    run.json                training options, the steps of each training, and where the images came from
    images.txt              which images are for training, validation and testing (not of streams)
    skipped.txt             which files could not be used, and why
    config.json             the model's arguments  ┐ what `ConvAutoencoder.from_pretrained` reads
    model.safetensors       the model's weights    ┘
    metrics.jsonl           one line per scoring
    evaluation.json         scores beside baselines, and the verdict
    checkpoint.safetensors  weights, optimiser state and position, for `--resume`
    README.md               the model card
    *.png                   pictures

Nothing in it is a pickle.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from halfstride.autoencoder.images import ImageOptions, Images
from halfstride.autoencoder.images.splits import skipped_lines
from halfstride.autoencoder.model import ConvAutoencoder
from halfstride.autoencoder.own_encoder import Autoencoder, EncoderAutoencoder
from halfstride.autoencoder.training_options import TrainingOptions
from halfstride.autoencoder.writing import move_files, storage_errors, temporary_folder, writing, writing_folder

if TYPE_CHECKING:
    from halfstride.autoencoder.evaluation import Evaluation

__all__ = ["WAY_OUT", "Run"]

WAY_OUT = "or go on with that run by --resume"
"""What else can be done where the folder of a new run is not free."""

_FIRST_FILES = (
    "run.json", "images.txt", "skipped.txt", "config.json", "model.safetensors", "README.md", "checkpoint.safetensors",
)  # fmt: skip


_METRICS = ("step", "train_mse", "validation_mse", "validation_loss", "test_mse", "seconds")
"""What every entry of `metrics.jsonl` has, as numbers."""


class Run:
    """A run's folder, open for reading and writing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextlib.contextmanager
    def create(self, record: dict[str, Any], images: Images) -> Iterator[Run]:
        """Start a new run; the folder appears when the block ends, with all that was written to the run it is given.

        So an interruption leaves no run without a checkpoint, which could neither be resumed nor started anew.

        Args:
            record: becomes `run.json`.
            images: are listed.

        Raises:
            ValueError: where the folder holds something already; nothing is ever overwritten.
        """
        with writing_folder(self.path, WAY_OUT) as folder:
            started = Run(folder)
            if lines := _image_lines(images):
                started._write_text("images.txt", "".join(f"{line}\n" for line in lines))
            started.write_skipped(images)
            started.write_record(record)
            yield started

    def discard(self) -> None:
        """Remove what `create` and the first saving wrote, of a training that failed before its first step."""
        for name in _FIRST_FILES:
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else is in it
            self.path.rmdir()

    def write_record(self, record: dict[str, Any]) -> None:
        self._write_text("run.json", json.dumps(record, indent=2) + "\n")

    def write_skipped(self, images: Images) -> None:
        """List the files that could not be used; where there is none, nothing is written."""
        if images.skipped:
            self._write_text("skipped.txt", skipped_lines(images.skipped))

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open the run that a training wrote.

        Raises:
            ValueError: where there is no such folder, or it holds no run.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise ValueError(f"`run` (={run.path}) is not a folder: name one that `halfstride train` wrote.")
        if not (run.path / "run.json").is_file():
            raise ValueError(f"`run` (={run.path}) has no run.json: name a folder that `halfstride train` wrote.")
        return run

    @property
    def record(self) -> dict[str, Any]:
        """What the run was started with."""
        return self._parsed("run.json", (self.path / "run.json").read_text(encoding="utf-8"))

    @property
    def image_options(self) -> ImageOptions:
        """Where the run's images came from and how they were prepared."""
        return ImageOptions.from_record(self.record.get("data") or {})

    @property
    def training_options(self) -> TrainingOptions:
        """How the run was trained."""
        return TrainingOptions.from_record(self.record.get("training"))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the run's model; empty where there is no model yet."""
        path = self.path / "config.json"
        return self._parsed("config.json", path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def stages(self) -> list[int]:
        """The steps of the first training, and of each that was added."""
        stages = self.record.get("stages")
        if (
            not isinstance(stages, list)
            or not stages
            or not all(isinstance(steps, int) and steps > 0 for steps in stages)
        ):
            raise ValueError(f"`{self.path / 'run.json'}` is damaged (stages={stages}): restore it, or train again.")
        return stages

    @property
    def image_parts(self) -> list[tuple[str, str]]:
        """The part ("train", "validation" or "test") and the name of each image; empty for streams.

        Raises:
            ValueError: where the list is damaged.
        """
        lines = [line.partition("\t") for line in self._lines("images.txt") if line.strip()]
        if wrong := [part for part, _, name in lines if part not in ("train", "validation", "test") or not name]:
            raise ValueError(f"`{self.path / 'images.txt'}` is damaged ({wrong[0]!r}): restore it, or train again.")
        return [(part, name) for part, _, name in lines]

    def has_images(self, images: Images) -> bool:
        """Whether these are the run's images, in the same parts; False where the run has no list of them (streams)."""
        return bool(before := self._lines("images.txt")) and before == _image_lines(images)

    def check_images(self, images: Images) -> None:
        """Raise where a run would go on with other images, and name them; where they lie does not matter.

        Raises:
            ValueError: where images were added, removed or renamed, or are prepared in another way.
        """
        before, now = self._lines("images.txt"), _image_lines(images)
        if before != now:
            added = [line.partition("\t")[2] for line in sorted(set(now) - set(before))]
            gone = [line.partition("\t")[2] for line in sorted(set(before) - set(now))]
            told = [
                f"{what} or for another part: {len(names):,} ({', '.join(names[:3] + ['...'] * (len(names) > 3))})"
                for names, what in ((added, "new"), (gone, "gone"))
                if names
            ]
            raise ValueError(
                f"`images` are not those that {self.path} was started with: {'; '.join(told) or 'another order'}. "
                "Bring the data back, or start a new run."
            )
        recorded = self.record.get("data")
        for name, value in _prepared(images).items():
            known = recorded.get(name) if isinstance(recorded, dict) else value
            if name == "clean":  # a folder that may have been moved
                known, value = known is not None, value is not None
            if known != value:
                raise ValueError(
                    f"`{name}` (={value}) of the images cannot change in a run that is resumed, where it is {known}: "
                    "load them as before, or start a new run."
                )

    def _lines(self, name: str) -> list[str]:
        path = self.path / name
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []

    def _parsed(self, name: str, text: str) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"`{self.path / name}` is damaged ({error}): restore it, or train again.") from error
        if not isinstance(value, dict):
            raise ValueError(f"`{self.path / name}` is damaged (no JSON object): restore it, or train again.")
        return value

    # The model, ready to use --------------------------------------------------------------------------------------

    def save_model(self, model: Autoencoder) -> None:
        with temporary_folder(self.path) as folder:
            if isinstance(model, EncoderAutoencoder):
                from safetensors.torch import save_file

                (folder / "config.json").write_text(json.dumps(model.config(), indent=2) + "\n", encoding="utf-8")
                save_file(_plain(model.state_dict()), folder / "model.safetensors")
            else:
                model.save_pretrained(folder)
                if (self.path / "README.md").exists():  # the card of a finished training says more
                    (folder / "README.md").unlink()
            move_files(folder, self.path)

    def load_model(self, encoder: nn.Module | None = None) -> Autoencoder:
        """The trained model, in evaluation mode.

        Args:
            encoder: for a run with an encoder of the user's own: one of the same architecture, which gets the run's
                weights. The run only knows its name, and nothing is imported by that.

        Raises:
            ValueError: where files are missing or damaged, or the encoder is missing or not the run's.
        """
        for pickle in ("pytorch_model.bin", "model.pt", "model.pth", "model.pkl"):
            if (self.path / pickle).exists() and not (self.path / "model.safetensors").exists():
                raise ValueError(
                    f"`{self.path / pickle}` is a pickle, which can run code: only model.safetensors is read; "
                    "convert it with safetensors where you trust it."
                )
        config = self.config
        if "encoder" not in config:
            if encoder is not None:
                raise ValueError(f"`encoder` must be left out: {self.path} was trained without one of your own.")
            return ConvAutoencoder.from_pretrained(self.path)
        if encoder is None:
            raise ValueError(
                f"`encoder` (=None) must be given again for {self.path}, by --encoder: it was trained with one that is "
                f"called {config['encoder']}."
            )
        model = EncoderAutoencoder.from_config(config, encoder)
        self.load_weights(model)
        return model.eval()

    def load_weights(self, model: nn.Module) -> None:
        """Put the weights that are kept into a model of the run's shape."""
        from safetensors.torch import load_file

        model.load_state_dict(load_file(self.path / "model.safetensors"))

    # Metrics ------------------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One entry per scoring; empty lines, and a last one that a crash cut off, are left out.

        Raises:
            ValueError: for a line that is no entry.
        """
        lines = [(number, line) for number, line in enumerate(self._lines("metrics.jsonl"), 1) if line.strip()]
        entries = []
        for number, line in lines:
            try:
                entry = json.loads(line)
                values = [entry[name] for name in _METRICS]
                if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
                    raise ValueError(f"values {values}")
            except (ValueError, TypeError, LookupError) as error:
                if isinstance(error, json.JSONDecodeError) and number == lines[-1][0]:
                    break
                where = f"`{self.path / 'metrics.jsonl'}` is damaged at line {number}"
                raise ValueError(f"{where}: restore it, or train again.") from None
            entries.append(entry)
        return entries

    def write_metrics(self, entries: list[dict[str, Any]]) -> None:
        self._write_text("metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))

    # The checkpoint -----------------------------------------------------------------------------------------------

    def save_checkpoint(self, model: nn.Module, optimizer: torch.optim.Optimizer, position: dict[str, Any]) -> None:
        """Write all that a resumed training needs to a single file, so that it is always of one moment."""
        from safetensors.torch import save_file

        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        with writing(self.path / "checkpoint.safetensors") as temporary, storage_errors():
            save_file(_plain(tensors), temporary, metadata={"position": json.dumps(position)})

    def load_checkpoint(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Put the checkpoint into model and optimiser, and return the position it was written at.

        Raises:
            ValueError: where there is none, or it is damaged or of another model.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path / "checkpoint.safetensors"
        if not path.is_file():
            raise ValueError(f"`{path}` does not exist: this run cannot be resumed; start a new one.")
        try:
            with safe_open(path, framework="pt") as file:
                position = json.loads((file.metadata() or {})["position"])
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                if name.startswith("optimizer."):
                    _, index, key = name.split(".")
                    state.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            # The fused optimiser walks a weight and its moments through memory alike, so their layouts must agree.
            for parameter, moments in optimizer.state.items():
                for key, value in moments.items():
                    if value.ndim and value.shape != parameter.shape:
                        raise ValueError("other parameters were trained")
                    if value.ndim:
                        moments[key] = torch.empty_like(parameter).copy_(value)
        except (SafetensorError, RuntimeError, LookupError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"`{path}` cannot be read ({reason}): start a new run.") from error
        assert isinstance(position, dict)
        return position

    # Pictures -----------------------------------------------------------------------------------------------------

    def save_figure(self, name: str, figure: Any) -> Path:
        path = self.path / name
        with writing(path) as temporary:
            figure.savefig(temporary, format="png")
        return path

    # Evaluation and card ------------------------------------------------------------------------------------------

    @property
    def evaluation(self) -> Evaluation | None:
        """What `evaluate` said at the end of the training; None before that."""
        from halfstride.autoencoder.evaluation import Evaluation

        path = self.path / "evaluation.json"
        if not path.is_file():
            return None
        return Evaluation.from_dict(self._parsed(path.name, path.read_text(encoding="utf-8")))

    def save_evaluation(self, evaluation: Evaluation, card: str) -> None:
        """Write what `evaluate` returned, and the model card that tells of it."""
        self._write_text("evaluation.json", json.dumps(evaluation.to_dict(), indent=2) + "\n")
        self._write_text("README.md", card)

    def _write_text(self, name: str, text: str) -> None:
        with writing(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors stores them: contiguous, and none that shares memory with another.

    Weights in memory format channels_last come back into their places all the same.
    """
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _prepared(images: Images) -> dict[str, Any]:
    """How images are prepared, as JSON keeps it."""
    options = images.options
    size = None if options.size is None else list(options.size)
    return {
        "size": size, "channels": options.channels, "fit": options.fit, "white": options.white, "clean": options.clean
    }  # fmt: skip


def _image_lines(images: Images) -> list[str]:
    """Each image's part and name, a line each; none for streams."""
    parts = (("train", images.train), ("validation", images.validation), ("test", images.test))
    return [f"{part}\t{name}" for part, split in parts for name in split.names or ()]
