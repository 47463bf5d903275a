"""Reading a page of the studio in a browser, and acting on it."""

import base64
import contextlib
import json
import threading
import time

import numpy as np
from studio_helpers import as_shown

from halfstride.studio import server
from halfstride.studio.app import create_app


def behind(prefix, app):
    """An app behind a proxy that takes a prefix off, and knows no other address."""

    async def proxy(scope, receive, send):
        if scope["type"] == "http":
            if not scope["path"].startswith(f"{prefix}/"):
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body"})
                return
            scope = {**scope, "path": scope["path"].removeprefix(prefix), "raw_path": None}
        await app(scope, receive, send)

    return proxy


@contextlib.contextmanager
def served(runs, prefix=""):
    """The studio's address, while it is served to this machine, by a proxy where there is a prefix."""
    import uvicorn

    listener = server._listen("127.0.0.1", 8770)
    running = uvicorn.Server(uvicorn.Config(behind(prefix, create_app(runs)), log_level="error"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}{prefix}"
    running.should_exit = True
    thread.join()
    listener.close()


def until(page, script, argument=None):
    """Wait until a script on the page says yes; Playwright's own waiting needs what the page's policy forbids."""
    deadline = time.monotonic() + 60
    while not page.evaluate(script, argument):
        assert time.monotonic() < deadline, f"never came true: {script} with {argument}"
        page.wait_for_timeout(20)


def cells(page, view, **wanted):
    """The cells that a view's canvas shows, in the order in which they are drawn."""
    script = """(canvas, wanted) => JSON.stringify(canvas.cells.filter(
        cell => Object.entries(wanted).every(([name, value]) => cell[name] === value)
    ))"""
    return json.loads(page.eval_on_selector(f"#{view} canvas", script, wanted))


def numbers(page, view, **wanted):
    """The numbers in cells; None where one is empty."""
    return [cell["value"] for cell in cells(page, view, **wanted)]


def lit(page, view, kind):
    return sorted(cell["index"] for cell in cells(page, view, kind=kind, lit=True))


def entries(page, **wanted):
    """Row and column of the matrix's entries, in the order in which they are drawn."""
    return [tuple(map(int, cell["index"].split(","))) for cell in cells(page, "matrix", kind="entry", **wanted)]


def outputs(page, view="scatter"):
    return numbers(page, view, kind="output")


def middle(page, view, kind, index):
    """Where the first cell that stands for this is on the screen, brought into sight."""
    page.locator(f"#{view} canvas").scroll_into_view_if_needed()
    box, width = page.eval_on_selector(
        f"#{view} canvas", "canvas => [canvas.getBoundingClientRect().toJSON(), parseFloat(canvas.style.aspectRatio)]"
    )
    cell = cells(page, view, kind=kind, index=index)[0]
    return [box[side] + (cell[side] + 0.51) * box["width"] / width for side in ("x", "y")]


def point(page, view, kind, index):
    page.mouse.move(*middle(page, view, kind, index))


def drop(page, content, name="mine.png"):
    page.evaluate(
        """([text, name]) => {
            const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, {type: 'image/png'}));
            for (const kind of ['dragover', 'drop']) {
                document.querySelector('#drop').dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true}));
            }
        }""",
        [base64.b64encode(content).decode(), name],
    )


def canvas(page, selector):
    """What a canvas shows, as an array H×W×3."""
    script = """node => [node.width, node.height,
        btoa(Array.from(node.getContext('2d').getImageData(0, 0, node.width, node.height).data,
            byte => String.fromCharCode(byte)).join(''))]"""
    width, height, data = page.locator(selector).evaluate(script)
    return np.frombuffer(base64.b64decode(data), dtype=np.uint8).reshape(height, width, 4)[..., :3]


def settle(page):
    """Wait until the newest code that was asked for is shown."""
    until(page, "document.querySelector('#decoded').ariaBusy === 'false'")


def shows(page, selector, image, within=0):
    """Wait until a canvas shows this uint8 image 1×H×W, to so many grey values."""
    deadline = time.monotonic() + 60
    while np.abs(canvas(page, selector).astype(int) - as_shown(image).astype(int)).max() > within:
        assert time.monotonic() < deadline, f"{selector} never shows it"
        page.wait_for_timeout(20)


def violations(page):
    """What axe finds serious on the page, with the first element of each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
