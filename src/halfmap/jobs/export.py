"""``halfmap export``: write particles for other programs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from halfmap.data.particles import ParticleSet

IMAGES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class ExportParams:
    """Inputs and settings of ``halfmap export``."""

    particles: Path
    """STAR file of particles."""

    to: Literal["cryosparc", "relion", "cistem"]
    """The program to write for: cryosparc (.cs and .csg), relion (STAR), or cistem (STAR and one stack)."""

    relion_layout: Literal["3.1", "3.0"] = "3.1"
    """Layout for RELION: 3.1 is read by 3.1, 4 and 5; 3.0 is one table with the optics in every row."""

    y_origin: Literal["last-row", "first-row"] = "last-row"
    """Row of the stored micrograph from which cryoSPARC shall count positions."""


def run(context: JobContext, params: ExportParams) -> Path:
    """Write the files, and return the one that the other program is given."""
    from halfmap.io import relion
    from halfmap.jobs.select import in_project
    from halfmap.report.blocks import Facts, Note, Report, Section

    particles = in_project(context, params.particles, relion.read_particles(params.particles)).without_unused_optics()
    if not len(particles):
        raise InputError(f"{params.particles} must have particles to export; got none; choose another table.")
    if params.to != "relion" and "image_name" not in particles:
        raise InconsistentDataError(
            f"{params.particles} must have the column _rlnImageName to be exported to {params.to}; got none; extract "
            "the particles first."
        )
    write = {"cryosparc": _to_cryosparc, "relion": _to_relion, "cistem": _to_cistem}[params.to]
    output, notes = write(context, params, particles)
    for note in notes:
        context.progress.message(note)
    context.report(
        Report(
            title=f"Export of {params.particles.name} to {params.to}",
            facts=Facts(facts=(("particles", len(particles)), ("written", output.name))),
            sections=(Section(title="What to know", blocks=tuple(Note(text=note) for note in notes)),) if notes else (),
        )
    )
    return output


def _to_relion(context: JobContext, params: ExportParams, particles: "ParticleSet") -> tuple[Path, list[str]]:
    from halfmap.io import relion, relion_3_0

    path = context.folder / "particles.star"
    if params.relion_layout == "3.1":
        relion.write_particles(path, particles)
        return path, []
    lost = relion_3_0.write_particles(path, particles)
    return path, [f"RELION 3.0 has no place for {', '.join(lost)}; left out."] if lost else []


def _to_cryosparc(context: JobContext, params: ExportParams, particles: "ParticleSet") -> tuple[Path, list[str]]:
    import numpy as np

    from halfmap.io.cryosparc_writer import write_particles
    from halfmap.io.mrc import split_image_name

    particles = _with_box(context, particles)
    notes = ["Open particles.csg in cryoSPARC by Import Result Group. Stacks are linked by their absolute paths."]
    notes += _aberrations(particles)
    shapes: dict[str, tuple[int, int]] | None = None
    absolute: dict[str, np.ndarray] = {}
    names = [split_image_name(str(name)) for name in particles["image_name"]]
    absolute["image_name"] = np.array(
        [f"{section + 1:06d}@{context.resolve(file)}" for section, file in names], dtype=object
    )
    if "position_pixel" in particles and "micrograph_name" in particles:
        micrographs = [str(name) for name in particles["micrograph_name"]]
        shapes = _shapes(context, list(dict.fromkeys(micrographs)))
        if shapes is None:
            notes.append("Positions are left out: not all micrographs could be read, and cryoSPARC needs their sides.")
        else:
            absolute["micrograph_name"] = np.array([str(context.resolve(name)) for name in micrographs], dtype=object)
            shapes = {str(context.resolve(name)): shape for name, shape in shapes.items()}
    path, group = write_particles(
        context.folder / "particles.cs",
        particles.with_columns(**absolute),
        micrograph_shapes=shapes,
        y_origin=params.y_origin,
    )
    context.log(f"{path.name}, {group.name}")
    return path, notes


def _to_cistem(context: JobContext, params: ExportParams, particles: "ParticleSet") -> tuple[Path, list[str]]:
    import numpy as np

    from halfmap.io import cistem
    from halfmap.io.mrc import StackSource, StackWriter

    source = StackSource(particles["image_name"], context.project)
    stack, path = context.folder / "particles.mrc", context.folder / "particles.star"
    context.progress.start("Joining stacks", len(source))
    with StackWriter(stack, source.grid, len(source)) as writer:
        for start in range(0, len(source), IMAGES_AT_ONCE):
            rows = np.arange(start, min(start + IMAGES_AT_ONCE, len(source)))
            writer.write(source.read(rows))
            context.progress.advance(len(rows))
    cistem.write_particles(path, particles, stack_name=context.relative(stack))
    notes = ["cisTEM takes one stack, so all images were copied into particles.mrc; particles are bright in it."]
    return path, notes + _aberrations(particles)


def _with_box(context: JobContext, particles: "ParticleSet") -> "ParticleSet":
    """Return particles whose optics table has the box, from the images where it has none."""
    import numpy as np

    from halfmap.io import mrc

    if "image_size_pixel" in particles.optics:
        return particles
    sides = []
    for number in particles.optics.numbers:
        name = str(particles["image_name"][np.argmax(particles["optics_group"] == number)])
        sides.append(mrc.read_header(context.resolve(mrc.split_image_name(name)[1])).shape[-1])
    return replace(particles, optics=particles.optics.with_columns(image_size_pixel=np.array(sides)))


def _shapes(context: JobContext, names: list[str]) -> dict[str, tuple[int, int]] | None:
    """Return the sides (y, x) of micrographs, None if one cannot be read."""
    from halfmap.io import images

    try:
        return {name: images.shape_and_pixel_size(context.resolve(name))[0] for name in names}
    except (FormatError, InputError):
        return None


def _aberrations(particles: "ParticleSet") -> list[str]:
    """Say which aberrations are left out, whose conventions in the other program are not known."""
    import numpy as np

    optics = particles.optics
    names = [name for name in ("beam_tilt_mrad", "odd_zernike", "even_zernike") if name in optics]
    lost = [name for name in names if np.any(optics[name] != 0)]
    if "magnification_matrix" in optics and np.any(optics["magnification_matrix"] != np.eye(2)):
        lost.append("magnification_matrix")
    return [f"Aberrations are left out: {', '.join(lost)}. Estimate them again there."] if lost else []


JOB = JobType(
    command="export",
    folder="Export",
    parameters=ExportParams,
    run=run,
    summary="Write particles for cryoSPARC, RELION or cisTEM",
    inputs=("particles",),
)
