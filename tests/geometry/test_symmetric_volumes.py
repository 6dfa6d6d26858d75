import pytest
import torch

from halfmap import keyed_random
from halfmap.errors import ShapeError
from halfmap.geometry.shapes import soft_sphere
from halfmap.geometry.symmetric_volumes import sum_rotated_half, symmetrise_accumulators, symmetrise_volume
from halfmap.geometry.symmetry import operators
from halfmap.grid import ImageGrid

ALIGNED = ["C2", "C4", "D2", "O"]


def a_volume(grid: ImageGrid, end_of_band: float = 2.0) -> torch.Tensor:
    """Noise up to a fraction of Nyquist, in a soft sphere."""
    noise = torch.from_numpy(keyed_random.normal(1, "volume", 0, size=grid.shape))
    inside = grid.frequencies().norm(dim=-1) * 2 * grid.pixel_size_angstrom < end_of_band
    extent = grid.side * grid.pixel_size_angstrom
    return grid.irfft(grid.rfft(noise) * inside) * soft_sphere(grid, 0.2 * extent, 0.2 * extent, dtype=torch.float64)


def a_half_volume(radius: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A hermitian centred half transform that ends two shells below R."""
    shape = (2 * radius + 1, 2 * radius + 1, radius + 1)
    parts = torch.from_numpy(keyed_random.normal(2, "half volume", 0, size=(*shape, 3))).float()
    data, weight = torch.view_as_complex(parts[..., :2].contiguous()), parts[..., 2].abs()
    data[..., 0] = (data[..., 0] + data[..., 0].flip(0, 1).conj()) / 2
    weight[..., 0] = (weight[..., 0] + weight[..., 0].flip(0, 1)) / 2
    axis = torch.arange(-radius, radius + 1.0)
    z, y, x = torch.meshgrid(axis, axis, axis[radius:], indexing="ij")
    inside = x * x + y * y + z * z <= (radius - 2) ** 2
    return data * inside, weight * inside


def turned_half_about_z(volume: torch.Tensor) -> torch.Tensor:
    """Send (x, y) to (−x, −y) about the centre voxel; voxels without a mirror image stay in place by period."""
    index = [(2 * (side // 2) - torch.arange(side)) % side for side in volume.shape[1:]]
    return volume[:, index[0]][:, :, index[1]]


@pytest.mark.parametrize("side", [12, 13])
def test_twofold_symmetry_averages_the_volume_with_its_half_turn(side):
    grid = ImageGrid.cubic(side, 2.0)
    volume = torch.from_numpy(keyed_random.normal(1, "everywhere", 0, size=grid.shape)).float()
    expected = (volume + turned_half_about_z(volume)) / 2
    torch.testing.assert_close(symmetrise_volume(volume, grid, "C2"), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize("name", ALIGNED)
def test_symmetrising_twice_changes_nothing_where_rotations_keep_the_lattice(side, name):
    grid = ImageGrid.cubic(side, 2.0)
    once = symmetrise_volume(a_volume(grid), grid, name)
    torch.testing.assert_close(symmetrise_volume(once, grid, name), once, atol=5e-6, rtol=0)


@pytest.mark.parametrize("side", [24, 25])
@pytest.mark.parametrize("name", ["C3", "D7", "T", "I1"])
def test_symmetrising_twice_changes_a_white_volume_by_less_than_half_a_percent(side, name):
    grid = ImageGrid.cubic(side, 2.0)
    once = symmetrise_volume(a_volume(grid, end_of_band=0.6), grid, name)
    twice = symmetrise_volume(once, grid, name)
    inside = grid.radii() < 2.0 * (side // 2 - 1)
    # White noise up to 0.6 of Nyquist is far above a map's spectrum there; maps change by 1e-3 or less.
    assert (twice - once)[inside].norm() < 5e-3 * once[inside].norm()


def test_a_gaussian_off_centre_is_copied_to_where_the_operators_send_it():
    grid = ImageGrid.cubic(32, 1.0)
    place = torch.tensor([4.0, 1.0, 3.0], dtype=torch.float64)
    positions = grid.positions()

    def gaussian(centre):
        return torch.exp(-(positions - centre).square().sum(-1) / 8.0)

    expected = sum(gaussian(op @ place) for op in operators("I3")) / 60
    result = symmetrise_volume(gaussian(place), grid, "I3")
    assert (result - expected).abs().max() < 1e-4


def test_no_symmetry_returns_the_volume_itself():
    grid = ImageGrid.cubic(8, 1.0)
    volume = a_volume(grid)
    assert symmetrise_volume(volume, grid, "C1").equal(volume)


@pytest.mark.parametrize("name", ["C3", "D2", "I1"])
def test_compiled_and_tensor_paths_sum_the_same(name):
    data, weight = a_half_volume(9)
    values = torch.cat([torch.view_as_real(data), weight[..., None]], dim=-1)
    summed_data, summed_weight = symmetrise_accumulators(data, weight, name)
    expected = sum_rotated_half(values.double(), operators(name))
    torch.testing.assert_close(torch.view_as_real(summed_data).double(), expected[..., :2], atol=2e-5, rtol=2e-6)
    torch.testing.assert_close(summed_weight.double(), expected[..., 2], atol=2e-5, rtol=2e-6)


@pytest.mark.parametrize("name", ["C4", "D2", "O"])
def test_lattice_rotations_of_accumulators_are_exact_permutations(name):
    data, weight = a_half_volume(8)
    once = symmetrise_accumulators(data, weight, name)
    twice = symmetrise_accumulators(*once, name)
    order = len(operators(name))
    torch.testing.assert_close(twice[0], order * once[0], atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(twice[1], order * once[1], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("name", ["C3", "T", "I2"])
def test_summed_accumulators_stay_hermitian(name):
    data, weight = symmetrise_accumulators(*a_half_volume(8), name)
    torch.testing.assert_close(data[..., 0], data[..., 0].flip(0, 1).conj(), atol=1e-5, rtol=0)
    torch.testing.assert_close(weight[..., 0], weight[..., 0].flip(0, 1), atol=1e-5, rtol=0)


def test_shapes_that_are_not_half_volumes_are_refused():
    with pytest.raises(ShapeError, match="centred half volumes"):
        symmetrise_accumulators(torch.zeros(8, 8, 5, dtype=torch.complex64), torch.zeros(8, 8, 5), "C2")
    with pytest.raises(ShapeError, match="volume must end in the axes"):
        symmetrise_volume(torch.zeros(8, 8, 9), ImageGrid.cubic(8, 1.0), "C2")
