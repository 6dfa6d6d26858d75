"""The work of ``halfmap refine-template``: micrographs one at a time, and what is left of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.compute.broadcast import Broadcast
from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError, InputError
from halfmap.geometry.euler import euler_from_array
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid
from halfmap.io import cistem, images, leopard, mrc, relion
from halfmap.io.leopard import LeopardColumns
from halfmap.io.relion_paths import resolve_paths
from halfmap.jobs import refine_template_report
from halfmap.jobs.map_inputs import read_map
from halfmap.jobs.micrograph_inputs import read_finite
from halfmap.jobs.per_micrograph import Rejected, check_rejections, forget_states, resumable_map
from halfmap.jobs.refine_template import RefineTemplateJobParams
from halfmap.jobs.select import in_project
from halfmap.project.job import JobContext
from halfmap.template_matching.leopard_compat import CubicTemplate, refine_as_leopard
from halfmap.template_matching.model import ParticleOptics, cut_boxes
from halfmap.template_matching.refine import Candidates, Refined, check_box, refine_particles
from halfmap.template_matching.search import Statistics
from halfmap.template_matching.template import check_template, prepare_template

PARTICLES_PER_TASK = 64
"""Particles of one micrograph that are refined together: reading and filtering it once costs little beside them."""

WIDE_BOX = 24
"""Pixels by which a box may exceed the template before it is said: cost grows, and neighbours come in."""

SAME_PIXEL_SIZE = 0.01
"""Relative difference of pixel sizes up to which template and micrographs count as sampled alike."""

OUTSIDE = 1e10
"""Standard deviation of scores where there are none."""

UNCERTAINTIES = (
    "uncertainty_x_angstrom", "uncertainty_y_angstrom", "uncertainty_defocus_angstrom",
    "uncertainty_tilt_x_degrees", "uncertainty_tilt_y_degrees", "uncertainty_psi_degrees",
)  # fmt: skip
SET_ASIDE = "set_aside"


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinementTask:
    """Particles of one micrograph.

    Parameters
    ----------
    micrograph, mean, deviation : files, absolute; None for maps that are not used.
    rows : of the table.
    key : tells micrographs apart.
    pixel_size_angstrom : of the micrograph.
    position_pixel, corner_pixel : centre of each particle, and the first pixel of the template there.
    rotations, optics : of the particles.
    template : what is broadcast.
    box : side of the boxes.
    params : the settings.
    """

    micrograph: Path
    mean: Path | None
    deviation: Path | None
    rows: NDArray[np.int64]
    key: int
    pixel_size_angstrom: float
    position_pixel: Tensor
    rotations: Tensor
    optics: ParticleOptics
    template: Broadcast
    box: int
    params: RefineTemplateJobParams


def refine(context: JobContext, params: RefineTemplateJobParams) -> Path:
    """Refine, and return the path of ``particles.csv``.

    Raises
    ------
    FormatError, InputError
        The table, the template or the statistics' maps are at fault.
    JobFailed
        More than a tenth of the micrographs or of the particles are.
    """
    assert params.particles is not None
    assert params.template is not None
    table = LeopardColumns.read(params.particles)
    if not len(table):
        raise InputError(f"{params.particles} must list particles; got none; choose a file with rows.")
    sizes = _pixel_sizes(params.particles, table)
    side, box, template = _template(context, params, sizes)
    warnings = _warnings(table, side, box)
    for sentence in warnings:
        context.progress.message(sentence)
    handle = context.executor.broadcast(template)
    tasks, rejected = _tasks(context, params, table, sizes, side, box, handle)
    check_rejections(list(rejected.values()), len(table), "particles")
    _expect_memory(context, params, tasks, side, box)
    names = [task.micrograph.name for task in tasks]
    results = resumable_map(context, refine_one, tasks, names=names, result_type=Refined, label="Refining")
    parts, rows = [], []
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, Rejected):
            rejected |= {int(row): result for row in task.rows}
        else:
            parts.append(result)
            rows.append(task.rows)
    check_rejections(list(rejected.values()), len(table), "particles")
    refined, order = Refined.joined(parts), np.concatenate(rows)
    output = context.folder / "particles.csv"
    written = _with_results(context, params, table, sizes, side, refined, order, rejected)
    written.write(output)
    _write_star(context, output)
    context.progress.message(f"Refined {len(order)} particles; set aside {len(rejected)}, which keep their rows.")
    context.report(refine_template_report.page(table, written, refined, order, rejected, params, warnings))
    forget_states(context)
    handle.discard()
    return output


def refine_one(task: RefinementTask) -> Refined:
    """Refine some particles of one micrograph.

    Raises
    ------
    FormatError
        The micrograph or a map cannot be read or holds values that are no numbers.
    InputError
        The micrograph has no contrast.
    """
    template = task.template.load()
    candidates = Candidates(
        position_pixel=task.position_pixel,
        rotations=task.rotations,
        optics=task.optics,
        statistics=_statistics(task, template),
    )
    micrograph = read_finite(task.micrograph)
    if task.params.compat == "leopard":
        return refine_as_leopard(micrograph, candidates, template, task.box, task.params)
    return refine_particles(
        micrograph, task.pixel_size_angstrom, candidates, template, task.box, task.params, key=task.key
    )


def _statistics(task: RefinementTask, template: Any) -> Statistics:
    """Cut mean and standard deviation out of the maps of the search.

    A map holds, at the template's first pixel, what belongs to a particle in its middle. Beyond its rim the values of
    the rim are taken; Leopard-EM finds nothing there.
    """
    side = template.grid.side
    window = task.box - side + 1
    if task.mean is None or task.deviation is None:
        return Statistics.neutral(len(task.rows), window)
    mean, deviation = (read_finite(path) for path in (task.mean, task.deviation))
    corners = task.position_pixel.round().to(torch.int64) - side // 2 - window // 2
    if task.params.compat == "leopard":
        inside = cut_boxes(torch.ones_like(mean), corners, window) > 0
        outside = torch.where(inside, 0.0, OUTSIDE)
        return Statistics(
            mean=cut_boxes(mean, corners, window), deviation=cut_boxes(deviation, corners, window) + outside
        )
    steps = torch.arange(window)
    y, x = ((corners[:, axis, None] + steps).clamp(0, mean.shape[1 - axis] - 1) for axis in (1, 0))
    cut = [values[y[:, :, None], x[:, None, :]] for values in (mean, deviation)]
    return Statistics(mean=cut[0], deviation=cut[1])


def _pixel_sizes(path: Path, table: LeopardColumns) -> NDArray[np.float64]:
    """Return the pixel size of each particle's micrograph, in Å, as refined before."""
    sizes = table.best("pixel_size", "refined_pixel_size")
    if not (sizes > 0).all():
        raise FormatError(path, expected="pixel sizes above 0", found=f"{sizes.min():g}", remedy="mend the column")
    return sizes


def _template(context: JobContext, params: RefineTemplateJobParams, sizes: NDArray[np.float64]) -> tuple[int, int, Any]:
    """Return the side of the template, that of the boxes, and the template made ready.

    Raises
    ------
    InputError
        It is no template, has another pixel size than the micrographs, or the box does not suit it.
    """
    assert params.template is not None
    volume = read_map(params.template, params.template_pixel_size_angstrom, flag="--template-pixel-size")
    usual = float(np.median(sizes))
    own = volume.grid.pixel_size_angstrom
    if abs(own / usual - 1) > SAME_PIXEL_SIZE:
        raise InputError(
            f"The template must have the pixel size of the micrographs, {usual:g} Å; got {own:g} Å in "
            f"{params.template}; resample it with `halfmap volume resample`, or correct it with --template-pixel-size."
        )
    check_template(volume.values, volume.grid)
    side = volume.grid.side
    box = side + 16 if params.box_pixel is None else params.box_pixel
    check_box(box, side)
    grid = ImageGrid.cubic(side, usual)
    if params.compat == "leopard":
        context.expect_memory(40 * side**3, "the template")
        return side, box, CubicTemplate.of(volume.values, grid)
    # the padded map, its transform, and the stored half of it
    context.expect_memory(16 * (side * params.padding) ** 3, "the template")
    return side, box, prepare_template(volume.values, grid, padding=params.padding)


def _warnings(table: LeopardColumns, side: int, box: int) -> list[str]:
    """Return what the user should know before anything is computed."""
    said = []
    if box > side + WIDE_BOX:
        said.append(
            f"The box of {box} px is more than {WIDE_BOX} px wider than the template of {side} px: neighbours come "
            "into it, and the search takes longer."
        )
    skipped = [
        name
        for name in ("even_zernikes", "odd_zernikes", "mag_matrix")
        if name in table and any(text.strip() not in ("", "{}", "[1.0, 0.0, 0.0, 1.0]") for text in table.columns[name])
    ]
    if skipped:
        said.append(f"Aberrations are passed over: {', '.join(skipped)}.")
    return said


def _optics(table: LeopardColumns) -> ParticleOptics:
    """Return the CTF of each particle, with the defocus refined so far."""
    offset = table.best("relative_defocus", "refined_relative_defocus")
    zero = np.zeros(len(table))
    values = {
        "defocus_u_angstrom": table.best("defocus_u", "") + offset,
        "defocus_v_angstrom": table.best("defocus_v", "") + offset,
        "defocus_angle_degrees": table.best("astigmatism_angle", ""),
        "voltage_kv": table.best("voltage", ""),
        "spherical_aberration_mm": table.best("spherical_aberration", ""),
        "amplitude_contrast": table.best("amplitude_contrast_ratio", ""),
        "phase_shift_degrees": table.best("phase_shift", "") if "phase_shift" in table else zero,
        "b_factor_angstrom2": table.best("ctf_B_factor", "") if "ctf_B_factor" in table else zero,
    }
    return ParticleOptics(**{field.name: torch.from_numpy(values[field.name]) for field in fields(ParticleOptics)})


def _tasks(
    context: JobContext,
    params: RefineTemplateJobParams,
    table: LeopardColumns,
    sizes: NDArray[np.float64],
    side: int,
    box: int,
    template: Broadcast,
) -> tuple[list[RefinementTask], dict[int, Rejected]]:
    """Return the work, and the rows that cannot take part with the reason."""
    assert params.particles is not None
    names = [str(name) for name in table.columns["micrograph_path"]]
    root = resolve_paths(params.particles, context.project, names)
    position = np.stack([table.best(f"pos_{axis}_img", f"refined_pos_{axis}_img") for axis in "xy"], axis=-1)
    angles = (table.best(name, f"refined_{name}") for name in ("phi", "theta", "psi"))
    rotations = matrix_from_euler(*(torch.from_numpy(angle) for angle in angles))
    optics = _optics(table)
    maps = [_map_paths(context, params, table, kind) for kind in ("average", "variance")]
    tasks: list[RefinementTask] = []
    rejected: dict[int, Rejected] = {}
    for key, name in enumerate(dict.fromkeys(names)):
        rows = np.array([row for row, other in enumerate(names) if other == name])
        try:
            height, width = images.shape_and_pixel_size(root / name)[0]
        except (FormatError, InputError) as error:
            rejected |= {int(row): Rejected(name=f"row {row + 2}", reason=str(error)) for row in rows}
            continue
        inside = ((position[rows] > -0.5) & (position[rows] < (width - 0.5, height - 0.5))).all(axis=-1)
        for row in rows[~inside].tolist():
            x, y = position[row]
            rejected[row] = Rejected(
                name=f"row {row + 2}",
                reason=f"the particle lies outside the micrograph of {width}×{height} px, at ({x:g}, {y:g})",
            )
        rows = rows[inside]
        whole = [maps[0][row] for row in rows], [maps[1][row] for row in rows]
        for first in range(0, len(rows), PARTICLES_PER_TASK):
            part = rows[first : first + PARTICLES_PER_TASK]
            tasks.append(
                RefinementTask(
                    micrograph=root / name,
                    mean=whole[0][0],
                    deviation=whole[1][0],
                    rows=part,
                    key=key,
                    pixel_size_angstrom=float(np.median(sizes)),
                    position_pixel=torch.from_numpy(position[part]),
                    rotations=rotations[part],
                    optics=optics.take(torch.from_numpy(part)),
                    template=template,
                    box=box,
                    params=params,
                )
            )
    for _, one in sorted(rejected.items()):
        context.log(f"set aside {one.name}: {one.reason}")
    return tasks, rejected


def _map_paths(
    context: JobContext, params: RefineTemplateJobParams, table: LeopardColumns, kind: str
) -> Sequence[Path | None]:
    """Return the map of the mean or of the standard deviation of each particle, all of which exist.

    Raises
    ------
    InputError
        One is missing, or the table names none.
    """
    assert params.particles is not None
    if params.statistics == "none":
        return [None] * len(table)
    column = f"correlation_{kind}_path"
    named = [text.strip() for text in table.columns.get(column, [""] * len(table))]
    remedy = "mend the column, or give --statistics none to have scores in standard deviations of white noise"
    if "" in named:
        raise InputError(
            f"{params.particles} must name the maps of the search in column {column}; got none in line "
            f"{named.index('') + 2}; {remedy}."
        )
    try:
        root = resolve_paths(params.particles, context.project, named)
        missing = next((name for name in dict.fromkeys(named) if not (root / name).is_file()), None)
    except FormatError as error:
        raise InputError(f"The maps in column {column} must be there; {error}; {remedy}.") from error
    if missing is not None:
        raise InputError(f"The maps in column {column} must be there; got no file {root / missing}; {remedy}.")
    for name in dict.fromkeys(named):
        mrc.read_header(root / name)
    return [root / name for name in named]


def _expect_memory(
    context: JobContext, params: RefineTemplateJobParams, tasks: Sequence[RefinementTask], side: int, box: int
) -> None:
    """State the memory of one task: micrograph and maps, and the arrays of one batch."""
    shapes = [images.shape_and_pixel_size(path)[0] for path in dict.fromkeys(task.micrograph for task in tasks)]
    pixels = max((height * width for height, width in shapes), default=0)
    coefficients = 0.8 * box * box
    per_batch = params.batch * 250 * coefficients + 8000 * coefficients
    if params.compat == "leopard":
        per_batch = (box - side + 1) ** 2 * 12 * side * side
    context.expect_memory(int(40 * pixels + per_batch) + 2**28, "one micrograph in each worker", n_tasks=len(tasks))


def _with_results(
    context: JobContext,
    params: RefineTemplateJobParams,
    table: LeopardColumns,
    sizes: NDArray[np.float64],
    side: int,
    refined: Refined,
    rows: NDArray[np.int64],
    rejected: dict[int, Rejected],
) -> LeopardColumns:
    """Return the table with what was found, set aside rows with what was known before."""
    n = len(table)
    usual = float(np.median(sizes))

    def known(name: str) -> NDArray[np.float64]:
        return table.best(name, f"refined_{name}") if name in table else np.full(n, np.nan)

    def changed(before: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
        values = before.copy()
        values[rows] = found
        return values

    found = refined.position_pixel.numpy()
    angles = euler_from_array(refined.rotations.numpy())
    values: dict[str, NDArray[np.float64]] = {
        "refined_mip": changed(known("mip"), refined.mip.numpy()),
        "refined_scaled_mip": changed(known("scaled_mip"), refined.z.numpy()),
        "refined_relative_defocus": changed(
            known("relative_defocus"), known("relative_defocus")[rows] + refined.defocus_offset_angstrom.numpy()
        ),
        "refined_pixel_size": changed(sizes, usual + refined.pixel_size_offset_angstrom.numpy()),
    }
    for i, name in enumerate(("phi", "theta", "psi")):
        values[f"refined_{name}"] = changed(known(name), np.mod(angles[:, i], 360.0))
    texts: dict[str, list[str]] = {}
    for i, axis in enumerate("xy"):
        centre = changed(known(f"pos_{axis}_img"), found[:, i])
        values[f"refined_pos_{axis}_img"] = centre
        values[f"refined_pos_{axis}_img_angstrom"] = centre * sizes
        # a place in the maps, which have whole pixels
        texts[f"refined_pos_{axis}"] = [str(int(place)) for place in np.round(centre).astype(np.int64) - side // 2]
    unknown = np.full(n, np.nan)
    for i, name in enumerate(UNCERTAINTIES if params.polish and params.compat == "none" else ()):
        values[name] = changed(unknown, refined.uncertainty[:, i].numpy())
    texts |= {name: [_text(value) for value in column] for name, column in values.items()}
    if rejected:
        texts[SET_ASIDE] = [rejected[row].reason if row in rejected else "" for row in range(n)]
    texts["micrograph_path"] = _from_project(context, params, table.columns["micrograph_path"])
    for column in leopard.MATCH_COLUMNS:
        if column.endswith("_path") and column in table and column not in ("micrograph_path", "template_path"):
            texts[column] = _from_project(context, params, table.columns[column])
    assert params.template is not None
    texts["template_path"] = [context.relative(params.template)] * n
    return table.with_columns(**texts)


def _text(value: float) -> str:
    return "" if np.isnan(value) else repr(round(float(value), 6))


def _from_project(context: JobContext, params: RefineTemplateJobParams, names: Sequence[str]) -> list[str]:
    """Return paths of the table so that they hold from the project, where the files are there."""
    assert params.particles is not None
    try:
        root = resolve_paths(params.particles, context.project, [name for name in names if name.strip()])
    except FormatError:
        return list(names)
    return [context.relative(root / name) if name.strip() else name for name in names]


def _write_star(context: JobContext, table: Path) -> None:
    """Write the particles for RELION and cisTEM."""
    particles: ParticleSet = in_project(context, table, leopard.read(table).particles)
    relion.write_particles(context.folder / "particles.star", particles)
    optics = particles.optics.with_columns(pixel_size_angstrom=particles.optics["micrograph_pixel_size_angstrom"])
    cistem.write_particles(
        context.folder / "particles_cistem.star",
        ParticleSet(columns=particles.columns, optics=optics),
        stack_name=None,
    )
