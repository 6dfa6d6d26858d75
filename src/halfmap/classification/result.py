"""What a classification leaves: its classes, particles and noise, as nouns."""

import numpy as np
import torch
from torch import Tensor

from halfmap.classification import decisions
from halfmap.classification.closing import chance_deviation, last_shared_shell
from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.state import ClassificationState, References
from halfmap.data.class_averages import ClassAverages, ClassRun, NoiseModel
from halfmap.data.particles import ParticleSet
from halfmap.fourier import shells
from halfmap.fourier.shells import resolution_at_threshold
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid

FRC_THRESHOLD = 0.143
SIGNIFICANT_DEVIATIONS = 3.0
"""Of noise, by which halves must agree to have a resolution: one class of noise in a thousand does."""


def class_run(problem: ClassificationProblem, params: ClassificationParams, state: ClassificationState) -> ClassRun:
    """Return a state as what files, reports and selections take; any iteration will do."""
    assignments, references = state.assignments, state.references
    seen = assignments.class_index >= 0
    pixel = problem.grid.pixel_size_angstrom
    n_seen = max(int(seen.sum()), 1)
    return ClassRun(
        averages=_averages(problem, params, state),
        particles=_particles(problem, state),
        noise=NoiseModel(
            optics_group=problem.optics_numbers,
            noise_variance=state.noise_variance.numpy(),
            group_name=problem.group_names,
            group_scale=state.scale,
        ),
        mask_diameter_angstrom=params.mask_diameter_angstrom,
        iteration=state.iteration,
        n_iterations=params.iterations if state.algorithm == "em" else params.minibatches,
        algorithm=state.algorithm,
        regularisation=params.regularisation,
        psi_step_degrees=state.psi_step_degrees,
        offset_range_angstrom=params.offset_range.to_angstrom(pixel),
        offset_step_angstrom=state.offset_step_angstrom,
        offset_sigma_angstrom=references.offset_sigma_angstrom,
        current_size_pixel=2 * state.shell,
        log_likelihood=float(assignments.log_likelihood[seen].sum()),
        mean_max_probability=float(assignments.max_probability[seen].sum() / n_seen),
        seed=params.seed,
        perturbation=state.perturbation,
        perturbation_factor=params.perturbation,
        settings={
            "rlnDoCorrectCtf": str(int(params.ctf)),
            "rlnDoIgnoreCtfUntilFirstPeak": str(int(params.ctf_intact_first_peak)),
            "rlnDoZeroMask": str(int(params.mask == "zeros")),
            "rlnDoCorrectNorm": str(int(params.norm_correction)),
            "rlnDoCorrectScale": str(int(params.scale_correction)),
            "rlnDoSkipAlign": str(int(params.skip_alignment)),
            "rlnDoSkipRotate": str(int(params.skip_rotation)),
            "rlnAdaptiveOversampleFraction": f"{params.kept_mass:g}",
            "rlnWidthMaskEdge": f"{params.mask_edge_pixel:g}",
            "rlnHighresLimitExpectation": f"{params.max_alignment_resolution_angstrom or -1:g}",
            "rlnLowresLimitExpectation": f"{params.min_alignment_resolution_angstrom or -1:g}",
            "rlnIncrementImageSize": str(params.resolution_increment_shells),
        },
    )


def _averages(
    problem: ClassificationProblem, params: ClassificationParams, state: ClassificationState
) -> ClassAverages:
    references, grid = state.references, problem.grid
    C = len(references.masked)
    index = state.assignments.class_index
    closing = state.closing
    frc = closing.frc if closing is not None else torch.full_like(references.ssnr, torch.nan)
    unmasked = references.unmasked if closing is None else weighted_by_frc(references, frc, grid, closing.join_shell)
    columns = {
        "average": (unmasked * problem.data.mask).numpy(),
        "unmasked_average": unmasked.numpy(),
        "n_particles": np.bincount(index[index >= 0], minlength=C),
        "fraction": references.fractions.numpy(),
        "score": np.full(C, np.nan),
        "frc_resolution_angstrom": frc_resolutions(
            frc,
            grid,
            last_shared_shell(closing.join_shell if closing is not None else 0, grid, params.mask_diameter_angstrom),
            problem.data.mask,
        ),
        "ssnr_resolution_angstrom": ssnr_resolutions(references.ssnr, grid),
        "rotation_accuracy_degrees": state.rotation_accuracy_degrees.numpy(),
        "offset_accuracy_angstrom": state.offset_accuracy_angstrom.numpy(),
        "prior_offset_angstrom": references.prior_offset_angstrom.numpy(),
        "fourier_completeness": references.completeness[:, 1 : state.shell + 1].mean(-1).numpy(),
        "frc": frc.numpy(),
        "ssnr": references.ssnr.numpy(),
        "prior_variance": references.prior_variance.numpy(),
        "error_variance": references.error_variance.numpy(),
        "completeness": references.completeness.numpy(),
    }
    return ClassAverages(columns=columns, grid=grid)


def weighted_by_frc(references: References, frc: Tensor, grid: ImageGrid, join_shell: int) -> Tensor:
    """Return the averages of all particles, each shell weighted by what the halves' FRC says is signal.

    Parameters
    ----------
    frc : of the closing stage, shape (C, n_shells); nan beyond the shells that were compared.
    join_shell : the last in which the halves were joined.

    Returns
    -------
    float32, shape (C, side, side). Classes without FRC, or with none above 0, keep their regularised averages.

    Notes
    -----
    With F the FRC of halves, 2F/(1+F) is the share of signal in the power of both together, and so the weight of the
    Wiener filter. F is the mean over three shells, and 0 from where it first is not positive beyond the join: of a few
    particles the first shells, of a handful of coefficients, may be negative by chance, and would end all. The
    regularised average is no substitute: its prior is its own power, which loses shells where signal is weaker than
    noise, and particles that were aligned to one reference keep shells that hold noise only.
    """
    known = torch.nan_to_num(frc, nan=0.0)
    # of DC, a single number, the FRC is a sign alone
    known[:, 0] = known[:, 1]
    smooth = torch.nn.functional.avg_pool1d(
        torch.nn.functional.pad(known[:, None], (1, 1), mode="replicate"), kernel_size=3, stride=1
    )[:, 0]
    goes_on = (smooth > 0) | (torch.arange(smooth.shape[1]) <= join_shell)
    positive = torch.cumprod(goes_on.double(), dim=1) * smooth.clamp(0, 1)
    weight = shells.spread(2 * positive / (1 + positive), grid).float()
    filtered = grid.irfft(grid.rfft(references.plain) * weight)
    has_frc = (positive > 0).any(1)
    return torch.where(has_frc[:, None, None], filtered, references.unmasked)


def frc_resolutions(frc: Tensor, grid: ImageGrid, shared_shell: int, mask: Tensor) -> np.ndarray:
    """Return the resolution of each class at which its halves' FRC falls below 0.143, in Å, shape (C,).

    Parameters
    ----------
    frc : shape (C, n_shells).
    shared_shell : the last in which the halves shared anything, see `halfmap.classification.closing.last_shared_shell`.
    mask : within which they were compared, shape (side, side).

    Returns
    -------
    nan for a class without FRC, and for one whose halves agree no better than noise may: where the FRC, as the mean
    over the shells beyond those shared up to the resolution, is below 3 standard deviations of noise.

    Notes
    -----
    Shells up to ``shared_shell`` say nothing, so a class whose FRC is below the threshold right beyond has none. Of
    noise every fifth class, of however many particles, is above it there by chance, because a ring has few
    coefficients: `halfmap.classification.closing.chance_deviation`. The shells are taken together, as one, so that a
    class that agrees a little in many of them counts as well as one that agrees much in few.

    References
    ----------
    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721, for 0.143; van Heel and Schatz 2005, J. Struct. Biol. 151,
    250, for 3σ.
    """
    resolutions = np.full(len(frc), np.nan)
    counts = shells.shell_counts(grid)
    crossings = frc_crossings(frc, grid, shared_shell)
    for c in np.flatnonzero(np.isfinite(crossings)):
        curve = torch.nan_to_num(frc[c], nan=0.0)
        last = shared_shell + int((curve[shared_shell + 1 :] >= FRC_THRESHOLD).cumprod(0).sum())
        above = slice(shared_shell + 1, last + 1)
        mean = float((curve * counts)[above].sum() / counts[above].sum())
        if mean >= SIGNIFICANT_DEVIATIONS * chance_deviation(mask, grid, shared_shell + 1, last):
            resolutions[c] = crossings[c]
    return resolutions


def frc_crossings(frc: Tensor, grid: ImageGrid, first: int) -> np.ndarray:
    """Return where curves fall below 0.143 after a shell, in Å, shape (C,), whatever chance may do.

    Parameters
    ----------
    frc : shape (C, n_shells).
    first : shells up to this one are not looked at.

    Returns
    -------
    nan for a curve that is nan throughout, and for one that is below the threshold right after ``first``.
    """
    found = np.full(len(frc), np.nan)
    for c, curve in enumerate(frc):
        known = torch.nan_to_num(curve, nan=0.0)
        known[: first + 1] = 1.0
        if first + 1 < len(known) and float(known[first + 1]) >= FRC_THRESHOLD and not bool(curve.isnan().all()):
            found[c] = resolution_at_threshold(known, grid, FRC_THRESHOLD)
    return found


def ssnr_resolutions(ssnr: Tensor, grid: ImageGrid) -> np.ndarray:
    """Return the resolution at which the model's signal-to-noise ratio falls below 1, in Å; inf where there is none."""
    resolved = decisions.resolved_shell(ssnr.numpy())
    field = grid.side * grid.pixel_size_angstrom
    with np.errstate(divide="ignore"):
        return np.where(resolved > 0, field / resolved, np.inf)


def _particles(problem: ClassificationProblem, state: ClassificationState) -> ParticleSet:
    found = state.assignments
    zero = np.zeros(len(found.psi_degrees))
    rotation = matrix_from_euler(zero, zero, found.psi_degrees).numpy()
    return problem.particles.with_columns(
        class_number=found.class_index + 1,
        rotation=rotation,
        origin_angstrom=found.origin_angstrom,
        norm_correction=found.norm,
        max_probability=found.max_probability,
        log_likelihood=found.log_likelihood,
        n_significant=found.n_significant,
        group_name=problem.group_names[problem.data.micrograph],
    )
