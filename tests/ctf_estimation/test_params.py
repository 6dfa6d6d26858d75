import pytest

from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.errors import InputError


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_defocus_angstrom": 9_000.0, "max_defocus_angstrom": 8_000.0}, "--min-defocus"),
        ({"min_resolution_angstrom": 5.0, "max_resolution_angstrom": 30.0}, "--max-resolution"),
        ({"phase_shift": True, "min_phase_shift_degrees": 90.0, "max_phase_shift_degrees": 0.0}, "--min-phase-shift"),
        ({"box_pixel": 301}, "--box must be even"),
    ],
)
def test_limits_that_contradict_one_another_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        CtfEstimationParams(**given)
