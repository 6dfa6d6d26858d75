"""What happens, pushed: a websocket for browsers, an event stream for scripts. Nothing is taken from clients."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query, Request, WebSocket, WebSocketDisconnect, status

from halfmap.web.answers import EventStream
from halfmap.web.hub import MOST_CLIENTS
from halfmap.web.permissions import viewer
from halfmap.web.services import Services, services_of

SEND_SECONDS = 10.0
CLOSE_SECONDS = 30.0
"""For which a client that is too slow may take what was sent, and be told why nothing more comes."""

TOO_SLOW = "too slow: read the session anew"

router = APIRouter()


@router.get("/events", dependencies=[viewer], response_class=EventStream)
async def events(
    request: Request,
    since: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    session: Annotated[str | None, Query(max_length=100)] = None,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> EventStream:
    """Return events as they come, as server-sent events with their numbers as ids.

    They begin above ``since`` or the header Last-Event-ID, else with the next; with ``session`` those of others are
    left out. One of the type ``reset`` says that
    some are forgotten: what is shown must be read anew.
    """
    services = services_of(request)
    _refuse_many(services)
    known = last_event_id if last_event_id and last_event_id.isdigit() else None
    start = int(known) if known is not None else since
    return EventStream(
        _stream(request, services, services.hub.sequence if start is None else start, session),
        headers={"x-accel-buffering": "no"},
    )


async def _stream(request: Request, services: Services, since: int, session: str | None) -> AsyncIterator[str]:
    yield ": halfmap\n\n"
    async for event in services.hub.follow(since, session):
        if not services.access.holds(request.state.grant):
            return
        if event is None:
            yield ": still here\n\n"
        else:
            yield f"id: {event['seq']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n"


@router.websocket("/ws", dependencies=[viewer])
async def websocket(
    socket: WebSocket,
    since: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    session: Annotated[str | None, Query(max_length=100)] = None,
) -> None:
    """Send events as JSON, one a message, as `events` does; messages that come are passed over.

    A client that does not take a message within 10 s, or is 2,000 events behind, is closed with 1013 and told so.
    """
    services = services_of(socket)
    if services.hub.n_clients >= MOST_CLIENTS:
        await socket.close(status.WS_1013_TRY_AGAIN_LATER)
        return
    await socket.accept()
    sending = asyncio.create_task(_send(socket, services, services.hub.sequence if since is None else since, session))
    listening = asyncio.create_task(_until_gone(socket))
    await asyncio.wait((sending, listening), return_when=asyncio.FIRST_COMPLETED)
    reason = ""
    for task in (sending, listening):
        task.cancel()
        with suppress(asyncio.CancelledError, TimeoutError, RuntimeError, WebSocketDisconnect):
            reason = await task or reason
    with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):  # it has gone already, or takes nothing
        await asyncio.wait_for(socket.close(status.WS_1013_TRY_AGAIN_LATER, reason), CLOSE_SECONDS)


async def _send(socket: WebSocket, services: Services, since: int, session: str | None) -> str:
    """Send events until the client is too slow or its right has ended; return why nothing more is sent."""
    await socket.send_json({"seq": since, "type": "hello"})
    async for event in services.hub.follow(since, session):
        if not services.access.holds(socket.state.grant):
            return "the right to look has ended"
        message = event if event is not None else {"seq": services.hub.sequence, "type": "heartbeat"}
        try:
            await asyncio.wait_for(socket.send_json(message), SEND_SECONDS)
        except TimeoutError:
            services.hub.dropped += 1
            break
    return TOO_SLOW


async def _until_gone(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


def _refuse_many(services: Services) -> None:
    if services.hub.n_clients >= MOST_CLIENTS:
        raise HTTPException(503, "Too many clients listen already.")
