"""``halfmap simulate session``: a folder that fills as it does beside a microscope, its truth known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from halfmap.errors import InputError
from halfmap.jobs.simulate_particles import SimulateParticlesParams
from halfmap.project.job import JobContext, JobType
from halfmap.simulation.session import SessionPaceParams

if TYPE_CHECKING:
    import numpy as np

    from halfmap.data.particles import ParticleSet
    from halfmap.jobs.simulate_session_folders import AcquisitionFolder, ProcessedMicrograph
    from halfmap.report.blocks import Report
    from halfmap.simulation.particles import ParticleProblem

FOLDER = "acquisition"
TRUTH = "ground_truth.star"
EVENTS = "events.jsonl"
DROPPED_COLUMN = "halfmapIsDropped"

_NAP_SECONDS = 0.2
_SHOWN = 48
_HALF = 0.5
_BRIGHTNESS = 10.0


@dataclass(frozen=True, kw_only=True)
class SimulateSessionParams(SimulateParticlesParams, SessionPaceParams):
    """Inputs and settings of ``halfmap simulate session``; Warp 1 writes 32-bit stacks in any case."""

    layout: Literal["warp1", "warp2", "warptools", "relion"] = "warp2"
    """Whose files are written: the desktop program Warp of either version, WarpTools, or RELION."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optics_groups != 1:
            raise InputError(
                f"A session must have one optics group; got {self.optics_groups}; leave --optics-groups out."
            )


def run(context: JobContext, params: SimulateSessionParams) -> Path:
    """Let the folder fill, and return the path of its table of particles."""
    import json
    import shutil
    import time
    from functools import partial

    import numpy as np

    from halfmap.jobs import simulate_particles as images
    from halfmap.jobs.simulate_session_folders import write_micrograph
    from halfmap.simulation.session import course_of, kept_when_processed_again

    problem, scale = images.made_problem(params, context.progress.message)
    images.write_references(context, problem, scale)
    path = context.folder / FOLDER
    shutil.rmtree(path, ignore_errors=True)
    particles = _placed(problem)
    names = list(dict.fromkeys(particles["micrograph_name"].tolist()))
    rows = [np.flatnonzero(particles["micrograph_name"] == name) for name in names]
    course = course_of(params, len(names), params.seed)
    again = {one.micrograph for one in course if one.event == "processed again"}
    kept = {number: kept_when_processed_again(params.seed, particles.uid[rows[number]]) for number in again}

    def wait(share: float) -> None:
        _wait_until(time.monotonic() + share * params.wall_interval_seconds, context.is_cancelled)

    folder = _folder(params, path, problem, wait)
    _write_truth(context, folder, particles, rows, kept)
    folder.begin()
    hidden = ("rotation", "origin_angstrom", "class_number", *_kind_columns())
    shown = particles.without_columns(*hidden)
    handle = context.executor.broadcast(problem)
    made = iter(context.executor.map(partial(images.normalised_images, handle, scale), rows))
    found: dict[int, ProcessedMicrograph] = {}
    late, start = 0.0, time.monotonic()
    context.progress.start("Micrographs", len(names))
    with (context.folder / EVENTS).open("w", encoding="utf-8") as log:
        for one in course:
            number, due = one.micrograph, start + one.intervals * params.wall_interval_seconds
            if one.event in ("processed", "half written"):
                found[number] = _processed(params, shown.take(rows[number]), number, next(made))
                late = max(late, time.monotonic() - due)
                _wait_until(due, context.is_cancelled)
                image = montage(found[number].images, params.seed, number)
                write_micrograph(folder, found[number].name, image, params.pixel_size_angstrom)
                folder.process(found[number], _HALF if one.event == "half written" else 1.0)
                context.progress.advance(1)
            else:
                _wait_until(due, context.is_cancelled)
                if one.event == "completed":
                    folder.complete(found[number].name)
                else:
                    folder.process(_chosen(found[number], kept[number]))
            n = len(kept[number]) if one.event == "processed again" else len(rows[number])
            entry = {"time": time.time(), "event": one.event, "micrograph": f"mic{number + 1:05d}", "particles": n}
            log.write(json.dumps(entry) + "\n")
            log.flush()
            if one.event == "processed again" or (number not in again and one.event != "half written"):
                found[number] = _forgotten(found[number])
    if late > params.wall_interval_seconds:
        context.progress.message(f"The images could not be made as fast as asked: up to {late:.0f} s late.")
    context.progress.message(
        f"{len(names)} micrographs with {len(particles)} particles came, {len(again)} were processed again."
    )
    context.report(_page(context, params, folder, len(names), len(again)))
    return folder.table


def montage(images: "np.ndarray", seed: int, number: int) -> "np.ndarray":
    """Return a micrograph: images side by side, particles dark, empty places filled with noise.

    Parameters
    ----------
    images : float32, shape (n, side, side); that of place k is centred at `positions`.
    number : of the micrograph, from 0.
    """
    import numpy as np

    n, side, _ = images.shape
    columns = _columns(n)
    tiles = np.random.default_rng((seed, number)).standard_normal((columns * columns, side, side), dtype=np.float32)
    tiles[:n] = images
    whole = tiles.reshape(columns, columns, side, side).transpose(0, 2, 1, 3).reshape(columns * side, columns * side)
    return np.asarray(_BRIGHTNESS - whole, dtype=np.float32)


def positions(n: int, side: int) -> "np.ndarray":
    """Return where the particles of a `montage` are, (x, y) in pixels, shape (n, 2)."""
    import numpy as np

    place = np.arange(n)
    columns = _columns(n)
    return np.stack([place % columns, place // columns], axis=1) * float(side) + side // 2


def _columns(n: int) -> int:
    return int(max(1, -(-(n**0.5) // 1)))


def _placed(problem: "ParticleProblem") -> "ParticleSet":
    """Return the particles with their places, micrographs named as in the folder."""
    import numpy as np

    truth = problem.truth
    number = np.unique(truth["micrograph_name"].astype(str), return_inverse=True)[1]
    counts = np.bincount(number)
    where = np.concatenate([positions(int(n), problem.params.box_pixel) for n in counts])
    names = np.array([f"mic{one + 1:05d}" for one in number], dtype=object)
    return truth.with_columns(micrograph_name=names, position_pixel=where)


def _kind_columns() -> tuple[str, str]:
    from halfmap.simulation.particles import JUNK_COLUMN, KIND_COLUMN

    return KIND_COLUMN, JUNK_COLUMN


def _folder(
    params: SimulateSessionParams, path: Path, problem: "ParticleProblem", wait: Callable[[float], None]
) -> "AcquisitionFolder":
    from halfmap.jobs.simulate_session_folders import RelionFolder, WarpFolder

    grid = problem.grid(0)
    if params.layout == "relion":
        return RelionFolder(path, grid=grid, float16=params.float16, wait=wait)
    diameter = max(reference.diameter_angstrom for reference in problem.references[0])
    return WarpFolder(
        path, layout=params.layout, grid=grid, diameter_angstrom=diameter, float16=params.float16, wait=wait
    )


def _processed(
    params: SimulateSessionParams, particles: "ParticleSet", number: int, images: "np.ndarray"
) -> "ProcessedMicrograph":
    """Return a micrograph; resolution and motion are plausible numbers, nothing was fitted."""
    import numpy as np

    from halfmap import keyed_random
    from halfmap.jobs import simulate_session_folders as folders

    draws = keyed_random.uniform(params.seed, "quality of a micrograph", np.array([number]), size=2)[0]
    resolution = folders.resolution_of_fit_angstrom(float(draws[0]), params.pixel_size_angstrom)
    return folders.ProcessedMicrograph(
        name=f"mic{number + 1:05d}",
        particles=particles.with_columns(ctf_max_resolution_angstrom=np.full(len(particles), resolution)),
        images=images,
        resolution_angstrom=resolution,
        motion_angstrom=0.3 + 2.0 * float(draws[1]),
        is_good=resolution <= folders.worst_resolution_angstrom(params.pixel_size_angstrom),
    )


def _chosen(micrograph: "ProcessedMicrograph", kept: "np.ndarray") -> "ProcessedMicrograph":
    from dataclasses import replace

    return replace(micrograph, particles=micrograph.particles.take(kept), images=micrograph.images[kept])


def _forgotten(micrograph: "ProcessedMicrograph") -> "ProcessedMicrograph":
    """Return a micrograph without its images, which are on disk and not needed again."""
    from dataclasses import replace

    return replace(micrograph, images=micrograph.images[:0])


def _write_truth(
    context: JobContext,
    folder: "AcquisitionFolder",
    particles: "ParticleSet",
    rows: "Sequence[np.ndarray]",
    kept: "dict[int, np.ndarray]",
) -> None:
    """Write what all particles are; they are known by micrograph and place, which hold for both processings."""
    import numpy as np

    from halfmap.io import relion

    dropped = np.zeros(len(particles), dtype=np.int64)
    for number, places in kept.items():
        dropped[np.delete(rows[number], places)] = 1
    names = [context.relative(folder.average_path(name)) for name in particles["micrograph_name"].tolist()]
    truth = particles.with_columns(
        micrograph_name=np.array(names, dtype=object), **{DROPPED_COLUMN: dropped.astype(str).astype(object)}
    )
    relion.write_particles(context.folder / TRUTH, truth.without_columns("uid"))


def _wait_until(moment: float, is_cancelled: Callable[[], bool]) -> None:
    """Wait, in naps, for a moment of the monotonic clock.

    Raises
    ------
    KeyboardInterrupt
        The user has asked the job to stop.
    """
    import time

    while (left := moment - time.monotonic()) > 0:
        if is_cancelled():
            raise KeyboardInterrupt
        time.sleep(min(left, _NAP_SECONDS))


def _page(
    context: JobContext, params: SimulateSessionParams, folder: "AcquisitionFolder", n_micrographs: int, n_again: int
) -> "Report":
    from halfmap.io.mrc import read_image
    from halfmap.report.blocks import Facts, Gallery, Report, Section

    shown = [folder.average_path(f"mic{number + 1:05d}") for number in range(min(n_micrographs, 3))]
    return Report(
        title="Simulated session",
        summary=f"{n_micrographs} micrographs of {', '.join(params.names)}, as {params.layout} writes them.",
        facts=Facts(
            facts=(
                ("micrographs", n_micrographs),
                ("particles", params.number),
                ("processed again", n_again),
                ("interval", params.interval_seconds, "s"),
                ("speed-up", params.speed_up),
                ("box", params.box_pixel, "px"),
                ("pixel size", params.pixel_size_angstrom, "Å"),
            )
        ),
        sections=(
            Section(
                title="Micrographs",
                blocks=tuple(
                    Gallery.montage(read_image(path)[None], columns=1, title=context.relative(path)) for path in shown
                ),
            ),
        ),
    )


JOB = JobType(
    command="simulate session",
    folder="Simulate",
    parameters=SimulateSessionParams,
    run=run,
    summary="Fill a folder as beside a microscope, its truth known",
    inputs=("model", "map"),
)
