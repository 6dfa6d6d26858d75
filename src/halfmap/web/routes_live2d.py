"""Live2D's websocket: its seven commands and its messages, for scripts and pages that speak them.

Where Live2D had one session for everybody, here ``?session=`` names one; without, it is the first that is open.
"""

import asyncio
import html
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, WebSocket
from starlette.websockets import WebSocketDisconnect

from halfmap.errors import HalfmapError
from halfmap.sessions.live2d import FROM_SOURCE, SETTINGS, own_settings
from halfmap.sessions.session import Session
from halfmap.web.access import Role
from halfmap.web.permissions import viewer
from halfmap.web.services import Services, services_of

MOST_BYTES = 64 << 10

_CHANGES = ("start_job", "listen", "kill_job", "change_directory", "update_settings")
_STATUS = {"stopping": "killed", "failed": "stopped"}

router = APIRouter()


class Talk:
    """One client's talk.

    Parameters
    ----------
    services : of the server.
    session : that is talked of; None where none is open.
    may_change : whether the client may do more than look.
    """

    def __init__(self, services: Services, session: Session | None, *, may_change: bool) -> None:
        self._services, self.session, self._may_change = services, session, may_change

    def answer(self, text: str) -> list[dict[str, Any]]:
        """Return what is sent back for a message."""
        try:
            asked = json.loads(text)
            command, data = str(asked["command"]), asked.get("data")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return [_alert("A message must be JSON with a command.")]
        if command in _CHANGES and not self._may_change:
            return [_alert("This link is for looking only.")]
        answers = {
            "initialize": self._initialize,
            "get_gallery": self._gallery,
            "start_job": self._start,
            "listen": self._listen,
            "kill_job": self._kill,
            "change_directory": self._change_directory,
            "update_settings": self._update,
        }
        if command not in answers:
            return [_alert("The command is not known.")]
        if self.session is None and command != "change_directory":
            return [_alert("No session is open; choose a folder first.")]
        try:
            return answers[command](data)
        except HalfmapError as error:
            return [_alert(str(error))]
        except HTTPException as error:
            return [_alert(str(error.detail))]

    def news(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what is sent for an event of the session."""
        if self.session is None:
            return []
        if event["type"] == "cycle":
            return [{"type": "gallery_update", "gallery_data": gallery(self.session, None)}, self._envelope()]
        return [self._envelope()] if event["type"] == "changed" else []

    def _initialize(self, data: Any) -> list[dict[str, Any]]:
        opened = self._opened
        text, _ = opened.log()
        first = {
            "type": "init",
            "gallery_data": gallery(opened, None),
            "settings": live2d_settings(opened),
            "microscope_name": opened.microscope,
        }
        return [first, self._envelope(), {"type": "console_update", "data": text}]

    def _gallery(self, data: Any) -> list[dict[str, Any]]:
        given = str(data.get("gallery_number")) if isinstance(data, dict) else ""
        wanted = int(given) if given.isdecimal() and len(given) < 10 else None
        return [{"type": "gallery_update", "gallery_data": gallery(self._opened, wanted)}]

    def _start(self, data: Any) -> list[dict[str, Any]]:
        self._opened.start_now(own_settings(data if isinstance(data, dict) else {}))
        return [{"type": "job_started"}, self._envelope()]

    def _listen(self, data: Any) -> list[dict[str, Any]]:
        self._opened.start_automatic(own_settings(data if isinstance(data, dict) else {}))
        return [self._envelope()]

    def _kill(self, data: Any) -> list[dict[str, Any]]:
        self._opened.stop()
        return [{"type": "kill_received"}, self._envelope()]

    def _update(self, data: Any) -> list[dict[str, Any]]:
        self._opened.stage(own_settings(data if isinstance(data, dict) else {}))
        return [self._envelope()]

    def _change_directory(self, data: Any) -> list[dict[str, Any]]:
        """Open a folder by its name below the first root that has it, as Live2D's prefixes did."""
        for root in self._services.roots.folders:
            with suppress(HTTPException):
                self._services.roots.inside(root, str(data))
                self.session = self._services.catalogue.open(root, str(data))
                return self._initialize(None)
        return [_alert("There is no such folder below the roots.")]

    def _envelope(self) -> dict[str, Any]:
        opened = self._opened
        shown = opened.snapshot(with_plots=False)
        return {
            "type": "settings_update",
            "settings": live2d_settings(opened),
            "warp_folder": shown["name"],
            "job_status": _STATUS.get(shown["state"], shown["state"]),
            "force_abinit": not shown["cycles"],
        }

    @property
    def _opened(self) -> Session:
        if self.session is None:
            raise HTTPException(404, "No session is open.")
        return self.session


@router.websocket("/websocket", dependencies=[viewer])
async def live2d(socket: WebSocket, session: Annotated[str | None, Query(max_length=100)] = None) -> None:
    """Talk as Live2D does."""
    services = services_of(socket)
    opened = services.catalogue.sessions()
    chosen = next((one for one in opened if session in (None, one.id)), None)
    talk = Talk(services, chosen, may_change=socket.state.grant.role >= Role.OPERATOR)
    await socket.accept()
    sending = asyncio.Lock()
    pushing = asyncio.create_task(_push(socket, services, talk, sending))
    try:
        while services.access.holds(socket.state.grant):
            text = await socket.receive_text()
            if len(text) > MOST_BYTES:
                break
            for message in await asyncio.to_thread(talk.answer, text):
                async with sending:
                    await socket.send_json(message)
    except (WebSocketDisconnect, KeyError, RuntimeError):  # gone, or a message of bytes
        pass
    finally:
        pushing.cancel()
        with suppress(asyncio.CancelledError, RuntimeError, WebSocketDisconnect):
            await pushing
    with suppress(RuntimeError):
        await socket.close()


async def _push(socket: WebSocket, services: Services, talk: Talk, sending: asyncio.Lock) -> None:
    async for event in services.hub.follow(services.hub.sequence):
        if event is None or talk.session is None or event.get("session") != talk.session.id:
            continue
        for message in await asyncio.to_thread(talk.news, event):
            async with sending:
                await socket.send_json(message)


def live2d_settings(session: Session) -> dict[str, Any]:
    """Return a session's settings under Live2D's names."""
    shown = session.snapshot(with_plots=False)
    values = {**shown["settings"], **shown["staged"]}
    source = shown["source"]["settings"]
    own = {theirs: values[ours] for theirs, ours in SETTINGS.items() if ours in values}
    return own | {theirs: source[ours]["value"] for theirs, ours in FROM_SOURCE.items() if ours in source}


def gallery(session: Session, number: int | None) -> str:
    """Return the classes of a cycle, the newest where left out, as Live2D's piece of HTML."""
    cycles = session.cycles()
    if not cycles:
        return "<p>New Classes Will Populate in This Tab</p>"
    wanted = cycles[-1]["number"] if number is None else number
    found = session.cycle(wanted)
    where = f"api/v1/sessions/{session.id}/cycles/{found['number']}/atlas.png"
    options = "".join(_option(one, is_shown=one["number"] == wanted) for one in reversed(cycles))
    classes = "".join(
        f"<li>Cycle {found['number']} | Class {one['index']} | {one['particles']} Particles</li>"
        for one in found["classes"]
    )
    return (
        f'<select class="cycles">{options}</select><p>{found["particles"]} particles | {html.escape(found["kind"])} | '
        f'{found["resolution_angstrom"]:g} &Aring;</p><img src="{html.escape(where)}" alt="class averages">'
        f"<ol>{classes}</ol>"
    )


def _option(cycle: Mapping[str, Any], *, is_shown: bool) -> str:
    number, kind, mark = cycle["number"], html.escape(cycle["kind"]), " selected" if is_shown else ""
    text = f"Cycle {number} &ndash; {kind} &ndash; {cycle['particles']} particles"
    return f'<option value="{number}"{mark}>{text}</option>'


def _alert(text: str) -> dict[str, Any]:
    return {"type": "alert", "data": text}
