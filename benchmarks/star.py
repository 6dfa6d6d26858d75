"""Values per second of reading and writing STAR files, beside the `starfile` package.

Run ``python benchmarks/star.py``. A particle table of 24 numeric columns and one image name is written
and read by both, alternating, one thread; the smallest process time of each counts. halfmap keeps every
value's text and checks every row; `starfile` turns text into numbers and pads short rows.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import starfile

from halfmap.io import star

N_NUMERIC = 24


def particle_table(n_rows: int) -> star.StarTable:
    random = np.random.default_rng(1)
    columns = {
        f"rlnNumber{column}": [f"{value:.6f}" for value in random.normal(0, 100, n_rows)] for column in range(N_NUMERIC)
    }
    columns["rlnImageName"] = [f"{row + 1:06d}@Extract/job007/Movies/mic_{row % 97}.mrcs" for row in range(n_rows)]
    return star.StarTable(name="particles", columns=columns)


def process_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    n_values = arguments.rows * (N_NUMERIC + 1)
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder) / "particles.star", Path(folder) / "copy.star"
        star.write(path, [particle_table(arguments.rows)])
        ours, theirs = star.read(path), starfile.read(path)
        work: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "read": (lambda: star.read(path), lambda: starfile.read(path)),
            "write": (lambda: star.write(copy, ours), lambda: starfile.write(theirs, copy, overwrite=True)),
        }
        for name, pair in work.items():
            least = [float("inf"), float("inf")]
            for _ in range(arguments.repeats):
                least = [min(best, process_seconds(task)) for best, task in zip(least, pair, strict=True)]
            rates = [n_values / seconds / 1e6 for seconds in least]
            ratio = rates[0] / rates[1]
            print(f"{name:5s}  million values/s: halfmap {rates[0]:.2f}, starfile {rates[1]:.2f}, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
