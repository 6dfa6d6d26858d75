import math

import pytest
import torch

from halfmap.errors import InputError
from halfmap.optics.dose import critical_exposure, exposure_weights


def test_critical_exposure_at_three_angstrom_is_the_published_curve():
    # 0.24499 · 3^1.6649 + 2.8141
    assert critical_exposure(torch.tensor(1 / 3, dtype=torch.float64)).item() == pytest.approx(4.340, abs=2e-3)


def test_critical_exposure_is_a_fifth_lower_at_200_kv():
    frequency = torch.tensor([0.05, 0.2, 0.4])
    torch.testing.assert_close(critical_exposure(frequency, 200.0), 0.8 * critical_exposure(frequency, 300.0))


def test_weights_start_at_one_and_fall_to_one_over_root_e_at_the_critical_exposure():
    frequency = torch.tensor([0.0, 0.1, 0.25], dtype=torch.float64)
    critical = critical_exposure(frequency[2]).item()
    weights = exposure_weights(frequency, [0.0, critical], 300.0)
    assert weights.shape == (2, 3)
    torch.testing.assert_close(weights[0], torch.ones(3, dtype=torch.float64))
    assert weights[1, 0] == 1
    assert weights[1, 2].item() == pytest.approx(math.exp(-0.5))
    assert weights[1, 1] > weights[1, 2]


def test_values_outside_the_domain_are_refused():
    with pytest.raises(InputError, match="voltage must be 80 to 300 kV"):
        critical_exposure(torch.tensor(0.1), 1000.0)
    with pytest.raises(InputError, match="exposure must not be negative"):
        exposure_weights(torch.tensor([0.1]), -1.0, 300.0)
