"""The task of `halfmap extract`: all particles of one micrograph, from its file to their stack."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

import numpy as np
import torch
from torch import Tensor

from halfmap.compute.memory import format_memory
from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError, InconsistentDataError, ProjectError
from halfmap.extraction.images import CHUNK_BYTES, particle_images
from halfmap.extraction.normalisation import CONSTANT_BELOW
from halfmap.extraction.params import ExtractParams
from halfmap.extraction.windows import outside_fraction
from halfmap.grid import ImageGrid
from halfmap.imaging.image_model import ctf_of_rows
from halfmap.io.mrc import StackWriter, read_header
from halfmap.io.relion_paths import path_in_job
from halfmap.jobs.extract_inputs import Wanted
from halfmap.jobs.micrograph_inputs import read_finite
from halfmap.project.job import JobContext


@dataclass(frozen=True, kw_only=True, eq=False)
class ExtractionTask:
    """One micrograph.

    Parameters
    ----------
    name : of the micrograph.
    path, stack : micrograph and particle stack, absolute.
    shape : of the micrograph, (y, x).
    pixel_size_angstrom : of the micrograph.
    rows, particles : the particles to be cut out, and their rows in the job's table.
    params : the settings.
    """

    name: str
    path: Path
    stack: Path
    shape: tuple[int, int]
    pixel_size_angstrom: float
    rows: np.ndarray
    particles: ParticleSet
    params: ExtractParams

    @property
    def stack_bytes(self) -> int:
        """Bound on the size of the stack."""
        return len(self.rows) * self.params.image_side**2 * (2 if self.params.float16 else 4)

    @property
    def memory_bytes(self) -> int:
        """Bound on the memory that the task takes: the micrograph twice, and some runs of windows."""
        side = max(self.params.box_pixel, self.params.premultiply_box_pixel or 0)
        return 8 * self.shape[0] * self.shape[1] + 6 * max(CHUNK_BYTES, 4 * side**2)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExtractedMicrograph:
    """What became of a micrograph's particles.

    Parameters
    ----------
    reason : text, shape (n,): why a particle was set aside; empty for those in the stack.
    total : float64, shape (side, side): sum of the images in the stack.
    background_deviation : float64, shape (n,): before normalising, in grey values; NaN where unknown.
    """

    reason: np.ndarray
    total: np.ndarray
    background_deviation: np.ndarray

    @property
    def n_kept(self) -> int:
        """Number of images in the stack."""
        return int(np.sum(self.reason == ""))


def extract_micrograph(task: ExtractionTask) -> ExtractedMicrograph:
    """Cut out the particles of a micrograph and write their stack.

    Raises
    ------
    FormatError
        The micrograph cannot be read or holds values that are no numbers.
    """
    params, particles = task.params, task.particles
    centres = particles["position_pixel"].astype(np.int64)
    reason = np.full(len(particles), "", dtype=object)
    outside = outside_fraction(centres, params.box_pixel, task.shape)
    reason[outside > params.max_outside] = f"more than {params.max_outside:g} of its box lies outside the micrograph"
    reason[outside >= 1] = "box lies wholly outside the micrograph"
    side = params.image_side
    total = torch.zeros(side, side, dtype=torch.float64)
    deviation = np.full(len(particles), np.nan)
    rows = np.flatnonzero(reason == "")
    if len(rows):
        micrograph = read_finite(task.path)
        grid = ImageGrid.square(side, params.image_pixel_size_angstrom(task.pixel_size_angstrom))
        ctf = _ctf_of(particles.take(rows), params) if params.premultiply_ctf or params.phase_flip else None
        with ExitStack() as writing:
            writer: StackWriter | None = None  # there is no stack without an image
            for run in particle_images(
                micrograph,
                centres[rows],
                particles.uid[rows],
                params,
                pixel_size_angstrom=task.pixel_size_angstrom,
                ctf=ctf,
            ):
                here = rows[run.start : run.start + len(run.images)]
                deviation[here] = run.background_deviation
                good = ~(run.background_deviation < CONSTANT_BELOW)
                reason[here[~good]] = "background is constant"
                if not good.any():
                    continue
                images = run.images if good.all() else run.images[torch.from_numpy(good)]
                total += images.sum(dim=0)  # a run is short enough for float32
                if writer is None:
                    writer = writing.enter_context(StackWriter(task.stack, grid, float16=params.float16))
                writer.write(images.numpy())
    return ExtractedMicrograph(reason=reason, total=total.numpy(), background_deviation=deviation)


def stack_is_whole(task: ExtractionTask) -> bool:
    """Return whether the stack of a finished task has all its bytes; a task that kept no particle has none."""
    if not task.stack.exists():
        return True
    try:
        read_header(task.stack)
    except FormatError:
        return False
    return True


def _ctf_of(particles: ParticleSet, params: ExtractParams) -> Callable[[ImageGrid, np.ndarray], Tensor]:
    """Return the CTF of particles on a grid, as `particle_images` asks for it."""

    def evaluate(grid: ImageGrid, indices: np.ndarray) -> Tensor:
        chosen = particles.take(indices)
        return ctf_of_rows(chosen, grid.frequencies(), intact_first_peak=params.ctf_intact_first_peak)

    return evaluate


def tasks(context: JobContext, params: ExtractParams, wanted: Wanted) -> list[ExtractionTask]:
    """Return a task for each micrograph that has particles.

    Raises
    ------
    InconsistentDataError
        Two micrographs would write one stack, or a box is larger than its micrograph.
    """
    opened = wanted.opened
    made = []
    stacks: dict[Path, str] = {}
    for name, path, shape, size, rows in zip(
        opened.given_names, opened.paths, opened.shapes, opened.pixel_size_angstrom, wanted.rows, strict=True
    ):
        if len(rows) == 0:
            continue
        if params.box_pixel > max(shape):
            raise InconsistentDataError(
                f"--box must not exceed the micrographs; got {params.box_pixel} px for {name} of {shape[1]} × "
                f"{shape[0]} px; choose a smaller one: it is in pixels of the micrograph."
            )
        stack = context.folder / path_in_job(name, ".mrcs")
        if stack in stacks:
            raise InconsistentDataError(
                f"Micrographs must differ in more than their ending or job folder; got {stacks[stack]} and {name}, "
                f"which would both write {stack}; extract them in two jobs."
            )
        stacks[stack] = name
        params.background_radius_pixel(float(size))
        made.append(
            ExtractionTask(
                name=name,
                path=path,
                stack=stack,
                shape=shape,
                pixel_size_angstrom=float(size),
                rows=rows,
                particles=wanted.particles.take(rows),
                params=params,
            )
        )
    return made


def check_disk(folder: Path, made: Sequence[ExtractionTask]) -> None:
    """Refuse to begin what the disk cannot hold; stacks that an earlier run wrote have their room already.

    Raises
    ------
    ProjectError
        The stacks need more than is free.
    """
    there = sum(task.stack.stat().st_size for task in made if task.stack.exists())
    needed = sum(task.stack_bytes for task in made) - there
    free = disk_usage(folder).free
    if needed > free:
        raise ProjectError(
            f"The disk of {folder} must hold the particles, {format_memory(needed)}; got {format_memory(free)} free; "
            "make room, or choose a smaller --box or --rescale."
        )
