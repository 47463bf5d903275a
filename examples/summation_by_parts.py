"""A resize-convolution summed by parts, along one axis: the numbers, and the picture of docs/fast.md.

Run it with `python examples/summation_by_parts.py`; it draws summation-by-parts.png into the current folder.
"""

# %% A signal, upsampled by 2, and a kernel of 3 taps
import numpy as np
from matplotlib.figure import Figure

from halfstride.planning import explain

x, w = np.array([2.0, 3.2, 1.2, 2.6]), np.array([0.5, 1.0, -0.4])
upsampled = np.repeat(x, 2)
usual = np.convolve(upsampled, w[::-1], mode="same")

# %% The same from its values and its jumps: three products for two outputs
jumps = np.diff(x, prepend=0.0, append=0.0)
values = w.sum() * x
even = values - w[0] * jumps[:-1]
odd = values + w[2] * jumps[1:]
assert np.allclose(np.stack([even, odd], axis=1).ravel(), usual)

# %% The picture: where the kernel meets copies ...
figure = Figure(figsize=(11, 4.2), dpi=150, layout="constrained")
signal, counts = figure.subplots(1, 2, width_ratios=[3, 2])
shades = ["#c9d7e8", "#8fb0d3"]
for i, value in enumerate(upsampled):
    signal.bar(i, value, width=1, color=shades[i // 2 % 2], edgecolor="white")
for i, value in enumerate(x):
    paper = {"facecolor": shades[i % 2], "edgecolor": "none", "pad": 2}
    signal.text(2 * i + 0.5, value / 2, f"x[{i}]", ha="center", va="center", bbox=paper)
for i in range(1, len(x)):
    signal.annotate(
        "", (2 * i - 0.5, x[i]), (2 * i - 0.5, x[i - 1]), arrowprops={"arrowstyle": "->", "color": "#b3401e", "lw": 2}
    )
    signal.text(2 * i - 0.62, (x[i] + x[i - 1]) / 2, f"δ[{i}]", color="#b3401e", ha="right", va="center")
for row, (first, name, formula) in enumerate([(1, "y[2]", "S·x[1] − w0·δ[1]"), (2, "y[3]", "S·x[1] + w2·δ[2]")]):
    height = 4.75 - 0.72 * row
    for tap in range(3):
        same = (first + tap) // 2 == 1
        box = {"boxstyle": "square,pad=0.35", "facecolor": "#8fb0d3" if same else "#c9d7e8", "edgecolor": "#333333"}
        signal.text(first + tap, height, f"w{tap}", ha="center", va="center", bbox=box)
    signal.text(4.75, height, f"{name} = {formula}", ha="left", va="center")
signal.set_ylim(0, 5.3)
signal.set_xlim(-0.6, 8.6)
signal.set_xticks(range(8), [f"u[{i}]" for i in range(8)])
signal.set_yticks([])
signal.set_title("Both outputs share one product of x[1]; only the jumps differ", loc="left")
signal.spines[["top", "left", "right"]].set_visible(False)

# %% ... and what that saves in an image
names = {"native": "definition", "folded": "folded", "differences": "by parts"}
for place, scale in enumerate((2, 4)):
    size = 2000  # so large that borders do not count
    plan = explain("resize", (1, 1, size, size), (1, 1, 3, 3), scale_factor=scale)
    products = {each.algorithm: round(each.products / size**2) for each in plan.candidates if each.products}
    for i, name in enumerate(names):
        at = place * 4 + i
        counts.bar(at, products[name], color=["#9a9a9a", "#8fb0d3", "#b3401e"][i])
        counts.text(at, products[name] + 2, products[name], ha="center")
counts.set_xticks([0, 1, 2, 4, 5, 6], [*names.values()] * 2, rotation=30, ha="right")
counts.set_yticks([])
counts.set_ylim(0, 165)
for at, scale in ((1, 2), (5, 4)):
    counts.text(at, 155, f"scale {scale}", ha="center")
counts.set_title("Products per input position, 3×3 taps", loc="left")
counts.spines[["top", "left", "right"]].set_visible(False)
figure.savefig("summation-by-parts.png")
print("summation-by-parts.png")
