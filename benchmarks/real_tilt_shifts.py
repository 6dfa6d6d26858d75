"""Known shifts put on top of real tilts, and how well they are found again.

    python benchmarks/real_tilt_shifts.py

The 40 ribosomes of tests/support/real_tilt_particles.py: four tilt series of EMPIAR-10499, ten particles of each, 32 px
of 12 Å. Each series in turn is compared with a map of the particles of the other three. Its tilts are shifted by 12 Å
rms along each axis; a search of ±36 Å and Gauss-Newton steps on one movement a tilt, with a prior of 12 Å, look for
them. The windows carry weight × CTF once; where that is above 0.05 it is divided out. Tilts may have been out of place
before, so what steps without a search find without shifts is stated too, and taken off in the last columns.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import torch

from halfmap.fourier import shells, slices
from halfmap.geometry.shapes import soft_sphere
from halfmap.imaging.deformation import views
from halfmap.imaging.projection import shift_phases
from halfmap.imaging.series_transfer import ctf_values, image_ctf, image_weights
from halfmap.multiparticle.params import ParameterChoice, PriorWidths
from halfmap.multiparticle.references import ReferencePair
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.series_model import SpeciesState
from halfmap.multiparticle.sub_iterations import fit_windows
from support import real_tilt_particles as real
from support.shared_data import ROOT
from support.tilt_windows import DrawnImages

SHIFT_ANGSTROM, REACH_ANGSTROM, LEAST_TRANSFER = 12.0, 36.0, 0.05
DIAMETER_ANGSTROM, RESOLUTION_ANGSTROM = 280.0, 26.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Shifts of used tilts, Å, (T, 2), and their error bars."""

    shift: torch.Tensor
    deviation: torch.Tensor


def reference(others: list) -> ReferencePair:
    """Return the filtered map of other particles as both halves."""
    fsc = real.half_map_fsc(others).clamp(0, 1)
    transform = real.GRID.rfft(real.reconstruct(others) * soft_sphere(real.GRID, 150.0, 24.0))
    weight = shells.spread((2 * fsc / (1 + fsc)).float(), real.GRID)
    padded = slices.prepare(real.GRID.irfft(transform * weight), real.GRID)
    return ReferencePair(halves=(padded, padded), resolution_angstrom=RESOLUTION_ANGSTROM, signal=fsc)


def find(one: real.RealSeries, pair: ReferencePair, shift: torch.Tensor, *, reach: float) -> Found:
    """Look for shifts that are put on the tilts."""
    band = real.band()
    seen = views(one.series, one.position_angstrom, one.rotation)
    transfer = ctf_values(one.series, image_ctf(one.series, one.position_angstrom, seen), band.frequencies)
    transfer = transfer * image_weights(one.series, seen, band.frequencies)
    images = torch.where(transfer.abs() > LEAST_TRANSFER, one.values / transfer, torch.zeros_like(one.values))
    used = np.asarray(one.series.is_used) & one.is_visible.any(0).numpy()
    windows = DrawnImages([images * shift_phases(band.frequencies, shift)], [band], [seen.position_angstrom], used)
    state = SpeciesState(
        position_angstrom=one.position_angstrom,
        rotation=one.rotation,
        subset=torch.arange(len(images)) % 2 + 1,
        references=pair,
        diameter_angstrom=DIAMETER_ANGSTROM,
    )
    fit = fit_windows(
        windows,
        [seen.position_angstrom],
        [band],
        one.series.with_values(is_used=used),
        (state,),
        ParameterChoice(image_warp="1x1"),
        PriorWidths(image_warp_angstrom=SHIFT_ANGSTROM, image_warp_step_angstrom=100.0),
        Schedule(sub_iterations=2, steps=3, search_angstrom=reach),
    )
    # a movement is subtracted from where content would lie
    found, deviation = (
        values.reshape(2, -1).T[torch.from_numpy(used)]
        for values in (-fit.visited.parameters.shared, fit.posterior.shared_deviation)
    )
    return Found(shift=found, deviation=deviation)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    everything = real.read(ROOT)
    random = np.random.default_rng(1)
    print("| series | tilts | found without shifts, rms Å | error, median Å | error, rms | error bar, rms |", end="")
    print(" change by the shifts: median error | rms | within 6 Å |\n|---|---|---|---|---|---|---|---|---|")
    for number, one in enumerate(everything):
        pair = reference([other for other in everything if other is not one])
        used = np.asarray(one.series.is_used) & one.is_visible.any(0).numpy()
        shift = torch.from_numpy(SHIFT_ANGSTROM * random.normal(size=(len(used), 2)))
        before = find(one, pair, torch.zeros_like(shift), reach=0.0)
        after = find(one, pair, shift, reach=REACH_ANGSTROM)
        error = after.shift - shift[torch.from_numpy(used)]
        change = error - before.shift
        rms = [float(x.square().mean().sqrt()) for x in (before.shift, error, after.deviation, change)]
        median = [float(x.abs().median()) for x in (error, change)]
        near = float((change.abs().amax(1) < 6).double().mean())
        print(
            f"| {number + 1} | {int(used.sum())} | {rms[0]:.1f} | {median[0]:.1f} | {rms[1]:.1f} | {rms[2]:.1f} | "
            f"{median[1]:.1f} | {rms[3]:.1f} | {100 * near:.0f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
