"""What `halfstride train`, `evaluate`, `reconstruct`, `sample` and `sweep` say to bad input."""

import re

import numpy as np
import pytest

from halfstride import cli
from small_commands import ENCODER, VECTOR, pairs

OWN = ["train", "photos", "--size", "12", "--out", "new", "--encoder"]


BAD = {
    "missing folder": (["train", "nowhere"], r"`source` \(=nowhere\) does not exist: give a folder"),
    "empty name": (["train", ""], r"`data` \(=\) must be a folder of images, a \.npy"),
    "no images": (["train", "empty"], r"`source` \(=.*empty\) holds no images: give a folder"),
    "all broken": (["train", "broken"], r"holds no usable image: 1 skipped \(x\.png"),
    "pairs": (["train", "noisy", "--clean", "clean"], r"`--clean` \(=clean\) must have one .* 2 \(3\.png, 4\.png\) in"),
    "no twins of digits": (["train", "--clean", "clean"], r"`--clean` \(=clean\) must go with a folder"),
    "no epochs": (["train", "--epochs", "0"], r"`--epochs` \(=0\) must be (an int of )?at least 1\."),
    "two lengths": (["train", "--steps", "5", "--minutes", "1"],
        r"`--steps` \(=5\) and `--minutes` \(=1\.0\) exclude each"),
    "no latent": (["train", "photos", "--latent-dim", "0", "--latent", "vector"], r"`--latent-dim` \(=0\) must be"),
    "crop of a vector": (["train", "photos", "--crop", "8", *VECTOR], r"`--crop` \(=8\) needs a latent map"),
    "corruption": (["train", "--corrupt", "fog:1"], r"`--corrupt` \(='fog:1'\) must be one of gaussian:STD"),
    "device absent": (["train", "photos", "--device", "cuda:99"], r"`--device` \(=cuda:99\) is not available here"),
    "size of letters": (["train", "--size", "big"], r"`--size` \(=big\) must be whole numbers, such as 64x48\."),
    "out exists": (["train", "photos", "--out", "photos"], r"`--out` \(=photos\) exists already: choose another name"),
    "out in a file": (["train", "photos", "--out", "nan.npy/x"],
        r"`--out` \(=nan\.npy/x\) .* since nan\.npy is a file"),
    "mean without encoder": (["train", "photos", "--mean", "0.5"], r"`--mean` is for an encoder of your own"),
    "encoder and latent": ([*OWN, "ownnets:make", "--latent-dim", "3"],
        r"`--latent-dim` \(=3\) and `--encoder` \(=ownnets:make\) exclude each other"),
    "encoder of no codes": ([*OWN, "ownnets:flat"], r"`--encoder`|cannot undo"),
    "resume nothing": (["train", "--resume"], r"`--resume` needs the run's folder: name it by --out\."),
    "resume elsewhere": (["train", "--resume", "--out", "photos"], r"`run` \(=photos\) has no run\.json"),
    "evaluate nothing": (["evaluate", "nowhere"], r"`run` \(=nowhere\) is not a folder"),
    "evaluate twins alone": (["evaluate", "run", "--clean", "clean"], r"`--clean` \(=clean\) needs the noisy twins"),
    "sample no png": (["sample", "run", "--out", "x.jpg"], r"`--out` \(=x\.jpg\) must end in \.png"),
    "sample nowhere": (["sample", "run", "--out", "no/x.png"],
        r"`--out` \(=no/x\.png\) must lie in a folder that exists"),
    "one size": (["sweep", "photos", "--latents", "8"], r"`--latents` \(=8\) must be two sizes or more"),
    "downscale larger than the image": (["train", "photos", "--size", "12", "--latent", "map", "--downscale", "16"],
        r"`--downscale` \(=16\) is larger than images of 12×12: use at most 8\."),
    "few steps": (["sweep", "photos", "--steps", "3"], r"`--steps` \(=3\) are shared by 4 trainings: give at least 4"),
    "last size too large": (["sweep", "photos", "--latents", "2,99999", "--latent", "vector", "--out", "new"],
        r"`--latents` \(=99999\) makes a code"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_leaves_nothing_behind(halfstride, run, tmp_path, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"no picture")
    (tmp_path / "ownnets.py").write_text(ENCODER)
    pairs(tmp_path, missing=(3, 4))
    np.save(tmp_path / "nan.npy", np.full((20, 8, 8), np.nan, np.float32))
    arguments, text = BAD[case]
    before = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
    code, _, err = halfstride(*arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(text, err), err
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [("train --epoch 3", "--epochs"), ("trian", "train"), ("train --loss mae", "mse"), ("sample x --count 0", "count")],
)
def test_a_wrong_option_gets_a_suggestion(halfstride, line, suggestion):
    code, _, err = halfstride(*line.split())
    assert code == 2
    assert suggestion in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(halfstride):
    with pytest.raises(ValueError, match="does not exist"):
        cli.main(["train", "nowhere", "--debug"])
