"""Training the real Topaz: micrographs reduced, positions converted, the best network kept."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from halfmap import keyed_random
from halfmap.compute.device import select_devices
from halfmap.compute.threads import usable_cores
from halfmap.errors import InconsistentDataError, JobFailed
from halfmap.io import mrc, topaz
from halfmap.jobs.micrograph_inputs import OpenedMicrographs, open_micrographs, read_finite
from halfmap.jobs.per_micrograph import Rejected, forget_states, resumable_map
from halfmap.jobs.pick_lists import particles_by_micrograph, picks_by_micrograph
from halfmap.jobs.topaz_program import call, downscale_for, find_program, prepared, require, standardised
from halfmap.project.job import JobContext
from halfmap.report.blocks import Axis, Curve, Facts, Line, Report, Section

if TYPE_CHECKING:
    from halfmap.jobs.pick_topaz import PickTopazParams

TEST_SHARE = 0.2
"""Share of the positions from which on no further micrographs are held out."""

COURSE = "model_training.txt"


@dataclass(frozen=True, kw_only=True, eq=False)
class ReductionTask:
    """A micrograph to be reduced.

    Parameters
    ----------
    path, target : the micrograph, and the file to be written.
    pixel_size_angstrom : of the micrograph.
    downscale : the factor.
    """

    path: Path
    target: Path
    pixel_size_angstrom: float
    downscale: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Reduced:
    """Sides (y, x) of a reduced micrograph."""

    shape: tuple[int, int]


def train(context: JobContext, params: "PickTopazParams") -> Path:
    """Train and return the path of the best model."""
    program = find_program(params.executable)
    opened = open_micrographs(context, params.micrographs, pixel_size_angstrom=params.pixel_size_angstrom)
    sizes = np.unique(opened.pixel_size_angstrom)
    if len(sizes) > 1:
        raise InconsistentDataError(
            f"Micrographs for training must have one pixel size; got {sizes[0]:g} and {sizes[-1]:g} Å; leave one kind "
            "out."
        )
    downscale = params.downscale or downscale_for(params.diameter_angstrom, float(sizes[0]))
    positions = _positions(context, params, opened)
    tested = split([len(places) for places in positions.values()], params.seed)
    _write_inputs(context, opened, positions, tested, downscale)
    n_tested = sum(len(places) for places, held in zip(positions.values(), tested, strict=True) if held)
    context.progress.message(
        f"Trains on {len(tested) - sum(tested)} micrographs, tests on {sum(tested)} with {n_tested} of "
        f"{sum(map(len, positions.values()))} positions; micrographs are reduced {downscale} times."
    )
    radius = max(1, round(params.diameter_angstrom / (8 * float(sizes[0]) * downscale)))
    device = select_devices(context.options.devices)[0]
    inputs = context.folder / "topaz"
    for left in (*context.folder.glob("model_epoch*.sav"), *context.folder.glob(COURSE)):
        left.unlink()  # of a run that was interrupted
    said = call(
        program,
        [
            *("train", "-n", params.expected_per_micrograph or 0, "-r", radius),
            *("-d", -1 if device.type == "cpu" else device.index or 0),
            *("--num-threads", context.options.threads or usable_cores()),
            *("--train-images", inputs / "train_images.txt", "--train-targets", inputs / "train_targets.txt"),
            *(
                ("--test-images", inputs / "test_images.txt", "--test-targets", inputs / "test_targets.txt")
                if any(tested)
                else ()
            ),
            *("--save-prefix", context.folder / "model", "-o", context.folder / COURSE),
            *shlex.split(params.extra_arguments),
        ],
        say=context.log,
    )
    course, model = best_model(context.folder, program, said)
    context.progress.message(f"The best network is {model.name}.")
    context.report(_page(course, model, params))
    for path in inputs.glob("*.mrc"):
        path.unlink()
    forget_states(context)
    return model


def split(n_positions: list[int], seed: int) -> list[bool]:
    """Return which micrographs are held out for testing.

    In random order every second one is, until a fifth of all positions is held out.

    References
    ----------
    The rule of RELION's wrapper of Topaz.
    """
    held = [False] * len(n_positions)
    wanted, n_held = TEST_SHARE * sum(n_positions), 0
    for rank, index in enumerate(keyed_random.permutation(seed, "topaz test micrographs", len(n_positions)).tolist()):
        if rank % 2 == 1 and n_held <= wanted:
            held[index] = True
            n_held += n_positions[index]
    return held


def best_model(folder: Path, program: str, said: str) -> tuple[topaz.TrainingCourse, Path]:
    """Return the course of a training and the network of its best epoch.

    The best has the largest area under the precision-recall curve of the held-out micrographs; without any, the last.

    Raises
    ------
    JobFailed
        The program left no network, or no account of the training.
    """
    models = {int(found[1]): path for path in folder.glob("model_epoch*.sav") if (found := _EPOCH.search(path.name))}
    if not models:
        require(folder / "model_epochN.sav", "a network, model_epochN.sav", program, said)
    course = topaz.read_training(require(folder / COURSE, COURSE, program, said))
    score = {int(e): float(s) for e, s in zip(course.epochs, course.test_precision_recall, strict=True)}
    best = max(models, key=lambda epoch: (np.nan_to_num(score.get(epoch, np.nan), nan=-1.0), epoch))
    return course, require(models[best], "a network that is not empty", program, said)


_EPOCH = re.compile(r"_epoch(\d+)\.sav$")


def _positions(context: JobContext, params: "PickTopazParams", opened: OpenedMicrographs) -> dict[int, np.ndarray]:
    """Return the positions in each micrograph that has any, in its pixels, by the micrograph's number."""
    if params.particles is not None:
        found = particles_by_micrograph(params.particles, opened)
    else:
        assert params.picks is not None
        found = picks_by_micrograph(context, params.picks, opened)
    positions = {i: one.position_pixel for i, one in enumerate(found) if one is not None and len(one)}
    if not positions:
        raise InconsistentDataError(
            f"{params.particles or params.picks} must hold positions to train with; got none; choose another file."
        )
    return positions


def _write_inputs(
    context: JobContext, opened: OpenedMicrographs, positions: dict[int, np.ndarray], tested: list[bool], downscale: int
) -> None:
    """Reduce the micrographs and write Topaz's lists of images and positions."""
    folder = context.folder / "topaz"
    folder.mkdir(exist_ok=True)
    files = {i: folder / f"{i:06d}_{opened.paths[i].stem}.mrc" for i in positions}
    tasks = [
        ReductionTask(
            path=opened.paths[i],
            target=files[i],
            pixel_size_angstrom=float(opened.pixel_size_angstrom[i]),
            downscale=downscale,
        )
        for i in positions
    ]
    results = resumable_map(
        context,
        reduce_one,
        tasks,
        names=[opened.names[i] for i in positions],
        result_type=Reduced,
        label="Reducing",
        is_whole=_is_written,
    )
    usable = [not isinstance(result, Rejected) for result in results]
    for which, wanted in (("train", False), ("test", True)):
        chosen = [i for i, held, good in zip(positions, tested, usable, strict=True) if held == wanted and good]
        topaz.write_images(folder / f"{which}_images.txt", {files[i].stem: files[i] for i in chosen})
        places = {files[i].stem: positions[i] / downscale for i in chosen}
        topaz.write_coordinates(folder / f"{which}_targets.txt", places)
        if which == "train" and not chosen:
            raise JobFailed("Training must have at least one micrograph with positions; got none; give more of them.")


def _is_written(task: ReductionTask) -> bool:
    return task.target.exists()


def reduce_one(task: ReductionTask) -> Reduced:
    """Reduce one micrograph and write it."""
    work = prepared(read_finite(task.path), pixel_size_angstrom=task.pixel_size_angstrom, downscale=task.downscale)
    mrc.write_image(task.target, standardised(work), work.grid)
    return Reduced(shape=(work.grid.shape[0], work.grid.shape[1]))


def _page(course: topaz.TrainingCourse, model: Path, params: "PickTopazParams") -> Report:
    x = Axis(label="epoch")
    losses = Curve(
        title="Loss",
        lines=[
            Line(label=label, x=course.epochs, y=values)
            for label, values in (("training", course.loss), ("held out", course.test_loss))
            if np.isfinite(values).any()
        ],
        x=x,
        y=Axis(label="loss"),
    )
    precision = Curve(
        title="Held-out micrographs",
        lines=[Line(label="held out", x=course.epochs, y=course.test_precision_recall)],
        x=x,
        y=Axis(label="area under precision and recall", limits=(0, 1)),
        caption="A position that was not labelled counts as wrong, so this stays below 1 where not all particles are.",
    )
    return Report(
        title="Training of Topaz",
        summary=f"The best network is {model.name}. Pick with it at the same diameter, {params.diameter_angstrom:g} Å.",
        facts=Facts(facts=(("epochs", len(course.epochs)), ("network", model.name))),
        sections=(
            Section(
                title="Course",
                blocks=(losses, *((precision,) if np.isfinite(course.test_precision_recall).any() else ())),
            ),
        ),
    )
