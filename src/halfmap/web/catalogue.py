"""`Catalogue`: the sessions of a server, opened anew when it starts again."""

import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from halfmap.errors import HalfmapError
from halfmap.project.private_file import read_private_json, write_private_json
from halfmap.sessions.session import Session
from halfmap.web.hub import Hub
from halfmap.web.roots import Roots, plain_name

Opener = Callable[[Path, Path], Session]


class Catalogue:
    """The sessions of a server.

    Parameters
    ----------
    work : where sessions keep their state, one folder each, and the list of them.
    roots : where acquisition folders may lie.
    opener : takes a session's own folder and its acquisition folder.
    hub : hears of what happens.
    """

    def __init__(self, work: Path, roots: Roots, opener: Opener, hub: Hub) -> None:
        self._path = work / "sessions.json"
        self._work, self._roots, self._opener, self._hub = work, roots, opener, hub
        self._locked = threading.Lock()
        self._open: dict[str, Session] = {}
        self._listed: dict[str, dict[str, str]] = {
            one["id"]: one for one in (read_private_json(self._path) or {}).get("sessions", [])
        }
        self._reasons: dict[str, str] = {}

    def resume(self) -> None:
        """Open all listed sessions that are not open, as far as their folders are there."""
        for one in list(self._listed.values()):
            with self._locked:
                if one["id"] in self._open or one["id"] not in self._listed:
                    continue
                try:
                    self._start(one["id"], self._roots.inside(one["root"], one["path"]))
                except HTTPException:
                    self._reasons[one["id"]] = f"The folder {one['path']} is not to be found under {one['root']}."
                except (HalfmapError, OSError) as error:
                    self._reasons[one["id"]] = str(error)

    def open(self, root: str, relative: str) -> Session:
        """Open an acquisition folder, or return its session where it is open.

        Raises
        ------
        HTTPException
            404: there is no such folder below the root.
        InputError
            Nothing is recognised in it, or its particles are not exported.
        ProjectError
            The session is in use by another process.
        """
        folder = self._roots.inside(root, relative)
        here = folder.relative_to(self._roots.folders[root]).as_posix()
        mark = hashlib.blake2b(f"{root}\0{here}".encode(), digest_size=4).hexdigest()
        identity = f"{plain_name(folder.name)}-{mark}"
        with self._locked:
            if identity not in self._open:
                self._start(identity, folder)
                self._listed[identity] = {"id": identity, "root": root, "path": here, "name": folder.name}
                self._save()
                self._hub.publish("sessions")
            return self._open[identity]

    def forget(self, identity: str) -> None:
        """Close a session and take it off the list; its files stay, and opening the folder again goes on from them."""
        with self._locked:
            if identity not in self._listed:
                raise HTTPException(404, "There is no such session.")
            session = self._open.pop(identity, None)
            del self._listed[identity]
            self._save()
        self._end(identity, session)
        self._hub.publish("sessions")

    def session(self, identity: str) -> Session:
        """Return an open session.

        Raises
        ------
        HTTPException
            404: there is none of this id; 503: it cannot be opened now.
        """
        found = self._open.get(identity)
        if found is None and identity in self._listed:
            raise HTTPException(503, self._reasons.get(identity, "The session is not open yet."))
        if found is None:
            raise HTTPException(404, "There is no such session.")
        return found

    def sessions(self) -> list[Session]:
        """Return the sessions that are open."""
        return list(self._open.values())

    def listing(self) -> list[dict[str, Any]]:
        """Return all sessions in short."""
        return [self._in_short(one) for one in list(self._listed.values())]

    def close(self) -> None:
        """Close all sessions; they stay on the list."""
        with self._locked:
            opened, self._open = self._open, {}
        for identity, session in opened.items():
            self._end(identity, session)

    def _start(self, identity: str, folder: Path) -> None:
        session = self._opener(self._work / identity, folder)
        session.run()
        self._open[identity] = session
        self._reasons.pop(identity, None)
        self._hub.hear(session)

    def _end(self, identity: str, session: Session | None) -> None:
        self._hub.forget(identity)
        if session is not None:
            session.close()

    def _in_short(self, one: dict[str, str]) -> dict[str, Any]:
        session = self._open.get(one["id"])
        if session is None:
            return {**one, "state": "unavailable", "reason": self._reasons.get(one["id"], "")}
        with suppress(OSError):
            shown = session.snapshot(with_plots=False)
            return {
                **one,
                "state": shown["state"],
                "kind": shown["kind"],
                "why_idle": shown["why_idle"],
                "particles": shown["source"]["particles"],
                "cycles": len(shown["cycles"]),
                "last_image": shown["source"]["last_image"],
            }
        return {**one, "state": "unavailable", "reason": "Its folder cannot be read now."}

    def _save(self) -> None:
        write_private_json(self._path, {"schema": 1, "sessions": list(self._listed.values())})
