"""What the tests of the commands share: a folder of pictures, and a run on it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halfstride import cli
from small_commands import VECTOR


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of two classes of small pictures of different sizes and of broken ones, and a run on it."""
    place = tmp_path_factory.mktemp("prepared")
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (place / "photos" / name).mkdir(parents=True)
        for number in range(12):
            size = (int(generator.integers(12, 20)), int(generator.integers(12, 20)), 3)
            pixels = generator.integers(0, 255, size, dtype=np.uint8)
            Image.fromarray(pixels).save(place / "photos" / name / f"{number}.png")
    for number in range(4):
        (place / "photos" / "cats" / f"broken{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    here = Path.cwd()
    os.chdir(place)
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["train", "photos", "--size", "13x15", "--out", "run", *VECTOR])
        assert not stopped.value.code
    finally:
        os.chdir(here)
    return place


@pytest.fixture
def photos(prepared, tmp_path):
    return shutil.copytree(prepared / "photos", tmp_path / "photos")


@pytest.fixture
def run(prepared, photos, tmp_path):
    """A copy of the run, whose images are where it says."""
    shutil.copytree(prepared / "run", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["data"]["source"] = str(photos)
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    return tmp_path / "run"
