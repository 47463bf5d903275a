"""Damaged pictures, arrays, runs and files of codes: each is used, skipped, or one line of an error.

    python tests/fuzz_files.py --minutes 10

draws other examples every time, and stops at the first that raises anything else.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path

import hypothesis
import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from halfstride import cli
from halfstride.autoencoder import load_images
from halfstride.autoencoder.images import ImageError, decode
from halfstride.autoencoder.images.decoding import inspect
from small_training import pictures, small_model, small_training

# What may be wrong with a file ----------------------------------------------------------------------------------------

_NUMBERS = st.one_of(st.integers(-2, 40), st.sampled_from([10**6, 2**31, 2**63, 10**400]), st.floats())
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, st.sampled_from(["", "x", "vector", "map", "../x", "a\nb"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abx"), inner, max_size=2)),
    max_leaves=4,
)


@st.composite
def damaged_bytes(draw, content):
    """The bytes of a file of which some are cut off, changed, taken out or put in; more often of its head."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        where = st.integers(0, max(len(found) - 1, 0))
        place = draw(st.one_of(where, st.integers(0, min(len(found), 120))))
        kind = draw(st.sampled_from(["cut", "change", "insert", "remove", "repeat"]))
        some = draw(
            st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\n", b"0"]))
        )
        if kind == "cut":
            del found[place:]
        elif kind == "change":
            found[place : place + len(some)] = some
        elif kind == "insert":
            found[place:place] = some
        elif kind == "remove":
            del found[place : place + draw(st.integers(1, 40))]
        else:
            found += found[place:]
    return bytes(found)


@st.composite
def damaged_json(draw, content):
    """JSON of which one value has become another, is gone, or has got a neighbour."""
    root = [json.loads(content)]
    holder, key, inner = root, 0, root[0]
    while isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
        holder, key = inner, draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        inner = holder[key]
    kind = draw(st.sampled_from(["another", "gone", "neighbour"]))
    if kind == "another":
        holder[key] = draw(_JSON)
    elif kind == "gone":
        del holder[key]
    elif isinstance(holder, dict):
        holder["unknown"] = draw(_JSON)
    else:
        holder.append(draw(_JSON))
    return "".join(map(json.dumps, root[:1])).encode()


@st.composite
def damaged_lines(draw, content):
    """Lines of which one is empty, gone, there twice, or damaged."""
    lines = content.splitlines(keepends=True)
    place = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(["empty", "gone", "twice", "damaged"]))
    if kind == "gone":
        del lines[place]
    elif kind == "damaged":
        damage = damaged_json if lines[place].startswith(b"{") else damaged_bytes
        lines[place] = draw(damage(lines[place])) + b"\n"
    else:
        lines.insert(place, b"\n" if kind == "empty" else lines[place])
    return b"".join(lines)


def damaged(name, content):
    """Any of these that a file of this name can have."""
    ways = [damaged_bytes(content), st.binary(max_size=60)]
    if name.endswith(".json"):
        ways += [damaged_json(content)] * 4
    elif name.endswith((".jsonl", ".txt", ".csv")):
        ways += [damaged_lines(content)] * 3
    return st.one_of(ways)


# Pictures and arrays --------------------------------------------------------------------------------------------------


@cache
def picture_files():
    """A small file of each kind that is read."""
    generator = np.random.default_rng(0)
    colour = Image.fromarray(generator.integers(0, 255, (12, 17, 3), dtype=np.uint8))
    deep = Image.fromarray(generator.integers(0, 65_535, (12, 17), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "a.png": (colour, {}),
        "palette.png": (colour.convert("P"), {"transparency": 3}),
        "deep.png": (deep, {}),
        "alpha.png": (colour.convert("RGBA"), {}),
        "a.jpg": (colour, {"exif": exif}),
        "progressive.jpg": (colour, {"progressive": True}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "a.webp": (colour, {}),
        "a.avif": (colour, {}),
        "a.bmp": (colour, {}),
        "a.gif": (colour, {}),
        "a.ppm": (colour, {}),
        "a.tif": (colour, {}),
        "deep.tif": (deep, {}),
        "lzw.tif": (colour, {"compression": "tiff_lzw"}),
        "float.tif": (Image.fromarray(generator.random((12, 17), dtype=np.float32)), {}),
    }
    found = {}
    for name, (image, options) in kinds.items():
        file = io.BytesIO()
        image.save(
            file, {"jpg": "JPEG", "tif": "TIFF"}.get(name.rpartition(".")[2], name.rpartition(".")[2]), **options
        )
        found[name] = file.getvalue()
    return found


@cache
def array_files():
    """Files of arrays, with and without a split and compression."""
    images = pictures(12)
    found = {}
    for name, save in {
        "a.npy": lambda file: np.save(file, images),
        "a.npz": lambda file: np.savez(file, train=images[:8], test=images[8:]),
        "packed.npz": lambda file: np.savez_compressed(file, images),
    }.items():
        file = io.BytesIO()
        save(file)
        found[name] = file.getvalue()
    return found


def check_picture(content):
    """Bytes become an image of the size wanted, or an `ImageError` of one line."""
    for look in (inspect, lambda picture: decode(picture, (3, 8, 10), "pad")):
        try:
            found = look(content)
        except ImageError as error:
            assert _is_one_line(str(error)), str(error)  # noqa: PT017
        else:
            assert not isinstance(found, torch.Tensor) or found.shape == (3, 8, 10)


def check_folder(folder, name, content):
    """A folder with a damaged picture in it is read; it is one of the images, or skipped and named."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, pixels in enumerate(pictures(3)):
        Image.fromarray(pixels).save(folder / f"good{number}.png")
    (folder / name).write_bytes(content)
    images = load_images(folder)
    used = {name for split in (images.train, images.validation, images.test) for name in split.names or ()}
    assert used | {skipped.name for skipped in images.skipped} == {"good0.png", "good1.png", "good2.png", name}


def check_array(path, content):
    """A file of arrays is read, or it is a `ValueError` of one line that names it."""
    path.write_bytes(content)
    try:
        images = load_images(path)
    except ValueError as error:
        assert _is_one_line(str(error)), str(error)  # noqa: PT017
        assert path.name in str(error)  # noqa: PT017
    else:
        assert len(images.train) > 0


# Runs -----------------------------------------------------------------------------------------------------------------


@cache
def small_run():
    """A finished run on a folder of pictures, with a detector; and a file of its pictures' codes."""
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (place / "pictures").mkdir()
    for number, pixels in enumerate(pictures(40, shape=(12, 12))):
        Image.fromarray(pixels).save(place / "pictures" / f"{number}.png")
    run = place / "run"
    images = load_images(place / "pictures")
    small_training(run, small_model("map", (12, 12), downscale=4), images, steps=4, crop=None)
    small_training(run, small_model("map", (12, 12), downscale=4), images, resume=True, steps=3)
    for command in (
        ["fit-detector", run],
        ["embed", run, place / "pictures", "--out", place / "codes.npz"],
        ["embed", run, place / "pictures", "--out", place / "codes.parquet"],
    ):
        assert _command(command) == (0, "")
    from halfstride.autoencoder import Run, finish

    opened = Run(run)
    finish(opened, opened.load_model(), images)
    return place


RUN_FILES = (
    "run.json", "config.json", "metrics.jsonl", "evaluation.json", "images.txt", "model.safetensors",
    "checkpoint.safetensors", "detector.json", "detector.safetensors",
)  # fmt: skip
CODES_FILES = ("codes.npz", "codes.parquet")


def commands(name):
    """Command lines that read this file of a run."""
    pictures, one = "pictures", "pictures/1.png"
    evaluate, sample, resume = ["evaluate", "run"], ["sample", "run", "-n", "2"], ["train", "--out", "run", "--resume"]
    resume += ["--steps", "1", "--no-detector"]
    detect, twins = ["detect", "run", one, "--out", "detected"], ["duplicates", "run", "--out", "twins"]
    return {
        "run.json": [evaluate, sample, resume, detect],
        "config.json": [evaluate, resume, detect],
        "metrics.jsonl": [evaluate, resume],
        "evaluation.json": [resume],
        "images.txt": [twins, resume, ["evaluate", "run", pictures]],
        "model.safetensors": [evaluate, detect],
        "checkpoint.safetensors": [resume],
        "detector.json": [detect],
        "detector.safetensors": [detect],
        "codes.npz": [["similar", "run", one, "codes.npz"]],
        "codes.parquet": [["similar", "run", one, "codes.parquet"]],
    }[name]


def check_run(place, name, content, arguments):
    """A command on a run with a damaged file does its work, or ends with one line on stderr."""
    original = small_run()
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(original, place)
    record = place / "run" / "run.json"
    record.write_text(record.read_text().replace(str(original), str(place)))
    (place / ("run" if name in RUN_FILES else ".") / name).write_bytes(content)
    here = Path.cwd()
    os.chdir(place)
    try:
        code, err = _command(arguments)
    finally:
        os.chdir(here)
    assert code in (0, 1), (code, err)
    assert code == 0 or (err.startswith("error: ") and _is_one_line(err.strip())), err


def _command(arguments):
    """The exit code of a command, and what it said on stderr beside the table of a training."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(list(map(str, arguments)))
        except SystemExit as stopped:
            code = stopped.code or 0
    text = err.getvalue()
    return code, text[text.rfind("error: ") :] if "error: " in text else ""


def _is_one_line(text):
    return 0 < len(text) < 1_000 and text.isprintable()


# ----------------------------------------------------------------------------------------------------------------------


def check_any(data, place):
    """One drawn file of any kind."""
    kind = data.draw(st.sampled_from(["picture", "picture", "folder", "array", "run", "run", "codes"]))
    if kind in ("picture", "folder"):
        name = data.draw(st.sampled_from(sorted(picture_files())))
        content = data.draw(damaged(name, picture_files()[name]))
        check_picture(content) if kind == "picture" else check_folder(place / "folder", name, content)
    elif kind == "array":
        name = data.draw(st.sampled_from(sorted(array_files())))
        check_array(place / name, data.draw(damaged(name, array_files()[name])))
    else:
        name = data.draw(st.sampled_from(RUN_FILES if kind == "run" else CODES_FILES))
        path = small_run() / ("run" if kind == "run" else ".") / name
        content = data.draw(damaged(name, path.read_bytes()))
        check_run(place / "run", name, content, data.draw(st.sampled_from(commands(name))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="of the first examples")
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    end, seed, count = time.monotonic() + 60 * arguments.minutes, arguments.seed, 0
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        while time.monotonic() < end:

            @hypothesis.seed(seed)
            @hypothesis.settings(
                max_examples=50, deadline=None, database=None, derandomize=False, print_blob=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            )  # fmt: skip
            @hypothesis.given(st.data())
            def check(data):
                nonlocal count
                count += 1
                check_any(data, place)

            check()
            seed += 1
            print(f"{count:,} files, seeds {arguments.seed} to {seed - 1}", file=sys.__stdout__, flush=True)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
