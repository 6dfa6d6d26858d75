"""What jobs that go on with particles of a template write: the table with what was found, and STAR files of it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.geometry.euler import euler_from_array
from halfmap.io import cistem, leopard, relion
from halfmap.io.leopard import LeopardColumns
from halfmap.jobs.per_micrograph import Rejected, check_rejections
from halfmap.jobs.select import in_project
from halfmap.jobs.template_particles import FoundParticles, paths_from_project
from halfmap.project.job import JobContext
from halfmap.template_matching.refine import Refined

UNCERTAINTIES = (
    "uncertainty_x_angstrom", "uncertainty_y_angstrom", "uncertainty_defocus_angstrom",
    "uncertainty_tilt_x_degrees", "uncertainty_tilt_y_degrees", "uncertainty_psi_degrees",
)  # fmt: skip
SET_ASIDE = "set_aside"


def gathered(
    found: Sequence[FoundParticles], results: Iterable[Refined | Rejected], rejected: dict[int, Rejected], n_rows: int
) -> tuple[Refined, NDArray[np.int64]]:
    """Return what became of the particles, and which rows they are; the rows of bad micrographs go to the rejected.

    Parameters
    ----------
    found, results : the particles in parts, and what was found of each.
    rejected : reason of each row set aside; gains some.
    n_rows : of the table.

    Raises
    ------
    JobFailed
        More than a tenth of the particles are set aside.
    """
    parts, rows = [], []
    for part, result in zip(found, results, strict=True):
        if isinstance(result, Rejected):
            rejected |= {int(row): result for row in part.rows}
        else:
            parts.append(result)
            rows.append(part.rows)
    check_rejections(list(rejected.values()), n_rows, "particles")
    return Refined.joined(parts), np.concatenate(rows)


def results_table(
    context: JobContext,
    table: LeopardColumns,
    sizes: NDArray[np.float64],
    side: int,
    refined: Refined,
    rows: NDArray[np.int64],
    rejected: Mapping[int, Rejected],
    *,
    template: Path,
) -> LeopardColumns:
    """Return the table with what was found, set aside rows with what was known before.

    Parameters
    ----------
    table : that was read.
    sizes : pixel size of each row.
    side : of the template.
    refined, rows : what was found, and of which rows.
    rejected : reason of each row set aside.
    template : its file.
    """
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
    if bool(refined.uncertainty.isfinite().any()):
        for i, name in enumerate(UNCERTAINTIES):
            values[name] = changed(unknown, refined.uncertainty[:, i].numpy())
    texts |= {name: [text_of(value) for value in column] for name, column in values.items()}
    if rejected:
        texts[SET_ASIDE] = [rejected[row].reason if row in rejected else "" for row in range(n)]
    texts |= paths_from_project(context, table)
    texts["template_path"] = [context.relative(template)] * n
    return table.with_columns(**texts)


def text_of(value: float) -> str:
    """Return a number as a cell holds it; not-a-number leaves it empty."""
    return "" if np.isnan(value) else repr(round(float(value), 6))


def write_star(context: JobContext, table: Path, position_pixel: NDArray[np.float64] | None = None) -> None:
    """Write the particles of a table for RELION and cisTEM, into the job's folder.

    Parameters
    ----------
    table : the CSV file.
    position_pixel : shape (n, 2): finer than those of the table, which may be whole.
    """
    particles: ParticleSet = in_project(context, table, leopard.read(table).particles)
    if position_pixel is not None:
        particles = particles.with_columns(position_pixel=position_pixel)
    relion.write_particles(context.folder / "particles.star", particles)
    optics = particles.optics.with_columns(pixel_size_angstrom=particles.optics["micrograph_pixel_size_angstrom"])
    cistem.write_particles(
        context.folder / "particles_cistem.star",
        ParticleSet(columns=particles.columns, optics=optics),
        stack_name=None,
    )
