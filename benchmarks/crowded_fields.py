"""Errors against error bars of what is fitted to crowded tilt series, where windows of particles hold their neighbours.

    python benchmarks/crowded_fields.py [--seeds 5]

14 particles of 80 Å in 9 tilts of fields of 540, 800 and 1120 Å, SNR 0.5, from files of `halfmap simulate`, compared up
to 5.6 Å. Fitted is the magnification, 2 % off, by itself; rms over its four entries and all seeds.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import torch

import halfmap
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.refine import refine_series
from halfmap.multiparticle.schedule import Schedule
from support.simulated_series import SimulatedFiles

SPECIMEN, RESOLUTION_ANGSTROM = "compact-c1-80", 5.6
SIDES_PIXEL = (216, 320, 448)
COMMON = {
    "specimen": (SPECIMEN,),
    "particles_per_series": (14,),
    "pixel_size_angstrom": 2.5,
    "reference_resolution_angstrom": 2.5,
    "margin_angstrom": 45.0,
    "tilt_step_degrees": 15.0,
    "snr": 0.5,
    "position_error_angstrom": 0.0,
    "angle_error_degrees": 0.0,
    "defocus_error_angstrom": 0.0,
    "image_warp_angstrom": 0.0,
    "magnification_error_percent": 2.0,
    "workers": 1,
}


def measured(side: int, seed: int, folder: Path) -> tuple[float, float]:
    """Return the mean square of errors, %², and of errors over error bars, of one series."""
    os.chdir(folder)
    out = folder / f"{side}_{seed}"
    halfmap.simulate_tilt_series(**COMMON, size_pixel=(side, side), seed=seed, out=out)
    files = SimulatedFiles(out)
    item = files.items[0]
    result = refine_series(
        files.problem(item, {SPECIMEN: RESOLUTION_ANGSTROM}),
        ParameterChoice(magnification=True),
        schedule=Schedule(ctf_resolution_angstrom=20.0),
    )
    true = files.series(item, true=True).optics.magnification
    error = (result.series.optics.magnification - true).ravel()
    return float(np.square(100 * error).mean()), float(np.square(error / result.deviation).mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| field Å | error % | over error bar |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES_PIXEL:
            found = [measured(side, seed, Path(folder)) for seed in range(1, options.seeds + 1)]
            error, ratio = np.sqrt(np.mean(found, axis=0))
            print(f"| {side * COMMON['pixel_size_angstrom']:.0f} | {error:.3f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
