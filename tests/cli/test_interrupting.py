"""Ctrl-C while a command starts, and while a run's folder is written."""

import signal
import subprocess
import sys
import types

import pytest

from halfstride import __main__ as command
from halfstride.autoencoder.run_folder import Run
from small_training import small_training


def test_ctrl_c_during_an_import_ends_the_process_without_a_word(tmp_path):
    (tmp_path / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('went on')\n")
    program = (
        "import signal\nfrom halfstride import __main__ as c\nsignal.signal(signal.SIGINT, c._interrupt)\nimport slow"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_ctrl_c_outside_of_imports_is_an_exception():
    frame = types.SimpleNamespace(f_code=types.SimpleNamespace(co_filename="work.py"), f_back=None)
    with pytest.raises(KeyboardInterrupt):
        command._interrupt(signal.SIGINT, frame)


def test_an_interrupted_beginning_leaves_no_folder(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_training(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
