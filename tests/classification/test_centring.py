import pytest
import torch
from torch import Tensor

from halfmap.classification import centring
from halfmap.errors import InputError
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid

SIDES = [48, 49]


def _spot(grid: ImageGrid, x: float, y: float, width: float = 8.0) -> Tensor:
    position = grid.positions() - torch.tensor([x, y], dtype=torch.float64)
    return torch.exp(-position.square().sum(-1) / (2 * width**2))


@pytest.mark.parametrize("side", SIDES)
def test_centre_of_mass_is_where_the_particle_is(side: int) -> None:
    grid = ImageGrid.square(side, 2.5)
    images = torch.stack([_spot(grid, 7.5, -5.0), _spot(grid, -10.0, 0.0), _spot(grid, 0.0, 0.0)])
    found = centring.centre_of_mass_angstrom(images, grid, 110.0)
    assert torch.allclose(found, torch.tensor([[7.5, -5.0], [-10.0, 0.0], [0.0, 0.0]]).double(), atol=0.05)


def test_negative_pixels_and_what_lies_outside_the_mask_weigh_nothing() -> None:
    grid = ImageGrid.square(48, 2.5)
    image = _spot(grid, 5.0, 0.0) - 5 * _spot(grid, -30.0, 20.0, 3.0) + 9 * _spot(grid, 50.0, 50.0, 3.0)
    assert torch.allclose(
        centring.centre_of_mass_angstrom(image, grid, 80.0), torch.tensor([5.0, 0.0]).double(), atol=0.1
    )


@pytest.mark.parametrize("side", SIDES)
def test_averages_move_to_the_centre_by_whole_pixels(side: int) -> None:
    grid = ImageGrid.square(side, 2.5)
    images = torch.stack([_spot(grid, 7.5, -5.0), _spot(grid, -11.0, 1.0), _spot(grid, 1.0, 0.9)])
    result = centring.centred(images, grid, 110.0, max_shift_angstrom=20.0)
    assert torch.equal(result.shifts_angstrom, torch.tensor([[-7.5, 5.0], [10.0, 0.0], [0.0, 0.0]]).double())
    assert torch.allclose(result.averages[0], _spot(grid, 0.0, 0.0), atol=1e-6)
    assert torch.equal(result.averages[2], images[2])
    assert (centring.centre_of_mass_angstrom(result.averages, grid, 110.0).abs() <= 1.26).all()
    assert torch.allclose(result.averages.sum((1, 2)), images.sum((1, 2)))


def test_no_average_moves_beyond_the_range_of_the_search() -> None:
    grid = ImageGrid.square(48, 2.0)
    images = torch.stack([_spot(grid, 17.0, 0.0), _spot(grid, 17.0, 17.0)])
    moved = centring.centred(images, grid, 90.0, max_shift_angstrom=7.0).shifts_angstrom
    assert torch.equal(moved[0], torch.tensor([-6.0, 0.0]).double())
    assert float(moved[1].norm()) <= 7.0
    assert float(moved[1].norm()) > 5.0


def test_short_shifts_are_left_alone_where_asked() -> None:
    grid = ImageGrid.square(48, 2.0)
    images = torch.stack([_spot(grid, 3.9, 0.0), _spot(grid, 6.0, 0.0)])
    least = centring.vdam_least_shift_angstrom(90.0, 2.0)
    moved = centring.centred(images, grid, 90.0, max_shift_angstrom=10.0, least_shift_angstrom=least).shifts_angstrom
    assert torch.equal(moved, torch.tensor([[0.0, 0.0], [-6.0, 0.0]]).double())


@pytest.mark.parametrize(("diameter", "pixel", "least"), [(200.0, 1.0, 2.0), (200.0, 0.5, 2.0), (300.0, 1.0, 3.0)])
def test_vdam_moves_averages_by_two_pixels_or_a_hundredth(diameter: float, pixel: float, least: float) -> None:
    assert centring.vdam_least_shift_angstrom(diameter, pixel) == least


def test_empty_averages_stay() -> None:
    grid = ImageGrid.square(16, 2.0)
    result = centring.centred(-torch.ones(2, 16, 16), grid, 20.0, max_shift_angstrom=10.0)
    assert torch.equal(result.averages, -torch.ones(2, 16, 16))
    assert not result.shifts_angstrom.any()
    with pytest.raises(InputError, match="must not be negative"):
        centring.centred(torch.ones(2, 16, 16), grid, 20.0, max_shift_angstrom=-1.0)


def test_origins_follow_so_that_no_point_of_any_image_moves() -> None:
    generator = torch.linspace(-40, 50, 6, dtype=torch.float64)
    rotations = matrix_from_euler(0.0, 0.0, torch.tensor([0.0, 30.0, 90.0, -120.0, 180.0, 260.0]))
    origins = torch.stack([generator / 5, -generator / 7], dim=-1)
    shifts = torch.stack([generator.flip(0) / 4, generator / 3], dim=-1)
    point = torch.tensor([12.0, -7.0, 0.0], dtype=torch.float64)
    moved_point = torch.nn.functional.pad(shifts, (0, 1)) + point
    before = (rotations @ point)[:, :2] - origins
    after = (rotations @ moved_point[..., None])[:, :2, 0] - centring.following_origins(origins, rotations, shifts)
    assert torch.allclose(before, after, atol=1e-12)


@pytest.mark.parametrize("psi", [0.0, 90.0, 35.0])
def test_a_centred_average_and_its_particles_origins_draw_the_same_images(psi: float) -> None:
    grid = ImageGrid.square(48, 2.0)
    off_centre = [(10.0, 4.0, 6.0), (2.0, -6.0, 4.0)]  # an asymmetric average of two spots
    average = sum((_spot(grid, *spot) for spot in off_centre), torch.zeros(grid.shape, dtype=torch.float64))
    result = centring.centred(average[None], grid, 90.0, max_shift_angstrom=20.0)
    shift = result.shifts_angstrom[0]
    assert float(shift.norm()) > 3
    rotation, origin = matrix_from_euler(0.0, 0.0, psi), torch.tensor([5.0, -3.0], dtype=torch.float64)

    def image(spots: list[tuple[float, float, float]], origin: Tensor) -> Tensor:
        # a point v of the reference lies at (A v)_xy − origin
        places = [(rotation @ torch.tensor([x, y, 0.0]).double())[:2] - origin for x, y, _ in spots]
        drawn = [_spot(grid, *place.tolist(), spot[2]) for place, spot in zip(places, spots, strict=True)]
        return torch.stack(drawn).sum(0)

    centred_spots = [(x + float(shift[0]), y + float(shift[1]), width) for x, y, width in off_centre]
    redrawn = torch.stack([_spot(grid, *spot) for spot in centred_spots]).sum(0)
    assert torch.allclose(result.averages[0], redrawn, atol=1e-3)
    followed = centring.following_origins(origin[None], rotation[None], shift[None])[0]
    assert torch.allclose(image(centred_spots, followed), image(off_centre, origin), atol=1e-9)
