"""The files of a species: maps, curves and particles of a new version, made whole before they are brought into use."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from halfmap.data.population import Species, SpeciesParticles
from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.grid import ImageGrid
from halfmap.io import mrc, star, warp_population
from halfmap.io.data_hash import version_of_species
from halfmap.jobs.map_inputs import read_map
from halfmap.jobs.population_members import OpenSpecies
from halfmap.multiparticle.directional_maps import view_table
from halfmap.multiparticle.species import (
    SpeciesMaps,
    binary_mask,
    local_params,
    memory_bytes,
    species_grid,
    species_maps,
)
from halfmap.postprocessing.half_map_fsc import check_same_grid
from halfmap.postprocessing.local_resolution import LocalResolution, sampling_points
from halfmap.project.job import JobContext

PARTICLES, MASK = "particles.star", "mask.mrc"
_PICTURE_PIXEL = 1024
_NO_RESOLUTION = 999.0


def read_halves(opened: OpenSpecies) -> tuple[Volume, Volume]:
    """Read the half-maps of a species.

    Raises
    ------
    InconsistentDataError
        They are not on its grid.
    """
    grid = grid_of(opened.species)
    like = Volume(values=torch.zeros(1).expand(grid.shape), grid=grid)
    halves = []
    for kind in ("half1.mrc", "half2.mrc"):
        half = read_map(opened.file(kind), None)
        check_same_grid(half, like, str(opened.file(kind)), f"species {opened.species.name}")
        halves.append(Volume(values=half.values, grid=grid))
    return halves[0], halves[1]


def read_species_mask(opened: OpenSpecies) -> Volume:
    """Read the mask of a species, in use or put in its place by hand.

    Returns
    -------
    Volume
        0 and 1.

    Raises
    ------
    InconsistentDataError
        It is not on the species' grid.
    InputError
        It holds values outside 0 to 1, no voxel or every voxel.
    """
    grid = grid_of(opened.species)
    path = opened.file(MASK)
    mask = read_map(path, None)
    like = Volume(values=torch.zeros(1).expand(grid.shape), grid=grid)
    check_same_grid(mask, like, str(path), f"species {opened.species.name}")
    return binary_mask(Volume(values=mask.values, grid=grid), grid)


def grid_of(species: Species) -> ImageGrid:
    """Return the grid of a species' maps."""
    return species_grid(species.diameter_angstrom, species.pixel_size_angstrom)


def measured_maps(
    species: Species,
    half1: Volume,
    half2: Volume,
    mask: Volume,
    *,
    context: JobContext,
    with_weight: bool = False,
    seed: int = 1,
) -> tuple[Species, SpeciesMaps]:
    """Measure and filter a species' half-maps.

    Parameters
    ----------
    half1, half2, mask : on its grid.
    context : of the job, for progress and memory.
    with_weight : whether the molecular weight is known, so that the mask can be compared with it.

    Returns
    -------
    species : with the resolution and the B-factor found, and how far it was denoised.
    maps : see `halfmap.multiparticle.species.species_maps`.
    """
    context.expect_memory(memory_bytes(half1.grid), "the maps of the species")
    settings = local_params(half1.grid)
    if settings is None:
        context.progress.message(
            f"Pixels of {half1.grid.pixel_size_angstrom:g} Å are too coarse for a local resolution: none is measured."
        )
    else:
        context.progress.start("Local resolution", len(sampling_points(mask, settings.step_angstrom)))
    maps = species_maps(
        half1,
        half2,
        mask,
        diameter_angstrom=species.diameter_angstrom,
        molecular_weight_kda=species.molecular_weight_kda if with_weight else None,
        seed=seed,
        advance=context.progress.advance,
    )
    known = replace(
        species,
        resolution_angstrom=maps.resolution_angstrom,
        b_factor_angstrom2=maps.b_factor_angstrom2,
        denoised_to_angstrom=maps.denoised_to_angstrom,
    )
    return known, maps


def stage_maps(staged: Path, stem: str, maps: SpeciesMaps) -> None:
    """Write all maps and curves of a species into the folder of a version.

    Parameters
    ----------
    stem : of the species' file; every name begins with it.

    Notes
    -----
    M's files but for the network, which is taught anew from the half-maps each time. ``_localbfac.mrc`` holds the one
    B-factor everywhere, as M's.
    """
    volumes = {
        "half1": maps.half1,
        "half2": maps.half2,
        "mask": maps.mask,
        "filt": maps.filtered,
        "filtsharp": maps.sharpened,
        "filtanisotropic": maps.anisotropic,
        "denoised": maps.denoised,
    }
    if maps.local is not None and maps.locally_filtered is not None:
        constant = torch.full_like(maps.mask.values, maps.b_factor_angstrom2)
        volumes |= {
            "filtlocal": maps.locally_filtered,
            "localres": maps.local.resolution,
            "localbfac": Volume(values=constant, grid=maps.mask.grid),
        }
        _write_local_histogram(staged / f"{stem}_localres.star", maps.local, maps.mask)
    for kind, volume in volumes.items():
        mrc.write_volume(staged / f"{stem}_{kind}.mrc", volume)
    resolution_by_direction = (1 / maps.direction_frequency).float().numpy()
    _write_picture(staged / f"{stem}_anisores.mrc", resolution_by_direction)
    _write_fsc(staged / f"{stem}_fsc.star", maps)


def stage_particles(staged: Path, stem: str, particles: SpeciesParticles, symmetry: str) -> None:
    """Write the particles of a species, and the picture of their views, into the folder of a version."""
    warp_population.write_species_particles_of_m(staged / f"{stem}_{PARTICLES}", particles)
    views = view_table(torch.from_numpy(particles.rotation[:, 0]), symmetry).float()[None, None]
    wide = torch.nn.functional.interpolate(views, size=(_PICTURE_PIXEL, _PICTURE_PIXEL))
    _write_picture(staged / f"{stem}_angdist.mrc", wide[0, 0].numpy())


def commit_species(opened: OpenSpecies, staged: Path, species: Species) -> Species | None:
    """Make a version of what was staged, and bring it into use.

    Parameters
    ----------
    opened : the species so far; its file need not exist.
    species : what its file is to say, but for the version.

    Returns
    -------
    Species
        With its version; None where nothing has changed, and nothing was made.
    """

    def newest(kind: str) -> Path:
        path = opened.file(kind)
        return staged / path.name if (staged / path.name).exists() else path

    particles = warp_population.read_species_particles_of_m(newest(PARTICLES))
    maps = [mrc.read_volume(newest(kind)).values.numpy() for kind in ("half1.mrc", "half2.mrc", MASK)]
    version = version_of_species(particles, maps, species.used_sources)
    before = opened.species.version
    if version == before and opened.versions.has_version(before):
        return None
    made = replace(species, version=version, previous_version=before if before != version else "")
    main = staged / opened.path.name
    if opened.path.exists():
        main.write_bytes(opened.path.read_bytes())
    warp_population.write_species(main, made)
    opened.versions.commit(staged, version)
    return made


def is_in_use(opened: OpenSpecies, halves: tuple[Volume, Volume], mask: Volume) -> bool:
    """Whether the version of a species is that of its particles, these half-maps and this mask, and is kept."""
    particles = warp_population.read_species_particles_of_m(opened.file(PARTICLES))
    maps = [one.values.numpy() for one in (*halves, mask)]
    version = version_of_species(particles, maps, opened.species.used_sources)
    return version == opened.species.version and opened.versions.has_version(version)


def _write_picture(path: Path, values: np.ndarray) -> None:
    """Write a picture over rot (x) and tilt (y)."""
    mrc.write_image(path, values, ImageGrid(shape=values.shape, pixel_size_angstrom=1.0))


def _write_fsc(path: Path, maps: SpeciesMaps) -> None:
    fsc = maps.result.fsc
    frequencies = shells.shell_frequencies(fsc.grid).tolist()
    columns = {
        "wrpResolution": [1 / frequency if frequency else _NO_RESOLUTION for frequency in frequencies],
        "wrpFSCUnmasked": fsc.unmasked.tolist(),
        "wrpFSCRandomized": fsc.randomised.tolist(),
        "wrpFSCCorrected": fsc.corrected.tolist(),
        "wrpFSCMasked": fsc.masked.tolist(),
    }
    _write_table(path, columns)


def _write_local_histogram(path: Path, local: LocalResolution, mask: Volume) -> None:
    """Write how many voxels of the mask have which local resolution, in steps of a tenth of an Å."""
    inside = local.resolution.values[mask.values > 0.5]
    steps, counts = torch.unique((inside * 10).round().long(), return_counts=True)
    _write_table(path, {"wrpResolution": (steps.double() / 10).tolist(), "wrpSamples": counts.double().tolist()})


def _write_table(path: Path, columns: dict[str, list[float]]) -> None:
    texts = {name: np.array([f"{value:.6g}" for value in values], dtype=object) for name, values in columns.items()}
    star.write(path, [star.StarTable(name="", columns=texts)])
