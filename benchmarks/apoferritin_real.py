"""Real apoferritin (EMPIAR-10146): refined from its model at a low-pass, or from nothing, and held against the model.

    python benchmarks/apoferritin_real.py [--begin 30 50 initial-model] [--seeds 1] [--folder FOLDER]
    python benchmarks/apoferritin_real.py --folder FOLDER --only RUN …    figures of runs that the folder holds

The 2,117 curated particles of 13 micrographs, 70 px of 3 Å; O, one worker of one thread. ``30`` and ``50`` begin with
the density of the model, low-passed to so many Å; ``initial-model`` with what that command makes of the particles.

Unmasked: where the FSC of the unfiltered half-maps falls below 0.143; in the mask: what the job says. Model: the mean
over 20 to 10 Å of the FSC of the half-maps' mean with the density of the model, no mask, as it is and mirrored, for
half-maps cannot tell the hand. CPU: user and system time of the whole command by the number of particles, with
post-processing, without local resolution and without the making of an initial model. Under the table, where the FSC of
two runs' maps falls below 0.5 in a sphere of 140 Å, the second mirrored where that agrees better.
"""

import argparse
import itertools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from class2d_recovery import HALFMAP, cpu_seconds
from refine3d_recovery import SHARED, inverted

from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.geometry.shapes import soft_sphere
from halfmap.io import star
from halfmap.io.mrc import read_volume
from halfmap.jobs.reference_inputs import read_reference
from halfmap.postprocessing.postprocess import mean_map

MODEL = SHARED / "models" / "apoferritin_24mer_centred.pdb"
N_PARTICLES, MASK_ANGSTROM, SPHERE_ANGSTROM = 2117, 160, 140.0
MODEL_BAND_ANGSTROM = (20.0, 10.0)
COMMON = ("--symmetry", "O", "--mask-diameter", str(MASK_ANGSTROM), "--workers", "1", "--threads", "1")


def extracted(folder: Path) -> str:
    """Extract the particles, unless the folder holds them."""
    (folder / ".halfmap").mkdir(exist_ok=True)
    if not (folder / "Extract" / "SUCCESS").exists():
        data = SHARED / "apoferritin"
        command = [HALFMAP, "extract", str(data / "micrographs_ctf.star"), "--picks", str(data / "coords")]
        command += ["--box", "140", "--rescale", "70", "--background-diameter", "160", "--out", "Extract"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return "Extract/particles.star"


def refined(folder: Path, begin: str, seed: int) -> tuple[Path, float]:
    """Refine from a beginning; return the folder of the run and its CPU seconds."""
    particles, out = extracted(folder), f"from_{begin}_{seed}"
    reference, low_pass = str(MODEL), begin
    if begin == "initial-model":
        reference, low_pass = f"model_{seed}", "20"
        shutil.rmtree(folder / reference, ignore_errors=True)
        command = [HALFMAP, "initial-model", particles, *COMMON, "--seed", str(seed), "--out", reference]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    shutil.rmtree(folder / out, ignore_errors=True)
    command = [HALFMAP, "refine3d", particles, *COMMON, "--reference", reference, "--initial-low-pass", low_pass]
    command += ["--seed", str(seed), "--no-local-resolution", "--out", out]
    return folder / out, cpu_seconds(command, folder)


def halves_of(run: Path) -> tuple[Volume, Volume]:
    first, second = (read_volume(run / f"run_half{half}_class001_unfil.mrc") for half in (1, 2))
    return first, second


def curve(first: Volume, second: Volume, mask: torch.Tensor | float = 1.0) -> torch.Tensor:
    grid = first.grid
    return shells.fsc(grid.rfft(first.values.double() * mask), grid.rfft(second.values.double() * mask), grid)


def row(run: Path, spent: float) -> str:
    first, second = halves_of(run)
    grid, joined = first.grid, mean_map(first, second)
    model = read_reference(MODEL, grid, 30.0)[0]
    low, high = (round(grid.side * grid.pixel_size_angstrom / angstrom) for angstrom in MODEL_BAND_ANGSTROM)
    as_is, mirrored = (float(curve(one, model)[low : high + 1].mean()) for one in (joined, inverted(joined)))
    unmasked = shells.resolution_at_threshold(curve(first, second), grid)
    in_mask = float(star.read(run / "postprocess.star")["general"].value("rlnFinalResolution"))
    iterations = max(int(re.findall(r"it(\d+)", path.name)[-1]) for path in run.glob("run_it*_data.star"))
    return (
        f"| {run.name} | {unmasked:.2f} | {in_mask:.2f} | {as_is:.2f} | {mirrored:.2f} | {iterations} | "
        f"{spent / N_PARTICLES:.3f} |"
    )


def agreement(one: Path, other: Path) -> str:
    first, second = (mean_map(*halves_of(run)) for run in (one, other))
    sphere = soft_sphere(first.grid, SPHERE_ANGSTROM / 2, 6.0)
    found = [
        shells.resolution_at_threshold(curve(first, way, sphere), first.grid, 0.5) for way in (second, inverted(second))
    ]
    return f"{one.name} and {other.name}: {min(found):.1f} Å" + (", mirrored" if found[1] < found[0] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--begin", nargs="+", choices=["30", "50", "initial-model"], default=["30"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--only", type=Path, nargs="+", help="print the figures of these folders of runs, and end")
    parser.add_argument("--folder", type=Path, help="where particles and runs are kept; a temporary one where left out")
    options = parser.parse_args()
    print("| run | unmasked Å | in the mask Å | model, 20 to 10 Å | mirrored | iterations | CPU s a particle |")
    print("|---|---|---|---|---|---|---|", flush=True)
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if options.only:
            runs = [(folder / run, float("nan")) for run in options.only]
            print("\n".join(row(*run) for run in runs))
        else:
            for begin, seed in itertools.product(options.begin, options.seeds):
                runs.append(refined(folder, begin, seed))
                print(row(*runs[-1]), flush=True)
        for one, other in itertools.combinations([run for run, _ in runs], 2):
            print(agreement(one, other))


if __name__ == "__main__":
    main()
