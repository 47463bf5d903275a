"""A detector that is fitted on good pictures: what it finds, what it writes, and how it answers bad input."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import halfstride
from halfstride import cli
from halfstride.tasks import load_run
from halfstride.tasks.detection import detector, files, fitting
from halfstride.tasks.detection.detector import load_detector
from small_training import pictures, small_model, small_training


def odd(images):
    """Pictures with a square that has no place in them."""
    changed = images.copy()
    changed[:, 2:8, 2:7] = 255 - changed[:, 2:8, 2:7]
    return changed


def save(images, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module", params=["vector", "map"])
def fitted(request, tmp_path_factory):
    """A run with a detector, trained on pictures in a folder."""
    place = tmp_path_factory.mktemp(request.param)
    size = (16, 16)
    images = halfstride.load_images(save(pictures(160, shape=size), place / "good"))
    model = small_model(request.param, size=size)
    small_training(place / "run", model, images, steps=150)
    halfstride.fit_detector(place / "run", false_alarms=0.1)
    return place


@pytest.fixture
def briefly(monkeypatch):
    """Defects are shown for a few steps only, where it does not matter how well they are found."""
    monkeypatch.setattr(fitting, "_STEPS", {"vector": 30, "map": 30})


@pytest.fixture
def run(fitted, tmp_path):
    return shutil.copytree(fitted / "run", tmp_path / "run")


def test_odd_pictures_score_higher_than_good_ones(fitted):
    good, bad = pictures(40, seed=5, shape=(16, 16)), odd(pictures(40, seed=6, shape=(16, 16)))
    found = load_run(fitted / "run").detect([*good, *bad])
    scores = np.array([result.pred_score for result in found.results])
    assert (scores[40:, None] > scores[:40]).mean() > 0.9
    low, high = load_detector(load_run(fitted / "run").model, fitted / "run").threshold.interval(40, 0.999)
    assert low <= sum(result.pred_label for result in found.results[:40]) <= high


def test_a_score_does_not_depend_on_its_batch_and_survives_saving(fitted):
    run = load_run(fitted / "run")
    images = pictures(9, seed=3, shape=(16, 16))
    together = [result.pred_score for result in run.detect(list(images)).results]
    alone = [run.detect(image).results[0].pred_score for image in images]
    assert alone == pytest.approx(together, abs=1e-4)


def test_fitting_twice_gives_the_same_detector(run, briefly):
    first, second = (halfstride.fit_detector(run, false_alarms=0.1) for _ in range(2))
    assert first.threshold == second.threshold
    for name, value in first.detector.state_dict().items():
        assert torch.equal(value, second.detector.state_dict()[name])


def test_another_rate_sets_another_threshold_without_fitting(fitted):
    run = load_run(fitted / "run")
    loose, strict = (load_detector(run.model, run.path, rate).threshold.value for rate in (0.5, 0.1))
    assert loose < strict
    with pytest.raises(ValueError, match="`false_alarms`"):
        run.detect(pictures(1, shape=(16, 16))[0], false_alarms=2)


def test_the_command_writes_tables_maps_and_measures(fitted, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(pictures(6, seed=7, shape=(16, 16)), tmp_path / "test" / "good")
    save(odd(pictures(6, seed=8, shape=(16, 16))), tmp_path / "test" / "square")
    (tmp_path / "test" / "square" / "broken.png").write_text("no picture")
    mask = np.zeros((16, 16), np.uint8)
    mask[2:8, 2:7] = 255
    for number in range(6):
        save([mask], tmp_path / "ground_truth" / "square")
        Image.fromarray(mask).save(tmp_path / "ground_truth" / "square" / f"{number:03}_mask.png")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["detect", "run", "test", "--out", "found", "--check"])
    said = capsys.readouterr()
    assert stopped.value.code == 3, said  # one picture could not be judged
    assert "image AUROC" in said.out
    assert "AUPRO" in said.out
    with (tmp_path / "found" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "found" / "results.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    assert len(rows) == 13
    broken = next(row for row in rows if "broken" in row["path"])
    assert (broken["pred_score"], broken["pred_label"]) == ("", "")
    assert "is not a picture" in broken["reason"]
    metrics = json.loads((tmp_path / "found" / "metrics.json").read_text())
    assert metrics["image_auroc"] > 0.9
    assert metrics["pixel_auroc"] > 0.6
    for row in rows:
        if row["map_path"]:
            with Image.open(tmp_path / "found" / row["map_path"]) as over:
                assert over.width > over.height
            values = np.load((tmp_path / "found" / row["map_path"]).with_suffix(".npy"))
            assert values.max() == pytest.approx(float(row["map_max"]), rel=2e-3, abs=1e-3)
    assert [row["gt_label"] for row in rows] == ["anomalous" if "square" in row["path"] else "normal" for row in rows]
    basis = json.loads((tmp_path / "found" / "detection.json").read_text())
    stored = json.loads((run / "detector.json").read_text())
    assert basis["good_scores"] == [round(score, 4) for score in stored["scores"]]
    assert basis["threshold"] == float(rows[0]["threshold"])
    assert (basis["channels"], basis["size"], basis["fit"]) == (1, [16, 16], "crop")
    (note,) = (json.loads(line) for line in (run / "detections.jsonl").read_text().splitlines())
    assert [(run / note[name]).resolve() for name in ("out", "working_folder")] == [tmp_path / "found", tmp_path]
    assert [(run / source).resolve() for source in note["sources"]] == [tmp_path / "test"]
    assert note["pictures"] == 13
    assert {path.name for path in (tmp_path / "found").iterdir()} >= {"overview.png", "scores.png", "maps", "masks"}
    assert not (tmp_path / "found.unfinished").exists()


def test_a_run_that_may_only_be_read_judges_as_well(fitted, run, tmp_path):
    (run / "detections.jsonl").mkdir()  # nothing can be added to it
    files.detect_files(
        load_run(run), [save(pictures(2, seed=4, shape=(16, 16)), tmp_path / "images")], tmp_path / "out"
    )
    assert (tmp_path / "out" / "results.csv").is_file()


def test_of_many_folders_the_one_around_them_is_noted(fitted, run, tmp_path):
    image = pictures(1, seed=4, shape=(16, 16))
    folders = [save(image, tmp_path / "images" / str(place)) for place in range(25)]
    files.detect_files(load_run(run), [each / "000.png" for each in folders], tmp_path / "out")
    note = json.loads((run / "detections.jsonl").read_text())
    assert [(run / source).resolve() for source in note["sources"]] == [tmp_path / "images"]


@pytest.mark.parametrize(("images", "code"), [("good", 0), ("odd", 1)])
def test_check_says_by_its_exit_code_whether_anything_was_found(fitted, run, tmp_path, capsys, images, code):
    drawn = pictures(1, seed=9, shape=(16, 16))
    save(drawn if images == "good" else odd(drawn), tmp_path / "images")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["detect", str(run), str(tmp_path / "images"), "--out", str(tmp_path / "found"), "--check", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (stopped.value.code or 0) == code
    assert told["anomalous"] == code


def test_an_interrupted_job_goes_on_where_it_stopped(fitted, run, tmp_path, monkeypatch):
    source = save(pictures(8, seed=4, shape=(16, 16)), tmp_path / "images")
    opened, out = load_run(run), tmp_path / "found"
    judge, judged = files.judge, []

    def interrupted(*arguments):
        for each in judge(*arguments):
            if len(judged) == 5:
                raise KeyboardInterrupt
            judged.append(each.place)
            yield each

    monkeypatch.setattr(files, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.detect_files(opened, [source], out)
    monkeypatch.setattr(files, "judge", judge)
    assert not out.exists()
    with pytest.raises(ValueError, match="unfinished: go on with --resume"):
        files.detect_files(opened, [source], out)
    files.detect_files(opened, [source], out, resume=True)
    straight = tmp_path / "straight"
    files.detect_files(opened, [source], straight)
    results = [
        [json.loads(line) for line in (each / "results.jsonl").read_text().splitlines()] for each in (out, straight)
    ]
    assert [row.pop("pred_score") for row in results[0]] == pytest.approx(
        [row.pop("pred_score") for row in results[1]], abs=1e-3
    )
    assert [row.pop("map_max") for row in results[0]] == pytest.approx(
        [row.pop("map_max") for row in results[1]], abs=1e-3
    )
    assert results[0] == results[1]


@pytest.mark.usefixtures("briefly")
def test_a_map_run_scores_other_sizes_without_a_label(tmp_path, fitted):
    run = load_run(fitted / "run")
    if not run.model.takes_any_size:
        with pytest.raises(ValueError, match="latent map"):
            halfstride.fit_detector(run, fitted / "good", own_size=True)
        return
    copy = load_run(shutil.copytree(fitted / "run", tmp_path / "run"))
    halfstride.fit_detector(copy, save(pictures(40, seed=1, shape=(20, 27)), tmp_path / "large"), own_size=True)
    first, second = copy.detect([pictures(1, shape=(20, 27))[0], pictures(1, shape=(33, 18))[0]]).results
    assert first.pred_label is not None
    assert second.pred_label is None
    assert second.reason == "is 33×18, and the threshold was set on 20×27"
    assert second.pred_score is not None


def test_tiles_give_the_scores_and_maps_of_whole_pictures(fitted, monkeypatch):
    found = load_detector((run := load_run(fitted / "run")).model, run.path).detector
    if not run.model.takes_any_size:
        return
    image = torch.rand(1, 1, 410, 333)
    with torch.inference_mode():
        score, whole = found(image)
        monkeypatch.setattr(detector, "LARGEST_WHOLE", 0)
        monkeypatch.setattr(detector, "_TILE", 64)
        tiled_score, tiled = found(image)
    assert tiled_score.item() == pytest.approx(score.item(), abs=1e-4)
    span = float(whole.max() - whole.min())
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5 * span)


@pytest.mark.usefixtures("briefly")
def test_too_few_images_say_how_many_a_rate_needs(fitted, run, tmp_path):
    found = halfstride.fit_detector(run, save(pictures(20, seed=1, shape=(16, 16)), tmp_path / "few"))
    assert any("needs 99 good images" in warning for warning in found.warnings)
    with pytest.raises(ValueError, match="`good` are 3 images: give 8 or more"):
        halfstride.fit_detector(run, save(pictures(3, shape=(16, 16)), tmp_path / "three"))


@pytest.mark.usefixtures("briefly")
def test_defects_among_the_good_images_are_named(fitted, run, tmp_path):
    folder = save(pictures(60, seed=1, shape=(16, 16)), tmp_path / "mixed")
    noise = np.random.default_rng(0).integers(0, 255, (6, 16, 16), dtype=np.uint8)
    for number, image in enumerate(noise):
        Image.fromarray(image).save(folder / f"{2 * number:03}.png")
    found = halfstride.fit_detector(run, folder, false_alarms=0.1)
    told = [warning for warning in found.warnings if "given as good" in warning]
    assert told == [] or any(f"{2 * number:03}.png" in told[0] for number in range(6))


def test_what_is_missing_or_damaged_is_told_in_one_line(fitted, run, tmp_path):
    picture = pictures(1, shape=(16, 16))[0]
    for content, reason in (('{"version": 0}', "version 0"), ("{", "cannot be used"), ("[]", "cannot be used")):
        (run / "detector.json").write_text(content)
        with pytest.raises(ValueError, match=f"{reason}.*fit-detector"):
            load_run(run).detect(picture)
    content = json.loads((fitted / "run" / "detector.json").read_text())
    (run / "detector.json").write_text(json.dumps(content | {"steps": 100}))
    with pytest.raises(ValueError, match=r"after 100 steps of training, and the run has 150\): fit it again"):
        load_run(run).detect(picture)
    (run / "detector.json").unlink()
    with pytest.raises(ValueError, match="has no detector: halfstride fit-detector"):
        load_run(run).detect(picture)
    with pytest.raises(ValueError, match=r"`images` \(=.*nowhere\) does not exist"):
        load_run(fitted / "run").detect(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`images` hold a int"):
        load_run(fitted / "run").detect([1])
