"""A port, a browser, and Ctrl-C."""

from __future__ import annotations

import os
import socket
import threading
import webbrowser
from pathlib import Path

__all__ = ["serve"]

_PORTS_TRIED = 50


def serve(runs: Path | None, host: str = "127.0.0.1", port: int = 8765, open_browser: bool = True) -> None:
    """Serve the studio until Ctrl-C.

    Args:
        runs: a folder of runs, or a run; None for none.
        host: the address to listen on; only 127.0.0.1 keeps others on the network out.
        port: the port to listen on; where it is taken, the next free one.
        open_browser: open the page once it is served.

    Raises:
        ValueError: where the runs folder does not exist, or no port is free.
    """
    if runs is not None and not runs.is_dir():
        raise ValueError(f"`runs` (={runs}) is not a folder: name one that holds what `halfstride train` wrote.")
    # Images that a run took from the hub are shown from the cache: the studio asks nothing of the outside.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

    import torch
    import uvicorn

    from halfstride.studio.app import create_app

    # The browser needs the cores as well, and threads that wait for each other on a busy machine are far slower than
    # one alone: on two cores a decoded digit took 72 ms by two threads, and 1 ms by one.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 4))
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::", "::1") else host
    address = f"http://{shown}:{port}/" + ("autoencoder" if runs is not None else "")
    server = uvicorn.Server(uvicorn.Config(create_app(runs, host), log_level="warning", timeout_keep_alive=30))
    print(f"halfstride studio: {address}   (Ctrl-C ends it)", flush=True)
    if open_browser:
        opener = threading.Timer(0.3, webbrowser.open, [address])
        opener.daemon = True
        opener.start()
    with listener:
        server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A socket on the first free port from `port` on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + _PORTS_TRIED, 65536)):
        # Only of a socket that says it is TCP does asyncio turn Nagle's algorithm off, which costs 40 ms an answer.
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
    raise ValueError(f"`port` (={port}) is taken, and so are those after it ({taken.strerror}): choose another.")
