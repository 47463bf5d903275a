"""What a training minimises: a model and its loss in one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from halfstride.autoencoder.draws import Draw
from halfstride.autoencoder.losses import loss
from halfstride.autoencoder.model import ConvAutoencoder
from halfstride.autoencoder.own_encoder import Autoencoder
from halfstride.autoencoder.training_options import TrainingOptions


class Objective(nn.Module):
    """A model and its loss as one module, which is what several processes keep in step."""

    def __init__(self, model: Autoencoder, options: TrainingOptions) -> None:
        super().__init__()
        self.model = model
        self.name, self.beta = options.loss, options.beta

    def forward(
        self, inputs: Tensor, target: Tensor, noise: Tensor | None = None, warm: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """The loss and the MSE of each image.

        Args:
            inputs: N×C×H×W in [0, 1].
            target: of the same shape.
            noise: standard normal numbers of the latents' shape for a variational model; None takes the means.
            warm: share of the weight of the Kullback-Leibler divergence.
        """
        divergence: Tensor | float = 0.0
        if isinstance(self.model, ConvAutoencoder) and self.model.variational:
            mean, log_variance = self.model.distribution(inputs)
            latents = mean if noise is None else mean + noise * (0.5 * log_variance).exp()
            output = self.model.decode(latents, target.shape[-2:])
            nats = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)
            # The loss is the mean over an image's values; the divergence belongs beside its sum.
            divergence = warm * self.beta * nats.float() / target[0].numel()
        else:
            output = self.model(inputs)
        with torch.autocast(output.device.type, enabled=False):  # cross-entropy and SSIM are unsafe in half precision
            output = output.float()
            outside: Tensor | float = 0.0
            if self.name == "bce":  # which is for values in [0, 1]: those outside are drawn back
                inside = output.clamp(1e-4, 1 - 1e-4)
                outside = (output - inside.detach()).square().flatten(1).mean(1)
                output = inside
            per_image = loss(self.name, output, target) + outside + divergence
        return per_image, (output.detach() - target).square().flatten(1).mean(1, dtype=torch.float64)


def latent_noise(model: Autoencoder, draw: Draw, inputs: Tensor) -> Tensor:
    """Standard normal numbers for the latents of each image of a step."""
    shape = model.latent_shape
    if isinstance(model, ConvAutoencoder) and model.takes_any_size:
        shape = (model.latent_dim, *model.map_size(inputs.shape[-2:]))
    noise = [torch.randn(shape, generator=generator) for generator in draw.generators("latent")]
    return torch.stack(noise).to(inputs.device) if noise else inputs.new_zeros(len(inputs), *shape)
