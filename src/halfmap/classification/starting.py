"""References and noise spectra from which a classification starts, made of the images themselves."""

import math

import numpy as np
import torch

from halfmap.classification import initial
from halfmap.classification.params import ClassificationParams
from halfmap.classification.passes import PADDING
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.state import Assignments, References
from halfmap.compute.executor import Executor
from halfmap.fourier.band import FourierBand
from halfmap.fourier.shells import n_shells
from halfmap.inference import expectation, maximisation
from halfmap.inference.beliefs import Beliefs
from halfmap.inference.expectation import Model
from halfmap.inference.first_noise import NOISE_IMAGES, some_rows
from halfmap.inference.posterior import Search
from halfmap.inference.priors import Priors
from halfmap.inference.sampling import in_plane_grid

_ANGLES = 60


def low_pass_angstrom(problem: ClassificationProblem, params: ClassificationParams) -> float:
    """Return the resolution of the first references in Å."""
    return params.initial_low_pass_angstrom or initial.first_low_pass_angstrom(problem.grid.pixel_size_angstrom)


def first_shell(problem: ClassificationProblem, params: ClassificationParams) -> int:
    """Return the last shell of the first E-step: that of the first references, and the usual way beyond."""
    last = problem.grid.side // 2 - 1
    return min(reference_shell(problem, params) + params.resolution_increment_shells, last)


def reference_shell(problem: ClassificationProblem, params: ClassificationParams) -> int:
    """Return the last shell of the first references: where the soft edge of their low-pass ends."""
    grid = problem.grid
    shell = math.ceil(grid.side * grid.pixel_size_angstrom / low_pass_angstrom(problem, params) - 1e-9) + 1
    return max(1, min(shell, grid.side // 2 - 1))


def references(
    problem: ClassificationProblem,
    params: ClassificationParams,
    assignments: Assignments,
    beliefs: Beliefs,
    executor: Executor,
) -> References:
    """Make first references: means of random particles at random angles, seen through a few blobs.

    Notes
    -----
    Particles are dealt out at random angles and averaged without prior; see `halfmap.classification.initial.blobs`.
    """
    C, grid = params.classes, problem.grid
    n = len(problem.particles)
    rows = some_rows(np.arange(n), max(NOISE_IMAGES, 5 * C), problem.particles, params.seed)
    shell = reference_shell(problem, params)
    poses = in_plane_grid(
        psi_step_degrees=360.0 / _ANGLES, offset_range_angstrom=0.0, offset_step_angstrom=1.0, oversampling=0
    )
    classes, psi = initial.dealt_out(params.seed, problem.particles.uid[rows], C)
    assigned = np.zeros(n, dtype=np.int64)
    assigned[rows] = classes * _ANGLES + (psi / 360.0 * _ANGLES).astype(np.int64)
    priors = Priors(
        fractions=torch.full((C,), 1 / C, dtype=torch.float64),
        offset_sigma_angstrom=params.initial_offset_sigma_angstrom,
        prior_offset_angstrom=torch.zeros((C, 2), dtype=torch.float64),
    )
    nothing = torch.zeros((C, *grid.shape), dtype=torch.float32)
    model = Model(
        references=nothing,
        padding=PADDING,
        priors=priors,
        noise_variance=beliefs.noise_variance,
        scale=beliefs.scale,
        norm=assignments.norm,
        origin_angstrom=assignments.origin_angstrom,
        search=Search(poses=poses, coarse_shell=shell, fine_shell=shell, shell=shell),
        assigned_row=assigned,
    )
    sums = expectation.expect(problem.sent, model, problem.data, rows, executor)
    band = FourierBand(grid, max_shell=shell)
    gradient, weight = sums.gradient[0], sums.curvature[0]
    floor = 1e-3 * maximisation.shell_mean(weight, band)[:, band.shell_of].float()
    values = maximisation.band_gradient(gradient, band) / torch.maximum(weight, floor).clamp(min=1e-30)
    images = initial.first_references(
        maximisation.on_images(values, band, grid),
        grid,
        params.mask_diameter_angstrom,
        seed=params.seed,
        low_pass_angstrom=low_pass_angstrom(problem, params),
        mask_edge_angstrom=params.mask_edge_pixel * grid.pixel_size_angstrom,
    )
    spectrum = torch.zeros((C, n_shells(grid)), dtype=torch.float64)
    return References(
        masked=images,
        unmasked=images,
        plain=images,
        fractions=priors.fractions,
        prior_offset_angstrom=priors.prior_offset_angstrom,
        offset_sigma_angstrom=priors.offset_sigma_angstrom,
        ssnr=spectrum,
        prior_variance=spectrum,
        error_variance=spectrum,
        completeness=spectrum,
    )
