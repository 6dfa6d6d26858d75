"""One pass over particles: an E-step against given references, and the M-step that follows it."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.state import Assignments, References
from halfmap.compute.executor import Executor
from halfmap.compute.progress import Progress
from halfmap.fourier.band import FourierBand
from halfmap.geometry.euler import array_from_euler, in_plane_degrees
from halfmap.inference import expectation, maximisation
from halfmap.inference.beliefs import Beliefs, measured_norms
from halfmap.inference.expectation import Model
from halfmap.inference.maximisation import Regularisation
from halfmap.inference.posterior import Search
from halfmap.inference.priors import Priors
from halfmap.inference.sampling import PoseGrid, own_rotations
from halfmap.inference.sums import Estimates, Sums
from halfmap.tensors import BandValues, Images

PADDING = 3
SCALE_SIGNAL_TO_NOISE = 3.0
"""Grey scales of micrographs are told by shells where the references' ratio of signal to noise is above this."""


def run_expectation(
    problem: ClassificationProblem,
    params: ClassificationParams,
    references: References,
    assignments: Assignments,
    beliefs: Beliefs,
    search: Search,
    rows: NDArray[np.int64],
    executor: Executor,
    *,
    iteration: int,
    pseudo_halves: bool = False,
    progress: Progress | None = None,
) -> Sums:
    """Compare particles with references; see `halfmap.inference.expectation.expect`."""
    told = (references.ssnr > SCALE_SIGNAL_TO_NOISE).any(0)
    keeps_rotation = params.skip_alignment or params.skip_rotation
    if keeps_rotation:
        search = replace(search, poses=own_rotations(search.poses, keep_origin=params.skip_alignment))
    model = Model(
        references=references.masked,
        padding=PADDING,
        priors=priors_of(references),
        noise_variance=beliefs.noise_variance,
        scale=beliefs.scale,
        norm=assignments.norm,
        origin_angstrom=assignments.origin_angstrom,
        search=search,
        rotation=in_plane(assignments.psi_degrees) if keeps_rotation else None,
        keep_origin=params.skip_alignment,
        iteration=iteration,
        pseudo_halves=pseudo_halves,
        scale_shell=int(torch.nonzero(told).max()) if bool(told.any()) else 0,
    )
    return expectation.expect(problem.sent, model, problem.data, rows, executor, progress=progress)


def average_best_poses(
    problem: ClassificationProblem,
    params: ClassificationParams,
    references: References,
    assignments: Assignments,
    beliefs: Beliefs,
    search: Search,
    rows: NDArray[np.int64],
    executor: Executor,
) -> Images:
    """Return plain averages of particles, each in its class at its most probable pose.

    Parameters
    ----------
    references : their number and priors count.
    assignments : those of an E-step over ``search``.

    Returns
    -------
    float32, shape (C, side, side): on the band of the search, without prior and without mask.

    Notes
    -----
    They owe nothing to the references but the poses, because they begin from nothing.
    """
    origin = torch.zeros((1, 2), dtype=torch.float64)
    turns = search.poses.fine_rotations
    keeps_rotation = params.skip_alignment or params.skip_rotation
    angles = torch.rad2deg(torch.atan2(turns[:, 0, 1], turns[:, 0, 0])).numpy()
    away = np.abs((assignments.psi_degrees[:, None] - angles + 180) % 360 - 180)
    poses = PoseGrid(rotations=turns, fine_rotations=turns, shifts_angstrom=origin, fine_shifts_angstrom=origin)
    row = assignments.class_index.copy() if keeps_rotation else assignments.class_index * len(turns) + away.argmin(1)
    nothing = torch.zeros_like(references.masked)
    model = Model(
        references=nothing,
        padding=PADDING,
        priors=priors_of(references),
        noise_variance=beliefs.noise_variance,
        scale=beliefs.scale,
        norm=assignments.norm,
        origin_angstrom=assignments.origin_angstrom,
        search=Search(
            poses=own_rotations(poses, keep_origin=True) if keeps_rotation else poses,
            coarse_shell=search.shell,
            fine_shell=search.shell,
            shell=search.shell,
        ),
        rotation=in_plane(assignments.psi_degrees) if keeps_rotation else None,
        keep_origin=True,
        assigned_row=row,
    )
    sums = expectation.expect(problem.sent, model, problem.data, rows, executor)
    band = FourierBand(problem.grid, max_shell=search.shell)
    gradient = maximisation.band_gradient(sums.gradient.sum(0), band)
    curvature = maximisation.within_mask(sums.curvature.sum(0), band, problem.mask_overlap)
    values = maximisation.unregularised(torch.zeros_like(gradient), gradient, curvature, band)
    return maximisation.on_images(values, band, problem.grid)


def in_plane(psi_degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rotations in the plane of the image, shape (n, 3, 3)."""
    return array_from_euler(0.0, 0.0, psi_degrees)


def priors_of(references: References) -> Priors:
    """Return the priors of classes and offsets."""
    return Priors(
        fractions=references.fractions,
        offset_sigma_angstrom=references.offset_sigma_angstrom,
        prior_offset_angstrom=references.prior_offset_angstrom,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class OnBand:
    """References and the sums over them on the band of a search; H pseudo-halves or 1, C classes.

    Parameters
    ----------
    band : of K coefficients.
    references : complex64, shape (C, K): those that images were compared with.
    gradient, curvature : shape (H, C, K); the curvature as the mask lets the references feel it.
    regularisation : with the references' own power.
    """

    band: FourierBand
    references: BandValues
    gradient: BandValues
    curvature: Tensor
    regularisation: Regularisation


def on_band(
    problem: ClassificationProblem,
    references: References,
    sums: Sums,
    shell: int,
    strength: float,
    *,
    expected: References | None = None,
) -> OnBand:
    """Bring references and sums of an E-step onto its band.

    Parameters
    ----------
    strength : T.
    expected : those whose power is the prior's; None: the references.
    """
    band = FourierBand(problem.grid, max_shell=shell)
    values = band.gather(problem.grid.rfft(references.masked))
    power = values if expected is None else band.gather(problem.grid.rfft(expected.masked))
    return OnBand(
        band=band,
        references=values,
        gradient=maximisation.band_gradient(sums.gradient, band),
        curvature=maximisation.within_mask(sums.curvature, band, problem.mask_overlap),
        regularisation=Regularisation(
            prior_variance=maximisation.shell_power(power, band), strength=strength / problem.data.mask_power
        ),
    )


def maximised(problem: ClassificationProblem, previous: References, sums: Sums, on: OnBand) -> References:
    """Return the references of the M-step of EM."""
    gradient, curvature = on.gradient.sum(0), on.curvature.sum(0)
    values = maximisation.maximise(on.references, gradient, curvature, on.regularisation, on.band)
    return described(problem, previous, sums, on, values, on.band)


def described(
    problem: ClassificationProblem,
    previous: References,
    sums: Sums,
    on: OnBand,
    values: BandValues,
    band: FourierBand,
) -> References:
    """Return references of given coefficients, shape (C, K) on ``band``, with what the sums say of them."""
    mass = sums.class_mass.sum(0)
    curvature = on.curvature.sum(0)
    priors = maximisation.class_priors(mass, sums.offset, sums.offset_square, priors_of(previous))
    mask = problem.data.mask
    unmasked = maximisation.on_background(maximisation.on_images(values, band, problem.grid), mask)
    weight = maximisation.shell_mean(curvature, on.band)
    plain = maximisation.unregularised(on.references, on.gradient.sum(0), curvature, on.band)
    seen = (curvature > 1e-3 * weight[:, on.band.shell_of].float()).float()
    return References(
        masked=unmasked * mask,
        unmasked=unmasked,
        plain=maximisation.on_background(maximisation.on_images(plain, on.band, problem.grid), mask),
        fractions=priors.fractions,
        prior_offset_angstrom=priors.prior_offset_angstrom,
        offset_sigma_angstrom=priors.offset_sigma_angstrom,
        ssnr=maximisation.signal_to_noise(curvature, on.regularisation, on.band),
        prior_variance=on.regularisation.prior_variance,
        error_variance=torch.where(weight > 0, 1 / weight, torch.zeros_like(weight)),
        completeness=maximisation.shell_mean(seen, on.band),
    )


def updated_assignments(
    assignments: Assignments, found: Estimates, *, groups: NDArray[np.int64] | None = None, kept: float = 0.0
) -> Assignments:
    """Return the assignments with those of some particles replaced.

    Parameters
    ----------
    groups : number of the noise spectrum of each of all particles, if their contrast is estimated too.
    kept : as for `updated_beliefs`.
    """
    rows = found.row
    norm = assignments.norm.copy()
    if groups is not None:
        norm[rows] = kept * norm[rows] + (1 - kept) * measured_norms(assignments.norm[rows], found, groups[rows])
    return replace(
        assignments,
        class_index=_put(assignments.class_index, rows, found.class_index),
        psi_degrees=_put(assignments.psi_degrees, rows, in_plane_degrees(found.rotation)),
        origin_angstrom=_put(assignments.origin_angstrom, rows, found.origin_angstrom),
        norm=norm,
        max_probability=_put(assignments.max_probability, rows, found.max_probability),
        log_likelihood=_put(assignments.log_likelihood, rows, found.log_likelihood),
        lost_mass=_put(assignments.lost_mass, rows, found.lost_mass),
        n_significant=_put(assignments.n_significant, rows, found.n_significant),
    )


def _put(values: NDArray, rows: NDArray[np.int64], new: NDArray) -> NDArray:
    result = values.copy()
    result[rows] = new
    return result
