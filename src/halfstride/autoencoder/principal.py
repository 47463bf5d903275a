"""Principal component analysis of rows of numbers: what a model with a linear path starts from."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST_ROWS = 20_000


def principal_axes(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The directions in which rows differ most.

    Args:
        rows: float N×D, 1 row or more; of more than 20,000 a random sample is used, always the same.
        count: how many directions are wanted.

    Returns:
        The mean row (D), the directions (M×D, orthonormal) and the standard deviations along them (M), largest first.
        M is less than `count` where there are fewer rows or columns, and 0 where all rows are equal. Deviations are at
        least a thousandth of the largest, so that one can divide by them.
    """
    from sklearn.decomposition import PCA

    rows = rows.cpu()
    if len(rows) > _MOST_ROWS:  # at random: every k-th block could always be from the same column of the image
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:_MOST_ROWS]]
    if bool((rows == rows[0]).all()):
        return rows[0], rows.new_empty(0, rows.shape[1]), rows.new_empty(0)
    found = min(count, *rows.shape)
    model = PCA(found, random_state=0).fit(rows.numpy())
    deviations = torch.from_numpy(model.explained_variance_).float().clamp_min(0).sqrt()
    deviations = deviations.clamp_min(max(1e-3 * float(deviations[0]), 1e-4))
    return torch.from_numpy(model.mean_).float(), torch.from_numpy(model.components_).float(), deviations
