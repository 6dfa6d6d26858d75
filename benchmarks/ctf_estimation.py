"""How well `halfmap ctf` finds the CTF of simulated micrographs, and of real ones.

    python benchmarks/ctf_estimation.py --real                 the real apoferritin micrographs, against their table
    python benchmarks/ctf_estimation.py --number 8             simulated ones, defocus 0.4 to 4 µm, of several doses
    python benchmarks/ctf_estimation.py --empty 25             how many empty ones are taken for good

Simulated micrographs are those of `halfmap simulate micrographs`, dirt included, particles of 120 Å. Besides, there
are pictures that hold no CTF of particles: an empty one, one of carbon film alone, and crystalline ice. Errors are of
the mean defocus, of the astigmatism as a vector (amount and direction at once), relative to its amount, and of the
phase shift.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch

from halfmap import keyed_random
from halfmap.ctf_estimation.concerns import concerns
from halfmap.ctf_estimation.estimate import CtfEstimate, estimate
from halfmap.ctf_estimation.fit import Lens
from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.ctf_estimation.periodogram import power_spectra, windows_of
from halfmap.ctf_estimation.rings import Microscope
from halfmap.io import relion
from halfmap.io.images import read_micrograph
from halfmap.optics.ctf import ctf
from halfmap.simulation import ice
from halfmap.simulation.layout import lay_out
from halfmap.simulation.micrographs import References, micrograph
from halfmap.simulation.params import MicrographSimulationParams
from halfmap.simulation.references import interaction_constant_rad_per_volt_angstrom, reference_of_atoms
from halfmap.simulation.specimens import specimen

REAL = Path(__file__).parents[2] / "shared" / "data" / "apoferritin"
SPECIMEN = "compact-d2-120"
CASES = {
    "40 e/Å²": {},
    "20 e/Å²": {"dose_e_per_angstrom2": 20.0},
    "40 e/Å², phase plate": {"phase_shift_degrees": 70.0, "max_defocus_angstrom": 15_000.0},
}
HEXAGONAL_ICE_ANGSTROM = (3.90, 3.67, 3.44)


def run(image: np.ndarray, pixel_size: float, microscope: Microscope, params: CtfEstimationParams) -> CtfEstimate:
    values = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    windows = windows_of((values.shape[0], values.shape[1]), pixel_size, params.box_pixel)
    return estimate(power_spectra(values, windows, pixel_size_angstrom=pixel_size), microscope, params)


def real() -> None:
    table = relion.read_micrographs(REAL / "micrographs_ctf.star")
    microscope = Microscope(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.07)
    print(
        "| micrograph | table (Å) | mean defocus (Å) | difference | U − V | rings to (Å) | figure of merit | verdict |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, known in zip(table["micrograph_name"], table["defocus_u_angstrom"], strict=True):
        found = run(read_micrograph(REAL / str(name)), 1.5, microscope, CtfEstimationParams())
        lens = found.lens
        print(
            f"| {Path(str(name)).stem} | {known:.0f} | {lens.defocus_angstrom:.0f} | "
            f"{lens.defocus_angstrom - known:+.0f} | {2 * lens.half_astigmatism_angstrom:.0f} | "
            f"{found.max_resolution_angstrom:.1f} | "
            f"{found.figure_of_merit:.2f} | {'no rings' if found.failure else 'found'} |"
        )


def vector(lens: Lens) -> complex:
    return 2 * complex(lens.astigmatism_x_angstrom, lens.astigmatism_y_angstrom)


def simulated(number: int, side: int) -> None:
    settings = {
        "number": number,
        "size_pixel": (side, side),
        "min_defocus_angstrom": 4_000.0,
        "max_defocus_angstrom": 40_000.0,
        "astigmatism_angstrom": 1_000.0,
    }
    made = reference_of_atoms(specimen(SPECIMEN), pixel_size_angstrom=1.5, b_factor_angstrom2=80.0, name=SPECIMEN)
    references = References(whole=(made,), broken=(made.broken(),))
    microscope = Microscope(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.1)
    print(
        "| case | found | defocus error (Å): median, worst | astigmatism error: median, worst of ≥ 300 Å | phase error "
        "(°): worst | rings to (Å) | seconds each |"
    )
    print("|---|---|---|---|---|---|---|")
    kept: list[CtfEstimate] = []
    for case, changed in CASES.items():
        params = MicrographSimulationParams(**{**settings, **changed})
        asked = CtfEstimationParams(min_defocus_angstrom=3_500.0, phase_shift=bool(params.phase_shift_degrees))
        errors, seconds, reached, n_found = [], 0.0, [], 0
        for index in range(number):
            layout = lay_out(index, params, references.diameters_angstrom)
            counts = micrograph(layout, references, params).counts
            started = time.process_time()
            found = run(counts, params.pixel_size_angstrom, microscope, asked)
            seconds += time.process_time() - started
            u, v, angle = (
                float(getattr(layout.defocus, name)[0]) for name in ("u_angstrom", "v_angstrom", "angle_degrees")
            )
            true = (u - v) * np.exp(2j * np.radians(angle))
            errors.append(
                (
                    abs(found.lens.defocus_angstrom - (u + v) / 2),
                    abs(vector(found.lens) - true) / abs(true),
                    abs(true),
                    abs(found.lens.phase_shift_degrees - params.phase_shift_degrees),
                )
            )
            n_found += not found.failure
            reached.append(found.max_resolution_angstrom)
            kept += [found] if case == "40 e/Å²" and not found.failure else []
        defocus, astigmatism, amount, phase = np.array(errors).T
        large = astigmatism[amount >= 300]
        print(
            f"| {case} | {n_found} of {number} | {np.median(defocus):.0f}, {defocus.max():.0f} | "
            f"{100 * np.median(large):.1f} %, {100 * large.max():.1f} % (n = {len(large)}) | {phase.max():.1f} | "
            f"{np.median(reached):.1f} | {seconds / number:.1f} |",
            flush=True,
        )
    without_particles(side, microscope, kept)


def without_particles(side: int, microscope: Microscope, others: list[CtfEstimate]) -> None:
    print("\n| picture | verdict | figure of merit | agreement of halves | ice ring | ring depth |")
    print("|---|---|---|---|---|---|")
    truth = Lens(defocus_angstrom=15_000.0, astigmatism_x_angstrom=100.0)
    for name, image in {
        "empty": counts_of(torch.zeros((side, side)), 1),
        "carbon film alone": counts_of(film(side, truth, carbon=200.0), 2),
        "crystalline ice alone": counts_of(crystals(side), 3),
        "crystalline ice and rings": counts_of(crystals(side) + film(side, truth), 4),
    }.items():
        found = run(image, 1.5, microscope, CtfEstimationParams())
        said = found.failure or "; ".join(concerns([*others, found])[-1]) or "found, no concern"
        print(
            f"| {name} | {said} (defocus {found.lens.defocus_angstrom:.0f} Å) | {found.figure_of_merit:.2f} | "
            f"{found.fold_agreement:.2f} | {found.ice_ring_density:.2f} | {found.ring_depth:.2f} |",
            flush=True,
        )


def empty(number: int, side: int) -> None:
    microscope = Microscope(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.1)
    found = [
        run(counts_of(torch.zeros((side, side)), index), 1.5, microscope, CtfEstimationParams())
        for index in range(number)
    ]
    merits = [one.figure_of_merit for one in found]
    print(
        f"{sum(not one.failure for one in found)} of {number} empty pictures of {side}² pixels taken for good; "
        f"figure of merit {np.mean(merits):.2f} ± {np.std(merits):.2f}, at most {max(merits):.2f}."
    )


def counts_of(contrast: torch.Tensor, uid: int) -> np.ndarray:
    return ice.detected_counts((1 + contrast).clamp(min=0) * 40.0 * 1.5**2, seed=1, uid=uid, dqe=0.8)


def film(side: int, lens: Lens, *, carbon: float = 0.0) -> torch.Tensor:
    """Return the contrast of 350 Å of ice, or of so much carbon film."""
    f = _frequencies(side)
    s = f.norm(dim=-1)
    sigma = interaction_constant_rad_per_volt_angstrom(300.0)
    power = ice.ice_grain_power(
        s, thickness_angstrom=350.0, dose_e_per_angstrom2=40.0, interaction_rad_per_volt_angstrom=sigma
    )
    if carbon:
        # carbon atoms neither move nor lie in the order of water
        power = power / ice.motion_damping(s, 40.0) / ice.structure_factor(s) * 0.06
        power = power * ice.carbon_to_ice_grain(carbon, 350.0) ** 2
    transfer = ctf(
        f,
        defocus_u_angstrom=lens.defocus_u_angstrom,
        defocus_v_angstrom=lens.defocus_v_angstrom,
        defocus_angle_degrees=lens.angle_degrees,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
    )
    white = torch.from_numpy(keyed_random.normal(7, "film", 0, size=(side, side))).float()
    return torch.fft.irfft2(torch.fft.rfft2(white) * transfer * power.sqrt().float() * (-2 / 1.5), s=(side, side))


def crystals(side: int) -> torch.Tensor:
    """Return the lattice planes of forty small crystals, each seen somewhere."""
    total = torch.zeros((side, side))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for index, (px, py, turn, which) in enumerate(keyed_random.uniform(5, "crystals", np.arange(40), size=4)):
        spacing = HEXAGONAL_ICE_ANGSTROM[index % 3]
        wave = 2 * np.pi * 1.5 / spacing * (x * np.cos(np.pi * turn) + y * np.sin(np.pi * turn))
        place = torch.exp(-((x - px * side) ** 2 + (y - py * side) ** 2) / (2 * (80 + 80 * which) ** 2))
        total += 0.15 * place * torch.cos(wave)
    return total


def _frequencies(side: int) -> torch.Tensor:
    fx, fy = (way(side, d=1.5, dtype=torch.float64) for way in (torch.fft.rfftfreq, torch.fft.fftfreq))
    return torch.stack(torch.meshgrid(fx, fy, indexing="xy"), dim=-1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="take the real micrographs")
    parser.add_argument("--empty", type=int, default=0, help="so many pictures of nothing alone")
    parser.add_argument("--number", type=int, default=8, help="simulated micrographs of each case")
    parser.add_argument("--side", type=int, default=2048, help="of the simulated micrographs, in pixels of 1.5 Å")
    given = parser.parse_args()
    if given.real:
        real()
    elif given.empty:
        empty(given.empty, given.side)
    else:
        simulated(given.number, given.side)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nPeak memory, of the simulation too: {peak:.1f} GiB.")
