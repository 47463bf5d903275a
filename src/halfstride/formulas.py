"""The size formulas of `geometry`, written out step by step: symbols, numbers, products, result.

Each term has a role (input, kernel, output) that pages show as a colour; `plain` writes a line for a terminal.
"""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from halfstride import geometry

__all__ = ["Line", "Role", "Term", "conv", "conv_transpose", "plain", "resize_conv", "subpixel_conv", "why_uneven"]

Role = Literal["plain", "input", "kernel", "output"]


class Term(NamedTuple):
    """A piece of a formula, and what it stands for."""

    text: str
    role: Role = "plain"


Line = list[Term]


def conv(n: int, k: int, s: int = 1, p: int = 0, d: int = 1) -> list[Line]:
    """Write out the output size of a convolution along one axis.

    Args:
        n: input size.
        k: kernel size.
        s: stride.
        p: padding at both ends.
        d: dilation.

    Raises:
        ValueError: as `geometry.conv_size` does.

    Example:
        >>> [plain(line) for line in conv(6, 3, s=2, p=1)]
        ['o = floor((n + 2p - k) / s) + 1', '= floor((6 + 2*1 - 3) / 2) + 1', '= floor(5 / 2) + 1', '= 2 + 1', '= 3']
    """
    o = geometry.conv_size(n, k, s, p, d)
    room = n + 2 * p - d * (k - 1) - 1
    kernel = "k" if d == 1 else "d(k − 1) − 1"
    return [
        *_in_symbols_and_numbers(f"⌊(n + 2p − {kernel}) / s⌋ + 1", n=n, k=k, s=s, p=p, d=d),
        [Term(f"= ⌊{room} / {s}⌋ + 1")],
        [Term(f"= {room // s} + 1")],
        _answer(o),
    ]


def conv_transpose(n: int, k: int, s: int = 1, p: int = 0, op: int = 0, d: int = 1) -> list[Line]:
    """Write out the output size of a transposed convolution along one axis.

    Args as of `conv`, and `op`: output padding.

    Raises:
        ValueError: as `geometry.conv_transpose_size` does.

    Example:
        >>> [plain(line) for line in conv_transpose(2, 3, s=2)]
        ['o = s(n - 1) + k - 2p', '= 2*(2 - 1) + 3 - 2*0', '= 2 + 3 - 0', '= 5']
    """
    o = geometry.conv_transpose_size(n, k, s, p, op, d)
    kernel, end = "k" if d == 1 else "d(k − 1) + 1", " + op" if op else ""
    return [
        *_in_symbols_and_numbers(f"s(n − 1) + {kernel} − 2p{end}", n=n, k=k, s=s, p=p, d=d, op=op),
        [Term(f"= {s * (n - 1)} + {d * (k - 1) + 1} − {2 * p}{f' + {op}' if op else ''}")],
        _answer(o),
    ]


def resize_conv(n: int, k: int, s: int = 2, p: int | Literal["same"] = "same", d: int = 1) -> list[Line]:
    """Write out the output size of a resize-convolution along one axis.

    Args as of `conv`, `s` being the scale factor.

    Raises:
        ValueError: as `geometry.resize_conv_size` does.

    Example:
        >>> [plain(line) for line in resize_conv(3, 3, s=2, p=1)]
        ['o = s*n + 2p - k + 1', '= 2*3 + 2*1 - 3 + 1', '= 6 + 2 - 3 + 1', '= 6']
    """
    o = geometry.resize_conv_size(n, k, s, p, d)
    if p == "same":
        return [*_in_symbols_and_numbers("s·n", n=n, s=s), _answer(o)]
    kernel, number = ("k + 1", f"{k} + 1") if d == 1 else ("d(k − 1)", f"{d * (k - 1)}")
    return [
        *_in_symbols_and_numbers(f"s·n + 2p − {kernel}", n=n, k=k, s=s, p=p, d=d),
        [Term(f"= {s * n} + {2 * p} − {number}")],
        _answer(o),
    ]


def subpixel_conv(n: int, k: int, s: int = 2, p: int = 0, d: int = 1) -> list[Line]:
    """Write out the output size of a sub-pixel convolution along one axis.

    Args as of `conv`, `s` being the scale factor.

    Raises:
        ValueError: as `geometry.conv_size` does.

    Example:
        >>> [plain(line) for line in subpixel_conv(3, 3, s=2, p=1)]
        ['o = s(n + 2p - k + 1)', '= 2*(3 + 2*1 - 3 + 1)', '= 2*3', '= 6']
    """
    shuffled = geometry.conv_size(n, k, 1, p, d)
    assert isinstance(shuffled, int)
    kernel = "k + 1" if d == 1 else "d(k − 1)"
    return [
        *_in_symbols_and_numbers(f"s(n + 2p − {kernel})", n=n, k=k, s=s, p=p, d=d),
        [Term(f"= {s}·{shuffled}")],
        _answer(s * shuffled),
    ]


def why_uneven(k: int, s: int, d: int = 1) -> str:
    """Return why the phases of kernel size `k`, stride `s` and dilation `d` have different numbers of taps.

    Example:
        >>> why_uneven(3, s=2)
        'stride 2 does not divide kernel 3'
    """
    if math.gcd(s, d) > 1:
        return f"stride {s} and dilation {d} have a common divisor"
    return f"stride {s} does not divide kernel {k}"


_PLAIN = str.maketrans({"·": "*", "−": "-", "⌊": "floor(", "⌋": ")"})


def plain(line: Line) -> str:
    """Return a line as ASCII text."""
    return "".join(text for text, _ in line).translate(_PLAIN)


_ROLES: dict[str, Role] = {"n": "input", "k": "kernel"}


def _in_symbols_and_numbers(formula: str, **numbers: int) -> list[Line]:
    """Return a formula in symbols, and with numbers in place of the symbols."""

    def line(text: str, values: dict[str, int]) -> Line:
        pieces = (piece for piece in re.split(r"(op|[nkspd])", text) if piece)
        return [Term(str(values.get(piece, piece)), _ROLES.get(piece, "plain")) for piece in pieces]

    # Numbers need a sign between them where symbols are multiplied without one: 2p becomes 2·p.
    signed = re.sub(r"(?<=\d)(?=[a-z])|(?<=[a-z])(?=\()", "·", formula)
    return [[Term("o", "output"), Term(" = "), *line(formula, {})], [Term("= "), *line(signed, numbers)]]


def _answer(o: geometry.Ints) -> Line:
    return [Term("= "), Term(str(o), "output")]
