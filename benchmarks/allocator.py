"""How much faster large temporaries are with `halfmap.compute.allocator.keep_large_blocks`.

Run ``python benchmarks/allocator.py``. Each operation is timed in two fresh processes of one thread, without and with
the settings, as the least of several repeats of process time; the ratio counts. Large blocks are also asked for by a
second thread, as Dask's tasks do.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable

REPEATS = 15


def measure(operation: Callable[[], object]) -> float:
    """Return the least CPU time of one call, in ms."""
    operation()
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        operation()
        times.append(time.process_time() - began)
    return 1e3 * min(times)


def operations() -> dict[str, Callable[[], object]]:
    import numpy as np
    import torch

    torch.set_num_threads(1)
    cases: dict[str, Callable[[], object]] = {}
    for mebibytes in (4, 64, 256):
        n = mebibytes * 2**20 // 8 // 256**2
        tensor = torch.ones(n, 256, 256, dtype=torch.complex64)
        array = tensor.numpy()
        cases[f"complex product, torch, {mebibytes} MiB"] = lambda a=tensor: a * a
        cases[f"complex product, numpy, {mebibytes} MiB"] = lambda a=array: np.multiply(a, a)
        cases[f"FFT of 256² images, torch, {mebibytes} MiB"] = lambda a=tensor: torch.fft.fft2(a)
    return cases


def child(with_settings: bool, in_thread: bool) -> None:
    """Print the times of all operations as JSON."""
    if with_settings:
        from halfmap.compute.allocator import keep_large_blocks

        if not keep_large_blocks():
            raise SystemExit("This C library has no such settings.")
    times: dict[str, float] = {}

    def run() -> None:
        times.update({name: measure(operation) for name, operation in operations().items()})

    if in_thread:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
    print(json.dumps(times))


def main() -> None:
    for in_thread in (False, True):
        default, kept = (
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, str(int(settings)), str(int(in_thread))], check=True, capture_output=True
                ).stdout
            )
            for settings in (False, True)
        )
        print("second thread" if in_thread else "main thread")
        for name, before in default.items():
            print(f"  {name:38s} {before:8.2f} ms → {kept[name]:8.2f} ms   {before / kept[name]:5.2f}×")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1] == "1", sys.argv[2] == "1")
    else:
        main()
