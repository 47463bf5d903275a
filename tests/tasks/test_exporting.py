"""Exported files: they give PyTorch's results, also for other sizes than they were exported with."""

import runpy
import shutil

import numpy as np
import pytest
import torch

import halfstride
from halfstride import cli
from halfstride.tasks import exporting, load_run
from small_training import pictures, small_model, small_training

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module", params=["vector", "map"])
def run(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    np.save(place / "good.npy", pictures(60, shape=(16, 24)))
    images = halfstride.load_images(place / "good.npy")
    small_training(place / "run", small_model(request.param, size=(16, 24)), images)
    halfstride.fit_detector(place / "run", false_alarms=0.2)
    return load_run(place / "run")


def session(path):
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def test_a_file_gives_images_codes_scores_maps_and_labels_for_any_batch(run, tmp_path, capsys):
    exported = run.export(tmp_path / "run.onnx")
    assert max(exported.errors.values()) <= 1.001 / 255
    size = (33, 40) if run.model.takes_any_size else (16, 24)
    images = pictures(5, seed=1, shape=size)
    loaded = session(exported.path)
    found = dict(
        zip(
            [output.name for output in loaded.get_outputs()],
            loaded.run(None, {"images": images[..., None]}),
            strict=True,
        )
    )
    assert found["image"].shape == (5, *size, 1)
    results = run.detect(list(images)).results if not run.model.takes_any_size else None
    with torch.inference_mode():
        floats = torch.from_numpy(images)[:, None] / 255
        np.testing.assert_allclose(found["code"], run.model.encode(floats).numpy(), atol=1e-4)
    if results:
        assert found["score"] == pytest.approx([result.pred_score for result in results], abs=1e-3)
        assert found["label"].tolist() == [result.pred_label for result in results]
    strict = loaded.run(["label"], {"images": images[..., None], "threshold": np.float32(1e6)})[0]
    loose = loaded.run(["label"], {"images": images[..., None], "threshold": np.float32(-1e6)})[0]
    assert not strict.any()
    assert loose.all()
    assert "halfstride" not in exported.example.read_text().replace("halfstride.", "")
    runpy.run_path(str(exported.example))
    assert "anomaly_map float32" in capsys.readouterr().out


def test_half_precision_halves_the_file_and_parts_fit_together(run, tmp_path):
    whole, half = (
        run.export(tmp_path / f"{kind}.onnx", half=kind == "half", layout="NCHW").path for kind in ("whole", "half")
    )
    assert half.stat().st_size < 0.75 * whole.stat().st_size
    encoder, decoder = (
        session(run.export(tmp_path / f"{part}.onnx", parts=part, layout="NCHW").path)
        for part in ("encoder", "decoder")
    )
    images = pictures(3, seed=2, shape=(16, 24))[:, None]
    code = encoder.run(None, {"images": images})[0]
    restored = decoder.run(None, {"code": code})[0]
    assert np.abs(restored.astype(int) - session(whole).run(["image"], {"images": images})[0].astype(int)).max() <= 1


def test_torch_export_files_run_without_the_model(run, tmp_path):
    path = run.export(tmp_path / "run.pt2").path
    images = torch.from_numpy(pictures(3, seed=2, shape=(16, 24)))[..., None]
    image, code, score, *_ = torch.export.load(path).module()(images, torch.tensor(0.0))
    assert image.shape == images.shape
    assert len(code) == len(score) == 3


def test_a_file_that_differs_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_run_onnx", lambda *_: [np.zeros((1, 1))] * 5)
    (tmp_path / "run.onnx").write_text("before")
    with pytest.raises(ValueError, match="was not written: `image` differs from PyTorch"):
        run.export(tmp_path / "run.onnx")
    assert (tmp_path / "run.onnx").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["run.onnx"]


def test_the_command_says_what_the_file_takes_and_returns(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", str(run.path), "--out", str(tmp_path / "run.onnx")])
    said = capsys.readouterr()
    assert not stopped.value.code, said.err
    assert "takes    images       uint8 N×16×24×1" in said.out
    assert "returns  label" in said.out


def test_bad_arguments_are_refused_before_any_work(run, tmp_path):
    for out, options, reason in (
        ("run.bin", {}, "must end in .onnx or .pt2"),
        ("nowhere/run.onnx", {}, "must lie in a folder that exists"),
        ("run.pt2", {"half": True}, r"`half` \(=True\) is for .onnx"),
        ("run.onnx", {"parts": "middle"}, "`parts`"),
    ):
        with pytest.raises(ValueError, match=reason):
            run.export(tmp_path / out, **options)


def test_without_a_detector_there_are_images_and_codes(run, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "run")
    (copy / "detector.json").unlink()
    assert list(load_run(copy).export(tmp_path / "run.onnx").outputs) == ["image", "code"]
