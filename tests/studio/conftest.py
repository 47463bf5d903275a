"""Folders of runs, some of them damaged; clients of the studio; and a browser."""

import contextlib
import json
import shutil
import warnings
from dataclasses import asdict

import pytest
from browser_helpers import served, until
from fastapi.testclient import TestClient
from making_runs import CLASSES, change, digits, draw_pictures, make_judged_runs, make_run, train_on
from PIL import Image

from halfstride import TrainingOptions, UnevenKernelWarning
from halfstride.autoencoder import ImageOptions
from halfstride.studio.app import create_app


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("studio")
    outside = make_run(root / "outside")
    folder = root / "runs"
    folder.mkdir()
    make_run(folder / "plane")
    make_run(folder / "deep", latent_dim=12, seed=1)
    make_run(folder / "map", latent_dim=2, seed=2, latent="map")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnevenKernelWarning)
        make_run(folder / "uneven", upsampling="transposed", kernel_size=5, downscale=4)
    make_run(folder / "imageless")
    change(folder / "imageless", data=asdict(ImageOptions(None, size=(28, 28), channels=1)))
    make_run(folder / "damaged")
    (folder / "damaged" / "model.safetensors").write_bytes(b"no weights at all")
    make_run(folder / "bad-metrics")
    (folder / "bad-metrics" / "metrics.jsonl").write_text('{"step": "many"}\n', encoding="utf-8")
    make_run(folder / "bad-stages")
    change(folder / "bad-stages", stages=[-3])
    make_run(folder / "deep-json")
    (folder / "deep-json" / "run.json").write_text("[" * 100_000, encoding="utf-8")
    # Too many weights; few weights and too large an image; more layers than could be counted.
    for name, changes in (
        ("huge", {"width": 40_000}),
        ("wide", {"image_size": [60_000, 60_000]}),
        ("tall", {"blocks": 10**12}),
    ):
        make_run(folder / name, latent="map")
        path = folder / name / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, **changes}), encoding="utf-8")
    data = json.loads((folder / "wide" / "run.json").read_text(encoding="utf-8"))["data"]
    change(folder / "wide", data={**data, "size": [60_000, 60_000]})
    (folder / "linked").symlink_to(outside.path, target_is_directory=True)
    for name in ("metrics.jsonl", "evaluation.json"):
        run = make_run(folder / f"leaking-{name.partition('.')[0]}").path
        (run / name).unlink(missing_ok=True)
        (outside.path / name).touch()
        (run / name).symlink_to(outside.path / name)
    (folder / "not a run").mkdir()
    return folder


@pytest.fixture(scope="session")
def shown_digits():
    """The test images that the studio shows of the digits, in its order."""
    return digits().test.sample(1000)


@pytest.fixture(scope="session")
def client(runs):
    with TestClient(create_app(runs), base_url="http://127.0.0.1:8765") as client:
        yield client


@pytest.fixture(scope="session")
def folder_runs(tmp_path_factory):
    """Trained runs on folders of every kind, two of them with an evaluation."""
    root = tmp_path_factory.mktemp("studio-folders")
    runs = root / "runs"
    pictures = runs / "pictures"  # elsewhere they would be read after being allowed
    pictures.mkdir(parents=True)
    grey = draw_pictures(pictures / "grey")
    classes = draw_pictures(pictures / "classes", count=60, classes=CLASSES)
    photographs = draw_pictures(pictures / "фото", size=64, colour=True)
    noisy = draw_pictures(pictures / "noisy", seed=1, colour=True)
    clean = draw_pictures(pictures / "clean", seed=2, colour=True)
    train_on(runs / "grey", grey)
    train_on(runs / "classes", classes, evaluated=True)
    train_on(runs / "photographs", photographs, 2, latent="map", evaluated=True)
    train_on(runs / "pairs", (noisy, clean), 2, latent="map")
    train_on(runs / "denoising", grey, options=TrainingOptions(steps=2, batch_size=8, corruption="gaussian:0.2"))
    train_on(runs / "variational", grey, 2, variational=True)
    encoder = shutil.copytree(runs / "classes", runs / "own-encoder")
    change(encoder, encoder="mine:encoder")
    (encoder / "config.json").unlink()
    Image.new("RGB", (60, 20), (200, 30, 30)).save(encoder / "reconstructions.png")
    (encoder / "stolen.png").symlink_to("/etc/passwd")
    return runs


@pytest.fixture(scope="session")
def folder_client(folder_runs):
    with TestClient(create_app(folder_runs), base_url="http://127.0.0.1:8765") as client:
        yield client


@pytest.fixture(scope="session")
def judged_runs(tmp_path_factory):
    """Runs with detectors, and what was judged by them."""
    return make_judged_runs(tmp_path_factory.mktemp("studio-judged"))


READY = (
    "#views[aria-busy='false'], .walk canvas, [id$=findings][data-frames], #strip[data-frames], "
    "#enlargements[data-frames], #picture[data-frames], #missing:not([hidden]), #compared[data-frames], "
    ".alarm:not([hidden])"
)


@pytest.fixture(scope="session")
def address(runs):
    with served(runs) as address:
        yield address


@pytest.fixture(scope="session")
def folder_address(folder_runs):
    with served(folder_runs) as address:
        yield address


@pytest.fixture(scope="session")
def judged_address(judged_runs):
    with served(judged_runs) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    """Chromium, for one file: while it runs, so does an event loop, in which other tests would fail."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: the browser tests need one")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def window(browser):
    """The page that most tests use one after the other: a new one for each takes longer than most tests."""
    return browser.new_context(reduced_motion="reduce").new_page()


@pytest.fixture
def visit(browser, window, address):
    """Open a page; afterwards it must have had no error and asked its own server alone."""
    new, troubles, listeners = [], [], []

    def watch(page, event, trouble):
        def listen(found):
            if text := trouble(found):
                troubles.append(text)

        page.on(event, listen)
        listeners.append((event, listen))

    def visit(path="/", width=1400, height=1000, ready=READY, at=address, color_scheme="light", **options):
        page = window
        if options:
            page = browser.new_context(reduced_motion="reduce", **options).new_page()
            new.append(page)
        page.set_default_timeout(60_000)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=color_scheme)
        page.mouse.move(0, 0)
        own = (at, "data:", "blob:")
        watch(page, "pageerror", str)
        watch(page, "console", lambda message: "Security" in message.text and message.text)
        watch(page, "request", lambda request: not request.url.startswith(own) and request.url)
        page.goto(at + path)
        until(page, "ready => !!document.querySelector(ready)", ready)
        return page

    yield visit
    for page in new:
        page.context.close()
    for event, listen in listeners:
        with contextlib.suppress(KeyError):
            window.remove_listener(event, listen)
    window.unroute_all()
    if window.url != "about:blank":
        window.evaluate("localStorage.clear()")
        window.goto("about:blank")
    assert troubles == []
