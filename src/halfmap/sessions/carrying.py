"""What goes on from cycle to cycle: class averages, noise and poses, though the particles change."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.state import Assignments, ClassificationState
from halfmap.compute.executor import Executor
from halfmap.data.optics_groups import OpticsGroups
from halfmap.inference.first_noise import first_noise_variance

_NEVER = 1_000_000  # iterations: a session goes on
_INACTIVITY = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveState:
    """What a cycle leaves to the next.

    Parameters
    ----------
    state : of the classification; its assignments are those of all N particles, in the order of ``uid``.
    uid : int64, shape (N,).
    group_names : of the micrographs whose grey scales the state has.
    optics : of the noise spectra.
    side_pixel, pixel_size_angstrom : of the class averages.
    tracks : identity of each class over the cycles, int64, shape (C,).
    next_track : a number that no track has had.
    """

    state: ClassificationState
    uid: NDArray[np.int64]
    group_names: NDArray
    optics: OpticsGroups
    side_pixel: int
    pixel_size_angstrom: float
    tracks: NDArray[np.int64]
    next_track: int

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.tracks)


def assignments_for(before: LiveState | None, uid: NDArray[np.int64]) -> Assignments:
    """Return what is known of some particles, matched by their uids; those that are new belong to no class yet."""
    n = len(uid)
    unknown = Assignments(
        class_index=np.full(n, -1, dtype=np.int64),
        psi_degrees=np.zeros(n),
        origin_angstrom=np.zeros((n, 2)),
        norm=np.ones(n),
        max_probability=np.zeros(n),
        log_likelihood=np.zeros(n),
        lost_mass=np.zeros(n),
        n_significant=np.zeros(n, dtype=np.int64),
    )
    if before is None or not len(before.uid):
        return unknown
    order = np.argsort(before.uid)
    place = np.searchsorted(before.uid[order], uid).clip(max=len(order) - 1)
    known = np.flatnonzero(before.uid[order][place] == uid)
    return put(unknown, known, before.state.assignments, order[place[known]])


def put(target: Assignments, rows: NDArray, source: Assignments, source_rows: NDArray | None = None) -> Assignments:
    """Return assignments with some rows taken from others."""
    changed = {}
    for name in vars(target):
        values, new = np.array(getattr(target, name)), getattr(source, name)
        values[rows] = new if source_rows is None else new[source_rows]
        changed[name] = values
    return replace(target, **changed)


def entering(
    before: LiveState,
    problem: ClassificationProblem,
    params: ClassificationParams,
    executor: Executor,
    *,
    automask: bool,
) -> ClassificationState:
    """Return the state in which a cycle begins: the last one's, for the particles of this one.

    Notes
    -----
    Noise spectra are kept while the optics groups are the same; else they are measured from the images anew. New
    micrographs have the grey scale 1.
    """
    state, optics = before.state, problem.particles.optics
    same = len(optics) == len(before.optics) and all(
        np.array_equal(optics[name], before.optics[name]) for name in before.optics.columns if name in optics
    )
    noise = state.noise_variance if same else first_noise_variance(problem.data)
    known = dict(zip(before.group_names.tolist(), state.scale.tolist(), strict=True))
    scale = np.array([known.get(name, 1.0) for name in problem.group_names.tolist()])
    references = state.references
    if automask:
        masked = automasked(references.unmasked, problem, params)
        references = replace(references, masked=masked * problem.data.mask)
    return replace(
        state,
        algorithm="em",
        references=references,
        assignments=assignments_for(before, problem.particles.uid),
        noise_variance=noise,
        scale=scale,
        psi_step_degrees=params.psi_step_degrees,
        offset_step_angstrom=params.offset_step.to_angstrom(problem.grid.pixel_size_angstrom),
        outcome="running",
        closing=None,
        history={name: values[-1:] for name, values in state.history.items()},
    )


def tracks_after(
    before: LiveState, entered: ClassificationState, left: ClassificationState
) -> tuple[NDArray[np.int64], int, list[tuple[int, int]]]:
    """Return the tracks of the classes after a cycle: a class that became the twin of another begins a new one.

    Returns
    -------
    tracks : shape (C,).
    next_track : a number that no track has had.
    born : new track and that of the class whose twin it is.

    Notes
    -----
    Twins have the same share exactly, and the one that lost its place has the fewer particles.
    """
    tracks, next_track, born = before.tracks.copy(), before.next_track, []
    if int(left.history["revived_classes"][-1]) > 0:
        counts = np.bincount(left.assignments.class_index.clip(min=0), minlength=len(tracks))
        fractions = left.references.fractions.numpy()
        pairs = [
            (int(counts[dead] - counts[donor]), dead, donor)
            for donor in range(len(tracks))
            for dead in range(len(tracks))
            if dead != donor and fractions[dead] == fractions[donor] and counts[dead] <= counts[donor]
        ]
        if pairs:
            _, dead, donor = min(pairs)
            tracks[dead] = next_track
            born.append((next_track, int(tracks[donor])))
            next_track += 1
    return tracks, next_track, born


def automasked(averages: Tensor, problem: ClassificationProblem, params: ClassificationParams) -> Tensor:
    """Return class averages half of which is left out beyond the particle.

    Notes
    -----
    cisTEM's treatment, by its description: the average, low-passed at 20 Å, is cut at 2 % of the way from its mean to
    that of its 500 brightest pixels within the mask; of what is above, the largest connected piece, grown by 5 Å and
    with its holes filled, is kept; the result is averaged with the average itself.
    """
    from scipy import ndimage

    from halfmap.fourier.filters import apply_filter

    grid, mask = problem.grid, problem.data.mask.numpy() > 0.5
    frequency = grid.frequencies().norm(dim=-1)
    low = apply_filter(averages, grid, torch.exp(-0.5 * (frequency * 20.0).square()).to(averages.dtype)).numpy()
    steps = max(1, round(5.0 / grid.pixel_size_angstrom))
    result = averages.clone()
    for number, image in enumerate(low):
        inside = np.sort(image[mask])
        level = inside.mean() + 0.02 * (inside[-500:].mean() - inside.mean())
        pieces, n = ndimage.label((image > level) & mask)
        if n == 0:
            continue
        largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
        kept = ndimage.binary_fill_holes(ndimage.binary_dilation(pieces == largest, iterations=steps))
        result[number] = torch.where(torch.from_numpy(np.asarray(kept)), averages[number], 0.5 * averages[number])
    return result


def params_of_cycle(
    *, classes: int, mask_radius_angstrom: float, resolution_angstrom: float, first_resolution_angstrom: float,
    autocentre: bool, revives: bool, seed: int, grid_angstrom: float,
) -> ClassificationParams:  # fmt: skip
    """Return the parameters of the one iteration that a cycle is.

    Parameters
    ----------
    grid_angstrom : side of the box: a mask that is wider is cut to it.
    """
    return ClassificationParams(
        classes=classes,
        mask_diameter_angstrom=min(2 * mask_radius_angstrom, grid_angstrom),
        algorithm="em",
        iterations=_NEVER,
        stop_early=False,
        closing_passes=0,
        max_alignment_resolution_angstrom=resolution_angstrom,
        initial_low_pass_angstrom=first_resolution_angstrom,
        center=autocentre,
        class_inactivity=_INACTIVITY if revives else 0.0,
        seed=seed,
    )


def finite(value: float) -> float | None:
    """Return a number as JSON holds it."""
    return float(value) if math.isfinite(value) else None
