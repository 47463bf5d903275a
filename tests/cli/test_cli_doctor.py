"""`halfstride doctor`, as a person uses it."""

import json

import numpy as np
from PIL import Image


def write_image(path, strength):
    pixels = np.random.default_rng(0).normal(128, 20, (64, 64))
    pixels[::2, ::2] += strength
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def test_a_picture_with_a_pattern_and_one_without(halfstride, tmp_path):
    write_image(tmp_path / "checkered.png", 30)
    write_image(tmp_path / "clean.png", 0)
    code, out, err = halfstride("doctor", "--image", "checkered.png", "--check", "--out", "report")
    assert (code, err) == (1, "")
    assert "Pattern found: period 2" in out
    assert json.loads((tmp_path / "report" / "doctor.json").read_text())["period"] == 2
    with Image.open(tmp_path / "report" / "doctor.png") as picture:
        assert picture.width > 500
    halfstride.out("doctor", "--image", "checkered.png")
    out = halfstride.out("doctor", "--image", "clean.png", "--check")
    assert "No periodic pattern found." in out


def test_a_picture_of_a_fence_could_not_be_judged(halfstride, tmp_path):
    pixels = np.random.default_rng(0).normal(80, 10, (96, 96)) + 100 * (np.arange(96) % 12 < 5)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "fence.png")
    code, out, err = halfstride("doctor", "--image", "fence.png", "--check")
    assert (code, err) == (3, "")
    assert "Could not judge: the content repeats by itself every 12 pixels" in out


def test_a_run_from_its_folder(halfstride, tmp_path):
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 255, (40, 16, 16), dtype=np.uint8))
    options = ("--epochs", "1", "--latent", "vector", "--latent-dim", "4", "--width", "8", "--upsampling", "resize")
    halfstride.out("train", "noise.npy", *options, "--out", "run")
    out = halfstride.out("doctor", "run", "--check", "--out", "report")
    assert "decoder.1" in out
    assert "No checkerboard found in the output." in out
    report = json.loads((tmp_path / "report" / "doctor.json").read_text())
    assert report["layers"][0]["kind"] == "resize"


def test_a_factory_in_the_working_folder(halfstride, tmp_path):
    (tmp_path / "zoo.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def generator():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(8, 3, 3, 2))\n"
        "def with_inputs():\n"
        "    return generator(), torch.rand(4, 8, 16, 16)\n"
        "number = int\n"
    )
    code, out, _ = halfstride("doctor", "zoo:generator", "--input-shape", "16x8x16x16", "--check")
    assert code == 1
    assert "made by 1." in out
    halfstride.out("doctor", "zoo:with_inputs")
    for arguments, error in (
        (("zoo:generator",), "`target` (=zoo:generator) returns no example inputs: give --input-shape."),
        (("zoo:generator", "--input-shape", "big"), "`--input-shape` (=big) must be sizes such as 16x100x1x1."),
        (
            ("zoo:generator", "--input-shape", "4x3x8x8"),
            "`target` (=zoo:generator) does not run on --input-shape 4x3x8x8: Given transposed=1, weight of size "
            "[8, 3, 3, 3], expected input[4, 3, 8, 8] to have 8 channels, but got 3 channels instead",
        ),
        (("zoo:number",), "`target` (=zoo:number) returns int: it must return a torch.nn.Module."),
    ):
        code, out, err = halfstride("doctor", *arguments)
        assert (code, out) == (1, "")
        assert err == f"error: {error}\n"


def test_help_names_the_factory_in_words(halfstride):
    out = halfstride.out("doctor", "--help")
    assert "\N{FACTORY}" not in out


def test_wrong_use_and_unreadable_files(halfstride, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    write_image(tmp_path / "clean.png", 0)
    for arguments, expected, text in (
        ((), 2, "name a TARGET or an --image, one of the two."),
        (("run", "--image", "clean.png"), 2, "name a TARGET or an --image, one of the two."),
        (("run", "--input-shape", "1x1"), 2, "--input-shape is for a TARGET of the form MODULE:FACTORY."),
        (("--image", "broken.png"), 1, "broken.png"),
        (("--image", "missing.png"), 1, "missing.png"),
        (("nowhere",), 1, "`target` (=nowhere) is no folder that `halfstride train` wrote, and not MODULE:FACTORY."),
        (("--image", "clean.png", "--out", "full"), 1, "`--out` (=full) exists already"),
    ):
        code, out, err = halfstride("doctor", *arguments)
        assert (code, out) == (expected, "")
        assert text in err
        assert len(err.splitlines()) == 1
