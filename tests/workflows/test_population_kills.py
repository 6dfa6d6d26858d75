"""`halfmap population refine` killed at random moments: every version whole, and the same result in the end."""

import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from halfmap import keyed_random
from halfmap.jobs.population_files import changing, open_population
from support.commands import halfmap, refusal, started, wait_until
from support.simulated_series import make_population

KILLS, MOST_RUNS = 10, 40
REFINE = (
    *("population", "refine", "m", "--positions", "--image-warp", "1x1", "--sub-iterations", "1", "--steps", "1"),
    *("--workers", "1"),
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Make a population of two small tilt series that are off."""
    return make_population(
        tmp_path_factory.mktemp("killed"),
        "compact-c1-100",
        number=2,
        size_pixel=(96, 96),
        particles_per_series=(6,),
        min_tilt_degrees=-20.0,
        max_tilt_degrees=20.0,
        snr=0.5,
        image_warp_nodes=(1, 1),
        reference_resolution_angstrom=14.0,
    )


def copied(pristine: Path, folder: Path) -> Path:
    return Path(shutil.copytree(pristine, folder))


def contents(project: Path) -> dict[str, bytes]:
    """Return what a population is made of: metadata of items, maps and particles."""
    opened = open_population(project / "m")
    paths = [source.metadata_path(item) for source in opened.sources for item in source.source.items]
    paths += [one.file(kind) for one in opened.species for kind in ("half1.mrc", "half2.mrc", "particles.star")]
    return {path.name: path.read_bytes() for path in paths}


def check_whole(project: Path) -> None:
    """Check that, once what the kill left is mended, each member is of one version that is kept whole."""
    with changing(project / "m", lambda _: None) as opened:
        for member in opened.members:
            assert member.versions.has_version(member.versions.live_version)
            assert member.versions.changed_files() == []
    assert not list((project / "m").rglob("*.partial"))


def is_at_work(log: Path) -> bool:
    return log.is_file() and "items with" in log.read_text()


@pytest.mark.slow
def test_a_refinement_killed_at_random_moments_keeps_versions_whole_and_comes_to_the_same(pristine, tmp_path):
    undisturbed = copied(pristine, tmp_path / "undisturbed")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert halfmap(undisturbed, *REFINE).returncode == 0
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    wanted = contents(undisturbed)
    kills = finished = 0
    project = copied(pristine, tmp_path / "project")
    for run in range(MOST_RUNS):
        has_begun = (project / "job/job.json").is_file()
        process = started(project, *(("population", "refine", "--continue", "job") if has_begun else REFINE),
                          *(() if has_begun else ("--out", "job")))  # fmt: skip
        if run == 0:
            wait_until(lambda: is_at_work(project / "job/run.log"), process)
            process.send_signal(signal.SIGSTOP)  # at work on it as long as the other takes to say so
            assert "The folder of the population" in refusal(halfmap(project, *REFINE))
            process.send_signal(signal.SIGCONT)
        share = float(keyed_random.uniform(1, "moments", np.array([run]), size=())[0])
        while process.poll() is None:
            if psutil.Process(process.pid).cpu_times().user > (0.3 + 0.8 * share) * seconds:
                process.kill()
                kills += 1
                break
            time.sleep(0.01)
        process.communicate()
        check_whole(project)
        if process.returncode == 0:
            assert contents(project) == wanted
            finished += 1
            if kills >= KILLS:
                break
            shutil.rmtree(project)
            copied(pristine, project)
    assert kills >= KILLS
    assert finished


@pytest.mark.slow
def test_a_refinement_killed_before_it_is_marked_as_done_finishes_with_what_it_has(pristine, tmp_path):
    project = copied(pristine, tmp_path / "project")
    script = (
        "import os, signal\n"
        "from halfmap.cli.main import main\n"
        "from halfmap.jobs import population_refine\n"
        "population_refine._cleared_up = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"main({[*REFINE, '--out', 'job']!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=project, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    made = contents(project)
    assert halfmap(project, "population", "refine", "--continue", "job").returncode == 0
    assert (project / "job/SUCCESS").is_file()
    assert contents(project) == made
    assert (project / "job/run.log").read_text().count("items with") == 1
    check_whole(project)
