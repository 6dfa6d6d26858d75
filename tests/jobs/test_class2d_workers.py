"""2D classification on several workers: the same averages, even where workers are lost."""

import os
import threading
import time

import numpy as np
import psutil
import pytest

import halfmap
from halfmap.inference import expectation
from halfmap.io.relion_classes import read_class_run
from halfmap.jobs import class2d_run
from halfmap.project.job import JobContext
from support.class_runs import some_classifiable_particles

pytestmark = pytest.mark.slow  # starts processes


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose particles make many chunks, and jobs that draw no pages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(expectation, "_MOST_IN_CHUNK", 10)
    monkeypatch.setattr(JobContext, "report", lambda *_: None)
    some_classifiable_particles(tmp_path, n=120, side=40)
    return tmp_path


def classified(**options):
    return halfmap.class2d(
        particles="particles.star", classes=3, mask_diameter_angstrom=100, iterations=3, threads=1, **options
    ).folder


def assert_same(project, folder, expected):
    for name in ("run_it003_classes.mrcs", "run_unmasked_classes.mrcs"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()
    here, there = (read_class_run(one, project=project).particles for one in (folder, expected))
    np.testing.assert_array_equal(here["class_number"], there["class_number"])
    np.testing.assert_array_equal(here["log_likelihood"], there["log_likelihood"])


def when_running(monkeypatch, act):
    """Call a function from a thread of its own while the second iteration runs."""
    advance = class2d_run._Course.advance
    threads = []

    def advanced(course, state):
        if state.iteration == 1 and not threads:
            threads.append(threading.Thread(target=act))
            threads[0].start()
        return advance(course, state)

    monkeypatch.setattr(class2d_run._Course, "advance", advanced)
    return threads


def kill_a_busy(workers):
    """Kill the first of some processes that is seen to work."""
    busy = {worker: sum(worker.cpu_times()[:2]) for worker in workers}
    while True:
        for worker, before in busy.items():
            if sum(worker.cpu_times()[:2]) > before:
                worker.kill()
                return
        time.sleep(0.001)


def test_two_workers_give_the_averages_of_one(project):
    assert_same(project, classified(workers=2), classified(workers=1))


def test_a_worker_killed_in_the_middle_changes_nothing(project, monkeypatch):
    expected = classified(workers=1)
    killed = []

    def kill():
        workers = psutil.Process().children(recursive=True)
        kill_a_busy(workers)
        killed.append(len(workers))

    threads = when_running(monkeypatch, kill)
    folder = classified(workers=2)
    threads[0].join()
    assert killed == [2]
    assert_same(project, folder, expected)


def test_a_cluster_with_a_worker_killed_in_the_middle_gives_the_same_averages(project, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    expected = classified(workers=1)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=None, silence_logs=50
    ) as cluster:
        (project / "cluster.yaml").write_text(
            f"scheduler: {cluster.scheduler_address}\nscratch: {project / 'scratch'}\n"
        )
        assert_same(project, classified(cluster=project / "cluster.yaml"), expected)
        with distributed.Client(cluster) as client:
            workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        threads = when_running(monkeypatch, lambda: kill_a_busy(workers))
        folder = classified(cluster=project / "cluster.yaml")
        threads[0].join()
        assert_same(project, folder, expected)
