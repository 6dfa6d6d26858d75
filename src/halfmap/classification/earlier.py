"""What a 2D classification takes over from an earlier one, of any program: class averages, classes and poses."""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.classification import decisions
from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.state import Assignments, References
from halfmap.data.class_averages import ClassRun
from halfmap.errors import InputError
from halfmap.fourier.resample import rescale_to_pixel_size
from halfmap.fourier.shells import n_shells
from halfmap.geometry.euler import in_plane_degrees
from halfmap.grid import ImageGrid


def check_earlier(run: ClassRun, params: ClassificationParams) -> None:
    """Refuse an earlier classification with another number of classes.

    Raises
    ------
    InputError
        Its number of classes is not the one asked for, or no class has particles.
    """
    n = len(run.averages)
    if n != params.classes:
        raise InputError(
            f"--classes must be the number of classes of the classification to start from; got {params.classes} "
            f"where that has {n}; give --classes {n}, or continue it with --continue, which takes over its parameters."
        )
    if not _fractions(run).sum() > 0:
        raise InputError(
            f"The classification to start from must have particles in its classes; got none after its iteration "
            f"{run.iteration}; name a later one."
        )


def references_of(run: ClassRun, problem: ClassificationProblem, params: ClassificationParams) -> References:
    """Return the class averages of a run as references, on the grid of the problem.

    Raises
    ------
    InputError
        As of `check_earlier`.
    """
    check_earlier(run, params)
    grid, averages = problem.grid, run.averages
    C = len(averages)
    fractions = torch.from_numpy(_fractions(run))
    whole = "unmasked_average" if "unmasked_average" in averages else "average"
    unmasked = _on_grid(averages[whole], averages.grid, grid)
    spectrum = torch.zeros((C, n_shells(grid)), dtype=torch.float64)
    ssnr = _spectrum_on_grid(averages["ssnr"], averages.grid, grid) if "ssnr" in averages else spectrum
    sigma = run.offset_sigma_angstrom
    return References(
        masked=unmasked * problem.data.mask,
        unmasked=unmasked,
        plain=unmasked,
        fractions=fractions / fractions.sum(),
        prior_offset_angstrom=torch.from_numpy(np.array(averages.get("prior_offset_angstrom", 0.0)) + np.zeros((C, 2))),
        offset_sigma_angstrom=sigma if math.isfinite(sigma) and sigma > 0 else params.initial_offset_sigma_angstrom,
        ssnr=ssnr,
        prior_variance=spectrum,
        error_variance=spectrum,
        completeness=spectrum,
    )


def assignments_of(run: ClassRun, problem: ClassificationProblem, unknown: Assignments) -> Assignments:
    """Return what is known of the particles, with classes and poses of those that the run knows too, by their uid.

    Parameters
    ----------
    unknown : what is known of the others.
    """
    particles = run.particles
    uids, first = np.unique(particles.uid, return_index=True)
    mine = problem.particles.uid
    place = np.searchsorted(uids, mine).clip(max=len(uids) - 1)
    rows = np.flatnonzero(uids[place] == mine)
    source = first[place[rows]]
    found = {
        "class_index": particles.get("class_number", 0)[source] - 1,
        "origin_angstrom": particles.get("origin_angstrom", 0.0)[source],
    }
    if "rotation" in particles:
        rotation = particles["rotation"][source]
        found["psi_degrees"] = in_plane_degrees(rotation)
    changed = {name: _put(getattr(unknown, name), rows, values) for name, values in found.items()}
    return replace(unknown, **changed)


def first_shell(run: ClassRun, problem: ClassificationProblem, params: ClassificationParams) -> int:
    """Return the last shell of the first E-step: the usual way beyond the best class's model resolution."""
    grid = problem.grid
    resolution = np.asarray(run.averages.get("ssnr_resolution_angstrom", np.inf), dtype=np.float64)
    field = grid.side * grid.pixel_size_angstrom
    resolved = int(np.floor(field / resolution.min() + 0.5)) if np.isfinite(resolution).any() else 0
    ssnr = (np.arange(n_shells(grid)) <= resolved).astype(np.float64)
    return decisions.current_shell(ssnr, grid.side, params.resolution_increment_shells)


def _fractions(run: ClassRun) -> NDArray[np.float64]:
    averages = run.averages
    counts = np.asarray(averages["n_particles"], dtype=np.float64)
    fractions = np.asarray(averages.get("fraction", np.nan), dtype=np.float64)
    usable = np.isfinite(fractions).all() and fractions.sum() > 0
    return np.array(fractions if usable else counts)


def _on_grid(images: NDArray[np.float32], own: ImageGrid, grid: ImageGrid) -> Tensor:
    values = torch.from_numpy(np.array(images, dtype=np.float32))
    if own == grid:
        return values
    return rescale_to_pixel_size(values, own, grid.pixel_size_angstrom, grid.side)[0]


def _spectrum_on_grid(spectrum: NDArray[np.float64], own: ImageGrid, grid: ImageGrid) -> Tensor:
    """Return spectra at the shells of another grid, by their frequencies; 0 beyond those known."""
    values = np.nan_to_num(np.asarray(spectrum, dtype=np.float64))
    known = np.arange(values.shape[1]) / (own.side * own.pixel_size_angstrom)
    wanted = np.arange(n_shells(grid)) / (grid.side * grid.pixel_size_angstrom)
    return torch.from_numpy(np.stack([np.interp(wanted, known, row, right=0.0) for row in values]))


def _put(values: NDArray, rows: NDArray[np.int64], new: NDArray) -> NDArray:
    result = np.array(values)
    result[rows] = new
    return result
