"""What the detection page is sent: what `detect` has written, and test images that are judged for it."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from studio_helpers import as_shown, pixels

from halfstride import figures
from halfstride.autoencoder.images import decode
from halfstride.figures.detection import overlaid
from halfstride.studio import detection
from halfstride.studio.app import create_app
from halfstride.tasks import load_run
from halfstride.tasks.detection.detector import load_detector


def asked(runs):
    return TestClient(create_app(runs), base_url="http://127.0.0.1:8765")


@pytest.fixture(scope="module")
def client(judged_runs):
    with asked(judged_runs) as client:
        yield client


def first(client, run):
    """The address of what a run has judged last."""
    return f"/api/runs/{run}/results/{client.get(f'/api/runs/{run}/results').json()['results'][0]['id']}"


def allowed(client, run):
    """The same, after reading it was allowed."""
    address = first(client, run)
    refused = client.get(address)
    assert refused.status_code == 403
    assert client.post(f"/api/runs/{run}/allow", json={"sources": refused.json()["sources"]}).status_code == 200
    return address


def values(found):
    """The numbers of a map of an answer."""
    steps = np.frombuffer(base64.b64decode(found["values"]), "<u2").reshape(found["height"], found["width"])
    return found["low"] + steps / 65_535 * (found["high"] - found["low"])


def test_what_detect_has_written_is_sent_as_it_is(client, judged_runs):
    listed = client.get("/api/runs/parts/results").json()
    assert [one["pictures"] for one in listed["results"]] == [15, None]
    assert listed["results"][1]["id"] == "test"
    assert listed["missing"] is None
    assert listed["command"].startswith("halfstride detect ")
    answer = client.get(first(client, "parts")).json()
    lines = (judged_runs / "parts" / "found" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert answer["paths"] == [row["path"] for row in rows]
    assert answer["scores"] == [row["pred_score"] for row in rows]
    assert answer["labelled"] == [row["pred_label"] is not None for row in rows]
    known = ["square" in row["path"] for row in rows]
    assert answer["known"] == [row["gt_label"] == "anomalous" for row in rows] == known
    assert sum(score is None for score in answer["scores"]) == 1
    run = load_run(judged_runs / "parts")
    fitted = load_detector(run.model, run.path)
    assert answer["threshold"] == pytest.approx(fitted.threshold.value, abs=1e-4)
    # The page's rule for the rate of false alarms is the detector's.
    above = sum(score > answer["threshold"] for score in answer["good_scores"])
    assert (above + 1) / (len(answer["good_scores"]) + 1) == pytest.approx(fitted.threshold.rate)


def test_a_picture_comes_as_the_model_saw_it_with_the_map_of_the_detector(client, judged_runs):
    address = first(client, "parts")
    paths = client.get(address).json()["paths"]
    place = next(place for place, path in enumerate(paths) if path.endswith("003.png") and "square" in path)
    answer = client.get(f"{address}/{place}").json()
    run = load_run(judged_runs / "parts")
    found = run.detect(paths[place]).results[0]
    image = run.reader().read(paths[place])
    assert (pixels(answer["picture"]) == as_shown(image)).all()
    expected = figures.map_at_size(found.anomaly_map, (320, 320))
    assert np.abs(values(answer["map"]) - expected).max() < 2e-3 * np.abs(expected).max()
    large = np.ascontiguousarray(as_shown(image)).repeat(10, 0).repeat(10, 1)
    for query, drawn in (("?plain=true", large), ("", overlaid(large, found.anomaly_map, found.threshold))):
        thumbnail = client.get(f"{address}/{place}/thumbnail{query}")
        assert thumbnail.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(thumbnail.content)) as small:
            difference = np.abs(np.asarray(small).astype(int) - drawn)
        assert np.quantile(difference, 0.99) <= 2  # a place on the threshold may fall to either side of it


def test_pictures_of_their_own_size_and_of_another_are_shown(judged_runs):
    with asked(judged_runs) as client:
        address = allowed(client, "cloth")
        answer = client.get(address).json()
        sizes = [client.get(f"{address}/{place}").json()["picture"]["width"] for place in range(6)]
        assert sorted(sizes) == [64, 72, 72, 72, 72, 72]
        assert answer["labelled"] == [size == 72 for size in sizes]
        assert answer["reasons"][sizes.index(64)] == "is 64×64, and the threshold was set on 72×72"
        place = sizes.index(72)
        image = decode(answer["paths"][place], (3, 72, 72))
        assert (pixels(client.get(f"{address}/{place}").json()["picture"]) == as_shown(image)).all()


@pytest.mark.parametrize("run", ["parts", "cloth"])
def test_test_images_are_judged_with_progress(judged_runs, monkeypatch, run):
    judged, seen = detection.detect, []

    def watched(*arguments, progress):
        def note(what, done, total):
            progress(what, done, total)
            seen.append(client.get(f"/api/runs/{run}/work").json())

        return judged(*arguments, progress=note)

    monkeypatch.setattr(detection, "detect", watched)
    with asked(judged_runs) as client:
        address = f"/api/runs/{run}/results/test"
        answer = client.get(address)
        if answer.status_code == 403:  # its pictures are not in the runs folder
            client.post(f"/api/runs/{run}/allow", json={"sources": answer.json()["sources"]})
            answer = client.get(address)
        answer = answer.json()
        opened = load_run(judged_runs / run)
        images = opened.run.image_options.load().test.sample(1000)
        expected = opened.detect(images.images)
        assert answer["scores"] == pytest.approx([result.pred_score for result in expected.results], abs=1e-4)
        assert answer["threshold"] == expected.threshold
        assert {one["what"] for one in seen} == {"judging"}
        assert seen[-1]["done"] == seen[-1]["total"] == len(images.images)
        assert client.get(f"/api/runs/{run}/work").json() is None
        for place, path in enumerate(answer["paths"]):
            shape = (opened.model.channels, *opened.model.image_size)
            assert (as_shown(decode(path, shape)) == pixels(client.get(f"{address}/{place}").json()["picture"])).all()
        assert client.get(f"{address}/{len(answer['paths'])}").status_code == 404
        assert client.get(address).json() == answer
        assert len(seen) == seen[-1]["total"]  # judged once


def test_a_run_without_a_detector_says_which_command_makes_one(client, judged_runs):
    answer = client.get("/api/runs/plain/results").json()
    assert answer["results"] == []
    assert answer["missing"] == "This run has no detector: fit one to good pictures by this command."
    assert answer["command"] == f"halfstride fit-detector {judged_runs / 'plain'}"
    refused = client.get("/api/runs/plain/results/test")
    assert refused.status_code == 409
    assert "has no detector: halfstride fit-detector" in refused.json()["error"]


def test_nothing_outside_the_runs_folder_is_read_before_it_is_allowed(judged_runs, monkeypatch):
    outside = judged_runs.parent / "elsewhere"
    touched = []
    for name in ("stat", "open", "is_file", "is_dir", "resolve", "exists"):
        original = getattr(detection.Path, name)

        def watched(path, *arguments, _original=original, **options):
            if path.is_relative_to(outside):
                touched.append(path)
            return _original(path, *arguments, **options)

        monkeypatch.setattr(detection.Path, name, watched)
    with asked(judged_runs) as client:
        address = first(client, "cloth")
        refused = client.get(address)
        assert refused.status_code == 403
        assert refused.json()["sources"] == [str(outside / "found"), str(outside / "new")]
        for rest in ("/0", "/0/thumbnail"):
            assert client.get(f"{address}{rest}").status_code == 403
        assert client.post("/api/runs/cloth/allow", json={"sources": [str(outside)]}).status_code == 409
        assert touched == []
        client.post("/api/runs/cloth/allow", json={"sources": refused.json()["sources"]})
        assert client.get(f"{address}/0").status_code == 200
        assert touched


def pickled(folder):
    np.save(folder / "maps" / "square-000.npy", np.array([{}]), allow_pickle=True)


def write(name, text):
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def change(**of_row):
    """Change the first row of the results."""

    def changed(folder):
        path = folder / "results.jsonl"
        first, *rest = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([json.dumps(json.loads(first) | of_row), *rest]), encoding="utf-8")

    return changed


BASIS = {"threshold": 1, "good_scores": [1], "channels": 1, "size": None, "fit": "crop", "white": 255}
DAMAGES = {
    "no json": ("", write("results.jsonl", "{"), "results.jsonl: `request`"),
    "nested": ("", write("results.jsonl", "[" * 100_000), "results.jsonl: "),
    "no score": ("", change(pred_score="high"), "`pred_score` (='high'): Input should be a valid number"),
    "endless score": ("", change(pred_score=float("inf")), "`pred_score`"),
    "no basis": ("", write("detection.json", "{}"), "detection.json: `threshold`: Field required."),
    "no good scores": ("", write("detection.json", json.dumps(BASIS | {"good_scores": []})), "`good_scores`"),
    "huge size": ("", write("detection.json", json.dumps(BASIS | {"size": [10**9, 10**9]})), "`size.0` (=1000000000)"),
    "deleted": ("", lambda folder: (folder / "detection.json").unlink(), "holds no results of detect: it was moved"),
    "a folder": (
        "",
        lambda folder: ((folder / "results.jsonl").unlink(), (folder / "results.jsonl").mkdir()),
        "results.jsonl: ",
    ),
    "other picture": ("/0", change(path="/etc/passwd"), "/etc/passwd is not in the folders that were judged."),
    "climbing picture": ("/0", change(path="../../parts/model.safetensors"), "is not in the folders that were judged."),
    "no picture": ("/0", lambda folder: shutil.rmtree(folder.parents[1] / "pictures" / "new"), "cannot be opened"),
    "other map": ("/0", change(map_path="../../../other.png"), "it is not in the folder of results."),
    "lost map": ("/0", change(map_path="maps/none.png"), "No such file"),
    "pickled map": ("/0", pickled, "Object arrays cannot be loaded"),
    "words for a map": ("/0", write("maps/square-000.npy", "no map"), "The anomaly map of "),
}


@pytest.mark.parametrize(("address", "damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_results_are_told_in_a_sentence(judged_runs, tmp_path, address, damage, message):
    runs = shutil.copytree(judged_runs, tmp_path / "runs")
    path = runs / "parts" / "found" / "results.jsonl"  # the picture that is asked for first
    rows = sorted(path.read_text(encoding="utf-8").splitlines(), key=lambda line: "square-000" not in line)
    path.write_text("\n".join(rows).replace(str(judged_runs), str(runs)), encoding="utf-8")
    with asked(runs) as client:
        before = first(client, "parts")
        assert client.get(f"{before}/0").status_code == 200
        damage(runs / "parts" / "found")
        answer = client.get(f"{before}{address}")
        assert answer.status_code == 409, answer.text
        assert message in answer.json()["error"]
        assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "detections.jsonl: `request`"), ('{"out": 3}', "detections.jsonl: `out` (=3)"), ("\0" * 99, "detections.")],
)
def test_damaged_notes_are_told_in_a_sentence(judged_runs, tmp_path, text, message):
    run = shutil.copytree(judged_runs / "parts", tmp_path / "parts")
    (run / "detections.jsonl").write_text(text, encoding="utf-8")
    with asked(tmp_path) as client:
        for rest in ("", "/0123456789abcdef"):
            answer = client.get(f"/api/runs/parts/results{rest}")
            assert answer.status_code == 409
            assert message in answer.json()["error"]


def test_notes_are_the_newest_of_each_folder(judged_runs, tmp_path):
    run = shutil.copytree(judged_runs / "parts", tmp_path / "parts")
    line = {"working_folder": "..", "sources": ["../new"], "pictures": 1, "time": 1.0}
    lines = [json.dumps({**line, "out": f"../{place % 70}", "pictures": place}) for place in range(2000)]
    (run / "detections.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with asked(tmp_path) as client:
        results = client.get("/api/runs/parts/results").json()["results"][:-1]
    assert [one["pictures"] for one in results] == list(range(1999, 1949, -1))
    assert results[0]["name"].endswith(str(1999 % 70))


@pytest.mark.parametrize("file", ["detector.json", "detections.jsonl"])
def test_a_link_to_elsewhere_is_not_followed(judged_runs, tmp_path, file):
    run = shutil.copytree(judged_runs / "parts", tmp_path / "runs" / "parts")
    (run / file).rename(tmp_path / file)
    (run / file).symlink_to(tmp_path / file)
    with asked(tmp_path / "runs") as client:
        assert client.get("/api/runs/parts/results").status_code == 404
