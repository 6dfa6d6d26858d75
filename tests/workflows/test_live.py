"""A whole session: a simulated microscope fills a folder, ``halfmap live`` classifies it, a script selects classes."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from halfmap.data.volumes import Volume
from halfmap.errors import HalfmapError
from halfmap.grid import ImageGrid
from halfmap.io import relion
from halfmap.io.mrc import write_volume
from halfmap.web.client import LiveClient
from support.commands import command, environment, started

SIDE, PIXEL_ANGSTROM = 32, 5.0
PARTICLES, PER_MICROGRAPH, FIRST = 240, 20, 120
ROD = 2
SECONDS = 120
SETTINGS = {
    "classes": 4,
    "mask_radius_angstrom": 65.0,
    "startup_cycles": 3,
    "refinement_cycles": 2,
    "initial_resolution_angstrom": 40.0,
    "final_resolution_angstrom": 16.0,
    "particles_per_class": 60,
    "first_threshold": FIRST,
    "next_threshold": 20,
    "seed": 1,
}


def write_maps(folder: Path) -> list[Path]:
    """Write a ball and a rod of balls: no view along the micrograph's plane shows both alike."""
    grid = ImageGrid.cubic(SIDE, PIXEL_ANGSTROM)
    positions = grid.positions()
    places = {"ball": [0.0], "rod": [-45.0, -15.0, 15.0, 45.0]}
    found = []
    for name, along in places.items():
        width = 28.0 if name == "ball" else 10.0
        values = sum(
            torch.exp(-((positions - torch.tensor([x, 0.0, 0.0])) ** 2).sum(-1) / (2 * width**2)) for x in along
        )
        found.append(folder / f"{name}.mrc")
        write_volume(found[-1], Volume(values=values.float(), grid=grid))
    return found


def until(condition: Callable[[], Any], what: str, process: subprocess.Popen) -> Any:
    """Wait for something that a process brings about, and return it."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if process.poll():
            raise AssertionError(f"{what}: {process.communicate()}")
        try:
            found = condition()
        except HalfmapError:
            found = None
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen in {SECONDS} s")


class Live:
    """The installed ``halfmap live`` in a project."""

    def __init__(self, project: Path) -> None:
        self.project = project
        words = [
            "live",
            "--root",
            "Simulate",
            "--port",
            "0",
            "--devices",
            "cpu",
            "--workers",
            "1",
            "--poll-seconds",
            "0.3",
        ]
        words += ["--force"] if os.geteuid() == 0 else []
        self.log = (project / "live.txt").open("a+")
        where = self.log.tell()
        self.process = subprocess.Popen(
            [command(), *words], cwd=project, env=environment(), stdout=self.log, stderr=subprocess.STDOUT
        )
        address = until(lambda: self._address(where), "an address", self.process)
        self.client = LiveClient(address)
        until(lambda: self.client.get("roots"), "an answer", self.process)

    def _address(self, where: int) -> str | None:
        found = re.search(r"is at (http\S+)", (self.project / "live.txt").read_text()[where:])
        return found.group(1) if found else None

    def kill(self) -> None:
        """Kill the server as when the machine loses power; its children end by themselves."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


@contextmanager
def ended(process: subprocess.Popen) -> Iterator[None]:
    """End a process however the block ends."""
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def events_of(job: Path) -> list[dict[str, Any]]:
    path = job / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def moment_of(cycle: dict[str, Any]) -> float:
    """Return when a cycle was finished, in seconds since 1970."""
    return datetime.fromisoformat(cycle["finished"]).timestamp()


def truth_of(job: Path) -> dict[tuple[str, float, float], tuple[int, bool]]:
    """Return class, and whether it is dropped in the end, of each particle by micrograph and place."""
    truth = relion.read_particles(job / "ground_truth.star")
    names = (Path(name).stem for name in truth["micrograph_name"].tolist())
    dropped = truth["halfmapIsDropped"] == "1"
    rows = zip(names, truth["position_pixel"].tolist(), truth["class_number"].tolist(), dropped, strict=True)
    return {(name, *place): (number, bool(gone)) for name, place, number, gone in rows}


def keys_of(path: Path) -> tuple[list[tuple[str, float, float]], np.ndarray]:
    """Return particles by micrograph and place, and their classes."""
    table = relion.read_particles(path)
    names = (Path(name).stem for name in table["micrograph_name"].tolist())
    keys = [(name, *place) for name, place in zip(names, table["position_pixel"].tolist(), strict=True)]
    return keys, table["class_number"]


def all_classified(live: Live, session: str, n: int) -> dict[str, Any] | None:
    """Return a session that listens, its last cycle one of n particles; None before."""
    found = live.client.session(session)
    is_written_anew = "as when they were listed" in (
        found["why_idle"] or ""
    )  # tried again by itself, after five seconds
    assert found["state"] in ("running", "listening") or is_written_anew, found["why_idle"]
    is_done = found["cycles"] and found["cycles"][-1]["particles"] == n and found["state"] == "listening"
    return found if is_done else None


def test_from_the_first_particle_to_selected_classes_with_a_server_that_is_killed(tmp_path):
    (tmp_path / ".halfmap").mkdir()
    maps = [word for path in write_maps(tmp_path) for word in ("--map", str(path))]
    job = tmp_path / "Simulate" / "job001"
    with ExitStack() as closing:
        microscope = started(
            tmp_path, "simulate", "session", *maps, "--layout", "warp2", "--number", str(PARTICLES),
            "--particles-per-micrograph", str(PER_MICROGRAPH), "--box", str(SIDE),
            "--pixel-size", str(PIXEL_ANGSTROM), "--snr", "1", "--b-factor", "0", "--shift-sigma", "2",
            "--interval-seconds", "30", "--speed-up", "20", "--reprocessed-fraction", "0.3",
            "--half-written-fraction", "0.3", "--workers", "1", "--out", "Simulate/job001",
        )  # fmt: skip
        closing.enter_context(ended(microscope))
        until((job / "acquisition" / "previous.settings").exists, "the first file", microscope)
        live = Live(tmp_path)
        closing.enter_context(ended(live.process))
        opened = until(lambda: live.client.open("Simulate", "job001/acquisition"), "a session", live.process)
        session = opened["id"]
        live.client.start_automatic(session, **SETTINGS)
        until(lambda: live.client.session(session)["cycles"], "a first cycle", live.process)
        live.kill()

        live = Live(tmp_path)
        closing.enter_context(ended(live.process))
        until(lambda: live.client.sessions(), "the session again", live.process)
        assert microscope.wait(SECONDS) == 0, microscope.communicate()
        truth = truth_of(job)
        left = {key for key, (_, gone) in truth.items() if not gone}
        assert len(left) < PARTICLES
        found = until(lambda: all_classified(live, session, len(left)), "a cycle with all particles", live.process)
        newest = found["cycles"][-1]["number"]
        waited = moment_of(next(one for one in found["cycles"] if one["particles"] == len(left)))
        waited -= events_of(job)[-1]["time"]
        assert [one["number"] for one in found["cycles"]] == list(range(1, newest + 1))
        classes = live.client.cycle(session, newest)["classes"]
        assert sum(one["particles"] for one in classes) == len(left)
        assert live.client.atlas(session, newest).startswith(b"\x89PNG")

        work = next(path.parent for path in tmp_path.rglob("journal.jsonl"))
        keys, numbers = keys_of(work / "cycles" / f"{newest:04d}" / "data.star")
        assert len(keys) == len(left)
        assert set(keys) == left
        shown = np.array([truth[key][0] for key in keys])
        of_rods = [int(number) for number in np.unique(numbers) if (shown[numbers == number] == ROD).mean() > 0.5]
        live.client.select(session, newest, of_rods)
        selected = keys_of(work.parent / live.client.export(session, "relion")["path"])[0]
        rods = sum(truth[key][0] == ROD for key in selected)
        print(f"{waited:.1f} s from the last arrival to its first cycle; {rods} of {len(selected)} selected are rods")
        assert rods > 0.9 * len(selected)
        assert rods > 0.9 * (shown == ROD).sum()
