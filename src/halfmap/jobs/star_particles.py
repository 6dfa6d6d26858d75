"""Particles of a RELION table as jobs that go on with matches of a template take them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError, InputError
from halfmap.geometry.euler import euler_from_array
from halfmap.io import leopard, relion
from halfmap.io.leopard import LeopardColumns
from halfmap.io.leopard_aberrations import aberration_cells
from halfmap.jobs.micrograph_inputs import micrograph_pixel_sizes
from halfmap.jobs.optics_aberrations import aberrations_of_group
from halfmap.project.job import JobContext

NEEDED = {
    "micrograph_name": "rlnMicrographName",
    "position_pixel": "rlnCoordinateX",
    "rotation": "rlnAngleRot",
    "defocus_u_angstrom": "rlnDefocusU",
    "defocus_v_angstrom": "rlnDefocusV",
}


def columns_of_star(context: JobContext, path: Path) -> LeopardColumns:
    """Return the particles of a STAR file in the columns of Leopard-EM.

    Parameters
    ----------
    path : with positions in micrographs, poses and defocus, as RELION's refinement or a halfmap search leaves them.

    Raises
    ------
    InconsistentDataError
        A column is missing.
    InputError
        It lists no particle.

    Notes
    -----
    Offsets are taken into the positions. The table names no maps of a search.
    """
    particles = relion.read_particles(path)
    if not len(particles):
        raise InputError(f"{path} must list particles; got none; choose a file with rows.")
    missing = [label for column, label in NEEDED.items() if column not in particles]
    if missing:
        raise InconsistentDataError(
            f"{path} must have the columns {', '.join(NEEDED.values())}; got none of {', '.join(missing)}; give "
            "particles that were refined, in their micrographs."
        )
    sizes, said = micrograph_pixel_sizes(context, path, particles)
    context.progress.message(said)
    groups = np.asarray(particles["optics_group"])
    size = sizes[particles.optics.rows_of(groups)]
    position = np.asarray(particles["position_pixel"], dtype=np.float64)
    if "image_name" in particles:
        # as in re-extraction: the image was cut at the whole pixel below, and the offset refined against that
        position = np.trunc(position)
    if "origin_angstrom" in particles:
        position = position - np.asarray(particles["origin_angstrom"]) / size[:, None]
    n = len(particles)
    numbers = dict(zip(("phi", "theta", "psi"), euler_from_array(particles["rotation"]).T, strict=True))
    numbers |= {
        "particle_index": np.arange(n),
        "relative_defocus": np.zeros(n),
        "defocus_u": particles["defocus_u_angstrom"],
        "defocus_v": particles["defocus_v_angstrom"],
        "pixel_size": size,
        "refined_pixel_size": size,
    }
    for i, axis in enumerate("xy"):
        numbers[f"pos_{axis}_img"] = position[:, i]
        numbers[f"pos_{axis}_img_angstrom"] = position[:, i] * size
    numbers |= {name: _column(particles, column) for name, column in (
        ("astigmatism_angle", "defocus_angle_degrees"), ("phase_shift", "phase_shift_degrees"),
        ("ctf_B_factor", "ctf_b_factor_angstrom2"),
    )}  # fmt: skip
    for name, column in (
        ("voltage", "voltage_kv"),
        ("spherical_aberration", "spherical_aberration_mm"),
        ("amplitude_contrast_ratio", "amplitude_contrast"),
    ):
        if column not in particles.optics:
            raise InconsistentDataError(f"The optics table of {path} must have the column {column}; got none; add it.")
        numbers[name] = particles.optics_values(column)
    cells = {
        number: aberration_cells(aberrations_of_group(particles.optics, number)) for number in set(groups.tolist())
    }
    texts = {name: [repr(value) for value in np.asarray(values).tolist()] for name, values in numbers.items()}
    for name in sorted({name for one in cells.values() for name in one}):
        texts[name] = [cells[number].get(name, "") for number in groups.tolist()]
    texts["micrograph_path"] = [str(name) for name in particles["micrograph_name"]]
    table = LeopardColumns(path=path, columns={})
    return table.with_columns(**{leopard.INDEX: [str(row) for row in range(n)]}, **texts)


def _column(particles: ParticleSet, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = particles[name] if name in particles else np.zeros(len(particles))
    return values
