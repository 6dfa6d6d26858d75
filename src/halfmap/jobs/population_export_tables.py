"""The tables of `halfmap population export`: poses and CTFs of images, and what RELION 5 reads of tomograms."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from halfmap.data.image_series import TiltSeries
from halfmap.data.particles import ParticleSet
from halfmap.data.population import SpeciesParticles
from halfmap.io import relion
from halfmap.io.relion_tilt_geometry import angles_of_rotation, fields_of_angles
from halfmap.io.relion_tomo_particles import write_optimisation_set, write_tomo_particles
from halfmap.io.relion_tomo_writer import write_tomograms
from halfmap.jobs.population_export_items import ExportTask, grid_of, rows_of_table
from halfmap.jobs.population_images import tilt_image_paths
from halfmap.multiparticle.export import RigidGeometry, image_table, particles_at_dose, rigid_geometry
from halfmap.multiparticle.linking import joined
from halfmap.project.job import JobContext
from halfmap.splines.grids import LinearGrid, SplineGrid

if TYPE_CHECKING:
    from halfmap.jobs.population_export import ExportPopulationParams

_TOMOGRAMS, _PARTICLES = "tomograms.star", "particles.star"


def write_tables(
    context: JobContext, params: "ExportPopulationParams", tasks: Sequence[ExportTask], output: Path
) -> None:
    """Write the tables of a kind of export.

    Parameters
    ----------
    tasks : of items of which something was written.
    output : main table.
    """
    if params.kind == "images":
        relion.write_particles(output, ParticleSet.concatenate([_images(context, task) for task in tasks]))
        return
    series, parts, residuals = {}, [], []
    for task in tasks:
        tilts = task.series
        assert isinstance(tilts, TiltSeries)  # of other sources nothing is exported so
        rigid = rigid_geometry(tilts, task.particles, params)
        series[task.root] = _rigid_series(context, task, tilts, rigid)
        rows, further = _of_particles(context, task, len(tilts))
        named = replace(rigid.particles.take(rows), further=further)
        parts.append(replace(named, source_name=np.full(len(rows), task.root, dtype=object)))
        residuals.append(rigid.residual_angstrom[rows])
    root = context.project if context.folder.is_relative_to(context.project) else context.folder
    grid = grid_of(tasks[0].species, params)
    write_tomograms(context.folder / _TOMOGRAMS, series.values(), project_root=root)
    write_tomo_particles(
        context.folder / _PARTICLES,
        reduce(joined, parts),
        series,
        image_pixel_size_angstrom=grid.pixel_size_angstrom,
        box_pixel=grid.side,
        image_dimensionality=2 if params.kind == "relion5" else 3,
        is_ctf_premultiplied=params.premultiply_ctf or params.kind == "sub-tomograms",
    )
    if params.kind == "relion5":
        names = [context.relative(context.folder / name) for name in (_PARTICLES, _TOMOGRAMS)]
        write_optimisation_set(output, *names)
    left = np.concatenate(residuals)
    rms, most = float(np.sqrt((left**2).mean())), float(left.max())
    context.progress.message(
        f"Where the tables say particles to be and where they are seen differ by {rms:.2f} Å rms, {most:.2f} Å at "
        "most: the deformation that tables cannot tell. Images are centred all the same."
    )


def at_poses_of_dose(tasks: Sequence[ExportTask], params: "ExportPopulationParams") -> SpeciesParticles:
    """Return the particles of all items with the one pose that they have at a dose."""
    dose = params.pose_dose_e_per_angstrom2
    return reduce(joined, [particles_at_dose(task.series, task.particles, dose) for task in tasks])


def _images(context: JobContext, task: ExportTask) -> ParticleSet:
    """Return the table of an item's images, with the names of the images in its stack."""
    table = image_table(task.series, task.particles, task.species, task.params)
    stack = context.relative(task.stack)
    names = [f"{number + 1:06d}@{stack}" for number in range(len(table))]
    return table.with_columns(image_name=np.array(names, dtype=object))


def _of_particles(
    context: JobContext, task: ExportTask, n_tilts: int
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.object_]]]:
    """Return the particles of which there is a file, and the columns that name it and the tilts in it."""
    table = image_table(task.series, task.particles, task.species, task.params)
    of_image = rows_of_table(task, table.columns["uid"])
    rows = np.unique(of_image)
    seen = np.zeros((len(task.particles), n_tilts), dtype=int)
    seen[of_image, table.columns["tilt_index"]] = 1
    ending = ".mrcs" if task.params.kind == "relion5" else "_data.mrc"
    names = [context.relative(task.file_of_particle(row, ending)) for row in rows.tolist()]
    further = {
        "rlnImageName": np.array(names, dtype=object),
        "rlnTomoVisibleFrames": np.array([f"[{','.join(map(str, seen[row]))}]" for row in rows], dtype=object),
    }
    if task.params.kind == "sub-tomograms":
        weights = [context.relative(task.file_of_particle(row, "_weight.mrc")) for row in rows.tolist()]
        further["rlnCtfImage"] = np.array(weights, dtype=object)
    return rows, further


def _rigid_series(context: JobContext, task: ExportTask, series: TiltSeries, rigid: RigidGeometry) -> TiltSeries:
    """Return a tilt series whose tilts are turned and moved as a whole, and whose images are named from the project."""
    none, flat = SplineGrid.constant(0.0), LinearGrid.constant(0.0)
    turned = fields_of_angles(
        angles_of_rotation(rigid.rotation), series.dose_e_per_angstrom2, series.volume_size_angstrom
    )
    plain = {
        **{f"movement_{axis}_angstrom": none for axis in "xy"},
        **{f"stage_angle_{axis}_degrees": none for axis in "xyz"},
        **{f"volume_warp_{axis}_angstrom": flat for axis in "xyz"},
        "level_angle_x_degrees": 0.0,
        "level_angle_y_degrees": 0.0,
    }
    paths = tilt_image_paths(task.source, task.item, series)
    names = tuple(
        path.relative_to(context.project).as_posix()
        if path.is_relative_to(context.project)
        else Path(relpath(path, context.project)).as_posix()
        for path in (path.resolve() for path in paths)
    )
    return series.with_values(
        name=task.root,
        axis_offset_angstrom=rigid.shift_angstrom,
        movie_names=names,
        further={},
        **{**plain, **turned},
    )
