"""Who may ask, and how much: the page is for the person at this machine, not for websites open in the same browser.

A browser lets any website send requests to 127.0.0.1, and with DNS rebinding even read the answers. Against the second
stands the `Host` header, which then names the website; against the first `Origin` and `Sec-Fetch-Site`, which a
website cannot forge.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LARGEST_PICTURE", "LARGEST_REQUEST", "Guard", "TooLargeError"]

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


class TooLargeError(Exception):
    """A request turned out to be too large while it was read."""


class Guard:
    """Turns away requests that do not come from the page itself, or are too large.

    Args:
        app: what is guarded.
        host: the address that the server listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.everywhere = host in ("0.0.0.0", "::")
        self.names = {"localhost", "127.0.0.1", "::1", host.lower()}
        if self.everywhere:
            self.names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        path = scope["path"]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((n.encode(), v.encode()) for n, v in _HEADERS.items() if n.encode() not in present),
                ]
            await send(message)

        limit = LARGEST_PICTURE if path.endswith(("/reconstruct", "/checkup")) else LARGEST_REQUEST
        if refusal := self._foreign(headers, path) or _too_large(headers, limit):
            await _refuse(send_with_headers, *refusal)
            return
        received = 0

        async def receive_at_most() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:  # what is sent in chunks names no length beforehand
                raise TooLargeError(f"The request has more than {limit:,} bytes, and no more are taken.")
            return message

        await self.app(scope, receive_at_most, send_with_headers)

    def _foreign(self, headers: dict[str, str], path: str) -> tuple[int, str] | None:
        host = headers.get("host", "")
        name = _host_name(host)
        if name not in self.names and not (self.everywhere and _is_address(name)):
            return 403, f"`Host` (={host[:100]!r}) is not this server's: open it by the address it printed."
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{host.lower()}":
            return 403, f"`Origin` (={origin[:100]!r}) is another page: only the studio's own may ask."
        if path.startswith("/api/") and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "`Sec-Fetch-Site` says that another page asks: only the studio's own may."
        return None


def _too_large(headers: dict[str, str], limit: int) -> tuple[int, str] | None:
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        return 400, f"`Content-Length` (={length[:100]!r}) is not a number."
    if int(length[:20]) > limit:
        return 413, f"The request has {int(length[:20]):,} bytes: at most {limit:,} are taken."
    return None


def _host_name(host: str) -> str:
    """The name in a `Host` header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _refuse(send: Send, status: int, error: str) -> None:
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
