"""The work of ``halfmap refine-template``: micrographs one at a time, and what is left of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.compute.broadcast import Broadcast
from halfmap.data.particles import ParticleSet
from halfmap.geometry.euler import euler_from_array
from halfmap.grid import ImageGrid
from halfmap.io import cistem, leopard, relion
from halfmap.io.leopard import LeopardColumns
from halfmap.jobs import refine_template_report
from halfmap.jobs.leopard_inputs import check_pixel_offset, check_pixel_size
from halfmap.jobs.map_inputs import read_map
from halfmap.jobs.micrograph_inputs import read_finite
from halfmap.jobs.per_micrograph import Rejected, check_rejections, forget_states, resumable_map
from halfmap.jobs.refine_template import RefineTemplateJobParams
from halfmap.jobs.select import in_project
from halfmap.jobs.template_particles import (
    FoundParticles,
    found_particles,
    most_pixels,
    paths_from_project,
    pixel_sizes,
    read_table,
)
from halfmap.project.job import JobContext
from halfmap.template_matching.leopard_compat import CubicTemplate, refine_as_leopard
from halfmap.template_matching.refine import Refined, check_box, refine_particles
from halfmap.template_matching.template import check_template, prepare_template

WIDE_BOX = 24
"""Pixels by which a box may exceed the template before it is said: cost grows, and neighbours come in."""

UNCERTAINTIES = (
    "uncertainty_x_angstrom", "uncertainty_y_angstrom", "uncertainty_defocus_angstrom",
    "uncertainty_tilt_x_degrees", "uncertainty_tilt_y_degrees", "uncertainty_psi_degrees",
)  # fmt: skip
SET_ASIDE = "set_aside"


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinementTask:
    """Particles of one micrograph to be refined.

    Parameters
    ----------
    particles : what they are.
    template : what is broadcast.
    box : side of the boxes.
    params : the settings.
    """

    particles: FoundParticles
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
    table = read_table(params.particles)
    sizes = pixel_sizes(table)
    side, box, template = _template(context, params, sizes)
    warnings = _warnings(table, side, box)
    for sentence in warnings:
        context.progress.message(sentence)
    handle = context.executor.broadcast(template)
    found, rejected = found_particles(context, table, side, use_maps=params.statistics == "maps")
    _expect_memory(context, params, found, side, box)
    names = [part.micrograph.name for part in found]
    tasks = [RefinementTask(particles=part, template=handle, box=box, params=params) for part in found]
    results = resumable_map(context, refine_one, tasks, names=names, result_type=Refined, label="Refining")
    parts, rows = [], []
    for part, result in zip(found, results, strict=True):
        if isinstance(result, Rejected):
            rejected |= {int(row): result for row in part.rows}
        else:
            parts.append(result)
            rows.append(part.rows)
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
    template, particles = task.template.load(), task.particles
    side = template.grid.side
    as_leopard = task.params.compat == "leopard"
    candidates = particles.candidates(side, task.box - side + 1, as_leopard=as_leopard)
    micrograph = read_finite(particles.micrograph)
    if as_leopard:
        return refine_as_leopard(micrograph, candidates, template, task.box, task.params)
    return refine_particles(
        micrograph, particles.pixel_size_angstrom, candidates, template, task.box, task.params, key=particles.key
    )


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
    check_pixel_offset(params.pixel_size_min_angstrom, usual, "--pixel-size-min")
    check_pixel_size(params.template, volume.grid, usual, "micrographs")
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


def _expect_memory(
    context: JobContext, params: RefineTemplateJobParams, found: Sequence[FoundParticles], side: int, box: int
) -> None:
    """State the memory of one task: micrograph and maps, and the arrays of one batch."""
    coefficients = 0.8 * box * box
    per_batch = params.batch * 250 * coefficients + 8000 * coefficients
    if params.compat == "leopard":
        per_batch = (box - side + 1) ** 2 * 12 * side * side
    context.expect_memory(
        int(40 * most_pixels(found) + per_batch) + 2**28, "one micrograph in each worker", n_tasks=len(found)
    )


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
    # what an earlier refinement has said of them
    texts: dict[str, list[str]] = {name: [""] * n for name in (*UNCERTAINTIES, SET_ASIDE) if name in table}
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
    texts |= paths_from_project(context, table)
    assert params.template is not None
    texts["template_path"] = [context.relative(params.template)] * n
    return table.with_columns(**texts)


def _text(value: float) -> str:
    return "" if np.isnan(value) else repr(round(float(value), 6))


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
