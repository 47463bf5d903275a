"""How close is close."""

import torch

# Two results computed in different orders, of sums of a few hundred products of standard normal numbers: (rtol, atol).
TOLERANCE = {
    torch.float64: (1e-10, 1e-10),
    torch.float32: (1e-4, 1e-4),
    torch.bfloat16: (5e-2, 2e-1),
    torch.float16: (5e-3, 3e-2),
    torch.complex128: (1e-10, 1e-10),
    torch.complex64: (1e-4, 1e-4),
}


def assert_close(actual, expected, dtype=None):
    """Equal within the tolerance for `dtype`, by default the type of `actual`; shapes and types must be the same."""
    rtol, atol = TOLERANCE[dtype or actual.dtype]
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)
