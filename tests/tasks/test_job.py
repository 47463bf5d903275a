"""Commands under `torchrun`: processes share the pictures, and what is written is what one process writes."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np

import halfstride
from halfstride import cli

SCRIPT = """
import json, sys
from halfstride import cli
for command in json.loads(sys.argv[1]):
    cli.app(command, standalone_mode=False)
"""


def test_processes_share_the_pictures_and_write_each_result_once(runs, folder, tmp_path, monkeypatch):
    run = shutil.copytree(runs["map"].path, tmp_path / "run")
    halfstride.fit_detector(run, folder, false_alarms=0.3)

    def commands(place):
        place.mkdir()
        return [
            ["embed", str(run), str(folder), "--out", str(place / "codes.npz")],
            ["denoise", str(run), str(folder), "--clean", str(folder), "--out", str(place / "clean")],
            ["detect", str(run), str(folder), "--out", str(place / "found")],
        ]

    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for command in commands(alone):
        cli.app(command, standalone_mode=False)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [*launch, str(tmp_path / "script.py"), json.dumps(commands(shared))],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.relative_to(alone) for path in alone.rglob("*")) == sorted(
        path.relative_to(shared) for path in shared.rglob("*")
    )
    names = {path.name for path in (shared / "clean").iterdir()}
    assert names == {f"{c}-{n}.png" for c in ("cats", "dogs") for n in range(6)} | {"results.csv", "overview.png"}
    assert done.stdout.count("12 pictures, results.csv and overview.png in ") == 1
    codes = [np.load(place / "codes.npz") for place in (alone, shared)]
    assert list(codes[0]["path"]) == list(codes[1]["path"])
    np.testing.assert_allclose(codes[0]["code"], codes[1]["code"], atol=1e-5)
    found = [
        [json.loads(line) for line in (place / "found" / "results.jsonl").read_text().splitlines()]
        for place in (alone, shared)
    ]
    assert [row["path"] for row in found[0]] == [row["path"] for row in found[1]]
    assert [row["pred_label"] for row in found[0]] == [row["pred_label"] for row in found[1]]
    assert done.stdout.count("of 12 pictures are anomalous") == 1
