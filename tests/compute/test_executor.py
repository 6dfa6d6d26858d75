"""Which executor the run options open."""

import subprocess
import sys
from pathlib import Path

import pytest

from halfmap.compute import threads
from halfmap.compute.executor import open_executor
from halfmap.compute.in_process import InProcessExecutor
from halfmap.compute.processes import ProcessExecutor
from halfmap.errors import InputError


def test_one_worker_works_in_this_process() -> None:
    assert isinstance(open_executor(devices="cpu", workers=1), InProcessExecutor)


def test_several_workers_are_processes() -> None:
    executor = open_executor(devices="cpu", workers=3)
    assert isinstance(executor, ProcessExecutor)
    assert executor.n_workers == 3


@pytest.mark.parametrize(
    ("n_threads", "memory_gib", "expected"), [(None, 100, 16), (4, 100, 4), (None, 5, 5), (16, 100, 1), (32, 1, 1)]
)
def test_cores_and_memory_bound_the_number_of_workers(
    n_threads: int | None, memory_gib: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 16)
    executor = open_executor(devices="cpu", threads=n_threads, memory_bytes=memory_gib << 30)
    assert executor.n_workers == expected


@pytest.mark.parametrize("options", [{"workers": 0}, {"threads": 0}])
def test_none_at_all_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be at least 1; got 0"):
        open_executor(devices="cpu", **options)  # type: ignore[arg-type]


def test_a_cluster_file_is_read(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    with pytest.raises(InputError, match=r"absent.yaml must be readable YAML"):
        open_executor(cluster=tmp_path / "absent.yaml")


def test_opening_an_executor_loads_no_heavy_library() -> None:
    code = (
        "import sys; from halfmap.compute.executor import open_executor; "
        "[open_executor(devices='cpu', workers=n) for n in (1, 2)]; "
        "print([name for name in ('torch', 'numba', 'dask', 'distributed', 'scipy', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
