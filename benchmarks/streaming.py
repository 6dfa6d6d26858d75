"""Peak memory of picking and extraction over tens and hundreds of micrographs: it must not grow.

    python benchmarks/streaming.py [--side 1200] [--counts 20 200] [--folder /dev/shm]

One worker. Micrographs are links to a few files, the same as in ``against_relion.py``.
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from against_relion import ENVIRONMENT, HALFMAP, OPTICS, make_project


def peak_mebibytes(command: list[str], folder: Path) -> float:
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=1200)
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--folder", help="where to work")
    options = parser.parse_args()
    print("| micrographs | pick log, peak MiB | extract, peak MiB |")
    print("|---|---|---|")
    for n in options.counts:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            make_project(folder, options.side, n)
            rows = "".join(f"Micrographs/m{i:03d}.mrc 1 15000 15000 0\n" for i in range(n))
            (folder / "micrographs.star").write_text(OPTICS + rows)
            run = ["--workers", "1", "--threads", "1"]
            picking = peak_mebibytes(
                [HALFMAP, "pick", "log", "micrographs.star", "--min-diameter", "120", "--max-diameter", "140", *run],
                folder,
            )
            extraction = peak_mebibytes(
                [HALFMAP, "extract", "micrographs.star", "--picks", "Coordinates", "--box", "128", *run], folder
            )
            print(f"| {n} | {picking:.0f} | {extraction:.0f} |", flush=True)


if __name__ == "__main__":
    main()
