import numpy as np
import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.io.mrc import read_volume
from halfmap.simulation.potential import potential_of_atoms
from halfmap.simulation.references import interaction_constant_rad_per_volt_angstrom, reference_of_map
from halfmap.simulation.specimens import specimen
from halfmap.simulation.truth import views
from support.shared_data import shared_data
from support.simulations import a_reference


@pytest.mark.parametrize(("voltage_kv", "expected"), [(100, 9.244e-4), (200, 7.288e-4), (300, 6.526e-4)])
def test_interaction_constant_has_the_published_values(voltage_kv, expected):
    # Kirkland, "Advanced computing in electron microscopy", table of σ: 0.9244, 0.7288, 0.6526 rad/(kV Å)
    assert interaction_constant_rad_per_volt_angstrom(voltage_kv) == pytest.approx(expected, rel=1e-3)


def test_views_are_projections_of_the_rotated_atoms():
    model = specimen("compact-d2-120")
    reference = a_reference("compact-d2-120")
    grid = ImageGrid.square(reference.potential.grid.side, 3.0)
    band = FourierBand(grid)
    rotations = views(1, "views", np.arange(3))
    transforms = reference.views_rfft(rotations, grid)
    for rotation, transform in zip(rotations, transforms, strict=True):
        turned = model.rotated(rotation.numpy())
        potential = potential_of_atoms(turned, reference.potential.grid, b_factor_angstrom2=60.0)
        expected = grid.rfft(potential.values.sum(dim=0) * 3.0)
        error = (band.gather(transform) - band.gather(expected)).norm() / band.gather(expected).norm()
        # linear interpolation on a transform padded four times
        assert error < 0.02
        assert float(transform[0, 0].real) == pytest.approx(float(expected[0, 0].real), rel=1e-3)


@pytest.mark.parametrize("side", [70, 96])
def test_a_view_is_dark_beside_the_particle_whatever_the_field(side):
    reference = a_reference()
    grid = ImageGrid.square(side, 3.0)
    view = grid.irfft(reference.views_rfft(torch.eye(3, dtype=torch.float64)[None], grid))[0]
    beside = view[grid.radii() > 85.0]
    assert beside.abs().max() < 0.03 * view.max()


def test_a_view_in_finer_pixels_has_the_same_values():
    reference = a_reference()
    coarse, fine = ImageGrid.square(64, 3.0), ImageGrid.square(128, 1.5)
    eye = torch.eye(3, dtype=torch.float64)[None]
    same = fine.irfft(reference.views_rfft(eye, fine))[0, ::2, ::2]
    view = coarse.irfft(reference.views_rfft(eye, coarse))[0]
    assert (same - view).abs().max() < 0.02 * view.max()


def test_a_broken_particle_keeps_the_half_at_positive_z():
    broken = a_reference().broken().potential
    z = broken.grid.positions()[..., 2]
    assert broken.values[z < -10].abs().max() < 1e-6
    total = a_reference().potential.values.double().sum()
    assert broken.values.double().sum() == pytest.approx(float(total) / 2, rel=0.02)


def test_a_map_is_scaled_to_the_contrast_of_protein_and_finds_its_diameter():
    potential = a_reference().potential
    arbitrary = Volume(values=0.013 * potential.values, grid=potential.grid)
    reference = reference_of_map(arbitrary, pixel_size_angstrom=3.0, b_factor_angstrom2=0.0, name="map")
    assert reference.diameter_angstrom == pytest.approx(130, rel=0.1)
    ratio = float(reference.potential.values.double().sum() / potential.values.double().sum())
    # the scale is a guess from the density at 15 Å: right within a third
    assert 0.75 < ratio < 1.35


def test_a_real_map_weighs_what_its_protein_weighs():
    volume = read_volume(shared_data("maps/betagal_3.54A.mrc"))
    reference = reference_of_map(volume, pixel_size_angstrom=3.0, b_factor_angstrom2=0.0, name="betagal")
    kilodalton = float(reference.potential.values.double().sum()) * 27 / 3.5 / 1.23 / 1e3
    assert 465 / 1.5 < kilodalton < 465 * 1.5
    assert 160 < reference.diameter_angstrom < 220


def test_a_map_of_negative_density_is_refused():
    grid = ImageGrid.cubic(16, 3.0)
    with pytest.raises(InputError, match="positive density"):
        reference_of_map(
            Volume(values=-torch.ones(grid.shape), grid=grid), pixel_size_angstrom=3.0, b_factor_angstrom2=0, name="x"
        )


def test_views_of_nobody_are_none():
    grid = ImageGrid.square(32, 3.0)
    assert a_reference().views_rfft(torch.zeros((0, 3, 3), dtype=torch.float64), grid).shape == (0, 32, 17)
