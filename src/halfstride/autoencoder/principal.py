"""Principal component analysis of rows of numbers: what a model with a linear path starts from."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["principal_axes"]

_MOST_ROWS = 20_000


def principal_axes(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The directions in which rows differ most.

    Args:
        rows: float N×D, 1 row or more; of more than 20,000 a regular sample is used.
        count: how many directions are wanted.

    Returns:
        The mean row (D), the directions (M×D, orthonormal) and the standard deviations along them (M), largest first.
        M is less than `count` where there are fewer rows or columns. Deviations are at least a thousandth of the
        largest, so that one can divide by them.
    """
    from sklearn.decomposition import PCA

    rows = rows[:: -(-len(rows) // _MOST_ROWS)]
    found = min(count, *rows.shape)
    if len(rows) == 1:
        return rows[0], rows.new_empty(0, rows.shape[1]), rows.new_empty(0)
    model = PCA(found, random_state=0).fit(rows.cpu().numpy())
    deviations = torch.from_numpy(model.explained_variance_).float().clamp_min(0).sqrt()
    deviations = deviations.clamp_min(max(1e-3 * float(deviations[0]), 1e-4))
    return torch.from_numpy(model.mean_).float(), torch.from_numpy(model.components_).float(), deviations
