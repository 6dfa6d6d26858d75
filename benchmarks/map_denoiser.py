"""The map denoiser: what it does to half maps, and what it would do as the regulariser of a refinement's references.

    python benchmarks/map_denoiser.py maps                          simulated half maps, with CPU seconds and memory
    PYTHONPATH=tests python benchmarks/map_denoiser.py refinements  small particles, refined under both regularisers
    PYTHONPATH=tests python benchmarks/map_denoiser.py independence noise, two truths and a poisoned reference under it

Maps: β-galactosidase and a ribosome with white noise, such that their unmasked FSC is 0.143 at the resolution named.
Truth: FSC of the mean of the halves with the truth, mean over the shells to a fifth beyond that resolution, without a
mask and in one made from the truth. Leak: mean FSC of a denoised half with the noise of the other, in deviations of
that with noise that it cannot know.

Refinements: a ball of 80 Å cut from the ribosome. The denoiser is put between reconstruction and projection: after each
iteration but the first the unregularised half maps are denoised, and cut off with an edge of 3 shells where their FSC
falls below 1/7 (spectral trailing: Kimanius et al. 2024, "Data-driven regularization lowers the size barrier of cryo-EM
structure determination"); where that is below shell 6 there are no bands to denoise, and the regularised maps stay.
Denoised: in how many iterations it was done. Excess: the largest difference, over bands of three shells beyond the
join, of the masked FSC of the half maps over that which their mean's FSC with the truth, C, asks for: C² / (2 − C²).
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.data.volumes import Volume
from halfmap.denoising.denoise import BEYOND, denoise, memory_bytes
from halfmap.fourier import filters, shells
from halfmap.fourier.resample import crop_or_pad
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.io.mrc import read_volume
from halfmap.postprocessing.masks import automatic_mask
from halfmap.refinement import agreement, refine3d
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.state import RefinementState
from halfmap.simulation.references import Reference

SHARED = Path(__file__).parents[2] / "shared" / "data" / "maps"
MAPS = (
    ("betagal_sharpened_72.mrc", 9.0),
    ("betagal_sharpened_72.mrc", 14.0),
    ("ribosome70s_4v5a_96.mrc", 8.5),
    ("ribosome70s_4v5a_96.mrc", 12.0),
)
BALL_AT, BALL_SIDE, BALL_DIAMETER_ANGSTROM = (40, 48, 56), 40, 80.0
JOIN_ANGSTROM = 40.0
FIRST_DENOISED, LEAST_SHELL, TRAILING_FSC, TRAILING_EDGE = 2, 6, 1 / 7, 3.0


def white(grid: ImageGrid, number: int) -> Tensor:
    return torch.from_numpy(keyed_random.normal(1, "noise of half maps", number, size=grid.shape)).float()


def fsc(first: Tensor, second: Tensor, grid: ImageGrid) -> Tensor:
    return shells.fsc(grid.rfft(first.double()), grid.rfft(second.double()), grid)


def maps() -> None:
    print(
        "| map | FSC 0.143 at | truth: mean of halves | denoised | in the mask: mean | denoised | leak | CPU s | MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, angstrom in MAPS:
        truth = read_volume(SHARED / name)
        grid, values = truth.grid, truth.values.float()
        field = grid.side * grid.pixel_size_angstrom
        near = slice(round(field / angstrom) - 1, round(field / angstrom) + 2)
        power = [shells.power_spectrum(grid.rfft(one.double()), grid)[near].mean() for one in (values, white(grid, 0))]
        deviation = float(power[0] / power[1] * (1 - 0.143) / 0.143) ** 0.5
        noises = [deviation * white(grid, number) for number in (1, 2)]
        one, two = (Volume(values=values + noise, grid=grid) for noise in noises)
        to = max(angstrom / BEYOND, 2 * grid.pixel_size_angstrom)
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        found = denoise(one, two, to)
        spent, grown = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        mask = automatic_mask(
            Volume(values=filters.apply_filter(values, grid, filters.low_pass(grid, 12.0)), grid=grid)
        )
        seen = slice(1, round(field / to) + 1)
        row = []
        for weight in (torch.ones(()), mask.values):
            for shown in ((one.values + two.values) / 2, found.mean.values):
                row.append(f"{float(fsc(shown * weight, values * weight, grid)[seen].mean()):.3f}")
        with_noise = [float(fsc(found.half1.values, white(grid, n), grid)[seen].mean()) for n in range(10, 30)]
        leak = float(fsc(found.half1.values, noises[1], grid)[seen].mean()) / float(np.std(with_noise))
        stated = memory_bytes(grid, to) / 1e6
        print(
            f"| {name}, {grid.side} px | {angstrom:g} Å | {' | '.join(row)} | {leak:+.1f} | {spent:.0f} | "
            f"{grown / 1e3:.0f} of {stated:.0f} stated |",
            flush=True,
        )


def denoised_references(problem: RefinementProblem, state: RefinementState) -> RefinementState:
    """Replace the references of a state by denoised half maps, cut off where their FSC ends."""
    below = torch.nonzero(state.used_fsc[1:] < TRAILING_FSC).flatten()
    shell = int(below[0]) if len(below) else len(state.used_fsc) - 1
    grid = problem.volume_grid
    if state.iteration < FIRST_DENOISED or shell < LEAST_SHELL:
        return state
    to = grid.side * grid.pixel_size_angstrom / shell
    one, two = (Volume(values=half.unregularised, grid=grid) for half in state.halves)
    found = denoise(one, two, to)
    cut = filters.low_pass(grid, to, TRAILING_EDGE)
    first, second = (
        replace(half, reference=filters.apply_filter(denoised.values, grid, cut) * problem.solvent_mask)
        for half, denoised in zip(state.halves, (found.half1, found.half2), strict=True)
    )
    return replace(state, halves=(first, second))


@contextmanager
def denoising() -> Iterator[list[bool]]:
    """Put the denoiser between reconstruction and projection; gives whether it was used, for each iteration."""
    plain = refine3d.advance
    used: list[bool] = []

    def advance(problem, params, state, executor, progress=None):  # type: ignore[no-untyped-def]
        advanced = plain(problem, params, state, executor, progress)
        denoised = denoised_references(problem, advanced)
        used.append(denoised is not advanced)
        return denoised

    with mock.patch.object(refine3d, "advance", advance):
        yield used


@contextmanager
def as_it_is() -> Iterator[list[bool]]:
    yield []


def small_particle() -> Volume:
    """Return a ball cut from the ribosome."""
    whole = read_volume(SHARED / "ribosome70s_4v5a_96.mrc")
    moved = whole.values.float().roll([48 - at for at in BALL_AT], (0, 1, 2))
    values, grid = crop_or_pad(moved, whole.grid, (BALL_SIDE,) * 3)
    return Volume(values=values * soft_sphere(grid, BALL_DIAMETER_ANGSTROM / 2 - 7, 14.0), grid=grid)


def refinements(numbers: list[int], snrs: list[float], seeds: list[int]) -> None:
    from support.simulated_halves import half_volumes, refined, simulated_halves

    truth = small_particle()
    grid = truth.grid
    field = grid.side * grid.pixel_size_angstrom
    mask = Volume(values=soft_sphere(grid, BALL_DIAMETER_ANGSTROM / 2, 14.0), grid=grid)
    params = RefinementParams(
        mask_diameter_angstrom=100.0, initial_low_pass_angstrom=JOIN_ANGSTROM, join_resolution_angstrom=JOIN_ANGSTROM
    )
    print("| particles | SNR | seed | by | angle ° | FSC 0.143 | truth 0.5 | truth, mean | excess | denoised | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for number, snr, seed in ((n, s, seed) for n in numbers for s in snrs for seed in seeds):
        reference = Reference.of(truth, BALL_DIAMETER_ANGSTROM, "ball")
        images = ImageGrid.square(grid.side, grid.pixel_size_angstrom)
        case = simulated_halves([reference], number=number, grid=images, snr=snr, seed=seed)
        for name, regulariser in (("wiener", as_it_is), ("denoise", denoising)):
            began = time.process_time()
            with regulariser() as used:
                state = refined(case, truth, replace(params, seed=seed))
            spent = time.process_time() - began
            poses = (
                case.truth["rotation"], case.truth["origin_angstrom"],
                state.orientations.rotation, state.orientations.origin_angstrom, "C1",
            )  # fmt: skip
            frame = agreement.fitted_frame(*poses)
            angle = float(np.median(agreement.pose_errors(frame, *poses).angle_degrees))
            seen = agreement.in_frame(truth, frame)
            one, two = half_volumes(state, grid)
            found = agreement.map_agreement(one, two, seen, mask, join_resolution_angstrom=JOIN_ANGSTROM)
            with_truth = found.truth.clamp(min=0)
            excess = found.halves.corrected - with_truth.square() / (2 - with_truth.square())
            beyond = excess[int(field / JOIN_ANGSTROM) + 2 : grid.side // 2]
            bands = beyond[: len(beyond) // 3 * 3].reshape(-1, 3).mean(1)
            print(
                f"| {number} | {snr:g} | {seed} | {name} | {angle:.2f} | {found.halves.resolution_angstrom:.2f} Å | "
                f"{found.resolution_angstrom:.2f} Å | {float(found.truth[1 : grid.side // 2].mean()):.3f} | "
                f"{float(bands.max()):+.3f} | {sum(used)} of {state.iteration} | {spent:.0f} |",
                flush=True,
            )


def independence(seeds: int) -> None:
    from recovery import test_half_set_independence as tests

    numbers = range(1, seeds + 1)

    def of_pairs(run: Callable[[int], tuple[Tensor, Tensor]]) -> list[tests.Deviation]:
        return tests.half_map_deviations([run(seed) for seed in numbers])

    cases = {
        "noise, O": lambda: of_pairs(lambda seed: tests.of_noise("O", seed, number=60, max_iterations=4)),
        "noise, C1": lambda: of_pairs(lambda seed: tests.of_noise("C1", seed, number=80, max_iterations=4)),
        "two truths, D2": lambda: of_pairs(lambda seed: tests.of_two_truths("D2", seed, number=60, max_iterations=5)),
        "poisoned reference, D2": lambda: [
            tests.of_a_poisoned_reference("D2", seed, number=60, max_iterations=5) for seed in numbers
        ],
    }
    for case, run in cases.items():
        for name, regulariser in (("wiener", as_it_is), ("denoise", denoising)):
            with regulariser() as used:
                found = run()
            shown = ", ".join(f"{one.largest:.2f} {one.mean:+.1f}" for one in found)
            total = sum(one.mean for one in found) / len(found) ** 0.5
            print(
                f"{case}, {name}: largest and mean of each run {shown}; all means {total:+.1f}; "
                f"denoised in {sum(used)} iterations",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("maps", "refinements", "independence"))
    parser.add_argument("--numbers", type=int, nargs="+", default=[400])
    parser.add_argument("--snrs", type=float, nargs="+", default=[0.1, 0.3])
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    if given.part == "maps":
        maps()
    elif given.part == "refinements":
        refinements(given.numbers, given.snrs, list(range(1, given.seeds + 1)))
    else:
        independence(given.seeds)


if __name__ == "__main__":
    main()
