"""Known shifts put on top of real tilts, and how well they are found again.

    python benchmarks/real_tilt_shifts.py [--draws 4]
    python benchmarks/real_tilt_shifts.py --oracle

The 40 ribosomes of tests/support/real_tilt_particles.py: four tilt series of EMPIAR-10499, ten particles of each, 32 px
of 12 Å. Each series in turn is compared with a map of the particles of the other three. Its tilts are shifted by 12 Å
rms along each axis; searches of ±36 Å and Gauss-Newton steps on one movement a tilt, with a prior of 12 Å, look for
them. The windows carry weight × CTF once; where that is above 0.05 it is divided out. Tilts may have been out of place
before, so what is found without shifts is stated too, and taken off in the last columns.

With ``--oracle`` each tilt is compared with a map of the three other series and of all other tilts of its own series at
their true places, and the mean of the posterior over a fine lattice of shifts is taken: nothing can be known better
from these particles. Its own spread is the least rms error that any estimate can have.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import torch

from halfmap.data.volumes import Volume
from halfmap.fourier import shells, slices
from halfmap.geometry.shapes import soft_sphere
from halfmap.imaging.deformation import views
from halfmap.imaging.projection import shift_phases
from halfmap.imaging.series_transfer import ctf_values, image_ctf, image_weights
from halfmap.multiparticle.params import ParameterChoice, PriorWidths
from halfmap.multiparticle.references import ReferencePair
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.series_model import SpeciesModel, SpeciesState
from halfmap.multiparticle.sub_iterations import fit_windows
from halfmap.postprocessing.masks import mask_from_map
from halfmap.postprocessing.params import MaskParams
from halfmap.units import Length
from support import real_tilt_particles as real
from support.shared_data import ROOT
from support.tilt_windows import DrawnImages

SHIFT_ANGSTROM, REACH_ANGSTROM, LEAST_TRANSFER = 12.0, 36.0, 0.05
DIAMETER_ANGSTROM, RESOLUTION_ANGSTROM = 280.0, 26.0
MASK = MaskParams(low_pass_angstrom=50.0, extend=Length.parse("12"), soft_edge=Length.parse("30"))
SPACING_ANGSTROM = 2.0
"Of the oracle's lattice of shifts."


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Shifts of used tilts, Å, (T, 2), their error bars, and which tilts were too faint for steps, (T,)."""

    shift: torch.Tensor
    deviation: torch.Tensor
    is_faint: torch.Tensor


def reference(others: list) -> ReferencePair:
    """Return the filtered and masked map of other particles as both halves."""
    whole = Volume(values=real.reconstruct(others), grid=real.GRID)
    mask = mask_from_map(whole, MASK)[0].values * soft_sphere(real.GRID, 150.0, 24.0)
    fsc = real.half_map_fsc(others, mask).clamp(0, 1)
    transform = real.GRID.rfft(whole.values * mask)
    weight = shells.spread((2 * fsc / (1 + fsc)).float(), real.GRID)
    padded = slices.prepare(real.GRID.irfft(transform * weight), real.GRID)
    return ReferencePair(halves=(padded, padded), resolution_angstrom=RESOLUTION_ANGSTROM, signal=fsc)


def windows_of(one: real.RealSeries) -> tuple[torch.Tensor, np.ndarray]:
    """Return images as they were before they were multiplied, (P, T, K), and which tilts are used."""
    frequencies = real.band().frequencies
    seen = views(one.series, one.position_angstrom, one.rotation)
    transfer = ctf_values(one.series, image_ctf(one.series, one.position_angstrom, seen), frequencies)
    transfer = transfer * image_weights(one.series, seen, frequencies)
    images = torch.where(transfer.abs() > LEAST_TRANSFER, one.values / transfer, torch.zeros_like(one.values))
    return images, np.asarray(one.series.is_used) & one.is_visible.any(0).numpy()


def state_of(one: real.RealSeries, pair: ReferencePair) -> SpeciesState:
    """Return the particles of a series with references."""
    return SpeciesState(
        position_angstrom=one.position_angstrom,
        rotation=one.rotation,
        subset=torch.arange(len(one.values)) % 2 + 1,
        references=pair,
        diameter_angstrom=DIAMETER_ANGSTROM,
    )


def find(one: real.RealSeries, pair: ReferencePair, shift: torch.Tensor) -> Found:
    """Look for shifts that are put on the tilts."""
    band, (images, used) = real.band(), windows_of(one)
    centre = views(one.series, one.position_angstrom, one.rotation).position_angstrom
    fit = fit_windows(
        DrawnImages([images * shift_phases(band.frequencies, shift)], [band], [centre], used),
        [centre],
        [band],
        one.series.with_values(is_used=used),
        (state_of(one, pair),),
        ParameterChoice(image_warp="1x1"),
        PriorWidths(image_warp_angstrom=SHIFT_ANGSTROM, image_warp_step_angstrom=100.0),
        Schedule(sub_iterations=2, steps=3, search_angstrom=REACH_ANGSTROM),
    )
    kept = torch.from_numpy(used)
    # a movement is subtracted from where content would lie
    found, deviation = (
        values.reshape(2, -1).T[kept] for values in (-fit.visited.parameters.shared, fit.posterior.shared_deviation)
    )
    faint = fit.comparison.faint
    return Found(
        shift=found,
        deviation=deviation,
        is_faint=torch.zeros(len(found), dtype=torch.bool) if faint is None else faint.is_faint[kept],
    )


def rms(values: torch.Tensor) -> float:
    """Return the root of the mean square."""
    return float(values.square().mean().sqrt())


def measured(everything: list, number: int, draws: int) -> str:
    """Return the row of one series, over some draws of shifts."""
    one = everything[number]
    pair = reference([other for other in everything if other is not one])
    used = torch.from_numpy(windows_of(one)[1])
    before = find(one, pair, torch.zeros(len(used), 2, dtype=torch.float64)).shift
    errors, bars, faint = [], [], []
    for draw in range(draws):
        random = np.random.default_rng((number, draw))
        shift = torch.from_numpy(SHIFT_ANGSTROM * random.normal(size=(len(used), 2)))
        after = find(one, pair, shift)
        errors.append(after.shift - shift[used])
        bars.append(after.deviation)
        faint.append(after.is_faint)
    error, bar, is_faint = torch.cat(errors), torch.cat(bars), torch.cat(faint)
    change = error - before.repeat(draws, 1)
    return (
        f"| {number + 1} | {int(used.sum())} | {rms(before):.1f} | {float(error.abs().median()):.1f} | "
        f"{rms(error):.1f} | {rms(bar):.1f} | {100 * float(is_faint.double().mean()):.0f} % | "
        f"{rms(error[~is_faint]):.1f} | {rms(bar[~is_faint]):.1f} | {float(change.abs().median()):.1f} | "
        f"{rms(change):.1f} | {rms(change[~is_faint]):.1f} |"
    )


def oracle(everything: list, number: int, draws: int) -> str:
    """Return what is left of shifts where everything else is known, and how much must be left."""
    one, band = everything[number], real.band()
    images, used = windows_of(one)
    centre = views(one.series, one.position_angstrom, one.rotation).position_angstrom
    axis = torch.arange(-REACH_ANGSTROM, REACH_ANGSTROM + 1e-9, SPACING_ANGSTROM, dtype=torch.float64)
    lattice = torch.cartesian_prod(axis, axis)
    phase = 2 * np.pi * lattice @ band.frequencies.double().T
    random = np.random.default_rng(number)
    errors, spreads = [], []
    for t in np.flatnonzero(used).tolist():
        seen = one.is_visible.clone()
        seen[:, t] = False
        pair = reference([other for other in everything if other is not one] + [replace(one, is_visible=seen)])
        model = SpeciesModel(one.series, state_of(one, pair), band, centre, one.is_visible)
        rows = torch.nonzero(one.is_visible[:, t]).flatten()
        shown = torch.where(images[rows, t] != 0, model.modelled(t, rows, ())[:, 0], 0)
        power = band.shell_sum(images[rows, t].abs().square().sum(0)[None])[0]
        count = band.shell_sum(torch.full((1, len(band)), 2.0 * len(rows)))[0]
        # shells in which nothing is left at the CTF's zeros have no power
        variance = (power / count)[band.shell_of].clamp(min=1e-12 * float(power.max()))
        products = (images[rows, t] * shown.conj()).sum(0) / variance
        # not even the scale has to be found
        scale = float(products.real.sum() / (shown.abs().square().sum(0) / variance).sum())
        for _ in range(draws):
            shift = torch.from_numpy(SHIFT_ANGSTROM * random.normal(size=2))
            there = products * shift_phases(band.frequencies, shift[None])[0]
            cross = phase.cos() @ there.real.double() - phase.sin() @ there.imag.double()
            weight = (max(scale, 0.0) * cross - lattice.square().sum(1) / (2 * SHIFT_ANGSTROM**2)).softmax(0)
            mean = weight @ lattice
            errors.append(mean - shift)
            spreads.append((weight @ lattice.square() - mean.square()).clamp(min=0.0).sqrt())
    return f"| {number + 1} | {rms(torch.stack(errors)):.1f} | {rms(torch.stack(spreads)):.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4, help="of shifts, for each series")
    parser.add_argument("--oracle", action="store_true", help="with everything known but the shift of one tilt")
    options = parser.parse_args()
    torch.set_num_threads(1)
    everything = real.read(ROOT)
    if options.oracle:
        print("| series | error, rms Å | spread of the posterior, rms |\n|---|---|---|")
    else:
        print(
            "| series | tilts | without shifts, rms Å | error, median | error, rms | error bar | faint tilts",
            end="",
        )
        print(" | others: error, rms | error bar, rms | change by the shifts: median | rms | others: rms |")
        print("|---" * 12 + "|")
    for number in range(len(everything)):
        print((oracle if options.oracle else measured)(everything, number, options.draws), flush=True)


if __name__ == "__main__":
    main()
