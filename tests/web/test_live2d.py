"""Live2D's seven websocket commands."""

import json
import time

import pytest

from halfmap.sessions import course
from halfmap.web.access import Role
from support.live_sessions import FAST, ChildHere

NAMES = {
    "mask_radius": 45.0,
    "class_number": 3,
    "run_count_startup": 1,
    "run_count_refine": 1,
    "high_res_initial": 30,
    "high_res_final": 14,
    "particles_per_class": 40,
    "particle_count_initial": FAST["first_threshold"],
    "particle_count_update": FAST["next_threshold"],
}


def said(socket, kind):
    """The next message of a kind."""
    while True:
        message = socket.receive_json()
        if message["type"] == kind:
            return message


def told(socket, command, data, kind):
    socket.send_json({"command": command, "data": data})
    return said(socket, kind)


def test_the_seven_commands_drive_a_session(server, grid, monkeypatch):
    monkeypatch.setattr(course, "Child", ChildHere)
    with server.client() as client, client.websocket_connect("ws://127.0.0.1/websocket") as socket:
        assert "choose a folder" in told(socket, "initialize", None, "alert")["data"]
        assert "no such folder" in told(socket, "change_directory", "../project", "alert")["data"]
        first = told(socket, "change_directory", "grid1", "init")
        assert first["gallery_data"] == "<p>New Classes Will Populate in This Tab</p>"
        assert (first["settings"]["mask_radius"], first["settings"]["box_size"]) == (60.0, 32.0)
        assert said(socket, "settings_update")["job_status"] == "stopped"
        end = time.monotonic() + 30
        while client.get("/api/v1/sessions").json()["sessions"][0]["particles"] < 60:
            assert time.monotonic() < end
            time.sleep(0.05)
        told(socket, "update_settings", NAMES, "settings_update")
        told(socket, "start_job", {"class_number": 3}, "job_started")
        shown = said(socket, "gallery_update")["gallery_data"]
        assert "Class 3" in shown
        assert "Cycle 1" in told(socket, "get_gallery", {"gallery_number": "1"}, "gallery_update")["gallery_data"]
        told(socket, "kill_job", None, "kill_received")
        while said(socket, "settings_update")["job_status"] != "stopped":
            pass
        socket.send_json({"command": "listen", "data": {}})
        while said(socket, "settings_update")["job_status"] != "listening":
            pass


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"command": 5}', '{"command": "x"}', "[" * 20_000])
def test_what_is_no_command_is_answered_by_an_alert(server, text):
    with server.client() as client, client.websocket_connect("ws://127.0.0.1/websocket") as socket:
        socket.send_text(text)
        assert socket.receive_json()["type"] == "alert"


def test_whoever_may_only_look_changes_nothing(server, grid):
    token, _ = server.services.access.give(Role.VIEWER, "wall")
    with server.client(token) as client, client.websocket_connect("ws://127.0.0.1/websocket") as socket:
        for command in ("start_job", "listen", "kill_job", "change_directory", "update_settings"):
            socket.send_text(json.dumps({"command": command, "data": "grid1"}))
            assert socket.receive_json() == {"type": "alert", "data": "This link is for looking only."}
    assert server.services.catalogue.listing() == []
