"""Twenty browsers at one server, and one that does not take what it is sent."""

import asyncio
import gc
import json
import socket
import threading
import time
from asyncio.selector_events import _SelectorSocketTransport
from contextlib import contextmanager

import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from halfmap.web import routes_events
from halfmap.web import server as server_module

BROWSERS = 20
EVENTS = 400
TEXT = 4000 * "x"
SMALL_BYTES = 4096
MOST_BUFFERED_BYTES = 128 << 10
"""For each browser: asyncio's own 64 KiB before it stops who writes, and a message or two."""


@contextmanager
def served(live):
    """Run a server as `halfmap live` does, with small buffers in the kernel; yield its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
    running = uvicorn.Server(server_module._config(live.services.params, live.services))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.005)
    yield listening.getsockname()[1]
    running.should_exit = True
    thread.join()


def browser(port, token, **options):
    return connect(
        f"ws://127.0.0.1:{port}/api/v1/ws", additional_headers={"X-Halfmap-Token": token}, compression=None, **options
    )


def slow_browser(port, token):
    """Return one that reads no more than a message unless it is asked to."""
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
    own.connect(("127.0.0.1", port))
    own.setblocking(False)
    return browser(port, token, sock=own, max_queue=1, ping_interval=None)


def buffered_bytes():
    """Return how much waits to be sent in all connections of this process."""
    found = [one for one in gc.get_objects() if type(one) is _SelectorSocketTransport]
    return sum(one.get_write_buffer_size() for one in found)


async def numbers_of(socket_of_browser, n):
    """Return the numbers of the events until as many have come."""
    found = []
    while len(found) < n:
        message = json.loads(await socket_of_browser.recv())
        if message["type"] == "x":
            found.append(message["k"])
    return found


async def last_word(socket_of_browser):
    """Read all that has come, and return how the server closed."""
    try:
        while True:
            await asyncio.wait_for(socket_of_browser.recv(), 20)
    except ConnectionClosed as ended:
        return ended.rcvd


async def until(condition):
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


def test_twenty_browsers_are_served_and_a_slow_one_is_dropped_and_told(server, monkeypatch):
    monkeypatch.setattr(routes_events, "SEND_SECONDS", 0.3)
    hub = server.services.hub

    async def all_of_them(port):
        browsers = [await browser(port, server.token) for _ in range(BROWSERS)]
        slow = await slow_browser(port, server.token)
        await until(lambda: hub.n_clients == BROWSERS + 1)
        for k in range(EVENTS):
            hub.publish("x", k=k, text=TEXT)
        received = await asyncio.gather(*(numbers_of(one, EVENTS) for one in browsers))
        assert received == [list(range(EVENTS))] * BROWSERS
        await until(lambda: hub.n_clients == BROWSERS)
        assert hub.dropped == 1
        assert buffered_bytes() < MOST_BUFFERED_BYTES
        told = await last_word(slow)
        hub.publish("x", k=EVENTS)
        assert [await numbers_of(one, 1) for one in browsers] == [[EVENTS]] * BROWSERS
        for one in browsers:
            await one.close()
        return told

    with served(server) as port:
        told = asyncio.run(all_of_them(port))
        metrics = server.client().get("/metrics").text
    assert told is not None
    assert (told.code, told.reason) == (1013, routes_events.TOO_SLOW)
    assert "halfmap_clients_dropped_total 1" in metrics
