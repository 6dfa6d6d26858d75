"""What happens is pushed, numbered, to any number of clients."""

import asyncio

import pytest

from halfmap.sessions import events as session_events
from halfmap.web import hub as hub_module
from halfmap.web.hub import Hub

API = "/api/v1"


def taken(hub, n, since, session=None):
    async def take():
        hub.attach(asyncio.get_running_loop())
        found = []
        async for event in hub.follow(since, session):
            found.append(event)
            if len(found) == n:
                break
        return found

    return asyncio.run(asyncio.wait_for(take(), 10))


def test_events_are_numbered_without_gaps_and_those_above_are_given():
    hub = Hub()
    start = hub.sequence
    for k in range(5):
        hub.publish("x", k=k)
    assert [one["k"] for one in taken(hub, 5, start)] == [0, 1, 2, 3, 4]
    assert [one["seq"] - start for one in taken(hub, 2, start + 3)] == [4, 5]


def test_events_of_other_sessions_are_left_out_where_one_is_named():
    hub = Hub()
    start = hub.sequence
    for session in ("a", "b", "a"):
        hub.publish("changed", session=session)
    hub.publish("jobs")
    assert [one.get("session") for one in taken(hub, 3, start, "a")] == ["a", "a", None]


def test_a_client_that_knows_forgotten_numbers_is_told_to_read_anew(monkeypatch):
    monkeypatch.setattr(session_events, "KEPT", 10)
    hub = Hub()
    start = hub.sequence
    for _ in range(session_events.KEPT * 300):
        hub.publish("x")
    assert taken(hub, 1, start)[0]["type"] == "reset"
    assert taken(hub, 1, start + 10**9)[0]["type"] == "reset"  # of an earlier server


def test_a_client_that_falls_behind_is_dropped_and_costs_no_memory():
    hub = Hub()

    async def slow():
        hub.attach(asyncio.get_running_loop())
        following = hub.follow(hub.sequence)
        hub.publish("first")
        await anext(following)
        for _ in range(session_events.KEPT + 10):
            hub.publish("x")
        return [one async for one in following]

    assert len(asyncio.run(slow())) == 0
    assert hub.dropped == 1
    assert hub.n_clients == 0


def test_a_client_hears_a_heartbeat_while_nothing_happens(monkeypatch):
    monkeypatch.setattr(hub_module, "HEARTBEAT_SECONDS", 0.01)
    hub = Hub()
    assert taken(hub, 2, hub.sequence) == [None, None]


def test_a_websocket_tells_of_what_happens(server, grid):
    with server.client() as client, client.websocket_connect(f"ws://127.0.0.1{API}/ws") as socket:
        first = socket.receive_json()
        assert first["type"] == "hello"
        socket.send_text("anything")  # is passed over
        client.post(f"{API}/sessions", json={"root": "data", "path": "grid1"})
        seen = [socket.receive_json()]
        while seen[-1]["type"] != "counts":
            seen.append(socket.receive_json())
        assert [one["seq"] for one in seen] == list(range(first["seq"] + 1, first["seq"] + 1 + len(seen)))


def test_a_websocket_ends_when_the_link_is_taken_back(server):
    client = server.client()
    link = client.post(f"{API}/links", json={"name": "wall"}).json()
    viewer = server.client(link["token"])
    with viewer, viewer.websocket_connect(f"ws://127.0.0.1{API}/ws") as socket:
        socket.receive_json()
        client.delete(f"{API}/links/{link['id']}")
        server.services.hub.publish("x")
        message = socket.receive()
        assert message["type"] == "websocket.close"


@pytest.mark.parametrize("since", ["-1", "x", "1e9"])
def test_numbers_that_are_none_are_refused(server, since):
    assert server.client().get(f"{API}/events", params={"since": since}).status_code == 422
