"""One cycle: a drawn part of the particles is compared with the class averages, and what comes of it is written."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap import keyed_random
from halfmap.classification import class2d
from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.ranking.scores import score
from halfmap.classification.state import Assignments, ClassificationState
from halfmap.compute.executor import Executor
from halfmap.compute.progress import Progress
from halfmap.data.class_averages import ClassAverages
from halfmap.errors import ComputeError, HalfmapError, InputError
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid
from halfmap.io import relion, states
from halfmap.io.atomic import write_json
from halfmap.io.images import write_png
from halfmap.io.mapped_stacks import MappedStacks
from halfmap.io.mrc import StackWriter
from halfmap.io.mrc_header import read_header
from halfmap.project.parameters import build
from halfmap.sessions import store
from halfmap.sessions.carrying import (
    LiveState,
    assignments_for,
    entering,
    finite,
    params_of_cycle,
    put,
    tracks_after,
)
from halfmap.sessions.checkpoints import CHECKPOINTS as CHUNKS
from halfmap.sessions.index import ParticleIndex
from halfmap.sessions.pictures import atlas, columns_of, grey_tiles
from halfmap.sessions.plan import CyclePlan, fraction_of_startup
from halfmap.sessions.settings import LiveSettings
from halfmap.sessions.stacks import signature_of

MOST_SET_ASIDE = 0.5
"""Share of particles whose stacks may have changed since they were listed before a cycle fails: more, and the folder is
not what it was; fewer are written anew, as where a micrograph is processed again, and the next cycle has them."""

_ANGLE_BINS = 36


@dataclass(frozen=True, kw_only=True, eq=False)
class _Request:
    """What ``request.json`` says."""

    cycle: int
    plan: CyclePlan
    settings: LiveSettings
    is_ab_initio: bool
    folder: Path
    bright: bool

    @classmethod
    def read(cls, part: Path) -> "_Request":
        values = json.loads((part / store.REQUEST).read_text())
        return cls(
            cycle=values["cycle"],
            plan=CyclePlan(**values["plan"]),
            settings=build(LiveSettings, values["settings"]),
            is_ab_initio=values["is_ab_initio"],
            folder=Path(values["folder"]),
            bright=values["bright"],
        )


def run_cycle(work: Path, number: int, executor: Executor, progress: Progress, phase: Callable[[str], None]) -> None:
    """Run a cycle that was prepared, and publish it.

    Parameters
    ----------
    work : folder of the session.
    number : of the cycle.
    phase : called with ``import``, ``E-step``, ``M-step`` and ``publishing`` as each begins.

    Raises
    ------
    HalfmapError
        Images cannot be read, or the result is not finite.
    """
    phase("import")
    part = store.part_of(work, number)
    request = _Request.read(part)
    before, notices = (None, []) if request.plan.kind == "seed" else _state_before(work, number)
    index, n_set_aside, changed = _readable(states.load(part / store.INDEX, ParticleIndex), request.folder)
    notices += [f"Cycle {number}: {one}" for one in changed]
    n_classes = request.settings.classes if before is None else before.n_classes
    rows = _drawn(index, request, n_classes)
    images = _images(index, request.folder)
    params = params_of_cycle(
        classes=n_classes,
        mask_radius_angstrom=request.settings.mask_radius_angstrom,
        resolution_angstrom=request.plan.resolution_angstrom,
        first_resolution_angstrom=request.settings.initial_resolution_angstrom,
        autocentre=request.settings.autocentre,
        revives=request.plan.revives,
        seed=request.settings.seed,
        grid_angstrom=images.grid.side * images.grid.pixel_size_angstrom,
    )
    first = np.cumsum([0, *(header.shape[0] for header in images.headers)])
    sign = 1.0 if request.bright else -1.0
    problem = ClassificationProblem.of(
        index.particles.take(rows),
        images,
        params,
        executor,
        index=(first[index.stack] + index.section)[rows],
        background_mean=index.background_mean[rows],
        background_deviation=sign * index.background_deviation[rows],
    )
    phase("E-step")
    if before is None:
        state = class2d.start(problem, params, executor)
        tracks, next_track, born = _new_tracks(work, n_classes)
    else:
        entered = entering(before, problem, params, executor, automask=request.settings.automask)
        state = class2d.advance(problem, params, entered, executor, progress)
        tracks, next_track, born = tracks_after(before, entered, state)
    phase("M-step")
    all_known = assignments_for(before, index.particles.uid)
    if before is not None:
        all_known = put(all_known, rows, state.assignments)
    live = LiveState(
        state=replace(state, assignments=all_known),
        uid=index.particles.uid,
        group_names=problem.group_names,
        optics=index.particles.optics,
        side_pixel=images.grid.side,
        pixel_size_angstrom=images.grid.pixel_size_angstrom,
        tracks=tracks,
        next_track=next_track,
    )
    averages = class2d.finish(problem, params, state).averages
    _check_finite(averages["average"], number)
    phase("publishing")
    _write(part, request, live, index, averages, state, params, born, n_used=len(rows), n_set_aside=n_set_aside,
           notices=notices)  # fmt: skip
    store.publish(work, number)


def _state_before(work: Path, number: int) -> tuple[LiveState, list[str]]:
    """Return the newest state that can be read, and what to say where it is not that of the last cycle."""
    wrong = []
    for earlier in sorted((one["number"] for one in store.published(work) if one["number"] < number), reverse=True):
        path = store.folder_of(work, earlier) / store.STATE
        try:
            state = states.load(path, LiveState)
        except (HalfmapError, ValueError) as error:
            wrong.append(str(error))
            continue
        if not wrong:
            return state, []
        next_track = 1 + max(one["last_track"] for one in store.published(work))
        return replace(state, next_track=max(state.next_track, next_track)), [
            f"Cycle {number} goes on from cycle {earlier}, the newest whose state can be read: {wrong[0]}"
        ]
    raise InputError(
        f"The state of a cycle must be there to go on from; got {wrong[:1]}; start a job with the type abinit, which "
        "begins with new class averages."
    )


def _new_tracks(work: Path, n_classes: int) -> tuple[NDArray[np.int64], int, list[tuple[int, int]]]:
    """Return tracks that no earlier cycle has had."""
    first = 1 + max((one["last_track"] for one in store.published(work)), default=0)
    return np.arange(first, first + n_classes, dtype=np.int64), first + n_classes, []


def _readable(index: ParticleIndex, folder: Path) -> tuple[ParticleIndex, int, list[str]]:
    """Leave out particles of stacks that have changed since they were listed; they come back with the next look.

    Returns
    -------
    The particles that are left, how many are left out, and what to say of it.
    """
    same = np.zeros(len(index.stacks), dtype=bool)
    for number, name in enumerate(index.stacks):
        try:
            same[number] = signature_of(folder / name)[:2] == tuple(index.signatures[number, :2].tolist())
        except OSError:
            same[number] = False
    good = same[index.stack]
    n_changed = int((~good).sum())
    if not n_changed:
        return index, 0, []
    name = index.stacks[int(np.flatnonzero(~same)[0])]
    what = f"{int((~same).sum())} of {len(index.stacks)} changed or gone, as {name}"
    if n_changed > MOST_SET_ASIDE * len(index):
        raise InputError(
            f"The stacks must be as when they were listed; got {what}; bring {folder} back, the next try takes them as "
            "they are then."
        )
    said = f"{n_changed} particles are left out, for stacks are not as when they were listed: {what}."
    return index.of_stacks(same), n_changed, [said]


def _images(index: ParticleIndex, folder: Path) -> MappedStacks:
    pixel = float(index.particles.optics["pixel_size_angstrom"][0])
    headers = tuple(read_header(folder / name) for name in index.stacks)
    return MappedStacks(headers=headers, grid=ImageGrid.square(index.side_pixel, pixel))


def _drawn(index: ParticleIndex, request: _Request, n_classes: int) -> NDArray[np.int64]:
    """Draw the particles of a cycle: the share follows from how many there are now."""
    n = len(index)
    if request.plan.kind == "startup" and request.is_ab_initio:
        fraction = fraction_of_startup(request.settings, n)
    else:
        fraction = request.plan.fraction
    if fraction >= 1:
        return np.arange(n)
    drawn = keyed_random.uniform(request.settings.seed, "live subset", index.particles.uid, iteration=request.cycle)
    rows = np.flatnonzero(drawn < fraction)
    return rows if len(rows) >= n_classes else np.sort(np.argsort(drawn, kind="stable")[:n_classes])


def _check_finite(averages: NDArray[np.float32], number: int) -> None:
    if not np.isfinite(averages).all():
        raise ComputeError(
            f"The class averages of cycle {number} must be finite; got NaN or infinity; look for damaged images, and "
            "start the job again."
        )


def _write(
    part: Path,
    request: _Request,
    live: LiveState,
    index: ParticleIndex,
    averages: ClassAverages,
    state: ClassificationState,
    params: ClassificationParams,
    born: list[tuple[int, int]],
    *,
    n_used: int,
    n_set_aside: int,
    notices: list[str],
) -> None:
    """Write all files of a cycle, ``cycle.json`` last."""
    found, grid = live.state.assignments, averages.grid
    counts = np.bincount(found.class_index[found.class_index >= 0], minlength=live.n_classes)
    averages = averages.with_columns(n_particles=counts)
    shown = averages["unmasked_average"]
    with StackWriter(part / store.CLASSES, grid, len(shown)) as writer:
        writer.write(shown)
    tiles = grey_tiles(shown, _disc(grid, params.mask_diameter_angstrom))
    write_png(part / store.ATLAS, atlas(tiles))
    relion.write_particles(part / store.DATA, _with_poses(index, found))
    states.save(part / store.STATE, live)
    try:
        scores = score(averages, mask_diameter_angstrom=params.mask_diameter_angstrom)
    except HalfmapError:
        scores = np.full(live.n_classes, np.nan)
    entropy = [_angular_entropy(found.psi_degrees[found.class_index == k]) for k in range(live.n_classes)]
    classes = [
        {
            "index": k + 1,
            "track": int(live.tracks[k]),
            "particles": int(counts[k]),
            "weight": float(averages["fraction"][k]) * n_used,
            "resolution_angstrom": finite(float(averages["ssnr_resolution_angstrom"][k])),
            "score": finite(float(scores[k])) if request.plan.kind != "seed" else None,
            "angular_entropy": entropy[k],
        }
        for k in range(live.n_classes)
    ]
    summary: dict[str, Any] = {
        "number": request.cycle,
        "kind": request.plan.kind,
        "resolution_angstrom": request.plan.resolution_angstrom,
        "fraction": n_used / max(len(index), 1),
        "particles": len(index),
        "used": n_used,
        "set_aside": n_set_aside,
        "unassigned": int((found.class_index < 0).sum()),
        "finished": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "settings": json.loads((part / store.REQUEST).read_text())["settings"],
        "pixel_size_angstrom": grid.pixel_size_angstrom,
        "box_pixel": grid.side,
        "atlas": {"tile_pixel": int(tiles.shape[1]), "columns": columns_of(len(tiles))},
        "born": [list(pair) for pair in born],
        "notices": notices,
        "convergence": _convergence(state) if request.plan.kind != "seed" else None,
        "classes": classes,
    }
    write_json(part / store.CYCLE, summary)
    for path in (part / CHUNKS).glob("*"):
        path.unlink()
    if (part / CHUNKS).is_dir():
        (part / CHUNKS).rmdir()


def _convergence(state: ClassificationState) -> dict[str, float | None]:
    last = {name: float(values[-1]) for name, values in state.history.items()}
    return {
        "log_likelihood": finite(last["log_likelihood"] / max(last["n_particles_used"], 1.0)),
        "changed_percent": finite(100 * last["changed_share"]),
        "mean_probability": finite(last["mean_max_probability"]),
        "seconds": finite(last["seconds"]),
    }


def _with_poses(index: ParticleIndex, found: Assignments) -> Any:
    zero = np.zeros(len(index))
    return index.particles.with_columns(
        class_number=found.class_index + 1,
        rotation=matrix_from_euler(zero, zero, found.psi_degrees).numpy(),
        origin_angstrom=found.origin_angstrom,
        norm_correction=found.norm,
        max_probability=found.max_probability,
        log_likelihood=found.log_likelihood,
    )


def _angular_entropy(psi_degrees: NDArray[np.float64]) -> float | None:
    """Return how evenly in-plane angles are spread: 1 evenly, 0 all alike; None for fewer than 2 particles."""
    if len(psi_degrees) < 2:
        return None
    counts = np.bincount((psi_degrees % 360 / 360 * _ANGLE_BINS).astype(int) % _ANGLE_BINS, minlength=_ANGLE_BINS)
    shares = counts[counts > 0] / len(psi_degrees)
    return float(max(0.0, -(shares * np.log(shares)).sum() / math.log(min(_ANGLE_BINS, len(psi_degrees)))))


def _disc(grid: ImageGrid, diameter_angstrom: float) -> NDArray[np.bool_]:
    radius = 0.5 * diameter_angstrom / grid.pixel_size_angstrom
    y, x = np.ogrid[: grid.side, : grid.side]
    return np.asarray((y - grid.side // 2) ** 2 + (x - grid.side // 2) ** 2 <= max(radius, 2.0) ** 2)
