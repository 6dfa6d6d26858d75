import dataclasses
from functools import cache

import pytest

from halfmap.ctf_estimation.concerns import concerns
from halfmap.ctf_estimation.estimate import estimate
from halfmap.ctf_estimation.params import CtfEstimationParams
from support.thon_rings import TITAN, lens, thon_spectra


@cache
def ordinary():
    return estimate(thon_spectra(lens(15_000, astigmatism=200), box=256), TITAN, CtfEstimationParams(extend=False))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_resolution_angstrom": 12.0}, "rings end at 12.0"),
        ({"ice_ring_density": 0.6}, "crystalline ice"),
        ({"defocus_difference_angstrom": 800.0}, "differ by 800"),
        ({"ring_depth": 5.0}, "carbon"),
        ({"lens": lens(15_000, astigmatism=2_000)}, "astigmatism of 2000"),
    ],
)
def test_what_is_out_of_the_ordinary_is_said(changed, said):
    found = concerns([ordinary()] * 6 + [dataclasses.replace(ordinary(), **changed)])
    assert found[:6] == [()] * 6
    assert len(found[6]) == 1
    assert said in found[6][0]


def test_a_few_micrographs_are_no_measure_of_one_another():
    strange = dataclasses.replace(ordinary(), lens=lens(15_000, astigmatism=2_000), ring_depth=1.4)
    assert concerns([ordinary(), strange]) == [(), ()]
    assert concerns([]) == []


def test_carbon_film_is_told_where_it_is_alone():
    found = concerns([dataclasses.replace(ordinary(), ring_depth=2.0)])
    assert "carbon" in found[0][0]
