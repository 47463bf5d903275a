"""What all tests share: property tests that draw the same examples in every run."""

import os

# One thread for each worker, and for what it starts: two workers with two threads each, on two cores, wait for each
# other most of the time. Read when torch is first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# Choices of `tune` on this machine would replace the rule that is tested. No file can be in a file.
os.environ["HALFSTRIDE_TUNED"] = f"{os.devnull}/tuned.json"

import pytest
import torch
from hypothesis import settings

from halfstride import cli, functional
from halfstride._core import tuned
from halfstride._support.weight_cache import forget

# The same examples in every run, and no judgement by the clock: a test fails for a reason or not at all.
settings.register_profile("halfstride", derandomize=True, deadline=None)
# Other examples and many more, for `tests/fuzz.py`.
settings.register_profile("fuzz", max_examples=1000, database=None, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "halfstride"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def tuned_file(tmp_path, monkeypatch):
    """Where `tune` keeps what it finds, until the end of the test."""
    path = tmp_path / "kept" / "tuned.json"
    monkeypatch.setenv("HALFSTRIDE_TUNED", str(path))
    yield path
    tuned._read.cache_clear()
    forget(functional.plan)


@pytest.fixture
def halfstride(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder: its exit code, what it printed, and what it said on stderr.

    `halfstride.out` is what one prints that must succeed, `halfstride.error` the one line of one that must fail.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main(list(map(str, arguments)))
        return stopped.value.code or 0, *capsys.readouterr()

    def out(*arguments):
        code, out, err = run(*arguments)
        assert code == 0, err
        return out

    def error(*arguments):
        code, _, err = run(*arguments)
        assert (code, err.count("\n")) == (1, 1), err
        return err

    run.out, run.error = out, error
    return run
