"""How well `detect` finds what is anomalous: clothes of other kinds, and painted defects on textures.

    python -m benchmarks.detection [--only SUBSTRING] [--minutes M] [--peers PYTHON] [--out FILE.json]

Clothes: a run for each class of Fashion-MNIST on its 6,000 training images, tested on all 10,000 test images; textures:
crops of 128 pixels of scikit-image's brick, grass and gravel; half of the picture to train on, half to test on, with
scratches, stains, smears, foreign patches and holes, which are drawn by other rules than the defects that the detector
is shown. Beside it are PCA with as many numbers (mean squared error; for textures its smoothed maximum) and, for
textures with --peers (see `detection_peer.py`), anomalib's Draem and Ganomaly with as much CPU time. Each row is
written when it is done; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from benchmarks.machine import processor
from benchmarks.quality.sets import fashion, prepare

RESULTS = Path(__file__).parent / "results" / "detection.json"
WORK = Path(tempfile.gettempdir()) / "halfstride-detection"
QUALITY = Path(tempfile.gettempdir()) / "halfstride-quality"
TEXTURES = {"brick": "grass", "grass": "gravel", "gravel": "brick"}
"""Each texture, and what foreign patches in it are of."""
DEFECTS = ("scratch", "stain", "smear", "foreign", "hole")
SIDE = 128
KEEP_RUNS = False
"""Whether runs of an earlier call are fitted and tested again, not trained again."""


def paint(
    image: np.ndarray, kind: str, foreign: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A grey image H×W of uint8 with a defect, and its mask."""
    values, size = image.astype(float), generator.uniform(24, 48)
    if kind == "scratch":
        mask = _scratch(image.shape, size, generator)
        changed = values + ndimage.gaussian_filter(mask.astype(float), 0.5) * generator.choice(
            [-1, 1]
        ) * generator.uniform(70, 110)
        return np.clip(np.rint(changed), 0, 255).astype(np.uint8), mask
    mask = _blob(image.shape, 0.6 * size if kind == "hole" else size, generator)
    soft = ndimage.gaussian_filter(mask.astype(float), {"stain": 1.5, "smear": 1.0}.get(kind, 0.6))
    content = {
        "stain": values * generator.uniform(0.35, 0.55),
        "smear": ndimage.gaussian_filter(values, 3),
        "foreign": foreign.astype(float),
        "hole": np.full_like(values, generator.choice([15, 240])),
    }[kind]
    changed = values * (1 - soft) + content * soft
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8), mask


def _blob(shape: tuple[int, ...], size: float, generator: np.random.Generator) -> np.ndarray:
    noise = ndimage.gaussian_filter(generator.standard_normal(shape), size / 3)
    y, x = (np.arange(side) - generator.uniform(size / 2, side - size / 2) for side in shape)
    return np.hypot(y[:, None], x[None]) / (size / 2) + 0.25 * noise / noise.std() < 1


def _scratch(shape: tuple[int, ...], size: float, generator: np.random.Generator) -> np.ndarray:
    y, x = (np.arange(side) - generator.uniform(size / 2, side - size / 2) for side in shape)
    angle, bend = generator.uniform(0, np.pi), generator.uniform(-0.02, 0.02)
    along = x[None] * np.cos(angle) + y[:, None] * np.sin(angle)
    aside = y[:, None] * np.cos(angle) - x[None] * np.sin(angle)
    return (np.abs(aside - bend * along**2) < generator.uniform(1.5, 2.5)) & (np.abs(along) < size)


def texture_row(name: str, minutes: float, peers: str | None) -> dict[str, Any]:
    loaded = {each: prepare(f"{each}-{SIDE}", QUALITY).load() for each in TEXTURES}
    data, other = loaded[name], loaded[TEXTURES[name]]
    generator, good = np.random.default_rng(5), data["test"]
    kinds = [DEFECTS[i % len(DEFECTS)] for i in range(len(good))]
    bad, masks = zip(
        *(paint(g, k, o, generator) for g, k, o in zip(good, kinds, other["test"], strict=True)), strict=True
    )
    run, seconds = _train(name, data["train"], minutes)
    tested, truth = np.concatenate([good, np.stack(bad)]), np.repeat([False, True], len(good))
    found, judging = _detect(run, tested)
    from halfstride import figures
    from halfstride.tasks.detection.metrics import region_overlap

    maps = [figures.map_at_size(result.anomaly_map, (SIDE, SIDE)) for result in found.results]
    wanted = [*([np.zeros((SIDE, SIDE), bool)] * len(good)), *masks]
    pixel_auroc, aupro = region_overlap(maps, wanted)
    scores = np.array([result.pred_score for result in found.results])
    errors = _pca_errors(data["train"], tested, 512)
    smoothed = ndimage.gaussian_filter(errors, (0, 4, 4))
    per_kind = {
        kind: roc_auc_score(truth[rows], scores[rows])
        for kind in DEFECTS
        if (rows := np.append(np.ones(len(good), bool), np.array(kinds) == kind)).any()
    }
    row = {
        "image_auroc": roc_auc_score(truth, scores),
        "pixel_auroc": pixel_auroc,
        "aupro": aupro,
        "image_auroc_by_defect": per_kind,
        "false_alarms": int((scores[: len(good)] > found.threshold).sum()),
        "pca_image_auroc": roc_auc_score(truth, smoothed.max((1, 2))),
        "pca_pixel_auroc": region_overlap(list(smoothed), wanted)[0],
        "cpu_seconds": seconds,
        "judging_over_passes": judging,
    }
    if peers is not None and seconds is not None:
        sources = np.concatenate([images["train"] for each, images in loaded.items() if each != name])
        arrays = {"train": data["train"], "test": tested, "sources": sources}
        for peer in ("draem", "ganomaly"):
            row |= _peer_scores(peer, peers, arrays, seconds, truth, wanted)
    return row


def _peer_scores(
    peer: str,
    python: str,
    arrays: dict[str, np.ndarray],
    seconds: float,
    truth: np.ndarray,
    masks: list[np.ndarray],
) -> dict[str, Any]:
    from halfstride.tasks.detection.metrics import region_overlap

    with tempfile.TemporaryDirectory() as folder:
        images, scores = Path(folder, "images.npz"), Path(folder, "scores.npz")
        np.savez(images, **arrays)
        command = [python, "-m", "benchmarks.detection_peer", peer, "--images", str(images)]
        subprocess.run([*command, "--cpu-seconds", f"{seconds:g}", "--out", str(scores)], check=True)
        with np.load(scores) as found:
            result = {
                f"{peer}_image_auroc": roc_auc_score(truth, found["scores"]),
                f"{peer}_steps": int(found["steps"]),
            }
            if "maps" in found:
                result[f"{peer}_pixel_auroc"] = region_overlap(list(found["maps"]), masks)[0]
    return result


def clothes_row(normal: int, minutes: float) -> dict[str, Any]:
    images, labels = fashion("images"), fashion("labels")
    train, test, truth = images["train"][labels["train"] == normal], images["test"], labels["test"] != normal
    run, seconds = _train(f"clothes-{normal}", train, minutes)
    found, judging = _detect(run, test)
    scores = np.array([result.pred_score for result in found.results])
    return {
        "image_auroc": roc_auc_score(truth, scores),
        "false_alarms": float((scores[~truth] > found.threshold).mean()),
        "splits_inside_of_100": _splits_inside(scores[~truth]),
        "pca_image_auroc": roc_auc_score(truth, _pca_errors(train, test, 32).mean((1, 2))),
        "cpu_seconds": seconds,
        "judging_over_passes": judging,
    }


def _train(name: str, images: np.ndarray, minutes: float) -> tuple[Path, float | None]:
    """Train and fit by the command; the run, and the CPU seconds that it took (None for a run that was kept)."""
    folder = WORK / name
    if KEEP_RUNS and (folder / "run" / "detector.json").exists():
        import halfstride

        halfstride.fit_detector(folder / "run")
        return folder / "run", None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    np.save(folder / "good.npy", images)
    command = [sys.executable, "-m", "halfstride", "train", str(folder / "good.npy"), "--out", str(folder / "run")]
    process = subprocess.Popen([*command, "--minutes", f"{minutes:g}"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}.")
    return folder / "run", usage.ru_utime + usage.ru_stime


def _detect(run: Path, images: np.ndarray) -> tuple[Any, float]:
    """What is found, and its CPU time over that of the passes of model and head through batches that are ready."""
    import torch

    import halfstride
    from halfstride.tasks.detection.detector import load_detector

    opened = halfstride.load_run(run)
    opened.detect(images[:256])
    started = time.process_time()
    found = opened.detect(images)
    judging = time.process_time() - started
    model, head = opened.model, load_detector(opened.model, run).detector.head
    batches = torch.from_numpy(images)[:, None].float().div(255).contiguous(memory_format=torch.channels_last)
    started = time.process_time()
    with torch.inference_mode():
        for batch in batches.split(256 if images.shape[1] < 64 else 64):
            outputs = model(batch)
            model.encode(outputs)
            head(batch, outputs)
    return found, judging / (time.process_time() - started)


def _splits_inside(scores: np.ndarray, rate: float = 0.05) -> int:
    """Of 100 halvings of good images, in how many the false alarms on one lie in the interval told by the other."""
    from halfstride.tasks.detection.threshold import set_threshold

    generator, inside = np.random.default_rng(0), 0
    for _ in range(100):
        first, second = np.split(generator.permutation(scores), [len(scores) // 2])
        threshold = set_threshold(first.tolist(), rate)
        low, high = threshold.interval(len(second))
        inside += low <= int((second > threshold.value).sum()) <= high
    return int(inside)


def _pca_errors(train: np.ndarray, images: np.ndarray, numbers: int) -> np.ndarray:
    """Squared errors N×H×W of PCA with as many numbers, or as many as there are images for."""
    flat = train.reshape(len(train), -1) / 255
    pca = PCA(min(numbers, len(train) // 2), svd_solver="randomized", random_state=0).fit(flat)
    asked = images.reshape(len(images), -1) / 255
    return ((pca.inverse_transform(pca.transform(asked)) - asked) ** 2).reshape(images.shape)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detection", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only rows with this in their name")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="of each training, without its detector (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON (%(default)s)")
    parser.add_argument("--keep-runs", action="store_true", help="fit and test earlier runs again, without training")
    parser.add_argument("--peers", metavar="PYTHON", help="of an environment with anomalib")
    arguments = parser.parse_args()
    global KEEP_RUNS
    KEEP_RUNS = arguments.keep_runs
    rows = {f"clothes {c}": lambda c=c: clothes_row(c, arguments.minutes) for c in range(10)}
    rows |= {f"texture {t}": lambda t=t: texture_row(t, arguments.minutes, arguments.peers) for t in TEXTURES}
    content = {"processor": processor(), "minutes": arguments.minutes, "rows": {}}
    if arguments.out.exists():
        content = json.loads(arguments.out.read_text())
    for name, row in rows.items():
        if arguments.only in name and name not in content["rows"]:
            content["rows"][name] = row()
            temporary = arguments.out.with_name(f".{arguments.out.name}.unfinished")
            temporary.write_text(json.dumps(content, indent=1) + "\n")
            temporary.replace(arguments.out)
            print(
                name,
                {key: round(value, 4) for key, value in content["rows"][name].items() if isinstance(value, float)},
                flush=True,
            )
    for kind in ("clothes", "texture"):
        done = [row for name, row in content["rows"].items() if name.startswith(kind)]
        if done:
            means = {key: np.mean([row[key] for row in done]) for key in ("image_auroc", "pca_image_auroc")}
            print(f"{kind}: mean of {len(done)}: " + ", ".join(f"{key} {value:.4f}" for key, value in means.items()))


if __name__ == "__main__":
    main()
