"""What a session shows, as JSON holds it: numbers that are not known are null."""

import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from halfmap.project.parameters import build
from halfmap.sessions import plan
from halfmap.sessions.observation import Observation
from halfmap.sessions.settings import LiveSettings
from halfmap.sessions.sifting import is_kept

if TYPE_CHECKING:
    from halfmap.sessions.course import Course

MOST_POINTS = 2000
"""Points of a plot; of longer rows every so many are shown, the last in any case."""

FEW_VIEWS = 0.35
"""Share of the occupied classes to which particles may be concentrated before the page hints at preferred views."""


def session(course: "Course", *, with_plots: bool) -> dict[str, Any]:
    """Return everything of a session but its cycles' classes."""
    record, seen, used = course.record, course.observation, course.used
    has_classes = bool(course.cycles) and not record.forced
    settings = build(LiveSettings, {**record.settings, **record.staged})
    n = used.n_particles
    n_out = seen.n_particles - n
    classified = record.n_classified if has_classes else 0
    wanted = plan.threshold(settings, has_classes=has_classes)
    rate = course.watch.rate_per_hour()
    return {
        "folder": str(course.folder),
        "kind": course.watch.source.kind,
        "state": record.state,
        "why_idle": plan.why_idle(
            settings,
            record.state,
            n_particles=n,
            n_classified=record.n_classified,
            has_classes=has_classes,
            pending=len(seen.waiting),
            reason=record.reason,
        ),
        "seq": course.events.sequence,
        "source": {
            "settings": seen.settings.to_json(),
            "particles": seen.n_particles,
            "micrographs": len(seen.micrographs),
            "last_image": _iso(seen.last_image_s),
            "lag_s": course.watch.lag_s(classified + n_out),
            "quarantine": [{"name": one.name, "reason": one.reason, "tries": one.tries} for one in seen.quarantine],
            "disk_free_bytes": shutil.disk_usage(course.work).free,
            "notices": list(course.notices),
        },
        "settings": dict(record.settings),
        "staged": dict(record.staged),
        "job": {name: record.job[name] for name in ("type", "first_cycle")} | {"cycles": len(record.job["cycles"])}
        if record.job
        else None,
        "progress": course.progress,
        "counts": {
            "classified": classified,
            "since_last": max(0, n - classified),
            "threshold": wanted,
            "rate_per_hour": rate,
            "eta": _eta(wanted - (n - classified), rate),
        },
        "cycles": [cycle_in_short(one) for one in course.cycles],
        "selection": {"tracks": list(record.selected), "can_undo": bool(record.undo)},
        "limits": {
            "values": dict(record.limits),
            "can_undo": bool(record.limits_before),
            "micrographs_out": len(course.left_out),
            "particles_out": n_out,
        },
    } | ({"plots": plots(seen, course.watch.counted, course.cycles)} if with_plots else {})


def cycle_in_short(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cycle without its classes."""
    names = ("number", "kind", "resolution_angstrom", "fraction", "particles", "finished")
    return {name: one[name] for name in names} | {"classes": one["n_classes"]}


def cycle(one: Mapping[str, Any], selected: Sequence[int]) -> dict[str, Any]:
    """Return a cycle with its classes, and which of them are selected."""
    chosen = set(selected)
    classes = [{**entry, "selected": entry["track"] in chosen} for entry in one["classes"]]
    return {**one, "classes": classes, "orientation_hint": orientation_hint(one["classes"])}


def orientation_hint(classes: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a sentence where most particles lie in few classes, which may mean preferred orientations; else None.

    Notes
    -----
    The effective number of classes is the exponential of the entropy of their shares, those of particles within classes
    that hold any.
    """
    counts = np.array([one["particles"] for one in classes if one["particles"] > 0], dtype=np.float64)
    if len(counts) < 5:
        return None
    shares = counts / counts.sum()
    effective = math.exp(-float((shares * np.log(shares)).sum()))
    if effective >= FEW_VIEWS * len(counts):
        return None
    return f"Particles lie in about {effective:.0f} of {len(counts)} classes: look whether a few views are preferred."


def micrographs(
    seen: Observation,
    offset: int,
    limit: int,
    filters: Mapping[str, float],
    judged: Mapping[str, bool] | None = None,
    out: Collection[str] = (),
) -> dict[str, Any]:
    """Return micrographs in the order of their time.

    Parameters
    ----------
    judged : what was said of them by eye.
    out : those that the session leaves out.
    """
    rows = seen.in_order
    passes = is_kept(rows, filters)
    page = range(max(0, offset), min(len(rows), max(0, offset) + max(0, limit)))
    return {
        "total": len(rows),
        "passing": int(passes.sum()),
        "micrographs": [
            {
                "name": rows[row].name,
                "time": _iso(rows[row].time_s),
                "defocus_angstrom": _number(rows[row].defocus_angstrom),
                "resolution_angstrom": _number(rows[row].resolution_angstrom),
                "motion_angstrom": _number(rows[row].motion_angstrom),
                "picks": rows[row].picks if rows[row].picks >= 0 else None,
                "accepted": (judged or {}).get(rows[row].name, rows[row].accepted),
                "judged": (judged or {}).get(rows[row].name),
                "left_out": rows[row].name in out,
                "passes": bool(passes[row]),
            }
            for row in page
        ],
    }


def thresholds(
    seen: Observation, values: Mapping[str, float], judged: Mapping[str, bool] | None = None
) -> dict[str, Any]:
    """Return what thresholds would leave, beside what was said by eye."""
    rows = seen.in_order
    passes = is_kept(rows, values, judged)
    particles = np.array([seen.particles_of[one.name] for one in rows], dtype=np.int64)
    return {
        "micrographs": len(rows),
        "micrographs_kept": int(passes.sum()),
        "micrographs_lost": int((~passes).sum()),
        "particles_kept": int(particles[passes].sum()),
        "particles_lost": int(particles[~passes].sum()),
    }


def plots(
    seen: Observation, counted: Sequence[tuple[float, int]], cycles: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what is drawn against time, times in seconds since 1970."""
    rows = seen.in_order
    kept = _thinned(len(rows))
    time = [rows[row].time_s for row in kept]
    some = _thinned(len(counted))

    def curve(name: str) -> dict[str, Any]:
        return {"t": time, "y": [_number(float(getattr(rows[row], name))) for row in kept]}

    told = [one for one in cycles if one.get("convergence")]
    return {
        "particles": {"t": [counted[row][0] for row in some], "y": [counted[row][1] for row in some]},
        "micrographs": {"t": time, "y": [row + 1 for row in kept]},
        "ctf_resolution": curve("resolution_angstrom"),
        "defocus": curve("defocus_angstrom"),
        "motion": curve("motion_angstrom"),
        "picks": {"t": time, "y": [rows[row].picks if rows[row].picks >= 0 else None for row in kept]},
        "convergence": {
            "cycle": [one["number"] for one in told],
            **{
                name: [one["convergence"][name] for one in told]
                for name in ("log_likelihood", "changed_percent", "mean_probability")
            },
        },
    }


def _thinned(n: int) -> list[int]:
    step = max(1, -(-n // MOST_POINTS))
    return sorted({*range(0, n, step), *([n - 1] if n else [])})


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _iso(time_s: float | None) -> str | None:
    if time_s is None:
        return None
    return datetime.fromtimestamp(time_s, tz=UTC).isoformat(timespec="seconds")


def _eta(missing: int, rate_per_hour: float) -> str | None:
    if missing <= 0 or rate_per_hour <= 0:
        return None
    return (datetime.now(tz=UTC) + timedelta(hours=missing / rate_per_hour)).isoformat(timespec="seconds")
