"""Network picking beside the real Topaz: the same micrographs, labels, matches and run.

    python benchmarks/against_topaz.py --executable topaz [--folder /tmp/topaz]

Real apoferritin, 130 Å, as in network_picking.py: both are trained on the curated positions of the first six of 13
micrographs, 160 particles expected in each, and tested on the other seven, through `halfmap pick train`, `pick network`
and `pick topaz`. Beside F1 at a figure of merit of 0 stands the best over all thresholds, chosen by the truth. CPU
seconds (user and system, one thread) of a micrograph are the slope between one and seven micrographs. Through
`pick topaz` the program starts anew for each; it is timed without, too, given all reduced micrographs at once.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from picking_accuracy import EDGE_PIXEL, PIXEL_SIZE, REAL, TRUE_DIAMETER

from halfmap.io import mrc
from halfmap.io.images import read_micrograph
from halfmap.io.relion_picks import read_coordinates
from halfmap.jobs.topaz_program import downscale_for, prepared, standardised
from halfmap.jobs.topaz_training import best_model
from halfmap.picking.agreement import matched

N_TAUGHT, EXPECTED = 6, 160
HALFMAP = str(Path(sys.executable).with_name("halfmap"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
ALONE = ("--workers", "1", "--threads", "1")
TABLE = """
data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
opticsGroup1 1 1.5 300 2.7 0.07

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
"""


def run(arguments: Sequence[str | Path | float]) -> float:
    """Run a program to its end and return its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(one) for one in arguments], check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(path: Path, names: Sequence[str]) -> Path:
    path.write_text(TABLE + "".join(f"{REAL / 'micrographs' / name}.mrc 1\n" for name in names))
    return path


def judge(folder: Path, names: Sequence[str]) -> tuple[float, float, float]:
    """Return F1 at a figure of merit of 0, the best F1, and the threshold of the best."""
    merits, hits, n_true = [], [], 0
    for name in names:
        (path,) = folder.rglob(f"{name}_autopick.star")
        picks = read_coordinates(path, name)
        true = read_coordinates(REAL / "coords" / f"{name}.star", name).position_pixel
        limit = np.array(read_micrograph(REAL / "micrographs" / f"{name}.mrc").shape[::-1]) - 1 - EDGE_PIXEL
        true = true[((true >= EDGE_PIXEL) & (true <= limit)).all(axis=1)]
        kept = ((picks.position_pixel >= EDGE_PIXEL) & (picks.position_pixel <= limit)).all(axis=1)
        merit, position = picks.figure_of_merit[kept], picks.position_pixel[kept]
        order = np.argsort(-merit, kind="stable")
        found, _ = matched(position[order], true, distance=TRUE_DIAMETER / 4 / PIXEL_SIZE)
        hit = np.zeros(len(order), dtype=bool)
        hit[found] = True
        merits.append(merit[order])
        hits.append(hit)
        n_true += len(true)
    merit, hit = np.concatenate(merits), np.concatenate(hits)
    order = np.argsort(-merit, kind="stable")
    f1 = 2 * np.cumsum(hit[order]) / (np.arange(len(order)) + 1 + n_true)
    at_zero = f1[int((merit >= 0).sum()) - 1] if (merit >= 0).any() else 0.0
    return float(at_zero), float(f1.max()), float(merit[order][f1.argmax()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executable", default="topaz")
    parser.add_argument("--folder", type=Path, help="where the jobs go. Default: a temporary one")
    parser.add_argument("--topaz-training", default="", help="arguments of topaz train, such as '--epoch-size 200'")
    given = parser.parse_args()
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="against-topaz-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    names = sorted(path.stem for path in (REAL / "coords").glob("*.star"))
    tested = names[N_TAUGHT:]
    taught = table(folder / "taught.star", names[:N_TAUGHT])
    lists = [table(folder / "one.star", tested[:1]), table(folder / "tested.star", tested)]
    common = ("--diameter", TRUE_DIAMETER)
    labels = ("--picks", REAL / "coords", "--expected-per-micrograph", EXPECTED)
    topaz = (HALFMAP, "pick", "topaz")
    real = ("--executable", given.executable)
    seconds = {
        "ours": run([HALFMAP, "pick", "train", taught, *labels, *common, *ALONE, "--out", "Taught"]),
        "Topaz": run(
            [*topaz, taught, "--train", *labels, *common, *real, *ALONE, "--out", "TopazTaught"]
            + (["--extra-arguments", given.topaz_training] if given.topaz_training else [])
        ),
    }
    print("training, CPU seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    _, model = best_model(folder / "TopazTaught", given.executable, "")
    detectors = {
        "ours, general": (HALFMAP, "pick", "network", *ALONE, "--threshold", -6),
        "ours, taught": (HALFMAP, "pick", "network", *ALONE, "--threshold", -6, "--model", "Taught/model.safetensors"),
        "Topaz, pretrained": (*topaz, "--pick", *real, *ALONE),
        "Topaz, taught": (*topaz, "--pick", *real, *ALONE, "--model", model),
    }
    print(f"{'detector':20s} F1 at 0  best F1 (threshold)  CPU seconds a micrograph")
    for number, (title, command) in enumerate(detectors.items()):
        few, many = (
            run([*command[:3], micrographs, *command[3:], *common, "--out", f"Picks{number}_{micrographs.stem}"])
            for micrographs in lists
        )
        at_zero, best, threshold = judge(folder / f"Picks{number}_tested", tested)
        spent = (many - few) / (len(tested) - 1)
        print(f"{title:20s}   {at_zero:.3f}    {best:.3f} ({threshold:5.1f})          {spent:.2f}", flush=True)
    downscale = downscale_for(TRUE_DIAMETER, PIXEL_SIZE)
    reduced = []
    for name in tested:
        image = read_micrograph(REAL / "micrographs" / f"{name}.mrc")
        work = prepared(image, pixel_size_angstrom=PIXEL_SIZE, downscale=downscale)
        reduced.append(folder / f"{name}_reduced.mrc")
        mrc.write_image(reduced[-1], standardised(work), work.grid)
    radius = round(TRUE_DIAMETER / (2 * PIXEL_SIZE * downscale))
    settings = ("-r", radius, "-t", -6, "-d", -1, "--num-threads", 1)
    for title, network in (("pretrained", ()), ("taught", ("-m", model))):
        few, many = (
            run([given.executable, "extract", *network, *settings, "-o", folder / "direct.txt", *some])
            for some in (reduced[:1], reduced)
        )
        print(f"topaz extract itself, {title}: {(many - few) / (len(tested) - 1):.2f} CPU seconds a micrograph")


if __name__ == "__main__":
    main()
