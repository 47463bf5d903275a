"""A resize-convolution summed by parts, along one axis: the numbers and the picture of its page in docs/notes.

Run it with `python examples/summation_by_parts.py`; it draws summation-by-parts.png into the current folder.
"""

# %% A signal, upsampled by 2, and a kernel of 3 taps
import numpy as np
from matplotlib.figure import Figure

from halfstride import explain

x, w = np.array([2.0, 3.2, 1.2, 2.6]), np.array([0.5, 1.0, -0.4])
upsampled = np.repeat(x, 2)
usual = np.convolve(upsampled, w[::-1], mode="same")

# %% The same from its values and its jumps: three products for two outputs
jumps = np.diff(x, prepend=0.0, append=0.0)
values = w.sum() * x
even = values - w[0] * jumps[:-1]
odd = values + w[2] * jumps[1:]
assert np.allclose(np.stack([even, odd], axis=1).ravel(), usual)

# %% And from every other value: five products for four outputs
anchor, into, out_of = w.sum() * x[2], jumps[2], jumps[3]
four = [anchor - (w[0] + w[1]) * into, anchor - w[0] * into, anchor + w[2] * out_of, anchor + (w[1] + w[2]) * out_of]
assert np.allclose(four, usual[3:7])

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
size = 4000  # so large that borders do not count
ways = [  # of one channel too little is saved, and there is an anchor at every position
    ("definition", "native", 1, "#9a9a9a"),
    ("folded", "folded", 1, "#8fb0d3"),
    ("by parts", "by_parts", 1, "#dc8a6d"),
    ("fewer anchors", "by_parts", 512, "#b3401e"),
]
ticks = {}
for scale, first, shown in ((2, 0, ways), (4, 5, ways[:3])):  # at scale 4 some outputs see one position only
    for at, (label, algorithm, channels, colour) in enumerate(shown, start=first):
        plan = explain("resize", (1, channels, size, size), (channels, channels, 3, 3), scale_factor=scale)
        (products,) = (each.macs for each in plan.candidates if each.algorithm == algorithm)
        products /= (size * channels) ** 2
        counts.bar(at, products, color=colour)
        counts.text(at, products + 2, f"{products:.3g}", ha="center")
        ticks[at] = label
    counts.text(first + (len(shown) - 1) / 2, 155, f"scale {scale}", ha="center")
counts.set_xticks(list(ticks), list(ticks.values()), rotation=30, ha="right")
counts.set_yticks([])
counts.set_ylim(0, 165)
counts.set_title("Products per input position, 3×3 taps", loc="left")
counts.spines[["top", "left", "right"]].set_visible(False)
figure.savefig("summation-by-parts.png")
print("summation-by-parts.png")
