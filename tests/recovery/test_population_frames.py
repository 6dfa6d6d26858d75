"""A species that is turned, moved or expanded gives the same map when it is reconstructed again."""

from pathlib import Path

import numpy as np
import pytest
import torch

import halfmap
from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.fourier.resample import shift
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.geometry.shapes import soft_sphere
from halfmap.geometry.symmetric_volumes import rotate_volume
from halfmap.io import mrc
from halfmap.jobs.population_files import open_population

ANGLES = (25.0, 40.0, -70.0)
CENTRE = np.array([8.0, -6.0, 5.0])


def mean_map() -> Volume:
    """Return the mean of the species' half-maps as they are now."""
    folder = next(Path("m/species").glob("*/particle.species")).parent
    first, second = (mrc.read_volume(folder / f"particle_half{half}.mrc") for half in (1, 2))
    return Volume(values=(first.values + second.values).double() / 2, grid=first.grid)


def agreement(first: Volume, second: torch.Tensor) -> torch.Tensor:
    """Return the FSC inside a sphere that no map was cut at."""
    sphere = soft_sphere(first.grid, 45.0, 20.0).double()
    return shells.fsc(first.grid.rfft(first.values * sphere), first.grid.rfft(second * sphere), first.grid)


@pytest.mark.slow
def test_a_species_in_another_frame_is_reconstructed_as_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()
    settings = halfmap.simulate_tilt_series(
        specimen="compact-c1-100",
        number=1,
        size_pixel=(240, 240),
        pixel_size_angstrom=4.0,
        particles_per_series=(40,),
        tilt_step_degrees=6.0,
        snr=2.0,
        reference_resolution_angstrom=14.0,
        workers=1,
    ).main_output
    species = settings.parent / "species"
    particles = next(species.glob("*_particles.star"))
    halfmap.population_create(folder="m", name="frames")
    halfmap.population_add_source(population="m", processing=str(settings), name="tilts")
    halfmap.population_add_species(
        population="m",
        name="particle",
        diameter_angstrom=100,
        half1=next(species.glob("*_half1.mrc")),
        particles=particles,
    )

    halfmap.population_refine(population="m", workers=1)
    before = mean_map()
    resolution = open_population(Path("m")).species[0].species.resolution_angstrom
    assert resolution is not None
    # shells coarser than the resolution: noise beyond, though the same, is interpolated less well
    shown = slice(1, int(before.grid.side * before.grid.pixel_size_angstrom / resolution))

    rot, tilt, psi = ANGLES
    halfmap.population_rotate(population="m", species="particle", rot_degrees=rot, tilt_degrees=tilt, psi_degrees=psi)
    halfmap.population_refine(population="m", workers=1)
    turned = mean_map()
    back = rotate_volume(turned.values, turned.grid, matrix_from_euler(*ANGLES))
    assert float(agreement(before, back)[shown].min()) > 0.99

    x, y, z = CENTRE
    halfmap.population_shift(population="m", species="particle", x_angstrom=x, y_angstrom=y, z_angstrom=z)
    halfmap.population_refine(population="m", workers=1)
    moved = mean_map()
    home = rotate_volume(
        shift(moved.values, moved.grid, torch.from_numpy(CENTRE)), moved.grid, matrix_from_euler(*ANGLES)
    )
    # particles at borders may come into an image or leave it
    assert float(agreement(before, home)[shown].min()) > 0.98
