"""Jobs of the project: started from a form, watched, stopped; their reports shown without any right."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.web import job_listing, processes

API = "/api/v1/projects/project"


@pytest.fixture
def maps(server):
    """A map of a ball in the project; its path there."""
    values = np.indices((16, 16, 16)).astype(np.float32) - 8
    volume = (6 - np.sqrt((values**2).sum(0))).clip(-1).astype(np.float32)
    mrc.write_volume(
        server.project / "ball.mrc", Volume(values=torch.from_numpy(volume), grid=ImageGrid.cubic(16, 2.0))
    )
    return "ball.mrc"


def a_job(server, name="Extract/job003", *, report="<h1>x</h1>", **record):
    folder = server.project / name
    folder.mkdir(parents=True)
    entry = {
        "command": "extract",
        "parameters": {},
        "inputs": {},
        "versions": {},
        "main_output": None,
        "project": "../..",
    }
    (folder / "job.json").write_text(json.dumps({**entry, **record}))
    (folder / "run.log").write_text("one\ntwo\n")
    (folder / "report.html").write_text(report)
    (folder / "secret.star").write_text("data_\n")
    return folder


def test_jobs_are_listed_with_state_progress_and_files(server):
    folder = a_job(server)
    (folder / "SUCCESS").touch()
    client = server.client()
    (one,) = client.get(f"{API}/jobs").json()["jobs"]
    assert (one["id"], one["state"], one["command"]) == ("Extract/job003", "succeeded", "extract")
    shown = client.get(f"{API}/jobs/Extract/job003").json()
    assert "Extract/job003/report.html" in shown["files"]
    assert client.get(f"{API}/jobs/Extract/job003/log").json() == {"text": "one\ntwo\n", "next": 8}
    for wrong in ("Extract/job004", "..", "Extract/../../data", "Extract", "%2e%2e/job003"):
        assert client.get(f"{API}/jobs/{wrong}/log").status_code == 404


def test_a_job_names_the_jobs_that_it_was_made_from_and_those_made_from_it(server):
    a_job(server, "AutoPick/job002")
    inputs = {"picks": [{"path": "AutoPick/job002/autopick.star"}], "micrographs": [{"path": "/data/micrographs.star"}]}
    a_job(server, "Extract/job003", inputs=inputs)
    client = server.client()
    assert client.get(f"{API}/jobs/Extract/job003").json()["made_from"] == ["AutoPick/job002"]
    assert client.get(f"{API}/jobs/AutoPick/job002").json()["used_by"] == ["Extract/job003"]


def test_files_of_the_project_and_below_roots_are_listed_and_nothing_else(server, maps, tmp_path):
    (server.project / "Extract").mkdir()
    (server.data / "session").mkdir()
    (server.data / "session/gain.mrc").write_bytes(b"x" * 10)
    (server.data / "out").symlink_to(tmp_path, target_is_directory=True)
    (server.data / "circle").symlink_to(server.data / "circle")
    (server.data / os.fsdecode(b"caf\xe9")).mkdir()  # no UTF-8: no path of a form names it
    client = server.client()
    shown = client.get(f"{API}/files").json()
    assert shown["folders"] == ["Extract", "Live"]
    assert [one["name"] for one in shown["files"]] == [maps]
    assert client.get(f"{API}/files", params={"path": "Live"}).json()["files"] == []  # tokens' digests are there
    assert client.get("/api/v1/roots/data/files").json()["folders"] == ["session"]
    assert [one["name"] for one in client.get("/api/v1/roots/data/folders").json()["folders"]] == ["session"]
    below = client.get("/api/v1/roots/data/files", params={"path": "session"}).json()
    assert below["files"] == [{"name": "gain.mrc", "bytes": 10}]
    for path in ("..", "../data", "/etc", "ball.mrc", "nothing", "\0"):
        assert client.get(f"{API}/files", params={"path": path}).status_code == 404
    for path in ("..", "out", "/etc"):
        assert client.get("/api/v1/roots/data/files", params={"path": path}).status_code == 404
    assert client.get("/api/v1/roots/other/files").status_code == 404


def test_a_report_is_shown_in_a_sandbox_to_whoever_has_its_ticket_alone(server):
    a_job(server)
    a_job(server, "Extract/job004", report="other")
    answer = server.client().get(f"{API}/jobs/Extract/job003/report")
    assert answer.status_code == 303
    stranger = server.client("")
    address = str(answer.next_request.url)
    page = stranger.get(address)
    assert page.text == "<h1>x</h1>"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("sandbox ")
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    for wrong in (
        address.replace("job003", "job004"),
        address.replace("report.html", "secret.star"),
        address.replace("report.html", "../job004/report.html"),
        address.replace("/reports/", "/reports/0"),
    ):
        assert stranger.get(wrong).status_code == 404


def test_every_job_type_has_a_form_and_none_names_a_program(server):
    client = server.client()
    listed = client.get("/api/v1/job-types").json()["job_types"]
    assert {"extract", "class2d", "pick log"} <= {one["command"] for one in listed}
    assert "jobs list" not in {one["command"] for one in listed}
    for one in listed:
        schema = client.get(f"/api/v1/job-types/{one['command']}/schema").json()
        assert schema["type"] == "object"
        assert not set(job_listing.PROGRAMS) & set(schema["properties"])
    assert client.get("/api/v1/job-types/nothing/schema").status_code == 404


@pytest.mark.parametrize(
    ("values", "code", "said"),
    [
        ({"volume": "../data/x.mrc"}, 404, "no such file"),
        ({"volume": "/etc/passwd"}, 404, "relative"),
        ({"volume": "data:../project/ball.mrc"}, 404, "no such file"),
        ({"volume": "link.mrc"}, 404, "no such file"),
        ({"volume": "Live/access.json"}, 404, "no such file"),
        ({"volume": "ball.mrc", "box_pixel": 0}, 422, "--"),
        ({"volume": "ball.mrc", "box_pixel": 8, "nonsense": 1}, 422, "nonsense"),
        ({}, 422, "--volume"),
    ],
)
def test_a_job_is_refused_before_it_starts_where_a_value_is_wrong(
    server, maps, tmp_path, values, code, said, monkeypatch
):
    monkeypatch.setattr(processes.subprocess, "Popen", None)  # nothing is started
    (tmp_path / "outside.mrc").write_bytes((server.project / maps).read_bytes())
    (server.project / "link.mrc").symlink_to(tmp_path / "outside.mrc")
    answer = server.client().post(f"{API}/jobs", json={"command": "volume crop", "values": values})
    assert (answer.status_code, said in answer.json()["detail"]) == (code, True), answer.text


def test_pages_name_no_program_to_run(server, monkeypatch):
    monkeypatch.setattr(processes.subprocess, "Popen", None)
    values = {"executable": "/bin/sh"}
    answer = server.client().post(f"{API}/jobs", json={"command": "pick topaz", "values": values})
    assert answer.status_code == 422
    assert "must not name programs" in answer.json()["detail"]


def test_a_job_runs_in_a_process_of_its_own_and_leaves_its_folder(server, maps):
    client = server.client()
    asked = {"command": "volume crop", "values": {"volume": maps, "box_pixel": 8}, "devices": "cpu", "threads": 1}
    started = client.post(f"{API}/jobs", json=asked)
    assert started.status_code == 200, started.text
    job = started.json()["job"]
    end = time.monotonic() + 60
    while client.get(f"{API}/jobs/{job}").json()["state"] == "running":
        assert time.monotonic() < end
        time.sleep(0.1)
    shown = client.get(f"{API}/jobs/{job}").json()
    assert shown["state"] == "succeeded"
    assert mrc.read_header(server.project / shown["main_output"]).shape == (8, 8, 8)


def test_stopping_ends_a_process_that_does_not_listen(monkeypatch):
    monkeypatch.setattr(processes, "KILL_SECONDS", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdout.readline()
        processes.end_process(process.pid)
        assert process.wait(10) == -signal.SIGKILL


def test_only_a_job_that_runs_here_is_stopped(server):
    folder = a_job(server)
    client = server.client()
    assert client.post(f"{API}/jobs/Extract/job003/stop", json={}).status_code == 409
    (folder / ".lock").write_text(json.dumps({"host": "elsewhere", "pid": os.getpid(), "start_time": 1.0}))
    refused = client.post(f"{API}/jobs/Extract/job003/stop", json={})
    assert refused.status_code == 409
    assert "elsewhere" in refused.json()["detail"]


def test_a_map_is_shown_as_surface_and_slices(server, maps):
    client = server.client()
    facts = client.get(f"{API}/maps/{maps}/facts").json()
    assert facts["shape"] == [16, 16, 16]
    mesh = client.get(f"{API}/maps/{maps}/mesh", params={"level": 1.0}).json()
    radii = np.linalg.norm(np.reshape(mesh["vertices"], (-1, 3)), axis=1)
    assert np.abs(radii - 10).max() < 0.4  # Å: five voxels of 2 Å about the centre
    assert max(mesh["triangles"]) < len(radii)
    assert client.get(f"{API}/maps/{maps}/slices.png").content.startswith(b"\x89PNG")
    for wrong in ("../data/x.mrc", "nothing.mrc", "Live/access.json"):
        assert client.get(f"{API}/maps/{wrong}/mesh").status_code == 404
    assert client.get(f"{API}/maps/{maps}/mesh", params={"level": "nan"}).status_code == 422
    (server.project / "text.mrc").write_text("no map")
    assert client.get(f"{API}/maps/text.mrc/mesh").status_code == 422
