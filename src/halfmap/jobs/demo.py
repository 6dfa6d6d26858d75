"""``halfmap demo``: the main jobs from nothing, on movies and micrographs that the package makes itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt

from halfmap.project.job import JobContext, JobResult, JobType

_PIXEL_ANGSTROM = 1.5  # of the simulated micrographs
_MOVIE_SIDE, _MOVIE_PARTICLES = 640, 30
MOVIE_FRAMES, DOSE_PER_FRAME = 10, 4.0
_BINNING = 2.4  # pixels of 3.6 Å: helices show, and a refinement takes a minute
_INITIAL_LOW_PASS_ANGSTROM = 40.0
MIN_FOM = 0.0
"""Picks of a greater figure of merit, more likely particles than not, are extracted."""


@dataclass(frozen=True, kw_only=True)
class DemoParams:
    """What the demonstration is made of."""

    specimen: str = "groel-like-d7-190"
    """Built-in specimen."""

    diameter_angstrom: Annotated[float, Gt(0)] = 145.0
    """Its mean diameter; views are up to 10 % narrower and 18 % wider."""

    symmetry: str = "D7"
    """Its point group."""

    number: Annotated[int, Ge(1)] = 10
    """Number of micrographs."""

    movies: Annotated[int, Ge(1)] = 2
    """Number of movies whose motion is corrected; small ones, of other particles than the micrographs'."""

    junk_per_particle: Annotated[float, Ge(0)] = 0.25
    """Number of broken particles and aggregates for each particle."""

    training_micrographs: Annotated[int, Ge(1)] = 7
    """Number of micrographs that the network learns from."""

    epochs: Annotated[int, Ge(1)] = 8
    """Rounds of its training."""

    classes: Annotated[int, Ge(1)] = 12
    """Number of classes."""

    minibatches: Annotated[int, Ge(10)] = 60
    """Mini-batches of the initial model before symmetry is imposed."""

    initial_resolution_angstrom: Annotated[float, Gt(0)] = 15.0
    """Finest detail of the initial model."""

    max_iterations: Annotated[int, Ge(1)] = 50
    """Iterations after which the refinement ends even if it has not converged."""

    seed: int = 1
    """Seed of everything drawn at random."""

    @property
    def mask_diameter_angstrom(self) -> float:
        """Diameter of the circle that holds every view of a particle."""
        return round(1.3 * self.diameter_angstrom)


def run(context: JobContext, params: DemoParams) -> Path:
    """Go from micrographs to a refined map, each step a job in a folder of its own; return the page of it all."""
    from halfmap.jobs.chain import run_step

    movies, corrected = _movies(context, params)
    simulated, ctf, picked, extracted = _particles(context, params)
    classified = run_step(
        context,
        "class2d",
        "Class2D",
        particles=extracted.main_output,
        classes=params.classes,
        mask_diameter_angstrom=params.mask_diameter_angstrom,
        seed=params.seed,
    )
    # the best class at least: a demo of few micrographs may have none that is good
    selected = run_step(context, "select classes", "Select", classification=classified.folder, auto=True, min_classes=1)
    in_3d = {
        "particles": selected.main_output,
        "symmetry": params.symmetry,
        "mask_diameter_angstrom": params.mask_diameter_angstrom,
        "seed": params.seed,
    }
    initial = run_step(
        context,
        "initial-model",
        "InitialModel",
        minibatches=params.minibatches,
        resolution_angstrom=params.initial_resolution_angstrom,
        **in_3d,
    )
    refined = run_step(
        context,
        "refine3d",
        "Refine3D",
        reference=initial.main_output,
        initial_low_pass_angstrom=_INITIAL_LOW_PASS_ANGSTROM,
        max_iterations=params.max_iterations,
        **in_3d,
    )

    from halfmap.jobs.demo_report import DemoSteps, page

    steps = DemoSteps(
        movies=movies,
        corrected=corrected,
        simulated=simulated,
        ctf=ctf,
        picked=picked,
        extracted=extracted,
        classified=classified,
        selected=selected,
        initial=initial,
        refined=refined,
    )
    return context.report(page(context, params, steps))


def _movies(context: JobContext, params: DemoParams) -> tuple[JobResult, JobResult]:
    """Simulate movies and correct their motion."""
    from halfmap.jobs.chain import run_step

    movies = run_step(
        context,
        "simulate frame-series",
        "Movies",
        specimen=(params.specimen,),
        number=params.movies,
        particles_per_series=(_MOVIE_PARTICLES,),
        size_pixel=(_MOVIE_SIDE, _MOVIE_SIDE),
        pixel_size_angstrom=_PIXEL_ANGSTROM,
        frames=MOVIE_FRAMES,
        dose_e_per_angstrom2=MOVIE_FRAMES * DOSE_PER_FRAME,
        global_motion_angstrom=6.0,
        local_motion_angstrom=1.0,
        seed=params.seed,
    )
    corrected = run_step(
        context,
        "motion",
        "MotionCorr",
        movies=tuple(sorted((movies.folder / "frames").glob("*.mrc"))),
        gain=movies.folder / "gain.mrc",
        pixel_size_angstrom=_PIXEL_ANGSTROM,
        dose_per_frame_e_per_angstrom2=DOSE_PER_FRAME,
        patches=(3, 3),
    )
    return movies, corrected


def _particles(context: JobContext, params: DemoParams) -> tuple[JobResult, JobResult, JobResult, JobResult]:
    """Simulate micrographs, find their CTF, pick them with a network that some have taught, and extract particles."""
    from halfmap.jobs.chain import run_step

    simulated = run_step(
        context,
        "simulate micrographs",
        "Simulate",
        specimen=(params.specimen,),
        number=params.number,
        junk_per_particle=params.junk_per_particle,
        seed=params.seed,
    )
    # the truth is in the same table: what counts is what the command finds in the images
    ctf = run_step(context, "ctf", "CtfFind", micrographs=(simulated.main_output,))
    picked = run_step(
        context,
        "pick bootstrap",
        "AutoPick",
        micrographs=ctf.main_output,
        diameter_angstrom=round(params.mask_diameter_angstrom / 1.1),
        min_diameter_angstrom=round(0.9 * params.diameter_angstrom),
        training_micrographs=params.training_micrographs,
        epochs=params.epochs,
        seed=params.seed,
    )
    side = 4 * round(0.375 * params.diameter_angstrom / _PIXEL_ANGSTROM)
    extracted = run_step(
        context,
        "extract",
        "Extract",
        micrographs=ctf.main_output,
        picks=picked.main_output,
        min_fom=MIN_FOM,
        box_pixel=side,
        rescale_pixel=2 * round(side / (2 * _BINNING)),
        background_diameter=f"{params.mask_diameter_angstrom:g}",
    )
    return simulated, ctf, picked, extracted


JOB = JobType(
    command="demo",
    folder="Demo",
    parameters=DemoParams,
    run=run,
    summary="Show the main jobs on micrographs that the package makes itself",
    inputs=(),
)
