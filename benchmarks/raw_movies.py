"""Time and memory of reading an EER movie of 1000 raw frames, rendered at 4k and 8k.

    python benchmarks/raw_movies.py [--folder FOLDER]

Raw frames of 4096 × 4096 with 150,000 electrons each, 25 to a fraction. Seconds are for one fraction, with gain and hot
pixels; memory is what reading adds to the process at most, beside what one float32 frame takes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import movies

SHAPE, N_FRAMES, PER_FRACTION, N_READ = (4096, 4096), 1000, 25, 4


def write(folder: Path) -> None:
    stream = movies._stream(movies.random_electrons(SHAPE, 150_000), SHAPE, 7)
    movies._stream = lambda *_: stream
    movies.write_eer(folder / "movie.eer", [None] * N_FRAMES, SHAPE)
    gain = np.random.default_rng(0).uniform(0.9, 1.1, SHAPE).astype(np.float32)
    gain[100:103] = 0
    tifffile.imwrite(folder / "movie.gain", gain)


def peak() -> float:
    """Most memory of this process so far, MiB: ru_maxrss would be that of the process it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def read(folder: Path, upsampling: int) -> None:
    from halfmap.io.detector import Detector
    from halfmap.io.eer import EerGrouping
    from halfmap.io.frames import open_movie

    before, start = peak(), time.perf_counter()
    detector = Detector(gain_path=folder / "movie.gain")
    grouping = EerGrouping(frames_per_fraction=PER_FRACTION, upsampling=upsampling)
    movie = open_movie(folder / "movie.eer", pixel_size_angstrom=0.7, detector=detector, eer=grouping)
    opened = time.perf_counter() - start
    start = time.perf_counter()
    for fraction in range(N_READ):
        movie.read([fraction])
    seconds = (time.perf_counter() - start) / N_READ
    frame = 4 * movie.grid.n_pixels / 2**20
    print(f"| {movie.grid.side} | {opened:.2f} | {seconds:.2f} | {frame:.0f} | {peak() - before:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--read", type=int)
    given = parser.parse_args()
    if given.read:
        read(given.folder, given.read)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        write(Path(folder))
        print(
            "| side | opening, s | one fraction, s | one frame, MiB | added at most, MiB |\n|---|---|---|---|---|",
            flush=True,
        )
        for upsampling in ("1", "2"):
            subprocess.run([sys.executable, __file__, "--folder", folder, "--read", upsampling], check=True)


if __name__ == "__main__":
    main()
