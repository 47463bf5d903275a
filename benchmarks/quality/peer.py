"""A peer's training, in a process of its own: `python -m benchmarks.quality.peer NAME --data FILE.npz ...`.

Trains until a budget of CPU time is spent: Adam with a warm-up over a twentieth of the budget, then a cosine to zero.
The budget is that of this process with all its threads, from the first step on, without what validation costs. A tenth
of the training images (8 to 1,000) is not trained on: five times per training the error on the first 250 of them is
computed, and the weights with the least are kept. Writes JSON to --out, and with --outputs the reconstructions of all
parts but `train` as an .npz file.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.nets import Peer, build, outputs

__all__ = ["learning_rate", "train", "validation_size"]

_LOOKED_AT = 250
"""Validation images whose error is computed: large networks would take longer for all of them than to train."""


def train(
    peer: Peer, images: Tensor, cpu_seconds: float, rate: float, *, seed: int, flips: bool, checks: int
) -> dict[str, Any]:
    """Train in place, and leave the weights that were best on validation.

    Args:
        peer: as built.
        images: uint8 N×C×H×W; the validation part is drawn from them, the same for every seed.
        cpu_seconds: the budget.
        rate: the highest learning rate.
        seed: of the order of the images.
        flips: mirror every other batch left to right.
        checks: how often to look at validation, the last time at the end.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held = validation_size(len(images))
    validation, training = images[order[:held][:_LOOKED_AT]], images[order[held:]]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(peer.parameters(), lr=rate)
    best, kept, checked, steps = math.inf, copy.deepcopy(peer.state_dict()), 0, 0
    peer.train()
    done, started = 0.0, time.process_time()
    while done < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(done, rate)
        wanted = torch.randint(len(training), (peer.batch_size,), generator=generator)
        batch = training[wanted].float() / 255
        if flips and torch.rand((), generator=generator) < 0.5:
            batch = batch.flip(3)
        loss = peer.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        done = (time.process_time() - started) / cpu_seconds
        if done * checks >= checked + 1 or done >= 1:
            paused = time.process_time()
            checked = math.floor(done * checks)
            error = _error(peer, validation)
            if error < best:
                best, kept = error, copy.deepcopy(peer.state_dict())
            started += time.process_time() - paused
    peer.load_state_dict(kept)
    return {"validation_mse": best, "steps": steps, "training_cpu_seconds": done * cpu_seconds}


def learning_rate(done: float, highest: float) -> float:
    """The rate when `done` of the budget, 0 to 1, is spent."""
    warm = 0.05
    if done < warm:
        return highest * (0.02 + 0.98 * done / warm)
    return highest * 0.5 * (1 + math.cos(math.pi * min((done - warm) / (1 - warm), 1)))


def validation_size(images: int) -> int:
    """A tenth, at least 8 and at most 1,000."""
    return min(max(images // 10, 8), 1000)


def _error(peer: Peer, images: Tensor) -> float:
    error = float((outputs(peer, images) - images.float() / 255).square().mean())
    return error if math.isfinite(error) else math.inf


def _channels_second(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).reshape(*array.shape[:3], -1).movedim(-1, 1).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--numbers", type=int, required=True)
    parser.add_argument("--cpu-seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--checks", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--outputs", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    with np.load(arguments.data) as file:
        parts = {part: _channels_second(file[part]) for part in file.files}
        shapes = {part: file[part].shape for part in file.files}
    images = parts["train"]
    peer = build(arguments.name, images.shape[1:], arguments.numbers)
    options = {"seed": arguments.seed, "flips": arguments.flips, "checks": arguments.checks}
    report = train(peer, images, arguments.cpu_seconds, arguments.rate, **options)
    peer.eval()
    with torch.inference_mode():
        report["numbers"] = peer.latent_numbers(images[:2].float() / 255)
    report["parameters"] = sum(parameter.numel() for parameter in peer.parameters())
    if arguments.outputs:
        tested = [part for part in parts if part != "train"]
        results = {part: outputs(peer, parts[part]).movedim(1, -1).reshape(shapes[part]).numpy() for part in tested}
        np.savez(arguments.outputs, **results)
    arguments.out.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
