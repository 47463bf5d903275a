"""The detection page in a real browser, on runs on folders that have judged pictures: grey vectors and colour maps."""

import csv
import json
import shutil

import numpy as np
import pytest
from browser_helpers import canvas, served, until
from studio_helpers import as_shown

from halfstride.figures.detection import overlaid
from halfstride.tasks import load_run
from halfstride.tasks.detection.detector import load_detector


@pytest.fixture
def opened(visit, judged_address):
    return lambda run="parts", **options: visit(f"/detection?run={run}", at=judged_address, **options)


def rows(runs):
    """The results of the run `parts`, the worst first, those without a score last."""
    lines = (runs / "parts" / "found" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted(map(json.loads, lines), key=lambda row: (row["pred_score"] is None, -(row["pred_score"] or 0)))


def middle(rows):
    """A threshold with as many scores on one side as on the other."""
    return float(np.median([row["pred_score"] for row in rows if row["pred_score"] is not None]))


def read(page, place):
    """A list of names and values."""
    terms, values = (page.locator(f"{place} {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(terms, values, strict=True))


def labels(page):
    """The labels in the gallery."""
    classes = page.locator("#judged button").evaluate_all("all => all.map(one => one.className.split(' ').at(-1))")
    return [None if label == "open" else label for label in classes]


def set_slider(page, name, value):
    script = """(input, value) => {
        input.value = value;
        for (const kind of ['input', 'change']) input.dispatchEvent(new Event(kind, {bubbles: true}));
    }"""
    page.locator(f"#{name}").evaluate(script, value)


def settle(page):
    """Wait until the picked picture is shown."""
    until(page, "document.querySelector('#picture').ariaBusy === 'false'")


def test_pictures_stand_worst_first_and_one_is_seen_under_its_map(opened, judged_runs):
    page, expected = opened(), rows(judged_runs)
    shown = [text.split()[0] for text in page.locator("#judged .score").all_inner_texts()]
    assert shown == ["–" if row["pred_score"] is None else f"{row['pred_score']:.2f}" for row in expected]
    page.locator("#judged button").nth(2).click()
    settle(page)
    assert read(page, "#known")["path"] == expected[2]["path"]
    run = load_run(judged_runs / "parts")
    found = run.detect(expected[2]["path"]).results[0]
    large = as_shown(run.reader().read(expected[2]["path"])).repeat(20, 0).repeat(20, 1)
    over = np.abs(canvas(page, "#picture").astype(int) - overlaid(large, found.anomaly_map, found.threshold))
    assert np.quantile(over, 0.99) <= 3  # as `detect` draws it
    set_slider(page, "opacity", 0)
    set_slider(page, "threshold", page.locator("#threshold").get_attribute("max"))
    plain = np.abs(canvas(page, "#picture").astype(int) - large).max(axis=2)
    assert ((plain == 0) | (canvas(page, "#picture") == 255).all(axis=2)).all()  # but for lines around the worst places
    assert (plain == 0).mean() > 0.9


def test_maps_of_all_pictures_have_one_scale(opened, judged_runs):
    page = opened()
    threshold = load_detector((run := load_run(judged_runs / "parts")).model, run.path).threshold.value
    end = f"{2 * max(threshold, 1):.1f}"
    for place in (0, 3):
        page.locator("#judged button").nth(place).click()
        settle(page)
        assert page.locator("#scale span").all_inner_texts() == ["0", end]
    mark = page.locator("#scale i").evaluate("one => parseFloat(one.style.left)")
    assert mark == pytest.approx(100 * threshold / (2 * max(threshold, 1)), abs=0.01)


def test_the_threshold_says_how_many_false_alarms_and_pictures_lie_above(opened, judged_runs):
    page, expected = opened(), rows(judged_runs)
    scores = [row["pred_score"] for row in expected if row["pred_score"] is not None]
    good = load_detector((run := load_run(judged_runs / "parts")).model, run.path).scores
    for threshold in (middle(expected), min(scores) - 0.1):
        set_slider(page, "threshold", threshold)
        told, above = read(page, "#counts"), sum(score > threshold for score in scores)
        over = sum(score > threshold for score in good)
        assert told["above"] == f"{above} of {len(scores)} pictures"
        assert told["below"] == str(len(scores) - above)
        assert told["not judged"] == "1"
        share = float(f"{100 * (over + 1) / (len(good) + 1):.2g}")
        assert told["false alarms"].startswith(f"{share:g} % of good pictures to expect ({over} of {len(good)} ")
        assert page.locator("#judged .above").count() == above
        assert page.locator("#threshold").get_attribute("aria-valuetext").endswith(f"{len(scores) - above} below")
    low, high, line = page.evaluate("""() => {
        const thumb = document.querySelector('#threshold');
        return [thumb.min, thumb.max, document.querySelector('.histogram .limit').getAttribute('x1')].map(Number);
    }""")
    width = page.locator("#histogram").evaluate("one => one.clientWidth")
    assert line == pytest.approx(9 + (min(scores) - 0.1 - low) / (high - low) * (width - 18), abs=0.1)
    page.locator("#reset").click()
    assert float(page.locator("#value").inner_text()) == pytest.approx(expected[0]["threshold"], abs=0.006)
    kinds = page.locator(".histogram rect").evaluate_all("all => all.map(one => one.getAttribute('class'))")
    assert set(kinds) == {"bad", "good", "validation"}


def test_labels_are_given_by_key_counted_and_kept_for_each_result(opened, judged_runs):
    page, expected = opened(), rows(judged_runs)
    known = ["bad" if "square" in row["path"] else "good" for row in expected]
    assert labels(page) == known  # as the folders tell
    other = {"good": "bad", "bad": "good"}
    page.keyboard.press("ArrowRight")  # the first picture has the focus
    page.keyboard.press(other[known[1]][0])  # and on to the next
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press(known[2][0])
    page.keyboard.press("ArrowRight")
    page.keyboard.press(other[known[4]][0])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("u")  # back to what its folder tells
    given = [known[0], other[known[1]], *known[2:]]
    assert labels(page) == given
    settle(page)
    assert read(page, "#known")["path"] == expected[4]["path"]
    assert read(page, "#known")["label"] == f"{known[4]}, by its folder"
    set_slider(page, "threshold", threshold := middle(expected))
    judged = [
        (row["pred_score"] > threshold, label)
        for row, label in zip(expected, given, strict=True)
        if row["pred_score"] is not None
    ]
    table = [[judged.count((side, label)) for side in (True, False)] for label in ("bad", "good")]
    cells = page.locator("#agreement td").all_inner_texts()
    assert cells == [str(number) for row in table for number in row]
    precision, recall = table[0][0] / (table[0][0] + table[1][0]), table[0][0] / sum(table[0])
    shares = {"precision": precision, "recall": recall}
    assert read(page, "#agreement") == {name: f"{float(f'{100 * share:.2g}'):g} %" for name, share in shares.items()}
    page.reload()
    until(page, "!!document.querySelector('#picture[data-frames]')")
    assert labels(page) == given
    page.locator("#results a", has_text="test images").click()
    until(page, "location.search.includes('result=test') && !!document.querySelector('#picture[data-frames]')")
    assert set(labels(page)) == {"good"}  # the folder that the run was trained on has this name
    assert read(page, "#known")["label"] == "good, by its folder"


def test_arrow_keys_move_along_rows_and_columns(opened):
    page = opened()
    page.set_viewport_size({"width": 900, "height": 900})
    tops = page.locator("#judged button").evaluate_all("all => all.map(one => one.offsetTop)")
    columns = tops.count(tops[0])
    assert 1 < columns < len(tops) - columns
    for key, place in (("ArrowDown", columns), ("ArrowRight", columns + 1), ("ArrowUp", 1), ("ArrowUp", 1), ("End", 1)):
        page.keyboard.press(key)
        now = page.locator("#judged button").evaluate_all(
            "all => all.map(one => [one.ariaCurrent, one === document.activeElement])"
        )
        assert [at for at, (current, focused) in enumerate(now) if current == "true" and focused] == [place]


def test_the_corrected_list_is_saved_as_a_table(opened, judged_runs, tmp_path):
    page, expected = opened(accept_downloads=True), rows(judged_runs)
    page.keyboard.press("g")
    set_slider(page, "threshold", threshold := round(middle(expected), 4))
    with page.expect_download() as saving:
        page.locator("#export").click()
    assert saving.value.suggested_filename == "parts-labels.csv"
    saving.value.save_as(tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as file:
        saved = list(csv.DictReader(file))
    assert list(saved[0]) == ["path", "pred_score", "threshold", "pred_label", "label"]
    for place, (row, found) in enumerate(zip(saved, expected, strict=True)):
        score = found["pred_score"]
        assert (row["path"], float(row["threshold"])) == (found["path"], threshold)
        assert row["pred_score"] == ("" if score is None else str(score).removesuffix(".0"))
        assert row["pred_label"] == ("" if score is None else "anomalous" if score > threshold else "normal")
        assert row["label"] == ("good" if place == 0 or "square" not in found["path"] else "bad")


def test_a_filter_leaves_the_pictures_of_one_kind(opened, judged_runs):
    page, expected = opened(), rows(judged_runs)
    set_slider(page, "threshold", threshold := middle(expected))
    scored = [row for row in expected if row["pred_score"] is not None]
    above = [row["pred_score"] > threshold for row in scored]
    wrong = [(row["pred_score"] > threshold) != ("square" in row["path"]) for row in scored]
    for kind, count in (("above", sum(above)), ("below", len(above) - sum(above)), ("apart", sum(wrong)), ("open", 0)):
        page.locator("#filter").select_option(kind)
        assert page.locator("#judged button").count() == count
    assert page.locator("#judged").inner_text() == "No picture is like that."
    assert page.locator(".verdicts button:disabled").count() == 3
    page.locator("#filter").select_option("all")
    settle(page)
    page.locator("#maps").uncheck()
    until(page, "[...document.querySelectorAll('#judged img')].every(one => one.complete)")
    plain = "all => all.every(one => one.src.endsWith('plain=true'))"
    assert page.locator("#judged img").evaluate_all(plain)


def test_of_many_pictures_a_page_is_loaded_at_a_time(visit, judged_runs, tmp_path):
    runs = shutil.copytree(judged_runs, tmp_path / "runs")
    path = runs / "parts" / "found" / "results.jsonl"
    lines = path.read_text(encoding="utf-8").replace(str(judged_runs), str(runs)).splitlines()
    path.write_text("\n".join(lines * 200), encoding="utf-8")
    asked = []
    with served(runs) as at:
        page = visit("/detection?run=parts", at=at, ready="#results a")
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        until(page, "!!document.querySelector('#picture[data-frames]')")
        assert page.locator("#range").inner_text() == "1–48 of 3,000"
        page.locator("#judged button").nth(47).click()
        page.keyboard.press("ArrowRight")
        assert page.locator("#range").inner_text() == "49–96 of 3,000"
        assert page.evaluate("document.activeElement === document.querySelector('#judged button')")
        page.locator("#after").click()
        assert page.locator("#range").inner_text() == "97–144 of 3,000"
        settle(page)
        until(page, "[...document.querySelectorAll('#judged img')].every(one => one.complete)")
    assert sum("thumbnail" in url for url in asked) <= 3 * 48


def test_results_elsewhere_are_asked_about(visit, judged_runs):
    outside = judged_runs.parent / "elsewhere"
    with served(judged_runs) as at:
        page = visit("/detection?run=cloth", at=at, ready="dialog[open]")
        for name in ("found", "new"):
            assert str(outside / name) in page.locator("dialog").inner_text()
        page.locator("dialog button", has_text="Do not read").click()
        page.wait_for_selector("#error:not([hidden])")
        assert "were not read, as you chose" in page.locator("#error").inner_text()
        assert not page.locator("#threshold").is_visible()
        page.reload()
        page.locator("dialog button", has_text="Read them").click()
        until(page, "!!document.querySelector('#picture[data-frames]')")
        assert page.locator("#judged button").count() == 6
        assert "precision and recall appear here" in page.locator("#agreement").inner_text()
        page.locator("#judged button[aria-label*='small.png']").click()
        settle(page)
        assert read(page, "#known")["judged"] == "not judged: is 64×64, and the threshold was set on 72×72"


def test_a_run_without_a_detector_says_which_command_makes_one(opened, judged_runs):
    page = opened("plain", ready="#missing:not([hidden])")
    assert page.locator("#why").inner_text() == "This run has no detector: fit one to good pictures by this command."
    assert page.locator("#remedy").inner_text() == f"halfstride fit-detector {judged_runs / 'plain'}"
    assert page.locator("#threshold, #judged, #picture").locator("visible=true").count() == 0


def test_a_picture_that_is_gone_and_one_that_was_never_one_say_so(opened):
    page = opened()
    page.locator("#judged button[aria-label*='broken.png']").click()
    page.wait_for_selector("#lost:not([hidden])")
    assert "broken.png is not a picture that can be read" in page.locator("#lost").inner_text()
    assert not page.locator("#picture").is_visible()
    until(page, "!!document.querySelector('#judged .lost')")
    page.locator("#judged button").first.click()
    settle(page)
    assert page.locator("#lost").is_hidden()


def test_damaged_results_are_told_and_others_can_be_chosen(visit, judged_runs, tmp_path):
    runs = shutil.copytree(judged_runs, tmp_path / "runs")
    (runs / "parts" / "found" / "detection.json").write_text("{}", encoding="utf-8")
    with served(runs) as at:
        page = visit("/detection?run=parts", at=at, ready=".alarm:not([hidden])")
        assert page.locator("#error").inner_text().startswith("detection.json: `threshold`: Field required.")
        assert not page.locator("#threshold").is_visible()
        assert page.locator("#results a").count() == 2


def test_labels_that_find_no_room_are_told(opened):
    page = opened()
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); }; }")
    page.keyboard.press("g")
    page.wait_for_selector("#unkept:not([hidden])")
    assert "no room for more labels" in page.locator("#unkept").inner_text()
    assert labels(page)[0] == "good"
