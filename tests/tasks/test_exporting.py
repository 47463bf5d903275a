"""Exported files: they give PyTorch's results, also for other sizes than they were exported with."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import halfstride
from halfstride import cli
from halfstride.tasks import exporting, load_run
from halfstride.tasks.detection import fitting
from small_training import pictures, small_model, small_training

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module", params=["vector", "map"])
def run(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    np.save(place / "good.npy", pictures(60, shape=(16, 24)))
    images = halfstride.load_images(place / "good.npy")
    small_training(place / "run", small_model(request.param, size=(16, 24)), images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "_STEPS", {"vector": 30, "map": 30})  # how well defects are found does not matter here
        halfstride.fit_detector(place / "run", false_alarms=0.2)
    return load_run(place / "run")


@pytest.fixture(scope="module")
def exported(run):
    return run.export(run.path.parent / "run.onnx")


@pytest.fixture(scope="module")
def map_run(tmp_path_factory):
    """A run with a latent map and without a detector."""
    place = tmp_path_factory.mktemp("plain")
    small_training(
        place / "run", small_model("map", size=(16, 24)), halfstride.load_images(pictures(60, shape=(16, 24)))
    )
    return load_run(place / "run")


def session(path):
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def test_a_file_gives_images_codes_scores_maps_and_labels_for_any_batch(run, exported, capsys):
    assert max(exported.errors.values()) <= 1.001 / 255
    size = (33, 40) if run.model.takes_any_size else (16, 24)
    images = pictures(5, seed=1, shape=size)
    loaded = session(exported.path)
    free = ["height", "width"] if run.model.takes_any_size else [16, 24]
    assert loaded.get_inputs()[0].shape == ["batch", *free, 1]
    assert loaded.get_outputs()[0].shape == ["batch", *free, 1]
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
    strict = loaded.run(["label"], {"images": images[..., None], "threshold": np.array(1e6, np.float32)})[0]
    loose = loaded.run(["label"], {"images": images[..., None], "threshold": np.array(-1e6, np.float32)})[0]
    assert not strict.any()
    assert loose.all()
    assert "halfstride" not in exported.example.read_text().replace("halfstride.", "")
    runpy.run_path(str(exported.example))
    assert "anomaly_map float32" in capsys.readouterr().out


def test_weights_in_half_precision_give_a_smaller_file_without_paths(map_run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_SMALLEST_HALVED", 64)
    whole, half = (map_run.export(tmp_path / f"{kind}.onnx", half=kind == "half") for kind in ("whole", "half"))
    assert list(half.outputs) == ["image", "code"]  # of a run without a detector
    assert half.path.stat().st_size < 0.75 * whole.path.stat().st_size
    assert str(Path(exporting.__file__).parent).encode() not in whole.path.read_bytes()
    assert max(half.errors.values()) < 2e-2


def test_encoder_and_decoder_fit_together(map_run, tmp_path, capsys):
    for part in ("encoder", "decoder"):
        with pytest.raises(SystemExit) as stopped:
            cli.main(
                [
                    "export",
                    str(map_run.path),
                    "--out",
                    str(tmp_path / f"{part}.onnx"),
                    "--parts",
                    part,
                    "--layout",
                    "NCHW",
                ]
            )
        assert not stopped.value.code
    said = capsys.readouterr().out
    assert "takes    images       uint8 N×1×16×24" in said
    assert "returns  image        uint8 N×1×16×24, within" in said
    images = pictures(3, seed=2, shape=(24, 32))[:, None]
    code = session(tmp_path / "encoder.onnx").run(None, {"images": images})[0]
    restored = session(tmp_path / "decoder.onnx").run(None, {"code": code})[0]
    with torch.inference_mode():
        expected = map_run.model(torch.from_numpy(images) / 255).mul(255).round().numpy()
    assert np.abs(restored - expected).max() <= 1


def test_torch_export_files_run_without_the_model(run, tmp_path):
    if run.model.takes_any_size:
        path = run.export(tmp_path / "run.pt2").path
        images = torch.from_numpy(pictures(3, seed=2, shape=(16, 24)))[..., None]
        image, code, score, *_ = torch.export.load(path).module()(images, torch.tensor(0.0))
        assert image.shape == images.shape
        assert len(code) == len(score) == 3


def test_a_file_that_differs_is_not_written(map_run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_run_onnx", lambda *_: [np.zeros((1, 1))])
    (tmp_path / "run.onnx").write_text("before")
    with pytest.raises(ValueError, match="was not written: `code` differs from PyTorch"):
        map_run.export(tmp_path / "run.onnx", parts="encoder")
    assert (tmp_path / "run.onnx").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["run.onnx"]


def test_bad_arguments_are_refused_before_any_work(map_run, tmp_path):
    for out, options, reason in (
        ("run.bin", {}, "must end in .onnx or .pt2"),
        ("nowhere/run.onnx", {}, "must lie in a folder that exists"),
        ("run.pt2", {"half": True}, r"`half` \(=True\) is for .onnx"),
        ("run.onnx", {"parts": "middle"}, "`parts`"),
    ):
        with pytest.raises(ValueError, match=reason):
            map_run.export(tmp_path / out, **options)
