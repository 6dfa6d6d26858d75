"""``halfmap pick train``: teach a network to find the particles of one data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from halfmap.errors import InconsistentDataError, InputError
from halfmap.jobs.per_micrograph import Rejected, check_rejections
from halfmap.picking.network.params import DetectorTrainingParams
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    import numpy as np

    from halfmap.jobs.micrograph_inputs import OpenedMicrographs
    from halfmap.picking.network.examples import LabelledMicrograph
    from halfmap.picking.network.training import TrainedDetector, TrainingState

MODEL, CARD = "model.safetensors", "model.json"


@dataclass(frozen=True, kw_only=True)
class PickTrainJobParams(DetectorTrainingParams):
    """Inputs and settings of ``halfmap pick train``."""

    micrographs: Path
    """STAR file of the micrographs."""

    particles: Path | None = None
    """Particles to learn from, such as those that survived 2D classification; their refined offsets count."""

    picks: Path | None = None
    """Picks to learn from instead: ``autopick.star``, the folder of a picking job, or a folder of coordinate files."""

    min_fom: float | None = None
    """Least figure of merit of a pick to learn from."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the micrographs. Default: that of their table; older tables do not know it."""

    white_particles: bool = False
    """Particles are brighter than the background, not darker."""

    def __post_init__(self) -> None:
        if (self.particles is None) == (self.picks is None):
            raise InputError("pick train must be given --particles or --picks; got both or none; give one of them.")
        if self.min_fom is not None and self.picks is None:
            raise InputError("--min-fom must be given with --picks; got --particles; choose them with halfmap select.")


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparationTask:
    """One micrograph to learn from.

    Parameters
    ----------
    name, path : of the micrograph.
    position_pixel : of its labelled particles, float64, shape (n, 2).
    pixel_size_angstrom : of the micrograph.
    diameter_angstrom, white_particles : as in the job's parameters.
    """

    name: str
    path: Path
    position_pixel: "np.ndarray"
    pixel_size_angstrom: float
    diameter_angstrom: float
    white_particles: bool


def run(context: JobContext, params: PickTrainJobParams) -> Path:
    """Teach, and return the path of ``model.safetensors``.

    Raises
    ------
    InconsistentDataError
        No label lies in a micrograph.
    InputError
        The diameter does not fit the micrographs.
    """
    from halfmap.io import atomic
    from halfmap.jobs.pick_train_report import page
    from halfmap.picking.network import card
    from halfmap.picking.network.examples import split

    examples = _examples(context, params)
    taught, held_out = split(examples, held_out_fraction=params.held_out_fraction, seed=params.seed)
    n_labels = sum(len(one.position_pixel) for one in taught)
    context.progress.message(
        f"Learns from {n_labels} particles in {len(taught)} micrographs; held out: "
        f"{sum(len(one.position_pixel) for one in held_out)} in {len(held_out)}."
    )
    trained = _trained(context, params, taught, held_out)
    source = (params.particles or params.picks or Path()).name
    detector = card.Detector(
        network=trained.network,
        card=card.DetectorCard.of(trained, params, n_micrographs=len(taught), n_labels=n_labels, source=source),
    )
    output = context.folder / MODEL
    with atomic.replacing(output) as temporary:
        temporary.write_bytes(card.to_bytes(detector))
    atomic.write_text(context.folder / CARD, detector.card.text())
    context.report(page(params, detector, trained, taught, held_out))
    context.progress.message(
        f"Best epoch {trained.best_epoch}: average precision {detector.card.average_precision:.3f} on held-out "
        f"micrographs; about {100 * trained.calibration.labelled_share:.0f} % of the particles there have a label."
    )
    return output


def _examples(context: JobContext, params: PickTrainJobParams) -> "list[LabelledMicrograph]":
    """Read and prepare the micrographs that hold labels."""
    from halfmap.jobs.micrograph_inputs import open_micrographs

    opened = open_micrographs(context, params.micrographs, pixel_size_angstrom=params.pixel_size_angstrom)
    tasks = [
        PreparationTask(
            name=name,
            path=path,
            position_pixel=position,
            pixel_size_angstrom=float(size),
            diameter_angstrom=params.diameter_angstrom,
            white_particles=params.white_particles,
        )
        for name, path, size, position in zip(
            opened.names, opened.paths, opened.pixel_size_angstrom, _labels(context, params, opened), strict=True
        )
        if len(position)
    ]
    largest = max(height * width for height, width in opened.shapes)
    context.expect_memory(12 * largest + 2**28, "one micrograph in each worker")
    done = list(context.executor.map(prepare_one, tasks, progress=context.progress, label="Reading micrographs"))
    examples = [one for one in done if not isinstance(one, Rejected)]
    rejected = [one for one in done if isinstance(one, Rejected)]
    for one in rejected:
        context.log(f"set aside {one.name}: {one.reason}")
    if rejected:
        check_rejections(rejected, len(tasks), "micrographs")
    lost = sum(len(task.position_pixel) for task in tasks) - sum(len(one.position_pixel) for one in examples)
    if lost:
        context.progress.message(f"Left out {lost} labels that lie outside, on carbon or at the border.")
    if not sum(len(one.position_pixel) for one in examples):
        raise InconsistentDataError(
            f"Labelled particles must lie in the micrographs of {params.micrographs}; got none that do; check that "
            "names and pixel size are those of the micrographs."
        )
    return examples


def _labels(context: JobContext, params: PickTrainJobParams, opened: "OpenedMicrographs") -> "list[np.ndarray]":
    """Return the positions (x, y) of the labels in each micrograph, in its pixels.

    Raises
    ------
    InconsistentDataError
        They lie far outside: those of another pixel size.
    """
    import numpy as np

    from halfmap.jobs.pick_lists import particles_by_micrograph, picks_by_micrograph

    if params.particles is not None:
        given = particles_by_micrograph(params.particles, opened)
    else:
        assert params.picks is not None
        given = picks_by_micrograph(context, params.picks, opened)
        if params.min_fom is not None:
            given = [None if one is None else one.take(one.figure_of_merit >= params.min_fom) for one in given]
    positions = [np.zeros((0, 2)) if one is None else one.position_pixel for one in given]
    total = sum(len(position) for position in positions)
    outside = sum(
        int(((position < -0.5) | (position > np.array(shape[::-1]) - 0.5)).any(axis=1).sum())
        for position, shape in zip(positions, opened.shapes, strict=True)
    )
    if total == 0 and params.picks is not None and params.min_fom is not None:
        raise InconsistentDataError(
            f"Picks to learn from must have a figure of merit of {params.min_fom:g} or more; got none that has in "
            f"{params.picks}; lower --min-fom, or leave it out."
        )
    if total == 0 or outside > 0.1 * total:
        raise InconsistentDataError(
            f"Labels must lie in the micrographs; got {total}, {outside} of them outside; give others, or check that "
            "their coordinates are in pixels of these micrographs."
        )
    return positions


def prepare_one(task: PreparationTask) -> "LabelledMicrograph | Rejected":
    """Read and prepare a micrograph, or say why it is set aside: a task."""
    from halfmap.errors import FormatError
    from halfmap.jobs.micrograph_inputs import read_finite
    from halfmap.picking.network.examples import LabelledMicrograph
    from halfmap.picking.network.preparation import prepare

    try:
        prepared = prepare(
            read_finite(task.path),
            pixel_size_angstrom=task.pixel_size_angstrom,
            diameter_angstrom=task.diameter_angstrom,
            white_particles=task.white_particles,
        )
    except (FormatError, InputError) as error:
        return Rejected(name=task.name, reason=str(error))
    return LabelledMicrograph.of(task.name, prepared, task.position_pixel)


def _trained(
    context: JobContext,
    params: PickTrainJobParams,
    taught: "list[LabelledMicrograph]",
    held_out: "list[LabelledMicrograph]",
) -> "TrainedDetector":
    """Teach the network, keeping a state and drawing the page after each epoch."""
    from halfmap.compute.device import select_devices
    from halfmap.jobs.pick_train_report import running_page
    from halfmap.jobs.step_states import StepStates
    from halfmap.picking.network.training import TrainingState, train

    states = StepStates(context, "pick_train", TrainingState)
    start = states.newest()
    if start is not None:
        context.progress.message(f"Goes on after epoch {len(start.average_precision)}.")
    context.progress.start("Epochs", params.epochs)
    if start is not None:
        context.progress.advance(len(start.average_precision))

    def after_epoch(state: "TrainingState") -> None:
        number = len(state.average_precision)
        states.save(number, state)
        context.progress.advance(1)
        context.log(f"epoch {number}: loss {state.fit.losses[-1]:.4f}, {state.average_precision[-1]:.4f} held out")
        context.report(running_page(params, state))
        if context.is_cancelled():
            raise KeyboardInterrupt

    device = select_devices(context.options.devices)[0]
    trained = train(taught, held_out, params, device=device, start=start, after_epoch=after_epoch)
    states.keep_only_newest()
    return trained


JOB = JobType(
    command="pick train",
    folder="AutoPick",
    parameters=PickTrainJobParams,
    run=run,
    summary="Teach a network to find the particles of one data set",
    inputs=("micrographs", "particles", "picks"),
)
