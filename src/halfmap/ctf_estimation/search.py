"""Every defocus, astigmatism and phase shift tried on a power spectrum, so that no local optimum traps the fit."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.ctf_estimation.rings import N_SECTORS, Microscope, Rings, polynomials
from halfmap.optics.ctf import phase_aberration
from halfmap.units import electron_wavelength_angstrom

N_BACKGROUND, N_ENVELOPE = 6, 2
"""Polynomials of the frequency in the background, and in the strength of the rings, while searching."""

_N_BINS = 256
_STEPS_PER_RING = 8
_PHASE_STEP_DEGREES = 10.0
_PHASE_STEPS_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class DefocusScores:
    """How much of the variation of each sector each defocus explains.

    Parameters
    ----------
    defocus_angstrom : float64, shape (d,), equally spaced.
    phase_shift_degrees : float64, shape (f,).
    gain : float64, shape (f, N_SECTORS, d): twice the log likelihood over that of the background alone.
    """

    defocus_angstrom: Tensor
    phase_shift_degrees: Tensor
    gain: Tensor

    @property
    def step_angstrom(self) -> float:
        """Distance of neighbouring defoci."""
        return float(self.defocus_angstrom[1] - self.defocus_angstrom[0])


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A place to begin a fit from.

    Parameters
    ----------
    defocus_angstrom : mean of the two.
    astigmatism_angstrom : U − V.
    angle_degrees : of U.
    phase_shift_degrees : of a phase plate.
    score : twice the log likelihood over that of the background alone.
    """

    defocus_angstrom: float
    astigmatism_angstrom: float
    angle_degrees: float
    phase_shift_degrees: float
    score: float


def defocus_scores(
    rings: Rings, microscope: Microscope, params: CtfEstimationParams, *, phase_shift_degrees: float
) -> DefocusScores:
    """Score each sector of directions against each defocus.

    Parameters
    ----------
    rings : what is fitted.
    microscope, params : of the images.
    phase_shift_degrees : where it is not looked for.

    Notes
    -----
    A sector is averaged in bins of s², in which rings are equally spaced. For each defocus and phase shift its profile
    is fitted by background + strength × CTF², both polynomials in s; what CTF² adds to the background counts, where
    its strength is positive. Spectra of known offsets are scored each and added at their own defocus.
    """
    wavelength = electron_wavelength_angstrom(microscope.voltage_kv)
    q_low, q_high = (limit**2 for limit in rings.limits)
    step = 1 / (_STEPS_PER_RING * wavelength * q_high)
    reach = params.max_astigmatism_angstrom / 2 if params.astigmatism else 0.0
    reach += float(rings.offset_angstrom.abs().max())
    low = max(params.min_defocus_angstrom - reach, step)
    n = math.ceil((params.max_defocus_angstrom + reach - low) / step) + 1
    defocus = low + step * torch.arange(n, dtype=torch.float64)
    phases = _phase_shifts(params, phase_shift_degrees)
    profiles, weights, middles = _profiles(rings, q_low, q_high)
    background = polynomials(middles.sqrt(), rings.limits, N_BACKGROUND)
    strength = polynomials(middles.sqrt(), rings.limits, N_ENVELOPE)
    root = weights.sqrt()[:, None]
    basis, _ = torch.linalg.qr(background * root)
    data = profiles * root[:, 0]
    data = data - (data @ basis) @ basis.T
    parts = []
    for start in range(0, len(phases), _PHASE_STEPS_AT_ONCE):
        some = phases[start : start + _PHASE_STEPS_AT_ONCE]
        squared = _ctf_squared(middles, defocus, some, microscope)
        parts.append(_gains(data, squared, strength * root, basis))
    gain = torch.cat(parts)  # (f, k, sector, d)
    noise = (data.square().sum(-1) - gain.amax(dim=(0, 3))) / (len(middles) - N_BACKGROUND - N_ENVELOPE)
    gain = gain / noise.clamp(min=1e-12)[None, :, :, None]
    return DefocusScores(defocus_angstrom=defocus, phase_shift_degrees=phases, gain=_at_own_defocus(gain, rings, step))


def candidates(
    scores: DefocusScores,
    params: CtfEstimationParams,
    *,
    number: int,
    sectors: Tensor | None = None,
) -> list[Candidate]:
    """Return the best places to begin from, best first, each of another defocus or phase shift.

    Parameters
    ----------
    scores : of each sector.
    params : the limits.
    number : of candidates.
    sectors : which of them count; None for all.
    """
    chosen = torch.arange(N_SECTORS) if sectors is None else sectors
    angle = (chosen.double() + 0.5) * (math.pi / N_SECTORS)
    step = scores.step_angstrom
    found: list[Candidate] = []
    total: list[tuple[float, float, Tensor]] = []
    for half_pixel, direction in _astigmatisms(step, params):
        shift = torch.round(half_pixel * torch.cos(2 * (angle - direction))).long()
        total.append((half_pixel, direction, _sum_at(scores.gain[:, chosen], shift)))
    inside = (scores.defocus_angstrom >= params.min_defocus_angstrom) & (
        scores.defocus_angstrom <= params.max_defocus_angstrom
    )
    stacked = torch.stack([sums for *_, sums in total])
    best, which = stacked.where(inside, torch.tensor(-1.0, dtype=torch.float64)).max(dim=0)
    separation = _STEPS_PER_RING
    for _ in range(number):
        at = int(best.argmax())
        row, column = divmod(at, best.shape[1])
        if not float(best[row, column]) > 0:
            break
        half_pixel, direction, _ = total[int(which[row, column])]
        found.append(
            Candidate(
                defocus_angstrom=float(scores.defocus_angstrom[column]),
                astigmatism_angstrom=2 * half_pixel * step,
                angle_degrees=math.degrees(direction),
                phase_shift_degrees=float(scores.phase_shift_degrees[row]),
                score=float(best[row, column]),
            )
        )
        best[:, max(column - separation, 0) : column + separation + 1] = -1.0
    return found


def _phase_shifts(params: CtfEstimationParams, given_degrees: float) -> Tensor:
    if not params.phase_shift:
        return torch.tensor([given_degrees], dtype=torch.float64)
    span = params.max_phase_shift_degrees - params.min_phase_shift_degrees
    n = math.ceil(span / _PHASE_STEP_DEGREES) + 1
    return torch.linspace(params.min_phase_shift_degrees, params.max_phase_shift_degrees, n, dtype=torch.float64)


def _profiles(rings: Rings, q_low: float, q_high: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return means of each spectrum and sector (k, N_SECTORS, n), and weights and middles (n,) of the bins of s²."""
    q = rings.s.square()
    bins = ((q - q_low) / (q_high - q_low) * _N_BINS).long().clamp(max=_N_BINS - 1)
    index = rings.sector * _N_BINS + bins
    counts = torch.bincount(index, minlength=N_SECTORS * _N_BINS).double().reshape(N_SECTORS, _N_BINS)
    sums = torch.zeros((len(rings.values), N_SECTORS * _N_BINS), dtype=torch.float64)
    sums.index_add_(1, index, rings.values)
    sums = sums.reshape(-1, N_SECTORS, _N_BINS)
    middles = q_low + (torch.arange(_N_BINS, dtype=torch.float64) + 0.5) * ((q_high - q_low) / _N_BINS)
    full = (counts > 0).all(dim=0)
    counts = counts[:, full]
    return sums[:, :, full] / counts, counts.mean(dim=0), middles[full]


def _ctf_squared(q: Tensor, defocus: Tensor, phases: Tensor, microscope: Microscope) -> Tensor:
    """Return CTF² of each phase shift, defocus and bin, shape (f, d, n)."""
    frequencies = torch.stack([q.sqrt(), torch.zeros_like(q)], dim=-1)
    gamma = phase_aberration(
        frequencies,
        defocus_u_angstrom=defocus[None, :],
        defocus_v_angstrom=defocus[None, :],
        voltage_kv=microscope.voltage_kv,
        spherical_aberration_mm=microscope.spherical_aberration_mm,
        amplitude_contrast=microscope.amplitude_contrast,
        phase_shift_degrees=phases[:, None],
    )
    return gamma.sin().square()


def _gains(data: Tensor, squared: Tensor, strength: Tensor, basis: Tensor) -> Tensor:
    """Return the variation explained, shape (f, k, sector, d), of data freed of the background, (k, sector, n)."""
    columns = squared[..., None] * strength  # (f, d, n, e)
    columns = columns - basis @ (basis.T @ columns)
    normal = columns.mT @ columns
    normal = (
        normal
        + 1e-9
        * torch.eye(normal.shape[-1], dtype=torch.float64)
        * normal.diagonal(dim1=-2, dim2=-1).mean(dim=-1).clamp(min=1e-12)[..., None, None]
    )
    right = torch.einsum("ksn,fdne->fdkse", data, columns)
    solved = torch.linalg.solve(normal, right.flatten(2, 3).mT).mT.reshape(right.shape)
    mean_ring = torch.einsum("fdn,ne,n->fde", squared, strength, strength[:, 0])
    positive = torch.einsum("fdkse,fde->fdks", solved, mean_ring) > 0
    return torch.where(positive, (solved * right).sum(-1), 0.0).permute(0, 2, 3, 1)


def _at_own_defocus(gain: Tensor, rings: Rings, step_angstrom: float) -> Tensor:
    """Add up spectra of known offsets, so that the defocus is that of none; (f, k, sector, d) → (f, sector, d)."""
    shift = torch.round(rings.offset_angstrom / step_angstrom).long()
    return torch.stack([_sum_at(gain[:, :, sector], shift) for sector in range(gain.shape[2])], dim=1)


def _astigmatisms(step_angstrom: float, params: CtfEstimationParams) -> list[tuple[float, float]]:
    """Return the astigmatisms that are tried: half of U − V in steps of defocus, and the direction of U in radians."""
    tried = [(0.0, 0.0)]
    if params.astigmatism:
        n = int(params.max_astigmatism_angstrom / 2 / step_angstrom)
        directions = [index * math.pi / N_SECTORS for index in range(N_SECTORS)]
        tried += [(float(half), direction) for half in range(1, n + 1) for direction in directions]
    return tried


def _sum_at(gain: Tensor, shift: Tensor) -> Tensor:
    """Return the sum over sectors of their gains, each at a shifted defocus; (f, s, d), (s,) → (f, d)."""
    total = torch.zeros_like(gain[:, 0])
    n = gain.shape[-1]
    for sector, by in enumerate(shift.tolist()):
        low, high = max(0, -by), min(n, n - by)
        total[:, low:high] += gain[:, sector, low + by : high + by]
    return total
