"""Requests that the studio refuses, and that it answers all others also under load."""

import math
import os
import socket
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import anyio
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from studio_helpers import png

from halfstride.studio import dependencies, server
from halfstride.studio.app import create_app
from halfstride.studio.errors import StudioError
from halfstride.studio.page import STATIC
from halfstride.studio.pages import autoencoder, doctor
from halfstride.studio.pictures import read_picture

LINKS = ["linked", "leaking-metrics", "leaking-evaluation"]
PATHS = ["..", "%2e%2e", "../outside", "..%2foutside", "%2Fetc", "not%20a%20run", "plane%00", "unknown", "." * 5000]


@pytest.mark.parametrize("name", LINKS + PATHS)
def test_a_name_that_is_not_one_of_the_runs_leads_nowhere(client, name):
    for rest in ("", "/progress", "/images", "/latent", "/checkup", "/evaluation", "/pictures/losses.png"):
        answer = client.get(f"/api/runs/{name}{rest}")
        assert answer.status_code == 404, answer.text
        assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_static_files_are_those_of_the_folder(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("name", ["damaged", "bad-metrics", "deep-json", "huge", "wide", "tall"])
def test_a_damaged_run_is_a_conflict_and_not_a_crash(client, name):
    answer = client.get(f"/api/runs/{name}/{'progress' if name == 'bad-metrics' else 'latent'}")
    assert answer.status_code == 409
    assert "\n" not in answer.json()["error"]
    assert ("too large to be shown" in answer.json()["error"]) == (name in ("huge", "wide", "tall"))


NO_POINTS = [{}, {"point": [0, 0], "index": 1}, {"point": [0]}, {"point": [1e300, 0]}, [1]]
NO_CODES = [{"code": [1, 2, 3]}, {"code": ["x", 1]}, {"index": 1000}, {"index": 10**400}]
NO_WALKS = [{"start": 0, "end": 1000}, {"start": 0, "end": 1, "steps": 10**9}, {"start": -1, "end": 1}]


@pytest.mark.parametrize(
    ("path", "body"), [("decode", body) for body in NO_POINTS + NO_CODES] + [("walk", body) for body in NO_WALKS]
)
def test_what_makes_no_sense_is_refused(client, path, body):
    answer = client.post(f"/api/runs/plane/{path}", json=body)
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b'{"point": [NaN, Infinity]}', b"\xff\xfe", b""])
def test_broken_json_is_refused(client, body):
    answer = client.post("/api/runs/plane/decode", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert set(answer.json()) == {"error"}


def bomb(width, height):
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


NO_PICTURES = [b"", b"GIF89a", b"%PDF-1.4 no picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>"]


@pytest.mark.parametrize("path", ["/api/runs/plane/reconstruct", "/api/pictures/checkup"])
@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        *((content, 415, "This file is not a picture that can be read") for content in NO_PICTURES),
        (png(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8))[:800], 415, "is truncated or broken: "),
        (bomb(10_000, 10_000), 413, "The picture has 100,000,000 pixels: at most 40,000,000 are taken."),
        (bomb(2**31 - 1, 2**31 - 1), 413, "The picture has far too many pixels: at most 40,000,000 are taken."),
    ],
    ids=["empty", "header", "pdf", "svg", "cut", "bomb", "overflow"],
)
def test_a_bad_upload_is_refused_with_a_reason(client, path, content, status, message):
    answer = client.post(path, content=content)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]


@pytest.mark.parametrize("path", ["/api/runs/plane/reconstruct", "/api/pictures/checkup"])
def test_an_upload_that_is_too_large_is_refused_whether_it_says_so_or_not(client, path):
    answer = client.post(path, content=b"x" * (25 * 2**20 + 1))
    assert answer.status_code == 413

    def drip():
        for _ in range(27):
            yield b"x" * 2**20

    assert client.post(path, content=drip()).status_code in (400, 413)
    assert client.post("/api/runs/plane/decode", content=b" " * (2**20 + 1)).status_code == 413
    assert client.post("/api/runs/plane/decode", headers={"content-length": "-1"}).status_code == 400


def test_a_slow_upload_is_given_up(runs, monkeypatch):
    monkeypatch.setattr(dependencies, "_UPLOAD_SECONDS", 0.05)
    sent = []

    async def receive():
        await anyio.sleep(5)
        raise AssertionError("the server waits for ever")

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/runs/plane/reconstruct", "query_string": b""}
    scope |= {"headers": [(b"host", b"localhost")]}
    anyio.run(create_app(runs), scope, receive, send)
    assert sent[0]["status"] == 408


def test_more_pictures_at_once_than_can_wait_are_sent_away(runs, monkeypatch):
    monkeypatch.setattr(dependencies, "_UPLOADS_WAITING", 1)
    picture = png(np.zeros((900, 900), np.uint8))
    with TestClient(create_app(runs), base_url="http://localhost") as client, ThreadPoolExecutor(16) as pool:
        asked = pool.map(lambda _: client.post("/api/runs/plane/reconstruct", content=picture), range(48))
        answers = [(answer.status_code, answer.json().get("error")) for answer in asked]
    assert set(answers) <= {(200, None), (429, "Too many pictures at once: try again in a moment.")}
    assert (200, None) in answers
    assert len(set(answers)) == 2


def test_a_picture_with_too_many_channels_for_the_model_is_refused():
    with pytest.raises(ValueError, match=r"channels \(1 or 3\)"):
        read_picture(png(np.zeros((9, 9, 3), np.uint8)), (5, 8, 8))
    with pytest.raises(StudioError):
        read_picture(b"nothing", (5, 8, 8))


HOSTS = ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "10.0.0.5:8765", ""]
ORIGINS = ["https://evil.example", "http://127.0.0.1:3000", "null"]
OWN = [{}, {"host": "localhost:8765"}, {"host": "[::1]:8765"}, {"origin": "http://127.0.0.1:8765"}]
OWN += [{"sec-fetch-site": site} for site in ("same-origin", "none")]
FOREIGN = [{"host": host} for host in HOSTS] + [{"origin": origin} for origin in ORIGINS]
FOREIGN += [{"sec-fetch-site": site} for site in ("cross-site", "same-site")]


@pytest.mark.parametrize(("headers", "status"), [(own, 200) for own in OWN] + [(foreign, 403) for foreign in FOREIGN])
def test_only_the_page_itself_may_ask(client, headers, status):
    answer = client.get("/api/layer", headers=headers)
    assert answer.status_code == status
    assert client.post("/api/runs/plane/decode", json={"point": [0, 0]}, headers=headers).status_code == status


def test_a_link_from_elsewhere_still_opens_the_page(client):
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_served_on_all_addresses_it_answers_to_addresses_and_still_not_to_names(runs):
    with TestClient(create_app(runs, "0.0.0.0"), base_url="http://10.0.0.5") as client:
        assert client.get("/api/runs").status_code == 200
        assert client.get("/api/runs", headers={"host": "evil.example"}).status_code == 403


PROXIES = ("Hub.example.org", "lab.example.org:8000")
THROUGH_A_PROXY = [
    ({"host": "hub.example.org"}, 200),
    ({"host": "hub.example.org", "origin": "https://hub.example.org"}, 200),
    ({"host": "localhost:8765", "origin": "https://hub.example.org"}, 200),
    ({"host": "lab.example.org:8000", "origin": "http://lab.example.org:8000"}, 200),
    ({"host": "hub.example.org", "origin": "https://evil.example"}, 403),
    ({"host": "hub.example.org", "origin": "https://hub.example.org.evil.example"}, 403),
    ({"host": "hub.example.org", "origin": "https://hub.example.org:444"}, 403),
    ({"host": "hub.example.org", "origin": "null"}, 403),
    ({"host": "hub.example.org", "origin": "https://hub.example.org", "sec-fetch-site": "cross-site"}, 403),
    ({"host": "evil.example", "origin": "https://hub.example.org"}, 403),
    ({"host": "localhost:8765", "origin": "https://lab.example.org"}, 403),
]


def test_a_proxy_is_answered_once_it_was_allowed(runs, client):
    with TestClient(create_app(runs, allowed_hosts=PROXIES), base_url="http://localhost") as allowing:
        for headers, status in THROUGH_A_PROXY:
            assert allowing.get("/api/layer", headers=headers).status_code == status, headers
            if "hub.example.org" in headers["host"] + headers.get("origin", ""):
                assert client.get("/api/layer", headers=headers).status_code == 403


@pytest.mark.parametrize("name", ["https://hub.example.org", "hub.example.org/user/me", "*", "", ".example.org", "a b"])
def test_only_names_of_hosts_are_allowed(halfstride, name):
    assert f"`--allow-host` (={name!r}) is no name of a host" in halfstride.error("studio", "--allow-host", name)


def test_every_answer_forbids_what_the_page_does_not_need(client):
    pages = ["/", "/autoencoder", "/doctor", "/static/upsampling.js"]
    for path in [*pages, "/api/runs", "/nowhere", "/api/layer?stride=x"]:
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_the_pages_ask_nothing_of_the_outside():
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path
        assert " style=" not in text.replace("svg xmlns", ""), path


def test_two_hundred_requests_at_once_are_all_answered(client):
    upload = png(np.zeros((500, 500, 3), np.uint8))

    def ask(place):
        kind = place % 4
        if kind == 0:
            return client.get("/api/layer", params={"input_size": 5}).status_code
        if kind == 1:
            return client.post("/api/runs/plane/decode", json={"point": [place, 0]}).status_code
        if kind == 2:
            return client.post("/api/runs/deep/reconstruct", content=upload).status_code
        return client.get("/static/studio.css").status_code

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(ask, range(200))) == {200}
    assert threading.active_count() < 80


def test_pages_and_drags_do_not_wait_for_pictures_and_diagnoses(runs, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def held(*_):
        begun.set()
        go_on.wait(20)
        go_on.set()  # where something did wait, the test ends here, and fails
        raise StudioError(415, "Let go.")

    monkeypatch.setattr(autoencoder, "read_picture", held)
    monkeypatch.setattr(doctor, "read_middle", held)
    with TestClient(create_app(runs), base_url="http://localhost") as client, ThreadPoolExecutor(80) as pool:
        slow = [pool.submit(client.post, "/api/runs/plane/reconstruct", content=b"a picture") for _ in range(30)]
        slow += [pool.submit(client.post, "/api/pictures/checkup", content=b"a picture") for _ in range(30)]
        assert begun.wait(60)
        for path in ("/api/runs/plane/checkup", "/api/layer/animation?format=svg", "/api/layer", "/static/studio.css"):
            assert client.get(path).status_code == 200
        for path in ("/api/runs/plane/checkup", "/api/layer/animation?format=svg", "/api/layer", "/static/studio.css"):
            assert client.get(path).status_code == 200
        for path in ("/", "/api/runs", "/api/runs/plane/latent"):
            assert client.get(path).status_code == 200
        assert client.post("/api/runs/plane/decode", json={"point": [0, 0]}).status_code == 200
        assert not any(one.done() for one in slow)
        go_on.set()
        answers = [one.result() for one in slow]
    assert [answer.status_code for answer in answers] == [415] * 60


def test_a_port_that_is_taken_is_stepped_over():
    with server._listen("127.0.0.1", 18765) as first, server._listen("127.0.0.1", first.getsockname()[1]) as second:
        assert second.getsockname()[1] > first.getsockname()[1]
        assert math.isclose(first.getsockname()[1], 18765, abs_tol=50)


def test_answers_are_sent_at_once_and_by_one_thread_each(monkeypatch):
    import asyncio

    import uvicorn

    async def answers_at_once(listener):
        accepted = asyncio.get_running_loop().create_future()
        async with await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listener):
            _, client = await asyncio.open_connection(*listener.getsockname())
            writer = await accepted
            option = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for end in (client, writer):
                end.close()
        return option != 0

    seen = []

    def run(_, sockets):
        seen.extend([asyncio.run(answers_at_once(*sockets)), torch.get_num_threads()])

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    threads = torch.get_num_threads()
    try:
        server.serve(None, port=18865, open_browser=False)
    finally:
        torch.set_num_threads(threads)
    assert seen == [True, 1]
