"""Cluster files and the Slurm jobs made of them."""

from functools import partial
from pathlib import Path

import pytest

from support import executor_tasks as tasks

pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")

from halfmap.compute.dask_cluster import DaskExecutor, read_cluster_file, slurm_cluster
from halfmap.errors import ComputeError, InputError


def written(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def test_a_scheduler_or_slurm_is_read(tmp_path: Path) -> None:
    told = read_cluster_file(written(tmp_path, "scheduler: tcp://node1:8786\nscratch: /shared/scratch\n"))
    assert (told.scheduler, told.slurm, told.scratch) == ("tcp://node1:8786", None, Path("/shared/scratch"))
    told = read_cluster_file(written(tmp_path, "slurm:\n  queue: gpu\n  memory: 32GB\nworkers: 8\n"))
    assert (told.slurm, told.workers) == ({"queue": "gpu", "memory": "32GB"}, 8)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8786",
        "scheduler: a\nslurm: {}\n",
        "worker: 3\n",
        "scheduler: a\nqueue: gpu\n",
        "slurm: 3\n",
        "slurm: {}\nworkers: 0\n",
    ],
)
def test_other_files_are_refused_with_the_reason(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cluster.yaml must"):
        read_cluster_file(written(tmp_path, text))


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be readable YAML"):
        read_cluster_file(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="must be readable YAML"):
        read_cluster_file(written(tmp_path, "slurm: [1\n"))


def test_a_slurm_job_runs_one_worker_of_one_task_with_its_threads() -> None:
    options = {
        "queue": "gpu",
        "cores": 8,
        "memory": "32GB",
        "walltime": "12:00:00",
        "job_extra_directives": ["--gres=gpu:1"],
        "job_script_prologue": ["module load cuda"],
    }
    with slurm_cluster(options, n_threads=4) as cluster:
        script = cluster.job_script()
    assert "#SBATCH -p gpu" in script
    assert "#SBATCH --gres=gpu:1" in script
    assert "#SBATCH --cpus-per-task=8" in script
    assert "export OMP_NUM_THREADS=4\n" in script
    assert script.index("OMP_NUM_THREADS") < script.index("module load cuda") < script.index("dask_worker")
    assert script.rstrip().endswith("--nthreads 1")
    assert "--nworkers" not in script


def test_a_scheduler_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    path = written(tmp_path, "scheduler: tcp://127.0.0.1:9\n")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "300ms"}),
        pytest.raises(ComputeError, match=r"The scheduler tcp://127.0.0.1:9 must take the work"),
    ):
        DaskExecutor.from_file(path)


def test_a_running_scheduler_is_used_and_left_running(tmp_path: Path) -> None:
    import distributed

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, memory_limit=0, dashboard_address=None, silence_logs=50
    ) as cluster:
        path = written(tmp_path, f"scheduler: {cluster.scheduler_address}\nscratch: {tmp_path / 'scratch'}\n")
        for _ in range(2):
            with DaskExecutor.from_file(path) as executor:
                assert list(executor.map(tasks.square, range(3))) == [0, 1, 4]
                assert executor.broadcast({"voltage_kv": 300.0}).path.parent.parent == tmp_path / "scratch"


def test_workers_that_join_late_are_used(tmp_path: Path) -> None:
    import distributed

    with distributed.LocalCluster(
        n_workers=0, threads_per_worker=1, memory_limit=0, dashboard_address=None, silence_logs=50
    ) as cluster:
        path = written(tmp_path, f"scheduler: {cluster.scheduler_address}\nscratch: {tmp_path / 'scratch'}\n")
        with DaskExecutor.from_file(path) as executor:
            results = executor.submit(tasks.process_id, 0)
            assert not results.done()
            cluster.scale(2)
            marks = executor.map(partial(tasks.meet, tmp_path, 2), range(2))
            assert list(marks) == [0, 1]
