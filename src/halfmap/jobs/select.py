"""``halfmap select``: split, select by value or image statistics, remove duplicates, join, expand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Gt

from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.project.job import JobContext, JobType
from halfmap.selection.params import DuplicatesParams, ExpansionParams, SplitParams, StatisticsParams, ValuesParams

if TYPE_CHECKING:
    import numpy as np

    from halfmap.data.micrographs import MicrographSet
    from halfmap.data.particles import ParticleSet
    from halfmap.report.blocks import Block
    from halfmap.selection.subsets import ImageStatistics

    Rows = TypeVar("Rows", ParticleSet, MicrographSet)

IMAGES_PER_TASK = 2000


@dataclass(frozen=True, kw_only=True)
class SelectSplitParams(SplitParams):
    """Inputs and settings of ``halfmap select split``."""

    table: Path
    """STAR file of particles or micrographs."""


@dataclass(frozen=True, kw_only=True)
class SelectValuesParams(ValuesParams):
    """Inputs and settings of ``halfmap select values``."""

    table: Path
    """STAR file of particles or micrographs."""


@dataclass(frozen=True, kw_only=True)
class SelectStatisticsParams(StatisticsParams):
    """Inputs and settings of ``halfmap select statistics``."""

    particles: Path
    """STAR file of particles."""


@dataclass(frozen=True, kw_only=True)
class SelectDuplicatesParams(DuplicatesParams):
    """Inputs and settings of ``halfmap select duplicates``."""

    particles: Path
    """STAR file of particles with coordinates."""

    micrograph_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the micrographs. Default: that of the optics table, else of a micrograph's header."""


@dataclass(frozen=True, kw_only=True)
class SelectJoinParams:
    """Inputs of ``halfmap select join``."""

    tables: tuple[Path, ...]
    """STAR files of particles, or of micrographs. What stands in several is taken once, from the first."""


@dataclass(frozen=True, kw_only=True)
class SelectExpandParams(ExpansionParams):
    """Inputs and settings of ``halfmap select expand``."""

    particles: Path
    """STAR file of particles with poses."""


def _read(context: JobContext, path: Path) -> "tuple[ParticleSet | MicrographSet, str]":
    """Return a table and what it holds, ``particles`` or ``micrographs``."""
    from halfmap.io import relion, star

    file = star.read(path)
    if "micrographs" in file or not any("rlnImageName" in table or table.name == "particles" for table in file):
        return in_project(context, path, relion.read_micrographs(path)), "micrographs"
    return in_project(context, path, relion.read_particles(path)), "particles"


def in_project(context: JobContext, path: Path, table: "Rows") -> "Rows":
    """Return a table whose paths hold from the project, so that they hold in the job's folder too.

    Paths of files that are nowhere to be found stay as they are: rows can be chosen without their images.
    """
    import numpy as np

    from halfmap.io.relion_paths import path_of_image, resolve_paths

    for column in ("image_name", "micrograph_name"):
        if column not in table:
            continue
        names = [str(name) for name in table[column]]
        try:
            root = resolve_paths(path, context.project, names)
        except FormatError:
            continue
        if root == context.project and not any(path_of_image(name).startswith("/") for name in names):
            continue
        files = {file: context.relative(root / file) for file in {path_of_image(name) for name in names}}
        moved = [name.removesuffix(file) + files[file] for name in names for file in (path_of_image(name),)]
        table = table.with_columns(**{column: np.array(moved, dtype=object)})
    return table


def _write(path: Path, table: "ParticleSet | MicrographSet") -> Path:
    from halfmap.data.particles import ParticleSet
    from halfmap.io import relion

    if isinstance(table, ParticleSet):
        relion.write_particles(path, table.without_unused_optics())
    else:
        relion.write_micrographs(path, table.without_unused_optics())
    return path


def _split(context: JobContext, params: SelectSplitParams) -> Path:
    from halfmap.report.blocks import Table
    from halfmap.selection.subsets import split

    table, what = _read(context, params.table)
    parts = split(len(table), size=params.size, number=params.number, shuffle=params.shuffle, seed=params.seed)
    written = []
    for index, rows in enumerate(parts.subsets, start=1):
        written.append(_write(context.folder / f"{what}_split{index}.star", table.take(rows)))
        context.progress.message(f"{written[-1].name}: {len(rows)} {what}.")
    if len(parts.rest):
        rest = _write(context.folder / f"{what}_rest.star", table.take(parts.rest))
        context.progress.message(f"{rest.name}: {len(parts.rest)} {what} that fit in no subset.")
    blocks = Table(
        title="Subsets",
        columns=("file", what),
        rows=[
            *((path.name, len(rows)) for path, rows in zip(written, parts.subsets, strict=True)),
            *((("the rest", len(parts.rest)),) if len(parts.rest) else ()),
        ],
    )
    _page(context, f"Split of {params.table.name}", ((what, len(table)), ("subsets", len(written))), blocks)
    return written[0]


def _values(context: JobContext, params: SelectValuesParams) -> Path:
    from halfmap.report.blocks import Axis, Histogram, Mark
    from halfmap.selection.subsets import within

    table, what = _read(context, params.table)
    values = _numbers(table, params.label)
    limits = {"min": params.min, "max": params.max}
    histogram = Histogram.of(
        values,
        title=params.label,
        x=Axis(label=params.label),
        marks=[Mark(value=value, label=name) for name, value in limits.items() if value is not None],
    )
    keep = within(values, minimum=params.min, maximum=params.max)
    if len(values) and not keep.any():
        raise InputError(
            f"At least one of the {len(table)} {what} must be selected; got none: {params.label} runs from "
            f"{values.min():g} to {values.max():g}; widen --min and --max."
        )
    return _kept(context, table, what, keep, histogram)


def _statistics(context: JobContext, params: SelectStatisticsParams) -> Path:
    from functools import partial

    import numpy as np

    from halfmap.io.relion_paths import resolve_paths
    from halfmap.report.blocks import Axis, Curve, Line
    from halfmap.selection.subsets import ImageStatistics, ordinary

    table, what = _read(context, params.particles)
    if "image_name" not in table:
        raise InconsistentDataError(
            f"{params.particles} must name images; got none; `halfmap select values` chooses by other columns."
        )
    names = table["image_name"]
    root = resolve_paths(params.particles, context.project, names)
    chunks = [names[start : start + IMAGES_PER_TASK] for start in range(0, len(names), IMAGES_PER_TASK)]
    parts = list(context.executor.map(partial(_measure, root), chunks, progress=context.progress, label="Measuring"))
    statistics = ImageStatistics(
        mean=np.concatenate([part.mean for part in parts]), deviation=np.concatenate([part.deviation for part in parts])
    )
    keep = ordinary(statistics, sigma=params.sigma)
    points = Curve(
        title="Mean and standard deviation of each image",
        lines=[
            Line(label=label, x=statistics.mean[rows], y=statistics.deviation[rows], style="points")
            for label, rows in (("selected", keep), ("removed", ~keep))
        ],
        x=Axis(label="mean"),
        y=Axis(label="standard deviation"),
    )
    return _kept(context, table, what, keep, points)


def _measure(root: Path, names: "np.ndarray") -> "ImageStatistics":
    import numpy as np

    from halfmap.io.mrc import StackSource
    from halfmap.selection.subsets import image_statistics

    # Images of several optics groups may differ in pixel size; their grey values are compared all the same.
    source = StackSource(names, root, StackSource(names[:1], root).grid)
    return image_statistics(source, np.arange(len(names)))


def _duplicates(context: JobContext, params: SelectDuplicatesParams) -> Path:
    import numpy as np

    from halfmap.io import relion
    from halfmap.jobs.micrograph_inputs import micrograph_pixel_sizes
    from halfmap.report.blocks import Note
    from halfmap.selection.duplicates import keep_best

    table, what = in_project(context, params.particles, relion.read_particles(params.particles)), "particles"
    for column, label in (("micrograph_name", "rlnMicrographName"), ("position_pixel", "rlnCoordinateX")):
        if column not in table:
            raise InconsistentDataError(
                f"{params.particles} must have the column _{label}; got none; duplicates are found by position."
            )
    if params.micrograph_pixel_size_angstrom is None:
        by_group, said = micrograph_pixel_sizes(context, params.particles, table)
        context.progress.message(said)
        size = by_group[table.optics.rows_of(table["optics_group"])]
    else:
        size = np.full(len(table), params.micrograph_pixel_size_angstrom)
    origin = table["origin_angstrom"] if "origin_angstrom" in table else np.zeros((len(table), 2))
    position = table["position_pixel"] * size[:, None] - origin
    if params.by is not None:
        score = _numbers(table, params.by)
    else:
        score = table["figure_of_merit"] if "figure_of_merit" in table else np.zeros(len(table))
    keep = keep_best(table["micrograph_name"], position, score, distance_angstrom=params.min_distance_angstrom)
    n_micrographs = len(set(table["micrograph_name"].tolist()))
    note = Note(
        text=f"Of particles within {params.min_distance_angstrom:g} Å of one another in one of {n_micrographs} "
        f"micrographs, that with the largest {params.by or 'figure of merit'} was kept."
    )
    return _kept(context, table, what, keep, note)


def _join(context: JobContext, params: SelectJoinParams) -> Path:
    import numpy as np

    from halfmap.report.blocks import Table

    read = [_read(context, path) for path in params.tables]
    kinds = {what for _, what in read}
    if len(kinds) > 1:
        raise InputError("Joined tables must all hold particles or all micrographs; got both; join them separately.")
    what = kinds.pop()
    tables = [table for table, _ in read]
    joined = type(tables[0]).concatenate(tables)  # type: ignore[arg-type]
    # Tilt images and copies by symmetry share the uid of their particle.
    keys = [joined.uid, *(joined[name] for name in ("tilt_index", "symmetry_copy") if name in joined)]
    first = np.sort(np.unique(np.stack(keys, axis=-1), axis=0, return_index=True)[1])
    again = len(joined) - len(first)
    joined = joined.take(first)
    context.progress.message(
        f"Joined {len(tables)} tables to {len(joined)} {what}; {again} stood in several and were taken once."
    )
    rows = [(str(path), len(one)) for path, one in zip(params.tables, tables, strict=True)]
    _page(
        context,
        "Join",
        ((what, len(joined)), ("taken once", again)),
        Table(title="Tables", columns=("file", what), rows=rows),
    )
    return _write(context.folder / f"join_{what}.star", joined)


def _expand(context: JobContext, params: SelectExpandParams) -> Path:
    from halfmap.geometry.symmetry_names import canonical_name, order
    from halfmap.io import relion
    from halfmap.report.blocks import Note
    from halfmap.selection.expansion import expand

    particles = in_project(context, params.particles, relion.read_particles(params.particles))
    expanded = expand(particles, params.symmetry)
    n_copies, name = order(params.symmetry), canonical_name(params.symmetry)
    context.progress.message(f"{len(particles)} particles became {len(expanded)}: {n_copies} copies each, by {name}.")
    note = Note(
        text=f"Every particle stands here once for each of the {n_copies} rotations of {name}, with its pose A turned "
        "into A S. Copies share uid, image, offset and half-set; halfmapSymmetryCopy counts them from 0, the particle "
        "as it was. Do not refine them with symmetry, and keep their poses where they are or nearly so."
    )
    facts = (("particles", len(particles)), ("copies of each", n_copies), ("rows", len(expanded)))
    _page(context, f"Expansion by {name}", facts, note)
    return _write(context.folder / "particles.star", expanded)


def _numbers(table: "ParticleSet | MicrographSet", label: str) -> "np.ndarray":
    """Return a numeric column by its label, as RELION's or ours.

    Raises
    ------
    InputError
        There is no such column, or it holds text.
    """
    from halfmap.data.particles import ParticleSet
    from halfmap.io.relion_columns import MICROGRAPH_FIELDS, PARTICLE_FIELDS, values_of

    values = values_of(table, label, PARTICLE_FIELDS if isinstance(table, ParticleSet) else MICROGRAPH_FIELDS)
    if values.dtype.kind not in "fiub":
        raise InputError(f"Column {label} must hold numbers; got text such as {values[0]!r}; choose another label.")
    return values.astype(float)


def _kept(
    context: JobContext, table: "ParticleSet | MicrographSet", what: str, keep: "np.ndarray", block: "Block"
) -> Path:
    """Write what was selected and, beside it, what was not."""
    if not keep.any():
        raise InputError(f"At least one of the {len(table)} {what} must be selected; got none; widen the limits.")
    selected = _write(context.folder / f"{what}.star", table.take(keep))
    if not keep.all():
        _write(context.folder / f"{what}_removed.star", table.take(~keep))
    context.progress.message(f"Selected {keep.sum()} of {len(table)} {what}.")
    facts = (("selected", int(keep.sum())), ("removed", int((~keep).sum())), ("share", 100 * float(keep.mean()), "%"))
    _page(context, "Selection", facts, block)
    return selected


def _page(context: JobContext, title: str, facts: "Sequence[tuple[Any, ...]]", block: "Block") -> None:
    from halfmap.report.blocks import Facts, Report, Section

    context.report(
        Report(title=title, facts=Facts(facts=facts), sections=(Section(title="How it came out", blocks=(block,)),))
    )


def _job(
    command: str, parameters: type, run: Callable[[JobContext, Any], Path], summary: str, inputs: Sequence[str]
) -> JobType:
    return JobType(
        command=f"select {command}",
        folder="Select",
        parameters=parameters,
        run=run,
        summary=summary,
        inputs=tuple(inputs),
    )


SPLIT = _job("split", SelectSplitParams, _split, "Split a table into subsets", ("table",))
VALUES = _job("values", SelectValuesParams, _values, "Select rows by the values of a column", ("table",))
STATISTICS = _job(
    "statistics", SelectStatisticsParams, _statistics, "Select particles with ordinary images", ("particles",)
)
DUPLICATES = _job(
    "duplicates",
    SelectDuplicatesParams,
    _duplicates,
    "Keep the best of particles that were picked twice",
    ("particles",),
)
JOIN = _job("join", SelectJoinParams, _join, "Join tables, taking each particle once", ("tables",))
EXPAND = _job(
    "expand", SelectExpandParams, _expand, "Copy every particle by the rotations of its point group", ("particles",)
)
