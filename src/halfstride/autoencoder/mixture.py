"""New codes for a plain autoencoder, which says nothing of how its codes are distributed."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def draw_like(codes: Tensor, count: int, seed: int) -> Tensor:
    """Codes from a Gaussian mixture, which is fitted to others along the axes in which those differ most.

    There are at most 64 axes, and 20 codes or more for each: numbers of a map that depend on each other, as those of
    neighbouring places do, are not drawn as if they did not.
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    rows = codes.detach().double().cpu().numpy()
    axes = max(1, min(64, rows.shape[1], len(rows) // 20))
    components = max(1, min(10, len(rows) // (20 * axes)))
    with warnings.catch_warnings():
        # Equal codes make fewer clusters and no variance; they serve all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        plane = PCA(axes, random_state=0).fit(rows)
        mixture = GaussianMixture(components, reg_covar=1e-4, random_state=seed % 2**32).fit(plane.transform(rows))
        drawn, _ = mixture.sample(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))  # they come sorted by component
    return torch.from_numpy(plane.inverse_transform(drawn)).float()[order]
