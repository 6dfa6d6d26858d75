"""`LiveClient`: what a script asks of `halfmap live`, with nothing but the standard library."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halfmap.errors import ComputeError, InputError

SECONDS = 30.0


class LiveClient:
    """A script's way to a server of `halfmap live`.

    Parameters
    ----------
    address : that `halfmap live` printed, with its token; or without, where the server asks for none.
    token : where the address has none.

    Examples
    --------
    ::

        live = LiveClient("http://127.0.0.1:8181/?token=…")
        session = live.open("data", "2026-03-01/grid2")["id"]
        live.start_automatic(session, classes=50)
        for event in live.events():
            if event["type"] == "cycle":
                print(live.session(session)["cycles"][-1])
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(
                f"The address must begin with http:// or https://; got {address!r}; copy it from halfmap live."
            )
        found = urllib.parse.parse_qs(parts.query).get("token", [None])[0]
        self._token = token or found
        self._base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/api/v1/"

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of a path below ``/api/v1/``.

        Raises
        ------
        InputError
            The server refuses, and says why.
        ComputeError
            It does not answer, or fails.
        """
        return json.loads(self._bytes("GET", path, None, query))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a command and return its JSON; raises as `get`."""
        return json.loads(self._bytes("POST", path, body or {}, {}))

    def sessions(self) -> list[dict[str, Any]]:
        """Return all sessions in short."""
        return list(self.get("sessions")["sessions"])

    def open(self, root: str, path: str = ".") -> dict[str, Any]:
        """Open an acquisition folder below a root, or return its session where it is open."""
        return dict(self.post("sessions", {"root": root, "path": path}))

    def session(self, session: str) -> dict[str, Any]:
        """Return everything of a session but its cycles' classes."""
        return dict(self.get(f"sessions/{_part(session)}"))

    def stage(self, session: str, **values: Any) -> dict[str, Any]:
        """Keep changed settings until a job starts; return all that are staged."""
        return dict(self.post(f"sessions/{_part(session)}/stage", {"values": values})["staged"])

    def start(self, session: str, **values: Any) -> dict[str, Any]:
        """Start a job now, with changed settings."""
        return dict(self.post(f"sessions/{_part(session)}/start", {"values": values}))

    def start_automatic(self, session: str, **values: Any) -> dict[str, Any]:
        """Start jobs from now on whenever enough new particles have come."""
        return dict(self.post(f"sessions/{_part(session)}/start-automatic", {"values": values}))

    def stop(self, session: str, *, hard: bool = False) -> dict[str, Any]:
        """Stop all jobs: after the cycle that runs, or at once."""
        return dict(self.post(f"sessions/{_part(session)}/{'stop-hard' if hard else 'stop'}"))

    def cycle(self, session: str, number: int) -> dict[str, Any]:
        """Return a cycle with its classes."""
        return dict(self.get(f"sessions/{_part(session)}/cycles/{number}"))

    def atlas(self, session: str, number: int) -> bytes:
        """Return the picture of a cycle's class averages, PNG."""
        return self._bytes("GET", f"sessions/{_part(session)}/cycles/{number}/atlas.png", None, {})

    def select(self, session: str, cycle: int, classes: Sequence[int], *, selected: bool = True) -> list[int]:
        """Select or deselect classes of a cycle, by number from 1; return the tracks that are selected."""
        body = {"cycle": cycle, "classes": list(classes), "selected": selected}
        return list(self.post(f"sessions/{_part(session)}/select", body)["tracks"])

    def export(self, session: str, kind: str) -> dict[str, Any]:
        """Write what was found for other programs: relion, cistem, live2d or averages."""
        return dict(self.post(f"sessions/{_part(session)}/export", {"kind": kind}))

    def events(self, since: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield events as they come, until the server ends.

        Parameters
        ----------
        since : number of the last event that is known; the next ones where left out.
        """
        query = {} if since is None else {"since": since}
        with self._open("GET", "events", None, query, seconds=60.0) as stream:
            for line in stream:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    def _bytes(self, method: str, path: str, body: Any, query: Mapping[str, Any]) -> bytes:
        with self._open(method, path, body, query, seconds=SECONDS) as answer:
            return bytes(answer.read())

    def _open(self, method: str, path: str, body: Any, query: Mapping[str, Any], *, seconds: float) -> Any:
        known = {name: value for name, value in query.items() if value is not None}
        url = self._base + path + (f"?{urllib.parse.urlencode(known)}" if known else "")
        request = urllib.request.Request(url, method=method)
        if self._token is not None:
            request.add_header("X-Halfmap-Token", self._token)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            return urllib.request.urlopen(request, timeout=seconds)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            kind = InputError if error.code < 500 else ComputeError
            raise kind(f"{method} {path} was refused with {error.code}: {_detail(text)}") from error
        except OSError as error:
            raise ComputeError(f"The server at {self._base} must answer; got {error}; see whether it runs.") from error


def _part(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _detail(text: str) -> str:
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
