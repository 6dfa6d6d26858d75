"""Large temporaries are not page-faulted again."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from halfmap.compute.allocator import keep_large_blocks
if sys.argv[1] == "kept":
    assert keep_large_blocks()
for turn in range(12):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(16_000_000, turn, dtype=np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_page_faults_of_large_temporaries_disappear() -> None:
    faults = {
        kind: int(subprocess.run([sys.executable, "-c", CODE, kind], check=True, capture_output=True).stdout)
        for kind in ("default", "kept")
    }
    assert faults["default"] > 1000  # 10 arrays of 64 MB: each is mapped and faulted again
    assert faults["kept"] < 100


GAPS = """
import numpy as np, psutil
from halfmap.compute.allocator import give_back, keep_large_blocks
keep_large_blocks()
blocks = [np.ones(1_000_000, dtype=np.float32) for _ in range(32)]
del blocks[::2]
held = psutil.Process().memory_info().rss
give_back()
print(held - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_gaps_between_blocks_are_given_back_when_asked() -> None:
    given = int(subprocess.run([sys.executable, "-c", GAPS], check=True, capture_output=True).stdout)
    assert given > 0.9 * 16 * 4_000_000  # 16 blocks of 4 MB lie between others


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from halfmap.compute.allocator import give_back, keep_large_blocks

    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("a C library was asked"))
    give_back()
    assert keep_large_blocks() is False
