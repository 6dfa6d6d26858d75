"""``halfmap pick bootstrap``: a network taught on what blob picking and 2D classification find, and picks by it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError
from halfmap.project.job import JobContext, JobResult, JobType

if TYPE_CHECKING:
    from halfmap.jobs.micrograph_inputs import OpenedMicrographs

SPLIT, BLOBS, EXTRACTED, CLASSIFIED = "Split", "PickLog", "Extract", "Class2D"
SELECTED, TAUGHT, PICKED, ALL_EXTRACTED = "Select", "PickTrain", "PickNetwork", "ExtractAll"
"""Folders of the steps."""

USABLE = "usable_micrographs.star"

_PIXEL_ANGSTROM = 3.54  # of the images that are classified, as in RELION's tutorial
_MOST_PIXELS = 128  # along their sides: large particles are classified at coarser pixels
_BOX_DIAMETERS, _MASK_DIAMETERS = 1.5, 1.1
_FEWEST_PICKS = 30  # from which anything can be learned
_FEWEST_CLASSES, _MOST_CLASSES, _PARTICLES_OF_A_CLASS = 8, 50, 100
_FINEST_OF_BLOBS_ANGSTROM = 20.0


@dataclass(frozen=True, kw_only=True)
class PickBootstrapParams:
    """Inputs and settings of ``halfmap pick bootstrap``."""

    micrographs: Path
    """STAR file of the micrographs with their CTF."""

    diameter_angstrom: Annotated[float, Gt(0)]
    """Diameter of the particles; of their longest view, if they are not round."""

    min_diameter_angstrom: Annotated[float, Gt(0)] | None = None
    """Diameter of their shortest view, if they are not round. Default: within a tenth of the diameter."""

    training_micrographs: Annotated[int, Ge(1)] = 10
    """Number of micrographs to learn from, drawn at random; all, where there are fewer."""

    classes: Annotated[int, Ge(1)] | None = None
    """Number of classes. Default: one for a hundred particles, 8 to 50."""

    min_score: Annotated[float, Ge(0), Le(1)] = 0.2
    """Lowest score of a class to learn from, 0 (rubbish) to 1. Lower than for a map: particles with a neighbour, whose
    classes score less, are to be found too."""

    expected_per_micrograph: Annotated[float, Gt(0)] | None = None
    """Particles that a micrograph holds on average. Default: the median number of blobs."""

    epochs: Annotated[int, Ge(1)] = 10
    """Rounds of training; the best is kept."""

    min_fom: float | None = None
    """Extract what the network picks in all micrographs too, where its figure of merit is above this; -3 leaves it to
    classification to sort the picks out, 0 takes those that are more likely particles than not."""

    ctf: bool = True
    """Correct for the contrast transfer function in the classification."""

    white_particles: bool = False
    """Particles are brighter than the background, not darker."""

    seed: int = 1
    """Seed of everything drawn at random."""

    def __post_init__(self) -> None:
        if self.min_diameter_angstrom is not None and self.min_diameter_angstrom > self.diameter_angstrom:
            raise InputError(
                f"--min-diameter must not exceed --diameter; got {self.min_diameter_angstrom:g} and "
                f"{self.diameter_angstrom:g} Å; swap them."
            )

    @property
    def blob_diameters_angstrom(self) -> tuple[float, float]:
        """Shortest and longest diameter of the blobs that are looked for."""
        if self.min_diameter_angstrom is not None:
            return self.min_diameter_angstrom, self.diameter_angstrom
        return 0.9 * self.diameter_angstrom, 1.1 * self.diameter_angstrom

    @property
    def mask_diameter_angstrom(self) -> float:
        """Diameter of the circle that holds every view of a particle."""
        return _MASK_DIAMETERS * self.diameter_angstrom

    def box_pixel(self, pixel_size_angstrom: float) -> int:
        """Return the side of the window around a particle, in pixels of the micrograph."""
        return 2 * max(4, round(_BOX_DIAMETERS * self.diameter_angstrom / pixel_size_angstrom / 2))

    def rescale_pixel(self, pixel_size_angstrom: float) -> int:
        """Return the side of the images that are classified, in their own pixels."""
        box = self.box_pixel(pixel_size_angstrom)
        wanted = max(_PIXEL_ANGSTROM, box * pixel_size_angstrom / _MOST_PIXELS)
        return min(box, 2 * max(4, round(box * pixel_size_angstrom / wanted / 2)))


def run(context: JobContext, params: PickBootstrapParams) -> Path:
    """Run the chain, each step a job in a folder of its own, and return the path of the network's ``autopick.star``.

    Raises
    ------
    InconsistentDataError
        The micrographs have no CTF.
    InputError
        The diameter does not fit the micrographs, hardly a blob is found, or no class is good enough.
    """
    from halfmap.jobs import pick_bootstrap_report
    from halfmap.jobs.chain import run_step

    opened = _checked(context, params)
    done: dict[str, JobResult] = {}

    def step(folder: str, command: str, **values: object) -> JobResult:
        done[folder] = run_step(context, command, folder, **values)
        context.report(pick_bootstrap_report.page(context, params, done, is_finished=False))
        return done[folder]

    size = min(params.training_micrographs, len(opened.names))
    table = _usable(context, params, opened)
    part = step(SPLIT, "select split", table=table, size=size, number=1, shuffle=True, seed=params.seed).main_output
    shortest, longest = params.blob_diameters_angstrom
    blobs = step(
        BLOBS,
        "pick log",
        micrographs=part,
        min_diameter_angstrom=shortest,
        max_diameter_angstrom=longest,
        max_resolution_angstrom=min(_FINEST_OF_BLOBS_ANGSTROM, shortest / 1.5),
        white_particles=params.white_particles,
    )
    median = _median_of_blobs(context, params, blobs)
    pixel_size = float(opened.pixel_size_angstrom.min())
    windows = {
        "box_pixel": params.box_pixel(pixel_size),
        "rescale_pixel": params.rescale_pixel(pixel_size),
        "background_diameter": f"{params.mask_diameter_angstrom:g}",
        "invert_contrast": not params.white_particles,
    }
    extracted = step(EXTRACTED, "extract", micrographs=part, picks=blobs.main_output, **windows)
    classified = step(
        CLASSIFIED,
        "class2d",
        particles=extracted.main_output,
        classes=params.classes or _number_of_classes(extracted),
        mask_diameter_angstrom=params.mask_diameter_angstrom,
        ctf=params.ctf,
        seed=params.seed,
    )
    _check_scores(context, params, classified)
    selected = step(SELECTED, "select classes", classification=classified.folder, min_score=params.min_score)
    taught = step(
        TAUGHT,
        "pick train",
        micrographs=part,
        particles=selected.main_output,
        diameter_angstrom=params.diameter_angstrom,
        expected_per_micrograph=params.expected_per_micrograph or median,
        epochs=params.epochs,
        white_particles=params.white_particles,
        seed=params.seed,
    )
    picked = step(
        PICKED,
        "pick network",
        micrographs=params.micrographs,
        model=taught.main_output,
        diameter_angstrom=params.diameter_angstrom,
        white_particles=params.white_particles,
    )
    if params.min_fom is not None:
        step(
            ALL_EXTRACTED,
            "extract",
            micrographs=params.micrographs,
            picks=picked.main_output,
            min_fom=params.min_fom,
            **windows,
        )
    context.report(pick_bootstrap_report.page(context, params, done, is_finished=True))
    return picked.main_output


def _checked(context: JobContext, params: PickBootstrapParams) -> "OpenedMicrographs":
    """Open the micrographs, and refuse before the work begins what its last steps could not do."""
    from halfmap.jobs.micrograph_inputs import open_micrographs
    from halfmap.jobs.particle_table_checks import check_ctf
    from halfmap.picking.network.preparation import DIAMETER_PIXEL, LEAST_WIDTH

    opened = open_micrographs(context, params.micrographs)
    if params.ctf:
        check_ctf(params.micrographs, opened.micrographs)
    coarsest = float(opened.pixel_size_angstrom.max())
    if params.diameter_angstrom < DIAMETER_PIXEL * coarsest:
        raise InputError(
            f"--diameter must be at least {DIAMETER_PIXEL} pixels of the micrographs; got "
            f"{params.diameter_angstrom:g} Å at {coarsest:g} Å per pixel; check both."
        )
    sides = [min(shape) * size for shape, size in zip(opened.shapes, opened.pixel_size_angstrom, strict=True)]
    if params.diameter_angstrom * LEAST_WIDTH > min(sides):
        raise InputError(
            f"--diameter must be less than a third of a micrograph's shorter side; got {params.diameter_angstrom:g} Å "
            f"for {min(sides):.0f} Å; check the diameter and the pixel size."
        )
    if len(opened.names) < params.training_micrographs:
        context.progress.message(
            f"Learns from all {len(opened.names)} micrographs: there are no more, and so none that it has not seen."
        )
    return opened


def _usable(context: JobContext, params: PickBootstrapParams, opened: "OpenedMicrographs") -> Path:
    """Return the table to draw micrographs from: without those that cannot be opened, so that none of them is drawn."""
    from halfmap.io import relion

    if not opened.rejected:
        return params.micrographs
    path = context.folder / USABLE
    relion.write_micrographs(path, opened.micrographs)
    return path


def _median_of_blobs(context: JobContext, params: PickBootstrapParams, blobs: JobResult) -> float:
    """Return the median number of blobs in a micrograph.

    Raises
    ------
    InputError
        There are too few to learn from.
    """
    import numpy as np

    from halfmap.io.relion_picks import read_autopick

    picks = read_autopick(blobs.main_output, context.project)
    if len(picks) < _FEWEST_PICKS:
        shortest, longest = params.blob_diameters_angstrom
        raise InputError(
            f"At least {_FEWEST_PICKS} blobs must be found to learn from; got {len(picks)} of {shortest:.0f} to "
            f"{longest:.0f} Å in {len(picks.micrographs)} micrographs; look at {blobs.folder}/report.html, check "
            "--diameter and the pixel size, take more --training-micrographs, or use `halfmap pick network`, which "
            "comes with a general detector."
        )
    return max(1.0, float(np.median([len(rows) for rows in picks.by_micrograph().values()])))


def _number_of_classes(extracted: JobResult) -> int:
    from halfmap.io.relion import read_particles

    n = len(read_particles(extracted.main_output)) // _PARTICLES_OF_A_CLASS
    return min(max(n, _FEWEST_CLASSES), _MOST_CLASSES)


def _check_scores(context: JobContext, params: PickBootstrapParams, classified: JobResult) -> None:
    """Say what to do where no class is good enough; a selection made by hand stands.

    Raises
    ------
    InputError
        No class that holds particles has the score that is asked for.
    """
    import numpy as np

    from halfmap.io.relion_classes import read_class_run
    from halfmap.jobs.chain import is_begun

    averages = read_class_run(classified.folder, project=context.project).averages
    scores = np.nan_to_num(averages["score"][averages["n_particles"] > 0])
    if is_begun(context, SELECTED) or scores.max() >= params.min_score:
        return
    raise InputError(
        f"At least one class must score {params.min_score:g} or more; got {scores.max():.2f} at best; look at "
        f"{classified.folder}/report.html. Where some show particles, keep them, their numbers in place of 1,2, with "
        f"`halfmap select classes {classified.folder} --classes 1,2 --out {context.folder / SELECTED}`, and go on "
        f"with `halfmap pick bootstrap --continue {context.folder}`. Where none does, check --diameter and the pixel "
        "size, or use `halfmap pick network`, which comes with a general detector."
    )


JOB = JobType(
    command="pick bootstrap",
    folder="AutoPick",
    parameters=PickBootstrapParams,
    run=run,
    summary="Teach a network on what blob picking and 2D classes find, and pick with it",
    inputs=("micrographs",),
    outputs={"particles": f"{ALL_EXTRACTED}/particles.star", "model": f"{TAUGHT}/model.safetensors"},
)
