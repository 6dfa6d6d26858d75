"""Refinement of small particles: how few signals the FSC filter needs, without and with a mask for the FSC.

    PYTHONPATH=tests python benchmarks/small_particles.py [--number 200] [--snrs 0.3 0.25 0.2] [--seeds 3]

A ball of 80 Å cut from the ribosome, 40 px of 3.5 Å, C1, from the truth low-passed at 40 Å. The references are filtered
by the FSC of the half maps in the box, or corrected for a soft sphere of the particle's diameter, by which they are
multiplied too (`--solvent-flattened-fsc --mask`). Excess: the largest difference, over bands of three shells beyond the
join, of the masked FSC of the half maps over that which their mean's FSC with the truth, C, asks for: C² / (2 − C²).
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from halfmap.data.volumes import Volume
from halfmap.fourier.resample import crop_or_pad
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.io.mrc import read_volume
from halfmap.refinement import agreement
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.state import RefinementState
from halfmap.simulation.references import Reference
from support.simulated_halves import SimulatedHalves, half_volumes, refined, simulated_halves

RIBOSOME = Path(__file__).parents[2] / "shared" / "data" / "maps" / "ribosome70s_4v5a_96.mrc"
BALL_AT, BALL_SIDE, BALL_DIAMETER_ANGSTROM, BALL_EDGE_ANGSTROM = (40, 48, 56), 40, 80.0, 14.0
JOIN_ANGSTROM = 40.0
BAND_SHELLS = 3


def small_particle() -> Volume:
    """Return a ball cut from the ribosome."""
    whole = read_volume(RIBOSOME)
    moved = whole.values.float().roll([48 - at for at in BALL_AT], (0, 1, 2))
    values, grid = crop_or_pad(moved, whole.grid, (BALL_SIDE,) * 3)
    ball = soft_sphere(grid, BALL_DIAMETER_ANGSTROM / 2 - BALL_EDGE_ANGSTROM / 2, BALL_EDGE_ANGSTROM)
    return Volume(values=values * ball, grid=grid)


def row(case: SimulatedHalves, state: RefinementState, truth: Volume, mask: Volume) -> str:
    """Return what a refinement has found of the truth, as columns of the table."""
    grid = truth.grid
    poses = (
        case.truth["rotation"], case.truth["origin_angstrom"],
        state.orientations.rotation, state.orientations.origin_angstrom, "C1",
    )  # fmt: skip
    frame = agreement.fitted_frame(*poses)
    angle = float(np.median(agreement.pose_errors(frame, *poses).angle_degrees))
    one, two = half_volumes(state, grid)
    seen = agreement.in_frame(truth, frame)
    found = agreement.map_agreement(one, two, seen, mask, join_resolution_angstrom=JOIN_ANGSTROM)
    with_truth = found.truth.clamp(min=0)
    excess = found.halves.corrected - with_truth.square() / (2 - with_truth.square())
    beyond = excess[int(grid.side * grid.pixel_size_angstrom / JOIN_ANGSTROM) + 2 : grid.side // 2]
    bands = beyond[: len(beyond) // BAND_SHELLS * BAND_SHELLS].reshape(-1, BAND_SHELLS).mean(1)
    return (
        f"{angle:.2f} | {found.halves.resolution_angstrom:.2f} Å | {found.resolution_angstrom:.2f} Å | "
        f"{float(found.truth[1 : grid.side // 2].mean()):.3f} | {float(bands.max()):+.3f} | {state.iteration}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--snrs", type=float, nargs="+", default=[0.3, 0.25, 0.2])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    truth = small_particle()
    grid = truth.grid
    mask = Volume(values=soft_sphere(grid, BALL_DIAMETER_ANGSTROM / 2, BALL_EDGE_ANGSTROM), grid=grid)
    plain = RefinementParams(
        mask_diameter_angstrom=100.0, initial_low_pass_angstrom=JOIN_ANGSTROM, join_resolution_angstrom=JOIN_ANGSTROM
    )
    print("| SNR | seed | FSC | angle ° | FSC 0.143 | truth 0.5 | truth, mean | excess | iterations | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for snr, seed in ((snr, seed) for snr in given.snrs for seed in range(1, given.seeds + 1)):
        reference = Reference.of(truth, BALL_DIAMETER_ANGSTROM, "ball")
        images = ImageGrid.square(grid.side, grid.pixel_size_angstrom)
        case = simulated_halves([reference], number=given.number, grid=images, snr=snr, seed=seed)
        for name, is_flattened in (("in the box", False), ("in the mask", True)):
            params = replace(plain, seed=seed, solvent_flattened_fsc=is_flattened)
            began = time.process_time()
            state = refined(case, truth, params, solvent_mask=mask.values if is_flattened else None)
            spent = time.process_time() - began
            print(f"| {snr:g} | {seed} | {name} | {row(case, state, truth, mask)} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
