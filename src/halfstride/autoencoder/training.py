"""The training loop, on one device or, under `torchrun`, on many."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from halfstride.autoencoder.augmentation import augment, jitter
from halfstride.autoencoder.corruption import corrupt, parse_corruptions
from halfstride.autoencoder.devices import within_memory
from halfstride.autoencoder.distributed import Processes
from halfstride.autoencoder.draws import Draw
from halfstride.autoencoder.images import Images, to_float
from halfstride.autoencoder.images.splits import inputs_and_targets
from halfstride.autoencoder.memory import require_training_memory
from halfstride.autoencoder.minutes import Minutes
from halfstride.autoencoder.objective import Objective, latent_noise
from halfstride.autoencoder.own_encoder import Autoencoder, EncoderAutoencoder
from halfstride.autoencoder.progress import Interrupted, Progress, StopSignal
from halfstride.autoencoder.run_folder import WAY_OUT, Run
from halfstride.autoencoder.scoring import Corrupt
from halfstride.autoencoder.training_options import TrainingOptions, sample_of
from halfstride.autoencoder.validation import Validation
from halfstride.autoencoder.writing import require_free

_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_STEPS_BETWEEN_REPORTS = 20
_SCORINGS = 20  # per training
_WARM_UP = 0.1  # share of the steps over which the learning rate rises, and the weight of a variational model's KL


@dataclass
class Position:
    """Where a training stands: the next step, the sums since the last scoring, and which model is kept."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    error_sum: float = 0.0
    images: int = 0
    best: float = math.inf
    best_step: int = 0


def train(
    model: Autoencoder,
    images: Images,
    out: str | Path,
    options: TrainingOptions | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train an autoencoder and write the run's folder.

    A model that was not trained before (whose weights were not loaded) starts from the images:
    `ConvAutoencoder.initialise`; `model.untrained = False` keeps the weights that it has. Of all scorings, the model
    with the least loss on every second validation image is kept. The same seed, machine, threads and versions give
    the same run. Under `torchrun` or `accelerate launch` the processes share each batch and give the loss curve of one
    process, and the first of them writes the files.

    Args:
        model: the model; it is trained in place and ends with the weights that are kept, in evaluation mode.
        images: what `load_images` returned.
        out: the run's folder; new or empty, except with `resume`.
        options: how to train.
        resume: go on where the run in `out` was interrupted, from its last checkpoint; a finished run is given the
            `steps`, `epochs` or `minutes` of the options in addition, with a new warm-up and cosine.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.
        progress: show a progress bar, and a line for each scoring.

    Returns:
        One entry per scoring, 20 in all (for a length in minutes no more than a quarter of it allows), or one per step
        where those are fewer: `step`, `epoch` (passes over the training images so far), `train_mse` (the mean over the
        images since the last scoring, augmented and as they were met), `validation_mse`, `validation_loss` (what the
        kept model has least of), `test_mse`, `test_psnr` and `test_ssim` (of the same 500 and 128 test images every
        time), `learning_rate`, `seconds`, `scoring_seconds` and `images_per_second`.

    Raises:
        ValueError: where options, model and images don't fit, the folder is not free, or memory is exhausted.
        FloatingPointError: where the loss is no longer finite; the last good checkpoint stays.
        Interrupted: after Ctrl-C, once everything is saved.
    """
    if model.channels != images.shape[0] or (not model.takes_any_size and model.image_size != tuple(images.shape[1:])):
        raise ValueError(
            f"`model` takes {model.channels}×{model.image_size[0]}×{model.image_size[1]}, but `images` are "
            f"{'×'.join(map(str, images.shape))}: build the model with image_size={tuple(images.shape[1:])} and "
            f"channels={images.shape[0]}."
        )
    options = options or TrainingOptions()
    length = options.length
    if resume:
        run = Run.open(out)
        run.check_images(images)
        options = run.training_options.resumed(options)
    options = options.chosen(model, images)
    processes = Processes(options.precision, device, Path(out) if options.tensorboard else None)
    if not resume:
        processes.main_first(lambda: require_free(Path(out), WAY_OUT))
    assert options.batch_size is not None
    if processes.device.type == "cpu":
        require_training_memory(model, images.shape, options.batch_size, options.crop or 0, processes.count)
    with within_memory(options.batch_size), StopSignal() as stop:
        if model.untrained and not resume:
            model.initialise(sample_of(images))
        training = _Training(model, images, Run(out), options, processes, stop)
        training.open(length, resume)
        try:
            with Progress(sum(training.stages), progress and processes.is_main) as bar:
                training.loop(bar)
        except (ValueError, RuntimeError):
            if processes.is_main and not resume and training.position.step == 0:
                training.run.discard()  # so that the same command with another batch size finds its folder free
            raise
    processes.end()
    model.eval()
    return training.metrics


def corruption_of(options: TrainingOptions) -> Corrupt | None:
    """What a run does to its inputs, for `scores` and `evaluate`: each image always gets the same; None for nothing."""
    corruptions = parse_corruptions(options.corruption)
    if not corruptions:
        return None
    return lambda images, first: corrupt(
        images, corruptions, Draw.of_images(options.seed, range(first, first + len(images)))
    )


class _Training:
    """One training: the model, the optimiser, the position, and the run that it writes."""

    def __init__(
        self,
        model: Autoencoder,
        images: Images,
        run: Run,
        options: TrainingOptions,
        processes: Processes,
        stop: StopSignal,
    ) -> None:
        self.model, self.images, self.run, self.options = model, images, run, options
        self.processes, self.stop = processes, stop
        self.stages: list[int] = []
        self.minutes: Minutes | None = None
        """Of the last stage, where its length is in minutes and it begins in this process."""
        self.position = Position()
        self.metrics: list[dict[str, Any]] = []
        self.save_due = False
        self.corruptions = parse_corruptions(options.corruption)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = self._new_optimizer()
        objective = Objective(model, options)
        self.replica = processes.accelerator.prepare_model(objective)
        self.validation = Validation(objective, images, processes, corruption_of(options))

    def _new_optimizer(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        decay = self.options.weight_decay
        return torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.99), weight_decay=decay, fused=True)

    # The loop -----------------------------------------------------------------------------------------------------

    def loop(self, bar: Progress) -> None:
        """Train to the end of the last stage, and put the weights that are kept into the model."""
        position = self.position
        self.replica.train()
        errors = torch.zeros((), dtype=torch.float64, device=self.processes.device)  # not yet in the position
        started = saved = time.monotonic()
        if self.minutes:
            self.minutes.begin()
        images_before, step_before = position.images, position.step
        batches = self._batches()
        while position.step < (total := sum(self.stages)):
            batch, count, stops, saves = next(batches)
            if saves or stops or position.step % _STEPS_BETWEEN_REPORTS == 0:
                self._add(errors)  # a GPU waits for this, so not in every step
                speed = (position.images - images_before) / max(time.monotonic() - started, 1e-9)
                bar.report(position.step, position.error_sum / max(position.images, 1), speed)
            if saves or stops:
                self.save()
                saved = time.monotonic()
            if stops:
                way = f"halfstride train --out {self.run.path} --resume"
                way = "train(..., resume=True)" if self.images.options.source is None else way
                raise Interrupted(f"Stopped after step {position.step:,} of {total:,} and saved. Go on with: {way}")
            errors += self._step(batch, count, self._learning_rate(position.step))
            position.images += count
            position.step += 1
            position.step_in_epoch += 1
            self.save_due = time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS
            stage = self.stages[-1]
            done = position.step - sum(self.stages[:-1])
            # 20 times in each training, the last time at its end.
            due = done * _SCORINGS // stage > (done - 1) * _SCORINGS // stage
            if due and (done == stage or not (self.minutes and self.minutes.scores_enough(self._stage_metrics()))):
                self._add(errors)
                self._score(bar, position.images - images_before, time.monotonic() - started)
                self._change_length(position.step - step_before, bar)
                self.save()
                started = saved = time.monotonic()
                images_before, step_before = position.images, position.step
        self.processes.accelerator.wait_for_everyone()  # until the first has written the weights
        if position.best_step:
            self.run.load_weights(self.model)

    def _batches(self) -> Iterator[tuple[Tensor, int, bool, bool]]:
        """This process's share of each step, the images of all shares, and whether to stop and to save before it."""
        position, processes, options = self.position, self.processes, self.options
        assert options.batch_size is not None
        while True:
            batches = self.images.train.batches(
                options.batch_size,
                seed=options.seed,
                epoch=position.epoch,
                shuffle=True,
                rank=processes.rank,
                world_size=processes.count,
                skip=position.step_in_epoch,
            )
            while True:
                batch = next(batches, None)
                count, stops, saves = processes.sum(0 if batch is None else len(batch), self.stop.asked, self.save_due)
                if batch is None or count == 0:
                    break
                yield batch, int(count), bool(stops), bool(saves)
            if position.step_in_epoch == 0:
                raise ValueError("`images` have no image to train on any more: bring the data back.")
            position.epoch, position.step_in_epoch = position.epoch + 1, 0

    def _step(self, batch: Tensor, count: int, rate: float) -> Tensor:
        """Take one optimiser step on this process's share of `count` images; return the sum of its images' MSE."""
        options, processes = self.options, self.processes
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        draw = Draw(options.seed, self.position.step, count, processes.rank, processes.count)
        assert options.augment is not None
        batch = augment(batch, options.augment, draw, crop=options.crop or None, shift=options.shift or 0)
        inputs, target = inputs_and_targets(batch.to(processes.device, non_blocking=True))
        target = to_float(target)
        inputs = to_float(inputs) if batch.ndim == 5 else target
        if options.jitter:
            target = jitter(target, options.jitter, draw)
            inputs = jitter(inputs, options.jitter, draw) if batch.ndim == 5 else target
        if self.corruptions:
            inputs = corrupt(inputs, self.corruptions, draw)
        counts = float(len(batch) > 0)
        if not counts:  # torch has no gradients of no images, so this share is one image that counts nothing
            inputs = target = target.new_zeros(1, *target.shape[1:])
        noise = latent_noise(self.model, draw, inputs) if self.model.variational else None
        warm = min(1.0, (self.position.step + 1) / (_WARM_UP * self.stages[0]))
        with processes.accelerator.autocast():
            per_image, errors = self.replica(inputs, target, noise, warm)
        # The mean of the processes' gradients is then that over all images, whatever their shares.
        (per_image.sum() * (counts * processes.count / count)).backward()
        nn.utils.clip_grad_norm_(self.replica.parameters(), options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return counts * errors.sum()  # type: ignore[no-any-return]

    def _learning_rate(self, step: int) -> float:
        """The rate of one step of its stage: up on a line, then down on half a cosine."""
        steps = self.stages[-1]
        step -= sum(self.stages[:-1])
        assert self.options.learning_rate is not None
        warm_up = max(1, round(_WARM_UP * steps))
        if step < warm_up:
            return self.options.learning_rate * (step + 1) / warm_up
        return self.options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))

    def _add(self, errors: Tensor) -> None:
        """Move the errors of all processes into the position."""
        self.position.error_sum += self.processes.sum(errors.item())[0]
        errors.zero_()
        self._check_finite()

    def _score(self, bar: Progress, images: int, seconds: float) -> None:
        """Score the model, keep it if it is the best so far, and start new sums."""
        position, options, started = self.position, self.options, time.monotonic()
        within = position.step_in_epoch * (options.batch_size or 0) / (self.images.train.size or math.inf)
        entry = {
            "step": position.step,
            "epoch": round(position.epoch + min(within, 1.0), 3),
            "train_mse": position.error_sum / position.images,
            **self.validation.score(),
            "learning_rate": self._learning_rate(position.step - 1),
            "seconds": round(seconds, 3),
            "images_per_second": round(images / max(seconds, 1e-9), 1),
        }
        entry["scoring_seconds"] = round(time.monotonic() - started, 3)
        if not all(math.isfinite(value) for value in entry.values() if value is not None):
            self._fail()
        self.metrics.append(entry)
        position.error_sum, position.images = 0.0, 0
        if best := entry["validation_loss"] < position.best:
            position.best, position.best_step = entry["validation_loss"], position.step
        bar.show(entry, best)
        self.processes.track(entry)
        if self.processes.is_main:
            # Metrics before checkpoint: a crash in between leaves a line too many, which a resumed run drops.
            self.run.write_metrics(self.metrics)
            if best:
                self.run.save_model(self.model)

    def _steps_in(self, minutes: Minutes) -> int:
        """How many steps fit into a length in minutes: some are taken, timed and undone."""
        import torchmetrics.functional.image  # noqa: F401  # the first scoring would load it, which takes a second

        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        kept = self.optimizer, self.position, self.stages
        self.optimizer, self.position, self.stages = self._new_optimizer(), replace(self.position), [1]
        self.model.train()
        times = [time.monotonic()]
        try:
            for batch, count, stops, _ in self._batches():
                if stops:
                    raise Interrupted("Stopped before the first step: nothing was written.")
                self._step(batch, count, 1e-9)
                self.position.step_in_epoch += 1
                times.append(time.monotonic())
                if minutes.is_timed(times):
                    break
            self.validation.score()
        finally:
            self.model.load_state_dict(state)
            self.optimizer, self.position, self.stages = kept
        return minutes.steps(times, scoring=time.monotonic() - times[-1])

    def _stage_metrics(self) -> list[dict[str, Any]]:
        before = sum(self.stages[:-1])
        return [entry for entry in self.metrics if entry["step"] > before]

    def _change_length(self, steps: int, bar: Progress) -> None:
        """Change a length in minutes where the `steps` since the scoring before were not as fast as expected."""
        if self.minutes is None:
            return
        done, planned = self.position.step - sum(self.stages[:-1]), self.stages[-1]
        self.stages[-1] = self.minutes.changed(self._stage_metrics(), steps, done, planned)
        if self.stages[-1] != planned:
            bar.set_steps(sum(self.stages))
            if self.processes.is_main:
                self.run.write_record(self.run.record | {"stages": self.stages})

    # The run's folder ---------------------------------------------------------------------------------------------

    def open(self, length: dict[str, Any], resume: bool) -> None:
        """Create the run, or load its last checkpoint; `length` is what was asked for."""
        unfinished = resume and self._load(length)
        self.processes.accelerator.wait_for_everyone()  # all have read the record before it changes
        if not resume or (length and not unfinished):
            if self.options.minutes:
                self.minutes = Minutes(self.options.minutes, _SCORINGS, self.processes)
            steps = self._steps_in(self.minutes) if self.minutes else self.options.steps
            assert steps is not None
            self.stages = [*self.stages, steps]
        self.processes.main_first(lambda: self._write(length, resume))

    def _load(self, length: dict[str, Any]) -> bool:
        """Load the run's last checkpoint; return whether steps are left."""
        found = self.run.load_checkpoint(self.model, self.optimizer)
        kinds = {field.name: int if field.type == "int" else float for field in dataclasses.fields(Position)}
        if {name: type(value) for name, value in found.items()} == kinds:
            self.position = Position(**found)
        else:
            raise ValueError(
                f"`{self.run.path}` was written by another version: train on with that one, or start a new run."
            )
        self.metrics = [entry for entry in self.run.metrics if entry["step"] <= self.position.step]
        self.stages = self.run.stages
        unfinished = self.position.step < sum(self.stages)
        if unfinished and length not in ({}, self.run.record.get("length")):
            told = ", ".join(f"`{name}` (={value})" for name, value in length.items())
            raise ValueError(
                f"{told} cannot be added yet: {self.run.path} stands at step {self.position.step:,} of "
                f"{sum(self.stages):,}; resume it without, and then again."
            )
        return unfinished

    def _write(self, length: dict[str, Any], resume: bool) -> None:
        images = self.images
        if resume:
            record = self.run.record
            record |= {"stages": self.stages, "length": length or record.get("length")}
            if images.options.source is not None:
                record["data"] = dataclasses.asdict(images.options)  # they may have been moved
            self.run.write_record(record)
            return
        record = {
            "training": dataclasses.asdict(replace(self.options, steps=None, minutes=None)),
            "stages": self.stages,
            "length": length,
            "data": dataclasses.asdict(images.options),
            "images": {"train": images.train.size, "validation": images.validation.size, "test": images.test.size},
            "classes": images.classes,
            "encoder": self.model.encoder_name if isinstance(self.model, EncoderAutoencoder) else None,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        self._check_finite()
        with self.run.create(record, images) as started:  # resumable from its very start
            started.save_model(self.model)
            started.save_checkpoint(self.model, self.optimizer, dataclasses.asdict(self.position))

    def save(self) -> None:
        """Write a checkpoint, of a run that is only being created into that one."""
        self._check_finite()
        if self.processes.is_main:
            self.run.save_checkpoint(self.model, self.optimizer, dataclasses.asdict(self.position))

    def _check_finite(self) -> None:
        finite = all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
        if not finite or not math.isfinite(self.position.error_sum):
            self._fail()

    def _fail(self) -> None:
        if self.position.step == 0:
            raise FloatingPointError("`model` has weights that are no finite numbers: train another one.")
        raise FloatingPointError(
            f"The loss is no longer finite. {self.run.path} keeps the last good checkpoint; "
            "start a new run with a smaller learning rate."
        )
