"""The work of ``halfmap refine-template``: micrographs one at a time, and what is left of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from halfmap.compute.broadcast import Broadcast
from halfmap.io.leopard import LeopardColumns
from halfmap.io.leopard_aberrations import StoredAberrations
from halfmap.jobs import refine_template_report
from halfmap.jobs.leopard_inputs import check_pixel_offset, open_template
from halfmap.jobs.micrograph_inputs import read_finite
from halfmap.jobs.per_micrograph import forget_states, resumable_map
from halfmap.jobs.refine_template import RefineTemplateJobParams
from halfmap.jobs.template_particles import (
    FoundParticles,
    found_particles,
    most_pixels,
    pixel_sizes,
    read_table,
)
from halfmap.jobs.template_results import gathered, results_table, write_star
from halfmap.project.job import JobContext
from halfmap.template_matching.boxes import check_box
from halfmap.template_matching.leopard_compat import CubicTemplate, refine_as_leopard
from halfmap.template_matching.refine import Refined, refine_particles
from halfmap.template_matching.template import prepare_template

WIDE_BOX = 24
"""Pixels by which a box may exceed the template before it is said: cost grows, and neighbours come in."""


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
    table = read_table(context, params.particles)
    sizes = pixel_sizes(table)
    warnings: list[str] = []
    side, box, template = _template(context, params, float(np.median(sizes)), warnings)
    warnings += _warnings(table, side, box, as_leopard=params.compat == "leopard")
    for sentence in warnings:
        context.progress.message(sentence)
    handle = context.executor.broadcast(template)
    found, rejected = found_particles(context, table, side, use_maps=params.statistics == "maps")
    _expect_memory(context, params, found, side, box)
    names = [part.micrograph.name for part in found]
    tasks = [RefinementTask(particles=part, template=handle, box=box, params=params) for part in found]
    results = resumable_map(context, refine_one, tasks, names=names, result_type=Refined, label="Refining")
    refined, order = gathered(found, results, rejected, len(table))
    output = context.folder / "particles.csv"
    written = results_table(context, table, sizes, side, refined, order, rejected, template=params.template)
    written.write(output)
    write_star(context, output)
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


def _template(
    context: JobContext, params: RefineTemplateJobParams, usual: float, said: list[str]
) -> tuple[int, int, Any]:
    """Return the side of the template, that of the boxes, and the template made ready.

    Raises
    ------
    InputError
        It is no template, has another pixel size than the micrographs, or the box does not suit it.
    """
    assert params.template is not None
    check_pixel_offset(params.pixel_size_min_angstrom, usual, "--pixel-size-min")
    volume = open_template(params.template, params.template_pixel_size_angstrom, usual, "micrographs", said)
    side = volume.grid.side
    box = side + 16 if params.box_pixel is None else params.box_pixel
    check_box(box, side)
    if params.compat == "leopard":
        context.expect_memory(40 * side**3, "the template")
        return side, box, CubicTemplate.of(volume.values, volume.grid)
    # the padded map, its transform, and the stored half of it
    context.expect_memory(16 * (side * params.padding) ** 3, "the template")
    return side, box, prepare_template(volume.values, volume.grid, padding=params.padding)


def _warnings(table: LeopardColumns, side: int, box: int, *, as_leopard: bool) -> list[str]:
    """Return what the user should know before anything is computed."""
    said = []
    if box > side + WIDE_BOX:
        said.append(
            f"The box of {box} px is more than {WIDE_BOX} px wider than the template of {side} px: neighbours come "
            "into it, and the search takes longer."
        )
    if as_leopard and any(aberrations != StoredAberrations() for aberrations in table.aberrations()):
        said.append("--compat leopard passes over aberrations and magnification matrices.")
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
