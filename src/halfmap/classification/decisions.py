"""What a 2D classification decides between iterations: pure functions of numbers, tested as tables.

The algorithm, when to stop, how far in frequency to look, and how finely to sample.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.data.table import Table
from halfmap.errors import InputError
from halfmap.inference import vdam
from halfmap.inference.sampling import shell_of_arc

_FEW_PARTICLES = 20_000
_COARSENING = 0.8


def choose_algorithm(
    n_particles: int,
    asked: str,
    n_classes: int,
    *,
    iterations: int = 25,
    minibatches: int = 200,
    sizes: vdam.Sizes | None = None,
) -> tuple[str, str]:
    """Choose between EM and VDAM.

    Parameters
    ----------
    asked : ``em``, ``vdam`` or ``auto``.
    iterations : of EM.
    minibatches : of VDAM.
    sizes : of its mini-batches; None: as usual.

    Returns
    -------
    algorithm : ``em`` or ``vdam``.
    reason : a sentence for the user.

    Raises
    ------
    InputError
        Another algorithm is asked for.
    """
    if asked not in ("auto", "em", "vdam"):
        raise InputError(f"The algorithm must be auto, em or vdam; got {asked!r}.")
    if asked != "auto":
        return asked, f"The algorithm is {asked.upper()}, as asked for."
    sizes = sizes or vdam.Sizes()
    visits = vdam.total_visits(minibatches, n_particles, sizes) / n_particles if n_particles else math.inf
    smallest = vdam.minibatch_size(1, minibatches, n_particles, sizes)
    if n_particles < _FEW_PARTICLES:
        return "em", (
            f"EM, because {n_particles:,} particles are few: all of them fit into every iteration; "
            f"VDAM is chosen from {_FEW_PARTICLES:,} on."
        )
    if visits >= iterations:
        return "em", (
            f"EM, because its {iterations} iterations look at each particle less often than the {minibatches} "
            f"mini-batches of VDAM would, {visits:.0f} times."
        )
    if smallest < n_classes:
        return "em", (
            f"EM, because the first mini-batches of VDAM, {smallest:,} of {n_particles:,} particles, would hold fewer "
            f"than one for each of {n_classes} classes."
        )
    return "vdam", (
        f"VDAM, because with {n_particles:,} particles its {minibatches} mini-batches look at each particle "
        f"{visits:.0f} times, where EM would do so {iterations} times."
    )


def nothing_changes(
    history: Table, *, earliest: int = 8, window: int = 3, changed_share: float = 0.01, gain: float = 0.05
) -> bool:
    """Say whether iterating further would change nothing.

    Parameters
    ----------
    history : one row for each iteration, with the columns changed_share, log_likelihood, n_particles_used,
        resolution_angstrom, and revived_classes where any were.
    earliest : least number of iterations.
    window : number of last iterations that are compared with those before.
    changed_share : a share of particles that change class which counts as none.
    gain : log-likelihood per particle, in nats, that counts as none from one window to the next.

    Returns
    -------
    True where over the last ``window`` iterations all of this holds: the best resolution of those before was not
    surpassed, so the band no longer grew; the mean log-likelihood per particle differs from that of the window
    before by at most ``gain``, or by at most twice the standard error of the difference; no class was revived, because
    twins take some iterations to part; and the mean share of particles that changed class is at most
    ``changed_share``, or no longer falls: it is above 0.97 of the mean of the window before. The last is what
    particles do that belong to two classes alike; were only a small share accepted, random sampling would keep such
    a run alive for ever.

    Notes
    -----
    In an oscillating history the standard error is large and the mean does not rise; in a slowly converging one
    the changes still fall or the likelihood still rises. A missing value (nan) is a change.
    """
    n = len(history)
    if n < max(earliest, 2 * window + 1):
        return False
    if np.any(np.asarray(history.get("revived_classes", 0.0))[-window:] > 0):
        return False
    resolution = history["resolution_angstrom"]
    if not resolution[-window:].min() >= resolution[:-window].min() * (1 - 1e-6):
        return False
    likelihood = history["log_likelihood"] / np.maximum(history["n_particles_used"], 1)
    last, before = likelihood[-window:], likelihood[-2 * window : -window]
    error = math.sqrt((last.var(ddof=1) + before.var(ddof=1)) / window) if window > 1 else 0.0
    steady_rise = bool((np.diff(likelihood[-2 * window :]) > 0).all())
    tolerance = gain if steady_rise else max(gain, 2 * error)
    if not abs(last.mean() - before.mean()) <= tolerance:
        return False
    changes = history["changed_share"]
    recent, earlier = float(changes[-window:].mean()), float(changes[-2 * window : -window].mean())
    return recent <= changed_share or recent >= 0.97 * earlier


def minibatches_change_nothing(history: Table, n_minibatches: int, *, window: int = 8) -> bool:
    """Say whether the last phase of VDAM has done its work; `nothing_changes` within that phase.

    Parameters
    ----------
    history : one row for each mini-batch so far, the first with iteration 1.
    n_minibatches : of the whole run.
    window : as for `nothing_changes`; longer than for EM, because every mini-batch holds other particles.
    """
    first, between, _ = vdam.phases(n_minibatches)
    rows = np.flatnonzero(history["iteration"] > first + between)
    return nothing_changes(history.take(rows), earliest=2 * window + 1, window=window)


def resolved_shell(ssnr: ArrayLike) -> NDArray[np.int64]:
    """Return the last shell before the signal-to-noise ratio first falls below 1.

    Parameters
    ----------
    ssnr : shape (..., S), one value for each shell from DC on; nan counts as below 1. DC is not looked at.

    Returns
    -------
    Shape (...); 0 where the first shell is below already.
    """
    above = np.asarray(ssnr, dtype=np.float64)[..., 1:] >= 1
    return np.cumprod(above, axis=-1).sum(axis=-1).astype(np.int64)


def current_shell(ssnr: ArrayLike, side: int, increment: int, minimum: int = 5) -> int:
    """Return the last shell that the next iteration compares.

    Parameters
    ----------
    ssnr : shape (C, S), of each class.
    side : of the images, in pixels.
    increment : shells beyond what is resolved, so that the resolution can grow.
    minimum : what is taken as resolved in any case.

    Returns
    -------
    The best class's `resolved_shell`, at least ``minimum``, plus ``increment``, within the band of the images.

    Notes
    -----
    RELION's current image size is twice this number.
    """
    best = int(np.max(resolved_shell(np.atleast_2d(ssnr)), initial=0))
    return max(1, min(max(best, minimum) + increment, side // 2 - 1))


def coarse_shell(
    psi_coarse_step_degrees: float, mask_diameter_angstrom: float, field_angstrom: float, current: int
) -> int:
    """Return the last shell that a first pass with coarse angles compares.

    Parameters
    ----------
    psi_coarse_step_degrees : step of in-plane angles of the first pass.
    field_angstrom : side of the images.
    current : last shell of the second pass, which this one does not exceed.

    Returns
    -------
    Two thirds of the arc that the edge of the mask moves in one step, as a resolution, and the shell that reaches it.

    Notes
    -----
    The factor is RELION's in 2D; see `halfmap.inference.sampling.shell_of_arc`.
    """
    return shell_of_arc(psi_coarse_step_degrees, mask_diameter_angstrom, field_angstrom, current, divisor=1.5)


def limits(
    current: int,
    field_angstrom: float,
    *,
    finest_angstrom: float | None = None,
    coarsest_angstrom: float | None = None,
) -> tuple[int, int]:
    """Return the first and last shell that are compared, within limits set by the user.

    Parameters
    ----------
    current : last shell without limits.
    field_angstrom : side of the images.
    finest_angstrom, coarsest_angstrom : None: no limit.

    Raises
    ------
    InputError
        No shell lies within the limits.
    """
    last = current if finest_angstrom is None else min(current, math.floor(field_angstrom / finest_angstrom + 0.5))
    first = 1 if coarsest_angstrom is None else max(1, math.floor(field_angstrom / coarsest_angstrom + 0.5))
    if first > last:
        asked = [
            f"{flag} {value:g}"
            for flag, value in (
                ("--min-alignment-resolution", coarsest_angstrom),
                ("--max-alignment-resolution", finest_angstrom),
            )
            if value is not None
        ]
        raise InputError(
            f"The resolutions compared must span at least one shell, of {field_angstrom:.0f} Å to "
            f"{field_angstrom / max(current, 1):.1f} Å; got {' and '.join(asked)}; widen the limits."
        )
    return first, last


def coarser_sampling(
    *,
    rotation_accuracy_degrees: float,
    offset_accuracy_angstrom: float,
    psi_step_degrees: float,
    offset_step_angstrom: float,
    offset_range_angstrom: float,
) -> tuple[float, float]:
    """Return steps no finer than the references support.

    Parameters
    ----------
    rotation_accuracy_degrees, offset_accuracy_angstrom : estimated errors of poses, of the best class; nan: unknown.
    psi_step_degrees, offset_step_angstrom : the user's fine steps.
    offset_range_angstrom : radius of the offset search.

    Returns
    -------
    The fine steps of angles in degrees and of offsets in Å: 0.8 times the errors where that is more than the
    user's; offsets such that the first pass, of twice the step, still has steps within 0.95 of the range.
    """
    psi_step, offset_step = psi_step_degrees, offset_step_angstrom
    if math.isfinite(rotation_accuracy_degrees):
        psi_step = min(max(psi_step, _COARSENING * rotation_accuracy_degrees), max(psi_step, 90.0))
    if math.isfinite(offset_accuracy_angstrom):
        widest = max(offset_step, 0.95 * offset_range_angstrom / 2)
        offset_step = min(max(offset_step, _COARSENING * offset_accuracy_angstrom), widest)
    return psi_step, offset_step


def most_samples(n_classes: int, *, is_minibatch: bool) -> int:
    """Return the most samples of an image that a first pass hands on, unless the user says.

    Returns
    -------
    5 for each class in a mini-batch, as RELION's VDAM; else 50 for each class, at least 4000, which bounds memory in
    the first iterations, when references hardly differ. What is left out is told as lost mass.
    """
    return 5 * n_classes if is_minibatch else max(4000, 50 * n_classes)
