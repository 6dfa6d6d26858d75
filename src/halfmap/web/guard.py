"""`Guard`: what every connection passes before a route sees it, and what every answer carries."""

import ipaddress
import json
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from halfmap.web.services import Services

MOST_BODY_BYTES = 1 << 20
POLICY = "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
_ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_UNSAFE = ("POST", "PUT", "PATCH", "DELETE")


class Guard:
    """An ASGI application around another.

    Unknown hosts are refused, so that no name that somebody points at this machine makes its pages readable; so are
    commands and websockets from pages of another origin, bodies above 1 MiB, and commands that are no JSON. Commands
    are written into the audit file.

    Parameters
    ----------
    app : what is guarded.
    services : of the server.
    hosts : names under which browsers may know the server, without port.
    """

    def __init__(self, app: ASGIApp, services: Services, hosts: Iterable[str]) -> None:
        self._app, self._services = app, services
        self._hosts = {name.lower() for name in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope.setdefault("state", {})
        reason = self._refusal(scope, headers)
        if reason is not None:
            await _refuse(scope, receive, send, *reason)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        await self._http(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if _name_of(host) not in self._hosts:
            return 421, "This name of the server is not known; name it with --allowed-host."
        is_command = scope["type"] == "websocket" or scope["method"] in _UNSAFE
        origin = headers.get("origin")
        if is_command and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "Commands must come from the server's own pages."
        if scope["type"] == "websocket" and origin is None and "cookie" in headers:
            return 403, "A websocket with a cookie must name its origin."
        if scope["type"] == "http" and scope["method"] in _UNSAFE:
            length = headers.get("content-length", "0")
            if not length.isdigit() or int(length) > MOST_BODY_BYTES:
                return 413, "A request must have at most 1 MiB."
            has_body = length != "0" or "transfer-encoding" in headers
            if has_body and headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return 415, "A command must be sent as application/json."
        return None

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        code = 0
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MOST_BODY_BYTES:
                return {"type": "http.disconnect"}
            return message

        async def signed(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
                headers.setdefault("content-security-policy", POLICY)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, limited, signed)
        if scope["method"] in _UNSAFE:
            grant = scope["state"].get("grant")
            who = grant.name if grant is not None else "nobody"
            address = (scope.get("client") or ("",))[0]
            with suppress(OSError):  # a full disk must not keep anybody from stopping a job
                await anyio.to_thread.run_sync(
                    lambda: self._services.audit.note(
                        who, f"{scope['method']} {scope['path']}", status=code, address=address
                    )
                )


class Proxied:
    """An ASGI application around another that notes whether a connection comes from a trusted proxy.

    It stands outside of what rewrites the client's address from X-Forwarded-For.

    Parameters
    ----------
    app : what is served.
    trusted : addresses of proxies.
    """

    def __init__(self, app: ASGIApp, trusted: Iterable[str]) -> None:
        self._app, self._trusted = app, set(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] in ("http", "websocket"):
            scope["halfmap.from_proxy"] = (scope.get("client") or ("",))[0] in self._trusted
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which no other can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


async def _refuse(scope: Scope, receive: Receive, send: Send, code: int, text: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": text})
        return
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in _ALWAYS.items()]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})
