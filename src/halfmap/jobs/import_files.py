"""``halfmap import``: take files of other programs into the project, as tables that all commands read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt

from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from halfmap.data.micrographs import MicrographSet
    from halfmap.data.optics_groups import OpticsGroups
    from halfmap.data.particles import ParticleSet
    from halfmap.data.picks import Picks
    from halfmap.io.cryosparc import YOrigin
    from halfmap.io.file_kinds import FileKind

_UNTOLD: "YOrigin" = "last-row"
_UNTOLD_NOTE = (
    "Positions were taken as counted from the last stored row of the micrographs; look at some, and use --y-origin "
    "first-row if they are mirrored."
)


@dataclass(frozen=True, kw_only=True)
class ImportParams:
    """Inputs and settings of ``halfmap import``."""

    files: tuple[Path, ...]
    """What to import, recognised by content. Of cryoSPARC the .cs file first, then passthrough files of the same job;
    of coordinates as many files as there are."""

    micrographs: Path | None = None
    """STAR file of the micrographs, to which coordinates are matched by file name."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the micrographs, where the files state none or a wrong one."""

    scale: Annotated[float, Gt(0)] = 1.0
    """Multiply coordinates of Topaz, EMAN and text files by this: the factor by which micrographs were reduced."""

    stack: Path | None = None
    """The stack of a cisTEM table that does not name it."""

    y_origin: Literal["auto", "last-row", "first-row"] = "auto"
    """Row of the stored micrograph from which cryoSPARC counted positions. Auto: told by comparing particle images with
    their micrographs where both are there, else the last row."""

    invert_contrast: bool = True
    """Write inverted copies of stacks in which particles are dark, as they are in cryoSPARC's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Imported:
    """What was found in files.

    Parameters
    ----------
    particles, picks, micrographs : what there is of each.
    notes : what people should know, a sentence each.
    """

    particles: "ParticleSet | None" = None
    picks: "Picks | None" = None
    micrographs: "MicrographSet | None" = None
    notes: tuple[str, ...] = ()


def run(context: JobContext, params: ImportParams) -> Path:
    """Recognise, convert and write, and return the path of the main table."""
    from halfmap.io import relion
    from halfmap.io.file_kinds import kind_of_file

    kinds = {path: kind_of_file(path) for path in params.files}
    for path, kind in kinds.items():
        context.progress.message(f"{path.name}: {kind.value}.")
    found = _read(context, params, kinds)
    tables = [table for table in (found.particles, found.picks, found.micrographs) if table is not None]
    if not len(tables[0]):
        raise InputError(f"{params.files[0]} must have rows to import; got none; choose another file.")
    if params.pixel_size_angstrom is not None:
        found = _with_pixel_size(found, params.pixel_size_angstrom)
    outputs = []
    if found.particles is not None:
        outputs.append(context.folder / "particles.star")
        relion.write_particles(outputs[-1], found.particles)
    if found.picks is not None:
        outputs.append(relion.write_autopick(context.folder, found.picks, project_root=context.project))
    if found.micrographs is not None:
        outputs.append(context.folder / "micrographs.star")
        relion.write_micrographs(outputs[-1], found.micrographs)
    for note in found.notes:
        context.progress.message(note)
    _report(context, kinds, found, outputs)
    return outputs[0]


def _read(context: JobContext, params: ImportParams, kinds: "dict[Path, FileKind]") -> Imported:
    from halfmap.io.file_kinds import FileKind

    coordinates = {FileKind.RELION_COORDINATES, FileKind.TOPAZ, FileKind.EMAN_BOXES, FileKind.TEXT_COORDINATES}
    present = set(kinds.values())
    if present <= coordinates:
        return _coordinates(context, params, kinds)
    kind = next(iter(kinds.values()))
    if len(present) > 1:
        raise InputError(
            "Files imported together must be of one kind; got "
            f"{' and '.join(sorted(one.value for one in present))}; import each kind by a command of its own."
        )
    if kind is FileKind.CRYOSPARC:
        return _cryosparc(context, params)
    if len(params.files) > 1:
        raise InputError(
            f"Files of {kind.value} must be imported one at a time; got {len(params.files)}; import each, then use "
            "`halfmap select join`."
        )
    return _one_table(context, params, kind)


def _one_table(context: JobContext, params: ImportParams, kind: "FileKind") -> Imported:
    """Read one table of RELION, M, cisTEM or Leopard-EM."""
    from halfmap.io import cistem, leopard, relion, warp
    from halfmap.io.file_kinds import FileKind
    from halfmap.jobs.select import in_project

    path = params.files[0]
    if kind is FileKind.RELION_MICROGRAPHS:
        return Imported(micrographs=in_project(context, path, relion.read_micrographs(path)))
    if kind is FileKind.RELION_PICKS:
        return Imported(picks=_of_micrographs(context, params, relion.read_autopick(path, context.project)))
    if kind is FileKind.LEOPARD:
        table = leopard.read(path)
        return Imported(
            particles=in_project(context, path, table.particles),
            micrographs=in_project(context, path, table.micrographs),
            notes=("The particles have no images yet: `halfmap extract` cuts them out.",),
        )
    if kind is FileKind.WARP_PARTICLES:
        return Imported(
            particles=in_project(context, path, warp.read_species_particles(path, params.pixel_size_angstrom)),
            notes=("Of each particle's path through the exposure the first sample is its position and pose.",),
        )
    if kind is FileKind.CISTEM_PARTICLES:
        stack = None if params.stack is None else context.relative(params.stack)
        particles = cistem.read_particles(path, stack_name=stack)
    else:
        particles = relion.read_particles(path)
    return Imported(particles=in_project(context, path, particles), notes=_missing_images(context, path, particles))


def _cryosparc(context: JobContext, params: ImportParams) -> Imported:
    from halfmap.io import cryosparc
    from halfmap.jobs.select import in_project

    path = params.files[0]
    dataset = cryosparc.read(path, *params.files[1:])
    notes = []
    skipped = cryosparc.unconverted_aberrations(dataset)
    if skipped:
        notes.append(f"Aberrations were not converted: {', '.join(skipped)}; estimate them again.")
    if dataset.holds == "micrographs":
        return Imported(micrographs=in_project(context, path, cryosparc.micrographs_of(dataset)), notes=tuple(notes))
    if dataset.holds == "picks":
        picks = cryosparc.picks_of(dataset, y_origin=_UNTOLD if params.y_origin == "auto" else params.y_origin)
        if params.y_origin == "auto":
            notes.append(_UNTOLD_NOTE)
        return Imported(picks=_of_micrographs(context, params, picks), notes=tuple(notes))
    if dataset.holds is None:
        raise FormatError(
            path,
            expected="particles (blob/path, blob/idx), picks (location) or micrographs (micrograph_blob)",
            found=", ".join(sorted(dataset.fields)),
            remedy="choose the .cs file of particles or micrographs, with its passthrough file",
        )
    y_origin = _UNTOLD if params.y_origin == "auto" else params.y_origin
    particles = cryosparc.particles_of(dataset, y_origin=y_origin)
    missing = _missing_images(context, path, particles)
    notes += missing
    particles = in_project(context, path, particles)
    if params.y_origin == "auto" and "position_pixel" in particles:
        y_origin, said = _told_y_origin(context, particles, params.pixel_size_angstrom)
        notes.append(said)
        if y_origin != _UNTOLD:
            position = cryosparc.particles_of(dataset, y_origin=y_origin)["position_pixel"]
            particles = particles.with_columns(position_pixel=position)
    sign = dataset.fields.get("blob/sign")
    if sign is not None and (sign < 0).any():
        if missing or not params.invert_contrast:
            notes.append("Particles are dark in these stacks (blob/sign is -1); halfmap takes them bright.")
        else:
            particles = _inverted(context, particles, (sign < 0).tolist())
            notes.append("Inverted copies of the stacks were written: particles were dark in them (blob/sign is -1).")
    return Imported(particles=particles, notes=tuple(notes))


def _told_y_origin(
    context: JobContext, particles: "ParticleSet", pixel_size_angstrom: float | None
) -> "tuple[YOrigin, str]":
    """Return from which row positions count, told by the images where they can, and a sentence about it."""
    from halfmap.jobs.cryosparc_rows import told_by_images

    if pixel_size_angstrom is not None:
        optics = particles.optics.with_columns(micrograph_pixel_size_angstrom=pixel_size_angstrom)
        particles = replace(particles, optics=optics)
    told = told_by_images(particles, context.project)
    if told is None:
        return _UNTOLD, _UNTOLD_NOTE
    row = "last" if told.from_last_row else "first"
    said = (
        f"cryoSPARC counted positions from the {row} stored row: there, particle images correlate with their "
        f"micrographs by {told.correlation:.2f}."
    )
    if told.is_mirrored:
        said += (
            " The images are upside down against the stored micrographs: particles extracted anew need new poses, and "
            "the angle of the astigmatism changes its sign."
        )
    return "last-row" if told.from_last_row else "first-row", said


def _missing_images(context: JobContext, path: Path, particles: "ParticleSet") -> tuple[str, ...]:
    """Say it where none of the images can be found; a table can be used without them."""
    from halfmap.io.relion_paths import resolve_paths

    if "image_name" not in particles:
        return ()
    try:
        resolve_paths(path, context.project, [str(name) for name in particles["image_name"]])
    except FormatError as error:
        return (f"Images could not be found: {error}",)
    return ()


def _inverted(context: JobContext, particles: "ParticleSet", is_dark: Sequence[bool]) -> "ParticleSet":
    """Write copies of the stacks with dark particles in which they are bright."""
    import numpy as np

    from halfmap.io.mrc import split_image_name
    from halfmap.io.relion_paths import path_in_job

    names = [split_image_name(str(name)) for name in particles["image_name"]]
    sign_of: dict[str, bool] = {}
    for (_, file), dark in zip(names, is_dark, strict=True):
        if sign_of.setdefault(file, bool(dark)) != bool(dark):
            raise InconsistentDataError(
                f"Particles of one stack must all be dark or all bright; got both in {file}; use --no-invert-contrast."
            )
    new = {file: path_in_job(_below_project(context, file), ".mrcs") for file, dark in sign_of.items() if dark}
    if len(set(new.values())) != len(new):
        raise InconsistentDataError(
            "Stacks to invert must differ in their path after JobType/jobNNN/ and without ending; got two that do "
            "not; use --no-invert-contrast."
        )
    tasks = [(context.resolve(file), context.folder / "Particles" / target) for file, target in new.items()]
    for _ in context.executor.map(_invert_stack, tasks, progress=context.progress, label="Inverting"):
        pass
    written = {file: context.relative(target) for file, (_, target) in zip(new, tasks, strict=True)}
    renamed = [f"{section + 1:06d}@{written.get(file, file)}" for section, file in names]
    return particles.with_columns(image_name=np.array(renamed, dtype=object))


def _below_project(context: JobContext, file: str) -> str:
    """Return the path that an inverted copy of a stack repeats: its last three parts where it lies elsewhere."""
    path = Path(file)
    return str(Path(*path.parts[-3:])) if path.is_absolute() else file


def _invert_stack(task: tuple[Path, Path]) -> None:
    import numpy as np

    from halfmap.io.mrc import StackSource, StackWriter, read_header

    source, target = task
    n = read_header(source).shape[0]
    images = StackSource([f"{number}@{source.name}" for number in range(1, n + 1)], source.parent)
    at_once = max(1, (64 << 20) // (4 * images.grid.n_pixels))
    target.parent.mkdir(parents=True, exist_ok=True)
    with StackWriter(target, images.grid, n) as writer:
        for start in range(0, n, at_once):
            writer.write(-images.read(np.arange(start, min(start + at_once, n))))


def _coordinates(context: JobContext, params: ImportParams, kinds: "dict[Path, FileKind]") -> Imported:
    from halfmap.data.picks import Picks
    from halfmap.io import eman, topaz
    from halfmap.io.file_kinds import FileKind
    from halfmap.io.relion_picks import read_coordinates

    names = _micrograph_names(context, params)
    parts: list[Picks] = []
    for path, kind in kinds.items():
        if kind is FileKind.TOPAZ:
            parts.append(_scaled(topaz.read(path), params.scale))
        elif kind is FileKind.RELION_COORDINATES:
            own = None if "rlnMicrographName" in _labels(path) else _micrograph_of(path, names)
            parts.append(read_coordinates(path, own))
        else:
            name = _micrograph_of(path, names)
            picks = eman.read_boxes(path, name) if kind is FileKind.EMAN_BOXES else read_coordinates(path, name)
            parts.append(_scaled(picks, params.scale))
    shared = set(parts[0].columns).intersection(*(part.columns for part in parts))
    trimmed = [part.without_columns(*(set(part.columns) - shared)) for part in parts]
    return Imported(picks=_of_micrographs(context, params, Picks.concatenate(trimmed)))


def _labels(path: Path) -> set[str]:
    from halfmap.io import star

    return {label for table in star.read(path) for label in table.labels}


def _scaled(picks: "Picks", scale: float) -> "Picks":
    """Return picks in pixels of the full micrograph; their uids follow from where they are."""
    from halfmap.data.uids import uids_of_positions

    if scale == 1.0:
        return picks
    position = picks.position_pixel * scale
    return picks.with_columns(position_pixel=position, uid=uids_of_positions(picks.micrograph_name, position))


def _micrograph_names(context: JobContext, params: ImportParams) -> list[str]:
    """Return the names of ``--micrographs``, as they hold from the project; empty without it."""
    from halfmap.io import relion
    from halfmap.jobs.select import in_project

    if params.micrographs is None:
        return []
    table = in_project(context, params.micrographs, relion.read_micrographs(params.micrographs))
    return [str(name) for name in table["micrograph_name"]]


def _micrograph_of(path: Path, names: Sequence[str]) -> str:
    """Return the micrograph that a coordinate file belongs to by its name."""
    from halfmap.io.relion_picks import STEM_ENDINGS

    if not names:
        raise InputError(
            f"The micrograph of {path} must be known; got a file that does not name it; give --micrographs, a STAR "
            "file of the micrographs."
        )
    stems = [path.stem, *(path.stem.removesuffix(end) for end in STEM_ENDINGS if path.stem.endswith(end))]
    return _fitting(path.name, stems, names)


def _fitting(what: str, stems: Sequence[str], names: Sequence[str]) -> str:
    fitting = [name for stem in stems for name in names if Path(name).stem == stem]
    if len(set(fitting)) != 1:
        found = " and ".join(fitting[:3]) or f"none of {len(names)}, such as {names[0]}"
        raise InconsistentDataError(
            f"{what} must fit one micrograph of --micrographs by its name; got {found}; rename it or give another "
            "table."
        )
    return fitting[0]


def _of_micrographs(context: JobContext, params: ImportParams, picks: "Picks") -> "Picks":
    """Return picks whose micrographs have the names of ``--micrographs``, or hold from the project as they are."""
    import numpy as np

    from halfmap.data.uids import uids_of_positions

    names = _micrograph_names(context, params)
    known = set(names)
    new: dict[str, str] = {}
    for name in picks.micrographs:
        if name in known:
            new[name] = name
        elif names:
            new[name] = _fitting(name, [Path(name).stem, Path(name).name], names)
        elif Path(name).suffix:
            new[name] = _found(context, params.files[0], name)
        else:
            raise InputError(
                f"The file of micrograph {name} must be known; got a name without folder and ending; give "
                "--micrographs, a STAR file of the micrographs."
            )
    renamed = np.array([new[name] for name in picks.micrograph_name], dtype=object)
    columns = {**picks.columns, "micrograph_name": renamed}
    if any(old != name for old, name in new.items()) and "cryosparcUid" not in columns:
        columns["uid"] = uids_of_positions(renamed, picks.position_pixel)
    return replace(picks, columns=columns, micrographs=tuple(dict.fromkeys(new.values())))


def _found(context: JobContext, path: Path, name: str) -> str:
    """Return a micrograph's path as it holds from the project, unchanged if it is nowhere."""
    from halfmap.io.relion_paths import resolve_paths

    try:
        return context.relative(resolve_paths(path, context.project, [name]) / name)
    except FormatError:
        return name


def _with_pixel_size(found: Imported, pixel_size_angstrom: float) -> Imported:
    particles, micrographs = found.particles, found.micrographs
    if particles is not None:
        optics = particles.optics if len(particles.optics) else _one_group()
        optics = optics.with_columns(micrograph_pixel_size_angstrom=pixel_size_angstrom)
        particles = replace(particles, optics=optics)
    if micrographs is not None:
        optics = micrographs.optics if len(micrographs.optics) else _one_group()
        optics = optics.with_columns(micrograph_pixel_size_angstrom=pixel_size_angstrom)
        micrographs = replace(micrographs, optics=optics)
    return replace(found, particles=particles, micrographs=micrographs)


def _one_group() -> "OpticsGroups":
    import numpy as np

    from halfmap.data.optics_groups import OpticsGroups

    return OpticsGroups(columns={"optics_group": np.array([1])})


def _report(context: JobContext, kinds: "dict[Path, FileKind]", found: Imported, outputs: Sequence[Path]) -> None:
    from halfmap.report.blocks import Facts, Note, Report, Section, Table

    facts = []
    if found.particles is not None:
        facts.append(("particles", len(found.particles)))
    if found.picks is not None:
        facts.append(("positions", len(found.picks)))
        facts.append(("micrographs with positions", len(found.picks.micrographs)))
    if found.micrographs is not None:
        facts.append(("micrographs", len(found.micrographs)))
    files = Table(title="Files", columns=("file", "recognised as"), rows=[(str(p), k.value) for p, k in kinds.items()])
    context.report(
        Report(
            title="Import",
            summary=f"Written: {', '.join(path.name for path in outputs)}.",
            facts=Facts(facts=tuple(facts)),
            sections=(Section(title="What was read", blocks=(files, *(Note(text=note) for note in found.notes))),),
        )
    )


JOB = JobType(
    command="import",
    folder="Import",
    parameters=ImportParams,
    run=run,
    summary="Take files of cryoSPARC, Warp, Leopard-EM, EMAN, Topaz and others into the project",
    inputs=("files", "micrographs", "stack"),
)
