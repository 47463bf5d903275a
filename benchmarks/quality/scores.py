"""What every contender is measured by, and what needs no training: the mean image, a thumbnail, PCA."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["baselines", "scores", "thumbnail_size"]

_CHUNK = 500


def scores(outputs: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """Compare reconstructions with the images.

    Args:
        outputs: float, values in [0, 1]; what lies outside is clipped.
        images: uint8, of the same shape N×H×W(×3).

    Returns:
        mse: mean squared error per value, of values in [0, 1].
        psnr: in dB, the mean over images of 10 log10(1 / MSE).
        gradient: the outputs' gradient energy (mean squared difference between neighbouring pixels) relative to the
            images': below 1 is blurred.
        gradient_error: the mean squared error of those differences, relative to the images' gradient energy: 0 is
            right, 1 is no better than a flat image. (Noise has gradient energy, but does not lower this error.)
        variance: the outputs' variance over images, summed over pixels, relative to the images': near 0 is collapsed.

    Raises:
        ValueError: where the shapes differ, or an output is not finite.
    """
    if outputs.shape != images.shape:
        raise ValueError(f"`outputs` (of shape {outputs.shape}) must have the shape of the images, {images.shape}.")
    if not np.isfinite(outputs).all():
        raise ValueError("`outputs` (with NaN or infinity) must be finite.")
    errors, gradients = [], np.zeros(3)
    sums, squares = np.zeros((2, *images.shape[1:])), np.zeros((2, *images.shape[1:]))
    for start in range(0, len(images), _CHUNK):
        output = outputs[start : start + _CHUNK].clip(0, 1).astype(np.float64)
        image = images[start : start + _CHUNK] / 255.0
        errors.append(np.square(output - image).reshape(len(image), -1).mean(1))
        for i, pixels in enumerate((output, image, output - image)):
            gradients[i] += sum(np.square(np.diff(pixels, axis=axis)).sum() for axis in (1, 2))
        for i, pixels in enumerate((output, image)):
            sums[i] += pixels.sum(0)
            squares[i] += np.square(pixels).sum(0)
    error = np.concatenate(errors)
    variances = (squares / len(images) - np.square(sums / len(images))).clip(0).reshape(2, -1).sum(1)
    return {
        "mse": float(error.mean()),
        "psnr": float((-10 * np.log10(error.clip(1e-10))).mean()),
        "gradient": float(gradients[0] / gradients[1]),
        "gradient_error": float(gradients[2] / gradients[1]),
        "variance": float(variances[0] / variances[1]),
    }


def baselines(data: dict[str, np.ndarray], numbers: int) -> dict[str, dict[str, dict[str, float]]]:
    """The scores of mean image, thumbnail and PCA with at most `numbers` numbers, on every part but `train`.

    PCA has fewer numbers where there are fewer training images; each baseline's `numbers` says how many.
    """
    parts = [part for part in data if part != "train"]
    train = data["train"].reshape(len(data["train"]), -1).astype(np.float32) / 255
    components, mean = _pca(train, numbers)
    height, width = thumbnail_size(data["train"].shape[1:], numbers)
    channels = data["train"].shape[3] if data["train"].ndim == 4 else 1
    counts = {"mean": 0, "thumbnail": height * width * channels, "pca": len(components)}
    result: dict[str, dict[str, dict[str, float]]] = {name: {} for name in counts}
    for part in parts:
        images = data[part]
        flat = images.reshape(len(images), -1).astype(np.float32) / 255 - mean
        outputs = {
            "mean": np.broadcast_to(mean.reshape(images.shape[1:]), images.shape),
            "thumbnail": _thumbnails(images, height, width),
            "pca": (flat @ components.T @ components + mean).reshape(images.shape),
        }
        for name, output in outputs.items():
            result[name][part] = {**scores(output, images), "numbers": counts[name]}
    return result


def _pca(train: np.ndarray, numbers: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.decomposition import PCA

    fitted = PCA(min(numbers, len(train) - 1, train.shape[1])).fit(train)
    return fitted.components_, fitted.mean_


def thumbnail_size(shape: tuple[int, ...], numbers: int) -> tuple[int, int]:
    """Height and width of the largest thumbnail of H×W(×C) that has at most `numbers` numbers, and one pixel at least.

    Example:
        >>> thumbnail_size((64, 64, 3), 256)
        (9, 9)
    """
    height, width, *channels = shape
    pixels = max(numbers // math.prod(channels), 1)
    rows = min(max(math.isqrt(pixels * height // width), 1), height, pixels)
    return rows, min(pixels // rows, width)


def _thumbnails(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Reduced and enlarged by Lanczos in floating point: of Pillow's and torch's filters the pair of least error."""
    from PIL import Image

    size = images.shape[2], images.shape[1]
    outputs = np.empty(images.shape, np.float32)
    planes = images.reshape(*images.shape[:3], -1)
    views = outputs.reshape(planes.shape)
    for index in range(len(planes)):
        for channel in range(planes.shape[3]):
            plane = Image.fromarray(planes[index, ..., channel].astype(np.float32))
            small = plane.resize((width, height), Image.Resampling.LANCZOS)
            views[index, ..., channel] = np.asarray(small.resize(size, Image.Resampling.LANCZOS)) / 255
    return outputs
