"""Maps that are turned and moved again and again stay what they were, to their rim."""

import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.fourier import filters, shells
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.multiparticle.map_frames import moved_map, turned_map
from halfmap.multiparticle.species import box_sphere, fitted, species_grid
from support.warp_projects import DIAMETER, PIXEL, half_maps

TURN = matrix_from_euler(25.0, 40.0, -70.0)
MOVE = torch.tensor([5.0, -3.0, 6.5], dtype=torch.float64)
AGAIN = 5


@pytest.fixture(scope="module")
def given() -> Volume:
    """Return a half-map whose noise fills its box, to 12 Å: what its pixels of 4 Å hold without loss."""
    grid = species_grid(DIAMETER, PIXEL)
    values = fitted(half_maps()[0], grid).values
    values = filters.apply_filter(values, grid, filters.low_pass(grid, 12.0)) * box_sphere(grid)
    return Volume(values=values, grid=grid)


def rim(volume: Volume) -> float:
    """Return the rms of what lies just inside the soft edge of the box."""
    radii = volume.grid.radii() / (volume.grid.side / 2 * volume.grid.pixel_size_angstrom)
    return float(volume.values[(radii > 0.72) & (radii < 0.9)].square().mean().sqrt())


@pytest.mark.parametrize(
    "there_and_back",
    [
        lambda volume: turned_map(turned_map(volume, TURN), TURN.T),
        lambda volume: moved_map(moved_map(volume, MOVE), -MOVE),
    ],
    ids=["turned", "moved"],
)
def test_a_map_that_goes_and_comes_back_five_times_is_the_same_to_its_rim(given, there_and_back):
    now = given
    for _ in range(AGAIN):
        now = there_and_back(now)
    grid = given.grid
    curve = shells.fsc(grid.rfft(given.values), grid.rfft(now.values), grid)
    assert float(curve[1 : int(grid.side * PIXEL / 12.0)].min()) > 0.99
    # a soft sphere each time would leave 0.66 and 0.56 of it
    assert rim(now) == pytest.approx(rim(given), rel=0.01)


def test_what_leaves_the_box_does_not_come_back_on_the_other_side(given):
    grid = given.grid
    far = torch.tensor([grid.side * PIXEL / 2, 0.0, 0.0], dtype=torch.float64)
    moved = moved_map(given, far)
    x = torch.arange(grid.side) - grid.side // 2
    assert float(moved.values[:, :, x > 4].abs().max()) < 0.01 * float(given.values.abs().max())
    assert float(moved.values[:, :, x < -4].abs().max()) > 0.3 * float(given.values.abs().max())
