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


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from halfmap.compute.allocator import keep_large_blocks

    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert keep_large_blocks() is False
