"""What a live session costs: a server that waits, and a cycle of classification, linear in particles.

    python benchmarks/live.py [--particles 500 1000 2000] [--classes 50] [--idle-seconds 60]

Processor time of one process with one thread, which a busy machine hardly changes; 64 px of 3 Å. Cycles over 50,000
particles are extrapolated from the line through what was measured, where that is more than one number of particles.
"""

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

BOX, PIXEL_ANGSTROM, WANTED = 64, 3.0, 50_000
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
HALFMAP = str(Path(sys.executable).with_name("halfmap"))


def simulated(project: Path, particles: int) -> Path:
    """Return an acquisition folder of so many particles."""
    (project / ".halfmap").mkdir(exist_ok=True)
    job = project / "Simulate" / f"n{particles}"
    words = (
        f"simulate session --specimen compact-d2-120 --number {particles} --box {BOX} --pixel-size {PIXEL_ANGSTROM} "
        f"--snr 0.1 --speed-up 1e6 --reprocessed-fraction 0 --half-written-fraction 0 --workers 1 --out {job}"
    )
    subprocess.run([HALFMAP, *words.split()], cwd=project, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return job / "acquisition"


def cycle_seconds(folder: Path, work: Path, classes: int) -> tuple[int, float]:
    """Return the number of particles, and the processor time of a refinement cycle over all of them."""
    from halfmap.compute.allocator import keep_large_blocks
    from halfmap.compute.in_process import InProcessExecutor
    from halfmap.compute.progress import SilentProgress
    from halfmap.project.parameters_json import to_json
    from halfmap.sessions import plan, store
    from halfmap.sessions.cycle import run_cycle
    from halfmap.sessions.observation import Observation
    from halfmap.sessions.settings import LiveSettings
    from halfmap.sessions.watching import open_source

    keep_large_blocks()
    source, seen = open_source(folder, work), Observation()
    for _ in range(2):
        seen = source.poll(seen)
    settings = LiveSettings(classes=classes, startup_cycles=1, refinement_cycles=2, mask_radius_angstrom=72.0)
    work.mkdir()
    spent = 0.0
    with InProcessExecutor() as executor:
        for number, one in enumerate(plan.cycles_of(settings, seen.n_particles, kind="abinit"), start=1):
            store.prepare(
                work, number, observation=seen, folder=folder, settings=to_json(settings), plan=asdict(one),
                is_ab_initio=True,
            )  # fmt: skip
            begin = time.process_time()
            run_cycle(work, number, executor, SilentProgress(), lambda name: None)
            spent = time.process_time() - begin
    return seen.n_particles, spent


def answers(micrographs: int, cycles: int) -> dict[str, tuple[int, int, float]]:
    """Return bytes, packed bytes and processor milliseconds of what a page reads of a large session, by name."""
    from halfmap.sessions import views
    from halfmap.sessions.observation import Micrograph, Observation

    figures = np.random.default_rng(1).uniform(1, 9, (micrographs, 3))
    rows = [
        Micrograph(
            name=f"m{k}",
            time_s=1e9 + 40 * k,
            resolution_angstrom=a,
            defocus_angstrom=3e3 * b,
            motion_angstrom=c,
            picks=k % 300,
        )
        for k, (a, b, c) in enumerate(figures.tolist())
    ]
    seen = Observation(micrographs={one.name: one for one in rows})
    names = ("kind", "resolution_angstrom", "fraction", "particles", "finished")
    told = dict.fromkeys(("log_likelihood", "changed_percent", "mean_probability"), 12.345678901234567)
    done = [dict.fromkeys(names, 12.5) | {"number": k, "n_classes": 200, "convergence": told} for k in range(cycles)]

    def measured(make: Callable[[], Any]) -> tuple[int, int, float]:
        begin = time.process_time()
        text = json.dumps(make()).encode()
        packed = gzip.compress(text, 4)
        return len(text), len(packed), 1e3 * (time.process_time() - begin)

    return {
        "all cycles, once": measured(lambda: [views.cycle_in_short(one) for one in done]),
        "the newest cycle, at an event": measured(lambda: [views.cycle_in_short(one) for one in done[-1:]]),
        "curves, while they are looked at": measured(lambda: views.plots(seen, [], done)),
    }


def idle_percent(project: Path, seconds: float) -> float:
    """Return the share of one core that a server takes which watches a folder in which nothing happens."""
    import psutil

    from halfmap.web.client import LiveClient

    words = ["live", "--root", "Simulate", "--port", "0", "--devices", "cpu"]
    words += ["--force"] if os.geteuid() == 0 else []
    process = subprocess.Popen([HALFMAP, *words], cwd=project, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"is at (http\S+)", process.stdout.readline())
        assert found is not None
        client, folder = LiveClient(found.group(1)), next((project / "Simulate").glob("*/acquisition"))
        time.sleep(3)
        session = client.open("Simulate", str(folder.relative_to(project / "Simulate")))["id"]
        client.start_automatic(session)
        time.sleep(30)
        server = psutil.Process(process.pid)
        begin = sum(server.cpu_times()[:2])
        time.sleep(seconds)
        return 100 * (sum(server.cpu_times()[:2]) - begin) / seconds
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, nargs="+", default=[500, 1000, 2000])
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    options = parser.parse_args()
    print("| answer, 2,000 micrographs and 500 cycles | bytes | packed | ms of one core |\n|---|---|---|---|")
    for name, (whole, packed, spent) in answers(2000, 500).items():
        print(f"| {name} | {whole:,} | {packed:,} | {spent:.1f} |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        project = Path(name)
        measured = []
        print("| particles | one cycle, s of one core |\n|---|---|")
        for n in options.particles:
            measured.append(cycle_seconds(simulated(project, n), project / f"work{n}", options.classes))
            print(f"| {measured[-1][0]} | {measured[-1][1]:.1f} |", flush=True)
        if len(measured) > 1:
            slope, start = np.polyfit(*np.array(measured).T, 1)
            print(f"| {WANTED}, extrapolated | {start + slope * WANTED:.0f} |")
        print(f"a server that waits: {idle_percent(project, options.idle_seconds):.2f} % of one core")


if __name__ == "__main__":
    main()
