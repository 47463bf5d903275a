"""How quickly the studio answers, in a real browser: first paint, slider to picture, frames of a latent drag.

    python benchmarks/studio.py RUNS [--seconds 4] [--changes 30]

Serves the runs with `halfstride studio`, drives the system's Chromium with Playwright as a person would, and prints
what the page itself measured. Browser, server and driver share the machine; nothing else should run on it.

*First paint* is the browser's own `first-contentful-paint`, each time of a new browser profile. *Slider to picture*
runs from the slider's `input` event to the second animation frame after the page drew the answer, when the first is on
the screen. The layers are the largest that the sliders reach, of each kind; each change moves one of their sliders a
step back, or forth again. *Latent drag* counts the decoded pictures that were drawn while the pointer moved.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, sync_playwright

OPTIONS = ["--no-sandbox", "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
LOADS = 5

# The most cells among the layers that the sliders reach and the server shows, for each kind and number of axes.
LARGEST = [
    {"form": "conv", "dims": 1, "input_size": 12, "kernel_size": 7, "stride": 1, "padding": 6},
    {"form": "transposed", "dims": 1, "input_size": 12, "kernel_size": 7, "stride": 3, "padding": 0},
    {"form": "resize", "dims": 1, "input_size": 9, "kernel_size": 7, "stride": 4, "padding": 3},
    {"form": "subpixel", "dims": 1, "input_size": 9, "kernel_size": 7, "stride": 4, "padding": 3},
    {"form": "conv", "dims": 2, "input_size": 7, "kernel_size": 5, "stride": 1, "padding": 4},
    {"form": "transposed", "dims": 2, "input_size": 7, "kernel_size": 5, "stride": 2, "padding": 0},
    {"form": "resize", "dims": 2, "input_size": 4, "kernel_size": 5, "stride": 4, "padding": 2},
    {"form": "subpixel", "dims": 2, "input_size": 4, "kernel_size": 5, "stride": 4, "padding": 2},
]

SLIDE = """async ([slider, value, picture]) => {
    const stamp = () => `${document.querySelector(picture).dataset.frames} ${document.querySelector("#error").hidden}`;
    const input = document.querySelector(slider);
    const before = stamp();
    const start = performance.now();
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
    while (stamp() === before) await new Promise((next) => setTimeout(next, 1));
    await new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
    return performance.now() - start;
}"""


@contextmanager
def served(runs: Path) -> Iterator[str]:
    """The studio's address, while it runs in a process of its own."""
    command = [sys.executable, "-m", "halfstride", "studio", str(runs), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://[^/]+", process.stdout.readline())
            assert found is not None, "the studio did not start"
            yield found[0]
        finally:
            process.terminate()


def opened(browser: Browser, address: str) -> Page:
    """A page in a new browser profile, when its first picture is there."""
    page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    page.goto(address)
    page.wait_for_selector("#views[data-frames], #decoded[data-frames]", state="attached", timeout=120_000)
    return page


def first_paint(browser: Browser, address: str) -> float:
    """Milliseconds from the request to the first text or picture."""
    page = opened(browser, address)
    paint: float = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.context.close()
    return paint


def slides(page: Page, sliders: list[tuple[str, float, float]], picture: str, changes: int) -> list[float]:
    """Milliseconds from each change of a slider to the picture; each is moved to its other value and back again."""
    moves = itertools.cycle((name, value) for name, other, own in sliders for value in (other, own))
    return [page.evaluate(SLIDE, [name, value, picture]) for name, value in itertools.islice(moves, changes)]


def layer_slides(browser: Browser, address: str, layer: dict[str, str | int], changes: int) -> list[float]:
    page = opened(browser, f"{address}/?{urlencode(layer)}")
    names = ("input_size", "kernel_size", "stride", "padding")
    sliders = []
    for name in names:
        own = int(layer[name])
        other = own - 1 if own > 1 else own + 1
        sliders.append((f"#{name}", other, own))
    times = slides(page, sliders, "#views", changes)
    page.context.close()
    return times


def latent_slides(browser: Browser, address: str, changes: int) -> list[float]:
    page = opened(browser, f"{address}/autoencoder")
    count = page.locator("#sliders input").count()
    if count == 0:
        raise SystemExit("The first of these runs has a code too long for sliders: name a folder with another.")
    page.evaluate("document.querySelectorAll('#sliders input').forEach((input, place) => (input.id = `code${place}`))")
    times = slides(page, [(f"#code{place}", 1, -1) for place in range(count)], "#decoded", changes)
    page.context.close()
    return times


def drag(browser: Browser, address: str, seconds: float) -> tuple[float, float]:
    """Decoded pictures, and moves of the pointer, a second."""
    page = opened(browser, f"{address}/autoencoder")
    page.wait_for_timeout(1500)  # until reconstructions and walk are there too
    page.locator(".plane").scroll_into_view_if_needed()
    box = page.locator(".plane").bounding_box()
    assert box is not None
    frames = "Number(document.querySelector('#decoded').dataset.frames)"
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    before, start, moves = page.evaluate(frames), time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        moves += 1
        across, down = 0.3 + 0.4 * (moves % 100) / 100, 0.5 + 0.1 * (moves % 37) / 37
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
    drawn, took = page.evaluate(frames) - before, time.perf_counter() - start
    page.mouse.up()
    page.context.close()
    return drawn / took, moves / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="a folder of runs, such as `make train` writes")
    parser.add_argument("--seconds", type=float, default=4, help="how long the drag takes")
    parser.add_argument("--changes", type=int, default=30, help="how often the sliders of each layer are moved")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with served(options.runs) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        print(f"{'first paint':42}{'median':>9}{'worst':>9}")
        for path in ("/", "/autoencoder"):
            show(path, [first_paint(browser, address + path) for _ in range(LOADS)])
        print(f"\n{'slider to picture':42}{'median':>9}{'worst':>9}")
        for layer in LARGEST:
            sizes = "n={input_size} k={kernel_size} s={stride} p={padding}".format(**layer)
            show(f"{layer['form']} {layer['dims']}-D, {sizes}", layer_slides(browser, address, layer, options.changes))
        show("a number of the latent code", latent_slides(browser, address, options.changes))
        drawn, moved = drag(browser, address, options.seconds)
        print(f"\nlatent drag: {drawn:.1f} decoded frames a second, at {moved:.1f} moves of the pointer a second")
        browser.close()


def show(what: str, times: list[float]) -> None:
    print(f"{what:42}{statistics.median(times):6.0f} ms{max(times):6.0f} ms", flush=True)


if __name__ == "__main__":
    main()
