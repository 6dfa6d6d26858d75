import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.classification.nearest_projection import nearest_projections
from halfmap.data.volumes import Volume
from halfmap.errors import InputError, ShapeError
from halfmap.fourier import filters, slices
from halfmap.geometry.rotations import random_rotations
from halfmap.geometry.symmetry import distance_degrees, operators
from halfmap.grid import ImageGrid
from halfmap.imaging.projection import project_images

PIXEL = 5.0
N = 12


def map_of_blobs(side: int, seed: int, symmetry: str = "C1") -> Volume:
    """Balls of 5 Å standard deviation within 45 Å of the centre, and their equivalents."""
    grid = ImageGrid.cubic(side, PIXEL)
    group = operators(symmetry)
    centres = 45.0 * (2.0 * torch.from_numpy(keyed_random.uniform(seed, "blobs", np.arange(10), size=3)) - 1.0) / 3**0.5
    every = torch.einsum("gij,nj->gni", group, centres).reshape(-1, 3)
    distance = (grid.positions()[..., None, :] - every).square().sum(dim=-1)
    return Volume(values=torch.exp(-distance / (2 * 5.0**2)).sum(dim=-1).float(), grid=grid)


def projections(volume: Volume) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, ImageGrid]:
    grid = ImageGrid.square(volume.grid.side, PIXEL)
    rotation = random_rotations(5, "views", np.arange(N))
    origin = 12.0 * torch.from_numpy(keyed_random.uniform(5, "origin", np.arange(N), size=2) - 0.5)
    images = project_images(slices.prepare(volume.values, volume.grid, 3), rotation, grid, origin_angstrom=origin)
    return images, rotation, origin, grid


@pytest.mark.parametrize(("side", "symmetry"), [(32, "C1"), (33, "D2")])
def test_view_angle_and_centre_of_noisy_projections_are_found(side, symmetry):
    volume = map_of_blobs(side, 1, symmetry)
    images, rotation, origin, grid = projections(volume)
    noise = torch.from_numpy(keyed_random.normal(6, "noise", np.arange(N), size=side**2)).reshape(images.shape)
    found = nearest_projections(
        images + 0.05 * images.std() * noise, grid, [volume],
        symmetries=[symmetry], mask_diameter_angstrom=130, finest_angstrom=16,
    )  # fmt: skip
    angle = distance_degrees(torch.from_numpy(found.rotation), rotation, symmetry)
    assert angle.max() < 2.0  # degrees; 15° lie between the views that are searched
    np.testing.assert_allclose(found.origin_angstrom, origin, atol=0.6)  # Å, about a tenth of a pixel
    assert found.mean_frc.min() > 0.9
    assert found.frc.shape == (N, side // 2 + 1)


def test_filtering_an_average_or_reversing_no_sign_changes_little():
    volume = map_of_blobs(32, 1)
    images, _, _, grid = projections(volume)
    filtered = 7.0 * filters.apply_filter(images, grid, filters.b_factor(grid, 1500.0))
    settings = {"symmetries": ["C1"], "mask_diameter_angstrom": 130.0, "finest_angstrom": 16.0}
    plain = nearest_projections(images, grid, [volume], **settings)
    damped = nearest_projections(filtered, grid, [volume], **settings)
    inverted = nearest_projections(-images, grid, [volume], **settings)
    np.testing.assert_allclose(damped.mean_frc, plain.mean_frc, atol=0.05)
    assert inverted.mean_frc.max() < 0.8 < 0.97 < plain.mean_frc.min()


def test_each_average_finds_its_structure():
    maps = [map_of_blobs(32, 1, "D2"), map_of_blobs(32, 2)]
    first, _, _, grid = projections(maps[0])
    second = projections(maps[1])[0]
    averages = torch.stack([first, second], dim=1).flatten(0, 1)
    found = nearest_projections(
        averages, grid, maps, symmetries=["D2", "C1"], mask_diameter_angstrom=130, finest_angstrom=16
    )
    np.testing.assert_array_equal(found.structure, np.tile([1, 2], N))


def test_blank_averages_show_nothing_and_leave_the_others_as_they_are():
    volume = map_of_blobs(32, 1)
    images, _, _, grid = projections(volume)
    settings = {"symmetries": ["C1"], "mask_diameter_angstrom": 130.0, "finest_angstrom": 16.0}
    alone = nearest_projections(images[:2], grid, [volume], **settings)
    beside = nearest_projections(
        images[:2].repeat(2, 1, 1) * torch.tensor([1, 1, 0, 0])[:, None, None], grid, [volume], **settings
    )
    np.testing.assert_array_equal(beside.structure, [1, 1, 0, 0])
    np.testing.assert_allclose(beside.mean_frc, [*alone.mean_frc, np.nan, np.nan], atol=1e-6)
    assert np.isnan(beside.frc[2:]).all()


def test_resolution_is_where_noise_outweighs_the_image():
    # below 25 Å the averages hold noise alone
    volume = map_of_blobs(32, 1)
    images, _, _, grid = projections(volume)
    noise = torch.from_numpy(keyed_random.normal(8, "noise", np.arange(N), size=32**2)).reshape(images.shape).float()
    high = filters.high_pass(grid, 25.0)
    averages = filters.apply_filter(images, grid, 1 - high) + filters.apply_filter(images.std() * noise, grid, high)
    found = nearest_projections(
        averages, grid, [volume], symmetries=["C1"], mask_diameter_angstrom=130, finest_angstrom=16
    )
    np.testing.assert_allclose(np.median(found.resolution_angstrom), 25.0, rtol=0.12)


def test_maps_that_do_not_fit_the_averages_are_refused():
    volume = map_of_blobs(32, 1)
    images = torch.zeros(2, 24, 24)
    settings = {"mask_diameter_angstrom": 100.0, "finest_angstrom": 16.0}
    with pytest.raises(ShapeError, match="24 px"):
        nearest_projections(images, ImageGrid.square(24, PIXEL), [volume], symmetries=["C1"], **settings)
    with pytest.raises(InputError, match="one symmetry for each"):
        nearest_projections(images, ImageGrid.square(24, PIXEL), [volume], symmetries=[], **settings)
