"""``halfmap simulate particles``: a particle stack whose truth is known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from halfmap.errors import InputError
from halfmap.jobs.simulation_inputs import SpecimenParams, check_fractions, references
from halfmap.project.job import JobContext, JobType
from halfmap.simulation.params import ParticleSimulationParams

if TYPE_CHECKING:
    import numpy as np

    from halfmap.compute.broadcast import Broadcast
    from halfmap.report.blocks import Report
    from halfmap.simulation.particles import ParticleProblem

_PIXELS_PER_TASK = 4_000_000
_BACKGROUND_SHARE = 0.75
_SHOWN = 48


@dataclass(frozen=True, kw_only=True)
class SimulateParticlesParams(SpecimenParams, ParticleSimulationParams):
    """Inputs and settings of ``halfmap simulate particles``."""


def run(context: JobContext, params: SimulateParticlesParams) -> Path:
    """Simulate, and return the path of ``particles.star``."""
    from functools import partial

    import numpy as np

    from halfmap.io import relion
    from halfmap.io.mrc import StackWriter
    from halfmap.simulation import particles as simulation

    groups = range(params.optics_groups)
    problem, scale = made_problem(params, context.progress.message)
    write_references(context, problem, scale)

    names = np.empty(params.number, dtype=object)
    handle = context.executor.broadcast(problem)
    context.progress.start("Simulating", params.number)
    for group, rows in enumerate(problem.group_rows):
        if not len(rows):
            continue
        stack = context.folder / ("particles.mrcs" if len(groups) == 1 else f"particles_group{group + 1}.mrcs")
        work = partial(normalised_images, handle, scale)
        with StackWriter(stack, problem.grid(group), len(rows), float16=params.float16) as writer:
            for images in context.executor.map(work, _chunks(rows, params.box_pixel)):
                writer.write(images)
                context.progress.advance(len(images))
        written = context.relative(stack)
        names[rows] = [f"{number:06d}@{written}" for number in range(1, len(rows) + 1)]
    # from here on particles are known by their images, which differ between jobs
    folder = context.relative(context.folder)
    micrographs = np.array([f"{folder}/{name}" for name in problem.truth["micrograph_name"]], dtype=object)
    truth = problem.truth.with_columns(image_name=names, micrograph_name=micrographs).without_columns("uid")
    relion.write_particles(context.folder / "ground_truth.star", truth)
    output = context.folder / "particles.star"
    hidden = ("rotation", "origin_angstrom", "class_number", simulation.KIND_COLUMN, simulation.JUNK_COLUMN)
    relion.write_particles(output, truth.without_columns(*hidden))
    n_junk = int(np.sum(truth[simulation.KIND_COLUMN] != simulation.PARTICLE))
    context.progress.message(f"Simulated {params.number} images at an SNR of {params.snr:g}, {n_junk} of them junk.")
    context.report(_page(context, params, problem, names, scale))
    return output


def made_problem(params: SimulateParticlesParams, message: Callable[[str], None]) -> "tuple[ParticleProblem, float]":
    """Return what decides the images, and the scale of the clean ones that gives the SNR.

    Raises
    ------
    InputError
        Fractions and specimens are not of the same number, or the box does not hold the particles.
    """
    from halfmap.simulation import particles as simulation

    check_fractions(params.class_fractions, len(params.names))
    sizes = [params.pixel_size_of_group_angstrom(group) for group in range(params.optics_groups)]
    made = references(params, sizes, params.b_factor_angstrom2, message)
    diameters = [reference.diameter_angstrom for reference in made[0]]
    if max(diameters) > params.box_pixel * min(sizes):
        raise InputError(
            f"--box must hold the particles; got {params.box_pixel} px of {min(sizes):g} Å for a particle "
            f"{max(diameters):.0f} Å wide; use at least {2 * int(0.75 * max(diameters) / min(sizes))} px."
        )
    problem = simulation.ParticleProblem(
        params=params,
        truth=simulation.draw_truth(params, len(made[0]), diameters),
        references=made,
        broken=[[reference.broken() for reference in group] for group in made] if params.junk_fraction else [],
    )
    variance = simulation.signal_variance(problem)
    return problem, (params.snr / variance) ** 0.5 if variance > 0 else 1.0


def _chunks(rows: "np.ndarray", box_pixel: int) -> "Iterator[np.ndarray]":
    """Yield rows in chunks whose size follows from the box alone."""
    size = max(8, min(256, _PIXELS_PER_TASK // (2 * box_pixel) ** 2))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def normalised_images(handle: "Broadcast", scale: float, rows: "np.ndarray") -> "np.ndarray":
    """Return noisy images, their background brought to mean 0 and standard deviation 1 as extraction does."""
    from halfmap.extraction.normalisation import background_mask, normalise
    from halfmap.simulation import particles as simulation

    problem: ParticleProblem = handle.load()
    images = simulation.images(problem, rows, scale)
    return normalise(images.contiguous(), background_mask(problem.params.box_pixel, _radius(problem)))[0].numpy()


def _radius(problem: "ParticleProblem") -> float:
    """Return the radius in pixels outside which images count as background."""
    widest = max(
        reference.diameter_angstrom / problem.grid(group).pixel_size_angstrom
        for group, of_group in enumerate(problem.references)
        for reference in of_group
    )
    box = problem.params.box_pixel
    return 0.5 * min(max(widest, _BACKGROUND_SHARE * box), 0.95 * box)


def write_references(context: JobContext, problem: "ParticleProblem", scale: float) -> None:
    """Write the true maps, on the scale of the stack and in its box, at the first group's pixel size."""
    from halfmap.data.volumes import Volume
    from halfmap.fourier.resample import crop_or_pad
    from halfmap.io.mrc import write_volume

    for number, reference in enumerate(problem.references[0], start=1):
        potential = reference.potential
        values = potential.values * (potential.grid.pixel_size_angstrom * scale)
        boxed, grid = crop_or_pad(values, potential.grid, (problem.params.box_pixel,) * 3)
        write_volume(context.folder / f"reference_class{number:03d}.mrc", Volume(values=boxed, grid=grid))


def _page(
    context: JobContext,
    params: SimulateParticlesParams,
    problem: "ParticleProblem",
    names: "np.ndarray",
    scale: float,
) -> "Report":
    import numpy as np

    from halfmap.io.mrc import StackSource
    from halfmap.report.blocks import Axis, Facts, Gallery, Histogram, Report, Section, Table
    from halfmap.simulation import particles as simulation

    truth = problem.truth
    rows = problem.group_rows[0]
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _SHOWN).astype(np.int64))]
    clean = simulation.clean_images(problem, rows) * scale
    noisy = StackSource(names[rows], context.project).read(np.arange(len(rows)))
    defocus = 0.5 * (truth["defocus_u_angstrom"] + truth["defocus_v_angstrom"])
    kinds, counts = np.unique(truth[simulation.KIND_COLUMN].astype(str), return_counts=True)
    classes = [
        (number, name, int(np.sum(truth["class_number"] == number))) for number, name in enumerate(params.names, 1)
    ]
    return Report(
        title="Simulated particles",
        summary=f"{params.number} images of {', '.join(params.names)}.",
        facts=Facts(
            facts=(
                ("particles", params.number),
                ("SNR", params.snr),
                ("box", params.box_pixel, "px"),
                ("pixel size", params.pixel_size_angstrom, "Å"),
                ("optics groups", params.optics_groups),
            )
        ),
        sections=(
            Section(
                title="Images",
                blocks=(
                    Gallery.montage(clean.numpy(), columns=12, title="Without noise"),
                    Gallery.montage(noisy, columns=12, title="As written"),
                ),
            ),
            Section(
                title="Truth",
                blocks=(
                    Histogram.of(defocus, title="Defocus", x=Axis(label="mean defocus", unit="Å")),
                    Histogram.of(
                        np.linalg.norm(truth["origin_angstrom"], axis=1),
                        title="Offset from the middle",
                        x=Axis(label="offset", unit="Å"),
                    ),
                    Table(title="Classes", columns=("class", "specimen", "images"), rows=classes),
                    Table(
                        title="What the images show",
                        columns=("kind", "images"),
                        rows=[(kind, int(count)) for kind, count in zip(kinds, counts, strict=True)],
                    ),
                ),
            ),
        ),
    )


JOB = JobType(
    command="simulate particles",
    folder="Simulate",
    parameters=SimulateParticlesParams,
    run=run,
    summary="Make a particle stack whose truth is known",
    inputs=("model", "map"),
)
