"""What the session page asks and does."""

import json
import time

import pytest

from halfmap.errors import InputError
from halfmap.sessions import course
from halfmap.web import services
from halfmap.web.routes_sessions import news
from support.live_servers import a_server
from support.live_sessions import FAST, ChildHere

API = "/api/v1"


def wait_for(ask, seconds=30.0):
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def opened(server, grid):
    client = server.client()
    identity = client.post(f"{API}/sessions", json={"root": "data", "path": "grid1"}).json()["id"]
    wait_for(lambda: client.get(f"{API}/sessions/{identity}").json()["source"]["particles"] == 60)
    return client, identity


def test_folders_under_the_root_are_listed_with_what_they_are(server, grid):
    found = server.client().get(f"{API}/roots/data/folders").json()
    assert [(one["name"], one["kind"]) for one in found["folders"]] == [("grid1", "warp1")]


@pytest.mark.parametrize(
    "path", ["..", "../project", "/etc", "grid1/../..", "out", "out/x", "\0", "grid1\0", "nothing"]
)
def test_nothing_outside_of_the_roots_is_reached(server, grid, tmp_path, path):
    (tmp_path / "secret" / "x").mkdir(parents=True)
    (server.data / "out").symlink_to(tmp_path / "secret", target_is_directory=True)
    client = server.client()
    assert client.get(f"{API}/roots/data/folders", params={"path": path}).status_code == 404
    assert client.post(f"{API}/sessions", json={"root": "data", "path": path}).status_code == 404
    assert [one["name"] for one in client.get(f"{API}/roots/data/folders").json()["folders"]] == ["grid1"]


def test_a_folder_in_which_nothing_is_recognised_is_refused_with_what_to_do(server):
    (server.data / "empty").mkdir()
    answer = server.client().post(f"{API}/sessions", json={"root": "data", "path": "empty"})
    assert answer.status_code == 422
    assert "previous.settings" in answer.json()["detail"]


def test_the_snapshot_says_where_each_setting_comes_from(opened):
    client, identity = opened
    shown = client.get(f"{API}/sessions/{identity}").json()
    assert shown["state"] == "stopped"
    assert shown["settings"]["mask_radius_angstrom"] == 60  # 1.2 times the radius
    assert "Picking/Diameter" in shown["source"]["settings"]["diameter_angstrom"]["provenance"]
    assert "plots" in shown
    assert "plots" not in client.get(f"{API}/sessions/{identity}", params={"plots": False}).json()


def test_sessions_compute_on_the_cluster_that_the_server_was_told_of(tmp_path, filled, monkeypatch):
    told = []

    class Told(services.Session):
        def __init__(self, *given, **options):
            told.append(options["cluster"])
            super().__init__(*given, **options)

    monkeypatch.setattr(services, "Session", Told)
    with pytest.raises(InputError, match="must be a file"), a_server(tmp_path, cluster=tmp_path / "none.yaml"):
        pass
    (tmp_path / "cluster.yaml").write_text("kind: slurm\n")
    with a_server(tmp_path, cluster=tmp_path / "cluster.yaml") as server:
        filled.copied(server.data / "grid1")
        assert server.client().post(f"{API}/sessions", json={"root": "data", "path": "grid1"}).status_code == 200
    assert told == [tmp_path / "cluster.yaml"]


def test_opening_a_folder_twice_gives_the_same_session(opened):
    client, identity = opened
    again = client.post(f"{API}/sessions", json={"root": "data", "path": "./grid1"}).json()
    assert again["id"] == identity
    assert len(client.get(f"{API}/sessions").json()["sessions"]) == 1


def test_settings_are_staged_until_a_job_starts_and_bad_ones_refused(opened):
    client, identity = opened
    assert client.post(f"{API}/sessions/{identity}/stage", json={"values": {"classes": 7}}).json() == {
        "staged": {"classes": 7}
    }
    for values in ({"classes": 0}, {"klasses": 3}, {"classes": "many"}):
        assert client.post(f"{API}/sessions/{identity}/stage", json={"values": values}).status_code == 422
    assert client.get(f"{API}/sessions/{identity}").json()["staged"] == {"classes": 7}
    schema = client.get(f"{API}/sessions/{identity}/settings/schema").json()
    assert schema["properties"]["classes"]["default"] == 50


def test_a_job_runs_and_its_classes_are_shown_selected_and_exported(server, grid, monkeypatch):
    monkeypatch.setattr(course, "Child", ChildHere)
    client = server.client()
    path = f"{API}/sessions/" + client.post(f"{API}/sessions", json={"root": "data", "path": "grid1"}).json()["id"]
    wait_for(lambda: client.get(path).json()["source"]["particles"] == 60)
    values = {**FAST, "startup_cycles": 1}
    assert client.post(f"{path}/export", json={"kind": "averages"}).status_code == 422
    assert client.post(f"{path}/start", json={"values": values}, headers={"idempotency-key": "a"}).status_code == 200
    assert client.post(f"{path}/start", json={"values": values}, headers={"idempotency-key": "a"}).status_code == 200
    assert client.post(f"{path}/start", json={"values": values}).status_code == 409
    assert client.post(f"{path}/start-automatic", json={"values": {}}).status_code == 409
    wait_for(lambda: client.get(path).json()["state"] == "listening")
    number = client.get(path).json()["cycles"][-1]["number"]
    cycle = client.get(f"{path}/cycles/{number}").json()
    picture = client.get("/" + cycle["atlas"]["url"])
    assert picture.content.startswith(b"\x89PNG")
    assert "immutable" in picture.headers["cache-control"]
    body = {"cycle": number, "classes": [1, 2], "selected": True}
    assert len(client.post(f"{path}/select", json=body).json()["tracks"]) == 2
    assert [one["selected"] for one in client.get(f"{path}/cycles/{number}").json()["classes"]] == [True, True, False]
    assert client.post(f"{path}/undo", json={}).json() == {"tracks": []}
    assert client.post(f"{path}/select", json={**body, "classes": [99]}).status_code == 422
    assert client.get(f"{path}/cycles/99").status_code == 404
    made = client.post(f"{path}/export", json={"kind": "averages"}).json()
    assert (server.services.work / made["path"]).exists()
    assert client.post(f"{path}/stop", json={}).json()["state"] == "stopped"
    text = client.get(f"{path}/log").json()
    assert "A job begins" in text["text"]
    assert client.get(f"{path}/log", params={"offset": text["next"]}).json()["next"] >= text["next"]


def test_pages_are_told_only_of_what_they_do_not_have(server, opened):
    client, identity = opened
    path = f"{API}/sessions/{identity}"
    cycles = [{"number": k, "kind": "startup"} for k in range(1, 4)]
    shown = news({"cycles": cycles, "state": "stopped"}, 2)
    assert shown == {"cycles": cycles[2:], "last_cycle": 3, "state": "stopped"}
    short = client.get(path, params={"plots": False, "cycles_after": 5}).json()
    assert (short["cycles"], short["last_cycle"]) == ([], 0)
    assert client.get(f"{path}/plots").json().keys() == client.get(path).json()["plots"].keys()


def test_limits_and_judgements_leave_micrographs_out_and_are_taken_back(opened):
    client, identity = opened
    path = f"{API}/sessions/{identity}"
    told = client.post(f"{path}/limits", json={"values": {"max_resolution_angstrom": 4.0}}).json()
    assert (told["micrographs_lost"], told["particles_lost"]) == (2, 40)
    assert client.get(path).json()["limits"]["particles_out"] == 40
    assert client.post(f"{path}/limits", json={"values": {"max_resolution_angstrom": 1.0}}).status_code == 422
    assert client.post(f"{path}/limits", json={"values": {"ice": 1.0}}).status_code == 422
    assert client.post(f"{path}/judge", json={"micrographs": {"mic001": True}}).json() == {"judged": {"mic001": True}}
    listed = client.get(f"{path}/micrographs").json()["micrographs"]
    assert [one["left_out"] for one in listed] == [False, False, True]
    assert client.post(f"{path}/judge", json={"micrographs": {"nothing": False}}).status_code == 422
    assert client.post(f"{path}/limits/undo", json={}).json()["micrographs_lost"] == 0


def test_settings_of_a_live2d_run_are_staged_under_our_names(opened):
    client, identity = opened
    run = {"mask_radius": "85", "class_number": 40, "high_res_final": "7.5", "autocenter": False, "box_size": 128}
    staged = client.post(f"{API}/sessions/{identity}/stage-live2d", json={"settings": run}).json()["staged"]
    assert staged == {
        "mask_radius_angstrom": 85,
        "classes": 40,
        "final_resolution_angstrom": 7.5,
        "autocentre": False,
    }  # the box is read from Warp
    for wrong in ({"box_size": 128}, {"class_number": "many"}, {"class_number": 0}):
        answer = client.post(f"{API}/sessions/{identity}/stage-live2d", json={"settings": wrong})
        assert answer.status_code == 422, answer.text


def test_big_answers_are_packed(opened):
    client, identity = opened
    packed = client.get(f"{API}/sessions/{identity}", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["id"] == identity
    assert "content-encoding" not in client.get(f"{API}/me", headers={"accept-encoding": "gzip"}).headers


def test_thresholds_say_what_would_be_lost(opened):
    client, identity = opened
    answer = client.post(f"{API}/sessions/{identity}/thresholds", json={"values": {"max_resolution_angstrom": 4.0}})
    assert answer.json()["micrographs"] == 3
    assert answer.json()["micrographs_lost"] == 2  # resolutions are 3.5, 4.5 and 5.5 Å
    listed = client.get(f"{API}/sessions/{identity}/micrographs", params={"max_resolution_angstrom": 4.0}).json()
    assert [one["passes"] for one in listed["micrographs"]] == [True, False, False]


def test_sessions_come_back_when_the_server_starts_again_and_missing_folders_are_said(tmp_path, filled):
    with a_server(tmp_path) as server:
        filled.copied(server.data / "grid1")
        filled.copied(server.data / "grid2")
        for name in ("grid1", "grid2"):
            server.client().post(f"{API}/sessions", json={"root": "data", "path": name})
    (server.data / "grid2").rename(tmp_path / "away")
    with a_server(tmp_path) as server, server.client() as client:
        wait_for(lambda: "stopped" in [one["state"] for one in client.get(f"{API}/sessions").json()["sessions"]])
        one, other = client.get(f"{API}/sessions").json()["sessions"]
        assert (one["name"], one["state"]) == ("grid1", "stopped")
        assert (other["name"], other["state"]) == ("grid2", "unavailable")
        assert client.get(f"{API}/sessions/{other['id']}").status_code == 503
        (tmp_path / "away").rename(server.data / "grid2")
        server.services.catalogue.resume()
        assert client.get(f"{API}/sessions/{other['id']}").json()["state"] == "stopped"


def test_a_session_that_is_closed_leaves_the_list_and_keeps_its_files(opened, server):
    client, identity = opened
    assert client.delete(f"{API}/sessions/{identity}").status_code == 200
    assert client.get(f"{API}/sessions").json() == {"sessions": []}
    assert (server.services.work / identity / "journal.jsonl").exists()


def test_nothing_is_ever_written_into_the_acquisition_folder(opened, grid):
    client, identity = opened
    before = sorted((path.relative_to(grid), path.stat().st_mtime_ns) for path in grid.rglob("*"))
    client.post(f"{API}/sessions/{identity}/stage", json={"values": {"classes": 7}})
    client.get(f"{API}/sessions/{identity}/micrographs")
    assert sorted((path.relative_to(grid), path.stat().st_mtime_ns) for path in grid.rglob("*")) == before


def test_names_that_are_scripts_come_out_as_data(server, filled):
    name = "<img src=x onerror=alert(1)>"
    filled.copied(server.data / name)
    client = server.client()
    shown = client.post(f"{API}/sessions", json={"root": "data", "path": name}).json()
    assert "<" not in shown["id"]
    answer = client.get(f"{API}/sessions")
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.text)["sessions"][0]["name"] == name
    assert name not in client.get("/docs").text
