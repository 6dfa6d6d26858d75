"""The course of a simulated session at the microscope: what is processed when, and what goes less than smoothly."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from halfmap import keyed_random

Event: TypeAlias = Literal["processed", "half written", "completed", "processed again"]

_COMPLETED_AFTER = 0.5
_AGAIN_AFTER = 2.25
_DROPPED_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class SessionPaceParams:
    """How fast a session goes, and how often it goes less than smoothly."""

    interval_seconds: Annotated[float, Gt(0)] = 30.0
    """Time from one micrograph to the next, in seconds of the microscope."""

    speed_up: Annotated[float, Gt(0)] = 1.0
    """How many times faster than the microscope the folder fills."""

    reprocessed_fraction: Annotated[float, Ge(0), Le(1)] = 0.1
    """Fraction of the micrographs that are processed again two micrographs later: some particles are dropped, the
    others stand in another order."""

    half_written_fraction: Annotated[float, Ge(0), Le(1)] = 0.2
    """Fraction of the micrographs whose stack is named by the table while only half of it is written."""

    @property
    def wall_interval_seconds(self) -> float:
        """Time from one micrograph to the next as it passes here."""
        return self.interval_seconds / self.speed_up


@dataclass(frozen=True, kw_only=True)
class SessionEvent:
    """Something that happens to a micrograph.

    Parameters
    ----------
    intervals : when, in intervals between micrographs, the first micrograph at 0.
    event : what; ``half written`` is followed by ``completed``.
    micrograph : number, from 0.
    """

    intervals: float
    event: Event
    micrograph: int


def course_of(params: SessionPaceParams, n_micrographs: int, seed: int) -> tuple[SessionEvent, ...]:
    """Return everything that happens in a session, in the order of time.

    Which micrographs are processed again, and which are half written, is drawn for each by itself.
    """
    draws = keyed_random.uniform(seed, "session", np.arange(n_micrographs), size=2)
    found = []
    for number, (again, half) in enumerate(draws.tolist()):
        is_half = half < params.half_written_fraction
        found.append(
            SessionEvent(intervals=number, event="half written" if is_half else "processed", micrograph=number)
        )
        if is_half:
            found.append(SessionEvent(intervals=number + _COMPLETED_AFTER, event="completed", micrograph=number))
        if again < params.reprocessed_fraction:
            found.append(SessionEvent(intervals=number + _AGAIN_AFTER, event="processed again", micrograph=number))
    return tuple(sorted(found, key=lambda one: one.intervals))


def kept_when_processed_again(seed: int, uids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which particles of a micrograph are left when it is processed again, in their new order.

    Parameters
    ----------
    uids : of its particles, in their first order.

    Returns
    -------
    int64, shape (n_kept,)
        Places in the first order, the last first. About a fifth is dropped; at least one is kept.
    """
    draws = keyed_random.uniform(seed, "processed again", uids)
    kept = np.flatnonzero(draws >= min(_DROPPED_FRACTION, float(draws.max())))
    return kept[::-1].astype(np.int64)
