import pytest
import torch

from halfmap.errors import InputError
from halfmap.geometry import translations


def test_range_of_five_and_step_of_two_pixels_give_21_shifts():
    assert translations.disc(5.0, 2.0).shape == (21, 2)


@pytest.mark.parametrize(("reach", "step", "count"), [(0.0, 1.0, 1), (1.0, 1.0, 5), (0.3, 0.1, 29), (2.0, 1.0, 13)])
def test_disc_holds_every_lattice_point_within_the_range(reach, step, count):
    shifts = translations.disc(reach, step)
    assert len(shifts) == count
    assert shifts.norm(dim=-1).max() <= reach + 1e-6 * step
    assert (shifts[0] == 0).all()
    assert (shifts.norm(dim=-1).diff() >= -1e-12).all()


def test_children_are_a_lattice_of_half_the_step_without_repeats():
    parents = translations.disc(6.0, 2.0)
    fine = translations.children(parents, 2.0)
    assert fine.shape == (len(parents), 4, 2)
    torch.testing.assert_close(fine.mean(1), parents)
    gaps = torch.cdist(fine.reshape(-1, 2), fine.reshape(-1, 2)) + 10 * torch.eye(4 * len(parents))
    assert gaps.min().item() == pytest.approx(1.0)


def test_impossible_ranges_and_steps_are_refused():
    with pytest.raises(InputError, match="range of shifts must not be negative"):
        translations.disc(-1.0, 1.0)
    with pytest.raises(InputError, match="step of shifts must be positive"):
        translations.disc(1.0, 0.0)
