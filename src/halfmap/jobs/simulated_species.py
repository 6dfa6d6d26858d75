"""The files of the species of simulated series: half-maps, masks, and where particles are and are said to be."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from halfmap.data.image_series import ImageSeries
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.data.population import SpeciesParticles
from halfmap.data.uids import uids_of_positions
from halfmap.geometry.euler import euler_from_array
from halfmap.io import relion, star
from halfmap.io.mrc import write_volume
from halfmap.io.species_particles import write_species_particles_of_m
from halfmap.simulation.reference_halves import binary_mask, half_maps, true_map
from halfmap.simulation.references import Reference
from halfmap.simulation.series_params import SeriesSimulationParams
from halfmap.simulation.series_truth import SpeciesPoses

SPECIES, TRUTH = "species", "truth"


def file_names(names: Sequence[str]) -> list[str]:
    """Return the species' names for files, each different."""
    return [name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names, start=1)]


def write_maps(folder: Path, name: str, number: int, reference: Reference, params: SeriesSimulationParams) -> None:
    """Write half-maps and mask of a species, and its true map.

    Parameters
    ----------
    folder : of the job.
    name : of the species, in files.
    number : of the species, from 0.
    reference : at the images' pixel size.
    params : the settings.
    """
    for half, volume in enumerate(half_maps(reference, params.half_map_resolution_angstrom, params.seed, number), 1):
        write_volume(folder / SPECIES / f"{name}_half{half}.mrc", volume)
    write_volume(folder / SPECIES / f"{name}_mask.mrc", binary_mask(reference))
    write_volume(folder / TRUTH / f"{name}_map.mrc", true_map(reference))


def write_particles(
    folder: Path,
    name: str,
    poses: Sequence[SpeciesPoses],
    series: Sequence[ImageSeries],
    sources: Sequence[tuple[str, str]],
    params: SeriesSimulationParams,
) -> tuple[Path, int]:
    """Write the particles of a species: what files say at first, in the words of M and of RELION, and the truth.

    Parameters
    ----------
    poses : of each series.
    series : what the files say.
    sources : name and hash of each item.

    Returns
    -------
    Path of M's table, and the number of particles.
    """
    start = np.concatenate([one.starting_position_angstrom for one in poses])
    turned = np.concatenate([one.starting_rotation for one in poses])
    counts = [len(one) for one in poses]
    names = np.repeat(np.array([source for source, _ in sources], dtype=object), counts)
    starting = SpeciesParticles(
        position_angstrom=start,
        rotation=turned,
        random_subset=np.concatenate([one.random_subset for one in poses]),
        source_name=names,
        source_hash=np.repeat(np.array([hashed for _, hashed in sources], dtype=object), counts),
        uid=uids_of_positions(names, start[:, 0]),
    )
    output = folder / SPECIES / f"{name}_particles.star"
    write_species_particles_of_m(output, starting)
    true = starting.with_poses(
        np.concatenate([one.position_angstrom for one in poses]), np.concatenate([one.rotation for one in poses])
    )
    write_species_particles_of_m(folder / TRUTH / f"{name}_particles.star", true)
    path = folder / SPECIES / f"{name}_relion.star"
    if sources and sources[0][0].endswith(".tomostar"):
        _write_tomogram_particles(path, starting, params.pixel_size_angstrom)
    else:
        relion.write_particles(path, _particle_set(starting, series, counts, params))
    return output, len(starting)


def _write_tomogram_particles(path: Path, particles: SpeciesParticles, pixel_size_angstrom: float) -> None:
    """Write RELION's columns: positions in pixels of the images, those of the first temporal sample."""
    position = particles.position_angstrom[:, 0] / pixel_size_angstrom
    angles = euler_from_array(particles.rotation[:, 0])
    columns = {f"rlnCoordinate{axis}": _texts(position[:, i]) for i, axis in enumerate("XYZ")}
    columns |= {f"rlnAngle{angle}": _texts(angles[:, i]) for i, angle in enumerate(("Rot", "Tilt", "Psi"))}
    columns["rlnMicrographName"] = particles.source_name
    columns["rlnRandomSubset"] = particles.random_subset
    columns["rlnPixelSize"] = _texts(np.full(len(particles), pixel_size_angstrom))
    star.write(path, [star.StarTable(name="particles", columns=columns)])


def _particle_set(
    particles: SpeciesParticles, series: Sequence[ImageSeries], counts: Sequence[int], params: SeriesSimulationParams
) -> ParticleSet:
    """Return the particles of frame series with a defocus each."""
    n = len(particles)
    mean, difference, angle = (
        np.repeat([float(getattr(one, grid).values[0, 0, 0]) for one in series], counts)
        for grid in ("defocus_angstrom", "astigmatism_angstrom", "astigmatism_angle_degrees")
    )
    mean = mean + particles.position_angstrom[:, 0, 2]
    optics = OpticsGroups(
        columns={
            "optics_group": np.array([1]),
            "name": np.array(["opticsGroup1"], dtype=object),
            "voltage_kv": np.array([params.voltage_kv]),
            "spherical_aberration_mm": np.array([params.spherical_aberration_mm]),
            "amplitude_contrast": np.array([params.amplitude_contrast]),
            "micrograph_pixel_size_angstrom": np.array([params.pixel_size_angstrom]),
            "original_pixel_size_angstrom": np.array([params.pixel_size_angstrom]),
        }
    )
    return ParticleSet(
        columns={
            "micrograph_name": particles.source_name,
            "position_pixel": particles.position_angstrom[:, 0, :2] / params.pixel_size_angstrom,
            "rotation": particles.rotation[:, 0],
            "origin_angstrom": np.zeros((n, 2)),
            "optics_group": np.ones(n, dtype=np.int64),
            "defocus_u_angstrom": mean + difference / 2,
            "defocus_v_angstrom": mean - difference / 2,
            "defocus_angle_degrees": angle,
            "phase_shift_degrees": np.full(n, params.phase_shift_degrees),
            "random_subset": particles.random_subset,
        },
        optics=optics,
    )


def _texts(values: np.ndarray) -> np.ndarray:
    return np.array([f"{value:.6f}" for value in values.tolist()], dtype=object)
