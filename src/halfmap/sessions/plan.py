"""What a session does next: pure functions, tested as tables. The cycles of a job, when one starts, its states."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from halfmap.sessions.settings import LiveSettings

Kind: TypeAlias = Literal["seed", "startup", "refinement", "incremental"]
JobType: TypeAlias = Literal["abinit", "seeded", "refine", "incremental"]
State: TypeAlias = Literal["stopped", "listening", "running", "stopping", "failed"]

SETTLING_CYCLES = 2
"""Last cycles of a job in which no class is revived, so that twins have parted before anyone looks."""

DOUBLED = 2.0
"""Growth since the resolution last rose from the initial one, at which an incremental job lowers it again."""

RETRIES = 3
FIRST_PAUSE_SECONDS = 5.0

_TRANSITIONS: dict[tuple[State, str], State] = {
    ("stopped", "start"): "running",
    ("listening", "start"): "running",
    ("failed", "start"): "running",
    ("stopped", "listen"): "listening",
    ("failed", "listen"): "listening",
    ("running", "finish"): "listening",
    ("running", "stop"): "stopping",
    ("running", "stop hard"): "stopped",
    ("stopping", "stop hard"): "stopped",
    ("stopping", "stop"): "stopping",
    ("stopping", "finish"): "stopped",
    ("listening", "stop"): "stopped",
    ("listening", "stop hard"): "stopped",
    ("failed", "stop"): "stopped",
    ("failed", "stop hard"): "stopped",
    ("stopped", "stop"): "stopped",
    ("stopped", "stop hard"): "stopped",
    ("running", "fail"): "failed",
    ("stopping", "fail"): "stopped",
    ("failed", "retry"): "running",
}


@dataclass(frozen=True, kw_only=True)
class CyclePlan:
    """A cycle of a job.

    Parameters
    ----------
    kind : ``seed``: random averages; ``startup``: resolution rises; ``refinement`` and ``incremental``: all particles.
    resolution_angstrom : the finest that is compared.
    fraction : of the particles that are drawn.
    revives : whether a class without particles becomes the twin of another.
    """

    kind: Kind
    resolution_angstrom: float
    fraction: float
    revives: bool


def after(state: State, act: str) -> State | None:
    """Return the state that follows an act, None where the act is refused in this state.

    Parameters
    ----------
    act : ``start``, ``listen``, ``stop``, ``stop hard``, ``finish``, ``fail``, ``retry``.
    """
    return _TRANSITIONS.get((state, act))


def resolution_of_startup(settings: LiveSettings, cycle: int) -> float:
    """Return the limit of a startup cycle in Å, from 0: R0 − (R0 − R1) c / (n − 1); the final one for n = 1."""
    first, last, n = settings.initial_resolution_angstrom, settings.final_resolution_angstrom, settings.startup_cycles
    return last if n == 1 else first - (first - last) * cycle / (n - 1)


def fraction_of_startup(settings: LiveSettings, n_particles: int) -> float:
    """Return the share of particles drawn in startup cycles of an ab initio job: min(1, m K / N)."""
    return min(1.0, settings.particles_per_class * settings.classes / max(n_particles, 1))


def job_type(settings: LiveSettings, *, has_classes: bool, forced: bool) -> JobType:
    """Return what a job is: ab initio wherever there are no class averages to go on from."""
    return "abinit" if forced or not has_classes else settings.classification_type


def type_after(settings: LiveSettings) -> JobType:
    """Return the classification type after a finished job: ab initio becomes seeded."""
    return "seeded" if settings.classification_type == "abinit" else settings.classification_type


def cycles_of(
    settings: LiveSettings, n_particles: int, *, kind: JobType, n_when_risen: int = 0
) -> tuple[CyclePlan, ...]:
    """Return the cycles of a job.

    Parameters
    ----------
    n_particles : there are now; fractions are drawn anew in every cycle by `fraction_of_startup`.
    kind : of the job, see `job_type`.
    n_when_risen : particles of the last job in which the resolution rose from the initial one.

    Notes
    -----
    Live2D's plan, its ab initio, seeded and refining jobs. Its seeded start-up looks at all particles.
    """
    rises = kind in ("abinit", "seeded") or (kind == "incremental" and n_particles >= DOUBLED * n_when_risen)
    fraction = fraction_of_startup(settings, n_particles) if kind == "abinit" else 1.0
    last: Kind = "incremental" if kind == "incremental" else "refinement"
    steps: list[tuple[Kind, float, float]] = []
    if kind == "abinit":
        steps.append(("seed", settings.initial_resolution_angstrom, 1.0))
    if rises:
        steps += [
            ("startup", resolution_of_startup(settings, cycle), fraction) for cycle in range(settings.startup_cycles)
        ]
    steps += [(last, settings.final_resolution_angstrom, 1.0)] * settings.refinement_cycles
    n = len(steps)
    return tuple(
        CyclePlan(
            kind=kind_of_cycle, resolution_angstrom=resolution, fraction=share, revives=number < n - SETTLING_CYCLES
        )
        for number, (kind_of_cycle, resolution, share) in enumerate(steps)
    )


def threshold(settings: LiveSettings, *, has_classes: bool) -> int:
    """Return how many new particles start an automatic job."""
    return settings.next_threshold if has_classes else settings.first_threshold


def should_start(
    settings: LiveSettings, state: State, *, n_particles: int, n_classified: int, has_classes: bool
) -> bool:
    """Tell whether an automatic job starts now.

    Parameters
    ----------
    n_particles : there are now.
    n_classified : there were in the last cycle.
    """
    new = n_particles - (n_classified if has_classes else 0)
    return state == "listening" and new >= threshold(settings, has_classes=has_classes) and n_particles > 0


def why_idle(
    settings: LiveSettings,
    state: State,
    *,
    n_particles: int,
    n_classified: int,
    has_classes: bool,
    pending: int = 0,
    reason: str = "",
) -> str:
    """Return why nothing is running, in a sentence; empty while something is."""
    if state == "running":
        return ""
    if state == "stopping":
        return "Stopping: the cycle that runs is finished first; a hard stop ends it now."
    if state == "failed":
        return f"Failed: {reason}"
    some = "1 micrograph has" if pending == 1 else f"{pending} micrographs have"
    waiting = f" {some} particles whose images are not complete yet." if pending else ""
    if state == "stopped":
        return "Stopped: start a job, or automatic jobs." + waiting
    wanted = threshold(settings, has_classes=has_classes)
    new = max(0, n_particles - (n_classified if has_classes else 0))
    what = "new particles" if has_classes else "particles"
    return f"Listening: a job starts at {wanted:,} {what}; {new:,} are there.{waiting}"


def pause_seconds(attempt: int) -> float | None:
    """Return how long to wait before a failed job is tried again; None: not any more.

    Parameters
    ----------
    attempt : failures in a row, from 1.
    """
    return FIRST_PAUSE_SECONDS * 4.0 ** (attempt - 1) if attempt <= RETRIES else None
