"""What a 3D refinement decides between iterations: pure functions of numbers, tested as tables.

How far in frequency to look, how finely to sample, and when poses have settled. RELION's rules (auto_refine), but for
what is said to differ.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap.geometry.symmetry import operators
from halfmap.geometry.symmetry_names import canonical_name
from halfmap.inference.sampling import shell_of_arc
from halfmap.refinement.state import PoseSampling, Progression

LOCAL_SIGMA_STEPS = 2.0
"""Standard deviation of the prior of a local search, in fine steps of rotation."""

LOCAL_CUTOFF_SIGMAS = 3.0
"""Standard deviations to which a local search reaches."""

_FINEST_ORDER = 10
_SAFETY = 0.75
_COARSEST_OFFSET_STEP_ANGSTROM = 1.5
_SETTLED_STEPS = 0.40
_SLACK = 1.03
_POSES_UNKNOWN_DEGREES = 10.0
_GROWING_NATS = 0.1
_SHARPER_POWER = 2.0
_LEAST_INCREMENT = 10
_MOST_ROTATIONS_AT_ONCE = 100_000

Curve = ArrayLike | Tensor
"""One value for each shell from DC on."""


def first_orders(symmetry: str, healpix_order: int | None, local_from_order: int | None) -> tuple[int, int]:
    """Return the order of the first coarse sampling, and that from which poses are searched locally.

    Parameters
    ----------
    symmetry : point group.
    healpix_order, local_from_order : what the user asks for; None: our choice.

    Returns
    -------
    Asked for, or 2 and 4, fine steps of 7.5° and 1.9°; for T, O and I 3 and 5, 3.7° and 0.9°: their particles
    look alike from directions that are close.

    Raises
    ------
    InputError
        No such group.
    """
    finer = int(canonical_name(symmetry)[0] in "TOI")
    first = 2 + finer if healpix_order is None else healpix_order
    local = 4 + finer if local_from_order is None else local_from_order
    return first, local


def crossing_shell(fsc: Curve, threshold: float = 0.143) -> int:
    """Return the last shell before a curve first falls below a threshold.

    Parameters
    ----------
    fsc : shape (n_shells,); nan counts as below. DC is not looked at.

    Returns
    -------
    0 where the first shell is below already, the last shell where none is.
    """
    below = np.flatnonzero(~(_curve(fsc)[1:] >= threshold))
    return int(below[0]) if below.size else max(len(_curve(fsc)) - 1, 0)


def resolution_shell(fsc: Curve, *, threshold: float = 0.5) -> int:
    """Return the last shell that is resolved.

    Parameters
    ----------
    fsc : between half-maps, shape (n_shells,).
    threshold : 0.5 is where the FSC's ratio of signal to noise is 1.

    Returns
    -------
    `crossing_shell`, but a dip is passed over where the curve then stands above for more shells than the dip is
    long, and for more than three.

    Notes
    -----
    RELION takes any shell above as resolved that lies more than three beyond the first fall. A dip that a longer
    stretch of signal follows is made by a zero that the contrast transfer of all images shares, or by a belt of
    disorder, and stopping there would stop a refinement. A short rise after a long gap is what copies of a particle in
    both halves or a mask make; it is not followed.
    """
    above = _curve(fsc)[1:] >= threshold
    last = crossing_shell(fsc, threshold)
    while True:
        beyond = np.flatnonzero(above[last:])
        if beyond.size == 0:
            return last
        start = last + int(beyond[0])
        falls = np.flatnonzero(~above[start:])
        end = start + int(falls[0]) if falls.size else len(above)
        if end - start <= max(3, start - last):
            return last
        last = end


def next_shell(
    current_shell_05: int,
    shell_0143: int,
    previous_shell: int,
    fsc: Curve,
    mean_max_probability: float,
    side: int,
    max_shell: int | None = None,
) -> int:
    """Return the last shell that the next E-step compares.

    Parameters
    ----------
    current_shell_05, shell_0143 : to which the FSC stands above 0.5 and 0.143.
    previous_shell : the last that the E-step before compared.
    fsc : between half-maps, shape (n_shells,).
    mean_max_probability : of the most probable pose, over particles.
    side : of the images, in pixels.
    max_shell : the user's limit.

    Returns
    -------
    The shell of FSC 0.5 plus ten, or plus the number of shells between FSC 0.5 and 0.143 and five more; plus a quarter
    of Nyquist's where poses are certain (mean above 0.1) and the FSC still exceeds 0.2 at the last shell compared, if
    that is more. Within the band of the images and the limit.

    Notes
    -----
    In RELION the large step, once taken, is taken for ever, and it may be smaller than the other in small boxes.
    """
    curve = _curve(fsc)
    increment = max(_LEAST_INCREMENT, shell_0143 - current_shell_05 + 5)
    at_limit = curve[previous_shell] if 0 <= previous_shell < len(curve) else math.nan
    if mean_max_probability > 0.1 and at_limit > 0.2:
        increment = max(increment, side // 8)
    last = side // 2 - 1 if max_shell is None else min(side // 2 - 1, max_shell)
    return max(1, min(current_shell_05 + increment, last))


def last_shell(fsc: Curve, masked_fsc: Curve, band_shell: int, side: int) -> int:
    """Return the last shell of the last iteration, in which both halves make one map.

    Parameters
    ----------
    fsc : between half-maps, shape (n_shells,).
    masked_fsc : the same in a solvent mask, corrected for what the mask adds.
    band_shell : last shell that the half-maps were made of.
    side : of the images, in pixels.

    Returns
    -------
    1.5 times the shell to which the FSC, in the mask or without, stands above 0.143, at least ten beyond that without,
    so that both curves are seen to fall to zero; the last of the images where the one in the mask has not fallen within
    the band. Within the band of the images.

    Notes
    -----
    RELION always goes to Nyquist, where in finely sampled images most coefficients are noise that only costs time.
    """
    shell, in_mask = resolution_shell(fsc, threshold=0.143), crossing_shell(masked_fsc)
    last = side // 2 - 1
    if in_mask >= band_shell:
        return last
    return max(1, min(max(math.ceil(1.5 * max(shell, in_mask) - 1e-9), shell + _LEAST_INCREMENT), last))


def coarse_shell(
    coarse_step_degrees: float, mask_diameter_angstrom: float, field_angstrom: float, fine_shell: int
) -> int:
    """Return the last shell that a first pass with coarse rotations compares.

    Parameters
    ----------
    coarse_step_degrees : of rotations.
    field_angstrom : side of the images.
    fine_shell : last shell of the second pass, which this one does not exceed.

    Notes
    -----
    The factor is RELION's in 3D; see `halfmap.inference.sampling.shell_of_arc`.
    """
    return shell_of_arc(coarse_step_degrees, mask_diameter_angstrom, field_angstrom, fine_shell, divisor=1.2)


def join_shell(join_resolution_angstrom: float, resolution_angstrom: float, field_angstrom: float) -> int:
    """Return the shell up to which both halves are joined.

    Parameters
    ----------
    join_resolution_angstrom : no finer than this.
    resolution_angstrom : so far, which is not exceeded either; before the first FSC the low-pass of the reference.
    field_angstrom : side of the images.

    Returns
    -------
    The first shell that reaches the coarser of both; 0, nothing is joined, where the resolution is infinite.
    """
    return max(0, math.ceil(field_angstrom / max(join_resolution_angstrom, resolution_angstrom) - 1e-9))


def next_sampling(
    sampling: PoseSampling,
    progression: Progression,
    *,
    rotation_accuracy_degrees: float,
    offset_accuracy_angstrom: float,
    offset_change_angstrom: float,
    resolution_angstrom: float,
    mask_diameter_angstrom: float,
    local_from_order: int,
    finer_faster: bool = False,
) -> tuple[PoseSampling, Progression]:
    """Return the sampling of the next iteration, finer where the present one has given all it can.

    Parameters
    ----------
    sampling, progression : after the last iteration.
    rotation_accuracy_degrees, offset_accuracy_angstrom : expected errors of poses; nan: unknown.
    offset_change_angstrom : of the last iteration, of `changes`.
    resolution_angstrom : of the last iteration; inf before the first.
    local_from_order : order of the coarse sampling from which poses are searched locally.
    finer_faster : do not wait for poses to settle, nor for the resolution where it asks for finer steps.

    Returns
    -------
    sampling : the same; or of the next order, with the steps and range of offsets that the accuracy and the last
        changes ask for.
    progression : the same; or with ``is_fine_enough`` where the fine step is below three quarters of the expected
        error; or begun anew, but for the resolution, at a new sampling.

    Notes
    -----
    Offsets (RELION's updateAngularSampling): a fine step of three quarters of their expected error and at most 1.5 Å;
    five times their last change as range, at most 1.3 times the present one, at least 1.5 coarse steps; halved
    where that is more than four coarse steps, which then grow to a quarter of it. Were the step to grow beyond
    the present one, step and range stay. Where an error or change is unknown, the term drops out. Offsets that are not
    searched, of range 0, stay so.
    """
    if not _has_stalled(
        sampling, progression, resolution_angstrom, mask_diameter_angstrom, local_from_order, finer_faster
    ):
        return sampling, progression
    is_fine = is_fine_enough(sampling.rotation_step_degrees, rotation_accuracy_degrees)
    if is_fine or sampling.healpix_order >= _FINEST_ORDER:
        return sampling, replace(progression, is_fine_enough=True)
    step, reach = _next_offsets(sampling, offset_accuracy_angstrom, offset_change_angstrom)
    order = sampling.healpix_order + 1
    finer = replace(
        sampling,
        healpix_order=order,
        is_local=order >= local_from_order,
        offset_step_angstrom=step,
        offset_range_angstrom=reach,
    )
    return finer, Progression(resolution_angstrom=progression.resolution_angstrom, tells_poses=progression.tells_poses)


def progressed(
    progression: Progression,
    *,
    resolution_angstrom: float,
    rotation_change_degrees: float,
    offset_change_angstrom: float,
    rotation_accuracy_degrees: float,
    log_likelihood_growth: float,
    sampling: PoseSampling,
) -> Progression:
    """Return what is remembered after an iteration.

    Parameters
    ----------
    progression : before it.
    resolution_angstrom, rotation_change_degrees, offset_change_angstrom : of it; changes are nan where poses had none
        before.
    rotation_accuracy_degrees : expected error of rotations against the maps that it made.
    log_likelihood_growth : over the iteration before, in nats for each particle; nan at first.
    sampling : that it searched with.

    Notes
    -----
    A gain of resolution is one over the best so far (RELION: over the last, so that a resolution that goes back
    and forth gains for ever). While the maps tell poses no better than to 10°, as those of a hollow shell whose
    helices are still blurred, a likelihood that grows by a tenth of a nat is a gain too; and so it is that they first
    tell poses, since searches took short cuts before (`search.search_of`) and go further without. Changes are no longer
    large where they are below 0.4 fine steps, or above the smallest so far at this sampling over 1.03, in rotations and
    offsets alike. RELION also looks at changes of class, which one class does not have.
    """
    gained = resolution_angstrom < progression.resolution_angstrom * (1 - 1e-4)
    if rotation_accuracy_degrees > _POSES_UNKNOWN_DEGREES:
        gained |= log_likelihood_growth > _GROWING_NATS
    tells_poses = progression.tells_poses or rotation_accuracy_degrees <= _POSES_UNKNOWN_DEGREES
    gained |= tells_poses and not progression.tells_poses
    rotations_settled = (
        rotation_change_degrees < _SETTLED_STEPS * sampling.rotation_step_degrees
        or _SLACK * rotation_change_degrees >= progression.smallest_rotation_change_degrees
    )
    offsets_settled = (
        offset_change_angstrom < _SETTLED_STEPS * sampling.offset_step_angstrom
        or _SLACK * offset_change_angstrom >= progression.smallest_offset_change_angstrom
    )
    settled = rotations_settled and offsets_settled
    return replace(
        progression,
        tells_poses=tells_poses,
        resolution_angstrom=_smaller(progression.resolution_angstrom, resolution_angstrom),
        iterations_without_gain=0 if gained else progression.iterations_without_gain + 1,
        iterations_without_large_changes=progression.iterations_without_large_changes + 1 if settled else 0,
        smallest_rotation_change_degrees=_smaller(
            progression.smallest_rotation_change_degrees, rotation_change_degrees
        ),
        smallest_offset_change_angstrom=_smaller(progression.smallest_offset_change_angstrom, offset_change_angstrom),
    )


def has_converged(progression: Progression, finer_faster: bool = False) -> bool:
    """Return whether the next iteration is the last: nothing finer would tell, and neither map nor poses still gain.

    Parameters
    ----------
    finer_faster : changes of poses do not count.
    """
    return (
        progression.is_fine_enough
        and progression.iterations_without_gain >= 1
        and (finer_faster or progression.iterations_without_large_changes >= 1)
    )


def is_fine_enough(rotation_step_degrees: float, rotation_accuracy_degrees: float) -> bool:
    """Return whether a step is below three quarters of the expected error of rotations, in degrees; nan: not known."""
    return rotation_step_degrees < _SAFETY * rotation_accuracy_degrees


def likelihood_power(rotation_accuracy_degrees: float, *, tells_poses: bool) -> float:
    """Return the power that likelihoods of poses are raised to in the next E-step.

    Parameters
    ----------
    rotation_accuracy_degrees : expected error of rotations against the present maps; nan: not known.
    tells_poses : of the progression.

    Returns
    -------
    2 while the maps tell poses no better than to 10° and never have, else 1.

    Notes
    -----
    Where posteriors are wide, expectation maximisation creeps: a nearly round particle, or one whose two hands are
    still mixed, needs dozens of iterations to leave the symmetry that its first map seems to have. Sharper posteriors
    amplify what distinguishes poses (deterministic anti-annealing: Naim and Gildea 2012, ICML). RELION's are about as
    sharp throughout, because it takes the noise of masked images for that of whole ones; ours are exact again as soon
    as poses are known.
    """
    is_wide = rotation_accuracy_degrees > _POSES_UNKNOWN_DEGREES
    return _SHARPER_POWER if is_wide and not tells_poses else 1.0


def local_sigma_degrees(sampling: PoseSampling) -> float:
    """Return the standard deviation of rotations around the last pose in a local search, in degrees.

    Notes
    -----
    Two fine steps; the search reaches `LOCAL_CUTOFF_SIGMAS` of these, so six fine steps, as RELION's.
    """
    return LOCAL_SIGMA_STEPS * sampling.rotation_step_degrees


def changes(
    before_rotation: NDArray[np.float64],
    after_rotation: NDArray[np.float64],
    before_origin_angstrom: NDArray[np.float64],
    after_origin_angstrom: NDArray[np.float64],
    symmetry: str = "C1",
) -> tuple[float, float]:
    """Return by how much poses differ from those of the iteration before.

    Parameters
    ----------
    before_rotation, after_rotation : shape (N, 3, 3).
    before_origin_angstrom, after_origin_angstrom : shape (N, 2).
    symmetry : point group whose rotations count as none.

    Returns
    -------
    rotation_change_degrees : mean over particles of the mean angle that the three axes of the image turn by in the
        frame of the reference, smallest over equivalents; two thirds of the angle of a turn in the plane.
    offset_change_angstrom : √(Σ d² / 2N), d the distances of origins: along one axis.
        Both are nan without particles.

    Notes
    -----
    RELION's measures (calculateAngularDistance, monitorHiddenVariableChanges).
    """
    n = len(before_rotation)
    if n == 0:
        return math.nan, math.nan
    rotations_of_group = operators(symmetry).numpy()
    at_once = max(1, _MOST_ROTATIONS_AT_ONCE // len(rotations_of_group))
    total = 0.0
    for start in range(0, n, at_once):
        part = slice(start, start + at_once)
        equivalents = after_rotation[part, None] @ rotations_of_group
        cosines = np.einsum("nij,ngij->ngi", before_rotation[part], equivalents)
        angles = np.arccos(np.clip(cosines, -1.0, 1.0)).mean(-1)
        total += float(angles.min(axis=1).sum())
    moved = np.square(after_origin_angstrom - before_origin_angstrom).sum()
    return math.degrees(total / n), math.sqrt(float(moved) / (2 * n))


def _has_stalled(
    sampling: PoseSampling,
    progression: Progression,
    resolution_angstrom: float,
    mask_diameter_angstrom: float,
    local_from_order: int,
    finer_faster: bool,
) -> bool:
    """Return whether neither the map nor the poses gain by going on as before."""
    map_stalled = progression.iterations_without_gain >= 1
    if finer_faster and sampling.healpix_order + 1 < local_from_order:
        # steps at which the mask's edge moves by one detail of the map
        steps_of_circle = max(1, math.ceil(math.pi * mask_diameter_angstrom / resolution_angstrom))
        map_stalled |= sampling.rotation_step_degrees > 360 / steps_of_circle
    return map_stalled and (finer_faster or progression.iterations_without_large_changes >= 1)


def _next_offsets(
    sampling: PoseSampling, offset_accuracy_angstrom: float, offset_change_angstrom: float
) -> tuple[float, float]:
    """Return the fine step and the range of offsets at the next order, in Å."""
    if sampling.offset_range_angstrom == 0:
        return sampling.offset_step_angstrom, 0.0
    fine_step = _smaller(_COARSEST_OFFSET_STEP_ANGSTROM, _SAFETY * offset_accuracy_angstrom)
    coarse_step = 2 * fine_step
    reach = _smaller(1.3 * sampling.offset_range_angstrom, 5 * offset_change_angstrom)
    reach = max(reach, 1.5 * coarse_step)
    if reach > 4 * coarse_step:
        reach /= 2
    coarse_step = max(coarse_step, reach / 4)
    if coarse_step > 2 * sampling.offset_step_angstrom:
        return sampling.offset_step_angstrom, sampling.offset_range_angstrom
    return coarse_step / 2, reach


def _smaller(known: float, other: float) -> float:
    """Return the smaller of two, or the one that is no nan."""
    return other if other < known else known


def _curve(fsc: Curve) -> NDArray[np.float64]:
    return np.asarray(fsc, dtype=np.float64)
