"""The training loop, on one device or, under `torchrun`, on many."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halfstride.autoencoder.distributed import Processes
from halfstride.autoencoder.images import Images, to_float
from halfstride.autoencoder.model import ConvAutoencoder, _one_of, _positive
from halfstride.autoencoder.progress import Interrupted, Progress, StopSignal
from halfstride.autoencoder.runs import Run
from halfstride.autoencoder.scoring import evaluation_batch_size, scores

__all__ = ["Position", "TrainingOptions", "train"]

Loss = Literal["mse", "l1", "bce"]
Precision = Literal["auto", "float32", "bfloat16"]

_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_STEPS_BETWEEN_REPORTS = 20
_SSIM_IMAGES = 128  # per epoch; all of them after the last
_WARM_UP = 0.1  # share of the steps over which the learning rate rises


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; the defaults suit the embedded digits and most small image sets.

    Args:
        epochs: passes over the training images, 1 or more.
        batch_size: images per step, over all processes together, 1 or more.
        learning_rate: the highest learning rate of AdamW; it rises over the first tenth of the steps and then falls to
            zero on a cosine.
        weight_decay: AdamW's decoupled weight decay, 0 or more.
        loss: `"mse"`, `"l1"` or `"bce"` (binary cross-entropy per value).
        noise: standard deviation of Gaussian noise added to the inputs while the clean images stay the target
            (a denoising autoencoder: Vincent et al., 2008); 0 for none.
        clip: largest norm of the gradient, above 0.
        seed: decides the initial order of the images and the noise; 0 or more.
        precision: `"auto"` takes bfloat16 where the device computes in it natively, `"float32"` and `"bfloat16"` force.
        steps_per_epoch: needed for streamed data of unknown length only.
        tensorboard: also write TensorBoard's event files into the run's folder.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    loss: Loss = "mse"
    noise: float = 0.0
    clip: float = 1.0
    seed: int = 0
    precision: Precision = "auto"
    steps_per_epoch: int | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _positive("epochs", self.epochs)
        _positive("batch_size", self.batch_size)
        if self.steps_per_epoch is not None:
            _positive("steps_per_epoch", self.steps_per_epoch)
        _one_of("loss", self.loss, Loss)
        _one_of("precision", self.precision, Precision)
        for name, least in (("learning_rate", None), ("clip", None), ("weight_decay", 0), ("noise", 0)):
            value = getattr(self, name)
            if not math.isfinite(value) or (value <= 0 if least is None else value < least):
                raise ValueError(f"`{name}` (={value}) must be {'above 0' if least is None else 'at least 0'}.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"`seed` (={self.seed}) must be an int from 0 to 2**63 - 1.")


def train(
    model: ConvAutoencoder,
    images: Images,
    out: str | Path,
    options: TrainingOptions | None = None,
    *,
    resume: bool = False,
    data: dict[str, Any] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train an autoencoder and write the run's folder.

    The same seed, machine, thread count and versions give the same run. Under `torchrun` or `accelerate launch` the
    processes share each batch and give the loss curve of one process, and the first of them writes the files.

    Args:
        model: the model; it is trained in place.
        images: what `load_images` returned.
        out: the run's folder; new or empty, except with `resume`.
        options: how to train.
        resume: go on where the run in `out` was interrupted, from its last checkpoint.
        data: how the images were loaded, kept in `run.json` so that the run can be evaluated later.
        progress: show a progress bar, and a line for each epoch.

    Returns:
        One entry per epoch: `epoch`, `train_mse` (the mean over the epoch's batches as they were met), `test_mse`,
        `test_psnr`, `test_ssim` (of the first 128 images, after the last epoch of all), `learning_rate`, `seconds` and
        `images_per_second`.

    Raises:
        ValueError: where options, model and images don't fit, or the folder is not free.
        FloatingPointError: where the loss is no longer finite; the last good checkpoint stays.
        Interrupted: after Ctrl-C, once everything is saved.
    """
    options = options or TrainingOptions()
    if model.channels != images.shape[0] or (not model.spatial and model.image_size != tuple(images.shape[1:])):
        raise ValueError(
            f"`model` takes {model.channels}×{model.image_size[0]}×{model.image_size[1]}, but `images` are "
            f"{'×'.join(map(str, images.shape))}: build the model with image_size={tuple(images.shape[1:])} and "
            f"channels={images.shape[0]}."
        )
    steps_per_epoch = _steps_per_epoch(images, options)
    processes = Processes(options.precision, Path(out) if options.tensorboard else None)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=options.weight_decay, fused=True
    )
    replica = processes.prepare(model)
    run = processes.main_first(lambda: _open(Path(out), model, options, images, resume, data), lambda: Run(out))
    position = Position(**run.load_checkpoint(model, optimizer)) if resume else Position()
    metrics = run.metrics[: position.epoch]
    if len(metrics) < position.epoch:
        raise ValueError(
            f"{run.path / 'metrics.jsonl'} tells of {len(metrics)} epochs, but {position.epoch} are done: use a "
            "backup, or start a new run."
        )

    def save() -> None:
        _check_finite(position.error_sum, model, run)
        if processes.is_main:
            run.save_checkpoint(model, optimizer, dataclasses.asdict(position))

    with StopSignal() as stop, Progress(options.epochs, steps_per_epoch, progress and processes.is_main) as bar:
        if not resume:
            save()  # so that a run can be resumed from its very start
        last_save = time.monotonic()
        while position.epoch < options.epochs:
            replica.train()
            started, images_before = time.monotonic(), position.images
            errors = torch.zeros((), dtype=torch.float64, device=processes.device)  # of the steps since the last report
            batches = images.train.batches(
                options.batch_size,
                seed=options.seed,
                epoch=position.epoch,
                shuffle=True,
                rank=processes.rank,
                world_size=processes.count,
                skip=position.step,
            )
            while position.step < steps_per_epoch:
                batch = next(batches, None)
                save_due = time.monotonic() - last_save > _SECONDS_BETWEEN_CHECKPOINTS
                count, stops, saves = processes.sum(0 if batch is None else len(batch), stop.asked, save_due)
                if position.step % _STEPS_BETWEEN_REPORTS == 0 or saves or stops:
                    # Asking for a number makes a GPU wait, so not in every step.
                    position.error_sum += processes.sum(errors.item())[0]
                    errors.zero_()
                    _check_finite(position.error_sum, model, run)
                    bar.report(position, (position.images - images_before) / (time.monotonic() - started))
                if saves or stops:
                    save()
                    last_save = time.monotonic()
                if stops:
                    way = f"halfstride train --out {run.path} --resume" if data else "train(..., resume=True)"
                    raise Interrupted(
                        f"Stopped in epoch {position.epoch + 1} after step {position.step} of {steps_per_epoch} and "
                        f"saved. Go on with: {way}"
                    )
                if batch is None or count == 0:
                    break
                rate = _learning_rate(options, position.epoch * steps_per_epoch + position.step, steps_per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                errors += _step(replica, optimizer, batch, int(count), options, position, processes)
                position.images += int(count)
                position.step += 1
            position.error_sum += processes.sum(errors.item())[0]
            _check_finite(position.error_sum, model, run)
            seconds = time.monotonic() - started
            tested = scores(
                replica,
                images.test.batches(
                    evaluation_batch_size(images.shape, processes.count),
                    rank=processes.rank,
                    world_size=processes.count,
                ),
                processes.device,
                ssim_images=math.inf if position.epoch == options.epochs - 1 else _SSIM_IMAGES,
            )
            _check_finite(tested.mse, model, run)
            metrics.append(
                {
                    "epoch": position.epoch + 1,
                    "train_mse": position.error_sum / position.images,
                    "test_mse": tested.mse,
                    "test_psnr": tested.psnr,
                    "test_ssim": tested.ssim,
                    "learning_rate": rate,
                    "seconds": round(seconds, 3),
                    "images_per_second": round((position.images - images_before) / seconds, 1),
                }
            )
            bar.finish_epoch(metrics[-1])
            processes.track(metrics[-1])
            position = Position(epoch=position.epoch + 1)
            if processes.is_main:
                # Metrics before checkpoint: a crash in between leaves a line too many, which a resumed run drops.
                run.write_metrics(metrics)
                run.save_model(model)
            save()
            last_save = time.monotonic()
    processes.end()
    return metrics


@dataclass
class Position:
    """Where a training stands: the next step, and the sums over this epoch's steps so far."""

    epoch: int = 0
    step: int = 0
    error_sum: float = 0.0
    images: int = 0


def _step(
    replica: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    count: int,
    options: TrainingOptions,
    position: Position,
    processes: Processes,
) -> Tensor:
    """Take one optimiser step on this process's share of `count` images; return the sum of its images' MSE."""
    target = to_float(batch.to(processes.device, non_blocking=True))
    inputs = target
    if options.noise:
        inputs = target + options.noise * _noise(target, count, options.seed, position, processes)
    with processes.autocast():
        output = replica(inputs).float()
        with torch.autocast(processes.device.type, enabled=False):  # binary cross-entropy is unsafe in half precision
            per_value = _LOSSES[options.loss](output, target)
    # Averaging the processes' gradients must give the mean over all images, however unevenly they were shared.
    loss = per_value.flatten(1).mean(1).sum() * (processes.count / count)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(replica.parameters(), options.clip)
    optimizer.step()
    optimizer.zero_grad()
    return F.mse_loss(output.detach(), target, reduction="none").flatten(1).mean(1, dtype=torch.float64).sum()


def _noise(like: Tensor, count: int, seed: int, position: Position, processes: Processes) -> Tensor:
    """This process's share of the step's noise: drawn for the whole batch, so that it is the same for any sharing."""
    numbers = np.random.SeedSequence((seed, position.epoch, position.step)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(numbers[0] >> 1))
    noise = torch.randn((count, *like.shape[1:]), generator=generator)
    return noise[processes.rank :: processes.count].to(like.device)


_LOSSES = {
    "mse": lambda output, target: F.mse_loss(output, target, reduction="none"),
    "l1": lambda output, target: F.l1_loss(output, target, reduction="none"),
    "bce": lambda output, target: F.binary_cross_entropy(output, target, reduction="none"),
}


def _learning_rate(options: TrainingOptions, step: int, steps_per_epoch: int) -> float:
    """The rate of one step out of all: up on a line, then down on half a cosine."""
    steps = options.epochs * steps_per_epoch
    warm_up = max(1, round(_WARM_UP * steps))
    if step < warm_up:
        return options.learning_rate * (step + 1) / warm_up
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


def _steps_per_epoch(images: Images, options: TrainingOptions) -> int:
    if images.train.size is None:
        if options.steps_per_epoch is None:
            raise ValueError("`steps_per_epoch` (=None) must be given: nobody knows how many images the stream has.")
        return options.steps_per_epoch
    steps = -(-images.train.size // options.batch_size)
    return min(steps, options.steps_per_epoch or steps)


def _open(
    out: Path,
    model: ConvAutoencoder,
    options: TrainingOptions,
    images: Images,
    resume: bool,
    data: dict[str, Any] | None,
) -> Run:
    asked = dataclasses.asdict(options)
    sizes = {"train": images.train.size, "test": images.test.size}
    if resume:
        run = Run.open(out)
        recorded = run.record.get("training")
        if recorded != asked:
            raise ValueError(f"`options` (={asked}) are not those that {out} was started with ({recorded}).")
        if (before := run.record.get("images", sizes)) != sizes:
            raise ValueError(
                f"`images` are {sizes['train']} to train and {sizes['test']} to test, but {out} was started with "
                f"{before['train']} and {before['test']}: bring the data back, or start a new run."
            )
        return run
    record = {
        "training": asked,
        "data": data,
        "images": sizes,
        "classes": images.classes,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    run = Run.create(out, record)
    run.save_model(model)
    return run


def _check_finite(error: float, model: nn.Module, run: Run) -> None:
    if math.isfinite(error) and all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        return
    raise FloatingPointError(
        f"The loss is no longer finite. {run.path} keeps the last good checkpoint; "
        "start a new run with a smaller learning rate."
    )
