"""CPU seconds per micrograph of blob picking and extraction, ours and RELION's, in one run.

    python benchmarks/against_relion.py [--side 1200 4096] [--few 24] [--many 72] [--folder /dev/shm]

Needs Debian's RELION 3.1 (`apt-get install relion`). Start-up is taken out by running each program on few and on
many micrographs, some times in turn, and printing the slope between the least times. One process, one thread; user
and system time. Micrographs are simulated apoferritin-like particles with all dirt on, at 1.5 Å per pixel, 16-bit as
cameras write them; 150 particles each at 1240×1200, as on the real ones. The first 24 micrographs are left out of the
slope: of them the page of a picking job draws large pictures.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mrcfile
import numpy as np

from halfmap.io.relion import read_particles

DISTINCT = 4
HALFMAP = str(Path(sys.executable).with_name("halfmap"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographPixelSize #3
_rlnMicrographOriginalPixelSize #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
opticsGroup1 1 1.5 1.5 300 2.7 0.1


# version 30001

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
"""


def make_project(folder: Path, side: int, n: int) -> None:
    """Simulate a few micrographs, ask for them n times under different names, and write their true coordinates."""
    width, height = (1240, 1200) if side == 1200 else (side, side)
    crowd = ["--particles-per-micrograph", "150"] if side == 1200 else []  # as on the real apoferritin micrographs
    simulate = [HALFMAP, "simulate", "micrographs", "--number", str(DISTINCT), "--size", f"{width},{height}", *crowd]
    subprocess.run([*simulate, "--out", "Simulated"], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    truth = read_particles(folder / "Simulated/ground_truth.star")
    truth = truth.take(truth["halfmapIsJunk"] == "0")
    (folder / "Micrographs").mkdir()
    (folder / "Coordinates/Micrographs").mkdir(parents=True)
    for i, name in enumerate(sorted((folder / "Simulated/Micrographs").glob("*.mrc"))):
        image = mrcfile.read(name)
        with mrcfile.new(folder / f"Micrographs/m{i:03d}.mrc") as mrc:  # 16-bit, as cameras write them
            mrc.set_data(np.round(400 + 40 * (image - image.mean()) / image.std()).astype(np.int16))
            mrc.voxel_size = 1.5
        mine = np.array([str(one).endswith(name.name) for one in truth["micrograph_name"]])
        rows = "".join(f"{x:.0f} {y:.0f}\n" for x, y in truth["position_pixel"][mine])
        text = f"\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n{rows}"
        (folder / f"Coordinates/Micrographs/m{i:03d}_pick.star").write_text(text)
    for i in range(DISTINCT, n):
        (folder / f"Micrographs/m{i:03d}.mrc").symlink_to(f"m{i % DISTINCT:03d}.mrc")
        (folder / f"Coordinates/Micrographs/m{i:03d}_pick.star").symlink_to(f"m{i % DISTINCT:03d}_pick.star")


def write_table(folder: Path, n: int) -> str:
    name = f"micrographs_{n}.star"
    rows = "".join(f"Micrographs/m{i:03d}.mrc 1 15000 15000 0\n" for i in range(n))
    (folder / name).write_text(OPTICS + rows)
    return name


def cpu_seconds(command: list[str], folder: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands(table: str, out: str, box: int, rescale: int | None) -> dict[str, list[str]]:
    ours = ["--workers", "1", "--threads", "1"]
    scaled = [] if rescale is None else ["--scale", str(rescale)]
    return {
        "pick RELION": [
            *("relion_autopick", "--i", table, "--odir", f"{out}_pick_relion/", "--pickname", "autopick", "--LoG"),
            *("--LoG_diam_min", "120", "--LoG_diam_max", "140", "--shrink", "0", "--lowpass", "20"),
            *("--LoG_adjust_threshold", "0"),
        ],
        "pick halfmap": [
            *(HALFMAP, "pick", "log", table, "--min-diameter", "120", "--max-diameter", "140"),
            *("--out", f"{out}_pick_halfmap", *ours),
        ],
        "extract RELION": [
            *("relion_preprocess", "--i", table, "--coord_suffix", "_pick.star", "--coord_dir", "Coordinates/"),
            *("--part_dir", f"{out}_extract_relion/", "--part_star", f"{out}_extract_relion/particles.star"),
            *("--extract", "--extract_size", str(box), "--norm", "--invert_contrast", *scaled),
            *("--bg_radius", str(int(0.375 * (rescale or box)))),
        ],
        "extract halfmap": [
            *(HALFMAP, "extract", table, "--picks", "Coordinates", "--box", str(box), "--no-float16"),
            *(["--rescale", str(rescale)] if rescale else []),
            *("--out", f"{out}_extract_halfmap", *ours),
        ],
    }


def slopes(folder: Path, few: int, many: int, box: int, rescale: int | None, repeats: int) -> dict[str, float]:
    """Return each program's CPU seconds for a further micrograph, from its least time over some turns."""
    spent: dict[str, dict[int, float]] = {}
    for turn in range(repeats):
        for n in (few, many):
            table = write_table(folder, n)
            for what, command in commands(table, f"run{turn}_{n}_{box}_{rescale}", box, rescale).items():
                if rescale is None or not what.startswith("pick"):
                    least = spent.setdefault(what, {})
                    least[n] = min(least.get(n, float("inf")), cpu_seconds(command, folder))
            for made in folder.glob("run*"):
                shutil.rmtree(made)
    return {what: (least[many] - least[few]) / (many - few) for what, least in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, nargs="+", default=[1200, 4096])
    parser.add_argument("--few", type=int, default=24)
    parser.add_argument("--many", type=int, default=72)
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the least time counts")
    parser.add_argument("--folder", help="where to work; a folder in memory keeps the disk's moods out of it")
    options = parser.parse_args()
    if shutil.which("relion_autopick") is None:
        raise SystemExit("RELION is not installed: apt-get install relion")
    print("| micrograph | what | halfmap CPU s | RELION 3.1 CPU s | ours / theirs |")
    print("|---|---|---|---|---|")
    for side in options.side:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            make_project(folder, side, options.many)
            for box, rescale in ((128, None), (256, 64)):
                found = slopes(folder, options.few, options.many, box, rescale, options.repeats)
                label = "1240×1200" if side == 1200 else f"{side}²"
                if rescale is None:
                    print_row(label, "pick log", found["pick halfmap"], found["pick RELION"])
                what = f"extract, box {box}" + (f" to {rescale}" if rescale else "")
                print_row(label, what, found["extract halfmap"], found["extract RELION"])


def print_row(label: str, what: str, ours: float, theirs: float) -> None:
    print(f"| {label} | {what} | {ours:.4f} | {theirs:.4f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
