import numpy as np
import pytest
import torch

from halfmap.extraction.windows import cut, outside_fraction, place, replicate_edges


@pytest.fixture
def micrograph() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(40.0), indexing="ij")
    return 100 * y + x


def test_placing_keeps_position_as_whole_pixel_plus_remainder():
    position = np.array([[10.0, 20.0], [10.49, 19.51], [-0.3, 7.5]])
    placement = place(position)
    np.testing.assert_array_equal(placement.centre_pixel, [[10, 20], [10, 20], [0, 8]])
    np.testing.assert_allclose(placement.centre_pixel + placement.remainder_pixel, position)


def test_centre_voxel_of_a_window_holds_the_pixel_asked_for(micrograph):
    for side in (8, 12):
        window = cut(micrograph, np.array([[17, 13]]), side)[0]
        assert window[side // 2, side // 2] == 1317
        assert window[0, 0] == 100 * (13 - side // 2) + 17 - side // 2


def test_pixels_outside_repeat_the_nearest_edge_pixel(micrograph):
    window = cut(micrograph, np.array([[0, 0]]), 8)[0]
    assert (window[:5, :5] == 0).all()
    np.testing.assert_array_equal(window[0], window[4])


def test_pixels_outside_take_the_fill_value_where_one_is_given(micrograph):
    window = cut(micrograph, np.array([[39, 29]]), 8, fill=-1.0)[0]
    assert window[4, 4] == 2939
    assert (window[5:, :] == -1).all()
    assert (window[:, 5:] == -1).all()


@pytest.mark.parametrize("centre", [(0, 0), (39, 29), (1, 28), (20, 15)])
def test_replicating_edges_of_filled_windows_equals_cutting_with_replication(micrograph, centre):
    centres = np.array([centre])
    filled = cut(micrograph, centres, 10, fill=0.0)
    assert torch.equal(replicate_edges(filled, centres, (30, 40)), cut(micrograph, centres, 10))


def test_outside_fraction_is_the_share_of_the_window_beyond_the_frame():
    centres = np.array([[20, 15], [0, 15], [0, 0], [-4, 15], [-5, 15], [100, 15]])
    np.testing.assert_allclose(outside_fraction(centres, 8, (30, 40)), [0, 0.5, 0.75, 1, 1, 1])
