"""Servers of live sessions within the test's own process, and pages and scripts that ask them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from halfmap.web.app import guarded, make_app
from halfmap.web.server import hosts_of
from halfmap.web.services import Services, make_services
from halfmap.web.settings import LiveParams


class LiveServer:
    """A server, and clients of it.

    Parameters
    ----------
    folder : holds ``project``, where the server runs, and ``data``, its root; made if missing.
    params : of the server, beside its root.
    """

    def __init__(self, folder: Path, **params: Any) -> None:
        self.project, self.data = folder / "project", folder / "data"
        (self.project / ".halfmap").mkdir(parents=True, exist_ok=True)
        self.data.mkdir(exist_ok=True)
        settings = LiveParams(**{"root": (self.data,), "poll_seconds": 0.05, "devices": "cpu", **params})
        self.services: Services = make_services(settings, self.project.resolve())
        self.app: FastAPI = make_app(self.services)
        self.guarded = guarded(self.app, hosts_of(settings))
        self.token = self.services.access.launch()

    def client(self, token: str | None = None, **headers: str) -> TestClient:
        """Return a client that shows a token; the launch token where left out, none where empty."""
        shown = self.token if token is None else token
        known = {"x-halfmap-token": shown} if shown else {}
        return TestClient(
            self.guarded,
            base_url="http://127.0.0.1",
            headers={**known, **headers},
            raise_server_exceptions=False,
            follow_redirects=False,
        )

    def browser(self) -> TestClient:
        """Return a client that has swapped the launch token for a cookie, as a browser does."""
        client = self.client("")
        client.get("/", params={"token": self.token})
        return client


@contextmanager
def a_server(folder: Path, **params: Any) -> Iterator[LiveServer]:
    """Yield a server whose sessions are closed in the end; its loop runs where a client is entered."""
    server = LiveServer(folder, **params)
    try:
        yield server
    finally:
        server.services.catalogue.close()
