"""Numbers of threads, and what they are taken from."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import torch

from halfmap.compute.threads import limited_threads, set_threads, thread_environment, threads_of_each, usable_cores
from halfmap.errors import InputError


def test_threads_are_limited_within_the_block_and_put_back() -> None:
    numba.set_num_threads(numba.get_num_threads())
    before = torch.get_num_threads(), numba.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    with limited_threads(1):
        assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1)
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert (torch.get_num_threads(), numba.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == before


def test_kernels_compile_after_a_block_in_which_numba_was_loaded() -> None:
    code = """
from halfmap.compute.threads import limited_threads

def kernel():
    import numba

    @numba.njit(parallel=True)
    def squares(values):
        for i in numba.prange(len(values)):
            values[i] *= values[i]
        return values

    import numpy as np

    return squares(np.arange(3.0)).tolist()

for n_threads in (1, 2, 1):
    with limited_threads(n_threads):
        print(kernel())
print(kernel())
"""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_NUM_THREADS"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert answer.stdout.splitlines() == ["[0.0, 1.0, 4.0]"] * 4, answer.stderr


def test_no_thread_at_all_is_refused() -> None:
    for use in (set_threads, thread_environment):
        with pytest.raises(InputError, match="must be at least 1; got 0"):
            use(0)


def test_cores_are_those_of_the_process_within_its_quota(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == cores
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == cores
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert usable_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("20000 100000\n")
    assert usable_cores(tmp_path) == 1


def test_the_quota_of_older_kernels_is_read(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == 1


@pytest.mark.parametrize(("said", "expected"), [(None, 4), ("3", 3), ("16", 4), ("", 4), ("0", 1)])
def test_workers_share_the_cores_within_what_the_environment_allows(
    said: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halfmap.compute.threads.usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads_of_each(2) == expected
