"""Defocus, astigmatism and phase shift fitted to all pixels of a power spectrum."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.ctf_estimation.rings import Microscope, Rings
from halfmap.ctf_estimation.search import Candidate
from halfmap.optics.ctf import phase_aberration
from halfmap.units import electron_wavelength_angstrom

N_BACKGROUND, N_ENVELOPE = 8, 4
"""Polynomials of the frequency in the background, and in the strength of the rings."""

_MAX_STEPS = 40
_TOLERANCE = 1e-7
_OUTLIER_DEVIATIONS = 3.0


@dataclass(frozen=True, kw_only=True)
class Lens:
    """What is fitted of the CTF.

    Parameters
    ----------
    defocus_angstrom : mean of U and V.
    astigmatism_x_angstrom, astigmatism_y_angstrom : (U − V) / 2 times the cosine and sine of twice the angle of U.
    phase_shift_degrees : of a phase plate.
    """

    defocus_angstrom: float
    astigmatism_x_angstrom: float = 0.0
    astigmatism_y_angstrom: float = 0.0
    phase_shift_degrees: float = 0.0

    @property
    def half_astigmatism_angstrom(self) -> float:
        """Half the difference of the two defoci."""
        return math.hypot(self.astigmatism_x_angstrom, self.astigmatism_y_angstrom)

    @property
    def defocus_u_angstrom(self) -> float:
        """The larger defocus."""
        return self.defocus_angstrom + self.half_astigmatism_angstrom

    @property
    def defocus_v_angstrom(self) -> float:
        """The smaller defocus."""
        return self.defocus_angstrom - self.half_astigmatism_angstrom

    @property
    def angle_degrees(self) -> float:
        """Direction of the larger defocus, 0 to 180."""
        return math.degrees(math.atan2(self.astigmatism_y_angstrom, self.astigmatism_x_angstrom)) / 2 % 180.0

    def gamma(self, frequencies: Tensor, microscope: Microscope, offset_angstrom: Tensor) -> Tensor:
        """Return the phase whose negative sine is the CTF, shape (k, p), of k offsets of the defocus."""
        return phase_aberration(
            frequencies,
            defocus_u_angstrom=self.defocus_u_angstrom + offset_angstrom,
            defocus_v_angstrom=self.defocus_v_angstrom + offset_angstrom,
            defocus_angle_degrees=self.angle_degrees,
            voltage_kv=microscope.voltage_kv,
            spherical_aberration_mm=microscope.spherical_aberration_mm,
            amplitude_contrast=microscope.amplitude_contrast,
            phase_shift_degrees=self.phase_shift_degrees,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A model of a flattened power spectrum.

    Parameters
    ----------
    lens : its CTF.
    background, strength : coefficients of the polynomials; the first ends in two of a cosine and a sine of twice the
        direction, which detectors and motion leave.
    misfit : weighted mean square of what remains.
    is_converged : whether the last step was small.
    """

    lens: Lens
    background: Tensor
    strength: Tensor
    misfit: float
    is_converged: bool

    def background_at(self, rings: Rings) -> Tensor:
        """Return the background, shape (p,)."""
        return _background(rings, len(self.background) - 2) @ self.background

    def strength_at(self, rings: Rings) -> Tensor:
        """Return the factor of CTF², shape (p,)."""
        return rings.polynomials(len(self.strength)) @ self.strength


def lens_of(candidate: Candidate) -> Lens:
    """Return the lens that a search has found."""
    half, angle = candidate.astigmatism_angstrom / 2, math.radians(2 * candidate.angle_degrees)
    return Lens(
        defocus_angstrom=candidate.defocus_angstrom,
        astigmatism_x_angstrom=half * math.cos(angle),
        astigmatism_y_angstrom=half * math.sin(angle),
        phase_shift_degrees=candidate.phase_shift_degrees,
    )


def fit(
    rings: Rings, microscope: Microscope, start: Lens, *, astigmatism: bool = True, phase_shift: bool = False
) -> Fit:
    """Fit a CTF, background and strength of the rings, from a start that is right to a part of a ring.

    Parameters
    ----------
    rings : what is fitted.
    microscope : of the images.
    start : where to begin.
    astigmatism, phase_shift : whether these are fitted; else they stay.

    Notes
    -----
    values ≈ background(s) + strength(s) CTF², weighted least squares by Levenberg's and Marquardt's method over the
    lens, the linear coefficients solved for at each lens (Golub and Pereyra 1973, SIAM J. Numer. Anal. 10; the
    derivatives of the lens are freed of what the linear ones can do, Kaufman's approximation). Pixels beyond three
    deviations, of crystals say, count less (Huber's weights).
    """
    names = ["defocus_angstrom"]
    names += ["astigmatism_x_angstrom", "astigmatism_y_angstrom"] if astigmatism else []
    names += ["phase_shift_degrees"] if phase_shift else []
    problem = _Problem(rings, microscope, names)
    weights = torch.ones_like(rings.values)
    state = problem.solve(start, weights)
    weights = _huber(state.residual)
    state = problem.solve(start, weights)
    damping, is_converged = 1e-3, False
    for _ in range(_MAX_STEPS):
        step = problem.step(state, weights, damping)
        tried = problem.solve(problem.moved(state.lens, step), weights)
        if tried.misfit < state.misfit:
            gained = 1 - tried.misfit / state.misfit
            weights = _huber(tried.residual)
            state = problem.solve(tried.lens, weights)
            damping = max(damping / 10, 1e-9)
            is_converged = gained < _TOLERANCE
        else:
            damping *= 10
            is_converged = damping > 1e6
        if is_converged:
            break
    n_background = N_BACKGROUND + 2
    return Fit(
        lens=state.lens,
        background=state.linear[:n_background],
        strength=state.linear[n_background:],
        misfit=state.misfit,
        is_converged=is_converged,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Solved:
    lens: Lens
    gamma: Tensor
    columns: Tensor
    linear: Tensor
    residual: Tensor
    misfit: float


class _Problem:
    """The least squares of one spectrum; its rows are the pixels of all groups in one line."""

    def __init__(self, rings: Rings, microscope: Microscope, names: list[str]) -> None:
        self.rings, self.microscope, self.names = rings, microscope, names
        k = len(rings.values)
        self.background = _background(rings, N_BACKGROUND).repeat(k, 1)
        self.strength = rings.polynomials(N_ENVELOPE).repeat(k, 1)
        self.values = rings.values.flatten()
        wavelength = electron_wavelength_angstrom(microscope.voltage_kv)
        x, y = rings.frequencies.unbind(-1)
        along = -math.pi * wavelength * torch.stack([x * x + y * y, x * x - y * y, 2 * x * y], dim=-1)
        everything = dict(
            zip(("defocus_angstrom", "astigmatism_x_angstrom", "astigmatism_y_angstrom"), along.T, strict=True)
        )
        everything["phase_shift_degrees"] = torch.full_like(x, -math.pi / 180)
        self.slopes = torch.stack([everything[name] for name in names], dim=-1).repeat(k, 1)

    def solve(self, lens: Lens, weights: Tensor) -> _Solved:
        gamma = lens.gamma(self.rings.frequencies, self.microscope, self.rings.offset_angstrom).flatten()
        columns = torch.cat([self.background, gamma.sin().square()[:, None] * self.strength], dim=-1)
        w = weights.flatten()
        weighted = columns * w[:, None]
        normal = weighted.T @ columns
        normal.diagonal().mul_(1 + 1e-10)
        linear = torch.linalg.solve(normal, weighted.T @ self.values)
        residual = self.values - columns @ linear
        return _Solved(
            lens=lens,
            gamma=gamma,
            columns=columns,
            linear=linear,
            residual=residual.reshape(weights.shape),
            misfit=float((w * residual.square()).sum() / w.sum()),
        )

    def step(self, state: _Solved, weights: Tensor, damping: float) -> Tensor:
        strength = self.strength @ state.linear[self.background.shape[1] :]
        slopes = (strength * (2 * state.gamma).sin())[:, None] * self.slopes
        root = weights.flatten().sqrt()[:, None]
        basis, _ = torch.linalg.qr(state.columns * root)
        jacobian = slopes * root
        jacobian = jacobian - basis @ (basis.T @ jacobian)
        normal = jacobian.T @ jacobian
        normal.diagonal().mul_(1 + damping)
        scale = normal.diagonal().sqrt().clamp(min=1e-30)
        right = jacobian.T @ (state.residual.flatten() * root[:, 0])
        return torch.linalg.lstsq(normal / scale / scale[:, None], (right / scale)[:, None]).solution[:, 0] / scale

    def moved(self, lens: Lens, step: Tensor) -> Lens:
        return replace(
            lens, **{name: getattr(lens, name) + float(by) for name, by in zip(self.names, step, strict=True)}
        )


def _background(rings: Rings, number: int) -> Tensor:
    angle = 2 * torch.atan2(rings.frequencies[:, 1], rings.frequencies[:, 0])
    return torch.cat([rings.polynomials(number), angle.cos()[:, None], angle.sin()[:, None]], dim=-1)


def _huber(residual: Tensor) -> Tensor:
    deviation = 1.4826 * residual.abs().flatten().median()
    return (_OUTLIER_DEVIATIONS * deviation / residual.abs().clamp(min=1e-30)).clamp(max=1.0)
