"""Serve the studio on a free port until Ctrl-C."""

from __future__ import annotations

import os
import socket
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

_PORTS_TRIED = 50


def serve(
    runs: Path | None,
    host: str = "127.0.0.1",
    port: int = 8765,
    open_browser: bool = True,
    allowed_hosts: Sequence[str] = (),
) -> None:
    """Serve the studio until Ctrl-C.

    Args:
        runs: a folder of runs, or a run; None for none.
        host: the address to listen on; with 127.0.0.1 only this machine can connect.
        port: the port to listen on; if it is in use, the next free one.
        open_browser: open the page in a browser.
        allowed_hosts: hosts of proxies that lead here, `NAME` or `NAME:PORT`; requests that name others are refused.

    Raises:
        ValueError: where the runs folder does not exist, no port is free, or an allowed host is no name of one.
    """
    if runs is not None and not runs.is_dir():
        raise ValueError(f"`runs` (={runs}) is not a folder: name one that holds what `halfstride train` wrote.")
    # Images from the Hugging Face hub are read from the cache: the studio uses no network.
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")

    import torch
    import uvicorn

    from halfstride.studio.app import create_app

    # The browser needs the cores too, and threads that wait for each other on a busy machine are slower than one: on
    # two cores, decoding a digit took 72 ms with two threads and 1 ms with one.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 4))
    app = create_app(runs, host, allowed_hosts)  # refuses bad arguments, so before a port is taken
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::", "::1") else host
    address = f"http://{shown}:{port}/" + ("autoencoder" if runs is not None else "")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_keep_alive=30))
    print(f"halfstride studio: {address}   (Ctrl-C ends it)", flush=True)
    if open_browser:
        opener = threading.Timer(0.3, webbrowser.open, [address])
        opener.daemon = True
        opener.start()
    with listener:
        server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket on the first free port from `port` on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + _PORTS_TRIED, 65536)):
        # asyncio turns Nagle's algorithm off, which delays answers by 40 ms, only for sockets that state TCP.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, candidate))
            listener.listen()
        except OSError as error:
            listener.close()
            taken = error
            continue
        return listener
    raise ValueError(f"`port` (={port}) is in use, and so are those after it ({taken.strerror}): choose another.")
