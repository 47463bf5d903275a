"""A short pass of `fuzz_files.py`, the same in every run, and each damage that it has found."""

import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzz_files as fuzz


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_damaged_pictures_and_arrays_are_read_skipped_or_one_line(data, tmp_path):
    name = data.draw(st.sampled_from(sorted({**fuzz.picture_files(), **fuzz.array_files()})))
    content = {**fuzz.picture_files(), **fuzz.array_files()}[name]
    damaged = data.draw(fuzz.damaged(name, content))
    if name in fuzz.array_files():
        fuzz.check_array(tmp_path / name, damaged)
    else:
        fuzz.check_picture(damaged)
        fuzz.check_folder(tmp_path / "folder", name, damaged)


def of_run(name):
    return (fuzz.small_run() / ("run" if name in fuzz.RUN_FILES else ".") / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("metrics.jsonl", lambda content: b"\n" + content),
        ("metrics.jsonl", lambda content: b'{"step": "one"}\n' + content),
        ("metrics.jsonl", lambda content: b"7\n" + content),
        ("images.txt", lambda content: content.replace(b"\t", b" ", 1)),
        ("config.json", lambda content: content.replace(b'"width": 8', b'"width": 100000000')),
        ("checkpoint.safetensors", lambda content: content.replace(b'\\"step\\": 7', b'\\"step\\":[]')),
        ("detector.json", lambda content: content.replace(b"[12, 12]", b"[12]")),
        ("detector.json", lambda content: content.replace(b"[12, 12]", b"[12, Infinity]")),
        ("codes.npz", lambda content: b"no zip"),
        ("codes.npz", lambda content: content.replace(b"PK\x03\x04", b"PK\x03\x05")),
        ("codes.parquet", lambda content: content[:4] + b"\x0f" * 40 + content[44:]),
    ],
)
def test_damaged_runs_are_used_or_one_line(name, damage, tmp_path):
    assert damage(of_run(name)) != of_run(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for arguments in fuzz.commands(name):
            fuzz.check_run(tmp_path / "place", name, damage(of_run(name)), arguments)
