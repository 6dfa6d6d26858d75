"""``halfmap report stack``: a page about any stack of images, or some of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from halfmap.errors import InconsistentDataError, InputError
from halfmap.project.job import JobContext, JobType
from halfmap.units import Length

if TYPE_CHECKING:
    import numpy as np

IMAGES_PER_TASK = 1000


@dataclass(frozen=True, kw_only=True)
class ReportStackParams:
    """Inputs and settings of ``halfmap report stack``."""

    particles: Path
    """STAR file of particles, or an MRC stack."""

    select: tuple[str, ...] = ()
    """Only particles for which this condition holds, such as 'rlnDefocusU>=15000'; repeat it for several."""

    background_diameter: Length | None = None
    """Diameter of the circle outside which pixels count as background. Default: 75 % of the box."""

    max_images: Annotated[int, Ge(1)] | None = None
    """Look at no more than this many, evenly spaced. Default: all."""


def run(context: JobContext, params: ReportStackParams) -> Path:
    """Write the page, and return its path."""
    from functools import partial

    import numpy as np

    from halfmap.io import mrc
    from halfmap.jobs import stack_report
    from halfmap.report.blocks import Facts, Report

    names, sizes, root = _images(context, params)
    n_all = len(names)
    if params.max_images is not None and n_all > params.max_images:
        shown = np.unique(np.linspace(0, n_all - 1, params.max_images).astype(np.int64))
        names, sizes = names[shown], sizes[shown]
    grid = mrc.StackSource(names[:1], root).grid
    circle = params.background_diameter or Length(stack_report.BACKGROUND_DIAMETER * grid.side, in_pixels=True)
    radius = np.array([circle.to_pixel(size) / 2 for size in sizes.tolist()])
    tasks = stack_report.chunks(names, radius, IMAGES_PER_TASK)
    context.expect_memory(8 * IMAGES_PER_TASK * grid.n_pixels, "images measured at a time", n_tasks=len(tasks))
    parts = list(
        context.executor.map(partial(stack_report.measure, root), tasks, progress=context.progress, label="Measuring")
    )
    total = sum((part.total for part in parts[1:]), parts[0].total)
    return context.report(
        Report(
            title=f"Stack {params.particles.name}",
            summary=f"{len(names)} of {n_all} images looked at." if len(names) < n_all else f"{n_all} images.",
            facts=Facts(
                facts=(
                    ("images", n_all),
                    ("box", grid.side, "px"),
                    ("pixel size", ", ".join(f"{size:.5g}" for size in np.unique(sizes).tolist()), "Å"),
                )
            ),
            sections=(
                stack_report.pictures(root, names, total),
                stack_report.background(
                    np.concatenate([part.mean for part in parts]), np.concatenate([part.deviation for part in parts])
                ),
            ),
        )
    )


def _images(context: JobContext, params: ReportStackParams) -> "tuple[np.ndarray, np.ndarray, Path]":
    """Return the image names to look at, their pixel sizes, and the folder they are relative to."""
    import numpy as np

    from halfmap.io import mrc, relion
    from halfmap.io.relion_columns import values_of
    from halfmap.io.relion_paths import resolve_paths
    from halfmap.selection.conditions import Condition

    path = params.particles
    if path.suffix != ".star":
        if params.select:
            raise InputError("--select must go with a STAR file; got a stack; give the STAR file that lists it.")
        names = np.array([f"{i:06d}@{path.name}" for i in range(1, mrc.read_header(path).shape[0] + 1)], dtype=object)
        return names, _sizes_of_header(names, path.parent), path.parent
    particles = relion.read_particles(path)
    if "image_name" not in particles:
        raise InconsistentDataError(f"{path} must have the column _rlnImageName; got none; choose a particle file.")
    keep = np.ones(len(particles), dtype=bool)
    for condition in map(Condition.parse, params.select):
        keep &= condition.holds(values_of(particles, condition.label))
    if not keep.any():
        raise InputError(f"--select must leave an image; got none of {len(particles)}; widen the conditions.")
    names = particles["image_name"][keep]
    root = resolve_paths(path, context.project, names)
    if "pixel_size_angstrom" not in particles.optics:
        return names, _sizes_of_header(names, root), root
    return names, particles.optics_values("pixel_size_angstrom")[keep], root


def _sizes_of_header(names: "np.ndarray", root: Path) -> "np.ndarray":
    """Return the pixel size that the first image's header states, for all."""
    import numpy as np

    from halfmap.io.mrc import StackSource

    return np.full(len(names), StackSource(names[:1], root).grid.pixel_size_angstrom)


JOB = JobType(
    command="report stack",
    folder="Report",
    parameters=ReportStackParams,
    run=run,
    summary="Show a stack or some of its images: montage, mean, background",
    inputs=("particles",),
)
