"""What a model is scored by while it trains: half of the validation images, and some test images for the reader."""

from __future__ import annotations

from typing import Any

import torch

from halfstride.autoencoder.distributed import Processes
from halfstride.autoencoder.images import Images, to_float
from halfstride.autoencoder.images.splits import inputs_and_targets
from halfstride.autoencoder.objective import Objective
from halfstride.autoencoder.scoring import Corrupt, evaluation_batch_size, scores

_TEST_IMAGES = 500  # that each scoring looks at; the whole set is for `evaluate`
_SSIM_IMAGES = 128  # of these


class Validation:
    """The scoring of a training; several processes share the images and get the scores of all.

    Args:
        objective: the model and its loss.
        images: what the model is trained on.
        processes: those that train together.
        corrupt: what is done to the inputs; see `scores`.
    """

    def __init__(self, objective: Objective, images: Images, processes: Processes, corrupt: Corrupt | None) -> None:
        self.objective, self.processes, self.corrupt = objective, processes, corrupt
        self.images = images.validation.half(0) if len(images.validation) > 1 else images.validation
        self.batch_size = evaluation_batch_size(images.shape, processes.count)
        self.test_images = images.test.sample(_TEST_IMAGES).images

    def score(self) -> dict[str, Any]:
        """The scores, by the names that they have in a run's metrics."""
        model, processes = self.objective.model, self.processes
        rank, count, device = processes.rank, processes.count, processes.device
        validation = self.images.batches(self.batch_size, rank=rank, world_size=count)
        found = scores(model, validation, device, ssim_images=0, corrupt=self.corrupt)
        test = (batch[rank::count] for batch in torch.split(self.test_images, self.batch_size))
        tested = scores(model, test, device, ssim_images=_SSIM_IMAGES // count, corrupt=self.corrupt)
        is_mse = self.objective.name == "mse" and not model.variational
        return {
            "validation_mse": found.mse,
            "validation_loss": found.mse if is_mse else self._loss(),
            "test_mse": tested.mse,
            "test_psnr": tested.psnr,
            "test_ssim": tested.ssim,
        }

    @torch.inference_mode()
    def _loss(self) -> float:
        """The mean over the validation images of what the training minimises; each process computes all of them."""
        self.objective.model.eval()
        total, seen = 0.0, 0
        for batch in self.images.batches(self.batch_size):
            inputs, target = (to_float(images.to(self.processes.device)) for images in inputs_and_targets(batch))
            inputs = inputs if self.corrupt is None else self.corrupt(inputs, seen)
            total += float(self.objective(inputs, target)[0].double().sum())
            seen += len(batch)
        self.objective.model.train()
        return total / seen
