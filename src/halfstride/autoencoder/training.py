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
from halfstride.autoencoder.model import ConvAutoencoder
from halfstride.autoencoder.objective import Objective
from halfstride.autoencoder.own_encoder import Autoencoder, EncoderAutoencoder
from halfstride.autoencoder.progress import Interrupted, Progress, StopSignal
from halfstride.autoencoder.run_folder import Run
from halfstride.autoencoder.scoring import Corrupt, evaluation_batch_size, scores
from halfstride.autoencoder.training_options import TrainingOptions, sample_of
from halfstride.autoencoder.writing import require_free

__all__ = ["Position", "TrainingOptions", "corruption_of", "train"]

_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_STEPS_BETWEEN_REPORTS = 20
_SCORINGS = 20  # per training
_TEST_IMAGES = 500  # that each scoring looks at; the whole set is for `evaluate`
_SSIM_IMAGES = 128  # of these
_WARM_UP = 0.1  # share of the steps over which the learning rate rises, and the weight of a variational model's KL
_TIMED_SECONDS = 5.0  # for which steps are timed where the length is in minutes


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
    with the least loss on the validation images is kept. The same seed, machine, thread count and versions give
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
        One entry per scoring, 20 in all, or one per step where those are fewer: `step`, `epoch` (passes over the
        training images so far), `train_mse` (the mean over the images since the last scoring, augmented and as they
        were met), `validation_mse`, `validation_loss` (what the kept model has least of), `test_mse`, `test_psnr` and
        `test_ssim` (of the same 500 and 128 test images every time), `learning_rate`, `seconds`, `scoring_seconds` and
        `images_per_second`.

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
        options = _resumed(Run.open(out), options, images)
    options = options.chosen(model, images)
    processes = Processes(options.precision, device, Path(out) if options.tensorboard else None)
    if not resume:
        processes.main_first(lambda: require_free(Path(out), "or go on with that run by --resume"), lambda: None)
    with within_memory(options.batch_size), StopSignal() as stop:
        if model.untrained and not resume:
            _start(model, images)
        training = _Training(model, images, Run(out), options, processes, stop)
        training.open(length, resume)
        try:
            with Progress(sum(training.stages), progress and processes.is_main) as bar:
                training.go(bar)
        except (ValueError, RuntimeError):
            if processes.is_main and not resume and training.position.step == 0:
                training.run.discard()  # it holds nothing, and the same command with another batch size needs its place
            raise
    processes.end()
    model.eval()
    return training.metrics


def _start(model: Autoencoder, images: Images) -> None:
    """Let an untrained model start from the images; what is frozen in it stays as it is."""
    frozen = [
        (parameter, parameter.detach().clone()) for parameter in model.parameters() if not parameter.requires_grad
    ]
    model.initialise(sample_of(images))
    with torch.no_grad():
        for parameter, value in frozen:
            parameter.copy_(value)
    model.untrained = False


def corruption_of(options: TrainingOptions) -> Corrupt | None:
    """What a run does to its inputs, for `scores` and `evaluate`: each image always gets the same; None for nothing."""
    corruptions = parse_corruptions(options.corruption)
    if not corruptions:
        return None
    return lambda images, first: corrupt(
        images, corruptions, Draw.of_images(options.seed, range(first, first + len(images)))
    )


class _Training:
    """One training: the model, the optimiser, where it stands, and the run that it writes."""

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
        self.position = Position()
        self.metrics: list[dict[str, Any]] = []
        self._save_due = False
        self.corruptions = parse_corruptions(options.corruption)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = self._new_optimizer()
        self.replica = processes.prepare(Objective(model, options))
        self.test_images = images.test.sample(_TEST_IMAGES).images

    def _new_optimizer(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        assert self.options.learning_rate is not None
        return torch.optim.AdamW(
            trained,
            lr=self.options.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.options.weight_decay,
            fused=True,
        )

    # The run's folder ---------------------------------------------------------------------------------------------

    def open(self, length: dict[str, Any], resume: bool) -> None:
        """Create the run, or bring back its last checkpoint; `length` is what was asked for."""
        unfinished = resume and self._bring_back(length)
        self.processes.main_first(lambda: None, lambda: None)  # all have read the record before it changes
        if not resume or (length and not unfinished):
            options = self.options
            steps = self._steps_in(options.minutes) if options.minutes else options.steps
            assert steps is not None
            self.stages = [*self.stages, steps]
        self.processes.main_first(lambda: self._write(length, resume), lambda: None)

    def _bring_back(self, length: dict[str, Any]) -> bool:
        """Take up the run where its checkpoint stands; return whether steps of it are left."""
        try:
            self.position = Position(**self.run.load_checkpoint(self.model, self.optimizer))
        except TypeError:
            raise ValueError(
                f"`{self.run.path}` was written by another version: train on with that one, or start a new run."
            ) from None
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
        if resume:
            record = self.run.record
            record |= {"stages": self.stages, "length": length or record.get("length")}
            if self.images.options.source is not None:
                record["data"] = dataclasses.asdict(self.images.options)  # where it lies now
            self.run.write_record(record)
            return
        images = self.images
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
        self.run.create(record, images)
        self.run.save_model(self.model)
        self.save()  # so that a run can be resumed from its very start

    def save(self) -> None:
        self._check_finite()
        if self.processes.is_main:
            self.run.save_checkpoint(self.model, self.optimizer, dataclasses.asdict(self.position))

    # Steps --------------------------------------------------------------------------------------------------------

    def go(self, bar: Progress) -> None:
        """Train to the end of the last stage."""
        total, position = sum(self.stages), self.position
        self.replica.train()
        errors = torch.zeros((), dtype=torch.float64, device=self.processes.device)  # of the steps since the last look
        last_save = started = time.monotonic()
        images_before = position.images
        if position.step < total:
            for batch, count, stops, saves in self._batches():
                if position.step % _STEPS_BETWEEN_REPORTS == 0 or saves or stops:
                    # Asking for a number makes a GPU wait, so not in every step.
                    self._add(errors)
                    speed = (position.images - images_before) / max(time.monotonic() - started, 1e-9)
                    bar.report(position.step, position.error_sum / max(position.images, 1), speed)
                if saves or stops:
                    self.save()
                    last_save = time.monotonic()
                if stops:
                    raise Interrupted(
                        f"Stopped after step {position.step:,} of {total:,} and saved. Go on with: {self._way_on()}"
                    )
                rate = self._learning_rate(position.step)
                errors += self._step(batch, count, rate)
                position.images += count
                position.step += 1
                position.step_in_epoch += 1
                self._save_due = time.monotonic() - last_save > _SECONDS_BETWEEN_CHECKPOINTS
                if not self._is_scored(position.step):
                    continue
                self._add(errors)
                self._finish_scoring(bar, rate, position.images - images_before, time.monotonic() - started)
                self.save()
                last_save = started = time.monotonic()
                images_before = position.images
                if position.step == total:
                    break
        self.processes.main_first(lambda: None, lambda: None)  # the others wait until the file is whole
        if position.best_step:
            self.run.load_weights(self.model)

    def _batches(self) -> Iterator[tuple[Tensor, int, bool, bool]]:
        """This process's share of each step, how many images all have in it, and whether to stop or to save."""
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
                count, stops, saves = processes.sum(0 if batch is None else len(batch), self.stop.asked, self._save_due)
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
        counts = 1.0
        if not len(batch):  # torch has no gradients of no images: such a share takes part with one that counts nothing
            inputs = target = target.new_zeros(1, *target.shape[1:])
            counts = 0.0
        noise = self._noise(draw, inputs) if self.model.variational else None
        warm = min(1.0, (self.position.step + 1) / (_WARM_UP * self.stages[0])) if self.stages else 1.0
        with processes.autocast():
            per_image, errors = self.replica(inputs, target, noise, warm)
        # Averaging the processes' gradients must give the mean over all images, however unevenly they were shared.
        (per_image.sum() * (counts * processes.count / count)).backward()
        nn.utils.clip_grad_norm_(self.replica.parameters(), options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return counts * errors.sum()  # type: ignore[no-any-return]

    def _noise(self, draw: Draw, inputs: Tensor) -> Tensor:
        """Standard normal numbers for each image's latents."""
        shape = self.model.latent_shape
        if isinstance(self.model, ConvAutoencoder) and self.model.takes_any_size:
            shape = (self.model.latent_dim, *self.model.map_size(inputs.shape[-2:]))
        noise = [torch.randn(shape, generator=generator) for generator in draw.generators("latent")]
        return torch.stack(noise).to(inputs.device) if noise else inputs.new_zeros(len(inputs), *shape)

    def _is_scored(self, step: int) -> bool:
        """Whether the model is scored after so many steps: 20 times in each training, the last time at its end."""
        steps = self.stages[-1]
        done = step - sum(self.stages[:-1])
        return done * _SCORINGS // steps > (done - 1) * _SCORINGS // steps

    def _learning_rate(self, step: int) -> float:
        """The rate of one step out of its stage: up on a line, then down on half a cosine."""
        steps = self.stages[-1]
        step -= sum(self.stages[:-1])
        assert self.options.learning_rate is not None
        warm_up = max(1, round(_WARM_UP * steps))
        if step < warm_up:
            return self.options.learning_rate * (step + 1) / warm_up
        return self.options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))

    # Scores -------------------------------------------------------------------------------------------------------

    def _add(self, errors: Tensor) -> None:
        self.position.error_sum += self.processes.sum(errors.item())[0]
        errors.zero_()
        self._check_finite()

    def _finish_scoring(self, bar: Progress, rate: float, images: int, seconds: float) -> None:
        """Score the model, keep it if it is the best so far, and start new sums."""
        position, started = self.position, time.monotonic()
        entry = {"step": position.step, "epoch": self._epochs(), "train_mse": position.error_sum / position.images}
        entry |= self._score()
        entry |= {
            "learning_rate": rate,
            "seconds": round(seconds, 3),
            "scoring_seconds": round(time.monotonic() - started, 3),
            "images_per_second": round(images / max(seconds, 1e-9), 1),
        }
        if not all(math.isfinite(value) for value in entry.values() if value is not None):
            self._fail()
        self.metrics.append(entry)
        best = entry["validation_loss"] < position.best
        self.position.error_sum, self.position.images = 0.0, 0
        if best:
            position.best, position.best_step = entry["validation_loss"], position.step
        bar.show(entry, best)
        self.processes.track(entry)
        if self.processes.is_main:
            # Metrics before checkpoint: a crash in between leaves a line too many, which a resumed run drops.
            self.run.write_metrics(self.metrics)
            if best:
                self.run.save_model(self.model)

    def _score(self) -> dict[str, Any]:
        size = evaluation_batch_size(self.images.shape, self.processes.count)
        rank, count, device = self.processes.rank, self.processes.count, self.processes.device
        corrupted = corruption_of(self.options)
        validation = self.images.validation.batches(size, rank=rank, world_size=count)
        found = scores(self.model, validation, device, ssim_images=0, corrupt=corrupted)
        test = (batch[rank::count] for batch in torch.split(self.test_images, size))
        tested = scores(self.model, test, device, ssim_images=_SSIM_IMAGES // count, corrupt=corrupted)
        return {
            "validation_mse": found.mse,
            "validation_loss": found.mse if self._is_mse() else self._validation_loss(size, corrupted),
            "test_mse": tested.mse,
            "test_psnr": tested.psnr,
            "test_ssim": tested.ssim,
        }

    def _is_mse(self) -> bool:
        return self.options.loss == "mse" and not self.model.variational

    @torch.inference_mode()
    def _validation_loss(self, size: int, corrupted: Corrupt | None) -> float:
        """The mean over the validation images of what the training minimises; in each process of all of them."""
        self.model.eval()
        objective = Objective(self.model, self.options)
        total, seen = 0.0, 0
        for batch in self.images.validation.batches(size):
            inputs, target = (to_float(images.to(self.processes.device)) for images in inputs_and_targets(batch))
            inputs = inputs if corrupted is None else corrupted(inputs, seen)
            total += float(objective(inputs, target)[0].double().sum())
            seen += len(batch)
        self.model.train()
        return total / seen

    def _epochs(self) -> float:
        """Passes over the training images so far."""
        size = self.images.train.size
        assert self.options.batch_size is not None
        within = 0.0 if size is None else self.position.step_in_epoch * self.options.batch_size / size
        return round(self.position.epoch + min(within, 1.0), 3)

    def _steps_in(self, minutes: float) -> int:
        """How many steps fit into so many minutes: some are taken, timed and undone."""
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
                # The same for all processes: the main one's clock decides.
                over = self.processes.is_main and times[-1] - times[0] > min(_TIMED_SECONDS, 3 * minutes)
                if self.processes.sum(over)[0] and len(times) > 6:
                    break
            self._score()
        finally:
            self.model.load_state_dict(state)
            self.optimizer, self.position, self.stages = kept
        scoring = time.monotonic() - times[-1]
        per_step = (times[-1] - times[2]) / (len(times) - 3)  # the first two warm up
        steps = max(1, int((60 * minutes - _SCORINGS * scoring) / per_step))
        return int(self.processes.sum(steps if self.processes.is_main else 0)[0])

    # Ends ---------------------------------------------------------------------------------------------------------

    def _way_on(self) -> str:
        if self.images.options.source is None:
            return "train(..., resume=True)"
        return f"halfstride train --out {self.run.path} --resume"

    def _check_finite(self) -> None:
        finite = all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
        if not finite or not math.isfinite(self.position.error_sum):
            self._fail()

    def _fail(self) -> None:
        raise FloatingPointError(
            f"The loss is no longer finite. {self.run.path} keeps the last good checkpoint; "
            "start a new run with a smaller learning rate."
        )


def _resumed(run: Run, options: TrainingOptions, images: Images) -> TrainingOptions:
    """The options of a run that goes on, with the length asked for.

    Raises:
        ValueError: where the options or the images are not those of the run.
    """
    recorded = TrainingOptions.from_record(run.record.get("training"))
    for name, (asked, known) in options.differing(recorded).items():
        raise ValueError(
            f"`{name}` (={asked}) cannot change in a run that is resumed, where it is {known}: leave it out, or start "
            "a new run in another folder."
        )
    run.check_images(images)
    return replace(recorded, **options.length)
