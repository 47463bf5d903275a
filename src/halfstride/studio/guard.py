"""Which requests are answered: those of the studio's own pages, up to a size.

A browser lets any website send requests to 127.0.0.1 and, with DNS rebinding, read the answers. With rebinding, the
`Host` header names the website; otherwise `Origin` and `Sec-Fetch-Site` do. A website can forge none of them.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from halfstride.studio.errors import StudioError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_PICTURE = 25 * 2**20
"""Bytes of an uploaded picture."""

LARGEST_REQUEST = 2**20
"""Bytes of any other request."""

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-cache",
}


class Guard:
    """ASGI middleware that refuses requests of other pages and requests that are too large.

    Args:
        app: the application behind it.
        host: the address that the server listens on.
        allowed: other hosts by which a proxy is reached that leads here, each `NAME` or `NAME:PORT` as in the address
            of the browser.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: Sequence[str] = ()) -> None:
        self.app = app
        self.everywhere = host in ("0.0.0.0", "::")
        self.names = {"localhost", "127.0.0.1", "::1", host.lower()}
        self.proxies = {name.lower() for name in allowed}
        self.names |= {name.partition(":")[0] for name in self.proxies}
        if self.everywhere:
            self.names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answered.setdefault(name, value)
            await send(message)

        limit = LARGEST_PICTURE if path.endswith(("/reconstruct", "/checkup", "/checkerboard")) else LARGEST_REQUEST
        if refusal := self._foreign(headers, path) or _too_large(headers, limit):
            status, error = refusal
            await JSONResponse({"error": error}, status)(scope, receive, send_with_headers)
            return
        received = 0

        async def receive_at_most() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:  # a request that is sent in chunks does not state its length
                raise StudioError(413, f"The request has more than {limit:,} bytes.")
            return message

        await self.app(scope, receive_at_most, send_with_headers)

    def _foreign(self, headers: Headers, path: str) -> tuple[int, str] | None:
        host = headers.get("host", "").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name not in self.names and not (self.everywhere and _is_address(name)):
            return 403, f"`Host` (={host[:100]!r}) is not this server: open it by the address that it printed."
        origin = headers.get("origin")
        # A proxy may speak HTTPS to the browser, and put the server's own name into `Host`.
        own = {f"http://{host}"} | {f"{scheme}://{proxy}" for proxy in self.proxies for scheme in ("http", "https")}
        if origin is not None and origin.lower() not in own:
            return 403, f"`Origin` (={origin[:100]!r}) is another page: only the studio's own may ask."
        if path.startswith("/api/") and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "`Sec-Fetch-Site` names another page: only the studio's own may ask."
        return None


def check_hosts(names: Sequence[str]) -> None:
    """Check the hosts of proxies.

    Raises:
        ValueError: where one of them is not `NAME` or `NAME:PORT`.
    """
    for name in names:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?", name.lower()):
            raise ValueError(
                f"`--allow-host` (={name[:100]!r}) is no name of a host: give it as it is in the browser's address, "
                "such as hub.example.org or hub.example.org:8000, without https:// and without a path."
            )


def _too_large(headers: Headers, limit: int) -> tuple[int, str] | None:
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        return 400, f"`Content-Length` (={length[:100]!r}) is not a number."
    if int(length[:20]) > limit:
        return 413, f"The request has {int(length[:20]):,} bytes: at most {limit:,} are allowed."
    return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
