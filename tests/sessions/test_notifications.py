"""Telling people: when, and that it arrives."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from halfmap.errors import InputError
from halfmap.sessions.notifications import Alarms, NotificationSettings, Sender


def test_a_microscope_that_is_silent_is_told_of_once_until_it_speaks_again() -> None:
    alarms = Alarms(NotificationSettings(no_image_minutes=10))

    def told(minute: float, image: float) -> list[str]:
        found = alarms.due(last_image_s=image, n_particles=0, is_active=True, now_s=60 * minute)
        return [kind for kind, _ in found]

    assert [told(minute, 1.0) for minute in (0, 9, 10, 11, 30)] == [[], [], ["no image"], [], []]
    assert [told(minute, 2.0) for minute in (31, 40, 41)] == [[], [], ["no image"]]


def test_a_clock_that_runs_ahead_or_behind_does_not_matter() -> None:
    alarms = Alarms(NotificationSettings(no_image_minutes=10))
    values = {"n_particles": 0, "is_active": True}
    assert alarms.due(last_image_s=9e12, now_s=0.0, **values) == []  # type: ignore[arg-type]
    assert alarms.due(last_image_s=-5.0, now_s=599.0, **values) == []  # type: ignore[arg-type]
    assert alarms.due(last_image_s=-5.0, now_s=700.0, **values) == []  # type: ignore[arg-type]


def test_nobody_is_told_of_a_session_that_is_stopped() -> None:
    alarms = Alarms(NotificationSettings(no_image_minutes=1))
    found = [alarms.due(last_image_s=1.0, n_particles=0, is_active=False, now_s=60.0 * minute) for minute in range(5)]
    assert found == [[]] * 5


def test_a_target_is_told_of_once() -> None:
    alarms = Alarms(NotificationSettings(target_particles=1000))
    kinds = []
    for n in (900, 1000, 1100):
        kinds += [kind for kind, _ in alarms.due(last_image_s=1.0, n_particles=n, is_active=True, now_s=0.0)]
    assert kinds == ["target"]


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://x", "nowhere"])
def test_a_webhook_must_be_an_address_of_the_web(address: str) -> None:
    with pytest.raises(InputError, match="http"):
        NotificationSettings(webhook_url=address)


def test_a_webhook_gets_kind_text_and_session() -> None:
    got: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    failures: list[str] = []
    sender = Sender(
        NotificationSettings(webhook_url=f"http://127.0.0.1:{server.server_port}/"), "grid 7", failures.append
    )
    sender.send("failure", "The job has failed.")
    sender.close()
    server.shutdown()
    server.server_close()
    assert got == [{"kind": "failure", "text": "The job has failed.", "session": "grid 7"}]
    assert failures == []


def test_a_webhook_that_does_not_answer_is_noted_and_ends_nothing() -> None:
    failures: list[str] = []
    sender = Sender(NotificationSettings(webhook_url="http://127.0.0.1:9/"), "grid 7", failures.append)
    sender.send("failure", "The job has failed.")
    sender.close()
    assert len(failures) == 1
    assert "The job has failed." in failures[0]
