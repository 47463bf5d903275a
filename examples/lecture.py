"""The lecture on transposed convolutions, claim by claim; every printed number is computed.

Run it with `python examples/lecture.py`, or cell by cell in an editor that knows `# %%`. It draws overlap.png into the
current folder. docs/lecture.md is the same code with more words.
"""

# %% What is needed
from itertools import product

import torch
import torch.nn.functional as F

from halfstride import figures, geometry, kernels
from halfstride import functional as H

torch.manual_seed(0)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# %% A convolution takes 5×5 to 2×2, the transposed convolution takes 2×2 to 5×5
image, kernel = random(1, 1, 5, 5), random(1, 1, 3, 3)

small = F.conv2d(image, kernel, stride=2)
large = H.conv_transpose2d(small, kernel, stride=2)
print(*(" × ".join(map(str, tensor.shape[2:])) for tensor in (image, small, large)), sep="  ->  ")

assert geometry.conv_size(5, kernel_size=3, stride=2) == 2
assert geometry.conv_transpose_size(2, kernel_size=3, stride=2) == 5
assert not torch.allclose(large, image)  # the size comes back, the values don't: this undoes no convolution


# %% Two ways to compute it: scatter and add ...
def scatter_and_add(values, kernel, stride):
    (rows, columns), k = values.shape, len(kernel)
    output = torch.zeros(stride * (rows - 1) + k, stride * (columns - 1) + k, dtype=values.dtype)
    for i, j in product(range(rows), range(columns)):
        output[stride * i : stride * i + k, stride * j : stride * j + k] += values[i, j] * kernel
    return output


# %% ... or zeros between the values, zeros around them, and a plain convolution with the flipped kernel
def zeros_between(values, kernel, stride):
    (rows, columns), k = values.shape, len(kernel)
    spread = torch.zeros(stride * (rows - 1) + 1, stride * (columns - 1) + 1, dtype=values.dtype)
    spread[::stride, ::stride] = values
    padded = F.pad(spread, (k - 1, k - 1, k - 1, k - 1))
    return F.conv2d(padded[None, None], kernel.flip(0, 1)[None, None])[0, 0]


# %% Both give the same numbers, and so do all algorithms of halfstride
values, kernel = random(4, 6), random(3, 3)
for stride in (1, 2, 3):
    scattered = scatter_and_add(values, kernel, stride)
    assert torch.allclose(zeros_between(values, kernel, stride), scattered)
    for algorithm in ("native", "scatter", "emulated", "phases"):
        result = H.conv_transpose2d(values[None, None], kernel[None, None], stride=stride, algorithm=algorithm)
        assert torch.allclose(result[0, 0], scattered)
    print(f"stride {stride}: 4 × 6  ->  {scattered.shape[0]} × {scattered.shape[1]}, the same numbers in every way")

# %% Why it is called transposed: 4×4 to 2×2 is a matrix, and its transpose leads from 2×2 to 4×4
kernel = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(1, 1, 3, 3)
basis = torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)
matrix = F.conv2d(basis, kernel).reshape(16, 4).T  # a column for each input position, a row for each output position
for row in matrix:
    print(" ".join(f"{int(weight) or '.'}" for weight in row))

image, small = random(1, 1, 4, 4), random(1, 1, 2, 2)
assert torch.allclose(F.conv2d(image, kernel).flatten(), matrix @ image.flatten())
assert torch.allclose(H.conv_transpose2d(small, kernel).flatten(), matrix.T @ small.flatten())

# %% The size formula, s(n - 1) + k - 2p, against torch.nn.ConvTranspose2d
layers = 0
for n, k, s, p in product((1, 2, 3, 7, 14), (1, 2, 3, 4, 5, 7), (1, 2, 3, 4), (0, 1, 2, 3)):
    size = s * (n - 1) + k - 2 * p
    if size > 0:
        layer = torch.nn.ConvTranspose2d(1, 1, kernel_size=k, stride=s, padding=p)
        assert layer(torch.zeros(1, 1, n, n)).shape[2:] == (size, size)
        assert geometry.conv_transpose_size(n, kernel_size=k, stride=s, padding=p) == size
        layers += 1
print(f"the formula is right for all {layers} layers")

print("n  k  s  p   s(n - 1) + k - 2p")
for n, k, s, p in [(2, 3, 1, 0), (2, 3, 2, 0), (2, 3, 2, 1), (7, 4, 2, 1), (7, 2, 2, 0), (1, 7, 1, 0)]:
    print(f"{n}  {k}  {s}  {p}   {s}·{n - 1} + {k} - {2 * p} = {s * (n - 1) + k - 2 * p}")

# %% Padding works backwards: it enlarges the output of a convolution and cuts that of a transposed one
for padding in (0, 1, 2):
    convolved = geometry.conv_size(5, kernel_size=3, padding=padding)
    transposed = geometry.conv_transpose_size(5, kernel_size=3, padding=padding)
    print(f"padding {padding}: convolution 5 -> {convolved}, transposed convolution 5 -> {transposed}")

small, kernel = random(1, 1, 5, 5), random(1, 1, 3, 3)
full = H.conv_transpose2d(small, kernel, stride=2)
assert torch.allclose(H.conv_transpose2d(small, kernel, stride=2, padding=1), full[..., 1:-1, 1:-1])

# %% A strided convolution forgets sizes: 27 and 28 both become 14, and output_padding says which of them comes back
print(list(geometry.conv_input_sizes(14, kernel_size=3, stride=2, padding=1)))
small, kernel = random(1, 1, 14, 14), random(1, 1, 3, 3)
for size in (27, 28):
    output_padding = geometry.output_padding_for(14, size, kernel_size=3, stride=2, padding=1)
    restored = H.conv_transpose2d(small, kernel, stride=2, padding=1, output_size=size)
    assert torch.allclose(restored, F.conv_transpose2d(small, kernel, None, 2, 1, output_padding))
    print(f"14 -> {restored.shape[-1]} with output_padding {output_padding}")


# %% Kernels of size 3 at steps of 2 overlap unevenly: how many of them reach each output position
def overlap(kernel_size, stride, size=4):
    row = torch.tensor(geometry.coverage(size, kernel_size, stride))
    return torch.outer(row, row)


for row in overlap(kernel_size=3, stride=2):
    print(" ".join(map(str, row.tolist())))

ones = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
assert torch.equal(overlap(3, 2), H.conv_transpose2d(*ones, stride=2)[0, 0].long())

# %% The same evenly: a kernel of size 2 at steps of 2 does not overlap, one of size 4 covers every inner position alike
for kernel_size in (2, 4):
    assert geometry.is_even(kernel_size, stride=2)
    inner = overlap(kernel_size, stride=2)[2:-2, 2:-2]
    print(f"kernel {kernel_size}, stride 2: inner positions are reached by {inner.unique().tolist()} taps")

values, kernel = random(2, 2), random(2, 2)
blocks = H.conv_transpose2d(values[None, None], kernel[None, None], stride=2)[0, 0]
assert torch.allclose(blocks, torch.kron(values, kernel))  # every value becomes a block of its own: value times kernel

# %% Even overlap is not enough: the weights differ from phase to phase, and a grey image comes out as a checkerboard
grey = torch.ones(1, 1, 6, 6)
for kernel_size in (3, 4):
    kernel = torch.arange(1.0, kernel_size**2 + 1).reshape(1, 1, kernel_size, kernel_size)
    pattern = H.conv_transpose2d(grey, kernel, stride=2)[0, 0, 4:8, 4:8]
    assert torch.equal(pattern[:2, :2].flatten(), kernels.phase_gains(kernel, stride=2).flatten())
    print(f"kernel {kernel_size} × {kernel_size}, inner part:")
    print("\n".join(" ".join(f"{value:3.0f}" for value in row) for row in pattern))

# %% Nearest-neighbour upsampling and then a convolution: every phase sums the whole kernel, and grey stays grey
kernel = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
plain = H.resize_conv2d(grey, kernel, scale_factor=2)[0, 0, 4:8, 4:8]
print("\n".join(" ".join(f"{value:3.0f}" for value in row) for row in plain))

image, kernel = random(1, 1, 6, 6), random(1, 1, 3, 3)
by_torch = F.conv2d(F.interpolate(image, scale_factor=2, mode="nearest"), kernel, padding=1)
for algorithm in ("native", "scatter", "emulated", "folded", "phases", "by_parts"):
    assert torch.allclose(H.resize_conv2d(image, kernel, scale_factor=2, algorithm=algorithm), by_torch)

# %% It is a transposed convolution too: its kernel is the convolution's, spread over the block of a repeated value
wide = kernels.transposed_from_resize(kernel, scale_factor=2)
assert torch.allclose(H.conv_transpose2d(image, wide, stride=2, padding=1), by_torch)
assert torch.allclose(kernels.resize_from_transposed(wide, scale_factor=2), kernel)
print(f"kernel 3 × 3 after a repetition of 2: the transposed kernel is {wide.shape[2]} × {wide.shape[3]}")

# %% The overlap as a picture
figures.coverage(
    {
        "kernel 3, stride 2": geometry.coverage(4, kernel_size=3, stride=2),
        "kernel 2, stride 2": geometry.coverage(4, kernel_size=2, stride=2),
        "kernel 4, stride 2": geometry.coverage(4, kernel_size=4, stride=2),
    }
).savefig("overlap.png")
print("overlap.png is drawn")
