"""The CTF of one image, with how well it is known."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.ctf_estimation import quality
from halfmap.ctf_estimation.fit import Fit, Lens, fit, lens_of
from halfmap.ctf_estimation.params import FINEST_PIXELS, CtfEstimationParams, check_resolution
from halfmap.ctf_estimation.periodogram import PowerSpectra
from halfmap.ctf_estimation.quality import RingProfile
from halfmap.ctf_estimation.rings import N_SECTORS, Microscope, Rings, rings_of
from halfmap.ctf_estimation.search import DefocusScores, candidates, defocus_scores
from halfmap.errors import InputError

LEAST_AGREEMENT = 0.5
"""Least correlation of what the two halves of the directions find by themselves."""

LEAST_PREDICTION = 0.3
"""Least correlation of rings with what the other half of the directions predicts."""

_N_CANDIDATES = 4
_WORTH_FITTING = 0.7


@dataclass(frozen=True, kw_only=True, eq=False)
class CtfEstimate:
    """The CTF of one image.

    Parameters
    ----------
    lens : defocus, astigmatism and phase shift.
    max_resolution_angstrom : to which rings follow the model; infinite where they never do.
    figure_of_merit : correlation of rings with what a fit to other directions predicts, −1 to 1.
    ice_ring_density : excess of power between 4.0 and 3.6 Å over that beside it; NaN for large pixels.
    ring_depth : height of the rings over the background.
    fold_agreement : correlation of the CTF² that two halves of the directions find by themselves.
    defocus_difference_angstrom : of fits to the two halves of the directions.
    failure : why this is not the image's CTF; empty where it is.
    fitted : the model over the frequencies that were fitted.
    fitted_limits : lowest and highest of these, 1/Å.
    profile : power averaged along lines of equal phase, out to the finest detail.
    correlation : of profile and model about each of its bins.
    """

    lens: Lens
    max_resolution_angstrom: float
    figure_of_merit: float
    ice_ring_density: float
    ring_depth: float
    fold_agreement: float
    defocus_difference_angstrom: float
    failure: str
    fitted: Fit
    fitted_limits: tuple[float, float]
    profile: RingProfile
    correlation: NDArray[np.float64]


def estimate(
    spectra: PowerSpectra,
    microscope: Microscope,
    params: CtfEstimationParams,
    *,
    phase_shift_degrees: float = 0.0,
    offset_angstrom: NDArray[np.float64] | None = None,
) -> CtfEstimate:
    """Estimate the CTF of an image from its power spectrum.

    Parameters
    ----------
    spectra : of the image, or of parts of it whose defoci differ by known amounts.
    microscope : of the image.
    params : what is fitted and tried.
    phase_shift_degrees : where it is known, and not looked for.
    offset_angstrom : defocus of each spectrum less that of the image, shape (k,).

    Raises
    ------
    InputError
        The resolution limits lie beyond what the spectrum holds.
    """
    check_resolution(spectra.grid.pixel_size_angstrom, params)
    problem = _Problem(spectra, microscope, params, offset_angstrom)
    rings = problem.rings(params.max_resolution_angstrom)
    scores = defocus_scores(rings, microscope, params, phase_shift_degrees=phase_shift_degrees)
    best = _best_fit(problem, rings, scores)
    agreement = _fold_agreement(scores, best.lens, problem, rings)
    profile, resolution, correlation = problem.followed(best.lens)
    finer = max(resolution, problem.finest_angstrom)
    if params.extend and agreement >= LEAST_AGREEMENT and finer < params.max_resolution_angstrom:
        rings = problem.rings(finer)
        best = problem.fit(rings, best.lens)
        profile, resolution, correlation = problem.followed(best.lens)
    folds = [rings.fold(number) for number in (0, 1)]
    halves = [problem.fit(fold, best.lens) for fold in folds]
    merit = 0.5 * sum(
        quality.predicted_correlation(halves[number], folds[1 - number], microscope, step=problem.step)
        for number in (0, 1)
    )
    return CtfEstimate(
        lens=best.lens,
        max_resolution_angstrom=resolution,
        figure_of_merit=merit,
        ice_ring_density=quality.ice_ring_density(problem.rings(problem.finest_angstrom)),
        ring_depth=quality.ring_depth(best, rings),
        fold_agreement=agreement,
        defocus_difference_angstrom=abs(halves[0].lens.defocus_angstrom - halves[1].lens.defocus_angstrom),
        failure=_failure(best, params, agreement, merit, resolution),
        fitted=best,
        fitted_limits=rings.limits,
        profile=profile,
        correlation=correlation,
    )


class _Problem:
    """A spectrum, and what is asked of it."""

    def __init__(
        self,
        spectra: PowerSpectra,
        microscope: Microscope,
        params: CtfEstimationParams,
        offset_angstrom: NDArray[np.float64] | None,
    ) -> None:
        self.spectra, self.microscope, self.params, self.offset = spectra, microscope, params, offset_angstrom
        self.step = 1 / (spectra.grid.side * spectra.grid.pixel_size_angstrom)
        self.finest_angstrom = min(params.max_resolution_angstrom, FINEST_PIXELS * spectra.grid.pixel_size_angstrom)

    def rings(self, max_resolution_angstrom: float) -> Rings:
        return rings_of(
            self.spectra,
            min_resolution_angstrom=self.params.min_resolution_angstrom,
            max_resolution_angstrom=max_resolution_angstrom,
            offset_angstrom=self.offset,
        )

    def fit(self, rings: Rings, start: Lens) -> Fit:
        params = self.params
        return fit(rings, self.microscope, start, astigmatism=params.astigmatism, phase_shift=params.phase_shift)

    def followed(self, lens: Lens) -> tuple[RingProfile, float, NDArray[np.float64]]:
        profile = quality.ring_profile(self.rings(self.finest_angstrom), self.microscope, lens, step=self.step)
        return profile, *quality.fit_resolution(profile, self.microscope, lens)


def _best_fit(problem: _Problem, rings: Rings, scores: DefocusScores) -> Fit:
    """Return the best fit from several starts; one whose rings are dark where the CTF is strong counts last."""
    found = candidates(scores, problem.params, number=_N_CANDIDATES)
    if not found:
        raise InputError(
            "A power spectrum must vary with the CTF of some defocus; got none that does; remove the micrograph."
        )
    worth = [one for one in found if one.score >= _WORTH_FITTING * found[0].score]
    fits = [problem.fit(rings, lens_of(one)) for one in worth]
    return min(fits, key=lambda one: (quality.ring_depth(one, rings) <= 0, one.misfit))


def _fold_agreement(scores: DefocusScores, whole: Lens, problem: _Problem, rings: Rings) -> float:
    """Return how well the fit agrees with what each half of the directions finds by itself, the worse of the two."""
    worst = 1.0
    for number in (0, 1):
        found = candidates(scores, problem.params, number=1, sectors=torch.arange(number, N_SECTORS, 2))
        lens = lens_of(found[0]) if found else Lens(defocus_angstrom=0.0)
        worst = min(worst, quality.lens_agreement(whole, lens, problem.microscope, rings.limits))
    return worst


def _failure(best: Fit, params: CtfEstimationParams, agreement: float, merit: float, resolution: float) -> str:
    if not math.isfinite(resolution) or agreement < LEAST_AGREEMENT or merit < LEAST_PREDICTION:
        return (
            "no rings that follow a CTF stand out: halves of the directions agree to "
            f"{agreement:.2f}, predict one another to {merit:.2f}"
        )
    reach = params.max_astigmatism_angstrom / 2 if params.astigmatism else 0.0
    low, high = params.min_defocus_angstrom - reach, params.max_defocus_angstrom + reach
    if not low <= best.lens.defocus_angstrom <= high:
        return f"the defocus ran out of its limits, to {best.lens.defocus_angstrom:.0f} Å"
    return ""
