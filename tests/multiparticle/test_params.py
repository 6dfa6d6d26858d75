import pytest

from halfmap.errors import InputError
from halfmap.multiparticle.params import GeometryChoice, ParameterChoice


def test_grids_are_written_as_numbers_of_nodes():
    choice = GeometryChoice(image_warp="6x4", volume_warp="3x3x2x10")
    assert choice.image_warp_nodes == (6, 4)
    assert choice.volume_warp_nodes == (3, 3, 2, 10)
    assert ParameterChoice().image_warp_nodes is None


@pytest.mark.parametrize("text", ["6", "6x4x2", "0x4", "sixxfour", "-1x4", ""])
def test_other_texts_are_refused(text):
    with pytest.raises(InputError, match="numbers of nodes such as 3x3"):
        ParameterChoice(image_warp=text)


def test_volume_warps_without_a_second_dose_are_refused():
    with pytest.raises(InputError, match="write 3x3x2x10"):
        GeometryChoice(volume_warp="3x3x2x1")
