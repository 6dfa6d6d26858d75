"""The grid of a search: its counts, its evenness, and no more than the asymmetric unit."""

import pytest
import torch

from halfmap.errors import InputError
from halfmap.geometry.rotations import matrix_from_rotation_vector
from halfmap.geometry.symmetry import distance_degrees
from halfmap.geometry.symmetry_names import order
from halfmap.template_matching.global_search.orientations import search_grid
from halfmap.template_matching.global_search.params import MatchTemplateParams


def grid(theta, psi=90.0, **more):
    return search_grid(MatchTemplateParams(theta_step_degrees=theta, psi_step_degrees=psi, **more))


def test_counts_are_those_of_the_uniform_grid():
    # Leopard-EM 1.2 tries 1908 orientations at 20° and 20°, and 1,584,480 at 2.5° and 1.5°: two directions twice
    assert len(grid(20.0, 20.0)) == 1908
    assert len(grid(2.5, 1.5)) == 1_584_480 - 2 * 240


@pytest.mark.parametrize("symmetry", ["C1", "C3", "D2", "O", "I1"])
def test_every_view_has_a_near_one_in_the_grid(symmetry):
    tried = grid(10.0, 10.0, symmetry=symmetry)
    assert len(tried) * order(symmetry) == pytest.approx(len(grid(10.0, 10.0)), rel=0.25)
    vectors = torch.tensor([[0.3, 1.1, -2.0], [2.4, 0.2, 0.7], [-1.0, -1.5, 1.2], [0.1, -0.2, 0.05]])
    wanted = matrix_from_rotation_vector(vectors.to(torch.float64))
    found = tried.rotations(torch.arange(len(tried)))
    nearest = [float(distance_degrees(one, found, symmetry).min()) for one in wanted]
    # half a step along each of three axes
    assert max(nearest) < 10.0 / 2 * 3**0.5


def test_half_a_turn_leads_from_one_half_of_the_turns_to_the_other():
    assert grid(30.0, 20.0).is_paired
    assert not grid(30.0, 40.0).is_paired
    assert not grid(30.0, 10.0, psi_max_degrees=90.0).is_paired


def test_ranges_outside_the_asymmetric_unit_are_told():
    with pytest.raises(InputError, match="must reach into the asymmetric unit"):
        grid(10.0, symmetry="O", theta_min_degrees=170.0, phi_max_degrees=5.0)
