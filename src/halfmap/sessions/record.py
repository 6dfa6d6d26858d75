"""`Record`: what a session remembers besides its cycles; every event of the journal leads from one to the next."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from halfmap.sessions.plan import State, after

UNDO_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a session remembers besides its cycles.

    Parameters
    ----------
    state : of the session.
    settings : those of the last job, or the first guess; values of `LiveSettings` as JSON holds them.
    staged : what was changed since, by name.
    job : the job that runs or ran last: type, settings, cycles (plans), first_cycle; empty before the first.
    last_cycle : number of the last one that the journal knows of.
    n_classified : particles in it.
    n_when_risen : particles when the resolution last rose from the initial one.
    restart_key : box, network and threshold of the last job's particles.
    forced : whether the next job must be ab initio.
    reason : of the last failure.
    failures : in a row.
    selected : tracks of the classes that are selected.
    undo : earlier selections, the newest last.
    limits : on micrographs, see `halfmap.sessions.sifting.LIMITS`; those beyond are left out.
    limits_before : earlier limits, the newest last.
    judged : micrographs of which somebody has said whether they are wanted.
    """

    state: State = "stopped"
    settings: Mapping[str, Any] = field(default_factory=dict)
    staged: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)
    last_cycle: int = 0
    n_classified: int = 0
    n_when_risen: int = 0
    restart_key: tuple[Any, ...] = ()
    forced: bool = False
    reason: str = ""
    failures: int = 0
    selected: tuple[int, ...] = ()
    undo: tuple[tuple[int, ...], ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    limits_before: tuple[Mapping[str, float], ...] = ()
    judged: Mapping[str, bool] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Record":
        """Return what `to_json` gave; unknown names are left out."""
        known = {one.name: values[one.name] for one in fields(cls) if one.name in values}
        for name in ("restart_key", "selected"):
            if name in known:
                known[name] = tuple(known[name])
        if "limits_before" in known:
            known["limits_before"] = tuple(known["limits_before"])
        if "undo" in known:
            known["undo"] = tuple(tuple(one) for one in known["undo"])
        return cls(**known)


def applied(record: Record, event: Mapping[str, Any]) -> Record:
    """Return what follows from an event; one of an unknown kind changes nothing."""
    kind = event["event"]
    if kind in ("opened", "guessed"):
        return replace(record, settings=event["settings"])
    if kind == "staged":
        return replace(record, staged=event["values"])
    if kind == "act":
        state = after(record.state, event["act"])
        return record if state is None else replace(record, state=state)
    if kind == "job":
        return replace(
            record,
            state=after(record.state, "start") or record.state,
            settings=event["settings"],
            staged={},
            job={name: event[name] for name in ("type", "settings", "cycles", "first_cycle")},
            restart_key=tuple(event["restart_key"]),
            n_when_risen=event["n_particles"] if event["rises"] else record.n_when_risen,
            forced=False,
            reason="",
            failures=0,
        )
    if kind == "cycle":
        inherited = tuple(child for child, parent in event["born"] if parent in record.selected)
        selected = () if event["anew"] else (*record.selected, *inherited)
        return replace(
            record,
            last_cycle=event["cycle"],
            n_classified=event["n_particles"],
            failures=0,
            reason="",
            selected=selected,
            undo=() if event["anew"] else record.undo,
        )
    if kind == "finished":
        return replace(record, state=after(record.state, "finish") or record.state, settings=event["settings"])
    if kind == "failed":
        return replace(
            record,
            state=after(record.state, "fail") or record.state,
            reason=event["reason"],
            failures=record.failures + 1,
        )
    if kind == "damaged":
        return replace(record, last_cycle=min(record.last_cycle, event["last_cycle"]))
    if kind == "forced":
        return replace(record, forced=True)
    if kind == "selected":
        undo = (*record.undo, record.selected)[-UNDO_STEPS:]
        return replace(record, selected=tuple(event["tracks"]), undo=undo)
    if kind == "undone" and record.undo:
        return replace(record, selected=record.undo[-1], undo=record.undo[:-1])
    return _sifted(record, event)


def _sifted(record: Record, event: Mapping[str, Any]) -> Record:
    kind = event["event"]
    if kind == "limits":
        before = (*record.limits_before, record.limits)[-UNDO_STEPS:]
        return replace(record, limits=event["limits"], limits_before=before)
    if kind == "limits undone" and record.limits_before:
        return replace(record, limits=record.limits_before[-1], limits_before=record.limits_before[:-1])
    if kind == "recounted":
        return replace(record, n_classified=event["n_classified"])
    if kind == "judged":
        judged = {**record.judged, **event["micrographs"]}
        return replace(record, judged={name: yes for name, yes in judged.items() if yes is not None})
    return record
