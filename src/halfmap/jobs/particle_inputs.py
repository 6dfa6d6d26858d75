"""How particles and their images reach a job that works on them for long: checked first, then fast to read.

Every job that aligns or classifies particles begins with `read_particle_inputs`: the table is checked before any image
is read, all images are read once to be checked, and later reading goes to one mapped file.
"""

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from halfmap.data.image_source import ImageSource
from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError
from halfmap.grid import ImageGrid
from halfmap.io import relion
from halfmap.jobs.particle_stacks import ParticleStacks, find_stacks, grids_of_groups
from halfmap.jobs.particle_table_checks import check_classes, check_ctf, check_has_images, check_mask, copies
from halfmap.jobs.per_micrograph import Rejected, check_rejections
from halfmap.project.job import JobContext

if TYPE_CHECKING:
    from halfmap.io.image_cache import ImageCache
    from halfmap.jobs.particle_checks import ImageChecks
    from halfmap.jobs.particle_pass import ReadImages, WantedImages

REASON_LABEL = "halfmapReason"
_LOGGED = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleInputs:
    """Particles that can be used, and sources of their images; used as a context, it removes what was cached.

    Parameters
    ----------
    particles : those to be used, in the order of the file, with image names that hold from the project folder.
    images : one source for each image size; picklable, mapped into memory by every process that reads it.
    source_of, index_in_source : which source each particle's image is in, and its number there; int64, shape (n,).
    background_mean, background_deviation : of each image outside the mask, float64, shape (n,). Images are as in the
        file: subtract the mean and divide by the deviation to have them normalised.
    rejected : the particles set aside, with the column ``halfmapReason``.
    warnings : what the user should know about the data, a sentence each; told already.
    checks : all that was measured of each image.
    caches, kept_checks : what leaving the context removes.
    """

    particles: ParticleSet
    images: tuple[ImageSource, ...]
    source_of: NDArray[np.int64]
    index_in_source: NDArray[np.int64]
    background_mean: NDArray[np.float64]
    background_deviation: NDArray[np.float64]
    rejected: ParticleSet
    warnings: tuple[str, ...]
    checks: "ImageChecks"
    caches: "tuple[ImageCache, ...]" = field(default=(), repr=False)
    kept_checks: tuple[Path, ...] = field(default=(), repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the cached images; what was measured is kept for going on after an error."""
        for cache in self.caches:
            cache.close()
        if kind is None:
            for path in self.kept_checks:
                path.unlink(missing_ok=True)


def read_particle_inputs(
    context: JobContext,
    path: Path,
    *,
    mask_diameter_angstrom: float,
    needs_ctf: bool,
    n_classes: int | None = None,
) -> ParticleInputs:
    """Read a particle table, check it and its images, and make its images fast to read.

    Parameters
    ----------
    context : the job.
    path : the table.
    mask_diameter_angstrom : of the circular mask, outside which background lies.
    needs_ctf : whether the CTF must be known.
    n_classes : number of classes asked for, where there are any.

    Returns
    -------
    The particles and their images. Leave it (``with``) before the job ends: that removes what was cached.

    Raises
    ------
    InputError
        There are no particles, stacks are missing, the mask is wider than the box, or there are more classes than
        particles.
    InconsistentDataError
        The table contradicts itself or its stacks.
    FormatError
        The table cannot be read, or none of its stacks is found.
    JobFailed
        More than a tenth of the images are bad.
    ComputeError
        The scratch folder cannot be written to.

    Notes
    -----
    Bad images (NaN, constant, unreadable) are written to ``rejected.star`` in the job's folder with their reasons.
    """
    path = Path(path)
    particles = relion.read_particles(path)
    check_has_images(path, particles)
    check_classes(n_classes, len(particles))
    warnings = list(check_ctf(path, particles)) if needs_ctf else []
    stacks = find_stacks(path, context.project, particles)
    grouped = grids_of_groups(path, particles, stacks)
    warnings += grouped.warnings
    if grouped.grids:
        check_mask(mask_diameter_angstrom, grouped.grids)
    warnings += _statements(particles, grouped.grids, needs_ctf=needs_ctf)
    for warning in warnings:
        context.progress.message(f"Warning: {warning}")
    particles = _named_from_project(context, particles, stacks)
    # These load torch, which wrong tables are told without.
    from halfmap.jobs.particle_checks import ImageChecks
    from halfmap.jobs.particle_pass import read_images

    readable = np.flatnonzero(stacks.is_readable)
    problem = np.array(stacks.reasons, dtype=object)[stacks.file]
    _refuse_many(particles, problem)
    grid_of = {group: number for number, grids in enumerate(_by_grid(grouped.grids)) for group in grids}
    sources = np.array([grid_of.get(group, -1) for group in particles["optics_group"].tolist()], dtype=np.int64)
    index = np.full(len(particles), -1, dtype=np.int64)
    checks = ImageChecks.unusable(problem.tolist())
    done: list[ReadImages] = []
    caches: list[ImageCache] = []
    try:
        for number, groups in enumerate(_by_grid(grouped.grids)):
            rows = readable[sources[readable] == number]
            grid = grouped.grids[groups[0]]
            wanted, image_of_row = _wanted(stacks, rows, grid, mask_diameter_angstrom)
            read = read_images(context, wanted, number)
            done.append(read)
            caches += [read.cache] if read.cache is not None else []
            index[rows] = read.index[image_of_row]
            checks.put(rows, read.checks.take(image_of_row))
        return _judged(context, particles, done, sources, index, checks, mask_diameter_angstrom, warnings)
    except BaseException:
        for cache in caches:
            cache.close()
        raise


def _judged(
    context: JobContext,
    particles: ParticleSet,
    done: "list[ReadImages]",
    sources: NDArray[np.int64],
    index: NDArray[np.int64],
    checks: "ImageChecks",
    mask_diameter_angstrom: float,
    warnings: list[str],
) -> ParticleInputs:
    """Set aside the bad particles and say what is odd about the others."""
    from halfmap.jobs.particle_checks import stack_warnings
    from halfmap.jobs.particle_pass import checks_path

    _refuse_many(particles, checks.problem)
    is_good = checks.problem == ""
    used = np.flatnonzero(is_good)
    good = checks.take(used)
    found = stack_warnings(good, particles["optics_group"][used], mask_diameter_angstrom)
    for warning in found:
        context.progress.message(f"Warning: {warning}")
    rejected = particles.take(~is_good).with_columns(**{REASON_LABEL: checks.problem[~is_good]})
    if len(rejected):
        output = context.folder / "rejected.star"
        relion.write_particles(output, rejected)
        reasons = zip(rejected["image_name"].tolist(), rejected[REASON_LABEL].tolist(), strict=True)
        for _, (name, reason) in zip(range(_LOGGED), reasons, strict=False):
            context.log(f"set aside {name}: {reason}")
        context.progress.message(
            f"Set aside {len(rejected)} of {len(particles)} particles, listed with their reasons in "
            f"{context.relative(output)}."
        )
    return ParticleInputs(
        particles=particles.take(used),
        images=tuple(read.source for read in done),
        source_of=sources[used],
        index_in_source=index[used],
        background_mean=good.background_mean,
        background_deviation=good.background_deviation,
        rejected=rejected,
        warnings=(*warnings, *found),
        checks=good,
        caches=tuple(read.cache for read in done if read.cache is not None),
        kept_checks=tuple(checks_path(context.folder, number) for number in range(len(done))),
    )


def _refuse_many(particles: ParticleSet, problem: NDArray[np.object_]) -> None:
    names = particles["image_name"]
    bad = np.flatnonzero(problem != "")
    rejected = [Rejected(name=str(names[row]), reason=str(problem[row])) for row in bad.tolist()]
    check_rejections(rejected, len(particles), "particles")


def _by_grid(grids: dict[int, ImageGrid]) -> list[list[int]]:
    """Return the optics groups of each source."""
    groups: dict[ImageGrid, list[int]] = {}
    for number, grid in grids.items():
        groups.setdefault(grid, []).append(number)
    return list(groups.values())


def _wanted(
    stacks: ParticleStacks, rows: NDArray[np.int64], grid: ImageGrid, mask_diameter_angstrom: float
) -> "tuple[WantedImages, NDArray[np.int64]]":
    """Return the images of some particles, each once, and which of them each particle has."""
    from halfmap.jobs.particle_pass import WantedImages

    pairs, image_of_row = np.unique(
        np.stack([stacks.file[rows], stacks.section[rows]], axis=1), axis=0, return_inverse=True
    )
    files, file = np.unique(pairs[:, 0], return_inverse=True)
    headers = [stacks.headers[one] for one in files.tolist()]
    wanted = WantedImages(
        grid=grid,
        headers=tuple(header for header in headers if header is not None),
        file=file.astype(np.int64),
        section=pairs[:, 1],
        mask_radius_pixel=mask_diameter_angstrom / 2 / grid.pixel_size_angstrom,
    )
    return wanted, image_of_row.ravel()


def _statements(particles: ParticleSet, grids: dict[int, ImageGrid], *, needs_ctf: bool) -> list[str]:
    """Return what is special about the data, a sentence each."""
    said = copies(particles)
    kinds = list(dict.fromkeys(grids.values()))
    if len(kinds) > 1:
        listed = ", ".join(f"{grid.side} px of {grid.pixel_size_angstrom:.5g} Å" for grid in kinds)
        said.append(f"The optics groups have images of {len(kinds)} kinds, {listed}: each is read on its own grid.")
    optics = particles.optics
    if "ctf_premultiplied" in optics and optics["ctf_premultiplied"][np.isin(optics.numbers, list(grids))].any():
        said.append(
            "The images are multiplied by their CTF already"
            + ("." if needs_ctf else ", and stay so without a correction: averages carry its square.")
        )
    return said


def _named_from_project(context: JobContext, particles: ParticleSet, stacks: ParticleStacks) -> ParticleSet:
    """Return the particles with image names that hold from the project folder."""
    if stacks.root == context.project:
        return particles
    files = [context.relative(path) for path in stacks.paths]
    names = [
        f"{section + 1:06d}@{files[file]}"
        for file, section in zip(stacks.file.tolist(), stacks.section.tolist(), strict=True)
    ]
    return particles.with_columns(image_name=np.array(names, dtype=object))


def one_source(inputs: ParticleInputs) -> tuple[ImageSource, NDArray[np.int64]]:
    """Return one source of all images, on the grid of most particles, and the number of each particle's image in it."""
    from halfmap.data.joined_images import JoinedImages, RescaledImages

    if len(inputs.images) == 1:
        return inputs.images[0], inputs.index_in_source
    counts = np.bincount(inputs.source_of, minlength=len(inputs.images))
    grid = inputs.images[int(np.argmax(counts))].grid
    sources: list[ImageSource] = []
    for number, source in enumerate(inputs.images):
        if source.grid != grid:
            level = np.zeros(len(source))
            mine = inputs.source_of == number
            level[inputs.index_in_source[mine]] = inputs.background_mean[mine]
            source = RescaledImages(images=source, grid=grid, level=level)
        sources.append(source)
    joined = JoinedImages(sources=tuple(sources), source_of=inputs.source_of, index_in_source=inputs.index_in_source)
    return joined, np.arange(len(inputs.particles))


def check_same_particles(n_known: int, n_usable: int) -> None:
    """Raise `InconsistentDataError` where a job goes on with another number of particles than it began with."""
    if n_known != n_usable:
        raise InconsistentDataError(
            f"The usable particles must be those that the job began with, {n_known}; got {n_usable}; bring the stacks "
            "back as they were, or begin a new job."
        )
