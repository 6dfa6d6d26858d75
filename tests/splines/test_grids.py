import itertools

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from halfmap.errors import ShapeError
from halfmap.splines.grids import LinearGrid, SplineGrid, values_over_images
from support.plain_series import four_linear, spline

BEYOND = torch.linspace(-0.2, 1.3, 31, dtype=torch.float64)


def grid_of(*shape, seed=0, **options):
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=shape))
    return (SplineGrid if len(shape) == 3 else LinearGrid)(values=values, **options)


def points(n, axes, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.2, 1.2, (n, axes)))


@pytest.mark.parametrize("n", [3, 4, 11, 40])
def test_spline_is_the_natural_cubic_of_scipy_inside_and_beyond(n):
    grid = grid_of(1, 1, n)
    coordinates = torch.stack([BEYOND, torch.zeros_like(BEYOND), torch.ones_like(BEYOND)], dim=-1)
    expected = CubicSpline(np.linspace(0, 1, n), grid.values[0, 0].numpy(), bc_type="natural")(BEYOND.numpy())
    np.testing.assert_allclose(grid(coordinates), expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 2), (6, 1, 1), (2, 2, 2)])
def test_three_axes_are_splined_one_after_the_other(shape):
    grid, where = grid_of(*shape), points(20, 3)
    expected = [spline(grid.values.numpy(), *place) for place in where.tolist()]
    np.testing.assert_allclose(grid(where), expected, rtol=1e-9, atol=1e-9)


def test_a_single_node_is_constant_and_two_make_a_line():
    coordinates = torch.stack([BEYOND] * 3, dim=-1)
    torch.testing.assert_close(SplineGrid.constant(4.0)(coordinates), torch.full_like(BEYOND, 4.0))
    line = SplineGrid(values=torch.tensor([[[1.0, 3.0]]]))
    torch.testing.assert_close(line(coordinates), 1 + 2 * BEYOND)


def test_margins_put_the_first_and_last_node_inside():
    margin = 1 / 8
    grid = grid_of(1, 1, 4, margin=(margin, 0.0, 0.0))
    nodes = torch.linspace(margin, 1 - margin, 4, dtype=torch.float64)
    coordinates = torch.stack([nodes, torch.zeros(4), torch.zeros(4)], dim=-1)
    torch.testing.assert_close(grid(coordinates), grid.values[0, 0])


@pytest.mark.parametrize("shape", [(10, 2, 3, 3), (1, 1, 2, 1), (2, 1, 1, 4)])
def test_four_axes_are_linear_with_the_ends_of_warp(shape):
    grid, where = grid_of(*shape), points(30, 4)
    expected = [four_linear(grid.values.numpy(), place) for place in where.tolist()]
    np.testing.assert_allclose(grid(where), expected, rtol=1e-9, atol=1e-9)


def test_last_node_of_a_linear_grid_is_the_value_beyond_it():
    grid = LinearGrid(values=torch.tensor([1.0, 2.0, 5.0]).reshape(1, 1, 1, 3))
    beyond = torch.tensor([[1.4, 0, 0, 0], [-0.1, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(grid(beyond), torch.tensor([5.0, 0.8], dtype=torch.float64))


@pytest.mark.parametrize(("shape", "other"), [((2, 3, 4), (5, 1, 7)), ((2, 2, 2, 3), (3, 1, 2, 5))])
def test_resized_grids_hold_the_values_of_the_old_at_their_nodes(shape, other):
    grid = grid_of(*shape)
    resized = grid.resized(other)
    assert resized.shape == other
    axes = [torch.linspace(0, 1, n) if n > 1 else torch.tensor([0.5]) for n in other]
    for index in itertools.product(*(range(n) for n in other)):
        where = torch.tensor([axis[i] for axis, i in zip(axes, index, strict=True)][::-1], dtype=torch.float64)
        assert resized.values[index].item() == pytest.approx(grid(where).item(), abs=1e-6)


def test_resizing_to_nodes_in_between_keeps_a_spline():
    """A natural spline is one on finer nodes too."""
    grid = grid_of(1, 3, 1)
    coordinates = torch.stack([torch.zeros(9), torch.linspace(0, 1, 9), torch.zeros(9)], dim=-1).double()
    torch.testing.assert_close(grid.resized((1, 5, 1))(coordinates), grid(coordinates))


@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 1, 3, 2)])
def test_grids_are_differentiable_in_nodes_and_coordinates(shape):
    kind = SplineGrid if len(shape) == 3 else LinearGrid
    grid, where = grid_of(*shape), points(4, len(shape), seed=3)
    assert torch.autograd.gradcheck(
        lambda nodes, place: kind(values=nodes)(place), (grid.values.requires_grad_(), where.requires_grad_())
    )


@pytest.mark.parametrize("shape", [(6, 2, 3), (4, 2, 3, 2)])
def test_values_over_images_are_those_of_the_grid_at_place_and_time(shape):
    grid, times = grid_of(*shape), torch.linspace(0, 1, 6, dtype=torch.float64)
    places = points(5 * 6, len(shape) - 1).reshape(5, 6, -1)
    together = torch.cat([places, times[:, None].expand(5, 6, 1)], dim=-1)
    torch.testing.assert_close(values_over_images(grid, places, times), grid(together))


def test_grids_of_other_axes_are_refused():
    with pytest.raises(ShapeError, match=r"axes \(z, y, x\)"):
        SplineGrid(values=torch.zeros(3, 3))
    with pytest.raises(ShapeError, match=r"axes \(w, z, y, x\)"):
        LinearGrid(values=torch.zeros(0, 1, 1, 1))
